//! How a limiter is opened.

use std::sync::Arc;

use crate::clock::Clock;
use crate::store::{Access, Disk, Policy, SystemDisk};

/// When a check is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// After its record is on disk (fdatasync); concurrent requests share one.
    Always,
    /// As soon as its record is queued for the log; a crash of the machine loses at most the last batch.
    Batch,
}

impl SyncMode {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            SyncMode::Always => "always",
            SyncMode::Batch => "batch",
        }
    }
}

/// How a limiter is opened. [`Options::default`] is what `flint server start` does without options.
#[derive(Clone)]
pub struct Options {
    /// When a check is answered.
    pub sync: SyncMode,
    /// When records without a waiting caller are synced, and when the log is compacted.
    pub policy: Policy,
    /// Whether the directory may be created, or is only looked at.
    pub access: Access,
    /// Where time comes from.
    pub clock: Clock,
    /// Where bytes go to.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync: SyncMode::Always,
            policy: Policy::default(),
            access: Access::Create,
            clock: Clock::system(),
            disk: Arc::new(SystemDisk),
        }
    }
}
