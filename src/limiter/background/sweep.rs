//! The sweep: keys by pattern or request of which nothing counts any more leave memory by themselves.
//!
//! A few keys are looked at under each hold of a shard's lock, so that a check waits no longer for the sweep than for
//! another check. No record tells of it: such a key is the same as a key that was never seen, and the record of its
//! next spend says all that a replay needs.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::limiter::core::{Core, Shard};
use crate::limiter::entry::{Entry, Source, Table};

/// Keys that are looked at under one hold of a shard's lock: some microseconds.
const STEP: usize = 64;

/// Least time from one round to the next.
const EVERY: Duration = Duration::from_secs(2);

/// Most time, however slow a round was.
const LONGEST: Duration = Duration::from_secs(10);

/// Times as long as the work of a round that it then rests at least, so that a million keys cost the processor 2 % of
/// its time.
const SHARE: u32 = 50;

/// Keys taken out after which memory is given back: some MiB. It costs a walk through what the allocator has.
const WORTH_GIVING_BACK: usize = 32 * 1024;

/// The same where no key is left that may go: what follows would not come to more soon.
const WORTH_IT_AT_LAST: usize = 1024;

/// Work after which the processor is left to checks, for as long.
const STRETCH: Duration = Duration::from_micros(500);

impl Core {
    /// One look at all keys. Returns how long that was work, and how many were taken out.
    pub fn sweep_round(&self) -> (Duration, usize) {
        // Keys that come from here on are seen by this round, or wake the next one.
        self.has_live.store(false, Ordering::SeqCst);
        let (mut work, mut stretch) = (Duration::ZERO, Duration::ZERO);
        let (mut remain, mut removed) = (false, 0);
        for shard in &self.shards {
            let begun = Instant::now();
            let (remain_here, removed_here) = self.sweep_shard(shard);
            remain |= remain_here;
            removed += removed_here;
            stretch += begun.elapsed();
            if stretch > STRETCH {
                self.rest(stretch);
                work += std::mem::take(&mut stretch);
            }
            if self.is_closing() {
                break;
            }
        }
        if remain {
            self.has_live.store(true, Ordering::SeqCst);
        }
        (work + stretch, removed)
    }

    /// Returns whether keys remain that may go later, and how many were taken out.
    fn sweep_shard(&self, shard: &Shard) -> (bool, usize) {
        let (mut remain, mut removed) = (false, 0);
        shard.lock().begin_sweep();
        loop {
            let mut table = shard.lock();
            let now = self.clock.now();
            let version = self.version(now);
            let swept = table.sweep(
                STEP,
                |key| self.hash(key),
                |entry, counts| {
                    let gone = self.is_gone(entry, now, version);
                    if gone {
                        self.leave(entry, counts);
                    } else {
                        remain |= entry.source() != Source::Exact;
                    }
                    gone
                },
            );
            removed += swept.removed;
            if swept.ended {
                table.shrink(|key| self.hash(key));
                return (remain, removed);
            }
        }
    }

    /// Takes all keys that are the same as none out of a shard at once, and hands the others to `stays`.
    pub fn sweep_all(&self, table: &mut Table, mut stays: impl FnMut(&mut Entry)) {
        let now = self.clock.now();
        let version = self.version(now);
        table.begin_sweep();
        // Each look either passes an entry or takes one out.
        table.sweep(
            table.len(),
            |key| self.hash(key),
            |entry, counts| {
                let gone = self.is_gone(entry, now, version);
                if gone {
                    self.leave(entry, counts);
                } else {
                    stays(entry);
                }
                gone
            },
        );
        table.shrink(|key| self.hash(key));
    }

    /// Gives memory back once many keys were taken out, and when none is left that may go.
    fn give_back_after(&self, removed: usize) {
        let swept = self.swept.fetch_add(removed, Ordering::Relaxed) + removed;
        let enough = if self.has_live.load(Ordering::SeqCst) { WORTH_GIVING_BACK } else { WORTH_IT_AT_LAST };
        if swept >= enough {
            self.swept.store(0, Ordering::Relaxed);
            (self.give_back)();
        }
    }

    /// A round of the thread `flint-sweep`: sleeps while no key is there that may go.
    pub fn sweep_when_due(&self) {
        if !self.has_live.load(Ordering::SeqCst) {
            return thread::park();
        }
        let (work, removed) = self.sweep_round();
        self.give_back_after(removed);
        self.rest((work * SHARE).clamp(EVERY, LONGEST));
    }
}
