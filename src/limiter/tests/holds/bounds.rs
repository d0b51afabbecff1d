//! What there may be of holds.

use super::*;
use crate::limiter::tests::check::Nobody;
use crate::store::Completion;

#[test]
fn a_hold_lasts_for_1_s_to_24_h() {
    let bench = Bench::new(&[("a", "100/1m")]);
    for ttl in [SECOND, Duration::from_secs(24 * 3600)] {
        assert_eq!(bench.limiter.hold("a", 1, ttl).unwrap().hold.unwrap().ttl, ttl);
    }
    let hold = bench.hold("a", 1);
    for ttl in [SECOND - Duration::from_nanos(1), Duration::from_secs(24 * 3600) + Duration::from_nanos(1)] {
        assert_eq!(kind(bench.limiter.hold("a", 1, ttl)), Some(Kind::InvalidArgument));
        let error = bench.limiter.renew(&hold.id, Some(ttl)).unwrap_err();
        assert!(error.to_string().starts_with("ttl must be from 1s to 1d"), "{error}");
    }
    assert_eq!(bench.used("a"), 3);
}

#[test]
fn more_holds_than_may_be_open_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let limiter = Limiter::open(dir.path(), options(&clock).with_max_holds(2)).unwrap();
    limiter.configure("a", "100/1h fixed_window_counter".parse().unwrap()).unwrap();
    let first = limiter.hold("a", 1, MINUTE).unwrap().hold.unwrap();
    limiter.hold("a", 1, 2 * MINUTE).unwrap();
    let error = limiter.hold("a", 1, MINUTE).unwrap_err();
    assert_eq!((error.kind(), error.kind().http_status()), (Kind::TooManyHolds, 503));
    assert_eq!(limiter.status("a").unwrap().unwrap().used, Some(2));
    // A denial is an answer.
    assert!(limiter.hold("a", 99, MINUTE).unwrap().hold.is_none());
    limiter.settle(&first.id, Cost::AsHeld).unwrap();
    assert!(limiter.hold("a", 1, MINUTE).unwrap().hold.is_some());
    clock.advance(MINUTE);
    assert!(limiter.hold("a", 1, MINUTE).unwrap().hold.is_some());
    assert!(limiter.hold("a", 1, MINUTE).is_err());
    drop(limiter);
    for most in [0, 10_000_001] {
        assert_eq!(kind(Limiter::open(dir.path(), options(&clock).with_max_holds(most))), Some(Kind::InvalidArgument));
    }
}

#[test]
fn an_id_that_was_never_given_is_not_found() {
    let bench = Bench::new(&[("a", "100/1m")]);
    let other = Bench::new(&[("a", "100/1m")]);
    let own = bench.hold("a", 1);
    let foreign = other.hold("a", 1);
    let next = bench.limiter.core.holds.ids.write(START + 1);
    for id in ["", "x", &foreign.id, &next, &format!("{}0", own.id), &own.id[1..], "ключ", &"9".repeat(4000)] {
        assert_eq!(kind(bench.limiter.settle(id, Cost::AsHeld)), Some(Kind::HoldNotFound), "{id}");
        assert_eq!(kind(bench.limiter.renew(id, None)), Some(Kind::HoldNotFound), "{id}");
    }
    assert!(bench.settle(&own, 2).results[0].configured);
}

#[test]
fn no_id_is_given_twice() {
    let bench = Bench::new(&[("a", "100/1m"), ("b", "100/1m")]);
    let first = bench.hold("a", 1);
    bench.settle(&first, 1);
    bench.pass(11 * MINUTE);
    bench.limiter.compact().unwrap();
    let bench = bench.kill().reopen();
    let second = bench.hold("b", 1);
    assert_ne!(first.id, second.id);
    assert_eq!(kind(bench.limiter.settle(&first.id, Cost::Units(1))), Some(Kind::HoldNotFound));
}

#[test]
fn a_hold_of_a_thousand_keys_is_settled_as_one() {
    let bench = Bench::new(&[("k*", "100/1h fixed_window_counter")]);
    let keys: Vec<String> = (0..1000).map(|key| format!("k{key:0>200}")).collect();
    let items: Vec<Item<'_>> = keys.iter().map(|key| Item::new(key).with_cost(5)).collect();
    let hold = bench.limiter.hold_all(&items, MINUTE).unwrap().hold.unwrap();
    let bench = bench.kill();
    let costs: Vec<(&str, u64)> = keys.iter().enumerate().map(|(index, key)| (&**key, 5 + index as u64 % 3)).collect();
    let settled = bench.limiter.settle(&hold.id, Cost::Each(&costs)).unwrap();
    assert_eq!(settled.results.iter().map(|item| item.remaining.unwrap()).sum::<u64>(), 100_000 - 5999);
    let bench = bench.kill();
    assert_eq!((bench.used(&keys[0]), bench.used(&keys[1]), bench.used(&keys[998])), (5, 6, 7));
    // Longer keys than one record can name.
    let keys: Vec<String> = (0..1000).map(|key| format!("k{key:0>500}")).collect();
    let items: Vec<Item<'_>> = keys.iter().map(|key| Item::new(key)).collect();
    let error = bench.limiter.hold_all(&items, MINUTE).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert_eq!(bench.used(&keys[0]), 0);
}

#[test]
fn a_hundred_thousand_open_holds_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let relaxed = |clock: &Clock| Options { sync: SyncMode::Relaxed, ..options(clock) };
    let limiter = Limiter::open(dir.path(), relaxed(&clock)).unwrap();
    limiter.configure("gpu", limit_of("slots=1000000")).unwrap();
    limiter.configure("u:*", "100/1h fixed_window_counter".parse().unwrap()).unwrap();
    let mut last = None;
    for number in 0..100_000_u64 {
        clock.advance(Duration::from_micros(1));
        let key = if number % 2 == 0 { "gpu".to_owned() } else { format!("u:{number}") };
        last = limiter.hold(&key, 1 + number % 3, Duration::from_secs(60 + number % 1000)).unwrap().hold;
    }
    let used = |limiter: &Limiter| limiter.status("gpu").unwrap().unwrap().slots.unwrap();
    let before = used(&limiter);
    assert_eq!((before.used, before.holds.len()), (100_000, 1000));
    for _ in 0..2 {
        limiter.flush().unwrap();
        let (found, holds) = recovered_holds(dir.path(), &clock);
        assert_eq!((found, holds), (before.clone(), 100_000));
        limiter.compact().unwrap();
    }
    limiter.settle(&last.unwrap().id, Cost::Units(50)).unwrap();
    assert_eq!(limiter.status("u:99999").unwrap().unwrap().used, Some(50));
    clock.advance(Duration::from_secs(1060));
    assert_eq!((used(&limiter).used, limiter.report().holds), (0, 0));
}

fn recovered_holds(dir: &Path, clock: &Clock) -> (SlotsInUse, u64) {
    let parent = tempfile::tempdir().unwrap();
    let copied = parent.path().join("copy");
    copy(dir, &copied);
    let limiter = Limiter::open(&copied, options(&clock.restarted())).unwrap();
    (limiter.status("gpu").unwrap().unwrap().slots.unwrap(), limiter.report().holds)
}

#[test]
fn what_must_not_wait_changes_nothing_where_it_would() {
    let bench = Bench::new(&[("a", "100/1m"), ("gpu", "slots=2")]);
    let completion: Arc<dyn Completion> = Arc::new(Nobody);
    let items = [Item::new("a"), Item::new("gpu")];
    let hold = bench.limiter.hold_all(&items, MINUTE).unwrap().hold.unwrap();
    let core = &bench.limiter.core;
    let limiter = &bench.limiter;
    let tries: [&dyn Fn(&NonBlocking<'_>) -> bool; 5] = [
        &|own| limiter.hold_all_for(&items, MINUTE, Some(own)).is_err(),
        &|own| limiter.settle_for(&hold.id, Cost::Each(&[("a", 9)]), Some(own)).is_err(),
        &|own| limiter.renew_for(&hold.id, Some(2 * MINUTE), Some(own)).is_err(),
        &|own| limiter.charge_for("a".into(), Some(own)).is_err(),
        &|own| limiter.refund_for("a".into(), Some(own)).is_err(),
    ];
    let before = all(limiter);
    for (index, attempt) in tries.iter().enumerate() {
        let own = NonBlocking::new(&completion, 1);
        let table = core.shards[shard_of(core.hash("a"))].lock();
        assert!(attempt(&own) && own.would_block() && !own.is_pending(), "{index}");
        drop(table);
        let own = NonBlocking::new(&completion, 1);
        let book = core.holds.lock();
        if index < 3 {
            assert!(attempt(&own) && own.would_block() && !own.is_pending(), "{index}");
        }
        drop(book);
        assert!(core.shards.iter().all(|shard| shard.0.try_lock().is_ok()), "no lock is kept");
    }
    assert_eq!(all(limiter), before);
    for attempt in tries {
        let own = NonBlocking::new(&completion, 1);
        let _ = attempt(&own);
        assert!(!own.would_block());
    }
}
