//! Slots: those in use are what open holds take.

use super::*;

fn slots(bench: &Bench, key: &str) -> (u64, u64, Option<u64>) {
    let status = bench.status(key);
    let slots = status.slots.unwrap();
    (slots.slots, slots.used, status.remaining)
}

#[test]
fn a_hold_takes_slots_until_it_is_settled_whatever_it_cost() {
    let bench = Bench::new(&[("gpu", "slots=4")]);
    let first = bench.limiter.hold("gpu", 3, MINUTE).unwrap();
    let decision = &first.all.results[0];
    assert_eq!((decision.allowed, decision.remaining, decision.used), (true, Some(1), Some(3)));
    assert_eq!(decision.reset_at, Some(START + 60_000_000));
    assert_eq!(slots(&bench, "gpu"), (4, 3, Some(1)));
    let denied = bench.limiter.hold("gpu", 2, MINUTE).unwrap();
    assert!(!denied.all.allowed && denied.hold.is_none() && denied.all.denied == Some(0));
    assert_eq!(denied.all.results[0].retry_after, Some(MINUTE));
    assert_eq!(denied.all.results[0].next, Some(MINUTE));
    let hold = first.hold.unwrap();
    let settled = bench.settle(&hold, 999);
    let item = &settled.results[0];
    assert_eq!((item.held, item.cost, item.remaining, item.configured), (3, 3, Some(4), true));
    assert_eq!(slots(&bench, "gpu"), (4, 0, Some(4)));
    assert!(bench.is_held("gpu", 4));
}

#[test]
fn a_hold_that_has_run_out_takes_no_slots() {
    let bench = Bench::new(&[("gpu", "slots=1")]);
    let hold = bench.hold("gpu", 1);
    bench.pass(MINUTE - Duration::from_micros(1));
    assert!(!bench.is_held("gpu", 1));
    bench.pass(Duration::from_micros(1));
    assert_eq!(slots(&bench, "gpu"), (1, 0, Some(1)));
    assert!(bench.is_held("gpu", 1));
    let settled = bench.settle(&hold, 1);
    assert!(settled.late);
    assert_eq!(slots(&bench, "gpu").1, 1, "it frees no slot of another hold");
}

#[test]
fn slots_stay_counted_through_any_reconfiguration() {
    let bench = Bench::new(&[("gpu", "slots=4"), ("pool:*", "slots=2")]);
    let hold = bench.hold("gpu", 3);
    bench.configure("gpu", "slots=2");
    assert_eq!(slots(&bench, "gpu"), (2, 3, Some(0)));
    assert_eq!(bench.status("gpu").debt, 1);
    assert!(!bench.is_held("gpu", 1));
    bench.configure("gpu", "100/1m");
    assert_eq!((bench.used("gpu"), bench.status("gpu").slots), (0, None));
    bench.configure("gpu", "slots=4");
    assert_eq!(slots(&bench, "gpu"), (4, 3, Some(1)));
    bench.limiter.reset("gpu").unwrap();
    assert_eq!(slots(&bench, "gpu"), (4, 3, Some(1)));
    bench.limiter.remove("gpu").unwrap();
    bench.configure("gpu", "slots=4");
    assert_eq!(slots(&bench, "gpu"), (4, 3, Some(1)));
    bench.settle(&hold, 0);
    assert_eq!(slots(&bench, "gpu"), (4, 0, Some(4)));
    // By a pattern, with exact values for a while, and by another pattern.
    let hold = bench.hold("pool:a", 2);
    bench.configure("pool:a", "slots=5");
    assert_eq!(slots(&bench, "pool:a"), (5, 2, Some(3)));
    bench.limiter.remove("pool:a").unwrap();
    assert_eq!(slots(&bench, "pool:a"), (2, 2, Some(0)));
    bench.limiter.remove("pool:*").unwrap();
    bench.configure("p*", "slots=3");
    assert_eq!(slots(&bench, "pool:a"), (3, 2, Some(1)));
    bench.settle(&hold, 0);
    assert_eq!(slots(&bench, "pool:a"), (3, 0, Some(3)));
}

#[test]
fn a_check_of_slots_is_an_error_that_says_hold() {
    let bench = Bench::new(&[("gpu", "slots=4"), ("pool:*", "slots=2"), ("rate", "5/1m")]);
    let slots = limit_of("slots=2");
    let brought = Item::new("other").with_limit(&slots);
    let limiter = &bench.limiter;
    let mut errors = vec![
        limiter.check("gpu", 1).unwrap_err(),
        limiter.check("pool:a", 1).unwrap_err(),
        limiter.check_item(brought).unwrap_err(),
        limiter.check_all(&[("rate", 1), ("gpu", 1)]).unwrap_err(),
        limiter.charge("gpu".into()).unwrap_err(),
        limiter.refund("gpu".into()).unwrap_err(),
    ];
    errors.extend(limiter.check_many(&[("gpu", 1), ("pool:a", 1)]).unwrap().into_iter().map(|one| one.unwrap_err()));
    for error in errors {
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().ends_with("has slots; use hold to take them"), "{error}");
    }
    assert_eq!(bench.used("rate"), 0);
    assert!(limiter.hold_all(&[brought], MINUTE).unwrap().hold.is_some());
    assert_eq!(kind(limiter.hold("gpu", 5, MINUTE)), Some(Kind::CostExceedsCapacity));
}

#[test]
fn a_status_lists_the_open_holds_the_oldest_first() {
    let bench = Bench::new(&[("gpu", "slots=4")]);
    let first = bench.limiter.hold("gpu", 1, 10 * MINUTE).unwrap().hold.unwrap();
    bench.pass(SECOND);
    let second = bench.hold("gpu", 2);
    let status = bench.status("gpu").slots.unwrap();
    let told: Vec<_> = status.holds.iter().map(|hold| (hold.id.clone(), hold.cost, hold.at, hold.until)).collect();
    let first = (first.id, 1, START, START + 600_000_000);
    assert_eq!(told, [first.clone(), (second.id, 2, START + 1_000_000, START + 61_000_000)]);
    bench.pass(MINUTE);
    let status = bench.status("gpu");
    assert_eq!(status.slots.unwrap().holds.len(), 1);
    assert_eq!((status.reset_at, status.next), (Some(first.3), Some(9 * MINUTE - SECOND)));
}

#[test]
fn a_key_with_an_open_hold_is_not_swept() {
    let bench = Bench::new(&[("pool:*", "slots=2"), ("rate:*", "5/1s")]);
    let holds = [bench.hold("pool:a", 1), bench.hold("rate:a", 1)];
    bench.pass(30 * SECOND);
    bench.limiter.core.sweep_round();
    assert_eq!(bench.limiter.report().live, 2);
    assert_eq!(bench.status("pool:a").totals.allowed, 1);
    assert!(bench.is_held("pool:a", 1));
    assert_eq!(bench.status("pool:a").totals.allowed, 2, "it was not forgotten");
    let bench = bench.kill();
    bench.limiter.core.sweep_round();
    assert_eq!((bench.limiter.report().live, bench.status("pool:a").totals.allowed), (2, 2));
    bench.settle(&holds[1], 1);
    bench.limiter.core.sweep_round();
    assert_eq!(bench.limiter.report().live, 1);
    bench.pass(MINUTE);
    bench.limiter.core.sweep_round();
    assert_eq!((bench.limiter.report().live, bench.limiter.report().holds_expired), (0, 2));
}

#[test]
fn keys_without_room_share_the_slots_of_one_limit() {
    let bench = Bench::new(&[]);
    let setting = Setting::new("pool:*", limit_of("slots=3")).with_max_keys(1);
    bench.limiter.configure_setting(&setting).unwrap();
    let own = bench.hold("pool:a", 3);
    let both = [Item::new("pool:b").with_cost(1), Item::new("pool:c").with_cost(2)];
    let shared = bench.limiter.hold_all(&both, MINUTE).unwrap();
    assert!(shared.all.results.iter().all(|result| result.overflow && result.allowed));
    assert_eq!((shared.all.results[0].remaining, shared.all.results[1].remaining), (Some(2), Some(0)));
    assert!(!bench.is_held("pool:d", 1) && !bench.is_held("pool:b", 1));
    let status = bench.status("pool:d");
    assert!(status.overflow && status.slots.unwrap().used == 3);
    bench.settle(&own, 3);
    let settled = bench.limiter.settle(&shared.hold.unwrap().id, Cost::AsHeld).unwrap();
    let told: Vec<_> = settled.results.iter().map(|item| (&*item.key, item.remaining)).collect();
    assert_eq!(told, [("pool:b", Some(3)), ("pool:c", Some(3))]);
}

#[test]
fn slots_in_shadow_mode_are_held_only_as_far_as_there_are() {
    let bench = Bench::new(&[("gpu", "slots=2 shadow"), ("rate", "5/1m fixed_window_counter")]);
    let first = bench.limiter.hold("gpu", 2, MINUTE).unwrap();
    assert_eq!(first.all.results[0].would_deny, Some(false));
    let both = [Item::new("gpu"), Item::new("rate").with_cost(4)];
    let second = bench.limiter.hold_all(&both, MINUTE).unwrap();
    assert!(second.all.allowed && second.all.results[0].would_deny == Some(true));
    assert_eq!(slots(&bench, "gpu"), (2, 2, Some(0)));
    let settled = bench.limiter.settle(&second.hold.unwrap().id, Cost::Units(5)).unwrap();
    assert_eq!((settled.results[0].held, settled.results[1].cost), (0, 5));
    assert_eq!((slots(&bench, "gpu").1, bench.used("rate")), (2, 5));
}
