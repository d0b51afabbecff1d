//! `log repair`: a way out of corruption that copies. What can still be read of a damaged data directory is written
//! into a new one; the damaged one is only read.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::inspect::verify;
use crate::clock::{Clock, rfc3339};
use crate::error::{Error, Kind, Result};
use crate::limit::Live;
use crate::limiter::core::shard_of;
use crate::limiter::entry::{Entry, Shares, Source};
use crate::limiter::held::book::Pledge;
use crate::limiter::kept::shelf::Kept;
use crate::limiter::recovery::by_id::ById;
use crate::limiter::recovery::replay::{Found, Replayed};
use crate::limiter::registry::Registry;
use crate::store::{
    Access, Damage, DirectoryLock, Disk, Lost, Opening, Policy, Recovered, RepairRead, Rewind, SystemDisk,
    read_for_repair, record,
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
    rewound: Option<Rewind>,
}

/// Writes what can be recovered of the data directory `dir` into `to`, which must be empty or not exist.
///
/// # Errors
/// `invalid_argument` when `to` is not empty or lies within `dir`; `corrupt` when nothing can be recovered; `locked`,
/// `unsupported`, `io`.
pub fn repair(dir: &Path, to: &Path) -> Result<Repair> {
    repair_at(dir, to, &Clock::system())
}

/// As [`repair`], by this clock.
#[doc(hidden)]
pub fn repair_at(dir: &Path, to: &Path, clock: &Clock) -> Result<Repair> {
    copy(dir, to, clock, false)
}

/// As [`repair`], for a log that is ahead of the system clock: takes one offset off every instant, so that the last one
/// is the system clock's. Calendar windows keep their counts and end where today's period does.
///
/// # Errors
/// As [`repair`]; `invalid_argument` when the log is not ahead of the system clock.
pub fn rewind(dir: &Path, to: &Path) -> Result<Repair> {
    rewind_at(dir, to, &Clock::system())
}

/// As [`rewind`], by this clock.
#[doc(hidden)]
pub fn rewind_at(dir: &Path, to: &Path, clock: &Clock) -> Result<Repair> {
    copy(dir, to, clock, true)
}

fn copy(dir: &Path, to: &Path, clock: &Clock, rewinds: bool) -> Result<Repair> {
    let _lock = DirectoryLock::acquire(dir, Access::Read)?;
    validate_destination(dir, to)?;
    let registry = Registry::new(0);
    let hasher = RandomState::new();
    let fresh = |lenient| match lenient {
        true => Replayed::lenient(&registry, &hasher),
        false => Replayed::new(&registry, &hasher),
    };
    let (replayed, read) = read_for_repair(dir, &SystemDisk, fresh)?;
    let Some(keys) = replayed.map(Replayed::finish).filter(|found| found.keys.len() > 0) else {
        return Err(nothing(dir, &read));
    };
    let rewound = match rewinds {
        true => Some(Rewind::of(&read.found, clock).ok_or_else(|| not_ahead(dir))?),
        false => None,
    };
    let limits = write(to, keys, &read.found, clock, rewound)?;
    // What was written must be a whole data directory, or the repair has failed.
    verify(to)?;
    let RepairRead { found, damages, lost, lost_limits } = read;
    Ok(Repair { to: to.to_owned(), limits, found, damages, lost, lost_limits, rewound })
}

fn not_ahead(dir: &Path) -> Error {
    Error::invalid(format!(
        "--rewind-clock is for a log that is ahead of the system clock, and the log in {} is not",
        dir.display()
    ))
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

/// Patterns first, then keys. A key may have several entries: it came, went and came again, or records are missing. The
/// latest one counts.
fn latest_of_each_key(keys: &ById) -> Vec<&Entry> {
    let mut latest: HashMap<&str, &Entry> = HashMap::new();
    for entry in keys.iter() {
        let known = latest.entry(&entry.key).or_insert(entry);
        if known.id() < entry.id() {
            *known = entry;
        }
    }
    let mut entries: Vec<&Entry> = latest.into_values().collect();
    entries.sort_unstable_by_key(|entry| (entry.pattern_text().is_none(), entry.id()));
    entries
}

fn nothing(dir: &Path, read: &RepairRead) -> Error {
    match read.damages.as_slice() {
        [] => Error::new(
            Kind::Io,
            format!("{} has no limits, so there is nothing to recover; name another data directory", dir.display()),
        ),
        damages => {
            let places: Vec<String> = damages.iter().map(Damage::to_string).collect();
            let what = "nothing can be recovered; restore the directory from a backup";
            Error::new(Kind::Corrupt, format!("{}; {what}", places.join("; ")))
        }
    }
}

/// Writes a new data directory: a snapshot of these keys and an empty segment. Returns how many there are.
fn write(to: &Path, keys: Found, found: &Recovered, clock: &Clock, rewound: Option<Rewind>) -> Result<u64> {
    let lock = DirectoryLock::acquire(to, Access::Create)?;
    let clock = clock.restarted();
    let mut begin = match &rewound {
        Some(rewind) => rewind.found(found),
        None => Recovered {
            highest_number: found.highest_number,
            next_sequence: found.next_sequence,
            last_instant: found.last_instant,
            clock: found.clock,
            ..Recovered::default()
        },
    };
    // The ids of holds are made with that of the directory: a client knows them still.
    begin.directory = found.directory;
    begin.resume(&clock);
    let hasher = RandomState::new();
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let mut opening = Opening::begin(to, &disk, lock, begin, &clock, Policy::default())?;
    let entries = latest_of_each_key(&keys.keys);
    let mut slots = vec![None; keys.shares.slots()];
    for (entry, id) in entries.iter().zip(1..) {
        let Some(text) = entry.pattern_text() else { break };
        for (slot, totals) in keys.shares.of(entry.id(), text) {
            slots[slot as usize] = Some(id);
            opening.pattern_totals(&record::PatternTotals { id, totals: totals.to_numbers() })?;
        }
    }
    let mut ids = HashMap::new();
    let mut ends = Live::default();
    for (entry, id) in entries.iter().zip(1..) {
        let shard = shard_of(hasher.hash_one(&*entry.key));
        let mut record = record::Entry { id, shard: shard as u8, ..entry.to_record(&Shares::default()) };
        if let Source::Pattern(slot) = entry.source() {
            // Of a pattern that is lost its keys are kept as if requests had brought their values.
            record.source = slots[slot as usize].map_or(record::Source::Request, record::Source::Pattern);
        }
        if let Some(rewind) = &rewound {
            rewind.entry(&mut record, &mut ends);
        }
        opening.entry(&record)?;
        ids.insert(entry.id(), id);
    }
    let holds = keys.holds.iter().map(Pledge::to_record);
    write_tables(&mut opening, holds, keys.answers.iter().map(Kept::to_record), &ids, rewound.as_ref())?;
    let store = opening.finish()?;
    store.stop()?;
    Ok(entries.len() as u64)
}

/// Writes the holds and answers. `ids` has the new id of each key by its old one; an item of a key that is gone gets 0,
/// which no key has, so that nothing is given back for it.
fn write_tables<'a>(
    opening: &mut Opening,
    holds: impl Iterator<Item = record::HoldEntry<'a>>,
    answers: impl Iterator<Item = record::Answer<'a>>,
    ids: &HashMap<u64, u64>,
    rewound: Option<&Rewind>,
) -> Result<()> {
    for mut hold in holds {
        for (id, ..) in &mut hold.items {
            *id = ids.get(id).copied().unwrap_or(0);
        }
        if let Some(rewind) = rewound {
            rewind.hold(&mut hold);
        }
        opening.hold(&hold)?;
    }
    for mut answer in answers {
        if let Some(rewind) = rewound {
            rewind.answer(&mut answer);
        }
        opening.answer(&answer)?;
    }
    Ok(())
}

impl Repair {
    /// As a JSON value.
    pub fn to_json(&self) -> Value {
        let damage = |damage: &Damage| json!({"file": damage.file.display().to_string(), "offset": damage.offset, "what": damage.what});
        let found = &self.found;
        let mut told = json!({
            "ok": true,
            "to": self.to.display().to_string(),
            "kept": {"limits": self.limits, "snapshot": found.snapshot, "frames": found.frames,
                "events": found.events, "last_sequence": found.next_sequence.saturating_sub(1)},
            "damaged": self.damages.iter().map(damage).collect::<Vec<_>>(),
            "lost": {"limits": self.lost_limits, "bytes": self.lost.bytes, "frames": self.lost.frames,
                "events": self.lost.events, "missing": self.lost.missing, "last_sequence": self.lost.last_sequence},
        });
        if let Some(rewind) = &self.rewound {
            told["rewound"] = json!({"from": rfc3339(rewind.from).to_string(), "to": rfc3339(rewind.to).to_string()});
        }
        told
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
                "lost: {} of the log, including {} that can be read, with {}{upto}",
                count(lost.bytes, "byte"),
                count(lost.frames, "frame"),
                count(lost.events, "event")
            ));
        }
        if lost.missing > 0 {
            let upto = lost.last_sequence.map_or_else(String::new, |last| format!(", up to record {last}"));
            lines.push(format!("lost: {} that are in no file any more{upto}", count(lost.missing, "record")));
        }
        if let Some(Rewind { from, to }) = self.rewound {
            lines.push(format!("rewound: from {} to {}", rfc3339(from), rfc3339(to)));
        }
        if self.damages.is_empty() {
            lines.push("lost: nothing".to_owned());
        }
        lines.push(format!("written to {}; the old directory was not changed", self.to.display()));
        lines
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::offline::inspect::dump;

    #[test]
    fn holds_and_answers_are_kept_under_the_new_ids_and_moved() {
        let hour = 3_600_000_000;
        let to = 1_769_860_800_000_000;
        let rewind = Rewind { from: to + hour, to };
        let hold = |number, ended| record::HoldEntry {
            hold: number,
            at: to + hour - 5,
            until: to + hour + 5,
            ttl: 10,
            ended,
            costs: if ended.is_some() { vec![1, 2] } else { Vec::new() },
            items: vec![(70, 3, false, "a"), (80, 4, true, "gone")],
        };
        let answer = record::Answer { key: [1; 16], request: [2; 16], at: to + hour, answer: "{}" };
        for (rewound, back) in [(None, 0), (Some(&rewind), hour)] {
            let dir = tempfile::tempdir().unwrap();
            let lock = DirectoryLock::acquire(dir.path(), Access::Create).unwrap();
            let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
            let found = Recovered { highest_number: 1, next_sequence: 1, ..Recovered::default() };
            let clock = Clock::manual(to);
            let mut opening = Opening::begin(dir.path(), &disk, lock, found, &clock, Policy::default()).unwrap();
            let holds = [hold(7, None), hold(8, Some(to + hour))].into_iter();
            let ids = HashMap::from([(70, 1)]);
            write_tables(&mut opening, holds, [answer].into_iter(), &ids, rewound).unwrap();
            opening.finish().unwrap().log().stop().unwrap();
            let mut lines = Vec::new();
            dump(dir.path(), &mut |line| lines.push(line.clone())).unwrap();
            lines.retain(|line| line["event"] == "hold" || line["event"] == "answer");
            let at = |at: u64| rfc3339(at + hour - back).to_string();
            let told = |number: u64, settled: bool| {
                let mut line = json!({"event": "hold", "hold": number, "at": at(to - 5), "until": at(to + 5),
                    "items": [{"id": 1, "key": "a", "cost": 3}, {"id": 0, "key": "gone", "cost": 4, "slots": true}]});
                if settled {
                    line["ended"] = json!(at(to));
                    line["items"][0]["settled"] = json!(1);
                    line["items"][1]["settled"] = json!(2);
                }
                line
            };
            assert_eq!(lines, [told(7, false), told(8, true), json!({"event": "answer", "at": at(to)})]);
        }
    }
}
