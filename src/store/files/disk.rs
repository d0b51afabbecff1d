//! The one gate to the disk.
//!
//! Owns: every call that changes a file of the data directory, behind a trait so that a test can make the k-th call
//! fail. Called by the rest of `store` alone. Nothing here retries or interprets an error, but for EINTR and short
//! transfers, which are no errors.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What the store does to files. Every call may fail with any [`io::Error`].
pub trait Disk: Send + Sync {
    /// Creates a file that must not exist yet, mode 0600, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(dir)?.map(|item| item.map(|item| item.file_name())).collect()
    }
    /// Writes all of `bytes` at `offset`. The file may grow.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// fdatasync: contents and length are durable.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// fsync: contents and metadata are durable.
    fn sync_all(&self, file: &File) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;
    /// Renames within the directory, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// fsync of a directory: the names in it are durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_fully(bytes, offset, |bytes, offset| file.write_at(bytes, offset))
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        retry_interrupted(|| file.sync_data())
    }

    fn sync_all(&self, file: &File) -> io::Result<()> {
        retry_interrupted(|| file.sync_all())
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        retry_interrupted(|| file.set_len(len))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        retry_interrupted(|| Ok(rustix::fs::fsync(directory.as_fd())?))
    }
}

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

/// A signal that interrupts a call has changed nothing: the call is made again. (An fsync that was interrupted has
/// reported no error, so nothing is forgiven here.)
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
