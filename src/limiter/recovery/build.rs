//! The end of recovery: from keys in the order of their records to the sharded map, while the new snapshot, where one
//! is needed, goes to the disk.
//!
//! Two steps, each with its own thread for the snapshot: the keys are encoded while they are hashed, and then the
//! disk syncs what was written while the tables are filled.

use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::thread;

use super::replay::Found;
use super::settle::{Settled, settle};
use crate::bounds::SHARDS;
use crate::error::{Error, Kind, Result};
use crate::limiter::answers::Totals;
use crate::limiter::core::{Core, Shard};
use crate::limiter::entry::{Chunks, Shares, Table};
use crate::limiter::held::book::Book;
use crate::limiter::kept::shelf::Shelf;
use crate::store::Opening;
use crate::store::record::PatternTotals;

/// Builds the map, and ends the opening of the store if there is one. With `renumber` keys get the ids 1, 2, 3 … in
/// their order, in the snapshot as in memory. `core` has an empty map, no patterns and no store before.
pub fn build(core: &mut Core, mut found: Found, renumber: bool, mut opening: Option<Opening>) -> Result<()> {
    let highest_id = found.highest_id;
    let mut book = std::mem::take(&mut found.holds);
    book.begin(core.clock.now());
    let mut shelf = std::mem::take(&mut found.answers);
    shelf.tidy(core.clock.now());
    let settled = settle(core, found, &mut book, renumber);
    let count = settled.shards.iter().map(Chunks::len).sum::<usize>();
    let next_id = if renumber { count as u64 } else { highest_id } + 1;
    let snapshot = opening.as_ref().is_some_and(Opening::wants_snapshot);
    let hasher = &core.hasher;
    let hash_shard = |chunks: &Chunks| chunks.iter().map(|entry| hasher.hash_one(&*entry.key)).collect();
    let hash = || settled.shards.iter().map(hash_shard).collect();
    let hashes: Vec<Vec<u64>> =
        beside(opening.as_mut().filter(|_| snapshot), |opening| write(opening, &settled, &book, &shelf), hash)?;
    let fill = || fill(&core.dir, settled, &hashes, renumber);
    let tables = beside(opening.as_mut().filter(|_| snapshot), |opening| opening.seal(), fill)??;
    // Nothing of the old files was touched until here: had the tables found fault with them, they would be as they
    // were.
    core.store = opening.map(Opening::finish).transpose()?;
    core.shards = tables.into_iter().map(|table| Shard(Mutex::new(table))).collect();
    core.next_id = AtomicU64::new(next_id);
    *core.holds.lock() = book;
    *core.answers.lock() = shelf;
    Ok(())
}

/// Does `own`, and meanwhile `other` in a thread if there is something for it.
fn beside<I: Send, T>(
    input: Option<I>,
    other: impl FnOnce(I) -> Result<()> + Send,
    own: impl FnOnce() -> T,
) -> Result<T> {
    thread::scope(|scope| {
        let other = input.map(|input| scope.spawn(|| other(input)));
        let done = own();
        let panicked = |_| Err(Error::new(Kind::Internal, "the thread that writes the snapshot panicked"));
        other.map_or(Ok(()), |other| other.join().unwrap_or_else(panicked)).map(|()| done)
    })
}

fn write(opening: &mut Opening, settled: &Settled, book: &Book, shelf: &Shelf) -> Result<()> {
    let Settled { shards, patterns } = settled;
    // Entries name their pattern by its slot.
    let mut shares = Shares::default();
    for (pattern, _) in patterns {
        shares.of(pattern);
    }
    let mut entries = shards.iter().flat_map(Chunks::iter);
    entries.try_for_each(|entry| opening.entry(&entry.to_record(&shares)))?;
    for (pattern, totals) in patterns.iter().filter(|(_, totals)| *totals != Totals::default()) {
        opening.pattern_totals(&PatternTotals { id: pattern.id, totals: totals.to_numbers() })?;
    }
    book.iter().try_for_each(|pledge| opening.hold(&pledge.to_record()))?;
    shelf.iter().try_for_each(|kept| opening.answer(&kept.to_record()))
}

fn fill(dir: &Path, settled: Settled, hashes: &[Vec<u64>], renumber: bool) -> Result<Vec<Table>> {
    let Settled { shards, patterns } = settled;
    let mut tables = Vec::with_capacity(SHARDS);
    for ((mut chunks, hashes), shard) in shards.into_iter().zip(hashes).zip(0..=u8::MAX) {
        let mut shares = Shares::default();
        for entry in chunks.iter_mut() {
            if renumber {
                entry.renumber(entry.id(), shard);
            }
            if let Some(slot) = entry.share_slot() {
                shares.of(&patterns[slot as usize].0);
            }
        }
        let mut table = Table::of(chunks, hashes).map_err(|key| {
            let what = format!("{} has the key `{key}` twice; nothing was changed", dir.display());
            Error::new(Kind::Corrupt, what)
        })?;
        table.counts.shares = shares;
        tables.push(table);
    }
    for (pattern, totals) in &patterns {
        // Which shard has what was counted in all of them makes no difference.
        tables[pattern.slot as usize % SHARDS].counts.shares.of(pattern).totals = *totals;
    }
    Ok(tables)
}
