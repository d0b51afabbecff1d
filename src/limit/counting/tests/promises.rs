//! What holds over any sequence of values and checks.

use super::*;
use crate::bounds::MAX_RESTING;
use crate::limit::counting::parts::{CeilingParts, Parts, StateParts};
use crate::limit::counting::speed::{Speed, shortest};
use crate::limit::tests::{limits, windows};

/// What happens to a key.
#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(Micros),
    /// Until the figures of now say that something comes back, or is untouched, less or more a moment.
    WaitForMore(bool, i64),
    /// To the values of this number.
    Set(usize),
    /// A check of this many thousandths of what is left, one unit at least.
    Spend(u64),
    /// A check of one more than is left.
    Over,
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => pauses().prop_map(Step::Wait),
        3 => (any::<bool>(), -2..3i64).prop_map(|(reset, more)| Step::WaitForMore(reset, more)),
        4 => (0..6usize).prop_map(Step::Set),
        6 => prop_oneof![2 => Just(1000u64), 1 => 0..1000u64].prop_map(Step::Spend),
        1 => Just(Step::Over),
    ];
    prop::collection::vec(step, 1..most)
}

fn buckets() -> impl Strategy<Value = Limit> {
    let window = (1..20u64, 1..40u64, 1..25u64).prop_map(|(rate, ms, burst)| {
        Window::of(rate, Period::Fixed(ms * MS), Algorithm::TokenBucket, Some(burst)).unwrap()
    });
    let windows = prop_oneof![
        3 => prop::collection::vec(window.clone(), 1),
        1 => prop::collection::vec(window, 2..4),
    ];
    windows.prop_map(|windows| Limit::of(windows.clone()).unwrap_or_else(|_| Limit::from(windows[0])))
}

/// Counters of like periods, which end shortly one after the other.
fn chains() -> impl Strategy<Value = Limit> {
    (8..11u64, 18..23u64, 1..4usize).prop_map(|(rate, ms, algorithm)| {
        Limit::from(Window::of(rate, Period::Fixed(ms * MS), Algorithm::ALL[algorithm], None).unwrap())
    })
}

/// Counters of which one is large and slow, and one small and fast.
fn unlike() -> impl Strategy<Value = Limit> {
    prop_oneof![(95..103u64, 45..55u64, 0..4usize), (1..4u64, 1..3u64, 0..4usize)].prop_map(|(rate, ms, algorithm)| {
        Limit::from(Window::of(rate, Period::Fixed(ms * MS), Algorithm::ALL[algorithm], None).unwrap())
    })
}

/// Any state, of whatever algorithm, as plain numbers.
fn parts() -> impl Strategy<Value = StateParts> {
    let fast = prop::option::of(any::<(u64, u64)>());
    prop_oneof![
        (any::<(i64, u64, u64, u64)>(), fast).prop_map(|((whole, part, at, full_at), fast)| StateParts::Bucket {
            whole,
            part,
            at,
            full_at,
            fast
        }),
        prop::collection::vec(any::<(u64, u64)>(), 0..5).prop_map(StateParts::Events),
        any::<(u64, u64, u64)>().prop_map(|(start, end, used)| StateParts::Window { start, end, used }),
        any::<(u64, u64, u64)>().prop_map(|(start, previous, current)| StateParts::Pair { start, previous, current }),
    ]
}

/// The values of a sequence: some of them in different kinds.
fn values() -> impl Strategy<Value = Vec<Limit>> {
    prop_oneof![
        prop::collection::vec(small_limits(), 1..6),
        prop::collection::vec(prop_oneof![6 => small_limits(), 1 => Just(Limit::unlimited())], 1..6),
        prop::collection::vec(buckets(), 1..6),
        prop::collection::vec(chains(), 2..6),
        prop::collection::vec(unlike(), 2..6),
    ]
}

/// The most by which what was allowed exceeds a rate, in parts of a unit.
struct Backlog {
    speed: Speed,
    parts: u128,
    at: Micros,
}

impl Backlog {
    fn spend(&mut self, now: Micros, units: u64) {
        let paid = u128::from(now - self.at) * u128::from(self.speed.units);
        self.parts = self.parts.saturating_sub(paid) + u128::from(units) * u128::from(self.speed.per);
        self.at = now;
    }
}

impl Key {
    /// Takes a step; what was spent by it.
    fn step(&mut self, step: Step, values: &[Limit]) -> u64 {
        match step {
            Step::Wait(time) => {
                self.wait(time);
            }
            Step::WaitForMore(reset, more) => {
                let verdict = self.glance();
                let first = verdict.windows.as_slice().first();
                let time = first.map_or(MS, |quote| match reset {
                    true => quote.reset_at - self.now,
                    false => quote.next.unwrap_or(0),
                });
                self.wait(time.saturating_add_signed(more).min(3 * DAY));
            }
            Step::Set(which) => {
                self.take(&values[which % values.len()]);
            }
            Step::Spend(share) => {
                let left = self.left().min(1000);
                let cost = (left * share / 1000).max(1);
                if self.check(cost) {
                    return cost;
                }
                assert!(cost > left);
            }
            Step::Over => {
                let left = self.left();
                if left < u64::MAX {
                    assert!(!self.quote(left + 1).allowed);
                }
            }
        }
        0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No more is allowed in any time than by the largest burst and the fastest rate; with counters, and one window.
    #[test]
    fn changes_give_nothing(values in values(), steps in steps(120)) {
        let mut key = Key::of(&values[0], 1_000_000);
        let windows = || values.iter().flat_map(Limit::windows);
        let most = windows().map(Window::capacity).max().unwrap_or(0);
        let counters = windows().filter(|window| window.algorithm() != Algorithm::TokenBucket);
        let edge = counters.map(Window::rate).max().unwrap_or(0);
        let speed = windows().map(|window| Speed { units: window.rate(), per: shortest(window) }).reduce(Speed::faster);
        let Some(speed) = speed else { return Ok(()) };
        let mut backlog = Backlog { speed, parts: 0, at: key.now };
        for step in steps {
            let spent = key.step(step, &values);
            if !key.limit.windows().is_empty() {
                backlog.spend(key.now, spent);
                let bound = u128::from(most + edge) * u128::from(speed.per);
                prop_assert!(backlog.parts <= bound, "{} of {most} and {edge}", backlog.parts / u128::from(speed.per));
            }
        }
    }

    /// A bucket that is changed and changed back, at once or later, has never more than if it had stayed.
    #[test]
    fn a_bucket_that_comes_back_has_no_more(
        own in buckets(),
        others in prop_oneof![
            prop::collection::vec(buckets(), 1..6),
            prop::collection::vec(small_limits(), 1..6),
            prop::collection::vec(unlike(), 1..6),
        ],
        steps in steps(100),
    ) {
        // At most this many rest.
        let mut windows = 0;
        let others = others.into_iter().take_while(|limit| {
            windows += limit.windows().len();
            windows <= MAX_RESTING - 2
        });
        let window = own.windows()[0];
        let own = Limit::from(window);
        let mut values = vec![own.clone(); 3];
        values.extend(others);
        let mut key = Key::of(&own, 1_000_000);
        let (mut stayed, mut began) = (key.clone(), true);
        for step in steps {
            let spent = key.step(step, &values);
            stayed.at(key.now);
            if spent > 0 && stayed.left() >= spent {
                stayed.spend(spent);
            }
            // What is untouched under other values is as never seen: these values begin when they come.
            began &= !key.is_untouched();
            if key.limit == own && !began {
                // The bucket, without what the values before it allow.
                let bucket = Parts { windows: key.standing.parts().windows, ..Parts::default() };
                let standing = Standing::restore(&own, &bucket);
                (stayed, began) = (Key { standing, ..key.clone() }, true);
                // Nothing rests of what was before.
                prop_assert!(!key.is_untouched() || key.standing.parts().resting.is_empty());
            }
            if key.limit == own {
                prop_assert!(key.left() <= stayed.left(), "{} and {}", key.left(), stayed.left());
                // To the part of a unit: the time until one more is there.
                if key.left() == stayed.left() && key.left() < window.capacity() {
                    prop_assert!(key.one(0).next >= stayed.one(0).next);
                }
            }
        }
    }

    /// While nothing is spent, values may change as they like: what comes back is what was there.
    #[test]
    fn changed_and_changed_back_is_unchanged(
        own in small_limits(),
        others in prop::collection::vec(small_windows(), 1..5),
        history in steps(20),
        pauses in prop::collection::vec(pauses(), 1..5),
    ) {
        let mut key = Key::of(&own, 1_000_000);
        for step in history {
            if !matches!(step, Step::Set(_)) {
                key.step(step, std::slice::from_ref(&own));
            }
        }
        let mut stayed = key.clone();
        for (window, pause) in others.iter().zip(pauses) {
            key.take(&Limit::from(*window)).wait(pause);
        }
        key.take(&own);
        stayed.at(key.now);
        let bucket = |window: &Window| window.algorithm() == Algorithm::TokenBucket;
        if own.windows().iter().all(bucket) && others.iter().all(bucket) {
            prop_assert_eq!(key.quote(1), stayed.quote(1));
        }
        prop_assert!(key.left() <= stayed.left() || key.is_untouched());
    }

    /// If values changed once, the windows decide as they would without a ceiling.
    #[test]
    fn one_change_meets_no_ceiling(
        (old, new) in prop_oneof![
            (small_limits(), small_limits()),
            (chains(), chains()),
            (unlike(), unlike()),
        ],
        before in steps(40),
        after in steps(40),
    ) {
        let mut key = Key::of(&old, 1_000_000);
        for step in before {
            if !matches!(step, Step::Set(_)) {
                key.step(step, std::slice::from_ref(&old));
            }
        }
        key.take(&new);
        for step in after {
            if !matches!(step, Step::Set(_)) {
                key.step(step, std::slice::from_ref(&new));
            }
            let windows = Parts { windows: key.standing.parts().windows, ..Parts::default() };
            let bare = Key { standing: Standing::restore(&new, &windows), ..key.clone() };
            prop_assert_eq!(key.glance(), bare.glance());
            prop_assert_eq!(key.quote(3), bare.quote(3));
        }
    }

    /// What is untouched is as never seen, under any values and in all that follows.
    #[test]
    fn untouched_is_never_seen(values in values(), before in steps(60), after in steps(60)) {
        let mut key = Key::of(&values[0], 1_000_000);
        for step in before {
            key.step(step, &values);
        }
        if !key.is_untouched() {
            let resets = |key: &Key| key.glance().windows.as_slice().iter().map(|quote| quote.reset_at).max();
            for _ in 0..3 {
                key.at(resets(&key).unwrap_or(key.now) + 100 * MS);
            }
            key.wait(10 * DAY);
        }
        prop_assert!(key.is_untouched(), "{:?}", key);
        prop_assert_eq!(key.standing.parts().resting.len(), 0);
        let mut fresh = Key::of(&key.limit, key.now);
        for step in after {
            prop_assert_eq!(key.step(step, &values), fresh.step(step, &values));
            prop_assert_eq!(key.glance(), fresh.glance());
            prop_assert_eq!(key.is_untouched(), fresh.is_untouched());
        }
        // So are their states.
        key.at(key.now);
        fresh.at(key.now);
        prop_assert_eq!(key, fresh);
    }

    /// Nothing overflows, whatever the values, the instants and the costs.
    #[test]
    fn extremes_are_borne(
        values in prop::collection::vec(limits(), 1..6),
        steps in prop::collection::vec((0..6usize, pauses(), 0..64u32, any::<u64>(), 0..64u32), 1..40),
        start in prop_oneof![Just(0), any::<u64>()],
    ) {
        let mut key = Key::of(&values[0], start / 2);
        for (which, pause, shift, cost, less) in steps {
            let time = pause.checked_shl(shift).unwrap_or(0) & (u64::MAX >> 8);
            key.at(key.now.saturating_add(time).min(u64::MAX / 2));
            let (cost, before) = (cost >> less, key.clone());
            let verdict = key.quote(cost);
            if cost % 3 == 0 || verdict.allowed {
                key.spend(cost);
            }
            key.take(&values[which % values.len()]);
            key.glance();
            let parts = key.standing.parts();
            prop_assert_eq!(&Standing::restore(&key.limit, &parts), &key.standing);
            prop_assert!(before.now == key.now);
        }
        key.at(u64::MAX);
        key.quote(1);
    }

    /// Nor where what comes from a snapshot cannot have been written.
    #[test]
    fn damaged_parts_are_borne(
        limit in limits(),
        other in limits(),
        kept in prop::collection::vec(parts(), 0..9),
        resting in prop::collection::vec((windows(), parts()), 0..12),
        ceiling in prop::option::of((prop::array::uniform5(any::<u64>()), any::<(u64, u64)>())),
        steps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..10),
    ) {
        let ceiling = ceiling.map(|([most, edge, whole, part, at], speed)| {
            CeilingParts { most, edge, speed, whole, part, at }
        });
        let parts = Parts { windows: kept, resting, ceiling };
        let mut key = Key { standing: Standing::restore(&limit, &parts), limit: limit.clone(), now: 0 };
        let again = Standing::restore(&limit, &key.standing.parts());
        prop_assert_eq!(&again, &key.standing);
        for (time, cost) in steps {
            key.at(key.now.max(time));
            key.quote(cost % 1000);
            key.spend(cost).take(&other);
            key.glance();
            key.take(&limit);
        }
    }
}
