//! How a limiter is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::bounds::{MAX_HOLDS, MAX_KEYS};
use crate::clock::Clock;
use crate::store::{Access, Disk, Policy, SystemDisk};

/// When a check is answered, and therefore what a crash can lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// After its record is on disk (fdatasync); concurrent requests share one. Nothing that was answered is lost.
    #[default]
    Always,
    /// After its record is written to the log, which is synced by count and time ([`Options::with_flush_every`]). The
    /// end of the process loses nothing that was answered, a power cut at most what came after the last sync.
    Batch,
    /// As soon as its record is queued for the log, which is written at once or, if many records arrive, within 0.2 ms,
    /// unless the disk is slow, and synced as in `Batch`. The end of the process (except by [`Limiter::close`]) also
    /// loses what is not written by then. Configuring, resetting and removing wait for the write.
    ///
    /// [`Limiter::close`]: crate::Limiter::close
    Relaxed,
}

impl SyncMode {
    /// All of them, the safest first.
    pub const ALL: [SyncMode; 3] = [SyncMode::Always, SyncMode::Batch, SyncMode::Relaxed];

    /// `always`, `batch` or `relaxed`.
    pub const fn name(self) -> &'static str {
        match self {
            SyncMode::Always => "always",
            SyncMode::Batch => "batch",
            SyncMode::Relaxed => "relaxed",
        }
    }
}

/// How a limiter is opened. [`Options::default`] is what `flint server start` does without options.
///
/// ```
/// use std::time::Duration;
///
/// use flint::{Options, SyncMode};
///
/// let options = Options::default().with_sync(SyncMode::Batch).with_flush_every(Duration::from_millis(20));
/// # drop(options);
/// ```
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(crate) sync: SyncMode,
    pub(crate) policy: Policy,
    pub(crate) max_keys: u64,
    pub(crate) max_holds: u64,
    pub(crate) give_back: fn(),
    pub(crate) access: Access,
    pub(crate) clock: Clock,
    pub(crate) disk: Arc<dyn Disk>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Options");
        debug.field("sync", &self.sync).field("policy", &self.policy).field("access", &self.access);
        debug.field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sync: SyncMode::default(),
            policy: Policy::default(),
            max_keys: MAX_KEYS,
            max_holds: MAX_HOLDS,
            give_back: || {},
            access: Access::Create,
            clock: Clock::system(),
            disk: Arc::new(SystemDisk),
        }
    }
}

impl Options {
    /// When a check is answered; [`SyncMode::Always`] by default.
    pub fn with_sync(self, sync: SyncMode) -> Options {
        Options { sync, ..self }
    }

    /// The longest time until records are synced that no caller waits for: 1 ms to 1 hour, by default 100 ms.
    pub fn with_flush_every(self, flush_every: Duration) -> Options {
        Options { policy: Policy { flush_every, ..self.policy }, ..self }
    }

    /// The number of such records after which they are synced sooner: 1 to 10^9, by default 100.
    pub fn with_flush_every_events(self, flush_every_events: u64) -> Options {
        Options { policy: Policy { flush_every_events, ..self.policy }, ..self }
    }

    /// Size of the log past which it is compacted by itself, in bytes: 64 KiB to 1 TiB, by default 64 MiB.
    pub fn with_compact_after(self, compact_after: u64) -> Options {
        Options { policy: Policy { compact_after, ..self.policy }, ..self }
    }

    /// Size at which a file of the log is closed and the next begun, in bytes: 1 KiB to 1 GiB, by default 64 MiB.
    pub fn with_segment_bytes(self, segment_bytes: u64) -> Options {
        Options { policy: Policy { segment_bytes, ..self.policy }, ..self }
    }

    /// The maximum number of live keys with limits that requests brought: 1 to 10^9, by default 10^6.
    pub fn with_max_keys(self, max_keys: u64) -> Options {
        Options { max_keys, ..self }
    }

    /// The maximum number of open holds: 1 to 10^7, by default 100 000.
    pub fn with_max_holds(self, max_holds: u64) -> Options {
        Options { max_holds, ..self }
    }

    /// What may be done to the data directory; by default it is created and written.
    pub fn with_access(self, access: Access) -> Options {
        Options { access, ..self }
    }

    /// Where time comes from: the machine's clock, or in tests [`Clock::manual`].
    pub fn with_clock(self, clock: Clock) -> Options {
        Options { clock, ..self }
    }

    /// Called in a separate thread after many keys that came and went were removed from memory: the process may have a
    /// way to return what its allocator keeps to the system.
    #[doc(hidden)]
    pub fn with_give_back(self, give_back: fn()) -> Options {
        Options { give_back, ..self }
    }

    /// The disk that is written to.
    #[doc(hidden)]
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Options {
        Options { disk, ..self }
    }
}
