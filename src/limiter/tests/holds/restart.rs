//! Holds over restarts and compactions: at every step what is found again is what was there.

use super::*;

/// All that can be seen of limits and holds.
fn seen(limiter: &Limiter) -> (Vec<Status>, u64) {
    let page = Page { live: true, ..Page::default() };
    (limiter.list(page).unwrap(), limiter.report().holds)
}

type Step = fn(&Bench, &mut Vec<Hold>);

const STEPS: [Step; 14] = [
    |bench, holds| holds.push(bench.hold("tokens", 40)),
    |bench, holds| holds.push(bench.limiter.hold("gpu", 2, 3 * MINUTE).unwrap().hold.unwrap()),
    |bench, holds| {
        let items = [Item::new("tokens").with_cost(10), Item::new("p:x").with_cost(3), Item::new("gpu")];
        holds.push(bench.limiter.hold_all(&items, 20 * SECOND).unwrap().hold.unwrap());
    },
    |bench, _| bench.pass(SECOND),
    |bench, holds| drop(bench.limiter.settle(&holds[0].id, Cost::Units(25)).unwrap()),
    |bench, holds| drop(bench.limiter.renew(&holds[1].id, Some(5 * MINUTE)).unwrap()),
    |bench, _| bench.pass(30 * SECOND),
    |bench, holds| drop(bench.limiter.settle(&holds[2].id, Cost::Each(&[("tokens", 80), ("p:x", 1)])).unwrap()),
    |bench, _| drop(bench.limiter.charge(Item::new("p:y").with_cost(500)).unwrap()),
    |bench, _| drop(bench.limiter.refund(Item::new("tokens").with_cost(7)).unwrap()),
    |bench, _| bench.configure("gpu", "slots=9"),
    |bench, _| bench.configure("p:*", "20/1m sliding_window_log, 100/1d"),
    |bench, holds| holds.push(bench.hold("gpu", 1)),
    |bench, _| bench.pass(3 * MINUTE),
];

const LIMITS: [(&str, &str); 3] = [
    ("tokens", "100/1h, 1000/1d fixed_window_counter"),
    ("gpu", "slots=4"),
    ("p:*", "600/1m sliding_window_log, 100/1d"),
];

#[test]
fn what_was_answered_is_found_again_after_each_step() {
    for compacted in 0..=STEPS.len() {
        let bench = Bench::new(&LIMITS);
        let mut holds = Vec::new();
        for (index, step) in STEPS.iter().enumerate() {
            if index == compacted {
                bench.limiter.compact().unwrap();
            }
            step(&bench, &mut holds);
            let found = {
                let parent = tempfile::tempdir().unwrap();
                let copied = parent.path().join("copy");
                copy(bench.dir.path(), &copied);
                let limiter = Limiter::open(&copied, options(&bench.clock.restarted())).unwrap();
                seen(&limiter)
            };
            assert_eq!(found, seen(&bench.limiter), "after step {index}, compacted at {compacted}");
        }
        let before = seen(&bench.limiter);
        assert_eq!(seen(&bench.reopen().limiter), before);
    }
}

#[test]
fn it_goes_on_after_the_process_has_ended_at_any_step() {
    for killed in 0..=STEPS.len() {
        let mut bench = Bench::new(&LIMITS);
        let straight = Bench::new(&LIMITS);
        let (mut holds, mut others) = (Vec::new(), Vec::new());
        for (index, step) in STEPS.iter().enumerate() {
            if index == killed {
                bench = if killed % 2 == 0 { bench.kill() } else { bench.reopen() };
            }
            step(&bench, &mut holds);
            step(&straight, &mut others);
        }
        let ids = |status: &mut Status| {
            if let Some(slots) = &mut status.slots {
                slots.holds = slots.holds.iter().map(|hold| OpenHold { id: String::new(), ..hold.clone() }).collect();
            }
        };
        let (mut one, mut other) = (seen(&bench.limiter), seen(&straight.limiter));
        one.0.iter_mut().chain(&mut other.0).for_each(ids);
        assert_eq!(one, other, "killed at {killed}");
    }
}

#[test]
fn time_goes_on_for_holds_while_no_process_runs() {
    let bench = Bench::new(&[("gpu", "slots=1")]);
    let hold = bench.hold("gpu", 1);
    let Bench { dir, clock, limiter } = bench;
    drop(limiter);
    clock.advance(MINUTE + SECOND);
    let clock = clock.restarted();
    let limiter = Limiter::open(dir.path(), options(&clock)).unwrap();
    assert!(limiter.hold("gpu", 1, MINUTE).unwrap().hold.is_some());
    assert!(limiter.settle(&hold.id, Cost::AsHeld).unwrap().late);
}

#[test]
fn a_repaired_directory_has_its_holds() {
    let bench = Bench::new(&LIMITS);
    bench.configure("gone", "5/1h");
    let items = ["tokens", "gpu", "gone"].map(Item::new);
    let hold = bench.limiter.hold_all(&items, MINUTE).unwrap().hold.unwrap();
    bench.limiter.remove("gone").unwrap();
    let Bench { dir, clock, limiter } = bench;
    drop(limiter);
    let to = tempfile::tempdir().unwrap();
    repair_at(dir.path(), to.path(), &clock).unwrap();
    let limiter = Limiter::open(to.path(), options(&clock.restarted())).unwrap();
    assert_eq!((limiter.report().holds, limiter.status("gpu").unwrap().unwrap().used), (1, Some(1)));
    assert_eq!(limiter.settle(&hold.id, Cost::AsHeld).unwrap().results.len(), 3, "its id is the same");
    assert!(dir.path().exists());
}

#[test]
fn a_key_that_was_swept_and_held_again_is_there_once_after_a_late_settlement() {
    for (pattern, cost) in [("slots=3", 2), ("30/5m fixed_window_counter", 5)] {
        let bench = Bench::new(&[("p:*", pattern)]);
        let hold = |cost, ttl| bench.limiter.hold("p:x", cost, ttl).unwrap().hold.unwrap();
        let first = hold(cost, SECOND);
        bench.pass(5 * MINUTE);
        // It is untouched now, and leaves without a record.
        bench.limiter.core.sweep_round();
        let second = hold(1, 3 * MINUTE);
        assert!(bench.limiter.settle(&first.id, Cost::AsHeld).unwrap().late);
        let before = seen(&bench.limiter);
        let bench = bench.kill();
        assert_eq!(seen(&bench.limiter), before);
        assert!(!bench.limiter.settle(&second.id, Cost::AsHeld).unwrap().late);
    }
}
