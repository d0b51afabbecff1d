//! Rewinding: the way out for a log that is ahead of the system clock.
//!
//! One offset off every instant, so that the last one is today's. What was spent stays spent, and everything that was
//! to come comes after as long as it would have. Only the calendar can't be moved: its windows keep their counts and
//! end where today's period does.

use std::time::Duration;

use super::found::Recovered;
use crate::clock::{Clock, Micros};
use crate::limit::{Ends, Parts, Period, StateParts, Window};
use crate::store::format::record::{Answer, Entry, HoldEntry};

/// What an operator reads about a log that is so far ahead of the system clock ([`Clock::ahead`]): one sentence,
/// without its full stop.
pub fn ahead_notice(ahead: Duration) -> String {
    format!(
        "the log is ahead of the system clock by {}, because the system clock was ahead when the log was written, \
         or was set back; limits go on from there at their normal pace; if the system clock is right now, `flint log \
         repair --rewind-clock --to NEWDIR` copies the directory with its clock set back",
        in_words(ahead)
    )
}

/// In its largest unit and the next one, rounded down: `3650d 2h`, `59m 3s`, `7s`.
fn in_words(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let first = units.iter().position(|(_, number)| *number > 0).unwrap_or(units.len() - 1);
    let told = units[first..].iter().take(2).map(|(unit, number)| format!("{number}{unit}"));
    told.collect::<Vec<_>>().join(" ")
}

/// One offset for every instant of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewind {
    /// The instant that the log has reached.
    pub from: Micros,
    /// What the system clock says instead.
    pub to: Micros,
}

impl Rewind {
    /// What brings the log that was `found` back to the system clock; `None` if it is not ahead of it by more than a
    /// second. `clock` is a fresh one: it is not made to go on from the log's last instant here.
    pub fn of(found: &Recovered, clock: &Clock) -> Option<Rewind> {
        let ahead = clock.restarted();
        found.resume(&ahead);
        ahead.ahead()?;
        let reading = ahead.reading();
        Some(Rewind { from: reading.at, to: reading.wall })
    }

    /// What was found, with its clock set back: what to begin a new directory with, along with a fresh clock.
    pub fn found(&self, found: &Recovered) -> Recovered {
        Recovered {
            highest_number: found.highest_number,
            next_sequence: found.next_sequence,
            last_instant: self.to,
            ..Recovered::default()
        }
    }

    /// An instant after it was moved. What would be before 1970 is 1970.
    pub fn instant(&self, at: Micros) -> Micros {
        at.saturating_sub(self.from.saturating_sub(self.to))
    }

    /// Moves all instants of a limit. `ends` is asked for the end of today's period of each calendar window that is
    /// open.
    pub fn entry(&self, entry: &mut Entry<'_>, ends: &mut dyn Ends) {
        let Entry { limit, overlay, parts, configured, times, barrier, .. } = entry;
        let windows = overlay.as_ref().map_or(&*limit, |overlay| &overlay.limit).windows();
        self.parts(windows, parts, ends);
        if let Some(overlay) = overlay {
            overlay.until = self.instant(overlay.until);
        }
        for time in times.iter_mut().chain([configured, barrier]).flatten() {
            *time = self.instant(*time);
        }
    }

    /// Moves all instants of a hold: it lasts as long as it would have.
    pub fn hold(&self, hold: &mut HoldEntry<'_>) {
        let HoldEntry { at, until, ended, .. } = hold;
        for time in [at, until].into_iter().chain(ended) {
            *time = self.instant(*time);
        }
    }

    /// Moves the instant of an answer: it is kept as long as it would have been.
    pub fn answer(&self, answer: &mut Answer<'_>) {
        answer.at = self.instant(answer.at);
    }

    /// Moves all instants of what was counted under a limit of these windows.
    pub fn parts(&self, windows: &[Window], parts: &mut Parts, ends: &mut dyn Ends) {
        let current = windows.iter().zip(&mut parts.windows);
        let resting = parts.resting.iter_mut().map(|(window, state)| (&*window, state));
        current.chain(resting).for_each(|(window, state)| self.state(window, state, ends));
        if let Some(ceiling) = &mut parts.ceiling {
            ceiling.at = self.instant(ceiling.at);
        }
    }

    fn state(&self, window: &Window, state: &mut StateParts, ends: &mut dyn Ends) {
        match state {
            StateParts::Bucket { at, full_at, .. } => (*at, *full_at) = (self.instant(*at), self.instant(*full_at)),
            StateParts::Events(events) => events.iter_mut().for_each(|(at, _)| *at = self.instant(*at)),
            StateParts::Window { start, end, used } => {
                *start = self.instant(*start);
                let open = *used > 0 && *end > self.from;
                *end = match window.period() {
                    Period::Calendar { .. } if open => ends.end(window, self.to),
                    _ => self.instant(*end),
                };
            }
            StateParts::Pair { start, .. } => *start = self.instant(*start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Reading;
    use crate::limit::{CeilingParts, Limit, Live};
    use crate::store::format::record::{Overlay, Source};
    use std::sync::Arc;

    const HOUR: Micros = 3_600_000_000;
    const DAY: Micros = 24 * HOUR;
    /// 2026-01-31T12:00:00Z
    const TODAY: Micros = 1_769_860_800_000_000;

    fn limit(text: &str) -> Arc<Limit> {
        Arc::new(text.parse().unwrap())
    }

    #[test]
    fn a_log_that_is_ahead_comes_back_to_the_system_clock() {
        for ahead in [HOUR, 3650 * DAY] {
            let clock = Clock::manual(TODAY);
            let boot = clock.reading();
            let noted = Reading { at: TODAY + ahead, ..boot };
            let found =
                Recovered { last_instant: noted.at + 5, clock: Some(noted), next_sequence: 9, ..Recovered::default() };
            clock.advance(Duration::from_secs(60));
            let rewind = Rewind::of(&found, &clock).unwrap();
            assert_eq!((rewind.from, rewind.to), (TODAY + ahead + 60_000_000, TODAY + 60_000_000));
            assert_eq!(clock.ahead(), None, "the clock that was given is as it was");
            let begun = rewind.found(&found);
            assert_eq!((begun.last_instant, begun.clock, begun.next_sequence), (rewind.to, None, 9));
            begun.resume(&clock);
            assert_eq!((clock.now(), clock.ahead()), (rewind.to, None));
        }
        let found = Recovered { last_instant: TODAY + 1_000_000, ..Recovered::default() };
        assert_eq!(Rewind::of(&found, &Clock::manual(TODAY)), None);
        assert_eq!(Rewind::of(&Recovered::default(), &Clock::manual(TODAY)), None);
    }

    #[test]
    fn an_operator_is_told_how_far() {
        let words = |seconds: u64| in_words(Duration::from_secs(seconds));
        assert_eq!([0, 2, 60, 3599, 3600, 3661].map(words), ["0s", "2s", "1m 0s", "59m 59s", "1h 0m", "1h 1m"]);
        assert_eq!([86_399, 86_400, 315_367_200].map(words), ["23h 59m", "1d 0h", "3650d 2h"]);
        let notice = ahead_notice(Duration::from_millis(3_600_999));
        assert!(notice.starts_with("the log is ahead of the system clock by 1h 0m, because"), "{notice}");
    }

    #[test]
    fn every_instant_is_moved_and_the_calendar_takes_todays_boundary() {
        let back = 400 * DAY;
        let rewind = Rewind { from: TODAY + back, to: TODAY };
        let now = rewind.from;
        // In canonical order: by period.
        let values = limit(
            "9/1s, 9/1m fixed_window_counter, 9/1h sliding_window_log, 9/2h sliding_window_counter, 9/day, 9/week, \
             9/month anchor=15",
        );
        let states = |at: Micros, ends: [Micros; 3]| {
            let window = |end| StateParts::Window { start: at - HOUR, end, used: 3 };
            vec![
                StateParts::Bucket { whole: -3, part: 4, at, full_at: at, fast: Some((3, 1000)) },
                StateParts::Window { start: at - 5, end: at + 7, used: 3 },
                StateParts::Events(vec![(at - 9, 1), (at - 2, 3)]),
                StateParts::Pair { start: at - 7, previous: 1, current: 2 },
                window(ends[0]),
                window(ends[1]),
                window(ends[2]),
            ]
        };
        let ceiling = |at| CeilingParts { most: 1, edge: 2, speed: (3, 4), whole: 5, part: 2, at };
        let resting: crate::limit::Window = "4/year".parse().unwrap();
        let mut entry = Entry {
            id: 1,
            shard: 2,
            source: Source::Exact,
            limit: limit("1/1s"),
            max_keys: None,
            overlay: Some(Overlay { limit: values, until: now + DAY }),
            // The week's window is over, and stays so.
            parts: Parts {
                windows: states(now, [now + HOUR, now, now + 20 * DAY]),
                resting: vec![(resting, StateParts::Window { start: now, end: now + 1, used: 0 })],
                ceiling: Some(ceiling(now - 8)),
            },
            configured: Some(now - 4),
            totals: [1, 2, 3, 4],
            times: [Some(now), None, Some(5)],
            barrier: Some(now - 3),
            key: "k",
        };
        let before = entry.clone();
        rewind.entry(&mut entry, &mut Live::default());
        let midnight = TODAY + 12 * HOUR;
        assert_eq!(entry.parts.windows, states(TODAY, [midnight, TODAY, midnight + 14 * DAY]));
        assert_eq!(entry.parts.resting, [(resting, StateParts::Window { start: TODAY, end: TODAY + 1, used: 0 })]);
        assert_eq!(entry.parts.ceiling, Some(ceiling(TODAY - 8)));
        assert_eq!(entry.overlay.as_ref().map(|overlay| overlay.until), Some(TODAY + DAY));
        assert_eq!((entry.configured, entry.times), (Some(TODAY - 4), [Some(TODAY), None, Some(0)]));
        assert_eq!(entry.barrier, Some(TODAY - 3));
        let same = Entry {
            parts: before.parts.clone(),
            overlay: before.overlay.clone(),
            configured: before.configured,
            times: before.times,
            barrier: before.barrier,
            ..entry
        };
        assert_eq!(same, before, "nothing else is changed");
    }

    #[test]
    fn the_instants_of_holds_and_answers_are_moved() {
        let back = 400 * DAY;
        let rewind = Rewind { from: TODAY + back, to: TODAY };
        let hold = |back, ended: Option<Micros>| HoldEntry {
            hold: 7,
            at: TODAY + back - HOUR,
            until: TODAY + back + HOUR,
            ttl: 2 * HOUR,
            ended: ended.map(|at| at + back),
            costs: if ended.is_some() { vec![3] } else { vec![] },
            items: vec![(1, 4, false, "k")],
        };
        for ended in [None, Some(TODAY - 5)] {
            let mut moved = hold(back, ended);
            rewind.hold(&mut moved);
            assert_eq!(moved, hold(0, ended));
        }
        let answer = |at| Answer { key: [1; 16], request: [2; 16], at, answer: "{}" };
        let mut moved = answer(TODAY + back - 9);
        rewind.answer(&mut moved);
        assert_eq!(moved, answer(TODAY - 9));
    }
}
