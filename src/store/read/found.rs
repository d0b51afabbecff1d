//! What is found in a data directory: its files, what was read of them, and where reading ended.

use std::path::{Path, PathBuf};

use crate::clock::{Clock, Micros, Reading};
use crate::error::{Error, Kind, Result};
use crate::store::files::disk::ReadDisk;
use crate::store::files::names::{Name, RESTORING};
use crate::store::format::record::{Answer, Entry, Event, HoldEntry, PatternTotals};

/// Takes what is read, in the order of the log.
pub trait Replay {
    /// The snapshot of this number comes first; `complete` when no marker follows it.
    fn snapshot(&mut self, number: u64, complete: bool, limits: u64);
    /// One limit of the snapshot. `Err` says why it cannot be.
    fn entry(&mut self, entry: Entry<'_>) -> std::result::Result<(), String>;
    /// What the snapshot says of the keys of a pattern, after its entries. `Err` says why it
    /// cannot be.
    fn pattern_totals(&mut self, totals: PatternTotals) -> std::result::Result<(), String>;
    /// One hold of the snapshot, in no order with its entries. `Err` says why it cannot be.
    fn hold(&mut self, hold: HoldEntry<'_>) -> std::result::Result<(), String>;
    /// One answer that the snapshot keeps. `Err` says why it cannot be.
    fn answer(&mut self, answer: Answer<'_>) -> std::result::Result<(), String>;
    /// One event of the log, or the record of the clock in a snapshot. `Err` says why it cannot be.
    fn event(&mut self, event: Event<'_>) -> std::result::Result<(), String>;
    /// A spent event. Nearly all of a log are such.
    fn spent(&mut self, id: u64, cost: u64, at: Micros) -> std::result::Result<(), String> {
        self.event(Event::Spent { id, cost, at })
    }
    /// The log ends here. `Err` says why it must not end yet.
    fn end(&mut self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// A torn end that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub file: PathBuf,
    /// Where its last good frame ends.
    pub offset: u64,
    /// How many bytes after that are not zero-filled space.
    pub bytes: u64,
}

/// The end of a log that was closed cleanly, and can be appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanEnd {
    /// Number of the segment.
    pub number: u64,
    /// Its salt.
    pub salt: u64,
    /// Where its last frame ends.
    pub length: u64,
    /// Where the file ends: after the copy of the last mark, if it has one.
    pub file_length: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Id of the data directory; `None` for an empty one.
    pub directory: Option<[u8; 16]>,
    /// Number of the snapshot that was read.
    pub snapshot: Option<u64>,
    /// Its size in bytes, or 0.
    pub snapshot_bytes: u64,
    /// Numbers of the segments that were read.
    pub segments: Vec<u64>,
    /// Their size without zero-filled space, in bytes.
    pub log_bytes: u64,
    /// Where the last frame of the last one ends.
    pub last_end: u64,
    /// Events that were read.
    pub events: u64,
    /// Frames of segments that were read, without marks.
    pub frames: u64,
    /// Sequence number of the next event.
    pub next_sequence: u64,
    /// The latest instant in snapshot and log.
    pub last_instant: Micros,
    /// The last reading of the clocks in them.
    pub clock: Option<Reading>,
    /// A torn end, if there is one.
    pub torn: Option<Torn>,
    /// Set when the log was closed cleanly.
    pub clean: Option<CleanEnd>,
    /// Files of ours that count for nothing: unfinished ones, and those that the snapshot replaces.
    pub leftovers: Vec<PathBuf>,
    /// The highest number in use, of a segment or snapshot.
    pub highest_number: u64,
}

impl Recovered {
    /// Lets the clock go on where this ends: no instant from now on is less than the last one, and what has elapsed
    /// since the clocks were last noted has elapsed for limits too. After that [`Clock::ahead`] says whether the log
    /// is ahead of the system clock.
    pub fn resume(&self, clock: &Clock) {
        clock.resume(self.clock.as_ref(), self.last_instant);
    }

    /// Notes a reading of the clocks. What a snapshot ends with may be later than what follows it in the log.
    pub(super) fn note(&mut self, reading: Reading) {
        self.last_instant = self.last_instant.max(reading.at);
        if self.clock.is_none_or(|before| before.at <= reading.at) {
            self.clock = Some(reading);
        }
    }
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it; `None` when the file is missing.
    pub offset: Option<u64>,
    /// What is wrong there.
    pub what: String,
}

impl From<Damage> for Error {
    fn from(damage: Damage) -> Error {
        Error::new(Kind::Corrupt, format!("{damage}; nothing was changed; {WAY_OUT}"))
    }
}

impl Damage {
    /// At this offset.
    pub fn at(file: &Path, offset: u64, what: impl Into<String>) -> Damage {
        Damage { file: file.to_owned(), offset: Some(offset), what: what.into() }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.display();
        match self.offset {
            Some(offset) => write!(f, "{file} is damaged at offset {offset}: {}", self.what),
            None => write!(f, "{file} is missing: {}", self.what),
        }
    }
}

/// What to do about corruption.
const WAY_OUT: &str =
    "restore the file from a backup, or save what comes before it into a new directory with `flint log repair`";

/// Why reading ended early.
#[derive(Debug)]
pub enum Stop {
    /// At a damaged place: what is before it was read.
    Damaged(Damage),
    /// Something else.
    Failed(Error),
}

impl From<Damage> for Stop {
    fn from(damage: Damage) -> Stop {
        Stop::Damaged(damage)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Error {
        match stop {
            Stop::Damaged(damage) => damage.into(),
            Stop::Failed(error) => error,
        }
    }
}

pub type Step<T> = std::result::Result<T, Stop>;

/// Our files in a data directory.
#[derive(Debug, Default)]
pub struct Files {
    /// Numbers of the snapshots, ascending.
    pub snapshots: Vec<u64>,
    /// Numbers of the segments, ascending.
    pub segments: Vec<u64>,
    /// Files that count for nothing.
    pub unfinished: Vec<PathBuf>,
}

impl Files {
    /// # Errors
    /// `corrupt` while a backup is being restored into it, or after that was interrupted; `io`.
    pub fn list(dir: &Path, disk: &dyn ReadDisk) -> Result<Files> {
        let mut files = Files::default();
        for name in disk.list(dir).map_err(|error| Error::io("list", dir, &error))? {
            if name == RESTORING {
                let what = format!("a restore of a backup into {} was interrupted", dir.display());
                return Err(Error::new(Kind::Corrupt, format!("{what}; restore it again, or remove the directory")));
            }
            match Name::parse(&name) {
                Some(Name::Snapshot(number)) => files.snapshots.push(number),
                Some(Name::Segment(number)) => files.segments.push(number),
                None if Name::is_unfinished(&name) => files.unfinished.push(dir.join(&name)),
                None => {}
            }
        }
        files.snapshots.sort_unstable();
        files.segments.sort_unstable();
        Ok(files)
    }

    /// The segments that follow a snapshot, or all of them.
    pub fn after(&self, snapshot: Option<u64>) -> &[u64] {
        let first = snapshot.unwrap_or(0);
        &self.segments[self.segments.partition_point(|number| *number < first)..]
    }
}
