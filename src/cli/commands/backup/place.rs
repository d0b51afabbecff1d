//! Where a backup is: a file, or standard input or output.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::answer::usage;
use crate::cli::options::Args;
use crate::error::{Error, Kind, Result};

/// What `FILE|-` says.
pub enum Place<'a> {
    File(&'a Path),
    /// `-`: standard input or output.
    Standard,
}

impl<'a> Place<'a> {
    /// # Errors
    /// `usage` for an empty name, which an unset variable of a shell gives.
    pub fn of(args: &'a Args) -> Result<Place<'a>> {
        match args.operands.first() {
            Some(operand) if operand == "-" => Ok(Place::Standard),
            Some(operand) if !operand.is_empty() => Ok(Place::File(Path::new(operand))),
            _ => Err(usage("FILE must not be empty; - is standard input or output")),
        }
    }
}

/// A file that did not exist, mode 0600. Dropped before it is kept, it is removed.
pub struct NewFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl NewFile {
    /// # Errors
    /// `io`, also if something of this name exists.
    pub fn create(path: &Path) -> Result<NewFile> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => Ok(NewFile { file, path: path.to_owned(), kept: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let what = "exists already and is not overwritten; name a new file";
                Err(Error::new(Kind::Io, format!("{} {what}", path.display())))
            }
            Err(error) => Err(Error::io("create", path, &error)),
        }
    }

    /// # Errors
    /// `io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write", &self.path, &error))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// `io`; it is removed then.
    pub fn keep(mut self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::io("sync", &self.path, &error))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|error| Error::io("sync the directory that holds", &self.path, &error))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}, which is incomplete: {error}", self.path.display());
        }
    }
}
