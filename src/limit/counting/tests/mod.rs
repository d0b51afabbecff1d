//! What the algorithms and their reconfiguration promise.

mod flips;
mod give_back;
mod model;
mod promises;
mod replay;
mod units;

use proptest::prelude::*;

use super::quote::{Quote, Verdict};
use super::standing::Standing;
use crate::clock::Micros;
use crate::limit::algorithm::Algorithm;
use crate::limit::calendar::Ends;
use crate::limit::period::{CalendarUnit, Period};
use crate::limit::values::Limit;
use crate::limit::window::Window;

const MS: Micros = 1000;
const SECOND: Micros = 1000 * MS;
const MINUTE: Micros = 60 * SECOND;
const HOUR: Micros = 60 * MINUTE;
const DAY: Micros = 24 * HOUR;

/// A calendar whose days have 24 hours, of which a week has 7, a month 30, a quarter 90 and a year 365; `shift` is the
/// beginning of a day.
#[derive(Debug, Clone, Default)]
struct Plain {
    shift: Micros,
    noted: Vec<Micros>,
}

impl Ends for Plain {
    fn end(&mut self, window: &Window, at: Micros) -> Micros {
        let Period::Calendar { unit, .. } = window.period() else { panic!("{window} has no calendar") };
        let days = match unit {
            CalendarUnit::Day => 1,
            CalendarUnit::Week => 7,
            CalendarUnit::Month => 30,
            CalendarUnit::Quarter => 90,
            CalendarUnit::Year => 365,
        };
        let end = ((at + self.shift) / (days * DAY) + 1).saturating_mul(days * DAY) - self.shift;
        self.noted.push(end);
        end
    }
}

/// A calendar that must not be asked.
struct Never;

impl Ends for Never {
    fn end(&mut self, window: &Window, at: Micros) -> Micros {
        panic!("asked for the end of {window} at {at}")
    }
}

/// A limit of its text; several windows with `, ` between them.
fn limit(text: &str) -> Limit {
    match text {
        "unlimited" => Limit::unlimited(),
        text => Limit::of(text.split(", ").map(|window| window.parse().unwrap()).collect()).unwrap(),
    }
}

/// A key: its limit, what it has counted, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    limit: Limit,
    standing: Standing,
    now: Micros,
}

impl Key {
    fn new(text: &str) -> Key {
        Key::of(&limit(text), 1_000_000 * SECOND)
    }

    fn of(limit: &Limit, now: Micros) -> Key {
        Key { limit: limit.clone(), standing: Standing::new(limit), now }
    }

    fn at(&mut self, now: Micros) -> &mut Key {
        self.now = now;
        self.standing.advance(&self.limit, now);
        self
    }

    fn wait(&mut self, time: Micros) -> &mut Key {
        self.at(self.now + time)
    }

    fn quote(&self, cost: u64) -> Verdict {
        self.standing.quote(&self.limit, self.now, cost, &mut Plain::default())
    }

    fn glance(&self) -> Verdict {
        self.standing.glance(&self.limit, self.now, &mut Plain::default())
    }

    /// The figures of the only window, for a cost.
    fn one(&self, cost: u64) -> Quote {
        let quote = self.quote(cost);
        assert_eq!(quote.windows.as_slice().len(), 1);
        quote.windows.as_slice()[0]
    }

    /// What is left in the window of which the least is left.
    fn left(&self) -> u64 {
        self.glance().windows.as_slice().iter().map(|quote| quote.remaining).min().unwrap_or(u64::MAX)
    }

    /// A check.
    fn check(&mut self, cost: u64) -> bool {
        let allowed = self.quote(cost).allowed;
        if allowed {
            self.spend(cost);
        }
        allowed
    }

    fn spend(&mut self, cost: u64) -> &mut Key {
        self.standing.spend(&self.limit, self.now, cost, &mut Plain::default());
        self
    }

    /// Spends all that is left, in one check; how much that was.
    fn drain(&mut self) -> u64 {
        let left = self.left();
        assert!(self.check(left));
        left
    }

    fn set(&mut self, text: &str) -> &mut Key {
        self.take(&limit(text))
    }

    fn take(&mut self, new: &Limit) -> &mut Key {
        self.standing.reconfigure(&self.limit, new, self.now, &mut Plain::default());
        self.limit = new.clone();
        self.standing.advance(new, self.now);
        self
    }

    fn is_untouched(&self) -> bool {
        self.standing.is_untouched(&self.limit, self.now)
    }
}

/// Windows with periods of some milliseconds, so that histories meet their ends; now and then a day.
fn small_windows() -> impl Strategy<Value = Window> {
    let burst = prop::option::of(1..25u64);
    let rate = prop_oneof![12 => 1..20u64, 1 => Just(0)];
    let day = Period::calendar(CalendarUnit::Day);
    let period = prop_oneof![20 => (1..40u64).prop_map(|ms| Period::Fixed(ms * MS)), 1 => Just(day)];
    (rate, period, 0..4usize, burst).prop_map(|(rate, period, algorithm, burst)| {
        let calendar = matches!(period, Period::Calendar { .. });
        let algorithm = if calendar { Algorithm::FixedWindowCounter } else { Algorithm::ALL[algorithm] };
        let burst = burst.filter(|_| algorithm == Algorithm::TokenBucket && rate > 0);
        Window::of(rate, period, algorithm, burst).unwrap()
    })
}

/// Limits of one window, or two, or three.
fn small_limits() -> impl Strategy<Value = Limit> {
    let windows = prop_oneof![
        3 => prop::collection::vec(small_windows(), 1),
        2 => prop::collection::vec(small_windows(), 2..4),
    ];
    windows.prop_map(|windows| Limit::of(windows.clone()).unwrap_or_else(|_| Limit::from(windows[0])))
}

/// A time that means something to the windows: none, a moment, a share of one of their periods.
fn pauses() -> impl Strategy<Value = Micros> {
    prop_oneof![
        4 => Just(0),
        2 => 1..3u64,
        3 => 1..5 * MS,
        3 => (1..40u64).prop_map(|ms| ms * MS),
        2 => 1..100 * MS,
    ]
}
