//! What all changes of a limit share: due changes are recorded first, and nothing is changed before its records are
//! sure to find room in the log.

use std::sync::Arc;

use crate::clock::Micros;
use crate::error::Result;
use crate::limit::Live;
use crate::limiter::check::wait::Wait;
use crate::limiter::core::Core;
use crate::limiter::entry::Entry;
use crate::limiter::lookup::{Brought, Served};
use crate::store::Reservation;
use crate::store::encode::encoded_len;
use crate::store::record::{Event, MAX_FIXED};

/// Room for the records of one change.
#[derive(Default)]
pub struct Room<'a> {
    reservation: Option<Reservation<'a>>,
    records: usize,
    bytes: usize,
}

/// Nothing was changed: there is no room for this many records of this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grow {
    records: usize,
    bytes: usize,
}

impl<'a> Room<'a> {
    /// Waits for room. To be called holding no shard's lock.
    pub fn grow(&mut self, core: &'a Core, grow: Grow) -> Result<()> {
        self.reservation = None;
        self.reservation = Some(core.reserve(grow.records, grow.bytes)?);
        (self.records, self.bytes) = (grow.records, grow.bytes);
        Ok(())
    }

    /// Makes sure of room for these records, without waiting.
    pub fn fit(&mut self, core: &'a Core, events: &[Event<'_>]) -> Result<Option<Grow>> {
        // A record takes what is left of a reservation with it, if that is less than a record of fixed length needs.
        let bytes = events.iter().map(|event| encoded_len(event).max(MAX_FIXED)).sum();
        let grow = Grow { records: events.len(), bytes };
        if self.reservation.is_some() && self.records >= grow.records && self.bytes >= grow.bytes {
            return Ok(None);
        }
        self.reservation = None;
        self.reservation = core.log()?.reserve_now(grow.records, grow.bytes)?;
        (self.records, self.bytes) = (grow.records, grow.bytes);
        Ok(self.reservation.is_none().then_some(grow))
    }

    /// Queues records for which there is room. Who waits for the last one has waited for all.
    pub fn append(&mut self, core: &Core, events: &[Event<'_>], wait: &Wait<'_>) -> Result<()> {
        let log = core.log()?;
        let Some(mut reservation) = self.reservation.take() else { return Ok(()) };
        for (index, event) in events.iter().enumerate() {
            let last = index + 1 == events.len();
            log.append(&mut reservation, event, if last { wait.pending() } else { None });
        }
        Ok(())
    }
}

/// A change of an entry that is being made.
pub struct Draft {
    pub entry: Entry,
    pub events: Vec<Event<'static>>,
    pub served: Served,
}

impl Core {
    /// A copy of an entry after the changes that are due, and their records.
    ///
    /// # Errors
    /// None if there is an entry.
    pub fn draft(&self, entry: &Entry, now: Micros) -> Result<Draft> {
        let served = self.served(Some(entry), &entry.key, Brought::AsItStands, now, self.version(now))?;
        let mut draft = Draft { entry: entry.clone(), events: Vec::new(), served };
        draft.entry.version = draft.served.version;
        for change in draft.served.changes.clone() {
            let mut ends = Live::default();
            draft.entry.change(&change, &mut ends);
            draft.events.push(Event::Became {
                id: entry.id(),
                at: change.at,
                source: draft.served.recorded(change.source),
                limit: Arc::clone(&change.limit),
                ends: ends.0,
            });
        }
        Ok(draft)
    }
}
