//! Denials on their way to the log: as totals, at most one record per key and flush interval, so that a flood of
//! denied checks can't fill the disk.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::error::Result;
use crate::limiter::answers::Totals;
use crate::limiter::core::{Core, Limiter, Shard};
use crate::store::record::{Event, MAX_FIXED};

/// Records written under one hold of a shard's lock.
const STEP: usize = 64;

impl Limiter {
    /// Waits until everything that was answered before is on disk, denials included.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.check("api:user-42", 60)?;
    /// assert!(!limiter.check("api:user-42", 60)?.allowed);
    /// // The denial is counted already. After this it stays counted if the machine loses power.
    /// limiter.flush()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `log_failed`, `overloaded`.
    pub fn flush(&self) -> Result<()> {
        self.core.write_denials()?;
        self.core.log()?.sync()
    }
}

impl Core {
    /// Writes the totals of all keys with denials that are missing in the log, and returns when all that were
    /// counted before are queued, by this call or another. Does not wait for the disk.
    pub fn write_denials(&self) -> Result<()> {
        let _writing = self.writing_denials.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has_pending_denials.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let unwritten = Unwritten(&self.has_pending_denials);
        self.shards.iter().try_for_each(|shard| self.write_denials_of(shard))?;
        std::mem::forget(unwritten);
        Ok(())
    }

    fn write_denials_of(&self, shard: &Shard) -> Result<()> {
        // Keys that are denied again after this are for the next interval.
        let mut taken = Taken { found: std::mem::take(&mut shard.lock().counts.pending_denials), shard };
        while !taken.found.is_empty() {
            let mut reservation = self.reserve(STEP, STEP * MAX_FIXED)?;
            let mut table = shard.lock();
            for _ in 0..STEP {
                let Some((hash, id)) = taken.found.last().copied() else { break };
                // The key may have been removed meanwhile.
                if let Some(entry) = table.get_id(hash, id) {
                    let Totals { denied: total, denied_cost: cost, .. } = entry.totals();
                    let [_, last, _] = entry.times();
                    let event = Event::Denied { id, total, cost, last };
                    self.log()?.append(&mut reservation, &event, None);
                    entry.set_pending_denials(false);
                }
                taken.found.pop();
            }
        }
        Ok(())
    }

    /// A round of the thread `flint-denials`: sleeps until there is something to write, then gathers for one flush
    /// interval.
    pub fn denials_round(&self) {
        if !self.has_pending_denials.load(Ordering::Acquire) {
            return thread::park();
        }
        self.rest(self.flush_every);
        if let Err(error) = self.write_denials() {
            log::debug!("denials wait for the log: {error}");
        }
    }
}

/// Dropped when not all was written: there are denials that are missing in the log.
struct Unwritten<'a>(&'a AtomicBool);

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Hash and id of keys whose denials are being written. What is left goes back to the shard, or it would never be
/// written.
struct Taken<'a> {
    found: Vec<(u64, u64)>,
    shard: &'a Shard,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.found.is_empty() {
            self.shard.lock().counts.pending_denials.append(&mut self.found);
        }
    }
}
