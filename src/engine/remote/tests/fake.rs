//! A store in memory, which loses replies when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::super::lanes::wire::Wire;
use super::super::link::{Attempt, ErrorKind, Found, Known, LinkError, Outcome, Value, Version, Write};

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done.
    None,
    /// The store is away.
    Away,
    /// It is done, but nobody is told.
    Unheard,
    /// It is not done, and nobody is told.
    Unsaid,
}

#[derive(Default)]
pub struct Shelf {
    pub records: BTreeMap<Vec<u8>, (Version, Vec<u8>)>,
    pub lists: BTreeMap<u8, BTreeSet<Vec<u8>>>,
    counters: BTreeMap<Vec<u8>, i64>,
    versions: u64,
    pub faults: VecDeque<Fault>,
    exchanges: usize,
    fetches: usize,
}

/// The store. Clones are one.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Shelf>>);

impl Fake {
    pub fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap()
    }

    /// Calls of [`Wire::fetch`] and of [`Wire::exchange`] until now.
    pub fn calls(&self) -> [usize; 2] {
        let shelf = self.shelf();
        [shelf.fetches, shelf.exchanges]
    }
}

impl Shelf {
    fn one(&mut self, attempt: &Attempt<'_>) -> Outcome {
        let is_known = |(key, known): (&[u8], Known)| match (self.records.get(key), known) {
            (None, Known::Absent) => true,
            (Some((version, _)), Known::Version(known)) => *version == known,
            _ => false,
        };
        if !attempt.parts.iter().all(|part| is_known((part.key, part.known))) {
            let found = |part: &super::super::link::Part<'_>| match self.records.get(part.key) {
                _ if is_known((part.key, part.known)) => Found::Same,
                None => Found::Absent,
                Some((version, record)) => Found::Present(Value::of(*version, record)),
            };
            return Outcome::Lost(attempt.parts.iter().map(found).collect());
        }
        self.versions += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.versions.to_le_bytes());
        let version = Version(bytes);
        for part in &attempt.parts {
            match part.write {
                Write::Keep => {}
                Write::Put { record, .. } => {
                    self.records.insert(part.key.to_vec(), (version, record.to_vec()));
                }
                Write::Delete => {
                    self.records.remove(part.key);
                }
            }
        }
        for mark in &attempt.marks {
            let list = self.lists.entry(mark.list).or_default();
            match mark.present {
                true => list.insert(mark.member.to_vec()),
                false => list.remove(mark.member),
            };
        }
        Outcome::Won(version)
    }
}

impl Wire for Fake {
    fn exchange(&mut self, attempts: &[Attempt<'_>], _: Instant) -> Vec<Result<Outcome, LinkError>> {
        let mut shelf = self.shelf();
        shelf.exchanges += 1;
        let keys: Vec<&[u8]> = attempts.iter().flat_map(|attempt| attempt.parts.iter().map(|part| part.key)).collect();
        let written = attempts
            .iter()
            .flat_map(|attempt| attempt.parts.iter().filter(|part| part.write != Write::Keep).map(|part| part.key));
        for key in written {
            assert_eq!(keys.iter().filter(|other| **other == key).count(), 1, "attempts share what one changes");
        }
        let fault = shelf.faults.pop_front().unwrap_or(Fault::None);
        attempts
            .iter()
            .map(|attempt| match fault {
                Fault::None => Ok(shelf.one(attempt)),
                Fault::Away => Err(LinkError::new(ErrorKind::Unavailable, "away")),
                Fault::Unsaid => Err(LinkError::new(ErrorKind::OutcomeUnknown, "unknown")),
                Fault::Unheard => {
                    shelf.one(attempt);
                    Err(LinkError::new(ErrorKind::OutcomeUnknown, "unknown"))
                }
            })
            .collect()
    }

    fn fetch(&mut self, keys: &[&[u8]], _: Instant) -> Result<Vec<Found>, LinkError> {
        let mut shelf = self.shelf();
        shelf.fetches += 1;
        if shelf.faults.front() == Some(&Fault::Away) {
            shelf.faults.pop_front();
            return Err(LinkError::new(ErrorKind::Unavailable, "away"));
        }
        let found = |key: &&[u8]| match shelf.records.get(*key) {
            None => Found::Absent,
            Some((version, record)) => Found::Present(Value::of(*version, record)),
        };
        Ok(keys.iter().map(found).collect())
    }

    fn add(&mut self, counters: &[(&[u8], i64)], _: Instant) -> Result<Vec<i64>, LinkError> {
        let mut shelf = self.shelf();
        let mut sum = |(key, by): &(&[u8], i64)| {
            let counter = shelf.counters.entry(key.to_vec()).or_default();
            *counter += by;
            *counter
        };
        Ok(counters.iter().map(&mut sum).collect())
    }

    fn counts(&mut self, lists: &[(u8, &[u8])], _: Instant) -> Result<Vec<u64>, LinkError> {
        let shelf = self.shelf();
        let count = |(list, prefix): &(u8, &[u8])| {
            let members = shelf.lists.get(list).into_iter().flatten();
            members.filter(|member| member.starts_with(prefix)).count() as u64
        };
        Ok(lists.iter().map(count).collect())
    }
}
