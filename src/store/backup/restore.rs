//! Restoring a backup into a data directory that is empty or does not exist.
//!
//! Before the first file is made, `flint.restoring` is. It is removed after all files are durable and were read as a
//! start would read them. While it is there, every reader refuses the directory by name ([`Files::list`]). So a
//! crash at any moment leaves a directory that is empty, or refused, or whole; the removal of that one name is what
//! makes it whole.
//!
//! [`Files::list`]: crate::store::read::found::Files::list

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::unpack::{Item, Unpacker};
use crate::error::{Error, Kind, Result};
use crate::store::files::disk::{Disk, ReadDisk};
use crate::store::files::lock::{Access, DirectoryLock};
use crate::store::files::names::{LOCK, Name, RESTORING};

/// Names that do not make a directory a used one.
const NOTHING: [&str; 3] = [LOCK, ".gitignore", "lost+found"];

/// What was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Files.
    pub files: u32,
    /// Their bytes together.
    pub bytes: u64,
}

/// Writes the files of a backup into `dir`. `verify` reads them by the disk that it is given, as a start would, before
/// they count.
///
/// # Errors
/// `io` where `dir` is not empty or can't be written; `locked`; `corrupt` and `unsupported`, naming the offset, for the
/// backup, and those of `verify`. Nothing is left in the directory then but its lock.
pub fn restore<V>(
    dir: &Path,
    disk: &Arc<dyn Disk>,
    mut from: Unpacker<impl Read>,
    verify: impl FnOnce(&dyn ReadDisk) -> Result<V>,
) -> Result<(Restored, V)> {
    refuse_used(dir)?;
    let lock = DirectoryLock::acquire(dir, Access::Create)?;
    lock.forget_closed()?;
    // Somebody else may have used it until now.
    for leftover in refuse_used(dir)? {
        disk.remove(&leftover).map_err(|error| Error::io("remove", &leftover, &error))?;
    }
    let target = Target { dir, disk: &**disk };
    let mut made = Vec::new();
    let done = target.write(&mut from, &mut made, verify);
    if done.is_err() {
        // The marker goes last, and stays where anything else does.
        let removed = made.iter().try_for_each(|path| disk.remove(path));
        if let Err(error) = removed.and_then(|()| target.unmark()) {
            log::warn!("cannot remove what was restored into {}: {error}", dir.display());
        }
    }
    done
}

/// Refuses a directory that holds anything but what a restore without its end has left, which is returned.
fn refuse_used(dir: &Path) -> Result<Vec<PathBuf>> {
    let names: Vec<OsString> = match std::fs::read_dir(dir) {
        Ok(items) => items
            .map(|item| item.map(|item| item.file_name()))
            .collect::<io::Result<_>>()
            .map_err(|error| Error::io("list", dir, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::io("list", dir, &error)),
    };
    let is_restoring = names.iter().any(|name| name == RESTORING);
    let mut leftovers = Vec::new();
    for name in names {
        if is_restoring && Name::parse(&name).is_some() {
            leftovers.push(dir.join(name));
        } else if name != RESTORING && NOTHING.iter().all(|nothing| name != *nothing) {
            let (dir, name) = (dir.display(), name.to_string_lossy());
            let what = format!("{dir} is not empty: it has {name}; restore into a directory that is empty or missing");
            return Err(Error::new(Kind::Io, what));
        }
    }
    Ok(leftovers)
}

struct Target<'a> {
    dir: &'a Path,
    disk: &'a dyn Disk,
}

impl Target<'_> {
    fn write<V>(
        &self,
        from: &mut Unpacker<impl Read>,
        made: &mut Vec<PathBuf>,
        verify: impl FnOnce(&dyn ReadDisk) -> Result<V>,
    ) -> Result<(Restored, V)> {
        self.mark()?;
        let mut open: Option<(File, PathBuf, u64)> = None;
        while let Some(item) = from.next_item()? {
            match (item, &mut open) {
                (Item::File(name, _), before) => {
                    let path = name.path(self.dir);
                    if let Some((file, path, _)) = before.take() {
                        self.sync(&file, &path)?;
                    }
                    let file = self.disk.create(&path).map_err(|error| Error::io("create", &path, &error))?;
                    made.push(path.clone());
                    *before = Some((file, path, 0));
                }
                (Item::Data(bytes), Some((file, path, length))) => {
                    let written = self.disk.write_at(file, bytes, *length);
                    written.map_err(|error| Error::io("write", path, &error))?;
                    *length += bytes.len() as u64;
                }
                (Item::Data(_), None) => return Err(Error::new(Kind::Internal, "bytes of a backup without a file")),
            }
        }
        if let Some((file, path, _)) = open {
            self.sync(&file, &path)?;
        }
        self.sync_dir()?;
        let verified = verify(&Unmarked(self.disk))?;
        self.unmark().map_err(|error| Error::io("remove", &self.dir.join(RESTORING), &error))?;
        self.sync_dir()?;
        let header = from.header();
        Ok((Restored { files: header.files, bytes: header.bytes }, verified))
    }

    /// Makes the name durable with which the directory is refused.
    fn mark(&self) -> Result<()> {
        let path = self.dir.join(RESTORING);
        let made = match self.disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&path),
            made => made,
        };
        made.and_then(|file| self.disk.sync_all(&file)).map_err(|error| Error::io("create", &path, &error))?;
        self.sync_dir()
    }

    fn unmark(&self) -> io::Result<()> {
        match self.disk.remove(&self.dir.join(RESTORING)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.disk.sync_all(file).map_err(|error| Error::io("sync", path, &error))
    }

    fn sync_dir(&self) -> Result<()> {
        self.disk.sync_dir(self.dir).map_err(|error| Error::io("sync", self.dir, &error))
    }
}

/// The directory as it will be without the name with which it is refused.
struct Unmarked<'a>(&'a dyn Disk);

impl ReadDisk for Unmarked<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let names = self.0.list(dir)?;
        Ok(names.into_iter().filter(|name| name != RESTORING).collect())
    }
}
