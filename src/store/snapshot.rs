//! Writing a snapshot: to an unfinished name first, then renamed, so that it is there whole or not at all.

use std::fs::File;
use std::path::PathBuf;

use super::files::data_dir::DataDir;
use super::files::names::Name;
use super::files::random::random;
use super::format::encode;
use super::format::frame::{self, FILE_HEADER, FRAME_HEADER, FileHeader, FileKind, FrameHeader};
use super::format::record::{Answer, Entry, Event, HoldEntry, PatternTotals};
use crate::clock::{Clock, Reading};
use crate::error::{Error, Kind, Result};

/// Payload at which a frame of a snapshot is closed, in bytes. A damaged place costs a repair no more than that.
const FRAME_BYTES: usize = 64 * 1024;

/// A snapshot being written. Dropped before [`SnapshotWriter::finish`], it leaves nothing on the disk.
pub struct SnapshotWriter {
    home: DataDir,
    name: Name,
    header: FileHeader,
    file: File,
    path: PathBuf,
    offset: u64,
    frame: Vec<u8>,
    records: u32,
    written: u64,
    limits: u64,
    finished: bool,
}

impl SnapshotWriter {
    /// Begins the snapshot that replaces everything before segment `number`; `complete` when it also stands for what
    /// has no marker in the log.
    pub(super) fn begin(home: &DataDir, number: u64, complete: bool) -> Result<SnapshotWriter> {
        let name = Name::Snapshot(number);
        let path = name.unfinished(&home.path);
        // What a crash left under this name counts for nothing.
        let _ = home.disk.remove(&path);
        let created = home.disk.create(&path).and_then(|file| Ok((file, u64::from_le_bytes(random()?))));
        let (file, salt) = created.map_err(|error| Error::io("create", &path, &error))?;
        let header = FileHeader { kind: FileKind::Snapshot, complete, number, directory: home.id, salt, first: 0 };
        Ok(SnapshotWriter {
            home: home.clone(),
            name,
            header,
            file,
            path,
            offset: FILE_HEADER as u64,
            frame: vec![0; FRAME_HEADER],
            records: 0,
            written: 0,
            limits: 0,
            finished: false,
        })
    }

    /// Adds the totals of a pattern's keys.
    ///
    /// # Errors
    /// `io`.
    pub fn pattern_totals(&mut self, totals: &PatternTotals) -> Result<()> {
        encode::encode_pattern_totals(&mut self.frame, totals);
        self.records += 1;
        if self.frame.len() >= FRAME_BYTES { self.close_frame() } else { Ok(()) }
    }

    /// Adds one limit.
    ///
    /// # Errors
    /// `io`.
    pub fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        encode::encode_entry(&mut self.frame, entry);
        self.records += 1;
        self.limits += 1;
        if self.frame.len() >= FRAME_BYTES { self.close_frame() } else { Ok(()) }
    }

    /// Adds one hold. It may come before the entries of its items.
    ///
    /// # Errors
    /// `io`.
    pub fn hold(&mut self, hold: &HoldEntry<'_>) -> Result<()> {
        encode::encode_hold(&mut self.frame, hold);
        self.records += 1;
        if self.frame.len() >= FRAME_BYTES { self.close_frame() } else { Ok(()) }
    }

    /// Adds one answer that is kept.
    ///
    /// # Errors
    /// `io`.
    pub fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        encode::encode_answer(&mut self.frame, answer);
        self.records += 1;
        if self.frame.len() >= FRAME_BYTES { self.close_frame() } else { Ok(()) }
    }

    /// Ends the snapshot with what the clocks show, which is returned, and makes it durable under its unfinished name.
    ///
    /// # Errors
    /// `io`.
    pub fn seal(&mut self, clock: &Clock) -> Result<Reading> {
        let reading = clock.reading();
        encode::encode_event(&mut self.frame, &Event::Clock(reading), 0);
        encode::encode_end(&mut self.frame, self.limits, reading.at);
        self.records += 2;
        self.close_frame()?;
        self.header.first = self.limits;
        self.write(&self.header.encode(), 0)?;
        self.home.disk.sync_all(&self.file).map_err(|error| Error::io("sync", &self.path, &error))?;
        Ok(reading)
    }

    /// Gives the sealed snapshot its name. Returns its size in bytes.
    ///
    /// # Errors
    /// `io`.
    pub fn finish(mut self) -> Result<u64> {
        let (disk, dir) = (&self.home.disk, &self.home.path);
        disk.rename(&self.path, &self.name.path(dir)).map_err(|error| Error::io("rename", &self.path, &error))?;
        self.finished = true;
        disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, &error))?;
        self.home.kept.add(self.name, dir, self.file.try_clone());
        Ok(self.offset)
    }

    fn close_frame(&mut self) -> Result<()> {
        let length = self.frame.len() - FRAME_HEADER;
        if length > self.header.kind.max_payload() {
            // Written, it would be a snapshot that cannot be read.
            let what = format!("a limit takes {length} bytes, which are more than {} can hold", self.path.display());
            return Err(Error::new(Kind::Io, format!("{what}; shorten its period, or use another algorithm")));
        }
        let header = FrameHeader { records: self.records, clean: false, first: self.written, durable: 0, base: 0 };
        frame::seal(&mut self.frame, &header, self.header.salt);
        self.write(&self.frame, self.offset)?;
        self.offset += self.frame.len() as u64;
        self.written += u64::from(self.records);
        self.records = 0;
        self.frame.truncate(FRAME_HEADER);
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.home.disk.write_at(&self.file, bytes, offset).map_err(|error| Error::io("write", &self.path, &error))
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.home.disk.remove(&self.path);
        }
    }
}
