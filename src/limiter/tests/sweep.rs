//! Tests of the sweep: what leaves memory, and that nothing else does.

use std::thread;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn open(dir: &Path, clock: &Clock) -> Limiter {
    Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(clock) }).unwrap()
}

fn entries(limiter: &Limiter) -> usize {
    limiter.core.shards.iter().map(|shard| shard.lock().len()).sum()
}

fn room(limiter: &Limiter) -> usize {
    limiter.core.shards.iter().map(|shard| shard.lock().room()).sum()
}

fn bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn keys_of_which_nothing_counts_leave_memory_and_the_disk_and_their_totals_stay() {
    const KEYS: u64 = 20_000;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", "100/1m".parse().unwrap()).unwrap();
    limiter.configure("org", "10/1h".parse().unwrap()).unwrap();
    limiter.check("org", 1).unwrap();
    for key in 0..KEYS {
        assert!(limiter.check(&format!("user:{key}"), 1).unwrap().allowed);
    }
    limiter.flush().unwrap();
    let events = limiter.report().events;
    let before = room(&limiter);
    // Halfway nothing goes.
    clock.advance(Duration::from_millis(300));
    limiter.core.sweep_round();
    assert_eq!(entries(&limiter) as u64, KEYS + 2);
    assert_eq!(limiter.report().live, KEYS);
    clock.advance(Duration::from_millis(300));
    limiter.core.sweep_round();
    assert_eq!((entries(&limiter), limiter.report().live), (2, 0));
    assert!(room(&limiter) < before / 4, "room for {}, and for {before} before", room(&limiter));
    limiter.flush().unwrap();
    assert_eq!(limiter.report().events, events, "no record tells of it");
    let keys = |limiter: &Limiter| {
        let listed = limiter.list(Page::default().with_live(true)).unwrap();
        listed.into_iter().map(|status| (status.key, status.totals.allowed)).collect::<Vec<_>>()
    };
    let expected = [("org".to_owned(), 1), ("user:*".to_owned(), KEYS)];
    assert_eq!(keys(&limiter), expected);
    // A start drops them by itself: the log has them all.
    drop(limiter);
    let limiter = open(dir.path(), &clock);
    assert_eq!((entries(&limiter), keys(&limiter)), (2, expected.to_vec()));
    limiter.compact().unwrap();
    drop(limiter);
    assert!(bytes(dir.path()) < 128 * 1024, "{} bytes", bytes(dir.path()));
    assert_eq!(keys(&open(dir.path(), &clock)), expected);
}

#[test]
fn a_key_that_comes_again_is_a_new_one_and_a_start_finds_it_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", "2/1s fixed_window_counter".parse().unwrap()).unwrap();
    for round in 0..5 {
        assert_eq!(limiter.check("user:1", 2).unwrap().remaining, Some(0), "round {round}");
        assert!(!limiter.check("user:1", 1).unwrap().allowed);
        limiter.flush().unwrap();
        clock.advance(Duration::from_secs(1));
        limiter.core.sweep_round();
        assert_eq!(entries(&limiter), 1);
    }
    limiter.check("user:1", 1).unwrap();
    let totals = |limiter: &Limiter, key: &str| limiter.status(key).unwrap().unwrap().totals;
    let before = [totals(&limiter, "user:1"), totals(&limiter, "user:*")];
    assert_eq!(before.map(|totals| (totals.allowed, totals.allowed_cost, totals.denied)), [(1, 1, 0), (6, 11, 5)]);
    limiter.flush().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let crashed = crashed.path().join("copy");
    copy(dir.path(), &crashed);
    drop(limiter);
    for dir in [dir.path(), &crashed] {
        let limiter = open(dir, &clock);
        assert_eq!([totals(&limiter, "user:1"), totals(&limiter, "user:*")], before);
        assert_eq!(limiter.check("user:1", 1).unwrap().remaining, Some(0));
    }
}

#[test]
fn a_compaction_leaves_no_key_to_the_log_that_its_snapshot_has_not() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", "2/1s fixed_window_counter".parse().unwrap()).unwrap();
    for key in 0..100 {
        limiter.check(&format!("user:{key}"), 1).unwrap();
    }
    clock.advance(Duration::from_secs(1));
    // Not swept, and the snapshot is to leave them out: their next spends must say all.
    limiter.compact().unwrap();
    for key in 0..100 {
        assert_eq!(limiter.check(&format!("user:{key}"), 1).unwrap().remaining, Some(1));
    }
    let before = limiter.list(Page::default().with_live(true)).unwrap();
    drop(limiter);
    assert_eq!(verify(dir.path()).unwrap().events, 100 + 257, "births, and the markers of shards and tables");
    assert_eq!(open(dir.path(), &clock).list(Page::default().with_live(true)).unwrap(), before);
}

#[test]
fn denials_that_are_missing_in_the_log_hold_their_key() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let policy = Policy { flush_every: Duration::from_secs(3600), ..Policy::default() };
    let limiter = Limiter::open(dir.path(), Options { policy, ..options(&clock) }).unwrap();
    limiter.configure("user:*", "1/1s fixed_window_counter".parse().unwrap()).unwrap();
    limiter.check("user:1", 1).unwrap();
    assert!(!limiter.check("user:1", 1).unwrap().allowed);
    clock.advance(Duration::from_secs(1));
    limiter.core.sweep_round();
    assert_eq!(entries(&limiter), 2);
    limiter.flush().unwrap();
    limiter.core.sweep_round();
    assert_eq!(entries(&limiter), 1);
    let totals = limiter.status("user:*").unwrap().unwrap().totals;
    assert_eq!((totals.allowed, totals.denied), (1, 1));
    drop(limiter);
    assert_eq!(open(dir.path(), &clock).status("user:*").unwrap().unwrap().totals, totals);
}

/// Without keys that come and go the thread sleeps for ever; the first of them wakes it.
#[test]
fn the_thread_sleeps_while_there_is_nothing_to_sweep() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", "1/1s".parse().unwrap()).unwrap();
    let wait_for = |what: &str, done: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    let has_live = || limiter.core.has_live.load(Ordering::SeqCst);
    wait_for("a round finds nothing", &|| !has_live());
    limiter.check("user:1", 1).unwrap();
    assert!(has_live());
    // It looks again until the key is gone, and then sleeps.
    clock.advance(Duration::from_secs(1));
    wait_for("the key is swept", &|| entries(&limiter) == 1);
    wait_for("a round finds nothing", &|| !has_live());
    // A limit that is removed and falls to a pattern is one of these, too.
    limiter.configure("user:2", "1/1s".parse().unwrap()).unwrap();
    limiter.check("user:2", 1).unwrap();
    assert!(!has_live());
    limiter.remove("user:2").unwrap();
    assert!(has_live());
}

/// A check in the middle of a round meets a free lock.
#[test]
fn a_round_lets_checks_pass() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", "1000000/1m".parse().unwrap()).unwrap();
    for key in 0..10_000 {
        limiter.check(&format!("user:{key}"), 1).unwrap();
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                limiter.core.sweep_round();
            }
        });
        for round in 0..10_000 {
            assert!(limiter.check(&format!("user:{}", round % 10_000), 1).unwrap().allowed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(limiter.status("user:*").unwrap().unwrap().totals.allowed, 20_000);
}

/// The room that one item of a check makes by a sweep is never that of another item.
#[test]
fn a_check_of_several_keys_sweeps_none_of_its_own() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure_setting(&Setting::new("user:*", "1/1s".parse().unwrap()).with_max_keys(1)).unwrap();
    let shard = |key: &str| shard_of(limiter.core.hash(key));
    let others: Vec<String> = (1..2000).map(|key| format!("user:{key}")).collect();
    let other = others.iter().find(|key| shard(key) == shard("user:0")).unwrap();
    limiter.check("user:0", 1).unwrap();
    clock.advance(Duration::from_secs(1));
    let all = limiter.check_all(&["user:0", other]).unwrap();
    assert!(all.allowed, "{all:?}");
    let overflows: Vec<bool> = all.results.iter().map(|decision| decision.overflow).collect();
    // Which of them found no room does not matter.
    assert_eq!(overflows.iter().filter(|overflow| **overflow).count(), 1, "{all:?}");
    assert!(!limiter.check("user:0", 1).unwrap().allowed);
}
