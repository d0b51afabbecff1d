//! The state of one window, whatever its algorithm.

use super::algorithms::debt::Debt;
use super::algorithms::fixed_window_counter::FixedWindow;
use super::algorithms::sliding_window_counter::WindowPair;
use super::algorithms::sliding_window_log::EventLog;
use super::algorithms::token_bucket::{Bucket, Missing};
use super::parts::StateParts;
use super::quote::{Detail, Quote};
use super::speed::Speed;
use crate::clock::Micros;
use crate::limit::algorithm::Algorithm;
use crate::limit::calendar::Ends;
use crate::limit::window::Window;

/// What one window has counted so far. Every method is given the window that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Of a token bucket.
    Bucket(Bucket),
    /// Of a token bucket that pays a debt faster than by its own rate. Rare, so boxed.
    Debt(Box<Debt>),
    /// Of a sliding window log. Boxed: it is larger than the others.
    Events(Box<EventLog>),
    /// Of a fixed window counter.
    Window(FixedWindow),
    /// Of a sliding window counter.
    Pair(WindowPair),
}

impl State {
    /// Nothing spent.
    pub fn new(window: &Window) -> State {
        match window.algorithm() {
            Algorithm::TokenBucket => State::Bucket(Bucket::full(window, 0)),
            Algorithm::SlidingWindowLog => State::Events(Box::default()),
            Algorithm::FixedWindowCounter => State::Window(FixedWindow::default()),
            Algorithm::SlidingWindowCounter => State::Pair(WindowPair::default()),
        }
    }

    /// A bucket that lacks so much; below zero it refills at `speed` where that is faster than its own.
    pub fn lacking(window: &Window, missing: Missing, speed: Speed, at: Micros) -> State {
        match Debt::lacking(window, missing, speed, at) {
            Some(debt) => State::Debt(Box::new(debt)),
            None => State::Bucket(Bucket::lacking(window, missing, at)),
        }
    }

    /// What `used` units spent at `start` are to a window.
    pub fn lump(window: &Window, start: Micros, used: u64, ends: &mut dyn Ends) -> State {
        match window.algorithm() {
            Algorithm::TokenBucket => State::Bucket(Bucket::lacking(window, Missing::whole(used), start)),
            Algorithm::SlidingWindowLog => {
                let mut log = EventLog::default();
                log.spend(window, start, used);
                State::Events(Box::new(log))
            }
            Algorithm::FixedWindowCounter => State::Window(FixedWindow::opened(window, start, used, ends)),
            Algorithm::SlidingWindowCounter => State::Pair(WindowPair::begun(window, start, used)),
        }
    }

    /// As plain numbers, for a snapshot.
    pub fn parts(&self) -> StateParts {
        match self {
            State::Bucket(bucket) => bucket.parts(),
            State::Debt(debt) => debt.parts(),
            State::Events(log) => log.parts(),
            State::Window(open) => open.parts(),
            State::Pair(pair) => pair.parts(),
        }
    }

    /// What else is reported of it.
    pub fn detail(&self) -> Detail {
        match self {
            State::Bucket(_) | State::Debt(_) | State::Window(_) => Detail::None,
            State::Events(log) => Detail::Log { oldest_at: log.events().next().map(|(at, _)| at) },
            State::Pair(pair) => pair.detail(),
        }
    }

    /// From plain numbers that were written for `window`; what cannot have been written is clamped.
    pub fn restore(window: &Window, parts: &StateParts) -> State {
        match (window.algorithm(), parts) {
            (Algorithm::TokenBucket, StateParts::Bucket { whole, part, at, full_at, fast }) => {
                let debt = fast
                    .and_then(|(units, per)| Debt::restore(window, *whole, *part, *at, *full_at, Speed { units, per }));
                match debt {
                    Some(debt) => State::Debt(Box::new(debt)),
                    None => State::Bucket(Bucket::restore(window, *whole, *part, *at, *full_at)),
                }
            }
            (Algorithm::SlidingWindowLog, StateParts::Events(events)) => {
                State::Events(Box::new(EventLog::restore(window, events.iter().copied())))
            }
            (Algorithm::FixedWindowCounter, StateParts::Window { start, end, used }) => {
                State::Window(FixedWindow::restore(window, *start, *end, *used))
            }
            (Algorithm::SlidingWindowCounter, StateParts::Pair { start, previous, current }) => {
                State::Pair(WindowPair::restore(window, *start, *previous, *current))
            }
            _ => State::new(window),
        }
    }

    /// Brings it to `now`. Changes no later decision.
    pub fn advance(&mut self, window: &Window, now: Micros) {
        match self {
            State::Bucket(bucket) => bucket.advance(window, now),
            State::Debt(debt) => {
                if let Some(bucket) = debt.advance(window, now) {
                    *self = State::Bucket(bucket);
                }
            }
            State::Events(log) => log.advance(window, now),
            State::Window(open) => open.advance(now),
            State::Pair(pair) => pair.advance(window, now),
        }
    }

    /// Whether `cost` may be spent.
    pub fn allows(&self, window: &Window, now: Micros, cost: u64) -> bool {
        match self {
            State::Bucket(bucket) => bucket.allows(cost),
            State::Debt(_) => cost == 0,
            State::Events(log) => log.allows(window, cost),
            State::Window(open) => open.allows(window, cost),
            State::Pair(pair) => pair.allows(window, now, cost),
        }
    }

    /// Whether and when `cost` may be spent; with `take` and an allowed cost, the other figures are those after the
    /// spend, otherwise the current ones.
    pub fn quote(&self, window: &Window, now: Micros, cost: u64, take: bool, ends: &mut dyn Ends) -> Quote {
        match self {
            State::Bucket(bucket) => bucket.quote(window, now, cost, take),
            State::Debt(debt) => debt.quote(window, now, cost),
            State::Events(log) => log.quote(window, now, cost, take),
            State::Window(open) => open.quote(window, now, cost, take, ends),
            State::Pair(pair) => pair.quote(window, now, cost, take),
        }
    }

    /// Spends `cost`, also past the limit.
    pub fn spend(&mut self, window: &Window, now: Micros, cost: u64, ends: &mut dyn Ends) {
        match self {
            State::Bucket(bucket) => bucket.spend(now, cost),
            State::Debt(debt) => debt.spend(cost),
            State::Events(log) => log.spend(window, now, cost),
            State::Window(open) => open.spend(window, now, cost, ends),
            State::Pair(pair) => pair.spend(window, now, cost),
        }
    }

    /// Spends `cost` in a window that rests, while `speed` is the fastest rate of the values of now. A bucket that this
    /// takes below zero refills at that speed, if it is faster, so that no caller pays for longer than it took to be
    /// allowed. So does a bucket that was there before, as far as its debt doesn't end earlier than without this spend.
    pub fn spend_at_rest(&mut self, window: &Window, now: Micros, cost: u64, speed: Speed, ends: &mut dyn Ends) {
        let before = match self {
            State::Bucket(bucket) => bucket.owed(window),
            State::Debt(debt) => Some(debt.owed()),
            _ => None,
        };
        self.spend(window, now, cost, ends);
        let (after, missing, at) = match self {
            State::Bucket(bucket) => (bucket.owed(window), bucket.missing(window), bucket.at()),
            State::Debt(debt) => (Some(debt.owed()), debt.missing(window), debt.at()),
            _ => return,
        };
        let Some((after, own)) = after else { return };
        let speed = match before {
            Some((before, _)) if own.units > 0 => own.faster(speed.at_most(own, after, before)),
            _ => own.faster(speed),
        };
        if speed != own {
            *self = State::lacking(window, missing, speed, at).last_full(window, self.full_at());
        }
    }

    /// For a bucket: when it was last full; 0 for others.
    pub fn full_at(&self) -> Micros {
        match self {
            State::Bucket(bucket) => bucket.full_at(),
            State::Debt(debt) => debt.full_at(),
            State::Events(_) | State::Window(_) | State::Pair(_) => 0,
        }
    }

    /// The same, if it is a bucket last full at an earlier instant.
    pub fn last_full(self, window: &Window, full_at: Micros) -> State {
        match self {
            State::Bucket(bucket) => State::Bucket(bucket.last_full(window, full_at)),
            State::Debt(debt) => State::Debt(Box::new(debt.last_full(full_at))),
            other => other,
        }
    }

    /// Gives back nothing that was held before an instant, to which it was advanced. Only buckets remember that.
    pub fn forget_holds(&mut self, window: &Window, at: Micros) {
        match self {
            State::Bucket(bucket) => *bucket = bucket.last_full(window, at),
            State::Debt(debt) => **debt = debt.last_full(at),
            State::Events(_) | State::Window(_) | State::Pair(_) => {}
        }
    }

    /// Units that count, rounded up.
    pub fn used(&self, window: &Window, now: Micros) -> u64 {
        match self {
            State::Bucket(bucket) => bucket.used(window),
            State::Debt(debt) => debt.used(window),
            State::Events(log) => log.used(),
            State::Window(open) => open.used(),
            State::Pair(pair) => pair.used(window, now),
        }
    }

    /// Whether nothing that was spent still counts.
    pub fn is_untouched(&self, window: &Window) -> bool {
        match self {
            State::Bucket(bucket) => bucket.is_full(window),
            State::Debt(_) => false,
            State::Events(log) => log.used() == 0,
            State::Window(open) => open.used() == 0,
            State::Pair(pair) => pair.is_untouched(),
        }
    }
}
