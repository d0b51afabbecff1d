//! A link, and its attempts.

use std::sync::Arc;
use std::time::Instant;

use super::delivery::{Carrier, Failure, Parcel};
use super::error::{ErrorKind, LinkError};
use super::places::directory::Directory;
use super::wire::attempt::{Attempt, Found, Mark, Outcome, Version, Write};
use super::wire::pack;
use super::wire::script::{self, Packing, Said, Scripts, Seen};
use super::wire::slots::{slot_of, tag_of};
use crate::clock::Micros;

/// A connection to each master that was needed, for one lane.
pub struct Link {
    pub(super) carrier: Carrier,
    pub(super) scripts: Scripts,
    /// Tells this link from all others, of this process and of all that ever were.
    id: [u8; 8],
    number: u64,
    pub(super) packed: Vec<u8>,
}

impl Link {
    pub(super) fn new(directory: Arc<Directory>, scripts: Scripts, id: [u8; 8]) -> Link {
        Link { carrier: Carrier::new(directory), scripts, id, number: 0, packed: Vec::new() }
    }

    /// Sends all attempts at once and waits for their outcomes, in their order; until `deadline` at most (and the time
    /// of one reply under way). Attempts fail each for itself, all of them where the store is away.
    ///
    /// After an error, what the caller knows of the attempt's keys may be out of date: fetch them before the next
    /// attempt.
    pub fn exchange(&mut self, attempts: &[Attempt], deadline: Instant) -> Vec<Result<Outcome, LinkError>> {
        let slots: Vec<Result<u16, LinkError>> = attempts.iter().map(|attempt| self.slot_for(attempt)).collect();
        let versions: Vec<Version> = attempts.iter().map(|_| self.next_version()).collect();
        self.packed.clear();
        let mut parcels = Vec::with_capacity(attempts.len());
        for ((attempt, version), slot) in attempts.iter().zip(&versions).zip(&slots) {
            if let Ok(slot) = slot {
                let mut parcel = self.parcel(attempt, *version, *slot, &attempt.marks, deadline);
                parcel.divisible = !attempt.marks.is_empty();
                parcels.push(parcel);
            }
        }
        self.carrier.deliver(&self.packed, &mut parcels, deadline);
        let mut delivered = parcels.into_iter();
        let each = attempts.iter().zip(versions).zip(slots);
        each.map(|((attempt, version), slot)| {
            let slot = slot?;
            let Some(mut parcel) = delivered.next() else { return Err(LinkError::unavailable("nothing was sent")) };
            match parcel.taken() {
                Ok(reply) => self.outcome(attempt, version, reply, parcel.lost),
                Err(Failure::Error(error)) => Err(error),
                Err(Failure::Divided) => self.exchange_divided(attempt, version, slot, deadline),
            }
        })
        .collect()
    }

    /// An attempt whose list is on another node than its keys, while their slot moves. The list gets what is new before
    /// the attempt, and loses what is gone after it: it names too much at times, and never too little.
    fn exchange_divided(
        &mut self,
        attempt: &Attempt,
        version: Version,
        slot: u16,
        deadline: Instant,
    ) -> Result<Outcome, LinkError> {
        self.mark(attempt.marks.iter().filter(|mark| mark.present), slot, deadline)?;
        self.packed.clear();
        let mut parcels = [self.parcel(attempt, version, slot, &[], deadline)];
        self.carrier.deliver(&self.packed, &mut parcels, deadline);
        let [mut parcel] = parcels;
        let outcome = match parcel.taken() {
            Ok(reply) => self.outcome(attempt, version, reply, parcel.lost)?,
            Err(Failure::Error(error)) => return Err(error),
            Err(Failure::Divided) => return Err(LinkError::unavailable("the keys of one request are on two nodes")),
        };
        if matches!(outcome, Outcome::Won(_)) {
            // What stays in the list is found to be gone, and taken off, when the list is read.
            let _ = self.mark(attempt.marks.iter().filter(|mark| !mark.present), slot, deadline);
        }
        Ok(outcome)
    }

    fn mark<'a>(
        &mut self,
        marks: impl Iterator<Item = &'a Mark<'a>>,
        slot: u16,
        deadline: Instant,
    ) -> Result<(), LinkError> {
        self.packed.clear();
        let mut parcels = Vec::new();
        for mark in marks {
            let (key, begin) = (self.list_key(mark.list, slot), self.packed.len());
            match mark.present {
                true => pack::whole(&mut self.packed, &[b"ZADD", &key, b"0", mark.member]),
                false => pack::whole(&mut self.packed, &[b"ZREM", &key, mark.member]),
            }
            parcels.push(Parcel::new(begin..self.packed.len(), slot, true));
        }
        self.carrier.deliver(&self.packed, &mut parcels, deadline);
        for mut parcel in parcels {
            match parcel.taken() {
                Ok(_) => {}
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::Divided) => return Err(LinkError::unavailable("a list is on two nodes")),
            }
        }
        Ok(())
    }

    /// Packs an attempt.
    fn parcel(&mut self, attempt: &Attempt, version: Version, slot: u16, marks: &[Mark], deadline: Instant) -> Parcel {
        let now = self.now();
        // Where the store's clock is further ahead than is known, the reply tells, and the caller tries again.
        let left = deadline.saturating_duration_since(Instant::now());
        let last = (now.saturating_add(left.as_micros() as u64)).div_ceil(1_000_000);
        let tag = self.is_cluster().then(|| tag_of(slot));
        let packing = Packing { scripts: &self.scripts, version, last, now_ms: now / 1000, tag };
        let range = packing.pack(&mut self.packed, attempt, marks);
        Parcel::new(range, slot, attempt.writes())
    }

    /// What a reply means for an attempt. Where an earlier reply was `lost` and another link has won since, the writers
    /// that the store names tell whether this attempt was done in between; the script has looked for it among them.
    fn outcome(
        &self,
        attempt: &Attempt,
        version: Version,
        reply: redis::Value,
        lost: bool,
    ) -> Result<Outcome, LinkError> {
        let read = script::read(reply, attempt.parts.len());
        let (time, said) = read.ok_or_else(|| LinkError::unavailable("the store's reply is not understood"))?;
        self.carrier.directory().options.clock.raise(time);
        let seen = match said {
            Said::Done => return Ok(Outcome::Won(version)),
            Said::Found(seen) => seen,
        };
        if lost && attempt.writes() && !surely_not_done(attempt, &seen) {
            return Err(LinkError::new(
                ErrorKind::OutcomeUnknown,
                "whether it was written can't be known: a reply was lost, and many others have written the same key since",
            ));
        }
        let found = attempt.parts.iter().zip(seen).map(|(part, seen)| seen.found().ok_or_else(|| foreign(part.key)));
        found.collect::<Result<Vec<Found>, LinkError>>().map(Outcome::Lost)
    }

    fn next_version(&mut self) -> Version {
        self.number += 1;
        let mut version = [0; 16];
        version[..8].copy_from_slice(&self.id);
        version[8..].copy_from_slice(&self.number.to_be_bytes());
        Version(version)
    }

    /// The slot that all keys of an attempt share; 0 but for a Cluster.
    fn slot_for(&self, attempt: &Attempt) -> Result<u16, LinkError> {
        let [first, rest @ ..] = attempt.parts.as_slice() else {
            return Err(LinkError::unavailable("an attempt needs a key"));
        };
        if !self.is_cluster() {
            return Ok(0);
        }
        let slot = slot_of(first.key);
        match rest.iter().find(|part| slot_of(part.key) != slot) {
            None => Ok(slot),
            Some(other) => Err(LinkError::new(
                ErrorKind::CrossSlot,
                format!(
                    "`{}` and `{}` lie in two slots of the Cluster; keys of one request need the same {{tag}}",
                    first.key.escape_ascii(),
                    other.key.escape_ascii()
                ),
            )),
        }
    }

    pub(super) fn list_key(&self, list: u8, slot: u16) -> Vec<u8> {
        script::list_key(list, self.is_cluster().then(|| tag_of(slot)))
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.carrier.directory().address.is_cluster()
    }

    fn now(&self) -> Micros {
        self.carrier.directory().options.clock.now()
    }
}

/// Whether an attempt that has lost was not done at an earlier delivery either. Had it been, each key that it writes
/// would name it among its writers, until 16 other links have written that key; and what is there as it was, or not
/// there at all, was not written since.
fn surely_not_done(attempt: &Attempt, seen: &[Seen]) -> bool {
    let written = attempt.parts.iter().zip(seen).filter(|(part, _)| part.write != Write::Keep);
    let mut written = written.peekable();
    written.peek().is_none()
        || written.any(|(_, seen)| match seen {
            Seen::Value(value) => !value.is_full(),
            Seen::Same | Seen::Nothing | Seen::Foreign => true,
        })
}

pub(super) fn foreign(key: &[u8]) -> LinkError {
    LinkError::new(
        ErrorKind::Corrupt,
        format!("the store's key `{}` has a value that this flint has not written", key.escape_ascii()),
    )
}
