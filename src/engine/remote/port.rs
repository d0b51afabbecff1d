//! Moving all limits from a data directory into a store, and back.
//!
//! Records are the same in both places: they are handed over as they stand. What nothing counts for any more is left
//! behind. Nothing else should use either side meanwhile: of a store that is in use, each record is as it stood at one
//! moment, and all of them together are not one moment.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::copies::reader::{NAMES_AT_ONCE, Reader, Source};
use super::engine::{Settings, connect};
use super::errors::told;
use super::link::{Address, Attempt, Known, Mark, Outcome, Part, Write};
use super::names;
use crate::engine::report::Moved;
use crate::error::{Error, Kind, Result};
use crate::limiter::scratch::{self, Name, Place, Saved};
use crate::limiter::{Limiter, Options};
use crate::store::Access;

/// How long one step may take: nobody waits for a decision here.
const STEP: Duration = Duration::from_secs(30);

impl Moved {
    fn count(&mut self, name: &Name) {
        match name {
            Name::Key(_) => self.keys += 1,
            Name::Hold(_) => self.holds += 1,
            Name::Answer(_) => self.answers += 1,
            Name::Patterns => {}
        }
    }
}

/// Moves all that is in a data directory into a store which has nothing of Flint's. The directory stays as it is.
///
/// # Errors
/// `invalid_argument` where the store has limits, or is a Cluster and holds are there; `locked` while a server has the
/// directory; `corrupt`, `store_unavailable`, `outcome_unknown`, after which the store may have a part of it.
pub fn import(dir: &Path, settings: &Settings) -> Result<Moved> {
    let limiter = Limiter::open(dir, Options::default().with_access(Access::Read))?;
    let identity = scratch::identity(&limiter);
    let source = connect(settings, Some(&identity))?;
    if source.identity != identity {
        return Err(in_use(settings));
    }
    refuse_used(&mut source.reader(), settings)?;
    let mut import = Import {
        reader: source.reader(),
        scratch: source.scratch(),
        source: &source,
        waiting: Vec::new(),
        moved: Moved::default(),
        last_hold: 0,
    };
    scratch::read_records(&limiter, &mut |name, saved| import.take(name, saved))?;
    import.send()?;
    let Import { moved, last_hold, scratch, .. } = import;
    let moved = Moved { patterns: scratch.patterns().len() as u64, ..moved };
    let mut link = source.store.link();
    // No hold to come has a number that was given before.
    if last_hold > 0 {
        let counters = [(names::NUMBERS, last_hold as i64)];
        link.add(&counters, Instant::now() + STEP).map_err(|error| told(&error, true))?;
    }
    Ok(moved)
}

fn in_use(settings: &Settings) -> Error {
    let url = Address::parse(&settings.url).map(|address| address.to_string()).unwrap_or_default();
    Error::invalid(format!("the store {url} has limits already; name another database, or remove them first"))
}

/// Refuses a store that has records of Flint.
fn refuse_used(reader: &mut Reader, settings: &Settings) -> Result<()> {
    let counts = reader.counts(&names::LISTS)?;
    let patterns = reader.fetch(&[Name::Patterns])?;
    if counts.iter().any(|count| *count > 0) || patterns.iter().any(Option::is_some) {
        return Err(in_use(settings));
    }
    Ok(())
}

struct Import<'s> {
    reader: Reader,
    scratch: scratch::Scratch,
    source: &'s Source,
    waiting: Vec<(Name, Saved, Place)>,
    moved: Moved,
    last_hold: u64,
}

impl Import<'_> {
    fn take(&mut self, name: Name, saved: Saved) -> Result<()> {
        match &name {
            Name::Hold(_) if self.source.store.is_cluster() => {
                let what = "a Cluster keeps a hold where its keys are, which the ids of these holds don't say; settle \
                            them, wait ten minutes until they are forgotten, and import then";
                return Err(Error::invalid(what));
            }
            Name::Answer(_) if self.source.store.is_cluster() => {
                self.moved.left_answers += 1;
                return Ok(());
            }
            Name::Hold(number) => self.last_hold = self.last_hold.max(*number),
            _ => {}
        }
        self.scratch.load(&name, Some(&saved.record))?;
        let place = self.scratch.place_of(&name);
        self.moved.count(&name);
        self.waiting.push((name, saved, place));
        if self.waiting.len() >= NAMES_AT_ONCE { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let slot = self.source.store.is_cluster().then_some(0);
        let keys: Vec<Vec<u8>> = waiting.iter().map(|(name, ..)| names::key(name, slot)).collect();
        let members: Vec<Vec<(u8, Vec<u8>)>> =
            waiting.iter().map(|(name, _, place)| names::members(name, *place)).collect();
        let mut attempts = Vec::new();
        for (((_, saved, _), key), members) in waiting.iter().zip(&keys).zip(&members) {
            let write = Write::Put { record: &saved.record, expire_at_ms: names::expire_at_ms(saved) };
            attempts.push(Attempt {
                parts: vec![Part { key, known: Known::Absent, write }],
                marks: members.iter().map(|(list, member)| Mark { list: *list, member, present: true }).collect(),
            });
        }
        for (outcome, (name, ..)) in self.reader.exchange(&attempts, STEP).into_iter().zip(&waiting) {
            match outcome.map_err(|error| told(&error, true))? {
                Outcome::Won(_) => {}
                Outcome::Lost(_) => {
                    let what = format!(
                        "{} was written by something else meanwhile; remove what is there and import again",
                        shown(name)
                    );
                    return Err(Error::invalid(what));
                }
            }
        }
        self.scratch.forget_all();
        self.verify(&waiting)
    }

    /// Reads again what was written, and compares.
    fn verify(&mut self, written: &[(Name, Saved, Place)]) -> Result<()> {
        let names: Vec<Name> = written.iter().map(|(name, ..)| name.clone()).collect();
        for ((name, saved, _), found) in written.iter().zip(self.reader.fetch(&names)?) {
            if found.as_ref() != Some(&saved.record) {
                let what = format!(
                    "{} in the store differs from what was written; is something else using the store?",
                    shown(name)
                );
                return Err(Error::new(Kind::Corrupt, what));
            }
        }
        Ok(())
    }
}

fn shown(name: &Name) -> String {
    String::from_utf8_lossy(&names::key(name, None)).into_owned()
}

/// Moves all that is in a store into a data directory that is not there yet, or empty. The store stays as it is.
///
/// # Errors
/// `invalid_argument` where the directory has something in it; `store_unavailable`, `corrupt`, `unsupported`, `io`; the
/// directory has nothing in it then.
pub fn export(settings: &Settings, dir: &Path) -> Result<Moved> {
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("{} is not empty; name a directory that does not exist yet", dir.display());
        return Err(Error::invalid(what));
    }
    let source = connect(settings, None)?;
    let mut records =
        Records { reader: source.reader(), lists: Vec::new(), after: None, ready: Vec::new(), moved: Moved::default() };
    records.reader.load_patterns()?;
    records.moved.patterns = records.reader.patterns().len() as u64;
    records.lists = names::LISTS_OF_RECORDS.to_vec();
    if source.store.is_cluster() {
        records.moved.left_answers = records.reader.counts(&[names::ANSWERS])?.first().copied().unwrap_or(0);
        records.lists.retain(|lists| !lists.contains(&names::ANSWERS));
    }
    records.stock(vec![Name::Patterns])?;
    // The totals of patterns are kept apart from their record.
    if let Some((_, record)) = records.ready.first_mut() {
        *record = scratch::with_counted(record, &records.reader.counted()?)?;
    }
    scratch::write_directory(dir, &settings.clock, &source.identity, &mut records)?;
    Ok(records.moved)
}

/// All records of a store.
struct Records {
    reader: Reader,
    /// Lists that are left to be read, those of the same names together.
    lists: Vec<&'static [u8]>,
    after: Option<String>,
    ready: Vec<(Name, Vec<u8>)>,
    moved: Moved,
}

impl Records {
    fn stock(&mut self, names: Vec<Name>) -> Result<()> {
        let found = self.reader.fetch(&names)?;
        self.ready = names.into_iter().zip(found).filter_map(|(name, record)| Some((name, record?))).collect();
        self.ready.reverse();
        Ok(())
    }

    fn gather(&mut self) -> Result<bool> {
        let Some(lists) = self.lists.last().copied() else { return Ok(false) };
        let (members, last) = self.reader.merged(lists, "", self.after.as_deref())?;
        if last.is_none() {
            self.lists.pop();
        }
        self.after = last;
        self.stock(members.iter().filter_map(|member| names::name_of(lists[0], member)).collect())?;
        Ok(true)
    }
}

impl Iterator for Records {
    type Item = Result<(Name, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((name, record)) = self.ready.pop() {
                self.moved.count(&name);
                return Some(Ok((name, record)));
            }
            match self.gather() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
