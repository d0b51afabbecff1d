//! The state of a limit, whatever its algorithm.

use super::fixed_window_counter::FixedWindow;
use super::quote::Quote;
use super::sliding_window_counter::WindowPair;
use super::sliding_window_log::EventLog;
use super::token_bucket::Bucket;
use crate::clock::Millis;
use crate::limit::algorithm::Algorithm;
use crate::limit::values::Limit;

/// What a limit has counted so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Of a token bucket.
    Bucket(Bucket),
    /// Of a sliding window log. Boxed: it is larger than the others.
    Events(Box<EventLog>),
    /// Of a fixed window counter.
    Window(FixedWindow),
    /// Of a sliding window counter.
    Pair(WindowPair),
}

/// A state as plain numbers, as a snapshot holds it. Instants are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateParts {
    /// token_bucket
    Bucket { whole: u64, part: u64, at: Millis },
    /// sliding_window_log: instants and the units spent in each.
    Events(Vec<(Millis, u64)>),
    /// fixed_window_counter
    Window { start: Millis, used: u64 },
    /// sliding_window_counter
    Pair { start: Millis, previous: u64, current: u64 },
}

impl State {
    /// The state of a limit that nothing was spent of.
    pub fn new(limit: &Limit, now: Millis) -> State {
        match limit.algorithm() {
            Algorithm::TokenBucket => State::Bucket(Bucket::full(limit.capacity(), now)),
            Algorithm::SlidingWindowLog => State::Events(Box::default()),
            Algorithm::FixedWindowCounter => State::Window(FixedWindow::default()),
            Algorithm::SlidingWindowCounter => State::Pair(WindowPair::default()),
        }
    }

    /// The state as plain numbers, for a snapshot.
    pub(crate) fn parts(&self) -> StateParts {
        match self {
            State::Bucket(bucket) => {
                let (whole, part, at) = bucket.parts();
                StateParts::Bucket { whole, part, at }
            }
            State::Events(events) => StateParts::Events(events.events().collect()),
            State::Window(window) => {
                let (start, used) = window.parts();
                StateParts::Window { start, used }
            }
            State::Pair(pair) => {
                let (start, previous, current) = pair.parts();
                StateParts::Pair { start, previous, current }
            }
        }
    }

    /// The state from a snapshot, written for `limit`.
    pub(crate) fn restore(limit: &Limit, record: &StateParts) -> State {
        match record {
            StateParts::Bucket { whole, part, at } => State::Bucket(Bucket::restore(limit, *whole, *part, *at)),
            StateParts::Events(events) => {
                let mut log = EventLog::default();
                for (at, units) in events {
                    log.restore(*at, *units);
                }
                State::Events(Box::new(log))
            }
            StateParts::Window { start, used } => State::Window(FixedWindow::restore(*start, *used)),
            StateParts::Pair { start, previous, current } => {
                State::Pair(WindowPair::restore(*start, *previous, *current))
            }
        }
    }

    /// Brings the state to `now`. Changes no later decision.
    pub fn advance(&mut self, limit: &Limit, now: Millis) {
        match self {
            State::Bucket(bucket) => bucket.advance(limit, now),
            State::Events(events) => events.advance(limit, now),
            State::Window(window) => window.advance(limit, now),
            State::Pair(pair) => pair.advance(limit, now),
        }
    }

    /// Decides whether `cost` (1 to the capacity) may be spent at `now`, to which the state was advanced.
    pub fn quote(&self, limit: &Limit, now: Millis, cost: u64) -> Quote {
        match self {
            State::Bucket(bucket) => bucket.quote(limit, now, cost),
            State::Events(events) => events.quote(limit, now, cost),
            State::Window(window) => window.quote(limit, now, cost),
            State::Pair(pair) => pair.quote(limit, now, cost),
        }
    }

    /// Spends `cost`, which [`State::quote`] allowed at `now`.
    pub fn spend(&mut self, limit: &Limit, now: Millis, cost: u64) {
        match self {
            State::Bucket(bucket) => bucket.spend(cost),
            State::Events(events) => events.spend(limit, now, cost),
            State::Window(window) => window.spend(now, cost),
            State::Pair(pair) => pair.spend(now, cost),
        }
    }

    /// Whole units left and the instant when the limit is untouched again, at `now`, to which the state was advanced.
    pub fn glance(&self, limit: &Limit, now: Millis) -> (u64, Millis) {
        match self {
            State::Bucket(bucket) => bucket.glance(limit, now),
            State::Events(events) => events.glance(limit, now),
            State::Window(window) => window.glance(limit, now),
            State::Pair(pair) => pair.glance(limit, now),
        }
    }

    /// The state after `old` is replaced by `new` at `now`: what was spent stays spent. The same algorithm keeps what
    /// it knows (a window its beginning, a log its instants); another one takes over the units that count at `now` as
    /// if they were spent in this instant. Rounding never gives quota back.
    pub fn reconfigured(mut self, old: &Limit, new: &Limit, now: Millis) -> State {
        self.advance(old, now);
        match (self, new.algorithm()) {
            (State::Bucket(bucket), Algorithm::TokenBucket) => State::Bucket(bucket.reconfigured(old, new)),
            (State::Events(events), Algorithm::SlidingWindowLog) => State::Events(events),
            (State::Window(window), Algorithm::FixedWindowCounter) => State::Window(window),
            (State::Pair(pair), Algorithm::SlidingWindowCounter) if old.period_ms() == new.period_ms() => {
                State::Pair(pair)
            }
            (state, _) => {
                let spent = state.spent(old, now);
                let mut fresh = State::new(new, now);
                if spent > 0 {
                    match &mut fresh {
                        State::Bucket(bucket) => bucket.spend(spent.min(new.capacity())),
                        State::Events(events) => events.spend(new, now, spent),
                        State::Window(window) => window.spend(now, spent),
                        State::Pair(pair) => pair.spend(now, spent),
                    }
                }
                fresh
            }
        }
    }

    /// Units that count against the limit at `now`, rounded up.
    fn spent(&self, limit: &Limit, now: Millis) -> u64 {
        match self {
            State::Bucket(bucket) => limit.capacity() - bucket.whole(),
            State::Events(events) => events.sum(),
            State::Window(window) => window.used(),
            State::Pair(pair) => pair.estimate(limit, now),
        }
    }
}
