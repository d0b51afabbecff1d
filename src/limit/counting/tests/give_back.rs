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

    fn allows(&self, cost: u64) -> bool {
        self.standing.quote(&self.limit, self.now, cost, &mut Live::default()).allowed
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

/// What was held since a window went to rest is spent there too, so it comes back there too.
#[test]
fn windows_that_rest_give_back_by_their_own_rules() {
    let mut key = Key::new("10/1s burst=100");
    key.spend(20);
    key.becomes("10/2s burst=100");
    let held = key.spend(40);
    key.give_back(held, 40);
    assert_eq!(key.used(), [20]);
    key.becomes("10/1s burst=100");
    assert_eq!(key.used(), [20]);
    let mut key = Key::new("100/10s fixed_window_counter");
    key.spend(20);
    key.becomes("100/20s fixed_window_counter");
    key.wait(9 * SECOND);
    let held = key.spend(30);
    key.wait(SECOND / 2);
    key.give_back(held, 30);
    key.becomes("100/10s fixed_window_counter");
    assert_eq!(key.used(), [20]);
    // Without a hold too, each no more than is used there.
    let mut key = Key::new("10/1s burst=100");
    key.spend(20);
    key.becomes("10/2s burst=100");
    key.refund(15);
    key.becomes("10/1s burst=100");
    assert_eq!(key.used(), [5]);
}

/// What no window counts any more is nothing to what all values together allow.
#[test]
fn a_ceiling_falls_by_no_more_than_every_window_gives_back() {
    let mut key = Key::new("10/10s fixed_window_counter, 100/1h fixed_window_counter");
    let first = key.spend(10);
    key.becomes("20/10s fixed_window_counter, 100/1h fixed_window_counter");
    key.wait(10 * SECOND);
    let second = key.spend(15);
    let whole = |key: &Key| key.standing.parts().ceiling.map(|ceiling| ceiling.whole);
    let before = whole(&key);
    assert!(before.is_some_and(|whole| whole >= 20), "{before:?}");
    key.give_back(first, 10);
    assert_eq!(key.used(), [15, 15]);
    assert_eq!(whole(&key), before, "a window of the hold is over");
    key.give_back(second, 9);
    assert_eq!(whole(&key), before.map(|whole| whole - 9));
    key.refund(2);
    assert_eq!(whole(&key), before.map(|whole| whole - 11));
    // The key is like a key never seen once nothing counts in a window.
    key.refund(50);
    assert_eq!(whole(&key), None);
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

/// The period of the windows that the model judges, and their rate.
const PERIOD: Micros = 10 * SECOND;
const RATE: u64 = 60;

/// A model that keeps what is left of the spends of each instant.
#[derive(Default)]
struct Model {
    spends: BTreeMap<Micros, u64>,
    /// Since when the fixed window is open.
    fixed: Option<Micros>,
    /// When the current window of the sliding counter began.
    pair: Option<Micros>,
}

impl Model {
    /// What is left of what was spent in these instants.
    fn left(&self, from: Micros, to: Micros) -> u64 {
        self.spends.range(from..to).map(|(_, left)| left).sum()
    }

    /// What of it a log counts.
    fn logged(&self, now: Micros) -> u64 {
        self.spends.iter().filter(|(at, _)| at.next_multiple_of(1000) + PERIOD > now).map(|(_, left)| left).sum()
    }

    /// A window opens with the first spend after the former one ended, or came to nothing.
    fn look(&mut self, now: Micros) {
        self.fixed = self.fixed.filter(|start| now < start + PERIOD && self.left(*start, start + PERIOD) > 0);
        self.pair = self.pair.filter(|start| now < start + 2 * PERIOD);
        self.pair = self.pair.map(|start| if now < start + PERIOD { start } else { start + PERIOD });
        self.pair = self.pair.filter(|start| self.left(start - PERIOD, start + PERIOD) > 0);
    }

    fn spend(&mut self, now: Micros, cost: u64) {
        *self.spends.entry(now).or_default() += cost;
        self.fixed.get_or_insert(now);
        self.pair.get_or_insert(now);
    }

    /// The counts of the last window and of this one.
    fn pair(&self) -> (u64, u64) {
        self.pair.map_or((0, 0), |start| (self.left(start - PERIOD, start), self.left(start, start + PERIOD)))
    }

    /// Whether the sliding counter allows a cost.
    fn pair_allows(&self, now: Micros, cost: u64) -> bool {
        let (previous, current) = self.pair();
        let ahead = self.pair.map_or(0, |start| start + PERIOD - now);
        previous * ahead + (current + cost) * PERIOD <= RATE * PERIOD
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Logs and counters count exactly what is left of the spends that lie in them, and decide by that.
    #[test]
    fn counters_count_what_is_left_of_each_spend(steps in steps()) {
        let mut log = Key::new("60/10s sliding_window_log");
        let mut fixed = Key::new("60/10s fixed_window_counter");
        let mut pair = Key::new("60/10s sliding_window_counter");
        let mut model = Model::default();
        let mut holds: Vec<(Micros, u64)> = Vec::new();
        for step in steps {
            let now = log.now;
            let keys = [&mut log, &mut fixed, &mut pair];
            match step {
                Step::Wait(time) => keys.map(|key| key.wait(time)),
                Step::Spend(cost) => {
                    model.spend(now, cost);
                    holds.push((now, cost));
                    keys.map(|key| { key.spend(cost); })
                }
                Step::GiveBack(which, part) if !holds.is_empty() => {
                    let (at, held) = holds.swap_remove(which % holds.len());
                    let units = held * part / 100;
                    *model.spends.entry(at).or_default() -= units;
                    keys.map(|key| key.give_back(at, units))
                }
                Step::GiveBack(..) => continue,
                Step::Snapshot => {
                    keys.map(|key| key.standing = Standing::restore(&key.limit, &key.standing.parts()))
                }
            };
            let now = log.now;
            model.look(now);
            prop_assert_eq!(log.used(), [model.logged(now)]);
            prop_assert_eq!(fixed.used(), [model.fixed.map_or(0, |start| model.left(start, start + PERIOD))]);
            let (previous, current) = model.pair();
            let start = model.pair.unwrap_or(0);
            prop_assert_eq!(pair.standing.parts().windows, [StateParts::Pair { start, previous, current }]);
            for cost in [1, 7, 30, 60] {
                prop_assert_eq!(log.allows(cost), model.logged(now) + cost <= RATE);
                prop_assert_eq!(fixed.allows(cost), fixed.used()[0] + cost <= RATE);
                prop_assert_eq!(pair.allows(cost), model.pair_allows(now, cost));
            }
        }
    }

    /// What a bucket is after a hold was given back whole: as it would be without the hold, unless it would have been
    /// full meanwhile. Then it has more, by no more than was held; and nothing goes back where the bucket with the hold
    /// was full too.
    #[test]
    fn a_hold_that_was_given_back_leaves_a_bucket_as_without_it(
        steps in steps(), before in 1..60u64, held in 1..60u64
    ) {
        let (mut with, mut without) = (Key::new("3/1s burst=60"), Key::new("3/1s burst=60"));
        with.spend(before);
        without.spend(before);
        let at = with.spend(held);
        let (mut with_full, mut without_full) = (false, false);
        for step in steps {
            match step {
                Step::Wait(time) => {
                    with.wait(time);
                    without.wait(time);
                    with_full |= with.used() == [0];
                    without_full |= without.used() == [0];
                }
                Step::Spend(cost) => {
                    with.spend(cost / 4);
                    without.spend(cost / 4);
                }
                Step::GiveBack(..) => {}
                Step::Snapshot => with.standing = Standing::restore(&with.limit, &with.standing.parts()),
            }
        }
        let was = with.used()[0];
        with.give_back(at, held);
        let (now, without) = (with.used()[0], without.used()[0]);
        match (with_full, without_full) {
            (true, _) => prop_assert_eq!(now, was),
            (false, true) => prop_assert!(now <= without && without <= now + held, "{} {}", now, without),
            (false, false) => prop_assert_eq!(now, without),
        }
    }

    /// A bucket that is given something back never holds more than a bucket in which that much less was spent, as long
    /// as it has not been full since; and never more than its capacity.
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
