//! Sentinels: the master is killed under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::engines::{Told, configure, open_with, status, storm};
use super::servers::{Guarded, Software, long, wait_until};

#[test]
fn nothing_told_is_lost_with_all_replicas_and_service_is_back_with_fewer() {
    if !long() {
        return;
    }
    for replicas in [2, 1, 0] {
        let Some(mut guarded) = Guarded::start(Software::Redis, &[]) else { return };
        let engines = open_with(&guarded.address(), 2, replicas);
        let key = "one".to_owned();
        configure(&engines[0], &key, "100000000/365d fixed_window_counter");
        let (told, over) = ([Told::default()], AtomicBool::new(false));
        let back = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_secs(1));
                guarded.replicated.servers[0].kill();
                let begun = Instant::now();
                if replicas == 2 {
                    // One replica is left: checks are refused until the killed one is back.
                    thread::sleep(Duration::from_secs(6));
                    let before = told[0].load()[0];
                    thread::sleep(Duration::from_secs(1));
                    assert_eq!(told[0].load()[0], before, "with too few replicas nothing is told");
                    guarded.replicated.servers[0].start_again();
                }
                thread::sleep(Duration::from_millis(500));
                let before = told[0].load()[0];
                wait_until("it should go on", || told[0].load()[0] > before + 100);
                back.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                thread::sleep(Duration::from_secs(1));
                over.store(true, Ordering::Relaxed);
            });
            storm(&engines, 4, std::slice::from_ref(&key), &told, &|| over.load(Ordering::Relaxed));
        });
        let [allowed, _, unavailable, unknown] = told[0].load();
        let used = status(&engines[1], &key).used.unwrap();
        let slowest = Duration::from_micros(told[0].slowest_us.load(Ordering::Relaxed));
        eprintln!(
            "Sentinel, --replicas {replicas}: back after {} ms, told {allowed}, there {used}, lost {}, unavailable {unavailable}, \
             unknown {unknown}, slowest {slowest:?}",
            back.load(Ordering::Relaxed),
            allowed as i64 - used as i64
        );
        if replicas == 2 {
            assert!(allowed <= used, "told {allowed}, there {used}");
        }
    }
}
