//! What the log thread and its callers share.

use std::sync::atomic::{AtomicBool, AtomicU64 as Counter};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use super::sync::{AtomicU8, AtomicU64, Instant, Ordering};
use crate::bounds::{LOG_WAIT_MS, STALL_MS};
use crate::error::{Error, Kind};
use crate::store::timings::Timings;

/// How the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Records are written.
    Healthy,
    /// There is no room ahead; it is tried again, and records go on being taken as long as filled space is left.
    NoSpace,
    /// A write or an fsync failed: nothing is written any more.
    Failed,
}

/// What the log thread and its callers share.
#[derive(Debug, Default)]
pub struct Shared {
    pub reserved: AtomicU64,
    pub available: AtomicU64,
    pub health: AtomicU8,
    /// Why the health is not good. Locked for a moment, by anybody, holding nothing else.
    pub reason: Mutex<Option<String>>,
    /// Bytes of all segments without filled space.
    pub log_bytes: Counter,
    /// Set while the log has grown past its bound; cleared by whoever compacts.
    pub wants_compaction: AtomicBool,
    /// The log's size, in bytes, past which compaction is asked for, if it is past `compact_after` too.
    pub compact_past: Counter,
    pub events: Counter,
    /// Events when the last compaction ended, its markers included. Without further ones none is asked for.
    pub compacted_events: Counter,
    pub syncs: Timings,
    /// Since when the log thread has been in a call of the disk that may take long, in milliseconds after `born`, plus 1;
    /// 0 while it is not.
    pub at_disk: Counter,
    pub born: OnceLock<Instant>,
    pub compactor: Mutex<Option<Thread>>,
}

impl Shared {
    pub fn now(&self) -> u64 {
        self.born.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    /// Runs what may take long at the disk, so that others can tell when it does.
    pub fn at_disk<T>(&self, call: impl FnOnce() -> T) -> T {
        self.at_disk.store(self.now() + 1, Ordering::Relaxed);
        let result = call();
        self.at_disk.store(0, Ordering::Relaxed);
        result
    }

    /// The disk has not answered for so long that nothing more should be given to it.
    pub fn is_stalled(&self) -> bool {
        let since = self.at_disk.load(Ordering::Relaxed);
        since > 0 && self.now() + 1 > since + STALL_MS
    }

    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Healthy,
            1 => Health::NoSpace,
            _ => Health::Failed,
        }
    }

    pub fn set_health(&self, health: Health, reason: Option<String>) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.health.store(health as u8, Ordering::Release);
    }

    pub fn error(&self) -> Error {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Error::new(Kind::LogFailed, reason.unwrap_or_else(|| "the log cannot be written".to_owned()))
    }
}

/// The error for what waited for the disk in vain.
pub fn overloaded() -> Error {
    Error::new(
        Kind::Overloaded,
        format!("the disk did not take the log for {LOG_WAIT_MS} ms; try again, and look at the disk's load"),
    )
}

pub fn stalled() -> Error {
    Error::new(
        Kind::Overloaded,
        format!("the disk has not answered the log for {STALL_MS} ms; try again, and look at the disk's load"),
    )
}
