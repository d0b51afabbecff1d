//! Tests of what values can say: several windows, shadow, unlimited, rate 0, and values for a time.

use crate::limiter::tests::*;

pub fn open(dir: &Path, clock: &Clock) -> Limiter {
    Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(clock) }).unwrap()
}

pub fn parse(limit: &str) -> Limit {
    limit.parse().unwrap()
}

pub fn lay_over(limiter: &Limiter, key: &str, limit: &str, secs: u64) -> bool {
    let setting = Setting::new(key, parse(limit)).with_lasts(Duration::from_secs(secs));
    limiter.configure_setting(&setting).unwrap()
}

fn secs(secs: u64) -> Option<Duration> {
    Some(Duration::from_secs(secs))
}

/// Reopens, and holds what is there to what was.
pub fn reopened(limiter: Limiter, dir: &Path, clock: &Clock, keys: &[&str]) -> Limiter {
    // Keys that are untouched live until a sweep.
    let status =
        |limiter: &Limiter, key: &str| limiter.status(key).unwrap().map(|status| Status { live: None, ..status });
    let look = |limiter: &Limiter| keys.iter().map(|key| status(limiter, key)).collect::<Vec<_>>();
    limiter.flush().unwrap();
    let before = look(&limiter);
    let crashed = tempfile::tempdir().unwrap();
    let copied = crashed.path().join("copy");
    copy(dir, &copied);
    assert_eq!(look(&open(&copied, &Clock::manual(clock.now()))), before, "after a crash");
    drop(limiter);
    let limiter = open(dir, clock);
    assert_eq!(look(&limiter), before, "after a restart");
    limiter
}

#[test]
fn all_windows_must_allow_or_nothing_is_spent_of_any() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("k", parse("2/1s fixed_window_counter, 5/1h")).unwrap();
    let decision = limiter.check("k", 2).unwrap();
    let left =
        |decision: &Decision| decision.windows.as_slice().iter().map(|window| window.remaining).collect::<Vec<_>>();
    assert_eq!((left(&decision), decision.binding, decision.remaining), (vec![0, 3], 0, Some(0)));
    // The second denies; `retry_after` is its own, `reset_at` the later one.
    let denied = limiter.check("k", 1).unwrap();
    assert_eq!((denied.allowed, denied.binding, denied.retry_after), (false, 0, secs(1)));
    assert_eq!(left(&denied), [0, 3]);
    assert_eq!(denied.reset_at, Some(START + 2 * 720_000_000));
    clock.advance_ms(1000);
    assert!(limiter.check("k", 2).unwrap().allowed);
    clock.advance_ms(1000);
    let denied = limiter.check("k", 2).unwrap();
    assert_eq!((denied.allowed, denied.binding, denied.retry_after), (false, 1, secs(718)));
    let limiter = reopened(limiter, dir.path(), &clock, &["k"]);
    assert_eq!(limiter.check("k", 2).unwrap(), denied);
    // Another order of windows is not a change.
    let before = limiter.report().events;
    assert!(!limiter.configure("k", parse("5/1h, 2/1s fixed_window_counter")).unwrap());
    limiter.flush().unwrap();
    assert_eq!(limiter.report().events - before, 1, "the denial that was counted");
}

#[test]
fn a_shadow_tells_and_spends_nothing_and_blocks_no_other() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("new", parse("3/1m shadow")).unwrap();
    limiter.configure("old", parse("10/1m")).unwrap();
    let decision = limiter.check("new", 2).unwrap();
    assert_eq!((decision.allowed, decision.would_deny, decision.remaining), (true, Some(false), Some(1)));
    let decision = limiter.check("new", 2).unwrap();
    assert_eq!((decision.allowed, decision.would_deny, decision.remaining), (true, Some(true), Some(1)));
    assert_eq!(decision.retry_after, Some(Duration::ZERO));
    let all = limiter.check_all(&[("new", 2), ("old", 4)]).unwrap();
    assert_eq!((all.allowed, all.results[0].would_deny, all.results[1].remaining), (true, Some(true), Some(6)));
    let many = limiter.check_many(&[("new", 2), ("new", 1)]).unwrap();
    assert_eq!(
        many.iter().flatten().map(|decision| decision.would_deny).collect::<Vec<_>>(),
        [Some(true), Some(false)]
    );
    let totals = limiter.status("new").unwrap().unwrap().totals;
    assert_eq!((totals.allowed, totals.allowed_cost, totals.denied, totals.denied_cost), (2, 3, 3, 6));
    assert_eq!(limiter.status("old").unwrap().unwrap().totals.allowed, 1);
    // Enforced, what was counted holds.
    let limiter = reopened(limiter, dir.path(), &clock, &["new", "old"]);
    assert!(!limiter.configure("new", parse("3/1m")).unwrap());
    let denied = limiter.check("new", 1).unwrap();
    assert_eq!((denied.allowed, denied.would_deny), (false, None));
    // By a pattern too, even if the key is not there.
    limiter.configure("ban:*", parse("0/1m shadow")).unwrap();
    assert_eq!(limiter.check("ban:1", 1).unwrap().would_deny, Some(true));
    let totals = limiter.status("ban:*").unwrap().unwrap().totals;
    assert_eq!((totals.allowed, totals.denied), (0, 1));
}

#[test]
fn unlimited_allows_and_counts_and_what_was_there_rests() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("k", parse("10/1h")).unwrap();
    limiter.configure("user:*", parse("10/1h")).unwrap();
    for key in ["k", "user:1"] {
        assert!(limiter.check(key, 10).unwrap().allowed);
    }
    limiter.configure("k", Limit::unlimited()).unwrap();
    limiter.configure("user:*", Limit::unlimited()).unwrap();
    for key in ["k", "user:1", "user:2"] {
        let decision = limiter.check(key, 1_000_000_000).unwrap();
        assert!(decision.allowed);
        assert_eq!((decision.remaining, decision.used, decision.reset_at), (None, None, None));
    }
    assert_eq!(limiter.status("k").unwrap().unwrap().totals.allowed_cost, 1_000_000_010);
    let all = limiter.status("user:*").unwrap().unwrap();
    assert_eq!((all.totals.allowed, all.totals.allowed_cost), (3, 2_000_000_010));
    assert_eq!(all.live, Some(1), "nothing is stored of the other");
    let limiter = reopened(limiter, dir.path(), &clock, &["k", "user:1", "user:2", "user:*"]);
    clock.advance_ms(360_000);
    limiter.configure("k", parse("10/1h")).unwrap();
    limiter.configure("user:*", parse("10/1h")).unwrap();
    for key in ["k", "user:1"] {
        let decision = limiter.check(key, 1).unwrap();
        assert_eq!((decision.allowed, decision.remaining), (true, Some(0)), "{key}: one came back meanwhile");
    }
    assert_eq!(limiter.check("user:2", 1).unwrap().remaining, Some(9));
    reopened(limiter, dir.path(), &clock, &["k", "user:1", "user:2", "user:*"]);
}

#[test]
fn a_rate_of_0_denies_whatever_the_cost() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("k", parse("0/1m")).unwrap();
    for cost in [1, 1_000_000_000_000] {
        let denied = limiter.check("k", cost).unwrap();
        assert_eq!((denied.allowed, denied.retry_after, denied.next), (false, None, None));
    }
    assert_eq!(limiter.check("k", 0).unwrap_err().kind(), Kind::InvalidArgument);
    lay_over(&limiter, "k", "0/1s", 90);
    lay_over(&limiter, "other", "0/1s", 90);
    clock.advance_ms(30_000);
    assert_eq!(limiter.check("k", 1).unwrap().retry_after, None, "what comes back denies too");
    assert_eq!(limiter.check("other", 1).unwrap().retry_after, secs(60));
}

#[test]
fn values_for_a_time_lie_over_the_keys_own_which_come_back() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("k", parse("10/1h")).unwrap();
    assert!(limiter.check("k", 4).unwrap().allowed);
    assert!(!lay_over(&limiter, "k", "100/1h", 60));
    let status = limiter.status("k").unwrap().unwrap();
    let lasting = status.lasting.clone().unwrap();
    assert_eq!((lasting.until, lasting.below.as_deref()), (START + 60_000_000, Some(&parse("10/1h"))));
    assert_eq!(status.remaining, Some(96));
    assert!(limiter.check("k", 50).unwrap().allowed);
    // Without a time it changes what lies below; the values in force stay.
    assert!(!limiter.configure("k", parse("20/1h")).unwrap());
    let status = limiter.status("k").unwrap().unwrap();
    assert_eq!(
        (status.limit.windows()[0].rate(), status.lasting.unwrap().below.as_deref()),
        (100, Some(&parse("20/1h")))
    );
    // When they are given again, the time starts over.
    clock.advance_ms(30_000);
    lay_over(&limiter, "k", "100/1h", 60);
    let limiter = reopened(limiter, dir.path(), &clock, &["k"]);
    clock.advance_ms(59_999);
    assert_eq!(limiter.status("k").unwrap().unwrap().limit.windows()[0].rate(), 100);
    clock.advance_ms(1);
    let status = limiter.status("k").unwrap().unwrap();
    assert_eq!((status.limit.windows()[0].rate(), status.lasting, status.remaining), (20, None, Some(0)));
    assert!(status.debt >= 30, "{}", status.debt);
    let limiter = reopened(limiter, dir.path(), &clock, &["k"]);
    assert!(!limiter.check("k", 1).unwrap().allowed);
    // The end is recorded by the next spend; until then it is found again at each look.
    clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(limiter.check("k", 20).unwrap().remaining, Some(0));
    reopened(limiter, dir.path(), &clock, &["k"]);
}

#[test]
fn a_ban_of_a_key_without_a_limit_of_its_own_leaves_nothing() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1h")).unwrap();
    assert!(limiter.check("user:1", 3).unwrap().allowed);
    for key in ["user:1", "user:2", "other"] {
        assert!(lay_over(&limiter, key, "0/1s", 60), "{key}");
    }
    let limit = parse("5/1h");
    for key in ["user:1", "user:2", "other"] {
        // What an operator configures wins over what a request brings.
        let denied = limiter.check_item(Item::new(key).with_limit(&limit)).unwrap();
        assert_eq!((denied.allowed, denied.retry_after, denied.pattern), (false, secs(60), None), "{key}");
    }
    let limiter = reopened(limiter, dir.path(), &clock, &["user:1", "user:2", "other", "user:*"]);
    for key in ["user:1", "other"] {
        let status = limiter.status(key).unwrap().unwrap();
        assert_eq!((status.source, status.pattern, status.lasting.unwrap().below), (Origin::Exact, None, None));
    }
    clock.advance_ms(60_000);
    assert_eq!(limiter.check("user:1", 1).unwrap().remaining, Some(6));
    assert_eq!(limiter.check("user:2", 1).unwrap().remaining, Some(9));
    assert_eq!(limiter.check("other", 1).unwrap_err().kind(), Kind::LimitNotConfigured);
    assert_eq!(limiter.status("other").unwrap(), None);
    assert_eq!(limiter.check_item(Item::new("other").with_limit(&limit)).unwrap().remaining, Some(4));
    reopened(limiter, dir.path(), &clock, &["user:1", "user:2", "other", "user:*"]);
}

#[test]
fn values_for_a_time_go_with_a_removal() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1h")).unwrap();
    limiter.configure("k", parse("10/1h")).unwrap();
    for key in ["k", "user:1"] {
        lay_over(&limiter, key, "100/1h", 60);
        assert!(limiter.check(key, 5).unwrap().allowed);
        limiter.remove(key).unwrap();
    }
    assert_eq!(limiter.status("k").unwrap(), None);
    let status = limiter.status("user:1").unwrap().unwrap();
    assert_eq!((status.source, status.lasting, status.remaining), (Origin::Pattern, None, Some(5)));
    assert_eq!(limiter.remove("user:1").unwrap_err().kind(), Kind::LimitNotConfigured, "it has none of its own");
    reopened(limiter, dir.path(), &clock, &["k", "user:1", "user:*"]);
}

#[test]
fn a_pattern_has_values_for_a_time_too() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    let lasts = Setting::new("user:*", parse("1/1h")).with_lasts(Duration::from_secs(60));
    assert_eq!(limiter.configure_setting(&lasts).unwrap_err().kind(), Kind::InvalidArgument, "nothing comes back");
    limiter.configure("user:*", parse("10/1h")).unwrap();
    assert!(limiter.check("user:1", 2).unwrap().allowed);
    assert!(!lay_over(&limiter, "user:*", "100/1h", 60));
    assert_eq!(limiter.check("user:1", 8).unwrap().remaining, Some(90));
    assert_eq!(limiter.check("user:2", 8).unwrap().remaining, Some(92));
    assert_eq!(limiter.status("user:*").unwrap().unwrap().lasting.unwrap().until, START + 60_000_000);
    assert_eq!(limiter.status("user:2").unwrap().unwrap().lasting.unwrap().below.as_deref(), Some(&parse("10/1h")));
    assert!(limiter.check("user:3", 100).unwrap().allowed);
    let denied = limiter.check("user:3", 1).unwrap();
    assert_eq!(denied.retry_after, secs(36), "before its end");
    let denied = limiter.check("user:3", 2).unwrap();
    // One and two thirds have come back by then; the rest comes ten times slower, below zero as fast as before.
    assert!(denied.retry_after > secs(60), "{denied:?}");
    let limiter = reopened(limiter, dir.path(), &clock, &["user:1", "user:2", "user:3", "user:*"]);
    clock.advance_ms(60_000);
    let exact = denied.retry_after.unwrap() - Duration::from_secs(60);
    let limiter = reopened(limiter, dir.path(), &clock, &["user:1", "user:2", "user:3", "user:*"]);
    assert_eq!(limiter.status("user:*").unwrap().unwrap().lasting, None);
    assert_eq!(limiter.check("user:3", 2).unwrap().retry_after, Some(exact), "what was told was right");
    assert_eq!(limiter.check("user:2", 1).unwrap().remaining, Some(2));
    clock.advance(exact);
    assert!(limiter.check("user:3", 2).unwrap().allowed);
    reopened(limiter, dir.path(), &clock, &["user:1", "user:2", "user:3", "user:*"]);
}

#[test]
fn settings_out_of_their_range_are_refused_by_name() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    let message = |setting: Setting<'_>| limiter.configure_setting(&setting).unwrap_err().message().to_owned();
    let one = || parse("1/1m");
    assert!(message(Setting::new("k", one()).with_max_keys(5)).starts_with("max_keys is only for patterns"));
    for most in [0, 1_000_000_001] {
        let message = message(Setting::new("k*", one()).with_max_keys(most));
        assert!(message.starts_with("max_keys must be from 1 to 1000000000"), "{message}");
    }
    for lasts in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(366 * 86_400 + 1)] {
        let message = message(Setting::new("k", one()).with_lasts(lasts));
        assert!(message.starts_with("for must be from 1ms to 366d"), "{message}");
    }
    assert!(message(Setting::new(" ", one())).starts_with("key must not be empty"));
    assert_eq!(all(&limiter), []);
    let opened = Limiter::open(dir.path().join("x"), options(&clock).with_max_keys(0));
    assert!(opened.err().unwrap().message().starts_with("max-keys must be from 1 to"));
}
