//! Tests of the bound on keys that come and go, and of the limits that share what finds no room.

use super::values::{lay_over, open, parse, reopened};
use crate::bounds::MAX_OVERFLOWS;
use crate::limiter::core::Shard;
use crate::limiter::tests::*;

fn bounded(limiter: &Limiter, pattern: &str, limit: &str, most: u64) {
    limiter.configure_setting(&Setting::new(pattern, parse(limit)).with_max_keys(most)).unwrap();
}

fn live(limiter: &Limiter, pattern: &str) -> u64 {
    limiter.status(pattern).unwrap().unwrap().live.unwrap()
}

#[test]
fn keys_of_a_pattern_that_find_no_room_share_a_durable_limit() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    bounded(&limiter, "user:*", "10/1h", 3);
    for key in 0..3 {
        let decision = limiter.check(&format!("user:{key}"), 1).unwrap();
        assert_eq!((decision.remaining, decision.overflow), (Some(9), false));
    }
    for key in 3..13 {
        let decision = limiter.check(&format!("user:{key}"), 1).unwrap();
        assert_eq!((decision.remaining, decision.overflow), (Some(12 - key), true), "{key}");
        assert_eq!(decision.pattern.as_deref(), Some("user:*"));
    }
    let denied = limiter.check("user:99", 1).unwrap();
    assert!(!denied.allowed && denied.overflow);
    assert_eq!(live(&limiter, "user:*"), 3);
    // A status of a key without room shows what it shares.
    let status = limiter.status("user:99").unwrap().unwrap();
    assert_eq!((status.overflow, status.remaining), (true, Some(0)));
    assert!(!limiter.status("user:1").unwrap().unwrap().overflow);
    let keys = ["user:1", "user:99", "user:*"];
    let limiter = reopened(limiter, dir.path(), &clock, &keys);
    assert!(!limiter.check("user:100", 1).unwrap().allowed);
    // It moves with the pattern's values.
    bounded(&limiter, "user:*", "20/1h", 3);
    assert_eq!(limiter.check("user:100", 1).unwrap().remaining, Some(9));
    let limiter = reopened(limiter, dir.path(), &clock, &keys);
    let totals = limiter.status("user:*").unwrap().unwrap().totals;
    assert_eq!((totals.allowed, totals.denied), (14, 2));
    limiter.reset("user:*").unwrap();
    assert_eq!(limiter.check("user:1", 1).unwrap().remaining, Some(19));
    assert_eq!(limiter.check("user:100", 1).unwrap().remaining, Some(19));
    // Untouched keys make room at a start: there a key may have its own limit again.
    reopened(limiter, dir.path(), &clock, &["user:1", "user:*"]);
}

#[test]
fn untouched_keys_make_room_and_live_ones_stay() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    bounded(&limiter, "user:*", "10/1m", 200);
    for key in 0..200 {
        assert!(!limiter.check(&format!("user:{key}"), 1).unwrap().overflow);
    }
    assert!(limiter.check("user:0", 9).unwrap().allowed);
    assert!(limiter.check("new:0", 1).is_err() && limiter.check("user:200", 1).unwrap().overflow);
    clock.advance_ms(30_000);
    // A new key sweeps its own shard only: most find a neighbour that is untouched, or room that another made.
    let shared = (1000..1256).filter(|key| limiter.check(&format!("user:{key}"), 1).unwrap().overflow).count();
    assert!(shared < 128, "{shared} of 256 found no room");
    assert!(live(&limiter, "user:*") <= 200);
    assert_eq!(limiter.status("user:0").unwrap().unwrap().remaining, Some(5));
}

#[test]
fn brought_values_have_a_bound_and_a_limit_that_is_shared_by_each_set_of_them() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let options = || Options { sync: SyncMode::Relaxed, ..options(&clock).with_max_keys(2) };
    let limiter = Limiter::open(dir.path(), options()).unwrap();
    let check =
        |limiter: &Limiter, key: &str, limit: &str| limiter.check_item(Item::new(key).with_limit(&parse(limit)));
    assert!(!check(&limiter, "a", "5/1h").unwrap().overflow);
    assert!(!check(&limiter, "b", "5/1h").unwrap().overflow);
    for left in [4, 3] {
        let decision = check(&limiter, &format!("c{left}"), "5/1h").unwrap();
        assert_eq!((decision.overflow, decision.remaining, decision.pattern), (true, Some(left), None));
    }
    // Of each other set of values there is one, up to a bound.
    for rate in 100..100 + MAX_OVERFLOWS - 1 {
        assert!(check(&limiter, "d", &format!("{rate}/1h")).unwrap().overflow);
    }
    let refused = check(&limiter, "d", "1000/1h").unwrap_err();
    assert_eq!(refused.kind(), Kind::Overloaded);
    let other = parse("1000/1h");
    let all = limiter.check_all(&[Item::new("a").with_limit(&parse("5/1h")), Item::new("e").with_limit(&other)]);
    assert_eq!(all.unwrap_err().kind(), Kind::Overloaded);
    assert_eq!(limiter.status("a").unwrap().unwrap().remaining, Some(4), "nothing is spent of any");
    drop(limiter);
    let limiter = Limiter::open(dir.path(), options()).unwrap();
    assert_eq!(check(&limiter, "f", "5/1h").unwrap().remaining, Some(2));
    assert_eq!(check(&limiter, "d", "1000/1h").unwrap_err().kind(), Kind::Overloaded);
    assert_eq!(check(&limiter, "a", "5/1h").unwrap().remaining, Some(3), "live ones are never sent away");
    // Untouched, all of it vanishes.
    clock.advance(Duration::from_secs(3600));
    for shard in &limiter.core.shards {
        let mut table = shard.lock();
        while !limiter.core.sweep(&mut table, 1000, limiter.core.clock.now()).ended {}
        assert_eq!(table.len(), 0);
    }
    assert!(!check(&limiter, "d", "1000/1h").unwrap().overflow);
    assert_eq!(limiter.core.registry.overflows.load(Ordering::Relaxed), 0);
    // A ban by an operator finds room whatever the bound.
    for key in ["x", "y", "z"] {
        assert!(lay_over(&limiter, key, "0/1s", 10));
        assert!(!check(&limiter, key, "5/1h").unwrap().allowed);
    }
}

#[test]
fn two_items_that_share_a_limit_add_up() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    bounded(&limiter, "user:*", "10/1h", 1);
    assert!(limiter.check("user:0", 1).unwrap().allowed);
    let denied = limiter.check_all(&[("user:1", 6), ("user:2", 6)]).unwrap();
    assert_eq!((denied.allowed, denied.denied), (false, Some(1)));
    assert_eq!(denied.results.iter().map(|result| result.remaining).collect::<Vec<_>>(), [Some(10), Some(4)]);
    let all = limiter.check_all(&[("user:0", 1), ("user:1", 6), ("user:2", 3), ("user:3", 1)]).unwrap();
    assert_eq!(all.results.iter().map(|result| result.remaining).collect::<Vec<_>>(), [8, 4, 1, 0].map(Some));
    assert_eq!(all.results.iter().map(|result| result.overflow).collect::<Vec<_>>(), [false, true, true, true]);
    let limiter = reopened(limiter, dir.path(), &clock, &["user:0", "user:9", "user:*"]);
    assert!(!limiter.check_all(&[("user:0", 1), ("user:5", 1)]).unwrap().allowed);
    assert_eq!(limiter.status("user:0").unwrap().unwrap().remaining, Some(8));
    // Born and shared in one check, both from nothing.
    bounded(&limiter, "ip:*", "4/1h", 1);
    let all = limiter.check_all(&[("ip:1", 4), ("ip:2", 2), ("ip:3", 2)]).unwrap();
    assert_eq!(all.results.iter().map(|result| result.overflow).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!((live(&limiter, "ip:*"), all.results[2].remaining), (1, Some(0)));
    reopened(limiter, dir.path(), &clock, &["ip:1", "ip:2", "ip:*"]);
}

#[test]
fn many_checks_at_the_bound_are_decided_alike_by_whoever_may_wait() {
    let clock = Clock::manual(START);
    let results = [false, true].map(|waits| {
        let dir = tempfile::tempdir().unwrap();
        let limiter = open(dir.path(), &clock);
        bounded(&limiter, "user:*", "5/1h", 3);
        let keys: Vec<String> = (0..40).map(|round| format!("user:{}", round % 8)).collect();
        let items: Vec<Item<'_>> = keys.iter().map(|key| Item::new(key)).collect();
        let results = match waits {
            true => limiter.check_many(&items).unwrap(),
            false => {
                let completion: Arc<dyn store::Completion> = Arc::new(crate::limiter::tests::check::Nobody);
                limiter.check_many_for(&items, Some(&NonBlocking::new(&completion, 1))).unwrap()
            }
        };
        // The sweep may hold one for a moment.
        let is_free = |shard: &Shard| (0..10_000).any(|_| shard.0.try_lock().is_ok() || sleep_a_little());
        assert!(limiter.core.shards.iter().all(is_free), "no lock is kept");
        limiter.flush().unwrap();
        assert_eq!(limiter.core.log().unwrap().queued_bytes(), 0, "all room is given back");
        results.into_iter().map(|result| result.unwrap()).map(|one| (one.overflow, one.remaining)).collect::<Vec<_>>()
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0][3], (true, Some(4)));
    assert_eq!(results[0].iter().filter(|(overflow, _)| *overflow).count(), 25);
}

/// Between two looks at what another thread does.
fn sleep_a_little() -> bool {
    std::thread::sleep(Duration::from_millis(1));
    false
}

/// Their one record would be too long, so the keys are born before it, also under windows of the calendar.
#[test]
fn a_thousand_long_keys_of_the_calendar_are_checked_at_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    bounded(&limiter, "k*", "3/1h, 9/day, 9/week, 9/month, 9/quarter, 9/year", 2000);
    let keys: Vec<String> = (0..1000).map(|number| format!("k{number:0>511}")).collect();
    let items: Vec<Item<'_>> = keys.iter().map(|key| Item::new(key)).collect();
    for left in [2, 1] {
        let all = limiter.check_all(&items).unwrap();
        assert!(all.allowed && all.results.iter().all(|result| result.remaining == Some(left)), "{left}");
    }
    let limiter = reopened(limiter, dir.path(), &clock, &[&keys[0], &keys[999], "k*"]);
    assert!(limiter.check_all(&items).unwrap().allowed);
    let denied = limiter.check_all(&items).unwrap();
    assert_eq!((denied.allowed, denied.denied, live(&limiter, "k*")), (false, Some(0), 1000));
}
