//! Tests of what is given back: never more than was spent and still counts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::clock::Micros;
use crate::limit::counting::standing::Standing;
use crate::limit::values::Limit;
use crate::limit::{Live, Parts, StateParts};

const START: Micros = 1_800_000_000_000_000;
const SECOND: Micros = 1_000_000;

struct Key {
    limit: Limit,
    standing: Standing,
    now: Micros,
}

impl Key {
    fn new(limit: &str) -> Key {
        let limit: Limit = limit.parse().unwrap();
        let mut standing = Standing::new(&limit);
        standing.advance(&limit, START);
        Key { limit, standing, now: START }
    }

    fn wait(&mut self, time: Micros) {
        self.now += time;
        self.standing.advance(&self.limit, self.now);
    }

    /// Returns the instant of the hold.
    fn spend(&mut self, cost: u64) -> Micros {
        self.standing.spend(&self.limit, self.now, cost, &mut Live::default());
        self.now
    }

    fn give_back(&mut self, held_at: Micros, units: u64) {
        self.standing.give_back(&self.limit, held_at, self.now, units);
    }

    fn refund(&mut self, units: u64) {
        self.standing.refund(&self.limit, self.now, units);
    }

    fn used(&self) -> Vec<u64> {
        let verdict = self.standing.glance(&self.limit, self.now, &mut Live::default());
        verdict.windows.as_slice().iter().map(|quote| quote.used).collect()
    }

    fn becomes(&mut self, limit: &str) {
        let limit: Limit = limit.parse().unwrap();
        self.standing.reconfigure(&self.limit, &limit, self.now, &mut Live::default());
        self.limit = limit;
    }
}

#[test]
fn a_bucket_gives_back_until_it_has_been_full() {
    let mut key = Key::new("60/1m burst=100");
    let first = key.spend(40);
    key.wait(10 * SECOND);
    let second = key.spend(20);
    key.give_back(first, 30);
    assert_eq!(key.used(), [20]);
    key.give_back(second, 20);
    assert_eq!(key.used(), [0]);
    // Full now: what is held from here on counts, and what was held before came back by itself.
    key.wait(1);
    let third = key.spend(50);
    key.give_back(second, 20);
    assert_eq!(key.used(), [50]);
    key.wait(20 * SECOND);
    key.give_back(third, 50);
    assert_eq!(key.used(), [0], "no more than its capacity");
    let fourth = key.spend(10);
    key.wait(10 * SECOND);
    key.spend(5);
    key.give_back(fourth, 10);
    assert_eq!(key.used(), [5]);
    // In debt.
    let fifth = key.spend(200);
    assert_eq!(key.used(), [205]);
    key.give_back(fifth, 150);
    assert_eq!(key.used(), [55]);
}

#[test]
fn a_bucket_that_pays_faster_gives_back_too() {
    let mut key = Key::new("3600/1m burst=1000");
    let held = key.spend(900);
    // Another burst leaves the holds what they were.
    key.becomes("60/1m burst=100");
    assert_eq!(key.used(), [900]);
    key.give_back(held, 300);
    assert_eq!(key.used(), [600]);
    key.give_back(held, 550);
    assert_eq!(key.used(), [50]);
    key.give_back(held, 50);
    assert_eq!(key.used(), [0]);
    // The bucket that rests too.
    key.spend(1);
    key.becomes("3600/1m burst=1000");
    assert_eq!(key.used(), [1]);
    // Another period does not.
    let held = key.spend(500);
    key.wait(1);
    key.becomes("3600/2m burst=1000");
    key.give_back(held, 500);
    assert!(key.used()[0] > 499);
}

#[test]
fn counters_give_back_while_the_window_of_the_hold_counts() {
    let mut key = Key::new("100/10s fixed_window_counter, 100/20s sliding_window_counter");
    let first = key.spend(30);
    key.wait(5 * SECOND);
    let second = key.spend(20);
    key.give_back(first, 10);
    assert_eq!(key.used(), [40, 40]);
    key.wait(5 * SECOND);
    assert_eq!(key.used(), [0, 40]);
    let third = key.spend(7);
    key.give_back(second, 20);
    assert_eq!(key.used(), [7, 27], "the fixed window of the hold is over");
    // In the next window of the sliding counter 27 count by their weight.
    key.wait(10 * SECOND);
    assert_eq!(key.used(), [0, 27]);
    key.give_back(first, 20);
    assert_eq!(key.used(), [0, 7]);
    key.wait(20 * SECOND);
    key.give_back(third, 7);
    assert_eq!(key.used(), [0, 0]);
    // Without a hold only what was spent in the current window.
    let mut key = Key::new("100/20s sliding_window_counter");
    key.spend(10);
    key.wait(20 * SECOND);
    key.spend(3);
    key.refund(5);
    assert_eq!(key.used(), [10]);
}

#[test]
fn a_log_gives_back_what_is_logged_of_the_hold() {
    let mut key = Key::new("100/10s sliding_window_log");
    key.wait(300);
    let first = key.spend(5);
    key.wait(2 * SECOND);
    let second = key.spend(6);
    key.wait(2 * SECOND);
    key.spend(7);
    key.give_back(second, 4);
    assert_eq!(key.used(), [14]);
    key.give_back(second, 4);
    assert_eq!(key.used(), [12], "no more than was spent then");
    key.give_back(second, 1);
    assert_eq!(key.used(), [12]);
    key.wait(6 * SECOND + 1000);
    assert_eq!(key.used(), [7]);
    key.give_back(first, 5);
    assert_eq!(key.used(), [7]);
    // Without a hold the newest come first.
    key.spend(3);
    key.refund(5);
    assert_eq!(key.standing.parts().windows, [StateParts::Events(vec![(START + 4_001_000, 5)])]);
    key.refund(50);
    assert_eq!(key.used(), [0]);
}

#[test]
fn a_refund_is_never_more_than_is_used() {
    for limit in ["10/1m", "10/1m fixed_window_counter", "10/1m sliding_window_log", "10/1m sliding_window_counter"] {
        let mut key = Key::new(limit);
        key.refund(3);
        assert_eq!(key.used(), [0], "{limit}");
        key.spend(12);
        key.refund(4);
        assert_eq!(key.used(), [8], "{limit}");
        key.refund(u64::MAX);
        assert_eq!(key.used(), [0], "{limit}");
        assert!(key.standing.is_untouched(&key.limit, key.now), "{limit}");
        let verdict = key.standing.quote(&key.limit, key.now, 10, &mut Live::default());
        assert!(verdict.allowed, "{limit}");
        let verdict = key.standing.quote(&key.limit, key.now, 11, &mut Live::default());
        assert!(!verdict.allowed, "{limit}");
    }
}

/// What happens to a key: time passes, a cost is spent, a hold is given back in part (which, how much of it in
/// percent), the standing goes through a snapshot.
#[derive(Debug, Clone)]
enum Step {
    Wait(Micros),
    Spend(u64),
    GiveBack(usize, u64),
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..4 * SECOND).prop_map(Step::Wait),
        1 => (1..15 * SECOND).prop_map(Step::Wait),
        4 => (1..30u64).prop_map(Step::Spend),
        4 => (any::<usize>(), 0..=100u64).prop_map(|(which, part)| Step::GiveBack(which, part)),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..60)
}

/// A model that keeps what is left of the spends of each instant.
#[derive(Default)]
struct Model {
    spends: BTreeMap<Micros, u64>,
    /// Of the fixed window.
    opened: Option<Micros>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A log and a fixed window count exactly what is left of the spends that lie in them.
    #[test]
    fn counters_count_what_is_left_of_each_spend(steps in steps()) {
        const PERIOD: Micros = 10 * SECOND;
        let mut log = Key::new("1000000/10s sliding_window_log");
        let mut fixed = Key::new("1000000/10s fixed_window_counter");
        let mut model = Model::default();
        let mut holds: Vec<(Micros, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(time) => {
                    log.wait(time);
                    fixed.wait(time);
                }
                Step::Spend(cost) => {
                    let at = log.spend(cost);
                    fixed.spend(cost);
                    *model.spends.entry(at).or_default() += cost;
                    holds.push((at, cost));
                }
                Step::GiveBack(which, part) if !holds.is_empty() => {
                    let (at, held) = holds.swap_remove(which % holds.len());
                    let units = held * part / 100;
                    log.give_back(at, units);
                    fixed.give_back(at, units);
                    *model.spends.entry(at).or_default() -= units;
                }
                Step::GiveBack(..) => {}
                Step::Snapshot => {
                    for key in [&mut log, &mut fixed] {
                        key.standing = Standing::restore(&key.limit, &key.standing.parts());
                    }
                }
            }
            let logged = |at: Micros| at.next_multiple_of(1000);
            let now = log.now;
            let counts: u64 =
                model.spends.iter().filter(|(at, _)| logged(**at) + PERIOD > now).map(|(_, left)| left).sum();
            prop_assert_eq!(log.used(), [counts]);
            // A window opens with the first spend after the former one ended, or came to nothing.
            let mut opened = model.opened.filter(|opened| now < opened + PERIOD);
            let in_window = |opened: Micros| -> u64 {
                model.spends.range(opened..opened + PERIOD).map(|(_, left)| left).sum()
            };
            if opened.is_some_and(|opened| in_window(opened) == 0) {
                opened = None;
            }
            if opened.is_none() && matches!(step, Step::Spend(_)) {
                opened = Some(now);
            }
            model.opened = opened;
            prop_assert_eq!(fixed.used(), [opened.map_or(0, in_window)]);
        }
    }

    /// A bucket that is given something back never holds more than one in which so much less was spent, as long as it
    /// has not been full since; and never more than its capacity.
    #[test]
    fn a_bucket_holds_no_more_than_without_what_it_gives_back(steps in steps()) {
        let mut key = Key::new("7/1s burst=40");
        let mut holds: Vec<(Micros, u64)> = Vec::new();
        // The level by the rule, in parts of a unit: full since when, and what is missing.
        let (mut missing, mut full_at) = (0u128, START);
        for step in steps {
            match step {
                Step::Wait(time) => {
                    key.wait(time);
                    missing = missing.saturating_sub(u128::from(time) * 7);
                }
                Step::Spend(cost) => {
                    holds.push((key.spend(cost), cost));
                    missing += u128::from(cost) * u128::from(SECOND);
                }
                Step::GiveBack(which, part) if !holds.is_empty() => {
                    let (at, held) = holds.swap_remove(which % holds.len());
                    let units = held * part / 100;
                    key.give_back(at, units);
                    if full_at <= at {
                        missing = missing.saturating_sub(u128::from(units) * u128::from(SECOND));
                    }
                }
                Step::GiveBack(..) => {}
                Step::Snapshot => key.standing = Standing::restore(&key.limit, &key.standing.parts()),
            }
            if missing == 0 {
                full_at = key.now;
            }
            prop_assert_eq!(u128::from(key.used()[0]), missing.div_ceil(u128::from(SECOND)));
        }
    }

    /// Whatever is given back, a replay from a snapshot goes on alike, and windows that rest hold no more for it than
    /// what was spent.
    #[test]
    fn what_was_given_back_survives_a_snapshot(steps in steps(), values in 0..4usize) {
        let values = ["9/3s burst=20", "9/3s fixed_window_counter", "9/3s sliding_window_log",
            "5/1s, 9/3s sliding_window_counter"][values];
        let (mut key, mut other) = (Key::new(values), Key::new(values));
        let mut holds: BTreeMap<usize, (Micros, u64)> = BTreeMap::new();
        for (place, step) in steps.into_iter().enumerate() {
            match step {
                Step::Wait(time) => {
                    key.wait(time);
                    other.wait(time);
                }
                Step::Spend(cost) => {
                    holds.insert(place, (key.spend(cost), cost));
                    other.spend(cost);
                }
                Step::GiveBack(which, part) => {
                    let Some(known) = holds.keys().copied().nth(which % (holds.len() + 1)) else { continue };
                    let (at, held) = holds.remove(&known).unwrap_or_default();
                    key.give_back(at, held * part / 100);
                    other.give_back(at, held * part / 100);
                }
                Step::Snapshot => {
                    let parts: Parts = other.standing.parts();
                    other.standing = Standing::restore(&other.limit, &parts);
                    prop_assert_eq!(&other.standing.parts(), &parts);
                }
            }
            prop_assert_eq!(key.used(), other.used());
        }
    }
}
