//! Property tests of the algorithms against plain models.

use proptest::prelude::*;

use super::state::State;
use crate::bounds::{MAX_PERIOD_MS, MAX_UNITS};
use crate::limit::{Algorithm, Limit};

/// One check: milliseconds since the one before, and a cost as a share of the capacity in thousandths.
type Step = (u64, u64);

pub fn limits() -> impl Strategy<Value = Limit> {
    let rate = prop_oneof![3 => 1..20u64, 2 => 1..2000u64, 1 => MAX_UNITS - 5..=MAX_UNITS];
    let period = prop_oneof![3 => 1..50u64, 2 => 1..5000u64, 1 => MAX_PERIOD_MS - 5..=MAX_PERIOD_MS];
    let burst = prop::option::of(prop_oneof![1..30u64, 1..3000u64]);
    (rate, period, 0..4usize, burst).prop_map(|(rate, period, algorithm, burst)| {
        let algorithm = Algorithm::ALL[algorithm];
        let burst = burst.filter(|_| algorithm == Algorithm::TokenBucket);
        Limit::of_millis(rate, period, algorithm, burst)
            .unwrap_or_else(|_| Limit::of_millis(rate, period, algorithm, None).unwrap())
    })
}

/// Steps of a length that fits the period: none, a part of it, a few of it.
fn histories() -> impl Strategy<Value = (Limit, Vec<Step>)> {
    limits().prop_flat_map(|limit| {
        let period = limit.period_ms();
        let pause = prop_oneof![2 => Just(0), 3 => 0..=period.div_ceil(8), 2 => 0..=period, 1 => 0..=3 * period];
        let share = prop_oneof![3 => 0..50u64, 2 => 0..400u64, 1 => 990..=1000u64];
        (Just(limit), prop::collection::vec((pause, share), 1..60))
    })
}

fn cost_of(limit: &Limit, share: u64) -> u64 {
    let cost = u128::from(limit.capacity()) * u128::from(share) / 1000;
    (cost as u64).clamp(1, limit.capacity())
}

/// What a plain model says of a check, from the list of all that was allowed before.
fn model_allows(limit: &Limit, spent: &[(u64, u64)], now: u64, cost: u64) -> bool {
    let (rate, period) = (u128::from(limit.rate()), u128::from(limit.period_ms()));
    let (now128, cost) = (u128::from(now), u128::from(cost));
    match limit.algorithm() {
        Algorithm::TokenBucket => {
            // Parts of a unit, each one period-th, refilled from event to event.
            let full = u128::from(limit.capacity()) * period;
            let (mut level, mut at) = (full, 0);
            for (when, units) in spent {
                level = full.min(level + (u128::from(*when) - at) * rate) - u128::from(*units) * period;
                at = u128::from(*when);
            }
            full.min(level + (now128 - at) * rate) >= cost * period
        }
        Algorithm::SlidingWindowLog => {
            let live = spent.iter().filter(|(when, _)| u128::from(*when) + period > now128);
            live.map(|(_, units)| u128::from(*units)).sum::<u128>() + cost <= rate
        }
        Algorithm::FixedWindowCounter => {
            let (mut start, mut used) = (None, 0);
            for (when, units) in spent {
                let when = u128::from(*when);
                if start.is_none_or(|start| when >= start + period) {
                    (start, used) = (Some(when), 0);
                }
                used += u128::from(*units);
            }
            if start.is_some_and(|start| now128 >= start + period) {
                used = 0;
            }
            used + cost <= rate
        }
        Algorithm::SlidingWindowCounter => {
            // Windows run on from the first event; after two empty ones the next event begins anew.
            let mut windows: Option<(u128, u128, u128)> = None;
            let roll = |windows: Option<(u128, u128, u128)>, now: u128| {
                let (start, _, current) = windows?;
                match (now - start) / period {
                    0 => windows,
                    1 if current == 0 => None,
                    1 => Some((start + period, current, 0)),
                    _ => None,
                }
            };
            for (when, units) in spent {
                let when = u128::from(*when);
                let (start, previous, current) = roll(windows, when).unwrap_or((when, 0, 0));
                windows = Some((start, previous, current + u128::from(*units)));
            }
            match roll(windows, now128) {
                None => cost <= rate,
                Some((start, previous, current)) => {
                    previous * (period - (now128 - start)) + (current + cost) * period <= rate * period
                }
            }
        }
    }
}

fn at(state: &State, limit: &Limit, now: u64) -> State {
    let mut state = state.clone();
    state.advance(limit, now);
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every decision is the model's, and what it says of the future comes true.
    #[test]
    fn decisions_are_the_models((limit, steps) in histories()) {
        let mut now = 1_000_000;
        let mut state = State::new(&limit, now);
        let mut spent: Vec<(u64, u64)> = Vec::new();
        for (pause, share) in steps {
            now += pause;
            let cost = cost_of(&limit, share);
            state.advance(&limit, now);
            let quote = state.quote(&limit, now, cost);
            prop_assert_eq!(quote.allowed, model_allows(&limit, &spent, now, cost));
            if quote.allowed {
                prop_assert_eq!(quote.retry_after_ms, 0);
                state.spend(&limit, now, cost);
                spent.push((now, cost));
            } else {
                // Exactly then, and not a millisecond earlier.
                let then = now + quote.retry_after_ms;
                prop_assert!(quote.retry_after_ms > 0);
                prop_assert!(at(&state, &limit, then).quote(&limit, then, cost).allowed);
                prop_assert!(!at(&state, &limit, then - 1).quote(&limit, then - 1, cost).allowed);
            }
            prop_assert_eq!(state.glance(&limit, now), (quote.remaining, quote.reset_at));
            // What remains can be spent, and not one unit more.
            if quote.remaining > 0 {
                prop_assert!(state.quote(&limit, now, quote.remaining).allowed);
            }
            if quote.remaining < limit.capacity() {
                prop_assert!(!state.quote(&limit, now, quote.remaining + 1).allowed);
                let reset = quote.reset_at;
                prop_assert_eq!(at(&state, &limit, reset).glance(&limit, reset), (limit.capacity(), reset));
                prop_assert!(at(&state, &limit, reset - 1).glance(&limit, reset - 1).0 < limit.capacity());
            }
            // A snapshot holds all of it.
            prop_assert_eq!(State::restore(&limit, &state.parts()).parts(), state.parts());
        }
    }

    /// Never more than promised in any window.
    #[test]
    fn no_window_holds_too_much((limit, steps) in histories()) {
        let mut now = 1_000_000;
        let mut state = State::new(&limit, now);
        let mut spent: Vec<(u64, u64)> = Vec::new();
        for (pause, share) in steps {
            now += pause;
            let cost = cost_of(&limit, share);
            state.advance(&limit, now);
            if state.quote(&limit, now, cost).allowed {
                state.spend(&limit, now, cost);
                spent.push((now, cost));
            }
        }
        let (rate, period) = (u128::from(limit.rate()), u128::from(limit.period_ms()));
        for first in 0..spent.len() {
            let mut sum = 0;
            for (when, units) in &spent[first..] {
                sum += u128::from(*units);
                let length = u128::from(when - spent[first].0);
                match limit.algorithm() {
                    Algorithm::TokenBucket => {
                        prop_assert!(sum * period <= u128::from(limit.capacity()) * period + rate * length);
                    }
                    Algorithm::SlidingWindowLog if length < period => prop_assert!(sum <= rate),
                    // Two neighbouring windows can lie within one period.
                    _ if length < period => prop_assert!(sum <= 2 * rate),
                    _ => {}
                }
            }
        }
    }

    /// Looking at a state, however often, changes no later decision.
    #[test]
    fn looking_changes_nothing((limit, steps) in histories(), looks in prop::collection::vec(0..100u64, 1..20)) {
        let mut now = 1_000_000;
        let (mut seen, mut unseen) = (State::new(&limit, now), State::new(&limit, now));
        for (pause, share) in steps {
            for look in &looks {
                seen.advance(&limit, now + pause * look / 100);
                if pause * look / 100 > pause / 2 { break; }
            }
            now += pause;
            let cost = cost_of(&limit, share);
            seen.advance(&limit, now);
            unseen.advance(&limit, now);
            let quote = unseen.quote(&limit, now, cost);
            prop_assert_eq!(seen.quote(&limit, now, cost), quote);
            if quote.allowed {
                seen.spend(&limit, now, cost);
                unseen.spend(&limit, now, cost);
            }
        }
    }

    /// New values give nothing back: what is left is at most the new capacity less what counted before.
    #[test]
    fn reconfiguration_keeps_what_was_spent((old, steps) in histories(), new in limits()) {
        let mut now = 1_000_000;
        let mut state = State::new(&old, now);
        for (pause, share) in steps {
            now += pause;
            let cost = cost_of(&old, share);
            state.advance(&old, now);
            if state.quote(&old, now, cost).allowed {
                state.spend(&old, now, cost);
            }
        }
        let counted = old.capacity() - state.glance(&old, now).0;
        let mut after = state.clone().reconfigured(&old, &new, now);
        after.advance(&new, now);
        let left = after.glance(&new, now).0;
        if old.algorithm() != new.algorithm() || old.period_ms() <= new.period_ms() {
            prop_assert_eq!(left, new.capacity().saturating_sub(counted));
        }
        prop_assert!(left <= new.capacity());
        // And the same values change nothing at all.
        prop_assert_eq!(state.clone().reconfigured(&old, &old, now).parts(), state.parts());
    }
}
