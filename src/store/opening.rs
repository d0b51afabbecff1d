//! Opening a store on what recovery has found.

use std::path::Path;
use std::sync::Arc;

use super::directory::{Store, remove_leftover};
use super::files::disk::Disk;
use super::files::lock::DirectoryLock;
use super::files::names::Name;
use super::files::random::new_id;
use super::format::frame;
use super::format::record::Entry;
use super::log::handle::Log;
use super::log::segment::{Segment, create_segment};
use super::log::writer::Start;
use super::policy::Policy;
use super::read::found::{CleanEnd, Recovered};
use super::snapshot::SnapshotWriter;
use crate::clock::Millis;
use crate::error::{Error, Result};

/// A store that is being opened. A log that was closed in good order is appended to; otherwise the state is first made
/// durable in a new snapshot: what was read may stand in the page cache alone, and a torn end must not be appended to.
///
/// Until [`Opening::finish`] the directory is as it was, but for an unfinished snapshot, which is removed when this is
/// dropped.
pub struct Opening<'a> {
    dir: &'a Path,
    disk: &'a Arc<dyn Disk>,
    directory: [u8; 16],
    lock: DirectoryLock,
    found: Recovered,
    now: Millis,
    policy: Policy,
    snapshot: Option<SnapshotWriter<'a>>,
    sealed: bool,
}

impl<'a> Opening<'a> {
    /// Begins to go on where `found` ends.
    ///
    /// # Errors
    /// `io`.
    pub fn begin(
        dir: &'a Path,
        disk: &'a Arc<dyn Disk>,
        lock: DirectoryLock,
        found: Recovered,
        now: Millis,
        policy: Policy,
    ) -> Result<Opening<'a>> {
        if let Some(torn) = &found.torn {
            log::warn!(
                "{}: the last {} bytes, from offset {}, were being written when the process or the machine stopped; \
                 they were never confirmed and are cut off",
                torn.file.display(),
                torn.bytes,
                torn.offset
            );
        }
        let directory = match found.directory {
            Some(directory) => directory,
            None => new_id()?,
        };
        let snapshot = match found.clean.is_none() && found.highest_number > 0 {
            true => Some(SnapshotWriter::begin(&**disk, dir, directory, found.highest_number + 1, true)?),
            false => None,
        };
        Ok(Opening { dir, disk, directory, lock, found, now, policy, snapshot, sealed: false })
    }

    /// Whether all limits are to be handed to [`Opening::entry`].
    pub fn wants_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Adds one limit to the new snapshot.
    ///
    /// # Errors
    /// `io`.
    pub fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.snapshot.as_mut().map_or(Ok(()), |snapshot| snapshot.entry(entry))
    }

    /// Makes the new snapshot durable under its unfinished name.
    ///
    /// # Errors
    /// `io`.
    pub fn seal(&mut self) -> Result<()> {
        match &mut self.snapshot {
            Some(snapshot) if !self.sealed => {
                snapshot.seal(self.now)?;
                self.sealed = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Puts the new snapshot in force, removes what it stands for, and starts the log.
    ///
    /// # Errors
    /// `io` and `log_failed`; the directory is then as it was, or as the new snapshot says.
    pub fn finish(mut self) -> Result<Store> {
        self.seal()?;
        let Opening { dir, disk, directory, lock, found, now, policy, snapshot, .. } = self;
        let (mut log_bytes, mut snapshot_bytes) = (frame::FILE_HEADER as u64, found.snapshot_bytes);
        let next_sequence = found.next_sequence.max(1);
        let segment = match (&found.clean, snapshot) {
            (Some(end), _) => {
                log_bytes = found.log_bytes;
                reopen(&**disk, dir, end)?
            }
            (None, None) => create_segment(&**disk, dir, directory, 1, 1, None)?,
            (None, Some(writer)) => {
                snapshot_bytes = writer.finish()?;
                create_segment(&**disk, dir, directory, found.highest_number + 1, next_sequence, None)?
            }
        };
        remove_superseded(&**disk, dir, &found);
        let log = Log::start(Start {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            directory,
            segment,
            next_sequence,
            base: now,
            policy,
            log_bytes,
            snapshot_bytes,
        })?;
        Ok(Store { log, disk: Arc::clone(disk), dir: dir.to_owned(), directory, lock })
    }
}

fn remove_superseded(disk: &dyn Disk, dir: &Path, found: &Recovered) {
    let mut superseded = found.leftovers.clone();
    if found.clean.is_none() {
        superseded.extend(found.segments.iter().map(|number| Name::Segment(*number).path(dir)));
        superseded.extend(found.snapshot.map(|number| Name::Snapshot(number).path(dir)));
    }
    superseded.iter().for_each(|path| remove_leftover(disk, path));
}

fn reopen(disk: &dyn Disk, dir: &Path, end: &CleanEnd) -> Result<Segment> {
    let path = Name::Segment(end.number).path(dir);
    let file = disk.open(&path).map_err(|error| Error::io("open", &path, &error))?;
    Ok(Segment { file, path, number: end.number, salt: end.salt, position: end.length, filled: end.file_length })
}
