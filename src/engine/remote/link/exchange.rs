//! A link, and its attempts.

use std::sync::Arc;
use std::time::Instant;

use super::delivery::{Carrier, Failure, Parcel};
use super::error::{ErrorKind, LinkError};
use super::places::directory::Directory;
use super::wire::attempt::{Attempt, Found, Mark, Outcome, Write};
use super::wire::pack;
use super::wire::script::{self, Packing, Said, Scripts, Seen};
use super::wire::slots::{slot_of, tag_of};
use super::wire::value::Version;
use crate::clock::Micros;

/// Most keys of the attempts that share a script, but for those of one attempt.
const MAX_BATCH: usize = 256;

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
        let versions: Vec<Version> = attempts.iter().map(|_| self.next_version()).collect();
        // In a Cluster the keys of a script share a slot.
        let is_apart = self.is_cluster() || attempts.len() < 2 || attempts.iter().any(|one| one.parts.is_empty());
        if is_apart {
            self.exchange_each(attempts, &versions, deadline)
        } else {
            self.exchange_batches(attempts, &versions, deadline)
        }
    }

    /// One script for many attempts.
    fn exchange_batches(
        &mut self,
        attempts: &[Attempt],
        versions: &[Version],
        deadline: Instant,
    ) -> Vec<Result<Outcome, LinkError>> {
        self.packed.clear();
        let mut parcels = Vec::new();
        let mut batches = Vec::new();
        let mut begin = 0;
        while begin < attempts.len() {
            let end = end_of_batch(attempts, begin);
            let batch = begin..end;
            let range = self.packing(0, deadline, |packing, into| {
                packing.pack_batch(into, &attempts[batch.clone()], &versions[batch.clone()])
            });
            let mut parcel = Parcel::new(range, 0, attempts[batch.clone()].iter().any(Attempt::writes));
            parcel.is_batch = true;
            parcels.push(parcel);
            batches.push(batch);
            begin = end;
        }
        self.carrier.deliver(&self.packed, &mut parcels, deadline);
        let mut outcomes = Vec::with_capacity(attempts.len());
        for (batch, mut parcel) in batches.into_iter().zip(parcels) {
            let replies = match parcel.taken() {
                Ok(redis::Value::Array(replies)) if replies.len() == batch.len() => replies,
                other => {
                    let error = match other {
                        Err(Failure::Error(error)) => error,
                        Ok(_) | Err(Failure::Divided) => LinkError::not_understood(),
                    };
                    outcomes.extend(batch.map(|_| Err(error.clone())));
                    continue;
                }
            };
            for (at, reply) in batch.zip(replies) {
                let (attempt, version) = (&attempts[at], versions[at]);
                outcomes.push(match reply {
                    redis::Value::ServerError(_) => self.exchange_again(attempt, version, parcel.lost, deadline),
                    reply => match (self.outcome(attempt, version, reply, parcel.lost), &parcel.few) {
                        (Ok(Outcome::Won(_)), Some(few)) if attempt.writes() => Err(few.clone()),
                        (outcome, _) => outcome,
                    },
                });
            }
        }
        outcomes
    }

    /// Sends an attempt by itself that could not be done with others: what is in its way is told, or goes.
    fn exchange_again(
        &mut self,
        attempt: &Attempt,
        version: Version,
        lost: bool,
        deadline: Instant,
    ) -> Result<Outcome, LinkError> {
        self.packed.clear();
        let mut parcels = [self.parcel(attempt, version, 0, &attempt.marks, deadline)];
        parcels[0].lost = lost;
        self.carrier.deliver(&self.packed, &mut parcels, deadline);
        let [mut parcel] = parcels;
        match parcel.taken() {
            Ok(reply) => self.outcome(attempt, version, reply, parcel.lost),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::Divided) => Err(LinkError::not_understood()),
        }
    }

    /// A script for each attempt.
    fn exchange_each(
        &mut self,
        attempts: &[Attempt],
        versions: &[Version],
        deadline: Instant,
    ) -> Vec<Result<Outcome, LinkError>> {
        let slots: Vec<Result<u16, LinkError>> = attempts.iter().map(|attempt| self.slot_for(attempt)).collect();
        self.packed.clear();
        let mut parcels = Vec::with_capacity(attempts.len());
        for ((attempt, version), slot) in attempts.iter().zip(versions).zip(&slots) {
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
                Ok(reply) => self.outcome(attempt, *version, reply, parcel.lost),
                Err(Failure::Error(error)) => Err(error),
                Err(Failure::Divided) => self.exchange_divided(attempt, *version, slot, deadline),
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
        let range = self.packing(slot, deadline, |packing, into| packing.pack(into, attempt, version, marks));
        Parcel::new(range, slot, attempt.writes())
    }

    fn packing<T>(&mut self, slot: u16, deadline: Instant, pack: impl FnOnce(&Packing, &mut Vec<u8>) -> T) -> T {
        let now = self.now();
        // Where the store's clock is further ahead than is known, the reply tells, and the caller tries again.
        let left = deadline.saturating_duration_since(Instant::now());
        let last = now.saturating_add(left.as_micros() as u64) / 1_000_000;
        let tag = self.is_cluster().then(|| tag_of(slot));
        let packing = Packing { scripts: &self.scripts, last, now_ms: now / 1000, tag };
        pack(&packing, &mut self.packed)
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
        let (time, said) = read.ok_or_else(LinkError::not_understood)?;
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

/// Where a batch ends that begins there: one attempt at least, and not many more than so many keys, for which nobody
/// else is served meanwhile.
fn end_of_batch(attempts: &[Attempt], begin: usize) -> usize {
    let mut keys = 0;
    let more = attempts[begin..].iter().take_while(|attempt| {
        keys += attempt.parts.len();
        keys <= MAX_BATCH || keys == attempt.parts.len()
    });
    begin + more.count()
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

#[cfg(test)]
mod tests {
    use super::super::wire::attempt::{Known, Part};
    use super::super::wire::value::Value;
    use super::*;

    /// A value that so many other links have written since.
    fn written_by(links: u8) -> Seen {
        let writers = (0..links).flat_map(|link| [link; 16]);
        Seen::Value(Value::read([b'1', links].into_iter().chain(writers).collect()).unwrap())
    }

    #[test]
    fn an_attempt_is_surely_not_done_until_sixteen_others_have_written_each_key() {
        let put = Write::Put { record: b"", expire_at_ms: None };
        let sure = |writes: &[Write], seen: Vec<Seen>| {
            let parts =
                writes.iter().map(|write| Part { key: b"flint:a", known: Known::Absent, write: *write }).collect();
            surely_not_done(&Attempt { parts, marks: Vec::new() }, &seen)
        };
        assert!(sure(&[put], vec![written_by(15)]));
        assert!(!sure(&[put], vec![written_by(16)]));
        assert!(!sure(&[Write::Delete], vec![written_by(16)]));
        assert!(sure(&[put], vec![Seen::Nothing]) && sure(&[put], vec![Seen::Same]));
        // One key that tells is enough; one that was only compared tells nothing.
        assert!(sure(&[put, put], vec![written_by(16), written_by(3)]));
        assert!(!sure(&[put, Write::Keep], vec![written_by(16), Seen::Same]));
        assert!(sure(&[Write::Keep], vec![written_by(16)]));
    }
}
