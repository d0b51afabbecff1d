//! The data directory and its owner.
//!
//! Owns: the directory's creation (0700), the two locks that make one process its only writer, and the note in
//! `flint.lock` that names this process and the URL of its server. Two locks: one on `flint.lock`, and one on the
//! directory itself, which holds even if the lock file is removed or replaced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::disk::is_no_space;
use super::names::{IGNORE, LOCK};
use crate::error::{Error, Kind, Result};

/// How a data directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// As its only writer, creating it where there is none.
    Create,
    /// As its only writer; it must exist.
    Write,
    /// To read it, beside other readers. It must exist and is not changed.
    Read,
}

/// The owner as `flint.lock` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Process id.
    pub pid: Option<u32>,
    /// URL of its HTTP server, if it is one.
    pub url: Option<String>,
}

/// The locks, held until this is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    file: Option<File>,
    _directory: File,
    path: PathBuf,
    writes: bool,
}

impl DirectoryLock {
    /// Takes the locks without waiting.
    ///
    /// # Errors
    /// `locked`, naming the owner; `io` when the directory does not exist or cannot be used.
    pub fn acquire(dir: &Path, access: Access) -> Result<DirectoryLock> {
        // Before it is opened: it may be a pipe, and to open one without a writer would wait for ever.
        if std::fs::metadata(dir).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::new(
                Kind::Io,
                format!("{} is not a directory; name another data directory", dir.display()),
            ));
        }
        if access == Access::Create {
            create_directory(dir)?;
        }
        let directory = File::open(dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(
                Kind::Io,
                format!("data directory {} does not exist; `flint limit add` creates it", dir.display()),
            ),
            _ => Error::io("open data directory", dir, &error),
        })?;
        lock(&directory, dir, access)?;
        let path = dir.join(LOCK);
        let file = match access {
            Access::Read => File::open(&path).map(Some).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(None),
                _ => Err(error),
            }),
            Access::Create | Access::Write => {
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map(Some)
            }
        }
        .map_err(|error| Error::io("open", &path, &error))?;
        if let Some(file) = &file {
            lock(file, dir, access)?;
        }
        let writes = access != Access::Read;
        let this = DirectoryLock { file, _directory: directory, path, writes };
        if writes {
            this.announce(None)?;
        }
        Ok(this)
    }

    /// Notes this process as the owner of the directory, and the URL of its server, for other processes to find.
    ///
    /// # Errors
    /// `io` when the note cannot be written. A full disk is not an error: the lock holds without the note.
    pub fn announce(&self, url: Option<&str>) -> Result<()> {
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        let note = format!("{}\n", json!({ "pid": std::process::id(), "url": url }));
        let written =
            file.set_len(0).and_then(|()| io::Seek::rewind(&mut file)).and_then(|()| file.write_all(note.as_bytes()));
        match written {
            Err(error) if is_no_space(&error) => {
                log::warn!("no room for the owner's note in {}: {error}", self.path.display());
                Ok(())
            }
            written => written.map_err(|error| Error::io("write", &self.path, &error)),
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The next owner writes its own note a moment after it has the lock; ours must not be found in between.
        if self.writes {
            let _ = self.announce(None);
        }
    }
}

/// Reads the note of the owner. Empty where it cannot be read; the note of an owner that has ended remains.
pub fn owner(dir: &Path) -> Owner {
    let mut text = String::new();
    let read = File::open(dir.join(LOCK)).and_then(|file| file.take(4096).read_to_string(&mut text));
    let note: Value = match read {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => Value::Null,
    };
    Owner {
        pid: note["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
        url: note["url"].as_str().map(str::to_owned),
    }
}

/// The writer that owns the directory at this moment; `None` without one, also while others read it. So the note of a
/// server that has ended is never taken for that of a running server.
pub fn writer(dir: &Path) -> Option<Owner> {
    let directory = File::open(dir).ok()?;
    match fs4::FileExt::try_lock_shared(&directory) {
        Err(fs4::TryLockError::WouldBlock) => Some(owner(dir)),
        Ok(()) | Err(fs4::TryLockError::Error(_)) => None,
    }
}

fn create_directory(dir: &Path) -> Result<()> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::io("create data directory", dir, &error))?;
    // It may be in somebody's work tree. It works as well without this file.
    if let Err(error) = std::fs::write(dir.join(IGNORE), "*\n") {
        log::debug!("cannot write {} in {}: {error}", IGNORE, dir.display());
    }
    // Each new name must survive a power cut as the files in the directory do.
    for new in missing {
        let parent = new.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(|error| Error::io("sync the directory that holds", new, &error))?;
    }
    Ok(())
}

fn lock(file: &File, dir: &Path, access: Access) -> Result<()> {
    let result = match access {
        Access::Read => fs4::FileExt::try_lock_shared(file),
        Access::Create | Access::Write => fs4::FileExt::try_lock(file),
    };
    match result {
        Ok(()) => Ok(()),
        Err(fs4::TryLockError::WouldBlock) => {
            // The note is that of the last writer, and the lock may be held by readers.
            let read = access != Access::Read && fs4::FileExt::try_lock_shared(file).is_ok();
            let by = match owner(dir).pid {
                _ if read => " (by a command that reads it)".to_owned(),
                Some(pid) => format!(" (by process {pid})"),
                None => String::new(),
            };
            Err(Error::new(Kind::Locked, format!("data directory is already locked: {}{by}", dir.display())))
        }
        Err(fs4::TryLockError::Error(error)) => Err(Error::io("lock", dir, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_writer_or_many_readers() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/data");
        assert_eq!(DirectoryLock::acquire(&dir, Access::Write).unwrap_err().kind(), Kind::Io);
        assert!(!dir.exists());
        let writer = DirectoryLock::acquire(&dir, Access::Create).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(dir.join(LOCK)).unwrap().permissions().mode() & 0o777, 0o600);
        for access in [Access::Create, Access::Write, Access::Read] {
            let error = DirectoryLock::acquire(&dir, access).unwrap_err();
            assert_eq!(error.kind(), Kind::Locked);
            let by = format!("{} (by process {})", dir.display(), std::process::id());
            assert_eq!(error.message(), format!("data directory is already locked: {by}"));
        }
        // The lock holds without its file too.
        std::fs::remove_file(dir.join(LOCK)).unwrap();
        assert_eq!(DirectoryLock::acquire(&dir, Access::Write).unwrap_err().kind(), Kind::Locked);
        drop(writer);
        let reader = DirectoryLock::acquire(&dir, Access::Read).unwrap();
        let _second = DirectoryLock::acquire(&dir, Access::Read).unwrap();
        let error = DirectoryLock::acquire(&dir, Access::Write).unwrap_err();
        assert_eq!(error.kind(), Kind::Locked);
        assert!(error.message().ends_with("(by a command that reads it)"), "{error}");
        drop(reader);
    }

    #[test]
    fn the_note_names_process_and_server() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(owner(dir.path()), Owner::default());
        let lock = DirectoryLock::acquire(dir.path(), Access::Create).unwrap();
        let pid = Some(std::process::id());
        assert_eq!(owner(dir.path()), Owner { pid, url: None });
        lock.announce(Some("http://127.0.0.1:7878")).unwrap();
        assert_eq!(owner(dir.path()), Owner { pid, url: Some("http://127.0.0.1:7878".into()) });
        assert_eq!(writer(dir.path()), Some(owner(dir.path())));
        drop(lock);
        assert_eq!(owner(dir.path()).url, None, "a server that has ended is not found");
        assert_eq!(writer(dir.path()), None);
        // The note of a killed server stays, and does not count.
        std::fs::write(dir.path().join(LOCK), "{\"pid\":1,\"url\":\"http://127.0.0.1:1\"}").unwrap();
        let reader = DirectoryLock::acquire(dir.path(), Access::Read).unwrap();
        assert_eq!(writer(dir.path()), None);
        drop(reader);
        assert!(owner(dir.path()).url.is_some());
        std::fs::write(dir.path().join(LOCK), "not json").unwrap();
        assert_eq!(owner(dir.path()), Owner::default());
    }
}
