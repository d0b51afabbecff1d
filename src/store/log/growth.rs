//! How large the log is, and when it is to be compacted.
//!
//! A compaction is requested when the log is past its bound and an event has come since the last one. What a compaction
//! itself leaves in the log (its markers, the header of a segment, the mark of an idle log) does not count: it would
//! request the next one for ever.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;

/// Counted by the log thread, except for what a compaction removes.
#[derive(Debug, Default)]
pub struct Growth {
    /// Bytes of all segments without filled space.
    pub bytes: AtomicU64,
    /// Events written since the start, the markers of compactions included.
    pub events: AtomicU64,
    /// The value of `events` when the last compaction ended.
    events_compacted: AtomicU64,
    /// The size in bytes past which a compaction is requested, if it is past the policy's bound too.
    compact_past: AtomicU64,
    requested: AtomicBool,
    /// The thread that compacts.
    compactor: Mutex<Option<Thread>>,
}

impl Growth {
    pub fn new(bytes: u64, snapshot_bytes: u64) -> Growth {
        Growth { bytes: bytes.into(), compact_past: (2 * snapshot_bytes).into(), ..Growth::default() }
    }

    /// Notes that `bytes` of old segments were removed since a snapshot of `snapshot_bytes` replaces them.
    pub fn compacted(&self, bytes: u64, snapshot_bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        // All markers were synced before, so they are in this number.
        self.events_compacted.store(self.events.load(Ordering::Relaxed), Ordering::Relaxed);
        self.compact_past.store(2 * snapshot_bytes, Ordering::Release);
        // A request of the meantime may be due to the markers. If not, the next event makes it again.
        self.requested.store(false, Ordering::Release);
    }

    /// Wakes the thread that compacts if the log has grown past this bound.
    pub fn request_compaction(&self, compact_after: u64) {
        let past = self.compact_past.load(Ordering::Acquire);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let compacted = self.events_compacted.load(Ordering::Relaxed);
        if bytes > compact_after.max(past) && self.events.load(Ordering::Relaxed) > compacted {
            // Should the compaction fail, it is requested again when the log has grown by half.
            self.compact_past.store(bytes + bytes / 2, Ordering::Relaxed);
            self.requested.store(true, Ordering::Release);
            if let Some(thread) = &*self.compactor.lock().unwrap_or_else(PoisonError::into_inner) {
                thread.unpark();
            }
        }
    }

    pub fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::AcqRel)
    }

    pub fn set_compactor(&self, thread: Thread) {
        *self.compactor.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }
}
