//! Masters that die under load: what Sentinels and Clusters do then, and what is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::load::{Told, count_up, counted};
use super::servers::{Cluster, Guarded, Software, long, wait_until};
use super::*;
use crate::engine::remote::link::slot_of;

/// Runs links on one key, watches how long nothing was done at most, and returns that.
fn under_load(store: &Store, key: &[u8], told: &Told, meanwhile: impl FnOnce()) -> Duration {
    let (stop, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| count_up(store, key, told, &stop));
        }
        scope.spawn(|| {
            let (mut last, mut since) = (0, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                let done = told.done.load(Ordering::Relaxed);
                if done != last {
                    (last, since) = (done, Instant::now());
                }
                longest.fetch_max(since.elapsed().as_millis() as u64, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        wait_until("there should be attempts", || told.done.load(Ordering::Relaxed) > 500);
        longest.store(0, Ordering::Relaxed);
        meanwhile();
        stop.store(true, Ordering::Relaxed);
    });
    Duration::from_millis(longest.into_inner())
}

fn goes_on(told: &Told, what: &str) {
    let done = told.done.load(Ordering::Relaxed);
    wait_until(what, || told.done.load(Ordering::Relaxed) > done + 100);
}

/// Kills the master of Sentinels, with so many replicas that have to confirm. Returns what was told and lost.
fn kill_master(replicas: u32) -> Option<i64> {
    const KEY: &[u8] = b"flint:counted";
    let mut guarded = Guarded::start(Software::Redis, &[])?;
    let store = open_with(&guarded.address(), replicas);
    let told = Told::default();
    let address = guarded.address();
    let silence = under_load(&store, KEY, &told, || {
        guarded.replicated.servers[0].kill();
        if replicas < 2 {
            goes_on(&told, "it should go on with another master");
        } else {
            // Two replicas are demanded and one is left.
            wait_until("another should be master", || store.away().is_none() && store.unwritable().is_some());
            let done = told.done.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1500));
            assert!(told.done.load(Ordering::Relaxed) <= done + 4);
            guarded.replicated.servers[0].start_again();
            goes_on(&told, "it should go on once the killed one is a replica");
        }
    });
    let there = counted(&mut open_with(&address, 0).link(), KEY) as i64;
    let lost = told.done.load(Ordering::Relaxed) as i64 - there;
    eprintln!("Sentinel, --replicas {replicas}: silent for {silence:?}, told and lost {lost}, {there} there, {told:?}");
    Some(lost)
}

#[test]
fn sentinels_promote_another_and_nothing_is_lost_with_all_replicas() {
    if !long() {
        return;
    }
    if let Some(lost) = kill_master(2) {
        assert!(lost <= 0, "{lost}");
    }
    kill_master(1);
    kill_master(0);
}

#[test]
fn a_planned_failover_of_sentinels_is_followed() {
    if !long() {
        return;
    }
    let Some(guarded) = Guarded::start(Software::Redis, &[]) else { return };
    let store = open(&guarded.address());
    let told = Told::default();
    let silence = under_load(&store, b"flint:counted", &told, || {
        let before = guarded.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Guarded::NAME]);
        guarded.sentinels[0].ask(&["SENTINEL", "FAILOVER", Guarded::NAME]);
        wait_until("another should be master", || {
            guarded.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Guarded::NAME]) != before
        });
        goes_on(&told, "it should go on");
    });
    eprintln!("Sentinel, planned: silent for {silence:?}, {told:?}");
    // A name that no Sentinel knows.
    let wrong = guarded.address().replace(Guarded::NAME, "other");
    let error = try_open(&wrong, 0).map(drop).unwrap_err();
    assert!(error.to_string().contains("knows no master `other`"), "{error}");
}

/// Kills a master of a Cluster, with so many replicas that have to confirm.
fn kill_node(replicas: u32) -> Option<i64> {
    const KEY: &[u8] = b"flint:{counted}";
    let mut cluster = Cluster::start(Software::Redis, 2, &[])?;
    let store = open_with(&cluster.address(), replicas);
    let told = Told::default();
    let address = cluster.address();
    let slot = slot_of(KEY);
    let master = cluster.master_of(slot).unwrap();
    let others: Vec<Vec<u8>> = (0..100)
        .map(|number| format!("flint:{number}").into_bytes())
        .filter(|key| store.shard_of(key) != store.shard_of(KEY))
        .collect();
    let silence = under_load(&store, KEY, &told, || {
        cluster.nodes[master].kill();
        // The other shards go on meanwhile.
        let mut link = store.link();
        let attempts: Vec<Attempt> = others.iter().map(|key| put(key, Known::Absent, b"1")).collect();
        if replicas == 0 {
            link.exchange(&attempts, soon()).into_iter().for_each(|outcome| drop(won(outcome)));
        }
        if replicas < 2 {
            goes_on(&told, "it should go on with another master");
        } else {
            wait_until("another should be master", || store.away().is_none() && store.unwritable().is_some());
            cluster.nodes[master].start_again();
            goes_on(&told, "it should go on once the killed one is a replica");
        }
    });
    let there = counted(&mut open_with(&address, 0).link(), KEY) as i64;
    let lost = told.done.load(Ordering::Relaxed) as i64 - there;
    eprintln!("Cluster, --replicas {replicas}: silent for {silence:?}, told and lost {lost}, {there} there, {told:?}");
    Some(lost)
}

#[test]
fn a_cluster_promotes_another_and_nothing_is_lost_with_all_replicas() {
    if !long() {
        return;
    }
    if let Some(lost) = kill_node(2) {
        assert!(lost <= 0, "{lost}");
    }
    kill_node(1);
    kill_node(0);
}
