//! Whether records are written, and whether the disk answers.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64 as Counter;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::sync::{AtomicU8, Instant, Ordering};
use crate::bounds::{LOG_WAIT_MS, NO_SPACE_RETRY_MS, STALL_MS};
use crate::error::{Error, Kind};

/// Whether records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Records are written.
    Healthy,
    /// There is no room ahead. The log tries again, and takes records as long as filled space is left and can be
    /// written to.
    NoSpace,
    /// An fsync failed, or a write for another reason than lack of room: nothing is written any more.
    Failed,
}

/// The health of a log with its reason. Set by the log thread, read by all. What each reservation reads is together in
/// a cache line that only the log thread writes.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Condition {
    health: AtomicU8,
    /// Since when the log thread has been in a call of the disk that may take long, in milliseconds after `born`, plus
    /// 1; 0 while it is not.
    at_disk: Counter,
    born: OnceLock<Instant>,
    /// Why the health is not good. Locked for a moment, holding nothing else.
    reason: Mutex<Option<String>>,
}

impl Condition {
    pub fn get(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Healthy,
            1 => Health::NoSpace,
            _ => Health::Failed,
        }
    }

    pub fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, health: Health, reason: Option<String>) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.health.store(health as u8, Ordering::Release);
    }

    /// Notes that there is no room for the log of this directory.
    pub fn note_no_room(&self, dir: &Path, error: &io::Error) {
        if self.get() == Health::Healthy {
            let way_out = "make room on the disk, and service resumes by itself";
            let reason = format!("no room for the log in {}: {error}; {way_out}", dir.display());
            log::error!("{reason}");
            self.set(Health::NoSpace, Some(reason));
        }
    }

    /// Notes that there is room again.
    pub fn note_room(&self, dir: &Path) {
        if self.get() == Health::NoSpace {
            log::warn!("there is room for the log again in {}", dir.display());
            self.set(Health::Healthy, None);
        }
    }

    pub fn error(&self) -> Error {
        Error::new(Kind::LogFailed, self.reason().unwrap_or_else(|| "the log cannot be written".to_owned()))
    }

    fn now(&self) -> u64 {
        self.born.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    /// Makes a call of the disk that may take long, so that others can see when it does.
    pub fn at_disk<T>(&self, call: impl FnOnce() -> T) -> T {
        self.at_disk.store(self.now() + 1, Ordering::Relaxed);
        let result = call();
        self.at_disk.store(0, Ordering::Relaxed);
        result
    }

    /// Whether the disk has not answered for so long that nothing more should be given to it.
    pub fn is_stalled(&self) -> bool {
        let since = self.at_disk.load(Ordering::Relaxed);
        since > 0 && self.now() + 1 > since + STALL_MS
    }
}

/// A frame or mark that found no room, and is written again.
#[derive(Debug, Clone, Copy)]
pub struct Blocked {
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again.
    pub retry_at: Instant,
}

impl Blocked {
    /// After another attempt that has found no room; `before` is what it was until then.
    pub fn again(before: Option<&Blocked>) -> Blocked {
        let retry_at = Instant::now() + Duration::from_millis(NO_SPACE_RETRY_MS);
        Blocked { attempts: before.map_or(0, |before| before.attempts) + 1, retry_at }
    }

    /// The time until it is tried again.
    pub fn left(&self) -> Duration {
        self.retry_at.saturating_duration_since(Instant::now())
    }
}

/// The error where the disk took too long to write what was queued before.
pub fn overloaded() -> Error {
    too_slow(&format!("did not take the log for {LOG_WAIT_MS} ms"))
}

pub fn stalled() -> Error {
    too_slow(&format!("has not answered the log for {STALL_MS} ms"))
}

fn too_slow(what: &str) -> Error {
    Error::new(Kind::Overloaded, format!("the disk {what}; try again, and check the disk's load"))
}
