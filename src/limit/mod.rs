//! What a limit is and what it decides.
//!
//! Owns: the four algorithms, their state, and the rules of reconfiguration. Called by `limiter`, for live checks and
//! for replay alike. Everything here is a pure function of (state, limit, now, cost): no lock, no clock, no I/O, and
//! integer arithmetic alone, so that replaying a log gives the state that was there.
//!
//! A check is three steps: [`State::advance`] brings the state to `now` (refills, opens the next window, forgets what
//! has expired; nothing is spent), [`State::quote`] decides without changing anything, [`State::spend`] spends.

mod fixed_window_counter;
mod period;
#[cfg(test)]
mod properties;
mod sliding_window_counter;
mod sliding_window_log;
mod token_bucket;

pub use period::{format_period, parse_period};

use crate::bounds::{MAX_KEY_BYTES, MAX_PERIOD_MS, MAX_REFILL_MS, MAX_UNITS, MIN_PERIOD_MS};
use crate::clock::Millis;
use crate::error::{Error, Kind, Result};

use fixed_window_counter::FixedWindow;
use sliding_window_counter::WindowPair;
use sliding_window_log::EventLog;
use token_bucket::Bucket;

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// A bucket of `burst` units, refilled continuously at `rate` per period.
    TokenBucket,
    /// At most `rate` units in every window of one period, exactly.
    SlidingWindowLog,
    /// At most `rate` units in a window that opens at the first check after the former one ended.
    FixedWindowCounter,
    /// Two counters weighted by their overlap with the last period: constant memory, approximate.
    SlidingWindowCounter,
}

impl Algorithm {
    /// Every algorithm, in the order of their codes in the log.
    pub const ALL: [Algorithm; 4] = [
        Algorithm::TokenBucket,
        Algorithm::SlidingWindowLog,
        Algorithm::FixedWindowCounter,
        Algorithm::SlidingWindowCounter,
    ];

    /// The name in the HTTP API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::TokenBucket => "token_bucket",
            Algorithm::SlidingWindowLog => "sliding_window_log",
            Algorithm::FixedWindowCounter => "fixed_window_counter",
            Algorithm::SlidingWindowCounter => "sliding_window_counter",
        }
    }

    /// The algorithm of that name.
    ///
    /// # Errors
    /// `invalid_argument`, listing the names there are.
    pub fn from_name(name: &str) -> Result<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "algorithm `{}` is not known; use token_bucket, sliding_window_log, fixed_window_counter or \
                 sliding_window_counter",
                excerpt(name)
            ))
        })
    }

    /// The code in the log.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The algorithm of that code in the log.
    pub(crate) fn from_code(code: u8) -> Option<Algorithm> {
        Algorithm::ALL.get(usize::from(code)).copied()
    }
}

/// The values of a limit: how many units in which period, counted how. 24 bytes, since a million of them are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    rate: u64,
    capacity: u64,
    /// The period in the upper 56 bits, the algorithm's code in the lowest 8.
    period_and_algorithm: u64,
}

impl Limit {
    /// A limit of `rate` units (1 to 10^12) per `period_ms` milliseconds (1 to 366 days). `burst` (1 to 10^12,
    /// default `rate`) is the capacity of a token bucket and belongs to no other algorithm.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field that is out of its range.
    pub fn new(rate: u64, period_ms: Millis, algorithm: Algorithm, burst: Option<u64>) -> Result<Limit> {
        if !(1..=MAX_UNITS).contains(&rate) {
            return Err(Error::invalid(format!("rate must be from 1 to {MAX_UNITS} units, not {rate}")));
        }
        if !(MIN_PERIOD_MS..=MAX_PERIOD_MS).contains(&period_ms) {
            return Err(Error::invalid(format!("per must be from 1ms to 366d, not {period_ms}ms")));
        }
        if let Some(burst) = burst {
            if algorithm != Algorithm::TokenBucket {
                return Err(Error::invalid(format!(
                    "burst belongs to token_bucket alone; leave it out for {}",
                    algorithm.name()
                )));
            }
            if !(1..=MAX_UNITS).contains(&burst) {
                return Err(Error::invalid(format!("burst must be from 1 to {MAX_UNITS} units, not {burst}")));
            }
            if u128::from(burst) * u128::from(period_ms) > u128::from(rate) * u128::from(MAX_REFILL_MS) {
                return Err(Error::invalid(format!(
                    "burst {burst} would take more than 1000 years to refill at this rate; lower burst or raise rate"
                )));
            }
        }
        let capacity = burst.unwrap_or(rate);
        Ok(Limit { rate, capacity, period_and_algorithm: period_ms << 8 | u64::from(algorithm.code()) })
    }

    /// Units per period.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The most units that can be spent at once: the bucket's size, otherwise the rate.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The period in milliseconds.
    pub fn period_ms(&self) -> Millis {
        self.period_and_algorithm >> 8
    }

    /// How it counts.
    pub fn algorithm(&self) -> Algorithm {
        // Only `new` makes a limit, from an algorithm's own code.
        Algorithm::from_code((self.period_and_algorithm & 0xff) as u8).unwrap_or(Algorithm::TokenBucket)
    }
}

/// The answer of [`State::quote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Whether the cost may be spent now.
    pub allowed: bool,
    /// Whole units left: after spending when allowed, as they are when denied.
    pub remaining: u64,
    /// When the limit is untouched again if nothing more is spent (after this check, when allowed).
    pub reset_at: Millis,
    /// 0 when allowed; else the milliseconds until this same cost would be allowed if nothing else is spent.
    pub retry_after_ms: Millis,
}

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
            Algorithm::TokenBucket => State::Bucket(Bucket::full(limit.capacity, now)),
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

    /// The state that a snapshot tells of, which was written for `limit`.
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
                        State::Bucket(bucket) => bucket.spend(spent.min(new.capacity)),
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
            State::Bucket(bucket) => limit.capacity - bucket.whole(),
            State::Events(events) => events.sum(),
            State::Window(window) => window.used(),
            State::Pair(pair) => pair.estimate(limit, now),
        }
    }
}

/// Refuses a cost that is out of range or that `limit` could never allow.
///
/// # Errors
/// `invalid_argument` for 0 and for more than 10^12; `cost_exceeds_capacity` for more than the capacity.
pub fn validate_cost(key: &str, limit: &Limit, cost: u64) -> Result<()> {
    if cost == 0 {
        return Err(Error::invalid("cost must be 1 or more, not 0"));
    }
    if cost > limit.capacity {
        return Err(Error::new(
            Kind::CostExceedsCapacity,
            format!("cost {cost} is over the capacity {} of limit `{key}` and could never be allowed", limit.capacity),
        ));
    }
    Ok(())
}

/// Refuses a key that is empty, blank, longer than 512 bytes, or holds a control character.
///
/// # Errors
/// `invalid_argument`, saying which rule the key breaks.
pub fn validate_key(key: &str) -> Result<()> {
    // Printable ASCII without a blank is what nearly every key is made of: one pass settles it.
    if !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
        return Ok(());
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!("key must be at most {MAX_KEY_BYTES} bytes, not {}", key.len())));
    }
    if key.trim().is_empty() {
        return Err(Error::invalid("key must not be empty or blank"));
    }
    if key.chars().any(char::is_control) {
        return Err(Error::invalid(format!("key `{}` must not hold a control character", excerpt(key))));
    }
    Ok(())
}

/// A short, printable piece of what somebody sent, for an error message.
pub fn excerpt(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String =
        text.chars().take(MOST).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

/// `dividend / divisor`, rounded up. The callers' quotients are bounded by [`MAX_REFILL_MS`] or [`MAX_UNITS`].
fn div_ceil(dividend: u128, divisor: u64) -> u64 {
    // A 128-bit division costs ten times a 64-bit one, and the small case is the common one.
    match u64::try_from(dividend) {
        Ok(small) => small.div_ceil(divisor),
        Err(_) => u64::try_from(dividend.div_ceil(u128::from(divisor))).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_a_limit_hold_at_the_edge_and_break_one_past_it() {
        let bucket = Algorithm::TokenBucket;
        for (rate, period, burst) in [
            (1, 1, None),
            (MAX_UNITS, MAX_PERIOD_MS, None),
            (1, MAX_PERIOD_MS, Some(1000)),
            (MAX_UNITS, 1, Some(MAX_UNITS)),
        ] {
            let limit = Limit::new(rate, period, bucket, burst).unwrap();
            assert_eq!((limit.rate(), limit.period_ms(), limit.algorithm()), (rate, period, bucket));
            assert_eq!(limit.capacity(), burst.unwrap_or(rate));
        }
        for (rate, period, algorithm, burst, field) in [
            (0, 1, bucket, None, "rate"),
            (MAX_UNITS + 1, 1, bucket, None, "rate"),
            (1, 0, bucket, None, "per"),
            (1, MAX_PERIOD_MS + 1, bucket, None, "per"),
            (1, 1, bucket, Some(0), "burst"),
            (1, 1, bucket, Some(MAX_UNITS + 1), "burst"),
            (1, MAX_PERIOD_MS, bucket, Some(1001), "burst"),
            (1, 1, Algorithm::SlidingWindowLog, Some(1), "burst"),
        ] {
            let error = Limit::new(rate, period, algorithm, burst).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.message().starts_with(field), "{error}");
        }
    }

    #[test]
    fn keys() {
        for good in ["a", "api:user-42", "route:/v1/chat", "ключ", " a", "a b", &"x".repeat(512), "a\u{2028}"] {
            assert!(validate_key(good).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "\u{2003}", "a\n", "\0", "\u{7f}", "a\u{85}", &"x".repeat(513), &"ключ".repeat(65)] {
            assert_eq!(validate_key(bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn costs() {
        let limit = Limit::new(10, 1000, Algorithm::TokenBucket, Some(20)).unwrap();
        assert!(validate_cost("k", &limit, 20).is_ok());
        assert_eq!(validate_cost("k", &limit, 0).unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(validate_cost("k", &limit, 21).unwrap_err().kind(), Kind::CostExceedsCapacity);
        assert_eq!(validate_cost("k", &limit, u64::MAX).unwrap_err().kind(), Kind::CostExceedsCapacity);
    }

    #[test]
    fn algorithms_have_names_and_codes() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()).unwrap(), algorithm);
            assert_eq!(Algorithm::from_code(algorithm.code()), Some(algorithm));
        }
        assert!(Algorithm::from_name("leaky").unwrap_err().message().contains("leaky"));
        assert_eq!(Algorithm::from_code(4), None);
    }

    #[test]
    fn states_stay_small() {
        assert!(size_of::<State>() <= 32, "{}", size_of::<State>());
        assert_eq!(size_of::<Limit>(), 24);
    }
}
