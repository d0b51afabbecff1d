//! Bytes on disk: the data directory, its lock, the log and the snapshots.
//!
//! Owns: every file of the data directory. Called by `limiter`. It knows records, not what they mean: what is read
//! goes to a [`Replay`], and the content of a snapshot comes from its caller.
//!
//! Each module may use only those after it in this list: `opening`, `directory`, `backup`, `snapshot`, `log`, `read`,
//! `files`, `format`, `policy`, `timings`, `clocks`. Each room below has its own list.

mod backup;
mod clocks;
mod directory;
mod files;
mod format;
mod log;
mod opening;
mod policy;
mod read;
mod snapshot;
#[cfg(all(test, not(loom)))]
mod tests;
mod timings;

pub use self::backup::copy::Backup;
pub use self::backup::restore::{Restored, restore};
pub use self::backup::unpack::Unpacker;
pub use self::directory::{Store, Whereabouts};
pub use self::files::disk::{Disk, ReadDisk, SystemDisk, retry_interrupted, write_fully};
pub use self::files::kept::{Fate, Missing};
pub use self::files::lock::{Access, Closed, DirectoryLock, Owner, owner, writer};
pub use self::files::names::LOCK;
pub use self::files::queue::{Queue, first_in_queue, wait_until_free};
#[cfg(feature = "store")]
pub use self::files::random::random;
pub use self::files::view::ReadOnlyView;
#[cfg(all(test, feature = "store"))]
pub use self::format::properties;
pub use self::format::{decode, encode, frame, record};
pub use self::log::handle::Log;
pub use self::log::health::{Health, overloaded};
pub use self::log::queue::Reservation;
pub use self::log::segment::Cut;
pub use self::log::wait::{Completion, Pending, Stage, Waiter};
pub use self::opening::Opening;
pub use self::policy::{Policy, validate_policy};
pub use self::read::found::{CleanEnd, Damage, Recovered, Replay, Torn};
pub use self::read::recovery::recover;
pub use self::read::repair::{Lost, RepairRead, read_for_repair};
pub use self::read::rewind::{Rewind, ahead_notice};
pub use self::snapshot::SnapshotWriter;
pub use self::timings::{TIMING_BOUNDS_US, Timings};
