//! Denials on their way to the log: as totals, at most one record per limit and flush interval, so that a flood of
//! denied checks can't fill the disk.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;

use super::core::{Core, shard_of};
use super::entry::Table;
use crate::clock::Millis;
use crate::error::Result;
use crate::store::record::{Event, MAX_FIXED};

/// Records written under one hold of a shard's lock.
const STEP: usize = 64;

impl Core {
    /// Counts a denial and sees to it that the log will know of it.
    pub(super) fn count_denial(&self, table: &mut Table, hash: u64, key: &str, now: Millis, cost: u64) {
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
    pub(super) fn write_denials(&self) -> Result<()> {
        let _writing = self.writing_denials.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unlogged.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let written = (0..self.shards.len()).try_for_each(|shard| self.write_denials_of(shard));
        if written.is_err() {
            self.unlogged.store(true, Ordering::Release);
        }
        written
    }

    fn write_denials_of(&self, shard: usize) -> Result<()> {
        // Those that are denied again once they are written are for the next interval, however long this takes.
        let mut found = std::mem::take(&mut self.shards[shard].lock().unlogged);
        while !found.is_empty() {
            let mut reservation = match self.reserve(STEP, STEP * MAX_FIXED) {
                Ok(reservation) => reservation,
                Err(error) => {
                    self.shards[shard].lock().unlogged.append(&mut found);
                    return Err(error);
                }
            };
            let mut table = self.shards[shard].lock();
            for (hash, id) in found.drain(found.len().saturating_sub(STEP)..) {
                debug_assert_eq!(shard_of(hash), shard);
                // A limit that was removed meanwhile has no denials any more.
                let Some(entry) = table.get_id(hash, id) else { continue };
                entry.set_unlogged_denials(false);
                let event = Event::Denied {
                    id,
                    total: entry.totals.denied,
                    cost: entry.totals.denied_cost,
                    last: entry.last_denied(),
                };
                self.log()?.append(&mut reservation, &event, None);
            }
        }
        Ok(())
    }

    /// The thread `flint-denials`: sleeps until there is something to write, then gathers for one flush interval.
    pub(super) fn denials_loop(&self) {
        while !self.closing.load(Ordering::Acquire) {
            if !self.unlogged.load(Ordering::Acquire) {
                thread::park();
                continue;
            }
            let begun = std::time::Instant::now();
            while begun.elapsed() < self.flush_every && !self.closing.load(Ordering::Acquire) {
                thread::park_timeout(self.flush_every.saturating_sub(begun.elapsed()));
            }
            if let Err(error) = self.write_denials() {
                log::debug!("denials wait for the log: {error}");
            }
        }
    }
}
