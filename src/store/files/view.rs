//! A read-only view of a data directory, also while its writer goes on writing.
//!
//! Owns: how a file is read so that [`crate::store::recover`] sees a state that the directory had.
//!
//! Why that holds. Snapshots and all segments but the last are never written again; compaction and start-up remove
//! them, so they are opened before anything is read. The last segment is appended to, one frame after the other, each
//! with one write that ends before the next one begins. A single pass over it may see a frame half written and, further
//! on, a later one that was written in the meantime: that would look like damage. So it is read twice, and of the
//! second reading as much is kept as the first one saw. If the first saw anything of a later frame, the frames before
//! it were complete by then and are complete in the second; the last one may be incomplete, and is a torn end, as after
//! a crash.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::{ReadDisk, SystemDisk};
use super::names::{LOCK, Name, RESTORING};

/// How often a listing is repeated that a compaction keeps changing.
const ATTEMPTS: u32 = 100;

/// The files of a directory that another process writes, as they were at one moment.
pub struct ReadOnlyView {
    files: HashMap<PathBuf, File>,
    /// What the lock file says. Read first: it may tell where the log was closed, and what is read after it has all
    /// that was there by then.
    note: Vec<u8>,
}

impl ReadOnlyView {
    /// Opens what is there now. Numbers only grow, so a listing that is the same before and after was true all the time
    /// between.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn open(dir: &Path) -> io::Result<ReadOnlyView> {
        for _ in 0..ATTEMPTS {
            let note = std::fs::read(dir.join(LOCK)).unwrap_or_default();
            let before = names(dir)?;
            let mut files = HashMap::new();
            for name in &before {
                let path = dir.join(name);
                match File::open(&path) {
                    Ok(file) => drop(files.insert(path, file)),
                    // Removed in the meantime, by a compaction.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if files.len() == before.len() && names(dir)? == before {
                return Ok(ReadOnlyView { files, note });
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "its files change all the time"))
    }
}

/// The names of our files, and of one with which a directory is refused.
fn names(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    let names = SystemDisk.list(dir)?;
    Ok(names.into_iter().filter(|name| Name::parse(name).is_some() || name == RESTORING).collect())
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let length = file.metadata()?.len() as usize;
        bytes.try_reserve_exact(length)?;
        bytes.resize(length, 0);
        match file.read_exact_at(&mut bytes, 0) {
            // It was cut to its length in the meantime.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bytes.clear(),
            done => return done.map(|()| bytes),
        }
    }
}

impl ReadDisk for ReadOnlyView {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path.file_name() == Some(OsStr::new(LOCK)) {
            return Ok(self.note.clone());
        }
        let file = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        let first = read_all(file)?;
        if !matches!(path.file_name().and_then(Name::parse), Some(Name::Segment(_))) {
            return Ok(first);
        }
        let mut second = read_all(file)?;
        let seen = first.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if let Some(unseen) = second.get_mut(seen..) {
            unseen.fill(0);
        }
        Ok(second)
    }

    fn list(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.files.keys().filter_map(|path| path.file_name()).map(OsStr::to_owned).collect())
    }
}
