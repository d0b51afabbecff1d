//! Tests of helper threads that panic: none ends permanently without a message.

use std::any::Any;
use std::time::{Duration, Instant};

use super::disk::fault::FaultyDisk;
use super::*;
use crate::bounds::MIN_COMPACT_AFTER_BYTES;

/// A limiter that compacts by itself again and again while checks are made, and whose first compaction panics.
fn open(dir: &Path, clock: &Clock, panic: Box<dyn Any + Send>) -> Limiter {
    let disk = FaultyDisk::new(i64::MAX, 5, true);
    disk.compaction_panics.lock().unwrap().push(panic);
    let policy = Policy { compact_after: MIN_COMPACT_AFTER_BYTES, segment_bytes: 10_000, ..Policy::default() };
    let limiter = Limiter::open(dir, Options { sync: SyncMode::Relaxed, policy, disk, ..options(clock) }).unwrap();
    limiter.configure("k", limit(1_000_000_000, Algorithm::FixedWindowCounter)).unwrap();
    limiter
}

fn check_until(limiter: &Limiter, done: impl Fn(Report) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done(limiter.report()) {
        assert!(Instant::now() < deadline, "{:?}", limiter.report());
        assert!(limiter.check("k", 1).unwrap().allowed);
    }
}

#[test]
fn a_compaction_that_panics_is_told_of_and_followed_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let limiter = open(dir.path(), &clock, Box::new("on purpose"));
    check_until(&limiter, |report| report.compaction_error.is_some());
    let report = limiter.report();
    assert_eq!(report.compactions, 0);
    assert!(
        report.problems().iter().any(|problem| problem.contains("the last compaction failed: the compaction panicked"))
    );
    assert_eq!(limiter.health(), (Health::Healthy, None), "the thread goes on");
    check_until(&limiter, |report| report.compactions > 0);
    assert_eq!((limiter.report().compaction_error, limiter.report().helper_ended), (None, None));
    limiter.close().unwrap();
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
}

/// A panic that can't be contained.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

#[test]
fn a_helper_that_has_ended_is_told_of_by_health_and_doctor() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let limiter = open(dir.path(), &clock, Box::new(Bomb));
    assert_eq!(limiter.health(), (Health::Healthy, None));
    check_until(&limiter, |report| report.helper_ended.is_some());
    let (health, reason) = limiter.health();
    let reason = reason.unwrap();
    assert_eq!(health, Health::Failed);
    assert!(reason.contains("flint-compact has ended") && reason.contains("restart"), "{reason}");
    assert!(limiter.report().problems().contains(&reason));
    // Checks don't need it, and it can still be compacted by hand.
    limiter.check("k", 1).unwrap();
    assert!(limiter.compact().is_ok());
    limiter.close().unwrap();
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
    // What the log has to tell comes first.
    assert_eq!(limiter.check("k", 1).unwrap_err().kind(), Kind::LogFailed);
    assert_eq!(limiter.health(), (Health::Failed, Some("the limiter is closed".to_owned())));
}

#[test]
fn helpers_end_with_their_limiter_and_are_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let limiter = Limiter::open(dir.path(), options(&Clock::manual(START))).unwrap();
    limiter.close().unwrap();
    assert_eq!(limiter.report().helper_ended, None);
    assert_eq!(Arc::strong_count(&limiter.core), 1, "no thread holds on to what was closed");
}
