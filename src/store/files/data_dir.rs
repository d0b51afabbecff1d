//! Which data directory it is, where it is, and on which disk.

use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Disk;

/// A data directory as its writer has it.
#[derive(Clone)]
pub struct DataDir {
    pub disk: Arc<dyn Disk>,
    pub path: PathBuf,
    /// Random; each file of the directory has it in its header.
    pub id: [u8; 16],
}
