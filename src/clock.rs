//! Time: the only module that reads a clock.
//!
//! Owns: the instant at which a decision is made, in milliseconds since 1970-01-01T00:00:00Z. Called by `limiter`
//! (under a shard's lock, so that the instants of one key never decrease) and by the log thread. It never runs
//! backwards: neither when the system clock is set back, nor over a restart (recovery passes the last logged instant
//! as the floor). When the system clock is set back, time here goes on at the pace of the boot clock instead of
//! standing still; when it is set forward, time here follows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Milliseconds since the epoch.
pub type Millis = u64;

/// Microseconds since the epoch.
pub type Micros = u64;

/// A clock that never runs backwards.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Arc<AtomicI64>),
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock. Its instant is the boot clock (which counts suspended time too) plus the greatest
    /// distance between system clock and boot clock seen so far.
    pub fn system() -> Clock {
        let distance = millis(clock_gettime(ClockId::Realtime)) - millis(clock_gettime(ClockId::Boottime));
        Clock(Source::System(Arc::new(AtomicI64::new(distance))))
    }

    /// A clock for tests: it stands at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: Millis) -> Clock {
        Clock(Source::Manual(Arc::new(AtomicU64::new(now))))
    }

    /// The instant of now. Never less than an instant returned before, by any thread.
    pub fn now(&self) -> Millis {
        match &self.0 {
            Source::Manual(now) => now.load(Ordering::SeqCst),
            Source::System(offset) => {
                let boot = millis(clock_gettime(ClockId::Boottime));
                // The coarse clock costs a quarter of the fine one. It is up to a tick late, so what is seen is too
                // small most of the time and right when the clock has just ticked; but for a millisecond of rounding
                // it is never too great, and only a greater distance is adopted.
                let seen = millis(clock_gettime(ClockId::RealtimeCoarse)) - boot;
                let mut known = offset.load(Ordering::Relaxed);
                if seen > known {
                    known = offset.fetch_max(seen, Ordering::Relaxed).max(seen);
                }
                (boot + known).max(0) as Millis
            }
        }
    }

    /// Makes sure that no instant from now on is less than `floor`.
    #[doc(hidden)]
    pub fn raise(&self, floor: Millis) {
        match &self.0 {
            Source::Manual(now) => {
                now.fetch_max(floor, Ordering::SeqCst);
            }
            Source::System(offset) => {
                let boot = millis(clock_gettime(ClockId::Boottime));
                offset.fetch_max(floor as i64 - boot, Ordering::Relaxed);
            }
        }
    }

    /// Moves a manual clock forward; does nothing to the machine's clock.
    pub fn advance(&self, by: Duration) {
        self.advance_ms(by.as_millis() as Millis);
    }

    /// As [`Clock::advance`], in milliseconds.
    #[doc(hidden)]
    pub fn advance_ms(&self, by: Millis) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(by, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            Source::System(_) => "system",
            Source::Manual(_) => "manual",
        };
        write!(f, "Clock({name}, {})", self.now())
    }
}

fn millis(at: Timespec) -> i64 {
    at.tv_sec * 1000 + at.tv_nsec / 1_000_000
}

/// The last instant that has a calendar date of four digits, in milliseconds since the epoch.
pub const LAST_INSTANT: Millis = 253_402_300_799_999;

/// Writes an instant as RFC 3339 in UTC with milliseconds: `2026-01-31T23:59:59.999Z`. An instant past the year 9999,
/// which no check can produce, is written as that year's last.
pub fn rfc3339(at: Millis) -> impl fmt::Display {
    Rfc3339(at.min(LAST_INSTANT))
}

struct Rfc3339(Millis);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Years begin in March here, so a leap day is the last day of its year; an era has 400 years.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Any five months from March or August have 153 days.
        let month = (5 * day + 2) / 153;
        let date = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = 400 * era + year + u64::from(month <= 2);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }
}

/// The system clock's own reading, which may run backwards: for file names and messages, never for a decision.
pub fn wall() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_backwards_and_above_its_floor() {
        let clock = Clock::system();
        let mut last = clock.now();
        assert!(last.abs_diff(wall()) < 1000, "a fresh clock tells the time of day");
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        let ahead = last + 3_600_000;
        clock.raise(ahead);
        let now = clock.now();
        assert!(now >= ahead && now < ahead + 10_000, "after a floor in the future time goes on from there");
        clock.raise(5);
        assert!(clock.now() >= now, "a floor in the past changes nothing");
    }

    #[test]
    fn a_manual_clock_stands_until_it_is_moved() {
        let clock = Clock::manual(1_000);
        assert_eq!(clock.now(), 1_000);
        clock.advance_ms(5);
        assert_eq!(clock.clone().now(), 1_005);
        clock.raise(900);
        assert_eq!(clock.now(), 1_005);
        clock.raise(2_000);
        assert_eq!(clock.now(), 2_000);
    }

    #[test]
    fn instants_are_printed_with_milliseconds() {
        assert_eq!(rfc3339(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_225_599_999).to_string(), "2025-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        // Every day, at another instant of it.
        for at in (0..=LAST_INSTANT).step_by(86_400_000 + 999_983) {
            let expected = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at));
            assert_eq!(rfc3339(at).to_string(), expected.to_string());
        }
    }
}
