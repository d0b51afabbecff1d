//! `log repair`: a way out of corruption that copies. What can still be read of a damaged data directory is written
//! into a new one; the damaged one is only read.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::inspect::verify;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::limiter::core::shard_of;
use crate::limiter::entry::Entry;
use crate::limiter::recovery::replay::Replayed;
use crate::store::{
    Access, Damage, DirectoryLock, Disk, Lost, Opening, Policy, Recovered, RepairRead, SystemDisk, read_for_repair,
    record,
};

/// What a repair has taken over, and what it could not.
#[derive(Debug)]
pub struct Repair {
    to: PathBuf,
    limits: u64,
    found: Recovered,
    damages: Vec<Damage>,
    lost: Lost,
    lost_limits: u64,
}

/// Writes what can be recovered of the data directory `dir` into `to`, which must be empty or not exist.
///
/// # Errors
/// `invalid_argument` when `to` is not empty or lies within `dir`; `corrupt` when nothing can be recovered; `locked`,
/// `unsupported`, `io`.
pub fn repair(dir: &Path, to: &Path) -> Result<Repair> {
    let _lock = DirectoryLock::acquire(dir, Access::Read)?;
    validate_destination(dir, to)?;
    let fresh = |lenient| if lenient { Replayed::lenient() } else { Replayed::new() };
    let (replayed, read) = read_for_repair(dir, &SystemDisk, fresh)?;
    let entries = replayed.map(latest_of_each_key).unwrap_or_default();
    if entries.is_empty() {
        return Err(nothing(dir, &read));
    }
    write(to, &entries, &read.found)?;
    // What was written must be a whole data directory, or this was no repair.
    verify(to)?;
    let limits = entries.len() as u64;
    let RepairRead { found, damages, lost, lost_limits } = read;
    Ok(Repair { to: to.to_owned(), limits, found, damages, lost, lost_limits })
}

fn validate_destination(dir: &Path, to: &Path) -> Result<()> {
    let wrong = |what: &str| Err(Error::invalid(format!("to {} {what}; name a new directory", to.display())));
    // The nearest thing that exists, so that `a/new/../..` and symbolic links are seen through.
    let existing = to.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let canonical = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.canonicalize().map_err(|error| Error::io("find", path, &error))
    };
    if canonical(existing)?.starts_with(canonical(dir)?) {
        return wrong("lies within the damaged data directory");
    }
    match std::fs::read_dir(to) {
        Ok(mut items) => match items.any(|item| item.is_ok_and(|item| item.file_name() != crate::store::LOCK)) {
            true => wrong("is not empty"),
            false => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => wrong("is not a directory"),
        Err(error) => Err(Error::io("list", to, &error)),
    }
}

/// The limits. Where records are missing a key may stand there twice: the later limit counts.
fn latest_of_each_key(replayed: Replayed) -> Vec<Entry> {
    let mut latest: HashMap<Box<str>, Box<Entry>> = HashMap::new();
    for entry in replayed.remains() {
        match latest.get_mut(&entry.key) {
            Some(other) if other.id() > entry.id() => {}
            Some(other) => *other = entry,
            None => drop(latest.insert(entry.key.clone(), entry)),
        }
    }
    latest.into_values().map(|entry| *entry).collect()
}

fn nothing(dir: &Path, read: &RepairRead) -> Error {
    match read.damages.as_slice() {
        [] => Error::new(
            Kind::Io,
            format!("{} holds no limits, so there is nothing to recover; name another data directory", dir.display()),
        ),
        damages => {
            let places: Vec<String> = damages.iter().map(Damage::to_string).collect();
            let what = "nothing can be recovered; restore the directory from a backup";
            Error::new(Kind::Corrupt, format!("{}; {what}", places.join("; ")))
        }
    }
}

/// Writes a new data directory: a snapshot of these limits and an empty segment.
fn write(to: &Path, entries: &[Entry], found: &Recovered) -> Result<()> {
    let lock = DirectoryLock::acquire(to, Access::Create)?;
    let clock = Clock::system();
    clock.raise(found.last_instant);
    let begin = Recovered {
        highest_number: found.highest_number,
        next_sequence: found.next_sequence,
        last_instant: found.last_instant,
        ..Recovered::default()
    };
    let hasher = std::hash::RandomState::new();
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let mut opening = Opening::begin(to, &disk, lock, begin, clock.now(), Policy::default())?;
    for (entry, id) in entries.iter().zip(1..) {
        let shard = shard_of(hasher.hash_one(&entry.key));
        opening.entry(&record::Entry { id, shard: shard as u8, ..entry.to_record() })?;
    }
    let store = opening.finish()?;
    store.log().stop()
}

impl Repair {
    /// As a JSON value.
    pub fn to_json(&self) -> Value {
        let damage = |damage: &Damage| json!({"file": damage.file.display().to_string(), "offset": damage.offset, "what": damage.what});
        let found = &self.found;
        json!({
            "ok": true,
            "to": self.to.display().to_string(),
            "kept": {"limits": self.limits, "snapshot": found.snapshot, "frames": found.frames,
                "events": found.events, "last_sequence": found.next_sequence.saturating_sub(1)},
            "damaged": self.damages.iter().map(damage).collect::<Vec<_>>(),
            "lost": {"limits": self.lost_limits, "bytes": self.lost.bytes, "frames": self.lost.frames,
                "events": self.lost.events, "last_sequence": self.lost.last_sequence},
        })
    }

    /// In words, line by line.
    pub fn lines(&self) -> Vec<String> {
        let (found, lost) = (&self.found, &self.lost);
        let last = found.next_sequence.saturating_sub(1);
        let snapshot = found.snapshot.map_or_else(|| "no snapshot".to_owned(), |number| format!("snapshot {number}"));
        let mut lines = vec![format!(
            "kept: {}, from {snapshot} and {} in {}, up to record {last}",
            count(self.limits, "limit"),
            count(found.events, "event"),
            count(found.frames, "frame")
        )];
        lines.extend(self.damages.iter().map(|damage| format!("damaged: {damage}")));
        if self.lost_limits > 0 {
            lines.push(format!("lost: {} of the snapshot", count(self.lost_limits, "limit")));
        }
        if lost.bytes > 0 {
            let upto = lost.last_sequence.map_or_else(String::new, |last| format!(", up to record {last}"));
            lines.push(format!(
                "lost: {} of the log, among them {} that can be read, with {}{upto}",
                count(lost.bytes, "byte"),
                count(lost.frames, "frame"),
                count(lost.events, "event")
            ));
        }
        if self.damages.is_empty() {
            lines.push("lost: nothing".to_owned());
        }
        lines.push(format!("written to {}; the old directory is as it was", self.to.display()));
        lines
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
