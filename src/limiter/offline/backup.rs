//! `log backup` and `log restore` of a data directory that no process has opened.

use std::hash::RandomState;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::limiter::recovery::replay::Replayed;
use crate::limiter::registry::Registry;
use crate::store::{
    self, Access, Backup, Cut, DirectoryLock, Disk, ReadOnlyView, Recovered, Restored, SystemDisk, Unpacker, recover,
};

/// A copy of the data directory `dir`, which is read and verified first. It is locked against writers until the copy is
/// returned; what a writer does then is not in it.
///
/// # Errors
/// As for opening the directory to look at it.
pub fn backup(dir: &Path) -> Result<Backup> {
    let _lock = DirectoryLock::acquire(dir, Access::Read)?;
    let disk = ReadOnlyView::open(dir).map_err(|error| Error::io("read", dir, &error))?;
    let found = recover(dir, &disk, &mut Replayed::new(&Registry::new(0), &RandomState::new()))?;
    // What follows the last frame is zeros, or was never confirmed; a writer begins there.
    let cut = found.segments.last().map(|segment| Cut { segment: *segment, length: found.last_end });
    Backup::open(dir, cut, &Clock::system())
}

/// Makes a data directory of a backup that messages call `name`. `dir` must be empty or not exist.
///
/// # Errors
/// `io` when `dir` is not empty, and for errors of reading and writing; `locked`; `corrupt`, naming the offset, for a
/// backup that is incomplete, and the file for a backup with damaged files; `unsupported`.
pub fn restore(dir: &Path, from: impl Read, name: &str) -> Result<(Restored, Recovered)> {
    restore_on(dir, &(Arc::new(SystemDisk) as Arc<dyn Disk>), from, name)
}

/// As [`restore`], on this disk.
pub fn restore_on(dir: &Path, disk: &Arc<dyn Disk>, from: impl Read, name: &str) -> Result<(Restored, Recovered)> {
    let from = Unpacker::begin(from, name)?;
    store::restore(dir, disk, from, |disk| {
        recover(dir, disk, &mut Replayed::new(&Registry::new(0), &RandomState::new()))
    })
}
