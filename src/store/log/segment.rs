//! Segments.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, way_out};
use crate::store::files::disk::{Disk, is_no_space};
use crate::store::files::names::Name;
use crate::store::files::random::random;
use crate::store::format::frame::{FILE_HEADER, FileHeader, FileKind};

/// The open segment.
pub(in crate::store) struct Segment {
    pub file: File,
    pub path: PathBuf,
    pub number: u64,
    pub salt: u64,
    /// Where the next frame goes.
    pub position: u64,
    /// Up to where the file is filled with zeros.
    pub filled: u64,
}

/// Why a segment was not created.
#[derive(Debug)]
pub(in crate::store) struct NotCreated {
    /// Whether it has its name all the same, though perhaps not durably.
    pub visible: bool,
    pub error: Error,
    pub cause: std::io::Error,
}

impl From<NotCreated> for Error {
    fn from(not_created: NotCreated) -> Error {
        not_created.error
    }
}

/// Creates a segment under its unfinished name, makes it durable, and gives it its name.
pub(in crate::store) fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    directory: [u8; 16],
    number: u64,
    first: u64,
    fill: Option<u64>,
) -> std::result::Result<Segment, NotCreated> {
    let name = Name::Segment(number);
    let (unfinished, path) = (name.unfinished(dir), name.path(dir));
    let _ = disk.remove(&unfinished);
    let salt = random().map_err(|error| NotCreated {
        visible: false,
        cause: std::io::Error::other(error.to_string()),
        error,
    })?;
    let header = FileHeader { kind: FileKind::Segment, complete: false, number, directory, salt, first };
    let mut bytes = vec![0; FILE_HEADER + fill.unwrap_or(0) as usize];
    bytes[..FILE_HEADER].copy_from_slice(&header.encode());
    let mut visible = false;
    let created = disk.create(&unfinished).and_then(|file| {
        disk.write_at(&file, &bytes, 0)?;
        disk.sync_all(&file)?;
        disk.rename(&unfinished, &path)?;
        visible = true;
        disk.sync_dir(dir)?;
        Ok(file)
    });
    let file = created.map_err(|cause| {
        if !visible {
            let _ = disk.remove(&unfinished);
        }
        let kind = if is_no_space(&cause) { Kind::LogFailed } else { Kind::Io };
        let error = Error::new(kind, format!("cannot create {}: {cause}{}", path.display(), way_out(&cause)));
        NotCreated { visible, error, cause }
    })?;
    Ok(Segment { file, path, number, salt, position: FILE_HEADER as u64, filled: bytes.len() as u64 })
}
