//! Time: the only module that reads a clock.
//!
//! Owns: the instant at which a decision is made, in microseconds since 1970-01-01T00:00:00Z. Called by `limiter`
//! (under a shard's lock, so that the instants of one key never decrease) and by the log thread. It never runs
//! backwards: neither when the system clock is set back, nor over a restart. When the system clock is set back, time
//! here goes on at the pace of the boot clock instead of standing still; when it is set forward, time here follows.
//!
//! Time goes on over a restart too, from the last noted readings of the clocks ([`Clock::resume`]): by the
//! boot clock, if the machine is still in the same boot, else by the system clock. So a log whose instants are ahead of
//! the system clock, because that was wrong for a while, stays ahead by as much, and its limits refill at their normal
//! pace.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Microseconds since the epoch.
pub type Micros = u64;

/// By how much the distance of two clocks has to change for one of them to have been set, in microseconds; and by how
/// much a log has to be ahead of the system clock to be reported.
const STEP: u64 = 1_000_000;

/// How far apart two clocks may be read to show the same moment, in microseconds, and how often that is tried.
const READ_WITHIN: i64 = 1000;
const READ_TRIES: u32 = 8;

/// What the clocks show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The instant by which decisions are made.
    pub at: Micros,
    /// The system clock.
    pub wall: Micros,
    /// The id of the boot; zeros if it is not known.
    pub boot: [u8; 16],
    /// The clock of that boot, which counts suspended time too, in microseconds.
    pub boot_clock: Micros,
}

impl Reading {
    /// Whether `later` follows from this reading: in the same boot, and with no clock set in between by more than a
    /// second.
    pub fn fits(&self, later: &Reading) -> bool {
        let elapsed = |from: Micros, to: Micros| i128::from(to) - i128::from(from);
        let at = elapsed(self.at, later.at);
        let apart = |other: i128| (at - other).unsigned_abs() > u128::from(STEP);
        self.boot == later.boot
            && !apart(elapsed(self.wall, later.wall))
            && !apart(elapsed(self.boot_clock, later.boot_clock))
    }

    /// The instant that it is at `later`, by the time that has elapsed since this reading.
    fn continued(&self, later: &Reading) -> Micros {
        let same_boot = self.boot == later.boot && self.boot != [0; 16] && self.boot_clock <= later.boot_clock;
        let (from, to) = if same_boot { (self.boot_clock, later.boot_clock) } else { (self.wall, later.wall) };
        self.at.saturating_add(to.saturating_sub(from))
    }
}

/// A clock that never runs backwards. Clones are one clock.
#[derive(Clone)]
pub struct Clock {
    machine: Machine,
    /// How far its instants are ahead of the boot clock, in microseconds. Never decreases.
    distance: Arc<AtomicI64>,
}

#[derive(Clone)]
enum Machine {
    System,
    /// Only the boot clock.
    Followed,
    Manual(Arc<Dials>),
}

/// The clocks of a machine that stand until they are moved.
struct Dials {
    wall: AtomicU64,
    boot: [u8; 16],
    boot_clock: AtomicU64,
}

impl Clock {
    /// The machine's clock. Its instant is the boot clock (which counts suspended time too) plus the greatest
    /// distance between system clock and boot clock seen so far.
    pub fn system() -> Clock {
        Clock::on(Machine::System)
    }

    /// A clock for tests: it stands still at `now` until [`Clock::advance`] moves it.
    pub fn manual(now: Micros) -> Clock {
        let (wall, boot_clock) = (AtomicU64::new(now), AtomicU64::new(now));
        Clock::on(Machine::Manual(Arc::new(Dials { wall, boot: [1; 16], boot_clock })))
    }

    /// A clock that others drive, by [`Clock::raise`]: it stands at `floor` now and goes on at the pace of the boot
    /// clock. This machine's system clock does not affect it.
    #[doc(hidden)]
    pub fn followed(floor: Micros) -> Clock {
        let clock = Clock::on(Machine::Followed);
        clock.raise(floor);
        clock
    }

    fn on(machine: Machine) -> Clock {
        let distance = machine.wall().saturating_sub(machine.boot_clock());
        Clock { machine, distance: Arc::new(AtomicI64::new(distance)) }
    }

    /// The current instant. Never less than an instant returned before, in any thread.
    pub fn now(&self) -> Micros {
        // The coarse clock costs a quarter of the fine one. It is up to a tick late, so what is seen is too small most
        // of the time and right when the clock has just ticked. Read before the boot clock, it is never too great,
        // however long this thread is stopped in between; and only a greater distance is adopted.
        let wall = self.machine.coarse_wall();
        let boot = self.machine.boot_clock();
        let known = self.adopt(wall.saturating_sub(boot));
        boot.saturating_add(known).max(0) as Micros
    }

    /// The system clock's own reading, which may run backwards: for messages and comparisons, never for a decision.
    pub fn wall(&self) -> Micros {
        match self.machine {
            Machine::Followed => self.now(),
            Machine::System | Machine::Manual(_) => self.machine.wall().max(0) as Micros,
        }
    }

    /// What all clocks show.
    pub fn reading(&self) -> Reading {
        let mut boot = self.machine.boot_clock();
        let mut wall = self.machine.wall();
        for _ in 0..READ_TRIES {
            let (before, after) = (boot, self.machine.boot_clock());
            boot = after;
            if after - before <= READ_WITHIN {
                break;
            }
            // This thread was stopped in between: the two do not belong together.
            wall = self.machine.wall();
        }
        let distance = self.adopt(wall.saturating_sub(boot));
        let positive = |micros: i64| micros.max(0) as Micros;
        let (at, boot_clock) = (positive(boot.saturating_add(distance)), positive(boot));
        let wall = if matches!(self.machine, Machine::Followed) { at } else { positive(wall) };
        Reading { at, wall, boot: self.machine.boot(), boot_clock }
    }

    /// Takes a distance of system clock and boot clock that was seen, if it is greater. Returns the greatest.
    fn adopt(&self, seen: i64) -> i64 {
        let known = self.distance.load(Ordering::Relaxed);
        if seen > known { self.distance.fetch_max(seen, Ordering::Relaxed).max(seen) } else { known }
    }

    /// Goes on where a log ends: no instant from now on is less than its last one, `floor`, nor than what has elapsed
    /// since its last reading says.
    pub fn resume(&self, last: Option<&Reading>, floor: Micros) {
        let continued = last.map_or(0, |last| last.continued(&self.reading()));
        // What no calendar has would soon be more than a record can hold.
        self.raise(continued.max(floor).min(LAST_INSTANT));
    }

    /// Makes sure that no instant from now on is less than `floor`.
    #[doc(hidden)]
    pub fn raise(&self, floor: Micros) {
        let floor = i64::try_from(floor).unwrap_or(i64::MAX);
        self.distance.fetch_max(floor.saturating_sub(self.machine.boot_clock()), Ordering::Relaxed);
    }

    /// How far its instants are ahead of the system clock, if that is more than a second: because the system clock was
    /// set back, or because a log was written while it was wrong.
    pub fn ahead(&self) -> Option<Duration> {
        let reading = self.reading();
        let ahead = reading.at.saturating_sub(reading.wall);
        (ahead > STEP).then(|| Duration::from_micros(ahead))
    }

    /// Moves a manual clock forward; does nothing to the machine's clock.
    pub fn advance(&self, by: Duration) {
        if let Machine::Manual(dials) = &self.machine {
            let by = by.as_micros() as u64;
            // Another thread that reads in between must not see a greater distance.
            dials.boot_clock.fetch_add(by, Ordering::SeqCst);
            dials.wall.fetch_add(by, Ordering::SeqCst);
        }
    }

    /// As [`Clock::advance`], in milliseconds.
    #[doc(hidden)]
    pub fn advance_ms(&self, by: u64) {
        self.advance(Duration::from_millis(by));
    }

    /// Sets the system clock of a manual clock's machine, forward or back.
    #[doc(hidden)]
    pub fn set_wall(&self, wall: Micros) {
        if let Machine::Manual(dials) = &self.machine {
            dials.wall.store(wall, Ordering::SeqCst);
        }
    }

    /// The clock that another process has on the same machine.
    #[doc(hidden)]
    pub fn restarted(&self) -> Clock {
        Clock::on(self.machine.clone())
    }

    /// The clock that a process has on a manual clock's machine after a reboot, with the system clock at `wall`.
    #[doc(hidden)]
    pub fn rebooted(&self, wall: Micros) -> Clock {
        let Machine::Manual(dials) = &self.machine else { return self.restarted() };
        let mut boot = dials.boot;
        boot[0] = boot[0].wrapping_add(1).max(1);
        let (wall, boot_clock) = (AtomicU64::new(wall), AtomicU64::new(0));
        Clock::on(Machine::Manual(Arc::new(Dials { wall, boot, boot_clock })))
    }
}

impl Machine {
    fn wall(&self) -> i64 {
        match self {
            Machine::System => micros(clock_gettime(ClockId::Realtime)),
            // Never ahead of what is known.
            Machine::Followed => i64::MIN,
            Machine::Manual(dials) => dials.wall.load(Ordering::SeqCst) as i64,
        }
    }

    fn coarse_wall(&self) -> i64 {
        match self {
            Machine::System => micros(clock_gettime(ClockId::RealtimeCoarse)),
            Machine::Followed | Machine::Manual(_) => self.wall(),
        }
    }

    fn boot_clock(&self) -> i64 {
        match self {
            Machine::System | Machine::Followed => micros(clock_gettime(ClockId::Boottime)),
            Machine::Manual(dials) => dials.boot_clock.load(Ordering::SeqCst) as i64,
        }
    }

    fn boot(&self) -> [u8; 16] {
        static BOOT: OnceLock<[u8; 16]> = OnceLock::new();
        match self {
            Machine::System | Machine::Followed => *BOOT.get_or_init(|| {
                let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
                text.ok().and_then(|text| parse_uuid(&text)).unwrap_or_default()
            }),
            Machine::Manual(dials) => dials.boot,
        }
    }
}

/// Reads `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|char| *char != '-').collect();
    let fits = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u128::from_str_radix(&digits, 16).ok().filter(|_| fits).map(u128::to_be_bytes)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.machine {
            Machine::System => "system",
            Machine::Followed => "followed",
            Machine::Manual(_) => "manual",
        };
        write!(f, "Clock({name}, {})", self.now())
    }
}

fn micros(at: Timespec) -> i64 {
    at.tv_sec * 1_000_000 + at.tv_nsec / 1000
}

/// The last millisecond that has a calendar date of four digits, in microseconds since the epoch.
pub const LAST_INSTANT: Micros = 253_402_300_799_999_000;

/// Writes an instant as RFC 3339 in UTC with milliseconds, rounded up: `2026-01-31T23:59:59.999Z`. An instant past the
/// year 9999, which no check can produce, is written as that year's last.
pub fn rfc3339(at: Micros) -> impl fmt::Display {
    Rfc3339(at.min(LAST_INSTANT).div_ceil(1000))
}

/// Whole milliseconds.
struct Rfc3339(u64);

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Micros = 3_600_000_000;
    const YEAR: Micros = 365 * 24 * HOUR;

    #[test]
    fn never_backwards_and_above_its_floor() {
        let clock = Clock::system();
        let mut last = clock.now();
        assert!(last.abs_diff(clock.wall()) < STEP, "a fresh clock tells the time of day");
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        let ahead = last + HOUR;
        clock.raise(ahead);
        let now = clock.now();
        assert!(now >= ahead && now < ahead + 10 * STEP, "after a floor in the future time goes on from there");
        clock.raise(5);
        assert!(clock.now() >= now, "a floor in the past changes nothing");
    }

    #[test]
    fn instants_are_never_after_the_system_clock_that_is_read_next() {
        let clock = Clock::system();
        for _ in 0..100_000 {
            let now = clock.now();
            // A microsecond for the rounding of each of the two clocks.
            assert!(now <= clock.wall() + 2);
        }
    }

    #[test]
    fn the_boot_has_an_id() {
        let (first, second) = (Clock::system().reading(), Clock::system().reading());
        assert_ne!(first.boot, [0; 16]);
        assert!(first.fits(&second));
        assert_eq!(parse_uuid("00000000-0000-0000-0000-0000000000ff\n").unwrap()[15], 255);
        for bad in ["", "ff", "+000000000000000000000000000000f", "00000000-0000-0000-0000-0000000000fg"] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clock_that_is_driven_from_outside_goes_on_from_what_it_was_told() {
        // Far from what this machine's clock shows, on either side.
        for start in [YEAR, 400 * YEAR] {
            let clock = Clock::followed(start);
            let first = clock.now();
            assert!((start..start + 60 * STEP).contains(&first), "{first}");
            assert!(clock.wall() >= first && clock.ahead().is_none());
            clock.raise(start + HOUR);
            let raised = clock.clone().now();
            assert!((start + HOUR..start + HOUR + 60 * STEP).contains(&raised), "{raised}");
            // A reply that was delayed for long has no news.
            clock.raise(start);
            let mut last = raised;
            for _ in 0..1000 {
                let now = clock.now();
                assert!(now >= last && now < raised + 60 * STEP);
                last = now;
            }
            assert!(clock.reading().at >= last);
        }
    }

    #[test]
    fn a_manual_clock_stands_until_it_is_moved() {
        let clock = Clock::manual(1_000);
        assert_eq!(clock.now(), 1_000);
        clock.advance(Duration::from_micros(5));
        assert_eq!(clock.clone().now(), 1_005);
        clock.raise(900);
        assert_eq!(clock.now(), 1_005);
        clock.raise(2_000);
        assert_eq!((clock.now(), clock.wall()), (2_000, 1_005));
        clock.advance_ms(1);
        assert_eq!(clock.now(), 3_000);
    }

    #[test]
    fn a_system_clock_that_is_set_forward_is_followed_and_one_that_is_set_back_is_not() {
        let clock = Clock::manual(YEAR);
        clock.set_wall(YEAR + HOUR);
        assert_eq!((clock.now(), clock.ahead()), (YEAR + HOUR, None));
        clock.set_wall(YEAR);
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), YEAR + HOUR + 1_000_000);
        assert_eq!(clock.ahead(), Some(Duration::from_secs(3600)));
        clock.set_wall(YEAR + HOUR);
        assert_eq!(clock.ahead(), None, "a second is not told of");
    }

    /// What a process notes that goes on from `last`, and the instant it begins at.
    fn run(clock: &Clock, last: Option<&Reading>, floor: Micros) -> (Reading, Micros) {
        clock.resume(last, floor);
        (clock.reading(), clock.now())
    }

    #[test]
    fn time_goes_on_between_processes_at_its_pace() {
        for ahead in [0, HOUR, 10 * YEAR] {
            let start = 50 * YEAR;
            let clock = Clock::manual(start);
            let (mut noted, mut floor) = run(&clock, None, start + ahead);
            assert_eq!(floor, start + ahead);
            for step in 1..100 {
                // Denials only: the last instant of the log stays what it was.
                let clock = clock.restarted();
                clock.advance(Duration::from_millis(1500));
                let (reading, now) = run(&clock, Some(&noted), floor);
                assert_eq!(now, start + ahead + step * 1_500_000);
                assert!(noted.fits(&reading), "nothing more is to be noted");
                if step % 7 == 0 {
                    (noted, floor) = (reading, now);
                }
            }
        }
    }

    #[test]
    fn time_goes_on_over_a_reboot_by_the_system_clock() {
        for ahead in [0, HOUR, 10 * YEAR] {
            let clock = Clock::manual(50 * YEAR);
            let (noted, floor) = run(&clock, None, 50 * YEAR + ahead);
            let clock = clock.rebooted(50 * YEAR + HOUR);
            let (reading, now) = run(&clock, Some(&noted), floor);
            assert_eq!(now, 50 * YEAR + HOUR + ahead);
            assert!(!noted.fits(&reading));
            // Set back by the time it comes up, as on a machine without its own clock.
            let lost = clock.rebooted(0);
            let (_, now) = run(&lost, Some(&reading), floor);
            assert_eq!(now, reading.at, "never backwards");
            lost.advance(Duration::from_secs(1));
            assert_eq!(lost.now(), reading.at + 1_000_000);
            lost.set_wall(60 * YEAR + HOUR + HOUR);
            assert_eq!(lost.now(), (60 * YEAR + 2 * HOUR).max(reading.at + 1_000_000));
        }
    }

    #[test]
    fn a_clock_that_was_set_does_not_fit() {
        let clock = Clock::manual(50 * YEAR);
        let before = clock.reading();
        clock.advance(Duration::from_secs(1000));
        assert!(before.fits(&clock.reading()));
        clock.set_wall(50 * YEAR + 1_001_000_000);
        assert!(before.fits(&clock.reading()), "a second is no step");
        clock.set_wall(50 * YEAR + 1_001_000_001);
        assert!(!before.fits(&clock.reading()), "set forward");
        let before = clock.reading();
        clock.set_wall(50 * YEAR);
        assert!(!before.fits(&clock.reading()), "set back");
    }

    #[test]
    fn readings_that_cannot_be_are_survived() {
        let clock = Clock::manual(YEAR);
        let most = 1 << 62;
        for at in [0, most] {
            for wall in [0, most] {
                for boot_clock in [0, most] {
                    for boot in [[0; 16], [1; 16], [9; 16]] {
                        let clock = clock.restarted();
                        let reading = Reading { at, wall, boot, boot_clock };
                        clock.resume(Some(&reading), at);
                        assert!((YEAR..=LAST_INSTANT).contains(&clock.now()));
                        reading.fits(&clock.reading());
                    }
                }
            }
        }
    }

    #[test]
    fn instants_are_printed_with_milliseconds() {
        let ms = |ms: u64| rfc3339(ms * 1000).to_string();
        assert_eq!(ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(ms(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(1_767_225_599_998_001).to_string(), "2025-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(1_767_225_599_999_001).to_string(), "2026-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        // Every day, at another instant of it.
        for at in (0..=LAST_INSTANT / 1000).step_by(86_400_000 + 999_983) {
            let expected = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at));
            assert_eq!(ms(at), expected.to_string());
        }
    }
}
