//! The open segment, and how a segment is created.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::error::{Error, Kind, way_out};
use crate::store::files::data_dir::DataDir;
use crate::store::files::disk::is_no_space;
use crate::store::files::names::Name;
use crate::store::files::random::random;
use crate::store::format::frame::{FILE_HEADER, FileHeader, FileKind};

/// The open segment.
pub struct Segment {
    pub file: File,
    pub path: PathBuf,
    pub number: u64,
    pub salt: u64,
    /// Where the next frame goes.
    pub position: u64,
    /// Up to where the file is filled with zeros.
    pub filled: u64,
}

/// Where the log ends at some moment: all that was queued before is in front of this, and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of the open segment.
    pub segment: u64,
    /// Where its last frame ends.
    pub length: u64,
}

/// Why a segment was not created.
#[derive(Debug)]
pub struct NotCreated {
    /// Whether it has its name all the same, though perhaps not durably.
    pub visible: bool,
    pub error: Error,
    pub cause: io::Error,
}

impl From<NotCreated> for Error {
    fn from(not_created: NotCreated) -> Error {
        not_created.error
    }
}

impl Segment {
    /// Creates a segment under its unfinished name with so many filled bytes, makes it durable, and gives it its name.
    pub fn create(home: &DataDir, number: u64, first: u64, fill: u64) -> Result<Segment, NotCreated> {
        let (disk, name) = (&*home.disk, Name::Segment(number));
        let (unfinished, path) = (name.unfinished(&home.path), name.path(&home.path));
        let _ = disk.remove(&unfinished);
        let mut visible = false;
        let mut create = || {
            let salt = u64::from_le_bytes(random()?);
            let kind = FileKind::Segment;
            let header = FileHeader { kind, complete: false, number, directory: home.id, salt, first };
            let mut bytes = vec![0; FILE_HEADER + fill as usize];
            bytes[..FILE_HEADER].copy_from_slice(&header.encode());
            let file = disk.create(&unfinished)?;
            disk.write_at(&file, &bytes, 0)?;
            disk.sync_all(&file)?;
            disk.rename(&unfinished, &path)?;
            visible = true;
            disk.sync_dir(&home.path)?;
            Ok((file, salt, bytes.len() as u64))
        };
        match create() {
            Ok((file, salt, filled)) => Ok(Segment { file, path, number, salt, position: FILE_HEADER as u64, filled }),
            Err(cause) => {
                if !visible {
                    let _ = disk.remove(&unfinished);
                }
                let kind = if is_no_space(&cause) { Kind::LogFailed } else { Kind::Io };
                let error = Error::new(kind, format!("cannot create {}: {cause}{}", path.display(), way_out(&cause)));
                Err(NotCreated { visible, error, cause })
            }
        }
    }

    /// Filled space after the position, in bytes.
    pub fn room(&self) -> u64 {
        self.filled.saturating_sub(self.position)
    }
}
