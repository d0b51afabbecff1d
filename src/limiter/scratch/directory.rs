//! A data directory as records, and records as a data directory.

use std::collections::HashMap;
use std::hash::RandomState;
use std::path::Path;
use std::sync::Arc;

use super::save::{Saved, pattern_totals, save_answer, save_hold, save_key, save_patterns};
use super::state::Scratch;
use crate::bounds::{MAX_MAX_HOLDS, MAX_MAX_KEYS};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::limiter::answers::Totals;
use crate::limiter::core::Limiter;
use crate::limiter::entry::Entry;
use crate::limiter::held::book::{Item, Pledge};
use crate::limiter::kept::shelf::Kept;
use crate::limiter::notes::name::Name;
use crate::limiter::recovery::replay::Replayed;
use crate::limiter::registry::Registry;
use crate::store::record::MAX_ID;
use crate::store::{self, Access, DirectoryLock, Disk, Opening, Policy, Recovered, SystemDisk};

/// Keys after which the memory that they took is given back.
const STEP: usize = 1000;

/// What the ids of holds of an open data directory are made of.
pub fn identity(limiter: &Limiter) -> [u8; 16] {
    limiter.core.directory
}

/// Hands out the records of all patterns, keys, holds and kept answers of an open data directory, in this order.
/// Nothing should be changed meanwhile. What makes no difference any more is left out.
///
/// # Errors
/// Those of `each`.
pub fn read_records(limiter: &Limiter, each: &mut dyn FnMut(Name, Saved) -> Result<()>) -> Result<()> {
    let core = &*limiter.core;
    let now = core.clock.now();
    let totals = pattern_totals(core);
    let last_id = core.next_id.load(std::sync::atomic::Ordering::Relaxed);
    let all = |id: u64, entry: &Entry| {
        let mut sum = entry.totals();
        sum.add(totals.get(&id).copied().unwrap_or_default());
        sum.to_numbers()
    };
    each(Name::Patterns, Saved { record: save_patterns(core, last_id, (0, &[]), all, now), until: None })?;
    for shard in &core.shards {
        let keys: Vec<String> = {
            let table = shard.lock();
            table.iter().filter(|entry| entry.pattern_text().is_none()).map(|entry| entry.key.to_string()).collect()
        };
        for key in keys {
            let hash = core.hash(&key);
            let open = {
                let mut book = core.holds.lock();
                book.tidy(now);
                book.rows(hash)
            };
            let saved = save_key(core, &mut shard.lock(), (hash, &key), open, 0, now);
            if let Some(saved) = saved {
                each(Name::Key(key.into()), saved)?;
            }
        }
    }
    let (holds, answers): (Vec<Pledge>, Vec<Kept>) = {
        let (book, mut shelf) = (core.holds.lock(), core.answers.lock());
        shelf.tidy(now);
        (book.iter().cloned().collect(), shelf.iter().cloned().collect())
    };
    // Slots stay counted of a key whose limit was removed.
    let mut bare: HashMap<u64, Arc<str>> = HashMap::new();
    for pledge in &holds {
        let mut places: Vec<Arc<str>> = Vec::new();
        for item in &*pledge.items {
            let mut table = core.shard(item.hash);
            let place = table.get_id(item.hash, item.id).filter(|entry| *entry.key != *item.key);
            places.push(place.map_or_else(|| Arc::from(""), |entry| Arc::from(&*entry.key)));
            if core.hash(&item.key) == item.hash && table.get(item.hash, &item.key).is_none() {
                bare.insert(item.hash, Arc::from(&*item.key));
            }
        }
        each(Name::Hold(pledge.number), save_hold(pledge, |index| &places[index], now))?;
    }
    for (hash, key) in bare {
        let open = core.holds.lock().rows(hash);
        if let Some(saved) = save_key(core, &mut core.shard(hash), (hash, &key), open, 0, now) {
            each(Name::Key(key), saved)?;
        }
    }
    answers.iter().try_for_each(|kept| each(Name::Answer(kept.once.key), save_answer(kept, now)))
}

/// Makes a data directory of records, in which the ids of holds are made of `identity`. The record of the patterns
/// comes first, if there is one; the others in any order. Returns how many limits and keys there are.
///
/// # Errors
/// `invalid_argument` if the directory has files of a limiter already, or if the patterns come late; `corrupt` and
/// `unsupported`, which name the record; `io`. There is no limiter in the directory then.
pub fn write_directory(
    dir: &Path,
    clock: &Clock,
    identity: &[u8; 16],
    records: &mut dyn Iterator<Item = Result<(Name, Vec<u8>)>>,
) -> Result<u64> {
    let lock = DirectoryLock::acquire(dir, Access::Create)?;
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let registry = Registry::new(1);
    let found = store::recover(dir, &*disk, &mut Replayed::new(&registry, &RandomState::new()))?;
    if found.directory.is_some() || found.highest_number > 0 {
        let message = format!("{} already has limits; name a new directory", dir.display());
        return Err(Error::invalid(message));
    }
    // As if there had been something that the snapshot is to stand for.
    let found = Recovered { directory: Some(*identity), highest_number: 1, ..found };
    let mut opening = Opening::begin(dir, &disk, lock, found, clock, Policy::default())?;
    let mut writing = Writing {
        scratch: Scratch::new(clock.clone(), identity, MAX_MAX_KEYS, MAX_MAX_HOLDS),
        opening: &mut opening,
        ids: HashMap::new(),
        moved: HashMap::new(),
        next_id: 1,
        count: 0,
        begun: false,
    };
    let mut holds: Vec<(Name, Vec<u8>)> = Vec::new();
    for record in records {
        let (name, record) = record?;
        match name {
            Name::Hold(_) => holds.push((name, record)),
            _ => writing.add(&name, &record)?,
        }
    }
    holds.iter().try_for_each(|(name, record)| writing.add(name, record))?;
    let count = writing.count;
    drop(writing);
    opening.finish()?.log().stop()?;
    Ok(count)
}

/// A data directory that is being made.
struct Writing<'o> {
    /// Leads keys to where they belong.
    scratch: Scratch,
    opening: &'o mut Opening,
    /// The hash of the key that has each id.
    ids: HashMap<u64, u64>,
    /// New ids of entries whose id another one had, by the hash of the key and the old id.
    moved: HashMap<(u64, u64), u64>,
    next_id: u64,
    count: u64,
    begun: bool,
}

impl Writing<'_> {
    fn add(&mut self, name: &Name, record: &[u8]) -> Result<()> {
        if *name == Name::Patterns && self.begun {
            return Err(Error::invalid("the record of the patterns must come before those of keys"));
        }
        if !self.begun && *name != Name::Patterns {
            self.scratch.load(&Name::Patterns, None)?;
        }
        self.begun = true;
        self.scratch.load(name, Some(record))?;
        if !self.scratch.is_loaded(name) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the record of {name:?} is newer than that of the patterns"),
            ));
        }
        match name {
            Name::Patterns => self.add_patterns()?,
            Name::Key(key) => self.add_key(key)?,
            Name::Hold(number) => {
                let pledge = self.scratch.core().holds.lock().get(*number).cloned();
                pledge.map_or(Ok(()), |pledge| self.add_hold(pledge))?;
            }
            Name::Answer(key) => {
                let kept = self.scratch.core().answers.lock().of(key).cloned();
                kept.map_or(Ok(()), |kept| self.opening.answer(&kept.to_record()))?;
            }
        }
        if self.scratch.loaded() >= STEP {
            self.scratch.forget_all();
        }
        Ok(())
    }

    fn add_patterns(&mut self) -> Result<()> {
        let core = Arc::clone(&self.scratch.limiter.core);
        for (id, text) in self.scratch.patterns() {
            let (hash, key) = core.place(&text);
            self.ids.insert(id, hash);
            let mut table = core.shard(hash);
            let (entry, counts) = table.get_with_counts(hash, &key);
            if let Some(entry) = entry {
                self.opening.entry(&entry.to_record(&counts.shares))?;
                self.count += 1;
            }
        }
        Ok(())
    }

    fn add_key(&mut self, key: &str) -> Result<()> {
        let core = Arc::clone(&self.scratch.limiter.core);
        let hash = core.hash(key);
        let mut table = core.shard(hash);
        let (entry, counts) = table.get_with_counts(hash, key);
        let Some(entry) = entry else { return Ok(()) };
        let mut record = entry.to_record(&counts.shares);
        if record.id == 0 || self.ids.contains_key(&record.id) {
            while self.ids.contains_key(&self.next_id) {
                self.next_id = self.next_id % MAX_ID + 1;
            }
            self.moved.insert((hash, record.id), self.next_id);
            record.id = self.next_id;
        }
        self.ids.insert(record.id, hash);
        self.opening.entry(&record)?;
        self.count += 1;
        Ok(())
    }

    fn add_hold(&mut self, mut pledge: Pledge) -> Result<()> {
        let id = |hash: u64, id: u64| match self.moved.get(&(hash, id)) {
            Some(moved) => *moved,
            // The id of a key that is gone must not be that of another key.
            None if self.ids.get(&id).is_some_and(|of| *of != hash) => 0,
            None => id,
        };
        let item = |item: &Item| Item { id: id(item.hash, item.id), ..item.clone() };
        pledge.items = pledge.items.iter().map(item).collect();
        self.opening.hold(&pledge.to_record())
    }
}

/// A record of the patterns in which their totals are those of the record and what was counted since
/// ([`Looked::counted`](super::Looked::counted)).
///
/// # Errors
/// `corrupt` and `unsupported`.
pub fn with_counted(record: &[u8], counted: &[(u64, [u64; 4])]) -> Result<Vec<u8>> {
    let mut scratch = Scratch::new(Clock::manual(0), &[0; 16], 1, 1);
    scratch.load(&Name::Patterns, Some(record))?;
    for (id, more) in counted {
        let totals = scratch.totals.entry(*id).or_default();
        let mut sum = Totals::from_numbers(*totals);
        sum.add(Totals::from_numbers(*more));
        *totals = sum.to_numbers();
    }
    Ok(scratch.save(&Name::Patterns)?.map(|saved| saved.record).unwrap_or_default())
}
