//! An open data directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::disk::Disk;
use super::files::lock::DirectoryLock;
use super::files::names::Name;
use super::log::handle::Log;
use super::snapshot::SnapshotWriter;
use crate::error::Result;

/// An open data directory whose log takes records.
pub struct Store {
    pub(super) log: Log,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) directory: [u8; 16],
    pub(super) lock: DirectoryLock,
}

impl Store {
    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory's lock, to note the server's address in.
    pub fn lock(&self) -> &DirectoryLock {
        &self.lock
    }

    /// Begins the snapshot that will stand for everything before segment `number`, with markers in the log.
    pub fn begin_snapshot(&self, number: u64) -> Result<SnapshotWriter<'_>> {
        SnapshotWriter::begin(&*self.disk, &self.dir, self.directory, number, false)
    }

    /// Removes segments and snapshots older than `number`, which the snapshot of that number and size stands for. Returns
    /// the bytes of segments that were removed. A file that can't be removed is left for the next start.
    pub fn remove_before(&self, number: u64, snapshot_bytes: u64) -> u64 {
        let mut bytes = 0;
        let Ok(items) = std::fs::read_dir(&self.dir) else { return 0 };
        for item in items.flatten() {
            match Name::parse(&item.file_name()) {
                Some(Name::Segment(older)) if older < number => {
                    bytes += item.metadata().map_or(0, |metadata| metadata.len());
                    remove_leftover(&*self.disk, &item.path());
                }
                Some(Name::Snapshot(older)) if older < number => remove_leftover(&*self.disk, &item.path()),
                _ => {}
            }
        }
        self.log.compacted(bytes, snapshot_bytes);
        bytes
    }
}

pub(super) fn remove_leftover(disk: &dyn Disk, path: &Path) {
    match disk.remove(path) {
        Ok(()) => {}
        // The new segment or snapshot has taken over the name of an unfinished one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("cannot remove {}, which is not needed any more: {error}", path.display()),
    }
}
