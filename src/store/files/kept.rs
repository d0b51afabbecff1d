//! The files that a start would need, and whether they are still where it would look for them.
//!
//! Owns: which files these are. A file is added when it has its name, and taken out before it is removed, since a
//! snapshot stands for it. Others may remove or rename a file while this process runs and goes on writing to it: a
//! restart would not find it. Changes no file.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::names::Name;

/// The files that a start would need.
#[derive(Default)]
pub struct Kept(Mutex<BTreeMap<Name, Known>>);

struct Known {
    /// While it is open, no other file gets its number.
    file: File,
    /// Whether this file system reports the same for the name and the descriptor. Some do not keep their numbers.
    has_number: bool,
}

/// A file that is not where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The name that a start would look for.
    pub name: Name,
    /// What has happened to it.
    pub fate: Fate,
}

/// What has happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has no name any more.
    Removed,
    /// It has another name, or lies in another directory.
    Renamed,
    /// Another file has its name.
    Replaced,
}

impl Kept {
    /// Adds a file that has just got its name, or was just found under it. A file that can't be checked is left out.
    pub fn add(&self, name: Name, dir: &Path, file: io::Result<File>) {
        let has_number =
            |file: &File| Ok::<_, io::Error>(is_same(&file.metadata()?, &std::fs::metadata(name.path(dir))?));
        match file.and_then(|file| Ok(Known { has_number: has_number(&file)?, file })) {
            Ok(known) => drop(self.lock().insert(name, known)),
            Err(error) => log::debug!("cannot watch {name}: {error}"),
        }
    }

    /// Takes out those with a smaller number.
    pub fn remove_before(&self, number: u64) {
        self.lock().retain(|name, _| match name {
            Name::Segment(older) | Name::Snapshot(older) => *older >= number,
        });
    }

    /// Those that are not where they were. What can't be looked at counts as being there.
    pub fn missing(&self, dir: &Path) -> Vec<Missing> {
        let known = self.lock();
        let missing = known.iter().filter_map(|(name, known)| {
            let fate = known.fate(&name.path(dir)).ok()??;
            Some(Missing { name: *name, fate })
        });
        missing.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn fate(&self, path: &Path) -> io::Result<Option<Fate>> {
        let own = self.file.metadata()?;
        match std::fs::metadata(path) {
            Ok(found) if self.has_number && !is_same(&own, &found) => Ok(Some(Fate::Replaced)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) && own.nlink() == 0 => Ok(Some(Fate::Removed)),
            Err(error) if is_gone(&error) => Ok(Some(Fate::Renamed)),
            Err(error) => Err(error),
        }
    }
}

/// Whether the path leads to this open directory. `None` if that is unknown.
pub fn leads_to(path: &Path, directory: &File) -> Option<bool> {
    match (std::fs::metadata(path), directory.metadata()) {
        (Ok(found), Ok(own)) => Some(is_same(&found, &own)),
        (Err(error), _) if is_gone(&error) => Some(false),
        _ => None,
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
