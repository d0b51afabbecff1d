//! A Cluster: keys of one request share a slot, and patterns are known everywhere once their edit is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flint::engine::Engine;
use flint::{Cost, Item, Kind, Page, Setting};

use super::engines::{Told, again, ask_again, configure, list, open, open_with, status, storm};
use super::servers::{Cluster, Software, long, wait_until};

#[test]
fn a_cluster_decides_what_shares_a_slot() {
    let Some(cluster) = Cluster::start(Software::Redis, 0, &[]) else { return };
    let engines = open(&cluster.address(), 2);
    for key in ["{u}:a", "{u}:b", "other"] {
        configure(&engines[0], key, "3/365d");
    }
    let both = |limiter: &flint::Limiter| limiter.check_all(&[("{u}:a", 1), ("{u}:b", 2)]);
    assert!(ask_again(&engines[0], both).unwrap().allowed);
    assert!(!ask_again(&engines[1], both).unwrap().allowed);
    let apart = |limiter: &flint::Limiter| limiter.check_all(&[("{u}:a", 1), ("other", 1)]);
    let error = ask_again(&engines[1], apart).unwrap_err();
    assert_eq!(error.kind(), Kind::CrossSlot);
    assert!(error.message().contains("`{u}:a`") && error.message().contains("`other`"), "{error}");
    // A hold is settled by any server: its number says where it is.
    let hold = ask_again(&engines[0], |limiter| {
        limiter.hold_all(&[Item::from(("{u}:a", 1)), Item::from(("{u}:b", 1))], Duration::from_secs(60))
    });
    let id = hold.unwrap().hold.unwrap().id;
    ask_again(&engines[1], move |limiter| limiter.settle(&id, Cost::Each(&[("{u}:b", 0)]))).unwrap();
    assert_eq!([status(&engines[0], "{u}:a").used, status(&engines[0], "{u}:b").used], [Some(2), Some(2)]);
    assert_eq!(list(&engines[0], Page::default()).len(), 3);
    // An attempt in vain may have removed some.
    assert!(again(|| Engine::remove_prefix(&engines[1], "{u}")).unwrap() <= 2);
    assert_eq!(list(&engines[0], Page::default().with_live(true)).len(), 1);
}

#[test]
fn an_edit_of_patterns_holds_everywhere_once_it_is_answered() {
    let Some(cluster) = Cluster::start(Software::Redis, 0, &[]) else { return };
    let engines = open(&cluster.address(), 3);
    let begun = Instant::now();
    configure(&engines[0], "user:*", "3/365d");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    for (index, engine) in engines.iter().enumerate() {
        let key = format!("user:{index}");
        assert!(ask_again(engine, move |limiter| limiter.check(&key, 1)).unwrap().allowed);
    }
    configure(&engines[1], "user:*", "0/365d");
    for engine in &engines {
        for key in 0..6 {
            let key = format!("user:{key}");
            assert!(!ask_again(engine, move |limiter| limiter.check(&key, 1)).unwrap().allowed);
        }
    }
    assert_eq!(list(&engines[2], Page::default().with_pattern("user:*")).len(), 3);
    ask_again(&engines[2], |limiter| limiter.remove("user:*")).unwrap();
    for engine in &engines {
        assert_eq!(
            ask_again(engine, |limiter| limiter.check("user:1", 1)).unwrap_err().kind(),
            Kind::LimitNotConfigured
        );
    }
    let mixed = [Setting::new("a", "1/1d".parse().unwrap()), Setting::new("b:*", "1/1d".parse().unwrap())];
    assert_eq!(Engine::configure_all(&engines[0], &mixed).unwrap_err().kind(), Kind::CrossSlot);
}

/// A master is killed under load; with all replicas asked for nothing that was answered is lost.
#[test]
fn a_master_of_a_cluster_is_killed() {
    if !long() {
        return;
    }
    let Some(mut cluster) = Cluster::start(Software::Redis, 2, &[]) else { return };
    for replicas in [2, 1] {
        let engines = open_with(&cluster.address(), 2, replicas);
        let keys: Vec<String> = (0..30).map(|number| format!("k{replicas}:{number}")).collect();
        keys.iter().for_each(|key| configure(&engines[0], key, "1000000/365d fixed_window_counter"));
        let told: Vec<Told> = keys.iter().map(|_| Told::default()).collect();
        let over = AtomicBool::new(false);
        // The longest time in which nothing was allowed of a key: of those in the shard whose master is killed.
        let mut silent = Duration::ZERO;
        let victim = cluster.master_of(0).unwrap();
        let allowed = || told.iter().map(|told| told.load()[0]).collect::<Vec<_>>();
        thread::scope(|scope| {
            let gaps = scope.spawn(|| {
                let (mut before, mut since) = (allowed(), vec![Instant::now(); told.len()]);
                let mut longest = Duration::ZERO;
                while !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(5));
                    let now = allowed();
                    for (index, count) in now.iter().enumerate() {
                        longest = longest.max(since[index].elapsed());
                        if *count != before[index] {
                            since[index] = Instant::now();
                        }
                    }
                    before = now;
                }
                longest
            });
            scope.spawn(|| {
                thread::sleep(Duration::from_secs(1));
                cluster.nodes[victim].kill();
                wait_until("a replica should be master", || {
                    cluster.master_of(0).is_some_and(|master| master != victim)
                });
                if replicas == 2 {
                    // Until now nothing is answered of its keys.
                    thread::sleep(Duration::from_secs(1));
                    cluster.nodes[victim].start_again();
                }
                let before = allowed();
                wait_until("checks of all keys should be back", || {
                    allowed().iter().zip(&before).all(|(now, before)| now > before)
                });
                over.store(true, Ordering::Relaxed);
            });
            storm(&engines, 4, &keys, &told, &|| over.load(Ordering::Relaxed));
            silent = gaps.join().unwrap();
        });
        let mut sums = [0_u64; 4];
        told.iter().for_each(|told| sums.iter_mut().zip(told.load()).for_each(|(sum, count)| *sum += count));
        let used: u64 = keys.iter().map(|key| status(&engines[1], key).used.unwrap()).sum();
        let [allowed, _, unavailable, unknown] = sums;
        eprintln!(
            "Cluster, --replicas {replicas}: told {allowed}, there {used}, lost {}, unavailable {unavailable}, unknown {unknown}, away for {silent:?}",
            allowed as i64 - used as i64
        );
        if replicas == 2 {
            assert!(allowed <= used, "told {allowed}, there {used}");
        }
        if replicas == 1 {
            cluster.nodes[victim].start_again();
        }
        thread::sleep(Duration::from_secs(3));
    }
}
