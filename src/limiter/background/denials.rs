//! Denials on their way to the log: as totals, at most one record per limit and flush interval, so that a flood of
//! denied checks can't fill the disk.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::clock::Millis;
use crate::error::Result;
use crate::limiter::answers::Totals;
use crate::limiter::core::{Core, Limiter, Shard};
use crate::limiter::entry::Table;
use crate::store::record::{Event, MAX_FIXED};

/// Records written under one hold of a shard's lock.
const STEP: usize = 64;

impl Limiter {
    /// Waits until all that was answered before is on disk, denials included.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`.
    pub fn flush(&self) -> Result<()> {
        self.core.write_denials()?;
        self.core.log()?.sync()
    }
}

impl Core {
    /// Counts a denial and sees to it that the log will know of it.
    pub fn count_denial(&self, table: &mut Table, hash: u64, key: &str, now: Millis, cost: u64) {
        debug_assert!(!key.is_empty());
        table.decisions.1 += 1;
        let Some(entry) = table.get(hash, key) else { return };
        entry.deny(now, cost);
        let id = entry.id();
        if !entry.set_unlogged_denials(true) {
            table.unlogged.push((hash, id));
            if !self.unlogged.swap(true, Ordering::AcqRel)
                && let Some(helper) = &*self.unlogged_helper.lock().unwrap_or_else(PoisonError::into_inner)
            {
                helper.unpark();
            }
        }
    }

    /// Writes the totals of all limits with denials that the log does not know of, and returns when all that were counted
    /// before are queued, by whomever. Does not wait for the disk.
    pub fn write_denials(&self) -> Result<()> {
        let _writing = self.writing_denials.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unlogged.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let unwritten = Unwritten(&self.unlogged);
        self.shards.iter().try_for_each(|shard| self.write_denials_of(shard))?;
        std::mem::forget(unwritten);
        Ok(())
    }

    fn write_denials_of(&self, shard: &Shard) -> Result<()> {
        // Those that are denied again once they are written are for the next interval, however long this takes.
        let mut taken = Taken { found: std::mem::take(&mut shard.lock().unlogged), shard };
        while !taken.found.is_empty() {
            let mut reservation = self.reserve(STEP, STEP * MAX_FIXED)?;
            let mut table = shard.lock();
            for _ in 0..STEP {
                let Some((hash, id)) = taken.found.last().copied() else { break };
                // A limit that was removed meanwhile has no denials any more.
                if let Some(entry) = table.get_id(hash, id) {
                    let Totals { denied: total, denied_cost: cost, .. } = entry.totals;
                    let event = Event::Denied { id, total, cost, last: entry.last_denied() };
                    self.log()?.append(&mut reservation, &event, None);
                    entry.set_unlogged_denials(false);
                }
                taken.found.pop();
            }
        }
        Ok(())
    }

    /// A round of the thread `flint-denials`: sleeps until there is something to write, then gathers for one flush
    /// interval.
    pub fn denials_round(&self) {
        if !self.unlogged.load(Ordering::Acquire) {
            return thread::park();
        }
        self.rest(self.flush_every);
        if let Err(error) = self.write_denials() {
            log::debug!("denials wait for the log: {error}");
        }
    }
}

/// Dropped when not all was written: there are denials that the log does not know of.
struct Unwritten<'a>(&'a AtomicBool);

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Hash and id of limits whose denials are being written. Those that are not written are a matter of the shard again, or
/// they never would be.
struct Taken<'a> {
    found: Vec<(u64, u64)>,
    shard: &'a Shard,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.found.is_empty() {
            self.shard.lock().unlogged.append(&mut self.found);
        }
    }
}
