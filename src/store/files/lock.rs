//! The data directory and its owner.
//!
//! Owns: the directory's creation (0700), the two locks that make one process its only writer, and the note in
//! `flint.lock` that names this process and the URL of its server. Two locks: one on `flint.lock`, and one on the
//! directory itself, which holds even if the lock file is removed or replaced. The note keeps, too, where the log ended
//! when it was last closed cleanly: records only come after it, so a log that ends before has been cut since.
//!
//! On overlayfs a lock is one of a mount, and two mounts may share an upper directory. There each owner has a session
//! in its note. A process that finds the session of an owner that has not ended puts its own in its place and waits a
//! moment; an owner that runs looks now and then, and puts its own back, which tells the other that it must not start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::disk::is_no_space;
use super::kept::leads_to;
use super::names::{IGNORE, LOCK};
use super::random::random;
use crate::bounds::CLAIM_WAIT_MS;
use crate::error::{Error, Kind, Result};

/// How often a process that waits for another owner looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a data directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// As its only writer, creating it if there is none.
    Create,
    /// As its only writer; it must exist.
    Write,
    /// To read it, together with other readers. It must exist and is not changed.
    Read,
}

/// The owner as `flint.lock` names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Process id.
    pub pid: Option<u32>,
    /// URL of its HTTP server, if it is one.
    pub url: Option<String>,
    /// Where the log ended when it was last closed cleanly.
    pub closed: Option<Closed>,
    /// On overlayfs, of an owner that has not ended cleanly: which owner it is.
    pub session: Option<String>,
    /// In which namespace its process id is one.
    pub namespace: Option<String>,
}

/// Where a log ended that was closed cleanly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Id of the data directory.
    pub directory: [u8; 16],
    /// Number of the segment that was written to.
    pub segment: u64,
    /// Its salt.
    pub salt: u64,
    /// Sequence number of the last record.
    pub last: u64,
}

impl Closed {
    fn to_json(self) -> Value {
        let Closed { directory, segment, salt, last } = self;
        let directory = format!("{:032x}", u128::from_be_bytes(directory));
        json!({"directory": directory, "segment": segment, "salt": format!("{salt:016x}"), "last": last})
    }

    fn of_json(value: &Value) -> Option<Closed> {
        let directory = u128::from_str_radix(value["directory"].as_str()?, 16).ok()?.to_be_bytes();
        let salt = u64::from_str_radix(value["salt"].as_str()?, 16).ok()?;
        Some(Closed { directory, segment: value["segment"].as_u64()?, salt, last: value["last"].as_u64()? })
    }
}

/// The locks, held until this is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    file: Option<File>,
    directory: File,
    /// Whether the directory's path led to it at first. On some file systems that is unknown.
    is_found: bool,
    dir: PathBuf,
    path: PathBuf,
    writes: bool,
    /// Locked for a moment, holding nothing else.
    closed: Mutex<Option<Closed>>,
    /// The URL that was noted last, likewise.
    url: Mutex<Option<String>>,
    /// This owner's session, where one is of use.
    session: Option<String>,
    /// The session whose place it took, whose owner has not told that it runs.
    displaced: Option<String>,
}

impl DirectoryLock {
    /// Takes the locks without waiting.
    ///
    /// # Errors
    /// `locked`, naming the owner; `io` when the directory does not exist or cannot be used.
    pub fn acquire(dir: &Path, access: Access) -> Result<DirectoryLock> {
        DirectoryLock::acquire_on(dir, access, is_overlay)
    }

    /// As [`DirectoryLock::acquire`], where `may_be_shared` says whether a lock may be one of a mount only.
    fn acquire_on(dir: &Path, access: Access, may_be_shared: fn(&File) -> bool) -> Result<DirectoryLock> {
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
        let is_found = leads_to(dir, &directory) == Some(true);
        let before = owner(dir);
        let session = match may_be_shared(&directory) {
            true if writes => Some(u64::from_le_bytes(random().map_err(|error| Error::io("lock", dir, &error))?)),
            _ => None,
        };
        let mut this = DirectoryLock {
            file,
            directory,
            is_found,
            dir: dir.to_owned(),
            path,
            writes,
            closed: Mutex::new(before.closed),
            url: Mutex::default(),
            displaced: before.session.clone().filter(|_| session.is_some() && !before.has_ended()),
            session: session.map(|session| format!("{session:016x}")),
        };
        if writes {
            this.announce(None)?;
        }
        this.wait_for_owner(&before)?;
        Ok(this)
    }

    /// Waits for the owner whose session was displaced to report that it runs.
    fn wait_for_owner(&mut self, before: &Owner) -> Result<()> {
        let Some(displaced) = &self.displaced else { return Ok(()) };
        log::warn!("{} is on overlayfs and was not closed cleanly: waiting for its owner", self.dir.display());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(CLAIM_WAIT_MS) {
            std::thread::sleep(LOOK_AGAIN);
            if owner(&self.dir).session.as_ref() == Some(displaced) {
                // The note is the other's.
                self.writes = false;
                let by =
                    before.pid.map_or_else(String::new, |pid| format!(" (by process {pid}, through another overlay)"));
                let message = format!("data directory is already locked: {}{by}", self.dir.display());
                return Err(Error::new(Kind::Locked, message));
            }
        }
        Ok(())
    }

    /// Tells another process that has come by another overlay that this owner runs. To be called now and then.
    ///
    /// # Errors
    /// `locked`: the owner whose place this one took runs too.
    pub fn claim(&self) -> Result<()> {
        let Some(session) = &self.session else { return Ok(()) };
        let note = owner(&self.dir);
        if note.session.is_none() || note.session.as_ref() == Some(session) {
            return Ok(());
        }
        if note.session == self.displaced {
            let by = note.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            let message = format!("{} has another owner{by}, through another overlay", self.dir.display());
            return Err(Error::new(Kind::Locked, message));
        }
        log::error!("another process has opened {} through another overlay; it is told to stop", self.dir.display());
        let url = self.url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.announce(url.as_deref())
    }

    /// Whether the directory's path does not lead to it any more.
    pub fn is_moved(&self) -> bool {
        self.is_found && leads_to(&self.dir, &self.directory) == Some(false)
    }

    /// Notes this process as the owner of the directory, and the URL of its server, for other processes to find.
    ///
    /// # Errors
    /// `io` when the note cannot be written. A full disk is not an error: the lock holds without the note.
    pub fn announce(&self, url: Option<&str>) -> Result<()> {
        let Some(file) = self.file.as_ref() else { return Ok(()) };
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = url.map(str::to_owned);
        self.write_note(file, url, self.session.as_deref())
    }

    fn write_note(&self, mut file: &File, url: Option<&str>, session: Option<&str>) -> Result<()> {
        let mut note = json!({ "pid": std::process::id(), "url": url });
        if let Some(session) = session {
            note["session"] = session.into();
            note["namespace"] = namespace().into();
        }
        if let Some(closed) = *self.closed() {
            note["closed"] = closed.to_json();
        }
        let note = format!("{note}\n");
        // In place: on a full disk the former note stays, with its first line or without.
        let written = io::Seek::rewind(&mut file)
            .and_then(|()| file.write_all(note.as_bytes()))
            .and_then(|()| file.set_len(note.len() as u64));
        match written {
            Err(error) if is_no_space(&error) => {
                log::warn!("no space for the owner's note in {}: {error}", self.path.display());
                Ok(())
            }
            written => written.map_err(|error| Error::io("write", &self.path, &error)),
        }
    }
}

impl DirectoryLock {
    /// Notes where the log ended that was just closed cleanly. It need not be on disk: without it nothing is
    /// compared.
    pub fn note_closed(&self, closed: Closed) {
        *self.closed() = Some(closed);
        if let Err(error) = self.announce(None) {
            log::warn!("the end of the log could not be noted: {error}");
        }
    }

    /// Forgets where a log ended: another is put in its place, which may end before.
    ///
    /// # Errors
    /// As [`DirectoryLock::announce`].
    pub fn forget_closed(&self) -> Result<()> {
        match self.closed().take() {
            Some(_) => self.announce(None),
            None => Ok(()),
        }
    }

    fn closed(&self) -> MutexGuard<'_, Option<Closed>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The next owner writes its own note a moment after it has the lock; ours must not be found in between.
        if let Some(file) = self.file.as_ref().filter(|_| self.writes) {
            let _ = self.write_note(file, None, None);
        }
    }
}

/// Reads the note of the owner. Empty where it cannot be read; the note of an owner that has ended remains.
pub fn owner(dir: &Path) -> Owner {
    let mut note = Vec::new();
    match File::open(dir.join(LOCK)).and_then(|file| file.take(4096).read_to_end(&mut note)) {
        Ok(_) => parse_note(&note),
        Err(_) => Owner::default(),
    }
}

/// Reads a note. Empty where it is none.
pub fn parse_note(note: &[u8]) -> Owner {
    // A longer one may have stood there a moment ago.
    let line = note.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let note: Value = serde_json::from_slice(line).unwrap_or_default();
    Owner {
        pid: note["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
        url: note["url"].as_str().map(str::to_owned),
        closed: Closed::of_json(&note["closed"]),
        session: note["session"].as_str().map(str::to_owned),
        namespace: note["namespace"].as_str().map(str::to_owned),
    }
}

impl Owner {
    /// Whether it certainly runs no more.
    fn has_ended(&self) -> bool {
        let is_near = self.namespace.is_some() && self.namespace == namespace();
        is_near && self.pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    }
}

/// The namespace of process ids that this process is in.
fn namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned())
}

/// Whether a directory is on overlayfs.
fn is_overlay(directory: &File) -> bool {
    const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
    rustix::fs::fstatfs(directory).is_ok_and(|found| found.f_type as u64 & 0xffff_ffff == OVERLAYFS_SUPER_MAGIC)
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
    // It may be in a user's work tree. It works without this file too.
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
        assert_eq!(owner(dir.path()), Owner { pid, ..Owner::default() });
        lock.announce(Some("http://127.0.0.1:7878")).unwrap();
        let url = Some("http://127.0.0.1:7878".into());
        assert_eq!(owner(dir.path()), Owner { pid, url, ..Owner::default() });
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
        // A note that was written over a longer one, and not cut yet.
        std::fs::write(dir.path().join(LOCK), "{\"pid\":7}\n127.0.0.1:1\"}\n").unwrap();
        assert_eq!(owner(dir.path()).pid, Some(7));
        std::fs::write(dir.path().join(LOCK), "not json").unwrap();
        assert_eq!(owner(dir.path()), Owner::default());
    }

    #[test]
    fn where_the_log_was_closed_is_kept_by_all_that_come_after() {
        let dir = tempfile::tempdir().unwrap();
        let closed = Closed { directory: *b"\x000123456789abcde", segment: 3, salt: u64::MAX, last: 1 << 60 };
        let lock = DirectoryLock::acquire(dir.path(), Access::Create).unwrap();
        lock.note_closed(closed);
        assert_eq!(owner(dir.path()).closed, Some(closed));
        drop(lock);
        let lock = DirectoryLock::acquire(dir.path(), Access::Write).unwrap();
        lock.announce(Some("http://127.0.0.1:7878")).unwrap();
        assert_eq!(owner(dir.path()).closed, Some(closed));
        drop(lock);
        assert_eq!(owner(dir.path()).closed, Some(closed));
        for wrong in
            ["{}", "{\"directory\":\"x\"}", "7", "{\"directory\":\"1\",\"salt\":\"1\",\"segment\":-1,\"last\":1}"]
        {
            assert_eq!(parse_note(format!("{{\"pid\":1,\"closed\":{wrong}}}").as_bytes()).closed, None, "{wrong}");
        }
    }

    #[test]
    fn on_overlayfs_an_owner_that_runs_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let note = |session: &str| {
            let note = json!({"pid": 7, "url": null, "session": session, "namespace": "elsewhere"});
            std::fs::write(dir.path().join(LOCK), format!("{note}\n")).unwrap();
        };
        let acquire = || DirectoryLock::acquire_on(dir.path(), Access::Create, |_| true);
        // The clean end is noted, and the next owner does not wait.
        let lock = acquire().unwrap();
        assert_eq!(owner(dir.path()).session, lock.session);
        lock.claim().unwrap();
        drop(lock);
        assert_eq!(owner(dir.path()).session, None);
        // So is that of a process that is gone.
        note("first");
        let gone = Owner { pid: Some(u32::MAX), namespace: namespace(), ..owner(dir.path()) };
        assert!(gone.has_ended() && !owner(dir.path()).has_ended());
        // An owner that runs puts its session back.
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                while owner(dir.path()).session.as_deref() == Some("first") {
                    std::thread::yield_now();
                }
                note("first");
            });
            acquire().unwrap_err()
        });
        assert!(error.kind() == Kind::Locked && error.message().contains("by process 7, through another"), "{error}");
        assert_eq!(owner(dir.path()).session.as_deref(), Some("first"), "its note stays");
        // An owner that does so too late is still noticed; another newcomer is refused.
        let lock = acquire().unwrap();
        lock.announce(Some("http://127.0.0.1:7878")).unwrap();
        note("second");
        lock.claim().unwrap();
        assert_eq!((owner(dir.path()).session, owner(dir.path()).url.is_some()), (lock.session.clone(), true));
        note("first");
        assert_eq!(lock.claim().unwrap_err().kind(), Kind::Locked);
    }
}
