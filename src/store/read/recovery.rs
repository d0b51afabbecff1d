//! Reading a data directory: the newest snapshot, then the segments after it, record by record.
//!
//! Owns: the decision whether a damaged place is a torn end or corruption. It changes no file: what is found goes to a
//! [`Replay`] and into [`Recovered`], and the caller decides what to write.
//!
//! A place in the last segment where a frame should begin, and none begins that belongs there, is
//! - corruption, if the sequence number expected there is at or below the highest durable mark of any valid frame in
//!   the segment, before the place or after it: a record that was confirmed is missing;
//! - the end, if only zeros follow, and among them at most one mark (the copy of the last one);
//! - a torn end otherwise: a crash while appending, and nothing that was confirmed is missing.
//!
//! In an older segment a torn end is corruption too, and so is a segment that ends before the next one begins, and a
//! log that ends before the last record that it had when it was closed cleanly, which the lock file has.

use std::path::Path;

use super::found::{CleanEnd, Damage, Files, Recovered, Replay, Step, Stop, Torn};
use crate::error::{Error, Kind};
use crate::store::files::disk::ReadDisk;
use crate::store::files::lock::{Closed, parse_note};
use crate::store::files::names::{LOCK, Name};
use crate::store::format::decode::Decoder;
use crate::store::format::frame::{self, BadHeader, FRAME_HEADER, FileHeader, FileKind, FrameHeader, VERSION};
use crate::store::format::record::{Event, MAX_COUNTER, MIN_ENTRY, Record};

/// Reads the directory into `replay`.
///
/// # Errors
/// `corrupt`, naming file and offset; `unsupported` for another version of the format; `io`.
pub fn recover(dir: &Path, disk: &dyn ReadDisk, replay: &mut dyn Replay) -> Result<Recovered, Error> {
    let files = Files::list(dir, disk)?;
    let snapshot = files.snapshots.last().copied();
    let mut reader = Reader::new(dir, disk, replay);
    reader.read(&files, snapshot)?;
    let mut found = reader.found;
    let superseded = |number: &u64| snapshot.is_some_and(|snapshot| *number < snapshot);
    found.leftovers = files.unfinished;
    let old = files.snapshots.into_iter().filter(superseded).map(Name::Snapshot);
    let old = old.chain(files.segments.into_iter().filter(superseded).map(Name::Segment));
    found.leftovers.extend(old.map(|name| name.path(dir)));
    Ok(found)
}

/// Reads one history: a snapshot or none, and the segments that follow it.
pub(super) struct Reader<'a> {
    dir: &'a Path,
    disk: &'a dyn ReadDisk,
    replay: &'a mut dyn Replay,
    /// What was found so far.
    pub found: Recovered,
    /// Set to go on after damaged places of the snapshot, which are gathered here.
    pub skipped: Option<Vec<Damage>>,
    /// Limits that the snapshot should hold and that were not read.
    pub lost_limits: u64,
    /// Where the log ended when it was last closed cleanly, unless that is of another log.
    pub closed: Option<Closed>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(dir: &'a Path, disk: &'a dyn ReadDisk, replay: &'a mut dyn Replay) -> Reader<'a> {
        let found = Recovered { next_sequence: 1, ..Recovered::default() };
        // It gets everything that is read after it. What can't be read is not compared.
        let closed = disk.read(&dir.join(LOCK)).ok().and_then(|note| parse_note(&note).closed);
        Reader { dir, disk, replay, found, skipped: None, lost_limits: 0, closed }
    }

    /// Reads it up to the first damaged place.
    pub(super) fn read(&mut self, files: &Files, snapshot: Option<u64>) -> Step<()> {
        self.found.highest_number = files.snapshots.last().max(files.segments.last()).copied().unwrap_or(0);
        self.found.snapshot = snapshot;
        let mut end = 0;
        let segments = files.after(snapshot);
        if let Some(number) = snapshot {
            let complete = self.read_snapshot(number)?;
            if segments.is_empty() && !complete {
                return Err(self.missing(number));
            }
        }
        for (expected, number) in (snapshot.unwrap_or(1)..).zip(segments) {
            if *number != expected {
                return Err(self.missing(expected));
            }
            end = self.read_segment(*number, Some(number) == segments.last())?;
            self.found.segments.push(*number);
            self.found.last_end = end;
            if Some(number) == segments.last() {
                self.replay.end().map_err(|what| Damage::at(&Name::Segment(*number).path(self.dir), end, what))?;
            }
        }
        self.compare(end)
    }

    /// Compares the end of the log, at this offset of its last segment, with that at which it was closed.
    fn compare(&self, end: u64) -> Step<()> {
        let Some(closed) = self.closed else { return Ok(()) };
        let what = format!("records up to {} were there when the log was closed", closed.last);
        let has_it = self.found.segments.contains(&closed.segment);
        if self.found.highest_number < closed.segment || self.found.highest_number == closed.segment && !has_it {
            let file = Name::Segment(closed.segment).path(self.dir);
            return Err(Stop::Damaged(Damage { file, offset: None, what }));
        }
        match self.found.segments.last() {
            Some(last) if has_it && self.found.next_sequence <= closed.last => {
                let what = format!("record {} should begin there, and {what}", self.found.next_sequence);
                Err(Damage::at(&Name::Segment(*last).path(self.dir), end, what).into())
            }
            _ => Ok(()),
        }
    }

    fn missing(&self, number: u64) -> Stop {
        let file = Name::Segment(number).path(self.dir);
        Stop::Damaged(Damage { file, offset: None, what: "a part of the log is missing with it".to_owned() })
    }

    fn open(&mut self, path: &Path, kind: FileKind, number: u64) -> Step<(Vec<u8>, FileHeader)> {
        let file = self.disk.read(path).map_err(|error| Error::io("read", path, &error))?;
        let header = FileHeader::decode(&file, kind).map_err(|bad| match bad {
            BadHeader::Damaged(what) => Stop::from(Damage::at(path, 0, what)),
            BadHeader::Version(version) => {
                let what = match version > VERSION {
                    true => format!("this flint reads version {VERSION}; use a newer flint"),
                    false => {
                        "written by an older, unreleased Flint; nothing was changed; name another data directory, \
                              or look at this one with the flint that wrote it"
                            .to_owned()
                    }
                };
                let what = format!("{} has format version {version}: {what}", path.display());
                Stop::from(Error::new(Kind::Unsupported, what))
            }
        })?;
        if header.number != number {
            let what = format!("its header says that it is file number {}", header.number);
            return Err(Damage::at(path, 16, what).into());
        }
        match self.found.directory {
            Some(directory) if directory != header.directory => {
                Err(Damage::at(path, 24, "its header says that it belongs to another data directory").into())
            }
            _ => {
                self.found.directory = Some(header.directory);
                // The salt of a snapshot is another one.
                let is_other_file = |closed: &Closed| {
                    kind == FileKind::Segment && closed.segment == number && closed.salt != header.salt
                };
                self.closed =
                    self.closed.filter(|closed| closed.directory == header.directory && !is_other_file(closed));
                Ok((file, header))
            }
        }
    }

    /// Goes on after a damaged place of the snapshot, if that is wanted.
    fn skip(&mut self, damage: Damage) -> Result<(), Damage> {
        match &mut self.skipped {
            Some(skipped) => skipped.push(damage),
            None => return Err(damage),
        }
        Ok(())
    }

    fn has_skipped(&self) -> bool {
        self.skipped.as_ref().is_some_and(|skipped| !skipped.is_empty())
    }

    fn read_snapshot(&mut self, number: u64) -> Step<bool> {
        let path = Name::Snapshot(number).path(self.dir);
        let (file, header) = self.open(&path, FileKind::Snapshot, number)?;
        // More limits than fit into the file are not believed: room may be made for that many.
        let limits = header.first.min(file.len() as u64 / MIN_ENTRY);
        self.replay.snapshot(number, header.complete, limits);
        let mut place = SnapshotPlace { offset: frame::FILE_HEADER, ..SnapshotPlace::default() };
        while place.offset < file.len() {
            if let Err(damage) = self.snapshot_frame(&path, &file, &header, &mut place) {
                self.skip(damage)?;
                // The next frame that is valid by itself, wherever it begins.
                let rest = &file[place.offset + 1..];
                let Some((skip, next, _)) = frame::scan(rest, header.salt, FileKind::Snapshot).next() else { break };
                place.offset += 1 + skip;
                place.records = next.first;
            }
        }
        if !place.ended && !self.has_skipped() {
            self.skip(Damage::at(&path, place.offset as u64, "the end of the snapshot is missing"))?;
        }
        self.lost_limits = header.first.saturating_sub(place.limits);
        self.found.snapshot_bytes = file.len() as u64;
        Ok(header.complete)
    }

    /// Reads the frame at the place, and moves the place after it.
    fn snapshot_frame(
        &mut self,
        path: &Path,
        file: &[u8],
        header: &FileHeader,
        place: &mut SnapshotPlace,
    ) -> Result<(), Damage> {
        let offset = place.offset;
        let Some((head, payload)) = frame::open(&file[offset..], header.salt, FileKind::Snapshot) else {
            return Err(Damage::at(path, offset as u64, "no valid frame begins there"));
        };
        if head.first != place.records || place.ended {
            return Err(Damage::at(path, offset as u64, "a frame is out of place"));
        }
        each_record(path, offset, &head, payload, |decoder| {
            match decoder.read()? {
                Record::Entry(entry) if !place.ended => {
                    place.limits += 1;
                    self.replay.entry(*entry)?;
                }
                Record::PatternTotals(totals) if !place.ended => self.replay.pattern_totals(totals)?,
                Record::Hold(hold) if !place.ended => self.replay.hold(hold)?,
                Record::Answer(answer) if !place.ended => self.replay.answer(answer)?,
                Record::Event(Event::Clock(reading)) if !place.ended => {
                    self.found.note(reading);
                    self.replay.event(Event::Clock(reading))?;
                }
                Record::End { limits: expected, now } if !place.ended => {
                    place.ended = true;
                    self.found.last_instant = self.found.last_instant.max(now);
                    let whole = place.limits == expected && expected == header.first;
                    if !whole && !self.has_skipped() {
                        return Err(format!("it should have {expected} limits and has {}", place.limits));
                    }
                }
                _ => return Err("a record that does not belong in a snapshot".to_owned()),
            }
            Ok(())
        })?;
        place.records += u64::from(head.records);
        place.offset += FRAME_HEADER + payload.len();
        Ok(())
    }

    /// Returns where its last frame ends.
    fn read_segment(&mut self, number: u64, last: bool) -> Step<u64> {
        let path = Name::Segment(number).path(self.dir);
        let (file, header) = self.open(&path, FileKind::Segment, number)?;
        if self.found.snapshot == Some(number) {
            // What came before is in the snapshot.
            self.found.next_sequence = header.first;
        }
        if header.first != self.found.next_sequence || !(1..=MAX_COUNTER).contains(&header.first) {
            let what = format!(
                "it begins with record {} where record {} should follow: the end of the segment before it is missing",
                header.first, self.found.next_sequence
            );
            return Err(Damage::at(&path, 48, what).into());
        }
        let mut offset = frame::FILE_HEADER;
        let mut durable = header.first - 1;
        let mut clean = false;
        while let Some((head, payload)) = frame::open(&file[offset..], header.salt, header.kind)
            .filter(|(head, _)| head.first == self.found.next_sequence)
        {
            durable = durable.max(head.durable);
            clean = head.clean;
            self.read_events(&path, offset, &head, payload)?;
            offset += FRAME_HEADER + payload.len();
        }
        self.found.log_bytes += offset as u64;
        let end = self.end_of(&path, &file[offset..], offset as u64, header.salt, durable)?;
        match end {
            End::Torn(torn) if last => self.found.torn = Some(torn),
            End::Torn(torn) => {
                let what = format!("record {} should begin there", self.found.next_sequence);
                return Err(Damage::at(&path, torn.offset, what).into());
            }
            End::Exact if last && clean => {
                let file_length = file.len() as u64;
                self.found.clean = Some(CleanEnd { number, salt: header.salt, length: offset as u64, file_length });
            }
            End::Exact | End::Filled => {}
        }
        Ok(offset as u64)
    }

    /// What follows the last frame that belongs.
    fn end_of(&self, path: &Path, rest: &[u8], offset: u64, salt: u64, durable: u64) -> Step<End> {
        if rest.is_empty() {
            return Ok(End::Exact);
        }
        let length = frame::without_zeros(rest);
        if length == 0 {
            return Ok(End::Filled);
        }
        let expected = self.found.next_sequence;
        // A frame may end in zeros, but not in many: each record begins with its tag, which is not 0.
        let near = &rest[..rest.len().min(length + frame::MARK_PAGE as usize)];
        let durable = durable.max(frame::highest_durable(near, salt).unwrap_or(0));
        if durable >= expected {
            let what = format!("record {expected} should begin there, and records up to {durable} were confirmed");
            return Err(Damage::at(path, offset, what).into());
        }
        match frame::lone_mark(rest, salt) {
            Some((end, mark)) if mark.clean && mark.first == expected && end == rest.len() => Ok(End::Exact),
            Some(_) => Ok(End::Filled),
            None => Ok(End::Torn(Torn { file: path.to_owned(), offset, bytes: length as u64 })),
        }
    }

    fn read_events(&mut self, path: &Path, offset: usize, head: &FrameHeader, payload: &[u8]) -> Result<(), Damage> {
        let Reader { replay, found, .. } = self;
        each_record(path, offset, head, payload, |decoder| {
            if let Some((id, cost, at)) = decoder.spent() {
                found.last_instant = found.last_instant.max(at);
                replay.spent(id, cost, at)?;
            } else {
                let Record::Event(event) = decoder.read()? else {
                    return Err("a record that does not belong in the log".to_owned());
                };
                found.last_instant = found.last_instant.max(event.at().unwrap_or(0));
                if let Event::Clock(reading) = event {
                    found.note(reading);
                }
                replay.event(event)?;
            }
            found.next_sequence += 1;
            found.events += 1;
            Ok(())
        })?;
        found.frames += u64::from(head.records > 0);
        Ok(())
    }
}

/// Has `take` read each record of the frame at this offset. What is wrong with one is said of its place.
fn each_record(
    path: &Path,
    offset: usize,
    head: &FrameHeader,
    payload: &[u8],
    mut take: impl FnMut(&mut Decoder<'_>) -> Result<(), String>,
) -> Result<(), Damage> {
    let mut decoder = Decoder::new(payload, head.base);
    for _ in 0..head.records {
        let at = offset + FRAME_HEADER + payload.len() - decoder.remaining();
        take(&mut decoder).map_err(|what| Damage::at(path, at as u64, what))?;
    }
    if !decoder.is_empty() {
        return Err(Damage::at(path, offset as u64, "a frame holds more than its records"));
    }
    Ok(())
}

/// How far a snapshot was read.
#[derive(Default)]
struct SnapshotPlace {
    offset: usize,
    records: u64,
    limits: u64,
    ended: bool,
}

/// How a segment ends after its last frame.
enum End {
    /// With the file, or with the copy of the mark of a clean stop.
    Exact,
    /// With space that was filled ahead.
    Filled,
    Torn(Torn),
}
