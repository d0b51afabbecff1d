//! Which data directory it is, where it is, and on which disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::kept::Kept;

/// A data directory as its writer has it.
#[derive(Clone)]
pub struct DataDir {
    pub disk: Arc<dyn Disk>,
    pub path: PathBuf,
    /// Random; each file of the directory has it in its header.
    pub id: [u8; 16],
    /// The files in it that a start would need.
    pub kept: Arc<Kept>,
}

impl DataDir {
    pub fn new(disk: &Arc<dyn Disk>, path: &Path, id: [u8; 16]) -> DataDir {
        DataDir { disk: Arc::clone(disk), path: path.to_owned(), id, kept: Arc::default() }
    }
}
