//! The calendar: where days, weeks, months, quarters and years begin.

use super::window::Window;
use crate::clock::Micros;

/// Where calendar windows end. Whoever decides asks the zone data and notes the answers ([`Live`]); whoever replays has
/// them from the record ([`Recorded`]), in the same order.
pub trait Ends {
    /// The end of the calendar period of `window` that contains `at`: later than `at`.
    fn end(&mut self, window: &Window, at: Micros) -> Micros;
}

/// Ends from the zone data, noted in the order in which they were asked for. A zone that this machine does not know is
/// taken as UTC and logged once.
#[derive(Debug, Default)]
pub struct Live(pub Vec<Micros>);

impl Ends for Live {
    fn end(&mut self, _window: &Window, _at: Micros) -> Micros {
        todo!()
    }
}

/// Ends from a record. One that is missing there is `at` plus the nominal length (a damaged record must not panic).
#[derive(Debug)]
pub struct Recorded<'a>(pub std::slice::Iter<'a, Micros>);

impl Ends for Recorded<'_> {
    fn end(&mut self, _window: &Window, _at: Micros) -> Micros {
        todo!()
    }
}

/// Beginning and end of the calendar period of `window` that contains `at`, by the zone data of today.
pub fn bounds_of(_window: &Window, _at: Micros) -> (Micros, Micros) {
    todo!()
}
