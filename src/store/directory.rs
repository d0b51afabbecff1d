//! An open data directory.

use std::path::Path;

use super::backup::copy::Backup;
use super::files::data_dir::DataDir;
use super::files::disk::Disk;
use super::files::kept::{Fate, Missing};
use super::files::lock::DirectoryLock;
use super::files::names::Name;
use super::log::handle::Log;
use super::log::health::Health;
use super::snapshot::SnapshotWriter;
use crate::clock::Clock;
use crate::error::Result;

/// Whether the files that a start would need are where it would look for them.
#[derive(Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// They are, as far as can be seen; or the log has failed, and it does not matter.
    Whole,
    /// These are not.
    Missing(Vec<Missing>),
    /// The path of the data directory does not lead to it any more.
    Moved,
}

/// An open data directory whose log takes records.
pub struct Store {
    pub(super) log: Log,
    pub(super) home: DataDir,
    pub(super) lock: DirectoryLock,
}

impl Store {
    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The directory's lock, to note the server's address in.
    pub fn lock(&self) -> &DirectoryLock {
        &self.lock
    }

    /// Closes the log cleanly, and notes where it ends.
    ///
    /// # Errors
    /// As [`Log::stop`].
    pub fn stop(&self) -> Result<()> {
        if let Some(closed) = self.log.stop()? {
            self.lock.note_closed(closed);
        }
        Ok(())
    }

    /// Begins the snapshot that will replace everything before segment `number`, with markers in the log.
    pub fn begin_snapshot(&self, number: u64) -> Result<SnapshotWriter> {
        SnapshotWriter::begin(&self.home, number, false)
    }

    /// Whether the files that a start would need are where it would look for them.
    pub fn whereabouts(&self) -> Whereabouts {
        let home = &self.home;
        if self.log.health().0 == Health::Failed {
            return Whereabouts::Whole;
        }
        if self.lock.is_moved() {
            return Whereabouts::Moved;
        }
        match home.kept.missing(&home.path) {
            missing if missing.is_empty() => Whereabouts::Whole,
            missing => Whereabouts::Missing(missing),
        }
    }

    /// Gives the files that have taken over names of ours another name, under which they count for nothing: they are
    /// another program's.
    pub fn set_aside(&self) {
        let home = &self.home;
        for missing in home.kept.missing(&home.path).into_iter().filter(|missing| missing.fate == Fate::Replaced) {
            let (path, aside) = (missing.name.path(&home.path), missing.name.aside(&home.path));
            match home.disk.rename(&path, &aside) {
                Ok(()) => {
                    log::warn!("the file that had taken the name of {} is now {}", path.display(), aside.display())
                }
                Err(error) => log::warn!("cannot rename {}: {error}", path.display()),
            }
        }
    }

    /// A copy of the directory with all that was queued before. No compaction may begin or end meanwhile.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`, `io`.
    pub fn backup(&self, clock: &Clock) -> Result<Backup> {
        let cut = self.log.cut()?;
        Backup::open(&self.home.path, Some(cut), clock)
    }

    /// Removes segments and snapshots older than `number`, which the snapshot of that number and size replaces. A
    /// file that cannot be removed is left for the next start.
    pub fn remove_before(&self, number: u64, snapshot_bytes: u64) {
        let (disk, dir) = (&*self.home.disk, &self.home.path);
        let Ok(names) = disk.list(dir) else { return };
        let mut bytes = 0;
        self.home.kept.remove_before(number);
        for name in names.iter().filter_map(|name| Name::parse(name)) {
            let path = name.path(dir);
            match name {
                Name::Segment(older) if older < number => bytes += path.metadata().map_or(0, |found| found.len()),
                Name::Snapshot(older) if older < number => {}
                _ => continue,
            }
            remove_leftover(disk, &path);
        }
        self.log.compacted(bytes, snapshot_bytes);
    }
}

/// Removes a file that is not needed any more.
pub(super) fn remove_leftover(disk: &dyn Disk, path: &Path) {
    match disk.remove(path) {
        Ok(()) => {}
        // The new segment or snapshot has taken over the name of an unfinished one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("cannot remove {}, which is not needed any more: {error}", path.display()),
    }
}
