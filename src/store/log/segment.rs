//! The open segment, and how a segment is created.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::clock::Micros;
use crate::error::{Error, Kind, way_out};
use crate::store::clocks::Clocks;
use crate::store::files::data_dir::DataDir;
use crate::store::files::disk::{Disk, is_no_space};
use crate::store::files::names::Name;
use crate::store::files::random::random;
use crate::store::format::frame::{FILE_HEADER, FRAME_HEADER, FileHeader, FileKind, copy_offset};
use crate::store::policy::Policy;
use crate::store::read::found::CleanEnd;

/// The open segment.
pub struct Segment {
    pub file: File,
    pub path: PathBuf,
    pub number: u64,
    pub salt: u64,
    /// Where the next frame goes.
    pub position: u64,
    /// Up to where the file is filled with zeros.
    pub filled: u64,
    /// Where the copy of the last mark is, until the next frame is written.
    pub mark_copy: Option<u64>,
    /// Whether something else may be there, because there was no room for it.
    pub copy_failed: bool,
}

/// What a log begins with.
pub struct Start {
    pub home: DataDir,
    pub segment: Segment,
    pub next_sequence: u64,
    pub base: Micros,
    pub clocks: Clocks,
    pub policy: Policy,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
}

/// Where the log ends at some moment: all that was queued before is in front of this, and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of the open segment.
    pub segment: u64,
    /// Where its last frame ends.
    pub length: u64,
}

/// Why a segment was not created.
#[derive(Debug)]
pub struct NotCreated {
    /// Whether it has its name all the same, though perhaps not durably.
    pub visible: bool,
    pub error: Error,
    pub cause: io::Error,
}

impl From<NotCreated> for Error {
    fn from(not_created: NotCreated) -> Error {
        not_created.error
    }
}

impl Segment {
    /// Creates a segment under its unfinished name with this many filled bytes, makes it durable, and gives it its
    /// name.
    pub fn create(home: &DataDir, number: u64, first: u64, fill: u64) -> Result<Segment, NotCreated> {
        let (disk, name) = (&*home.disk, Name::Segment(number));
        let (unfinished, path) = (name.unfinished(&home.path), name.path(&home.path));
        let _ = disk.remove(&unfinished);
        let mut visible = false;
        let mut create = || {
            let salt = u64::from_le_bytes(random()?);
            let kind = FileKind::Segment;
            let header = FileHeader { kind, complete: false, number, directory: home.id, salt, first };
            let mut bytes = vec![0; FILE_HEADER + fill as usize];
            bytes[..FILE_HEADER].copy_from_slice(&header.encode());
            let file = disk.create(&unfinished)?;
            disk.write_at(&file, &bytes, 0)?;
            disk.sync_all(&file)?;
            disk.rename(&unfinished, &path)?;
            visible = true;
            disk.sync_dir(&home.path)?;
            Ok((file, salt, bytes.len() as u64))
        };
        match create() {
            Ok((file, salt, filled)) => {
                home.kept.add(name, &home.path, file.try_clone());
                let position = FILE_HEADER as u64;
                Ok(Segment { file, path, number, salt, position, filled, mark_copy: None, copy_failed: false })
            }
            Err(cause) => {
                if !visible {
                    let _ = disk.remove(&unfinished);
                }
                let kind = if is_no_space(&cause) { Kind::LogFailed } else { Kind::Io };
                let error = Error::new(kind, format!("cannot create {}: {cause}{}", path.display(), way_out(&cause)));
                Err(NotCreated { visible, error, cause })
            }
        }
    }

    /// Goes on with a segment that was closed: it ends with the copy of its last mark, which says what it confirms
    /// until more follows.
    ///
    /// # Errors
    /// `io`.
    pub fn reopen(home: &DataDir, end: &CleanEnd) -> Result<Segment, Error> {
        let path = Name::Segment(end.number).path(&home.path);
        let file = home.disk.open(&path).map_err(|error| Error::io("open", &path, &error))?;
        home.kept.add(Name::Segment(end.number), &home.path, file.try_clone());
        let (number, salt, position, filled) = (end.number, end.salt, end.length, end.file_length);
        let mark_copy = (filled > position).then(|| filled - FRAME_HEADER as u64);
        Ok(Segment { file, path, number, salt, position, filled, mark_copy, copy_failed: false })
    }

    /// Writes a frame, and moves the position after it. After an error the same may be tried again.
    pub fn append(&mut self, disk: &dyn Disk, frame: &[u8]) -> io::Result<()> {
        if let Some(copy) = self.mark_copy {
            // The frame may cover a part of the copy; the rest of it would then look like a torn end.
            disk.write_at(&self.file, &[0; FRAME_HEADER], copy)?;
            self.mark_copy = None;
        }
        disk.write_at(&self.file, frame, self.position)?;
        self.position += frame.len() as u64;
        Ok(())
    }

    /// Writes the copy of the mark that was just appended into the next page: the loss of a page takes the last record
    /// and one of the two, and the other still confirms the record. Without room for it the mark counts too.
    pub fn copy_mark(&mut self, disk: &dyn Disk, mark: &[u8]) -> io::Result<()> {
        let copy = copy_offset(self.position);
        if copy + FRAME_HEADER as u64 > self.filled {
            return Ok(());
        }
        self.mark_copy = Some(copy);
        let written = disk.write_at(&self.file, mark, copy);
        self.copy_failed = written.is_err();
        written.or_else(|error| if is_no_space(&error) { Ok(()) } else { Err(error) })
    }

    /// Cuts off what is filled after the last mark and its copy, and makes all durable.
    pub fn close(&self, disk: &dyn Disk) -> io::Result<()> {
        let copy = self.mark_copy.filter(|_| !self.copy_failed);
        let end = copy.map_or(self.position, |copy| copy + FRAME_HEADER as u64);
        disk.set_len(&self.file, end)?;
        disk.sync_all(&self.file).inspect_err(|_| {
            // What may be only in memory must not look closed, or the next start would append to it.
            let _ = disk.set_len(&self.file, end + 1);
        })
    }

    /// Filled space after the position, in bytes.
    pub fn room(&self) -> u64 {
        self.filled.saturating_sub(self.position)
    }
}
