//! Each algorithm against a plain model, which keeps the list of everything that was spent.

use super::*;
use crate::bounds::MAX_UNITS;
use crate::limit::counting::speed::shortest;
use crate::limit::tests::{limits, windows};

/// One check: microseconds since the one before, a cost as a share of the capacity in thousandths, and whether it is
/// forced past the limit.
type Step = (Micros, u64, bool);

/// Steps of a length that fits the period: none, a part of it, a few of it.
fn histories() -> impl Strategy<Value = (Window, Vec<Step>)> {
    prop_oneof![windows(), small_windows()].prop_flat_map(|window| {
        let period = window.period().nominal();
        let pause = prop_oneof![2 => Just(0), 3 => 0..=period.div_ceil(8), 2 => 0..=period, 1 => 0..=3 * period];
        let share = prop_oneof![3 => 0..50u64, 2 => 0..400u64, 1 => 990..=1000u64];
        let forced = prop::bool::weighted(0.1);
        (Just(window), prop::collection::vec((pause, share, forced), 1..60))
    })
}

fn cost_of(window: &Window, share: u64) -> u64 {
    let cost = u128::from(window.capacity()) * u128::from(share) / 1000;
    (cost as u64).clamp(1, window.capacity().max(1))
}

/// Units that count at `now`, times the period, of what was spent when; a bucket's may be parts of a unit.
fn model(window: &Window, spent: &[(Micros, u64)], now: Micros) -> i128 {
    let (rate, period) = (i128::from(window.rate()), i128::from(window.period().nominal()));
    let time = |at: Micros| i128::from(at);
    match window.algorithm() {
        Algorithm::TokenBucket => {
            let (mut missing, mut at) = (0, 0);
            for (when, units) in spent {
                missing = (missing - (time(*when) - at) * rate).max(0) + i128::from(*units) * period;
                at = time(*when);
            }
            (missing - (time(now) - at) * rate).max(0)
        }
        Algorithm::SlidingWindowLog => {
            let logged = |when: Micros| time(when.div_ceil(MS) * MS);
            let live = spent.iter().filter(|(when, _)| logged(*when) + period > time(now));
            live.map(|(_, units)| i128::from(*units)).sum::<i128>() * period
        }
        Algorithm::FixedWindowCounter => {
            let end_of = |start: Micros| match window.period() {
                Period::Fixed(length) => start + length,
                Period::Calendar { .. } => Plain::default().end(window, start),
            };
            let (mut end, mut used) = (0, 0);
            for (when, units) in spent {
                if *when >= end {
                    (end, used) = (end_of(*when), 0);
                }
                used += i128::from(*units);
            }
            if now >= end { 0 } else { used * period }
        }
        Algorithm::SlidingWindowCounter => {
            // Windows run on from the first spend; after two empty ones the next spend begins again.
            let mut windows: Option<(i128, i128, i128)> = None;
            let roll = |windows: Option<(i128, i128, i128)>, now: i128| {
                let (start, _, current) = windows?;
                match (now - start) / period {
                    0 => windows,
                    1 if current == 0 => None,
                    1 => Some((start + period, current, 0)),
                    _ => None,
                }
            };
            for (when, units) in spent {
                let (start, previous, current) = roll(windows, time(*when)).unwrap_or((time(*when), 0, 0));
                windows = Some((start, previous, current + i128::from(*units)));
            }
            roll(windows, time(now))
                .map_or(0, |(start, previous, current)| previous * (period - (time(now) - start)) + current * period)
        }
    }
}

fn check_figures(key: &Key, window: &Window, spent: &[(Micros, u64)], cost: u64) -> Result<(), TestCaseError> {
    let period = i128::from(window.period().nominal());
    let capacity = i128::from(window.capacity());
    let counts = |spent: &[(Micros, u64)], now| model(window, spent, now);
    let quote = key.one(cost);
    let allowed = counts(spent, key.now) + i128::from(cost) * period <= capacity * period;
    prop_assert_eq!(quote.allowed, allowed);
    let mut after = spent.to_vec();
    if allowed {
        after.push((key.now, cost));
    }
    // Rounded up, and so what is left is rounded down.
    let used = (counts(&after, key.now) + period - 1) / period;
    prop_assert_eq!(i128::from(quote.used), used);
    prop_assert_eq!(i128::from(quote.remaining), (capacity - used).max(0));
    prop_assert_eq!(i128::from(quote.debt), (used - capacity).max(0));
    // Untouched then, and not a microsecond earlier. A debt of a bucket without a rate is never paid.
    prop_assert!(counts(&after, quote.reset_at) == 0 || window.rate() == 0 && quote.reset_at == Micros::MAX);
    if quote.reset_at > key.now {
        prop_assert!(counts(&after, quote.reset_at - 1) > 0);
    } else {
        prop_assert_eq!(quote.reset_at, key.now);
    }
    let room = |at, units: i128| counts(spent, at) + units * period <= capacity * period;
    match quote.retry {
        Some(0) => prop_assert!(allowed),
        Some(wait) => {
            prop_assert!(!allowed && room(key.now + wait, cost.into()) && !room(key.now + wait - 1, cost.into()));
        }
        None => prop_assert!(!allowed && i128::from(cost) > capacity),
    }
    let more = i128::from(quote.remaining) + 1;
    let room = |at| counts(&after, at) + more * period <= capacity * period;
    match quote.next {
        Some(0) => prop_assert_eq!(used, 0),
        Some(wait) => prop_assert!(used > 0 && room(key.now + wait) && !room(key.now + wait - 1)),
        None => prop_assert_eq!(window.rate(), 0),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Every figure is the model's, and what it says of the future comes true.
    #[test]
    fn decisions_are_the_models((window, steps) in histories()) {
        let mut key = Key::of(&Limit::from(window), 1_000_000);
        let mut spent: Vec<(Micros, u64)> = Vec::new();
        for (pause, share, forced) in steps {
            key.wait(pause);
            let cost = cost_of(&window, share);
            check_figures(&key, &window, &spent, cost)?;
            prop_assert_eq!(key.is_untouched(), model(&window, &spent, key.now) == 0);
            // Debts have a bound, which the model has not.
            let forced = forced && key.one(cost).debt + cost < MAX_UNITS / 2 && window.capacity() < MAX_UNITS / 2;
            if key.one(cost).allowed || forced {
                key.spend(cost);
                spent.push((key.now, cost));
            }
            // Looking changes nothing, and a snapshot holds all of it.
            let parts = key.standing.parts();
            prop_assert_eq!(&Standing::restore(&key.limit, &parts), &key.standing);
        }
    }

    /// Never more than promised in any time.
    #[test]
    fn no_time_holds_too_much((window, steps) in histories()) {
        let mut key = Key::of(&Limit::from(window), 1_000_000);
        let mut spent: Vec<(Micros, u64)> = Vec::new();
        for (pause, share, _) in steps {
            key.wait(pause);
            let cost = cost_of(&window, share);
            if key.check(cost) {
                spent.push((key.now, cost));
            }
        }
        let (rate, period) = (u128::from(window.rate()), u128::from(shortest(&window)));
        for first in 0..spent.len() {
            let mut sum = 0;
            for (when, units) in &spent[first..] {
                sum += u128::from(*units);
                let length = u128::from(when - spent[first].0);
                match window.algorithm() {
                    Algorithm::TokenBucket => {
                        prop_assert!(sum * period <= u128::from(window.capacity()) * period + rate * length);
                    }
                    Algorithm::SlidingWindowLog if length < period => prop_assert!(sum <= rate),
                    // Two neighbouring windows can lie within one period.
                    _ if length < period => prop_assert!(sum <= 2 * rate),
                    _ => {}
                }
            }
        }
    }

    /// Several windows allow what each of them allows, and spend in all of them or none.
    #[test]
    fn windows_decide_each_for_itself(
        limit in limits(),
        steps in prop::collection::vec((0..100 * MS, 0..1001u64), 1..30),
    ) {
        if limit.windows().is_empty() {
            return Ok(());
        }
        let mut key = Key::of(&limit, 1_000_000);
        let mut each: Vec<Key> = limit.windows().iter().map(|window| Key::of(&Limit::from(*window), key.now)).collect();
        for (pause, share) in steps {
            key.wait(pause);
            each.iter_mut().for_each(|key| { key.wait(pause); });
            let least = limit.windows().iter().min_by_key(|window| window.capacity()).unwrap();
            let cost = cost_of(least, share);
            let verdict = key.quote(cost);
            let quotes: Vec<Quote> = each.iter().map(|key| key.one(cost)).collect();
            prop_assert_eq!(verdict.allowed, quotes.iter().all(|quote| quote.allowed));
            for (own, (quote, alone)) in verdict.windows.as_slice().iter().zip(quotes.iter().zip(&each)) {
                let stands = alone.one(0);
                let expected = match verdict.allowed {
                    true => *quote,
                    false => Quote { allowed: quote.allowed, retry: quote.retry, ..stands },
                };
                prop_assert_eq!(*own, expected);
            }
            let binding = verdict.windows.as_slice()[verdict.binding];
            for quote in verdict.windows.as_slice() {
                let never = Micros::MAX;
                match verdict.allowed {
                    true => prop_assert!(binding.remaining <= quote.remaining),
                    false => prop_assert!(binding.retry.unwrap_or(never) >= quote.retry.unwrap_or(never)),
                }
            }
            prop_assert_eq!(&key.glance().windows.as_slice().len(), &each.len());
            if verdict.allowed {
                key.spend(cost);
                each.iter_mut().for_each(|key| { key.spend(cost); });
            }
        }
    }
}
