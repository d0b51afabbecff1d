//! Online compaction: a new snapshot while checks go on.
//!
//! The log is rotated first: segment N begins. The table of holds is copied under its lock, with its own marker,
//! so that the shards, which come after it, have at least what its holds have spent. Then, shard by shard and under
//! the lock of that shard only, keys of which nothing counts any more are taken out, the others are copied (of a long
//! sliding window log only the newest part is, the rest is shared: `limit/counting/algorithms/logged.rs`) and a
//! marker record is queued; its place in the log is exactly where the copy was made. What is not in the copy is not
//! in the map either: the next spend of such a key says in its record all that a replay needs. Encoding and writing
//! happen outside every lock. When all is durable, the markers included, the snapshot gets its name N, and what is
//! older than N is removed. Any failure before leaves the old files in force.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};
use std::thread;
use std::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::limiter::answers::{Compaction, Totals};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::Entry;
use crate::limiter::held::book::Pledge;
use crate::limiter::kept::shelf::Kept;
use crate::store::overloaded;
use crate::store::record::{Event, MAX_FIXED, PatternTotals};

/// Records that may be written while a shard is copied, the marker among them, for the limiter to count as idle.
const QUIET_EVENTS: u64 = 16;

/// How long a compaction rests after each stretch of work while checks are made, in times of what that took: the
/// processor that it needs is not theirs meanwhile.
const PACE: u32 = 2;

/// Entries that are encoded in one stretch, in about 100 microseconds.
const STRETCH: usize = 512;

/// Leaves the processor to checks, if there are any.
fn rest(busy: bool, begun: Instant) {
    if busy {
        thread::sleep(begun.elapsed() * PACE);
    }
}

impl Limiter {
    /// Writes a new snapshot and removes the log that it replaces. Checks go on meanwhile. One at a time: all calls
    /// that come while one runs are served by the next.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// let done = limiter.compact()?;
    /// println!("the log had {} bytes and has {}", done.log_bytes_before, done.log_bytes_after);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `log_failed`, `overloaded`, `io`; the old files are kept then.
    pub fn compact(&self) -> Result<Compaction> {
        self.core.compact()
    }
}

impl Core {
    /// Compacts the log. One at a time; a call that comes while one runs is served by the next one, together with all
    /// that come meanwhile, so that no call waits for more than two.
    pub fn compact(&self) -> Result<Compaction> {
        let begun_before = self.compactions_begun.load(Ordering::Acquire);
        let mut last = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = self.compactions_begun.load(Ordering::Acquire);
        if let Some(ended) = last.as_ref().filter(|_| begun > begun_before) {
            return ended.clone();
        }
        self.compactions_begun.store(begun + 1, Ordering::Release);
        // The result for waiting calls if this compaction panics.
        *last = Some(Err(Error::new(
            Kind::Internal,
            "the compaction panicked, which is a defect of Flint; please report it",
        )));
        let result = self.compact_locked();
        self.compactions.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
        *last = Some(result.clone());
        result
    }

    fn compact_locked(&self) -> Result<Compaction> {
        let log = self.log()?;
        let Some(store) = &self.store else { return Err(Error::new(Kind::Internal, "a log without a store")) };
        let log_bytes_before = log.bytes();
        // Several limits that are configured together begin and end in segments that are kept, or in segments that are
        // not.
        let edit = self.registry.edit();
        if edit.is_some() {
            // The log did not take all of it. The next of them goes on with it.
            return Err(overloaded());
        }
        let number = log.rotate()?;
        drop(edit);
        let mut writer = store.begin_snapshot(number)?;
        let mut copies: Vec<Entry> = Vec::new();
        // Of each pattern what all shards have counted until their markers.
        let mut totals: HashMap<u64, Totals> = HashMap::new();
        {
            let mut reservation = self.reserve(1, MAX_FIXED)?;
            let (holds, answers): (Vec<Pledge>, Vec<Kept>) = {
                let (mut book, mut shelf) = (self.holds.lock(), self.answers.lock());
                let now = self.clock.now();
                book.tidy(now);
                shelf.tidy(now);
                log.append(&mut reservation, &Event::TablesMarker { snapshot: number }, None);
                (book.iter().cloned().collect(), shelf.iter().cloned().collect())
            };
            drop(reservation);
            holds.iter().try_for_each(|pledge| writer.hold(&pledge.to_record()))?;
            answers.iter().try_for_each(|kept| writer.answer(&kept.to_record()))?;
        }
        let mut events = log.events();
        for (index, shard) in self.shards.iter().enumerate() {
            let begun = Instant::now();
            let mut reservation = self.reserve(1, MAX_FIXED)?;
            let index = index as u8;
            let mut table = shard.lock();
            self.sweep_all(&mut table, |entry| {
                // The log may know an entry by its shard of an earlier start; from here on it is this shard.
                entry.renumber(entry.id(), index);
                copies.push(entry.clone());
            });
            let shares = table.counts.shares.clone();
            let marker = Event::Marker { snapshot: number, shard: index };
            log.append(&mut reservation, &marker, None);
            drop(table);
            drop(reservation);
            for share in shares.iter() {
                totals.entry(share.pattern.id).or_default().add(share.totals);
            }
            let seen = std::mem::replace(&mut events, log.events());
            let busy = events > seen + QUIET_EVENTS;
            rest(busy, begun);
            while !copies.is_empty() {
                let begun = Instant::now();
                let some = copies.drain(copies.len().saturating_sub(STRETCH)..);
                some.into_iter().try_for_each(|entry| writer.entry(&entry.to_record(&shares)))?;
                rest(busy, begun);
            }
        }
        for (id, totals) in totals.into_iter().filter(|(_, totals)| *totals != Totals::default()) {
            writer.pattern_totals(&PatternTotals { id, totals: totals.to_numbers() })?;
        }
        writer.seal(&self.clock)?;
        log.sync()?;
        let snapshot_bytes = writer.finish()?;
        store.remove_before(number, snapshot_bytes);
        Ok(Compaction { log_bytes_before, log_bytes_after: log.bytes(), snapshot_bytes })
    }

    /// How the last compaction ended; `None` while another runs.
    pub fn last_compaction(&self) -> Option<Result<Compaction>> {
        match self.compaction.try_lock() {
            Ok(last) => last.clone(),
            Err(TryLockError::Poisoned(last)) => last.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Compacts the log since it has grown past its bound.
    pub fn compact_and_tell(&self) {
        match self.compact() {
            Ok(done) => log::info!(
                "compacted the log from {} to {} bytes, snapshot {} bytes",
                done.log_bytes_before,
                done.log_bytes_after,
                done.snapshot_bytes
            ),
            Err(error) => log::warn!("the log could not be compacted and is kept unchanged: {error}"),
        }
    }
}
