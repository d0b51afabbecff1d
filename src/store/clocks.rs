//! What the log knows of the clocks, so that time goes on over a restart: see [`Clock::resume`].

use crate::clock::{Clock, Reading};

/// The clock, and what the log last noted of it.
pub struct Clocks {
    clock: Clock,
    noted: Option<Reading>,
}

impl Clocks {
    /// Of which nothing is ever to be noted.
    #[cfg(test)]
    pub fn still() -> Clocks {
        let clock = Clock::manual(0);
        let noted = clock.reading();
        Clocks::new(clock, Some(noted))
    }

    /// With what snapshot and log hold already.
    pub fn new(clock: Clock, noted: Option<Reading>) -> Clocks {
        Clocks { clock, noted }
    }

    /// What is to be noted: in another boot, and when a clock was set.
    pub fn to_note(&self) -> Option<Reading> {
        let reading = self.clock.reading();
        self.noted.is_none_or(|noted| !noted.fits(&reading)).then_some(reading)
    }

    /// This was noted.
    pub fn set_noted(&mut self, reading: Reading) {
        self.noted = Some(reading);
    }
}
