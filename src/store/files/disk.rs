//! The one gate to the disk.
//!
//! Owns: every call that changes a file of the data directory, behind a trait, so that a test can make the k-th call
//! fail. Called only by the rest of `store`. Nothing here retries or interprets an error, except for EINTR and short
//! transfers, which are not errors.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How the store reads files: as the operating system does it, except for the calls that an implementation is about.
/// Every call may fail with any [`io::Error`].
pub trait ReadDisk: Send + Sync {
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    /// The names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(dir)?.map(|item| item.map(|item| item.file_name())).collect()
    }
}

/// How the store changes files, likewise.
pub trait Disk: ReadDisk {
    /// Creates a file that must not exist yet, mode 0600, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    /// Writes all of `bytes` at `offset`. The file may grow.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_fully(bytes, offset, |bytes, offset| file.write_at(bytes, offset))
    }

    /// fdatasync: contents and length are durable.
    fn sync_data(&self, file: &File) -> io::Result<()> {
        retry_interrupted(|| file.sync_data())
    }

    /// fsync: contents and metadata are durable.
    fn sync_all(&self, file: &File) -> io::Result<()> {
        retry_interrupted(|| file.sync_all())
    }

    /// Cuts or extends the file.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        retry_interrupted(|| file.set_len(len))
    }

    /// Renames within the directory, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// fsync of a directory: the names in it are durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        retry_interrupted(|| directory.sync_all())
    }
}

/// The operating system's files.
#[derive(Debug, Default)]
pub struct SystemDisk;

impl ReadDisk for SystemDisk {}
impl Disk for SystemDisk {}

/// Writes all of `bytes` with as many calls as it takes: a call may write a part, and a signal may interrupt it.
pub fn write_fully(
    mut bytes: &[u8],
    mut offset: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a call again that a signal has interrupted: nothing was changed. (An interrupted fsync has reported no error
/// of the disk, so none is lost here.)
pub fn retry_interrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether an error says that there is no room: disk full, quota used up, or the file-size limit reached.
pub fn is_no_space(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| full.contains(&code))
}
