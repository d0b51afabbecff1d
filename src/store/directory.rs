//! An open data directory.

use std::path::Path;

use super::backup::copy::Backup;
use super::files::data_dir::DataDir;
use super::files::disk::Disk;
use super::files::lock::DirectoryLock;
use super::files::names::Name;
use super::log::handle::Log;
use super::snapshot::SnapshotWriter;
use crate::clock::Clock;
use crate::error::Result;

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

    /// Begins the snapshot that will stand for everything before segment `number`, with markers in the log.
    pub fn begin_snapshot(&self, number: u64) -> Result<SnapshotWriter> {
        SnapshotWriter::begin(&self.home, number, false)
    }

    /// A copy of the directory with all that was queued before. No compaction may begin or end meanwhile.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`, `io`.
    pub fn backup(&self, clock: &Clock) -> Result<Backup> {
        let cut = self.log.cut()?;
        Backup::open(&self.home.path, Some(cut), clock)
    }

    /// Removes segments and snapshots older than `number`, which the snapshot of that number and size stands for. A
    /// file that cannot be removed is left for the next start.
    pub fn remove_before(&self, number: u64, snapshot_bytes: u64) {
        let (disk, dir) = (&*self.home.disk, &self.home.path);
        let Ok(names) = disk.list(dir) else { return };
        let mut bytes = 0;
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
