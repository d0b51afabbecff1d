//! Bytes on disk: the data directory, its lock, the log and the snapshots.
//!
//! Owns: every file of the data directory. Called by `limiter`. It knows records, not what they mean: what is read
//! goes to a [`Replay`], and what a snapshot holds comes from its caller.

mod files;
mod format;
mod log;
mod opening;
mod read;
mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::files::disk::{self, Disk, SystemDisk};
pub use self::files::lock::{Access, DirectoryLock, Owner, owner, writer};
pub use self::files::names::LOCK;
use self::files::names::Name;
pub use self::files::view::LiveDisk;
pub use self::format::{frame, record};
pub use self::log::wait::{Pending, Settle, Waiter};
pub use self::log::writer::{Health, Log, Policy, Reservation, TIMING_BOUNDS_US, Timings, overloaded};
pub use self::opening::Opening;
pub use self::read::recovery::{CleanEnd, Damage, Recovered, Replay, Torn, WAY_OUT, recover};
pub use self::read::repair::{Lost, Salvaged, salvage};
pub use self::snapshot::SnapshotWriter;
use crate::bounds::{
    MAX_COMPACT_AFTER_BYTES, MAX_FLUSH_EVERY_EVENTS, MAX_FLUSH_EVERY_MS, MAX_SEGMENT_BYTES, MIN_COMPACT_AFTER_BYTES,
    MIN_SEGMENT_BYTES,
};
use crate::error::{Error, Result};

/// An open data directory whose log takes records.
pub struct Store {
    log: Log,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    directory: [u8; 16],
    lock: DirectoryLock,
}

impl Store {
    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory's lock, to note the server's address in.
    pub fn lock(&self) -> &DirectoryLock {
        &self.lock
    }

    /// Begins the snapshot that will stand for everything before segment `number`, with markers in the log.
    pub fn begin_snapshot(&self, number: u64) -> Result<SnapshotWriter<'_>> {
        SnapshotWriter::begin(&*self.disk, &self.dir, self.directory, number, false)
    }

    /// Removes segments and snapshots older than `number`, which the snapshot of that number and size stands for. Returns
    /// the bytes of segments that were removed. A file that can't be removed is left for the next start.
    pub fn remove_before(&self, number: u64, snapshot_bytes: u64) -> u64 {
        let mut bytes = 0;
        let Ok(items) = std::fs::read_dir(&self.dir) else { return 0 };
        for item in items.flatten() {
            match Name::parse(&item.file_name()) {
                Some(Name::Segment(older)) if older < number => {
                    bytes += item.metadata().map_or(0, |metadata| metadata.len());
                    remove_leftover(&*self.disk, &item.path());
                }
                Some(Name::Snapshot(older)) if older < number => remove_leftover(&*self.disk, &item.path()),
                _ => {}
            }
        }
        self.log.compacted(bytes, snapshot_bytes);
        bytes
    }
}

/// A policy with the defaults of bounds.rs.
impl Default for Policy {
    fn default() -> Policy {
        Policy {
            flush_every_events: crate::bounds::FLUSH_EVERY_EVENTS,
            flush_every: Duration::from_millis(crate::bounds::FLUSH_EVERY_MS),
            compact_after: crate::bounds::COMPACT_AFTER_BYTES,
            segment_bytes: crate::bounds::SEGMENT_BYTES,
        }
    }
}

fn remove_leftover(disk: &dyn Disk, path: &Path) {
    match disk.remove(path) {
        Ok(()) => {}
        // The new segment or snapshot has taken over the name of an unfinished one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => ::log::warn!("cannot remove {}, which is not needed any more: {error}", path.display()),
    }
}

fn new_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random()?.to_le_bytes());
    id[8..].copy_from_slice(&random()?.to_le_bytes());
    Ok(id)
}

/// A random number from the operating system.
fn random() -> Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Error::io("read", Path::new("/dev/urandom"), &error))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Refuses options that are out of their bounds.
///
/// # Errors
/// `invalid_argument`, naming the option.
pub fn validate_policy(policy: &Policy) -> Result<()> {
    let flush_every = Duration::from_millis(1)..=Duration::from_millis(MAX_FLUSH_EVERY_MS);
    let events = 1..=MAX_FLUSH_EVERY_EVENTS;
    let compact_after = MIN_COMPACT_AFTER_BYTES..=MAX_COMPACT_AFTER_BYTES;
    let segment_bytes = MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES;
    for (name, is_within, low, high) in [
        ("flush-every-ms", flush_every.contains(&policy.flush_every), 1, MAX_FLUSH_EVERY_MS),
        ("flush-every-events", events.contains(&policy.flush_every_events), 1, MAX_FLUSH_EVERY_EVENTS),
        ("compact-after", compact_after.contains(&policy.compact_after), *compact_after.start(), *compact_after.end()),
        ("segment_bytes", segment_bytes.contains(&policy.segment_bytes), *segment_bytes.start(), *segment_bytes.end()),
    ] {
        if !is_within {
            return Err(Error::invalid(format!("{name} must be from {low} to {high}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_refused_past_each_of_its_bounds() {
        let refused = |change: &dyn Fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            validate_policy(&policy).err().map(|error| {
                assert_eq!(error.kind(), crate::Kind::InvalidArgument);
                error.message().to_owned()
            })
        };
        let flush_every = |flush_every| refused(&|policy| policy.flush_every = flush_every);
        let bounds = (Duration::from_millis(1), Duration::from_millis(MAX_FLUSH_EVERY_MS));
        assert_eq!((flush_every(bounds.0), flush_every(bounds.1)), (None, None));
        let message = Some(format!("flush-every-ms must be from 1 to {MAX_FLUSH_EVERY_MS}"));
        let moment = Duration::from_nanos(1);
        assert_eq!((flush_every(bounds.0 - moment), flush_every(bounds.1 + moment)), (message.clone(), message));
        type Field = fn(&mut Policy) -> &mut u64;
        let fields: [(&str, Field, u64, u64); 3] = [
            ("flush-every-events", |policy| &mut policy.flush_every_events, 1, MAX_FLUSH_EVERY_EVENTS),
            ("compact-after", |policy| &mut policy.compact_after, MIN_COMPACT_AFTER_BYTES, MAX_COMPACT_AFTER_BYTES),
            ("segment_bytes", |policy| &mut policy.segment_bytes, MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES),
        ];
        for (name, field, low, high) in fields {
            let message = Some(format!("{name} must be from {low} to {high}"));
            for (value, expected) in [(low - 1, &message), (low, &None), (high, &None), (high + 1, &message)] {
                assert_eq!(refused(&|policy| *field(policy) = value), *expected, "{name} {value}");
            }
        }
    }

    #[test]
    fn a_compaction_leaves_less_in_the_log_than_would_trigger_the_next() {
        let marker = (frame::FRAME_HEADER + record::MAX_FIXED) as u64;
        let left = frame::FILE_HEADER as u64 + crate::bounds::SHARDS as u64 * marker;
        assert!(2 * left < MIN_COMPACT_AFTER_BYTES, "{left}");
    }
}
