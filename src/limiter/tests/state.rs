//! Tests of the limiter and its store together: reopening, crashes, damage.
//!
//! A crash is a copy of the data directory made while the limiter is open.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::bounds::MIN_COMPACT_AFTER_BYTES;

#[derive(Debug, Clone)]
enum Op {
    Configure(usize, u64, usize),
    Check(usize, u64),
    CheckAll(Vec<(usize, u64)>),
    Reset(usize),
    Remove(usize),
    Advance(u64),
    Compact,
    Crash,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || 0..5usize;
    let op = prop_oneof![
        3 => (key(), 1..20u64, 0..4usize).prop_map(|(key, rate, algorithm)| Op::Configure(key, rate, algorithm)),
        10 => (key(), 1..12u64).prop_map(|(key, cost)| Op::Check(key, cost)),
        4 => prop::collection::vec((key(), 1..6u64), 1..4).prop_map(Op::CheckAll),
        1 => key().prop_map(Op::Reset),
        1 => key().prop_map(Op::Remove),
        3 => (0..70_000u64).prop_map(Op::Advance),
        1 => Just(Op::Compact),
        1 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever was done, a crash or a restart brings back the very same state.
    #[test]
    fn state_survives_crash_restart_and_compaction(ops in ops()) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let clock = Clock::manual(START);
        let mut limiter = Limiter::open(&dir, options(&clock)).unwrap();
        let keys = ["a", "b", "ключ", "route:/v1/chat", "e"];
        for op in ops {
            match op {
                Op::Configure(key, rate, algorithm) => {
                    limiter.configure(keys[key], limit(rate, Algorithm::ALL[algorithm])).unwrap();
                }
                Op::Check(key, cost) => {
                    let before = limiter.status(keys[key]).unwrap();
                    match limiter.check(keys[key], cost) {
                        Ok(decision) => prop_assert_eq!(decision.allowed, before.unwrap().remaining >= Some(cost)),
                        Err(error) => match before {
                            None => prop_assert_eq!(error.kind(), Kind::LimitNotConfigured),
                            Some(_) => prop_assert_eq!(error.kind(), Kind::CostExceedsCapacity),
                        },
                    }
                }
                Op::CheckAll(items) => {
                    let items: Vec<(&str, u64)> = items.iter().map(|(key, cost)| (keys[*key], *cost)).collect();
                    let before = all(&limiter);
                    match limiter.check_all(&items) {
                        Ok(answer) if answer.allowed => {
                            for (key, cost) in items {
                                let old = before.iter().find(|status| status.key == key).unwrap();
                                prop_assert!(old.remaining >= Some(cost));
                                let new = limiter.status(key).unwrap().unwrap();
                                prop_assert_eq!(new.remaining, old.remaining.map(|left| left - cost));
                            }
                        }
                        _ => {
                            let left = |all: &[Status]| all.iter().map(|status| status.remaining).collect::<Vec<_>>();
                            prop_assert_eq!(left(&all(&limiter)), left(&before), "a denial spends nothing");
                        }
                    }
                }
                Op::Reset(key) => drop(limiter.reset(keys[key])),
                Op::Remove(key) => drop(limiter.remove(keys[key])),
                Op::Advance(by) => clock.advance_ms(by),
                Op::Compact => drop(limiter.compact().unwrap()),
                Op::Crash => {
                    // Denials may lag; everything else is there at once.
                    limiter.flush().unwrap();
                    prop_assert_eq!(recovered(&dir, &clock).unwrap(), all(&limiter));
                }
                Op::Reopen => {
                    let before = all(&limiter);
                    limiter.close().unwrap();
                    drop(limiter);
                    limiter = Limiter::open(&dir, options(&clock)).unwrap();
                    prop_assert_eq!(all(&limiter), before);
                }
            }
        }
    }
}

/// A directory after some checks and a crash: the segment's path, and where its confirmed records end.
fn crashed_directory(parent: &Path) -> (PathBuf, PathBuf, u64) {
    let (live, dir) = (parent.join("live"), parent.join("crashed"));
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&live, options(&clock)).unwrap();
    limiter.configure("k", limit(1000, Algorithm::SlidingWindowLog)).unwrap();
    for _ in 0..8 {
        limiter.check("k", 1).unwrap();
    }
    // The idle log confirms the last batch with an empty frame, soon.
    let before = limiter.report().log_bytes;
    while limiter.report().log_bytes == before {
        thread::yield_now();
    }
    copy(&live, &dir);
    let segment = dir.join("0000000001.aof");
    (dir, segment, before)
}

#[test]
fn damage_to_the_confirmed_part_is_refused_and_nothing_changes() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment, confirmed) = crashed_directory(parent.path());
    let whole = std::fs::read(&segment).unwrap();
    let now = Clock::manual(START);
    for offset in 0..confirmed as usize {
        let mut damaged = whole.clone();
        damaged[offset] ^= 0x10;
        std::fs::write(&segment, &damaged).unwrap();
        let error = recovered(&dir, &now).expect_err(&format!("offset {offset} flipped"));
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.message().contains("0000000001.aof") && error.message().contains("offset"), "{error}");
        let refused = Limiter::open(&dir, options(&now)).err().map(|error| error.kind());
        assert_eq!(refused, Some(Kind::Corrupt));
        assert_eq!(std::fs::read(&segment).unwrap(), damaged, "a refused file is not touched");
    }
}

#[test]
fn a_torn_end_is_cut_at_every_byte() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment, confirmed) = crashed_directory(parent.path());
    let whole = std::fs::read(&segment).unwrap();
    let now = Clock::manual(START);
    // Without the frame that confirms the last batch, that batch may be cut anywhere.
    // A frame of one small record is 44 bytes.
    let last_frame = confirmed as usize - 44;
    let mut opened = 0;
    for length in last_frame..confirmed as usize {
        for tail in [&[][..], &[0; 100], &[0xa5; 100]] {
            let mut torn = whole[..length].to_vec();
            torn.extend_from_slice(tail);
            std::fs::write(&segment, &torn).unwrap();
            let Ok(statuses) = recovered(&dir, &now) else { continue };
            opened += 1;
            assert!((7..=8).contains(&statuses[0].totals.allowed), "{statuses:?}");
        }
    }
    assert!(opened >= 3 * 43, "only {opened} of the torn logs were opened");
}

#[test]
fn frames_of_another_segment_behind_the_tail_are_never_replayed() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment, _) = crashed_directory(parent.path());
    let other = tempfile::tempdir().unwrap();
    let (_, foreign, end) = crashed_directory(other.path());
    let mut bytes = std::fs::read(&segment).unwrap();
    let stale = std::fs::read(foreign).unwrap();
    let tail = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.splice(tail..tail, stale[64..end as usize].iter().copied());
    std::fs::write(&segment, bytes).unwrap();
    let statuses = recovered(&dir, &Clock::manual(START)).unwrap();
    assert_eq!(statuses[0].totals.allowed, 8);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment, _) = crashed_directory(parent.path());
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    std::fs::write(&segment, bytes).unwrap();
    let error = recovered(&dir, &Clock::manual(START)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.message().contains("version 9"), "{error}");
}

#[test]
fn checks_go_on_during_compaction_and_nothing_is_lost() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&dir, Options { sync: SyncMode::Relaxed, ..options(&clock) }).unwrap();
    let keys: Vec<String> = (0..300).map(|index| format!("key-{index}")).collect();
    for key in &keys {
        limiter.configure(key, limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    }
    let compacted = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3 {
            let (limiter, keys, compacted) = (&limiter, &keys, &compacted);
            scope.spawn(move || {
                let mut round = worker;
                while !compacted.load(Ordering::Relaxed) {
                    let (one, two) = (&keys[round % 300], &keys[(round * 7 + 1) % 300]);
                    limiter.check(one, 1).unwrap();
                    if one != two {
                        limiter.check_all(&[(one.as_str(), 1), (two, 2)]).unwrap();
                    }
                    round += 1;
                }
            });
        }
        for _ in 0..8 {
            limiter.compact().unwrap();
        }
        compacted.store(true, Ordering::Relaxed);
    });
    limiter.flush().unwrap();
    assert_eq!(recovered(&dir, &clock).unwrap(), all(&limiter));
    let snapshots = std::fs::read_dir(&dir).unwrap().flatten();
    let snapshots = snapshots.filter(|item| item.file_name().to_string_lossy().ends_with(".snapshot")).count();
    assert_eq!(snapshots, 1, "old snapshots are removed");
}

#[test]
fn the_log_is_compacted_by_itself_when_it_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { compact_after: MIN_COMPACT_AFTER_BYTES, segment_bytes: 10_000, ..Policy::default() };
    let clock = Clock::manual(START);
    let limiter = Limiter::open(dir.path(), Options { sync: SyncMode::Relaxed, policy, ..options(&clock) }).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    while limiter.report().compactions == 0 {
        limiter.check("k", 1).unwrap();
    }
    // Another compaction may be under way: closing waits for it.
    let before = all(&limiter);
    drop(limiter);
    assert_eq!(recovered(dir.path(), &clock).unwrap(), before);
}

#[test]
fn a_flood_of_denials_is_a_few_records() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let limiter = Limiter::open(dir.path(), options(&clock)).unwrap();
    limiter.configure("k", limit(1, Algorithm::FixedWindowCounter)).unwrap();
    limiter.check("k", 1).unwrap();
    let before = limiter.report().log_bytes;
    for _ in 0..100_000 {
        assert!(!limiter.check("k", 1).unwrap().allowed);
    }
    limiter.flush().unwrap();
    let grown = limiter.report().log_bytes - before;
    assert!(grown < 100_000, "{grown} bytes for 100 000 denials");
    assert_eq!(recovered(dir.path(), &clock).unwrap()[0].totals.denied, 100_000);
}

#[test]
fn time_does_not_run_backwards_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let limiter = Limiter::open(dir.path(), options(&Clock::manual(START))).unwrap();
    limiter.configure("k", limit(1, Algorithm::FixedWindowCounter)).unwrap();
    limiter.check("k", 1).unwrap();
    drop(limiter);
    let earlier = Clock::manual(START - 3_600_000);
    let limiter = Limiter::open(dir.path(), options(&earlier)).unwrap();
    let decision = limiter.check("k", 1).unwrap();
    assert!(!decision.allowed);
    assert_eq!(decision.retry_after, Some(Duration::from_secs(60)));
}

#[test]
fn a_sliding_window_of_any_number_of_instants_survives_a_compaction() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&dir, Options { sync: SyncMode::Relaxed, ..options(&clock) }).unwrap();
    let day = Limit::of_millis(1_000_000_000, 86_400_000, Algorithm::SlidingWindowLog, None).unwrap();
    limiter.configure("busy", day).unwrap();
    limiter.configure("other", limit(10, Algorithm::SlidingWindowLog)).unwrap();
    limiter.check("other", 3).unwrap();
    // Each instant takes seven bytes in a snapshot: more than a segment's frame may hold.
    for _ in 0..200_000 {
        clock.advance_ms(1);
        limiter.check("busy", 1).unwrap();
    }
    limiter.compact().unwrap();
    limiter.check("busy", 1).unwrap();
    let before = all(&limiter);
    assert_eq!(before[0].remaining, Some(1_000_000_000 - 200_001));
    limiter.flush().unwrap();
    assert_eq!(recovered(&dir, &clock).unwrap(), before);
    drop(limiter);
    assert_eq!(recovered(&dir, &clock).unwrap(), before);
}

/// The helper that writes denials has begun when `flush` is called: what it holds was answered before.
#[test]
fn a_flush_waits_for_denials_that_are_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let policy = Policy { flush_every: Duration::from_secs(3600), ..Policy::default() };
    let limiter = Limiter::open(dir.path(), Options { policy, ..options(&clock) }).unwrap();
    limiter.configure("k", limit(1, Algorithm::FixedWindowCounter)).unwrap();
    limiter.check("k", 1).unwrap();
    assert!(!limiter.check("k", 1).unwrap().allowed);
    let core = &*limiter.core;
    let shard = core.shards[shard_of(core.hash("k"))].lock();
    thread::scope(|scope| {
        let helper = scope.spawn(|| core.write_denials());
        while core.has_pending_denials.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let (flushed, wait) = std::sync::mpsc::channel();
        let (limiter, dir, clock) = (&limiter, dir.path(), &clock);
        scope.spawn(move || {
            limiter.flush().unwrap();
            flushed.send(recovered(dir, clock).unwrap()[0].totals.denied).unwrap();
        });
        // It may not end before the helper has, which it can't while the shard is locked.
        let early = wait.recv_timeout(Duration::from_millis(50));
        drop(shard);
        assert_eq!(early.or_else(|_| wait.recv()), Ok(1));
        helper.join().unwrap().unwrap();
    });
}

#[test]
fn a_crowd_of_compactions_is_served_by_few() {
    const CALLS: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let limiter = Limiter::open(dir.path(), options(&Clock::manual(START))).unwrap();
    limiter.configure("k", limit(10, Algorithm::FixedWindowCounter)).unwrap();
    let (running, begin) = (limiter.core.compaction.lock().unwrap(), std::sync::Barrier::new(CALLS + 1));
    thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| {
                begin.wait();
                limiter.compact().unwrap();
            });
        }
        begin.wait();
        // As long as some come before it ends they share the next one; the slower a machine, the fewer.
        thread::sleep(Duration::from_millis(20));
        drop(running);
    });
    let done = limiter.report().compactions;
    assert!((1..CALLS as u64).contains(&done), "{done} compactions for {CALLS} calls");
    // Each call of its own is one.
    limiter.compact().unwrap();
    assert_eq!(limiter.report().compactions, done + 1);
}

#[test]
fn checks_that_meet_the_closing_are_in_the_log_or_refused() {
    let parent = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    for (round, sync) in SyncMode::ALL.into_iter().cycle().take(12).enumerate() {
        let dir = parent.path().join(round.to_string());
        let limiter = Limiter::open(&dir, Options { sync, ..options(&clock) }).unwrap();
        limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        let begun = AtomicU64::new(0);
        let allowed: u64 = thread::scope(|scope| {
            let check = || {
                let mut allowed = 0;
                while limiter.check("k", 1).is_ok() {
                    allowed += 1;
                    begun.fetch_add(1, Ordering::Relaxed);
                }
                allowed
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(check)).collect();
            while begun.load(Ordering::Relaxed) < 500 {
                thread::yield_now();
            }
            limiter.close().unwrap();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(recovered(&dir, &clock).unwrap()[0].totals.allowed, allowed, "round {round}");
    }
}
