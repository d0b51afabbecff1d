//! The state of a limit, whatever its algorithm.

use super::fixed_window_counter::FixedWindow;
use super::parts::StateParts;
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

/// The same for each algorithm.
macro_rules! each {
    ($any:expr, $state:ident => $what:expr) => {
        match $any {
            State::Bucket($state) => $what,
            State::Events($state) => $what,
            State::Window($state) => $what,
            State::Pair($state) => $what,
        }
    };
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
        each!(self, state => state.parts())
    }

    /// The state from a snapshot, written for `limit`.
    pub(crate) fn restore(limit: &Limit, record: &StateParts) -> State {
        match record {
            StateParts::Bucket { whole, part, at } => State::Bucket(Bucket::restore(limit, *whole, *part, *at)),
            StateParts::Events(events) => State::Events(Box::new(EventLog::restore(events))),
            StateParts::Window { start, used } => State::Window(FixedWindow::restore(*start, *used)),
            StateParts::Pair { start, previous, current } => {
                State::Pair(WindowPair::restore(*start, *previous, *current))
            }
        }
    }

    /// Brings the state to `now`. Changes no later decision.
    pub fn advance(&mut self, limit: &Limit, now: Millis) {
        each!(self, state => state.advance(limit, now));
    }

    /// Decides whether `cost` (1 to the capacity) may be spent at `now`, to which the state was advanced.
    pub fn quote(&self, limit: &Limit, now: Millis, cost: u64) -> Quote {
        each!(self, state => state.quote(limit, now, cost))
    }

    /// Spends `cost`, which [`State::quote`] allowed at `now`.
    pub fn spend(&mut self, limit: &Limit, now: Millis, cost: u64) {
        each!(self, state => state.spend(limit, now, cost));
    }

    /// Whole units left and the instant when the limit is untouched again, at `now`, to which the state was advanced.
    pub fn glance(&self, limit: &Limit, now: Millis) -> (u64, Millis) {
        each!(self, state => state.glance(limit, now))
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
                    fresh.spend(new, now, spent);
                }
                fresh
            }
        }
    }

    /// Units that count against the limit at `now`, rounded up.
    fn spent(&self, limit: &Limit, now: Millis) -> u64 {
        each!(self, state => state.spent(limit, now))
    }
}
