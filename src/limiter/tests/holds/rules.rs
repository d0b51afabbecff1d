//! What a hold is on windows, rule by rule.

use super::*;

const FIXED: &str = "100/1m fixed_window_counter";

#[test]
fn a_hold_is_a_durable_check() {
    let bench = Bench::new(&[("tokens", "100/1m")]);
    let held = bench.limiter.hold("tokens", 60, MINUTE).unwrap();
    let hold = held.hold.unwrap();
    assert_eq!((hold.expires_at, hold.ttl), (START + 60_000_000, MINUTE));
    assert_eq!((held.all.results[0].remaining, bench.used("tokens")), (Some(40), 60));
    assert!(!bench.limiter.check("tokens", 41).unwrap().allowed);
    let bench = bench.kill();
    assert_eq!((bench.used("tokens"), bench.status("tokens").totals.allowed_cost), (60, 60));
    // A denial holds nothing.
    assert!(bench.limiter.hold("tokens", 41, MINUTE).unwrap().hold.is_none());
    assert_eq!((bench.used("tokens"), bench.limiter.report().holds), (60, 1));
}

#[test]
fn what_it_cost_more_is_charged_past_the_limit() {
    let bench = Bench::new(&[("tokens", FIXED)]);
    let hold = bench.hold("tokens", 60);
    let settled = bench.settle(&hold, 250);
    let item = &settled.results[0];
    assert_eq!((&*item.key, item.held, item.cost), ("tokens", 60, 250));
    assert_eq!((item.remaining, item.debt, item.configured, settled.late), (Some(0), 150, true, false));
    assert_eq!((bench.status("tokens").debt, bench.limiter.report().holds), (150, 0));
    let bench = bench.kill();
    assert_eq!(bench.status("tokens").debt, 150);
}

#[test]
fn what_it_cost_less_is_given_back_to_each_window() {
    for algorithm in ["token_bucket", "fixed_window_counter", "sliding_window_log", "sliding_window_counter"] {
        let limit = format!("100/1h {algorithm}, 1000/1d {algorithm}");
        let bench = Bench::new(&[("tokens", &limit)]);
        assert!(bench.limiter.check("tokens", 7).unwrap().allowed);
        bench.pass(Duration::from_micros(1_234));
        let hold = bench.hold("tokens", 60);
        bench.pass(Duration::from_micros(777));
        let settled = bench.settle(&hold, 10);
        assert_eq!(settled.results[0].remaining, Some(83), "{algorithm}");
        let used =
            |bench: &Bench| bench.status("tokens").windows.as_slice().iter().map(|one| one.used).collect::<Vec<_>>();
        assert_eq!(used(&bench), [17, 17], "{algorithm}");
        let bench = bench.kill();
        assert_eq!(used(&bench), [17, 17], "{algorithm}");
    }
}

#[test]
fn a_hold_that_nobody_settles_stays_spent() {
    let bench = Bench::new(&[("tokens", "100/1h fixed_window_counter")]);
    bench.hold("tokens", 60);
    bench.pass(20 * MINUTE);
    assert_eq!((bench.used("tokens"), bench.limiter.report().holds), (60, 0));
    assert_eq!(bench.limiter.report().holds_expired, 1);
}

#[test]
fn nothing_is_given_back_after_a_reset_a_removal_or_a_change_of_period_or_algorithm() {
    type Between = fn(&Bench);
    let between: [Between; 5] = [
        |bench| bench.limiter.reset("tokens").unwrap(),
        |bench| {
            bench.limiter.remove("tokens").unwrap();
            bench.configure("tokens", "100/1h fixed_window_counter");
        },
        |bench| bench.configure("tokens", "100/2h fixed_window_counter"),
        |bench| bench.configure("tokens", "100/1h sliding_window_log"),
        |bench| {
            bench.configure("tokens", "100/1h sliding_window_log");
            bench.configure("tokens", "100/1h fixed_window_counter");
        },
    ];
    for (index, change) in between.into_iter().enumerate() {
        let bench = Bench::new(&[("tokens", "100/1h fixed_window_counter")]);
        bench.limiter.check("tokens", 20).unwrap();
        let hold = bench.hold("tokens", 60);
        bench.pass(SECOND);
        change(&bench);
        bench.pass(SECOND);
        assert!(bench.limiter.check("tokens", 15).unwrap().allowed);
        let before = bench.used("tokens");
        bench.settle(&hold, 0);
        assert_eq!(bench.used("tokens"), before, "change {index}");
        let bench = bench.kill();
        assert_eq!(bench.used("tokens"), before, "change {index}");
    }
    // Another rate or burst is not such a change.
    let bench = Bench::new(&[("tokens", "100/1h fixed_window_counter")]);
    let hold = bench.hold("tokens", 60);
    bench.configure("tokens", "70/1h fixed_window_counter");
    bench.settle(&hold, 10);
    assert_eq!(bench.used("tokens"), 10);
}

#[test]
fn a_surcharge_goes_to_whatever_limit_the_key_has_now() {
    let bench = Bench::new(&[("a", FIXED), ("b", FIXED), ("c", FIXED), ("p:*", FIXED)]);
    let items = ["a", "b", "c", "p:x"].map(|key| Item::new(key).with_cost(10));
    let hold = bench.limiter.hold_all(&items, MINUTE).unwrap().hold.unwrap();
    bench.configure("a", "100/1h sliding_window_log");
    bench.limiter.remove("b").unwrap();
    bench.configure("c", "slots=2");
    bench.configure("p:x", "7/1m fixed_window_counter");
    let costs = [("a", 15), ("b", 15), ("c", 15), ("p:x", 15)];
    let settled = bench.limiter.settle(&hold.id, Cost::Each(&costs)).unwrap();
    let told: Vec<_> = settled.results.iter().map(|item| (item.configured, item.remaining, item.debt)).collect();
    assert_eq!(told, [(true, Some(85), 0), (false, None, 0), (true, Some(2), 0), (true, Some(0), 8)]);
    let bench = bench.kill();
    assert_eq!((bench.used("a"), bench.used("p:x"), bench.used("c")), (15, 15, 0));
    // Of a key that nothing is left of, and a pattern serves.
    let hold = bench.hold("p:y", 1);
    bench.pass(5 * MINUTE);
    bench.limiter.core.sweep_round();
    let settled = bench.settle(&hold, 31);
    assert!(settled.late);
    assert_eq!((bench.used("p:y"), settled.results[0].remaining), (30, Some(70)));
    assert_eq!(bench.kill().used("p:y"), 30);
}

#[test]
fn one_hold_spans_windows_and_slots_all_or_none() {
    let bench = Bench::new(&[("tokens", FIXED), ("streams", "slots=1")]);
    let items = [Item::new("tokens").with_cost(40), Item::new("streams")];
    let first = bench.limiter.hold_all(&items, MINUTE).unwrap();
    let second = bench.limiter.hold_all(&items, MINUTE).unwrap();
    assert_eq!((second.all.allowed, second.all.denied, second.hold), (false, Some(1), None));
    assert_eq!(second.all.results[0].remaining, Some(60), "as it stands");
    assert_eq!((bench.used("tokens"), bench.used("streams")), (40, 1));
    let hold = first.hold.unwrap();
    let settled = bench.settle(&hold, 55);
    assert_eq!(settled.results.iter().map(|item| item.cost).collect::<Vec<_>>(), [55, 1]);
    assert_eq!((bench.used("tokens"), bench.used("streams")), (55, 0));
    // The slot is there, the tokens are not.
    let items = [Item::new("streams"), Item::new("tokens").with_cost(46)];
    let third = bench.limiter.hold_all(&items, MINUTE).unwrap();
    assert_eq!((third.all.denied, third.all.results[0].used, bench.used("streams")), (Some(1), Some(0), 0));
}

#[test]
fn settled_again_it_answers_the_same_and_otherwise_it_is_refused() {
    let bench = Bench::new(&[("tokens", FIXED), ("gpu", "slots=2")]);
    let items = [Item::new("tokens").with_cost(40), Item::new("gpu")];
    let hold = bench.limiter.hold_all(&items, MINUTE).unwrap().hold.unwrap();
    let first = bench.settle(&hold, 50);
    for _ in 0..2 {
        assert_eq!(bench.settle(&hold, 50), first);
        assert_eq!(bench.limiter.settle(&hold.id, Cost::Each(&[("tokens", 50), ("gpu", 7)])).unwrap(), first);
        assert_eq!(bench.used("tokens"), 50);
    }
    let bench = bench.kill();
    assert_eq!((bench.settle(&hold, 50), bench.used("tokens")), (first, 50));
    for cost in [Cost::AsHeld, Cost::Units(51), Cost::Each(&[])] {
        assert_eq!(kind(bench.limiter.settle(&hold.id, cost)), Some(Kind::HoldSettled));
    }
    assert_eq!(kind(bench.limiter.renew(&hold.id, None)), Some(Kind::HoldSettled));
}

#[test]
fn after_it_has_run_out_it_is_settled_late_once_and_then_forgotten() {
    let bench = Bench::new(&[("tokens", "100/1h fixed_window_counter")]);
    let [late, lost] = [10, 20].map(|cost| bench.hold("tokens", cost));
    bench.pass(MINUTE);
    assert_eq!(kind(bench.limiter.renew(&late.id, None)), Some(Kind::HoldExpired));
    let settled = bench.settle(&late, 15);
    assert!(settled.late);
    assert_eq!((bench.used("tokens"), bench.settle(&late, 15)), (35, settled));
    bench.pass(10 * MINUTE - Duration::from_micros(1));
    let bench = bench.kill();
    assert_eq!(bench.limiter.report().holds, 0);
    assert!(bench.limiter.settle(&late.id, Cost::Units(15)).unwrap().late);
    bench.pass(Duration::from_micros(1));
    for hold in [late, lost] {
        assert_eq!(kind(bench.limiter.settle(&hold.id, Cost::Units(15))), Some(Kind::HoldNotFound));
        assert_eq!(kind(bench.limiter.renew(&hold.id, None)), Some(Kind::HoldNotFound));
    }
    assert_eq!(bench.used("tokens"), 35);
}

#[test]
fn renewed_it_lasts_for_as_long_as_it_was_made_for_or_as_is_said() {
    let bench = Bench::new(&[("gpu", "slots=1")]);
    let hold = bench.hold("gpu", 1);
    bench.pass(50 * SECOND);
    let renewed = bench.limiter.renew(&hold.id, None).unwrap();
    assert_eq!((renewed.id, renewed.expires_at, renewed.ttl), (hold.id.clone(), START + 110_000_000, MINUTE));
    let bench = bench.kill();
    bench.pass(50 * SECOND);
    assert!(!bench.is_held("gpu", 1));
    let renewed = bench.limiter.renew(&hold.id, Some(2 * SECOND)).unwrap();
    assert_eq!((renewed.expires_at, renewed.ttl), (START + 102_000_000, 2 * SECOND));
    // As it was made for, also after a snapshot.
    bench.limiter.compact().unwrap();
    let bench = bench.kill();
    assert_eq!(bench.limiter.renew(&hold.id, None).unwrap().ttl, MINUTE);
    bench.limiter.renew(&hold.id, Some(SECOND)).unwrap();
    bench.pass(SECOND);
    assert!(bench.is_held("gpu", 1));
}

#[test]
fn a_cost_belongs_to_the_keys_of_the_hold() {
    let bench = Bench::new(&[("a", FIXED), ("b", FIXED), ("gpu", "slots=2")]);
    let items = ["a", "b", "gpu"].map(Item::new);
    let hold = bench.limiter.hold_all(&items, MINUTE).unwrap().hold.unwrap();
    let twice = [("a", 1), ("a", 1)];
    for (cost, says) in [
        (Cost::Units(3), "several keys"),
        (Cost::Each(&[("c", 1)]), "`c`"),
        (Cost::Each(&twice), "twice"),
        (Cost::Each(&[("a", 1_000_000_000_001)]), "1000000000000"),
    ] {
        let error = bench.limiter.settle(&hold.id, cost).unwrap_err();
        assert!(error.kind() == Kind::InvalidArgument && error.to_string().contains(says), "{error}");
    }
    let settled = bench.limiter.settle(&hold.id, Cost::Each(&[("b", 3)])).unwrap();
    assert_eq!(settled.results.iter().map(|item| item.cost).collect::<Vec<_>>(), [1, 3, 1]);
}

#[test]
fn under_unlimited_and_in_shadow_mode_there_is_nothing_to_correct() {
    let bench = Bench::new(&[("free", "100/1m"), ("f*", "100/1m"), ("shadow", "10/1m fixed_window_counter shadow")]);
    bench.limiter.configure("free", Limit::unlimited()).unwrap();
    bench.limiter.configure("f*", Limit::unlimited()).unwrap();
    for key in ["free", "fresh"] {
        let hold = bench.hold(key, 5);
        let settled = bench.settle(&hold, 9);
        assert_eq!((settled.results[0].configured, settled.results[0].remaining), (true, None));
    }
    assert_eq!(bench.status("free").totals.allowed_cost, 9);
    bench.hold("shadow", 8);
    let hold = bench.hold("shadow", 8);
    let settled = bench.settle(&hold, 3);
    assert_eq!((settled.results[0].held, settled.results[0].cost, bench.used("shadow")), (0, 3, 8));
}

#[test]
fn a_peek_answers_as_a_check_and_spends_nothing() {
    let bench = Bench::new(&[("a", FIXED), ("gpu", "slots=2"), ("p:*", "5/1m")]);
    let events = bench.limiter.report().events;
    let both = [Item::new("a").with_cost(60), Item::new("gpu"), Item::new("p:x").with_cost(2)];
    for _ in 0..3 {
        let all = bench.limiter.peek_all(&both).unwrap();
        let left: Vec<_> = all.results.iter().map(|result| result.remaining).collect();
        assert!(all.allowed && left == [Some(40), Some(1), Some(3)]);
    }
    bench.limiter.check("a", 50).unwrap();
    let peeked = bench.limiter.peek_all(&both).unwrap();
    assert_eq!((peeked.denied, peeked.results.len()), (Some(0), 1));
    let peeked = bench.limiter.peek(both[0]).unwrap();
    assert_eq!(peeked, bench.limiter.check("a", 60).unwrap());
    assert_eq!(bench.status("a").totals.denied, 1);
    assert!(bench.limiter.status("p:x").unwrap().unwrap().totals.allowed == 0 && bench.limiter.report().live == 0);
    bench.limiter.flush().unwrap();
    assert!(bench.limiter.report().events <= events + 2, "one check, and its denial");
    assert_eq!(kind(bench.limiter.peek("unknown".into())), Some(Kind::LimitNotConfigured));
    assert_eq!(kind(bench.limiter.peek(Item::new("a").with_cost(101))), Some(Kind::CostExceedsCapacity));
}

#[test]
fn a_charge_spends_past_the_limit_and_a_refund_gives_back_what_is_used() {
    let bench = Bench::new(&[("a", FIXED), ("p:*", FIXED)]);
    let brought = limit_of("10/1m fixed_window_counter");
    for item in [Item::new("a"), Item::new("p:x"), Item::new("new").with_limit(&brought)] {
        let capacity = if item.limit.is_some() { 10 } else { 100 };
        let status = bench.limiter.charge(item.with_cost(250)).unwrap();
        assert_eq!((status.remaining, status.debt), (Some(0), 250 - capacity));
        let status = bench.limiter.refund(item.with_cost(200)).unwrap();
        assert_eq!((status.used, &*status.key), (Some(50), item.key));
    }
    let bench = bench.kill();
    assert_eq!((bench.used("a"), bench.used("p:x"), bench.used("new")), (50, 50, 50));
    let status = bench.limiter.refund(Item::new("a").with_cost(200)).unwrap();
    assert_eq!((status.used, status.remaining), (Some(0), Some(100)));
    assert_eq!(bench.limiter.refund(Item::new("p:y").with_cost(200)).unwrap().used, Some(0));
    assert_eq!(kind(bench.limiter.charge("unknown".into())), Some(Kind::LimitNotConfigured));
    assert_eq!(kind(bench.limiter.refund("unknown".into())), Some(Kind::LimitNotConfigured));
    assert_eq!(kind(bench.limiter.charge(Item::new("a").with_cost(0))), Some(Kind::InvalidArgument));
    assert_eq!(kind(bench.limiter.refund(Item::new("a").with_cost(0))), Some(Kind::InvalidArgument));
}

#[test]
fn a_surcharge_on_a_key_by_request_does_not_depend_on_the_sweep() {
    let limit = limit_of("10/1m");
    for swept in [false, true] {
        for (pattern, configured) in [(false, false), (true, true)] {
            let bench = Bench::new(if pattern { &[("v*", "10/1m")] } else { &[] });
            let item = Item::new("visitor").with_cost(4).with_limit(&limit);
            let hold = bench.limiter.hold_all(&[item], MINUTE).unwrap().hold.unwrap();
            // It has expired, and all that it spent has come back.
            bench.pass(MINUTE);
            if swept {
                bench.limiter.core.sweep_round();
            }
            let settled = bench.settle(&hold, 9);
            assert!(settled.late);
            assert_eq!(settled.results[0].configured, configured, "swept: {swept}, pattern: {pattern}");
            let used = bench.limiter.status("visitor").unwrap().map(|status| status.used);
            assert_eq!(used, configured.then_some(Some(5)), "swept: {swept}, pattern: {pattern}");
        }
    }
}
