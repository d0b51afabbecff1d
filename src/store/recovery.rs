//! Reading a data directory: the newest snapshot, then the segments behind it, record by record.
//!
//! Owns: the decision whether a damaged place is a torn end or corruption. It changes no file: what is found goes to a
//! [`Replay`] and into [`Recovered`], and the caller decides what to write.
//!
//! A place in the last segment where a frame should begin and none that belongs does is
//! - the end, if nothing but zeros follows;
//! - corruption, if the sequence number expected there is at or below the highest durable mark of any valid frame in
//!   the segment, before the place or behind it: a record that was confirmed is missing;
//! - a torn end otherwise: a crash while appending, and nothing that was confirmed is missing.
//!
//! In an older segment it is always corruption, and so is a segment that ends before the next one begins.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::frame::{self, BadHeader, FRAME_HEADER, FileHeader, FileKind, VERSION};
use super::names::Name;
use super::record::{Decoder, Entry, Event, Record};
use crate::clock::Millis;
use crate::error::{Error, Kind, Result};

/// Who takes what is read, in the order of the log.
pub trait Replay {
    /// The snapshot of this number comes first; `complete` when no marker follows it.
    fn snapshot(&mut self, number: u64, complete: bool, limits: u64);
    /// One limit of the snapshot. `Err` says why it can't be.
    fn entry(&mut self, entry: Entry<'_>) -> std::result::Result<(), String>;
    /// One event of the log. `Err` says why it can't be.
    fn event(&mut self, event: Event<'_>) -> std::result::Result<(), String>;
}

/// A torn end that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub file: PathBuf,
    /// Where its last good frame ends.
    pub offset: u64,
    /// How many bytes behind that are not zero-filled space.
    pub bytes: u64,
}

/// The end of a log that was closed in good order, and can be appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanEnd {
    /// Number of the segment.
    pub number: u64,
    /// Its salt.
    pub salt: u64,
    /// Its length.
    pub length: u64,
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
    /// Events that were read.
    pub events: u64,
    /// Sequence number of the next event.
    pub next_sequence: u64,
    /// The latest instant in snapshot and log.
    pub last_instant: Millis,
    /// A torn end, if there is one.
    pub torn: Option<Torn>,
    /// Set when the log was closed in good order.
    pub clean: Option<CleanEnd>,
    /// Files of ours that count for nothing: unfinished ones and those that the snapshot stands for.
    pub leftovers: Vec<PathBuf>,
    /// The highest number in use, of a segment or snapshot.
    pub highest_number: u64,
}

/// Reads the directory into `replay`.
///
/// # Errors
/// `corrupt`, naming file and offset; `unsupported` for a newer format; `io`.
pub fn recover(dir: &Path, disk: &dyn Disk, replay: &mut dyn Replay) -> Result<Recovered> {
    let mut found = Recovered { next_sequence: 1, ..Recovered::default() };
    let (snapshots, mut segments) = list(dir, &mut found)?;
    if let Some((&newest, older)) = snapshots.split_last() {
        found.snapshot = Some(newest);
        found.leftovers.extend(older.iter().map(|number| Name::Snapshot(*number).path(dir)));
        let complete = read_snapshot(dir, disk, newest, replay, &mut found)?;
        let behind = segments.partition_point(|number| *number < newest);
        found.leftovers.extend(segments.drain(..behind).map(|number| Name::Segment(number).path(dir)));
        if segments.is_empty() && !complete {
            return Err(missing(dir, newest));
        }
    }
    let first = found.snapshot.unwrap_or(1);
    for (expected, number) in (first..).zip(&segments) {
        if *number != expected {
            return Err(missing(dir, expected));
        }
        let last = *number == segments[segments.len() - 1];
        read_segment(dir, disk, *number, last, replay, &mut found)?;
    }
    found.segments = segments;
    Ok(found)
}

/// Lists our files: numbers of snapshots and of segments, ascending. Unfinished ones become leftovers.
fn list(dir: &Path, found: &mut Recovered) -> Result<(Vec<u64>, Vec<u64>)> {
    let failed = |error: std::io::Error| Error::io("list", dir, &error);
    let (mut snapshots, mut segments) = (Vec::new(), Vec::new());
    for item in std::fs::read_dir(dir).map_err(failed)? {
        let name = item.map_err(failed)?.file_name();
        match Name::parse(&name) {
            Some(Name::Snapshot(number)) => snapshots.push(number),
            Some(Name::Segment(number)) => segments.push(number),
            None if Name::is_unfinished(&name) => found.leftovers.push(dir.join(&name)),
            None => {}
        }
    }
    snapshots.sort_unstable();
    segments.sort_unstable();
    found.highest_number = snapshots.last().max(segments.last()).copied().unwrap_or(0);
    Ok((snapshots, segments))
}

fn missing(dir: &Path, number: u64) -> Error {
    let path = Name::Segment(number).path(dir);
    Error::new(
        Kind::Corrupt,
        format!("{} is missing and with it a part of the log; restore it from a backup", path.display()),
    )
}

fn corrupt(path: &Path, offset: u64, what: &str) -> Error {
    Error::new(
        Kind::Corrupt,
        format!(
            "{} is damaged at offset {offset}: {what}; nothing was changed; restore the file from a backup",
            path.display()
        ),
    )
}

fn read_header(path: &Path, file: &[u8], kind: FileKind, number: u64, found: &mut Recovered) -> Result<FileHeader> {
    let header = FileHeader::decode(file, kind).map_err(|bad| match bad {
        BadHeader::Damaged(what) => corrupt(path, 0, what),
        BadHeader::Newer(version) => Error::new(
            Kind::Unsupported,
            format!(
                "{} has format version {version}, and this flint reads up to version {VERSION}; use a newer flint",
                path.display()
            ),
        ),
    })?;
    if header.number != number {
        return Err(corrupt(path, 16, &format!("its header says that it is file number {}", header.number)));
    }
    match found.directory {
        Some(directory) if directory != header.directory => {
            Err(corrupt(path, 24, "its header says that it belongs to another data directory"))
        }
        _ => {
            found.directory = Some(header.directory);
            Ok(header)
        }
    }
}

fn read_snapshot(
    dir: &Path,
    disk: &dyn Disk,
    number: u64,
    replay: &mut dyn Replay,
    found: &mut Recovered,
) -> Result<bool> {
    let path = Name::Snapshot(number).path(dir);
    let file = disk.read(&path).map_err(|error| Error::io("read", &path, &error))?;
    let header = read_header(&path, &file, FileKind::Snapshot, number, found)?;
    replay.snapshot(number, header.complete, header.first);
    let mut offset = frame::FILE_HEADER;
    let (mut records, mut limits, mut ended) = (0, 0, false);
    while offset < file.len() {
        let Some((head, payload)) = frame::open(&file[offset..], header.salt) else {
            return Err(corrupt(&path, offset as u64, "no valid frame begins there"));
        };
        if head.first != records || ended {
            return Err(corrupt(&path, offset as u64, "a frame is out of its place"));
        }
        let mut decoder = Decoder::new(payload, head.base);
        for _ in 0..head.records {
            let at = offset + FRAME_HEADER + payload.len() - decoder.remaining();
            let fail = |what: &str| corrupt(&path, at as u64, what);
            match decoder.read().map_err(fail)? {
                Record::Entry(entry) if !ended => {
                    limits += 1;
                    replay.entry(entry).map_err(|what| fail(&what))?;
                }
                Record::End { limits: expected, now } if !ended => {
                    ended = true;
                    found.last_instant = found.last_instant.max(now);
                    if limits != expected || limits != header.first {
                        return Err(fail(&format!("it should hold {expected} limits and holds {limits}")));
                    }
                }
                _ => return Err(fail("a record that has no place in a snapshot")),
            }
        }
        if !decoder.is_empty() {
            return Err(corrupt(&path, offset as u64, "a frame holds more than its records"));
        }
        records += u64::from(head.records);
        offset += FRAME_HEADER + payload.len();
    }
    if !ended {
        return Err(corrupt(&path, offset as u64, "the end of the snapshot is missing"));
    }
    found.snapshot_bytes = file.len() as u64;
    Ok(header.complete)
}

fn read_segment(
    dir: &Path,
    disk: &dyn Disk,
    number: u64,
    last: bool,
    replay: &mut dyn Replay,
    found: &mut Recovered,
) -> Result<()> {
    let path = Name::Segment(number).path(dir);
    let file = disk.read(&path).map_err(|error| Error::io("read", &path, &error))?;
    let header = read_header(&path, &file, FileKind::Segment, number, found)?;
    if found.snapshot == Some(number) {
        // What came before is in the snapshot.
        found.next_sequence = header.first;
    }
    if header.first != found.next_sequence {
        return Err(corrupt(
            &path,
            48,
            &format!(
                "it begins with record {} where record {} should follow: the end of the segment before it is missing",
                header.first, found.next_sequence
            ),
        ));
    }
    let mut offset = frame::FILE_HEADER;
    let mut durable = header.first - 1;
    let mut clean = false;
    loop {
        let rest = &file[offset..];
        match frame::open(rest, header.salt) {
            Some((head, payload)) if head.first == found.next_sequence => {
                durable = durable.max(head.durable);
                clean = head.clean;
                read_events(&path, offset, head.records, payload, head.base, replay, found)?;
                offset += FRAME_HEADER + payload.len();
            }
            misplaced => {
                if misplaced.is_none() && rest.iter().all(|byte| *byte == 0) {
                    break;
                }
                let expected = found.next_sequence;
                if !last {
                    return Err(corrupt(&path, offset as u64, &format!("record {expected} should begin there")));
                }
                let durable = durable.max(frame::highest_durable(rest, header.salt).unwrap_or(0));
                if durable >= expected {
                    return Err(corrupt(
                        &path,
                        offset as u64,
                        &format!("record {expected} should begin there, and records up to {durable} were confirmed"),
                    ));
                }
                let bytes = rest.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
                found.torn = Some(Torn { file: path, offset: offset as u64, bytes });
                clean = false;
                break;
            }
        }
    }
    found.log_bytes += offset as u64;
    if last && clean && offset == file.len() {
        found.clean = Some(CleanEnd { number, salt: header.salt, length: offset as u64 });
    }
    Ok(())
}

fn read_events(
    path: &Path,
    offset: usize,
    records: u32,
    payload: &[u8],
    base: Millis,
    replay: &mut dyn Replay,
    found: &mut Recovered,
) -> Result<()> {
    let mut decoder = Decoder::new(payload, base);
    for _ in 0..records {
        let at = (offset + FRAME_HEADER + payload.len() - decoder.remaining()) as u64;
        let Record::Event(event) = decoder.read().map_err(|what| corrupt(path, at, what))? else {
            return Err(corrupt(path, at, "a record that has no place in the log"));
        };
        if let Some(instant) = event.at() {
            found.last_instant = found.last_instant.max(instant);
        }
        replay.event(event).map_err(|what| corrupt(path, at, &what))?;
    }
    if !decoder.is_empty() {
        return Err(corrupt(path, offset as u64, "a frame holds more than its records"));
    }
    found.next_sequence += u64::from(records);
    found.events += u64::from(records);
    Ok(())
}
