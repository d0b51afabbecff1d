//! The patterns of a Cluster, as lanes for keys know them.
//!
//! All patterns are one record, in one slot. A check of a key that a pattern serves can't compare it in the same
//! script, so each server reads it again every [`READ_EVERY`], and uses it for [`LEASE`] from the moment at which it
//! began to read; after that it refuses keys that patterns may serve, with `store_unavailable`. What it decides by them
//! is done by the store within [`IN_TIME`] or not at all. An edit of patterns is answered once [`LEASE`] and
//! [`IN_TIME`] have passed since it was written: from then on nothing is spent by what was before. While it is under
//! way some servers go by the new values and some by the old.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};

/// How often a server reads the patterns.
pub const READ_EVERY: Duration = Duration::from_millis(250);

/// How long it goes by them.
pub const LEASE: Duration = Duration::from_millis(1000);

/// How long the store may take to do what was decided by them.
pub const IN_TIME: Duration = Duration::from_millis(500);

/// The patterns that were read last.
#[derive(Debug, Default)]
pub struct Lease(Mutex<Read>);

#[derive(Debug, Default)]
struct Read {
    /// Counts other patterns than before.
    number: u64,
    record: Option<Vec<u8>>,
    /// When they were asked for.
    asked: Option<Instant>,
}

impl Lease {
    fn read(&self) -> MutexGuard<'_, Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the store has, which was asked for then.
    pub fn renew(&self, record: Option<Vec<u8>>, asked: Instant) {
        let mut read = self.read();
        if read.number == 0 || read.record != record {
            read.number += 1;
            read.record = record;
        }
        read.asked = Some(asked);
    }

    /// The patterns, if they are others than those with this number, and their number.
    pub fn newer(&self, than: u64) -> Option<(u64, Option<Vec<u8>>)> {
        let read = self.read();
        (read.number > than).then(|| (read.number, read.record.clone()))
    }

    /// Whether they may be gone by still, until a round trip from now.
    pub fn is_fresh(&self) -> bool {
        self.read().asked.is_some_and(|asked| asked.elapsed() < LEASE)
    }

    /// The error while they may not.
    pub fn error(&self) -> Error {
        let what = "the shard of the Cluster that has the patterns does not answer, so keys that patterns may serve can't be \
                    decided; nothing was changed";
        Error::new(Kind::StoreUnavailable, what)
    }
}
