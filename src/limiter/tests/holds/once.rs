//! Requests that are sent again.

use std::thread;

use super::*;
use crate::limiter::tests::check::Nobody;
use crate::store::Completion;

const FIXED: &str = "100/1h fixed_window_counter";

fn once(key: u8, request: u8) -> Once {
    Once { key: [key; 16], request: [request; 16] }
}

/// Asks for a hold, or the answer that it had: whether it was fresh, and the answer.
fn ask(limiter: &Limiter, once: Once, items: &[Item<'_>]) -> Result<(bool, String)> {
    match limiter.once(once, None)? {
        Begin::Before(answer) => Ok((false, answer.to_string())),
        Begin::Fresh(guard) => {
            let write = |all: &AllDecision, hold: Option<&Hold>| {
                format!("{:?} {}", all.results[0].remaining, hold.map(|hold| hold.id.clone()).unwrap_or_default())
            };
            let held = limiter.hold_all_once(items, MINUTE, &guard, &mut { write }, None)?;
            Ok((true, write(&held.all, held.hold.as_ref())))
        }
    }
}

#[test]
fn the_first_answer_that_spent_is_given_again() {
    let bench = Bench::new(&[("a", FIXED), ("gpu", "slots=1")]);
    let items = [Item::new("a").with_cost(30), Item::new("gpu")];
    let (fresh, first) = ask(&bench.limiter, once(1, 1), &items).unwrap();
    assert!(fresh && first.len() > 10);
    assert_eq!(ask(&bench.limiter, once(1, 1), &items).unwrap(), (false, first.clone()));
    assert_eq!(kind(ask(&bench.limiter, once(1, 2), &items)), Some(Kind::IdempotencyMismatch));
    // Denials and errors are decided again.
    for _ in 0..2 {
        assert!(ask(&bench.limiter, once(2, 1), &items).unwrap().0);
        assert!(ask(&bench.limiter, once(3, 1), &["unknown".into()]).is_err());
    }
    let mut bench = bench;
    for step in 0..4 {
        bench = match step {
            0 => bench.kill(),
            1 => bench.reopen(),
            2 => {
                bench.limiter.compact().unwrap();
                bench.kill()
            }
            _ => bench,
        };
        assert_eq!(ask(&bench.limiter, once(1, 1), &items).unwrap(), (false, first.clone()));
        assert_eq!((bench.used("a"), bench.used("gpu"), bench.limiter.report().holds), (30, 1, 1));
    }
    bench.pass(10 * MINUTE);
    assert!(ask(&bench.limiter, once(1, 2), &items).unwrap().0);
    assert_eq!(bench.used("a"), 60);
}

#[test]
fn many_at_once_spend_once() {
    let bench = Bench::new(&[("a", FIXED), ("p:*", FIXED)]);
    for (round, key) in ["a", "p:new", "p:new"].into_iter().enumerate() {
        let items = [Item::new(key)];
        let fresh: usize = thread::scope(|scope| {
            let limiter = &bench.limiter;
            let one = move || (0..20).filter(|_| ask(limiter, once(round as u8, 1), &items).unwrap().0).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(fresh, 1);
    }
    assert_eq!((bench.used("a"), bench.used("p:new")), (1, 2));
}

#[test]
fn a_check_is_kept_too_and_what_must_not_wait_does_not() {
    let bench = Bench::new(&[("a", FIXED), ("free", FIXED)]);
    bench.limiter.configure("free", Limit::unlimited()).unwrap();
    let completion: Arc<dyn Completion> = Arc::new(Nobody);
    let Begin::Fresh(guard) = bench.limiter.once(once(1, 1), None).unwrap() else { panic!() };
    let own = NonBlocking::new(&completion, 1);
    assert!(bench.limiter.once(once(1, 1), Some(&own)).is_err() && own.would_block());
    let mut write = |all: &AllDecision| format!("{:?}", all.results[0].remaining);
    bench.limiter.check_all_once(&["a".into()], &guard, &mut write, None).unwrap();
    drop(guard);
    let own = NonBlocking::new(&completion, 1);
    let Begin::Before(answer) = bench.limiter.once(once(1, 1), Some(&own)).unwrap() else { panic!() };
    assert!(&*answer == "Some(99)" && own.is_pending() && !own.would_block());
    // Longer than a record may be, and nothing is spent.
    let Begin::Fresh(guard) = bench.limiter.once(once(2, 1), None).unwrap() else { panic!() };
    let mut long = |_: &AllDecision| "x".repeat(300_000);
    let error = bench.limiter.check_all_once(&["a".into()], &guard, &mut long, None).unwrap_err();
    assert_eq!((error.kind(), bench.used("a")), (Kind::InvalidArgument, 1));
}

#[test]
fn charges_and_refunds_are_kept_too() {
    let bench = Bench::new(&[("a", FIXED), ("p:*", FIXED)]);
    let write = |status: &Status| format!("{} {:?} {}", status.key, status.used, status.totals.allowed_cost);
    for (number, key) in ["a", "p:x"].into_iter().enumerate() {
        let item = Item::new(key).with_cost(120);
        let [charge, refund] = [once(10 + number as u8, 1), once(20 + number as u8, 1)];
        let Begin::Fresh(guard) = bench.limiter.once(charge, None).unwrap() else { panic!() };
        let charged = write(&bench.limiter.charge_once(&item, &guard, &mut { write }, None).unwrap());
        drop(guard);
        let Begin::Fresh(guard) = bench.limiter.once(refund, None).unwrap() else { panic!() };
        let back = Item::new(key).with_cost(50);
        let refunded = write(&bench.limiter.refund_once(&back, &guard, &mut { write }, None).unwrap());
        drop(guard);
        for (once, answer) in [(charge, charged), (refund, refunded)] {
            let Begin::Before(before) = bench.limiter.once(once, None).unwrap() else { panic!() };
            assert_eq!(*before, *answer);
        }
    }
    let bench = bench.kill();
    assert_eq!((bench.used("a"), bench.used("p:x")), (70, 70));
    for key in [10, 11, 20, 21] {
        assert!(matches!(bench.limiter.once(once(key, 1), None), Ok(Begin::Before(_))));
    }
}

/// What is reported of one item, without instants.
fn told(result: &Result<Decision>) -> String {
    match result {
        Ok(one) => {
            format!("{} {:?} {:?} {} {:?}", one.allowed, one.remaining, one.retry_after, one.overflow, one.pattern)
        }
        Err(error) => error.to_string(),
    }
}

fn ask_many(limiter: &Limiter, once: Once, items: &[Item<'_>]) -> Result<(bool, String)> {
    match limiter.once(once, None)? {
        Begin::Before(answer) => Ok((false, answer.to_string())),
        Begin::Fresh(guard) => {
            let write = |results: &[Result<Decision>]| results.iter().map(told).collect::<Vec<_>>().join("\n");
            let results = limiter.check_many_once(items, &guard, &mut { write }, None)?;
            Ok((true, write(&results)))
        }
    }
}

/// Whether a request may be sent again makes no difference to what it decides; and its second time spends nothing.
#[test]
fn many_checks_are_decided_as_without_a_key() {
    let brought = limit_of("4/1h");
    let other = limit_of("9/1h");
    let limits = [
        ("a", "3/1h"),
        ("log", "5/1h sliding_window_log"),
        ("shadow", "2/1h shadow"),
        ("all", "unlimited"),
        ("p:*", "2/1h, 5/month"),
        ("gpu", "slots=2"),
    ];
    let benches = [false, true].map(|_| Bench::new(&limits));
    for bench in &benches {
        bench.limiter.configure_setting(&Setting::new("few:*", limit_of("3/1h")).with_max_keys(1)).unwrap();
    }
    let keys = ["a", "log", "a", "p:1", "shadow", "all", "a", "p:1", "p:2", "few:1", "few:2", "few:3", "few:2", "none"];
    let mut items: Vec<Item<'_>> = keys.into_iter().chain(["a", "p:1", "shadow", "shadow"]).map(Item::new).collect();
    items.extend([Item::new("log").with_cost(3), Item::new("log").with_cost(9), Item::new(" "), Item::new("gpu")]);
    items.extend([Item::new("own").with_limit(&brought), Item::new("own").with_limit(&brought).with_cost(3)]);
    items.push(Item::new("own").with_limit(&brought));
    let mut benches = benches;
    for round in 0..4 {
        let plain = benches[0].limiter.check_many(&items).unwrap();
        let plain = plain.iter().map(told).collect::<Vec<_>>().join("\n");
        let key = once(round, 1);
        assert_eq!(ask_many(&benches[1].limiter, key, &items).unwrap(), (true, plain.clone()), "round {round}");
        let spends = plain.lines().any(|line| line.starts_with("true Some"));
        if spends {
            assert_eq!(ask_many(&benches[1].limiter, key, &items).unwrap(), (false, plain));
            assert_eq!(kind(ask_many(&benches[1].limiter, once(round, 2), &items)), Some(Kind::IdempotencyMismatch));
        }
        for key in ["a", "log", "shadow", "p:1", "p:2", "p:*", "few:1", "few:*", "own"] {
            let totals = benches.each_ref().map(|bench| bench.limiter.status(key).unwrap().map(|status| status.totals));
            assert_eq!(
                totals[0].map(|totals| totals.allowed_cost),
                totals[1].map(|totals| totals.allowed_cost),
                "{key}"
            );
            // A kill may forget denials, of either.
            if round < 2 {
                assert_eq!(totals[0], totals[1], "{key}");
            }
        }
        if round == 1 {
            benches = benches.map(Bench::kill);
        }
        benches.iter().for_each(|bench| bench.pass(20 * MINUTE));
    }
    let two = [Item::new("new").with_limit(&brought), Item::new("new").with_limit(&other)];
    let (_, answer) = ask_many(&benches[1].limiter, once(9, 1), &two).unwrap();
    assert!(answer.ends_with("key `new` is given twice with different limits; give it only one"), "{answer}");
}
