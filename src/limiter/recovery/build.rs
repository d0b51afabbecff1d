//! The end of recovery: from limits in the order of their records to the sharded map, while the new snapshot, where one
//! is needed, goes to the disk.
//!
//! Two steps, each with a thread of its own for the snapshot: the limits are encoded while their keys are hashed, and
//! then the disk syncs what was written while the tables are filled.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::thread;

use crate::bounds::SHARDS;
use crate::error::{Error, Kind, Result};
use crate::limiter::core::shard_of;
use crate::limiter::entry::{Held, Table};
use crate::store::{Opening, Store};

/// Builds the tables, and ends the opening of the store if there is one. With `renumber` the limits get the ids 1, 2, 3
/// … in their order, in the snapshot as in memory.
pub fn build(
    dir: &Path,
    hasher: &RandomState,
    entries: Vec<Held>,
    renumber: bool,
    mut opening: Option<Opening>,
) -> Result<(Option<Store>, Vec<Table>)> {
    let snapshot = opening.as_ref().is_some_and(Opening::wants_snapshot);
    let hash = || entries.iter().map(|entry| hasher.hash_one(&entry.key)).collect();
    let hashes: Vec<u64> = beside(opening.as_mut().filter(|_| snapshot), |opening| write(opening, &entries), hash)?;
    let fill = || fill(dir, hasher, entries, &hashes, renumber);
    let tables = beside(opening.as_mut().filter(|_| snapshot), |opening| opening.seal(), fill)??;
    // Nothing of the old files was touched until here: had the tables found fault with them, they would be as they
    // were.
    Ok((opening.map(Opening::finish).transpose()?, tables))
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

fn write(opening: &mut Opening, entries: &[Held]) -> Result<()> {
    entries.iter().zip(1..).try_for_each(|(entry, id)| {
        let mut record = entry.to_record();
        record.id = id;
        opening.entry(&record)
    })
}

fn fill(dir: &Path, hasher: &RandomState, entries: Vec<Held>, hashes: &[u64], renumber: bool) -> Result<Vec<Table>> {
    let rehash = |key: &str| hasher.hash_one(key);
    let mut counts = [0; SHARDS];
    hashes.iter().for_each(|hash| counts[shard_of(*hash)] += 1);
    let mut tables: Vec<Table> = (0..SHARDS).map(|_| Table::default()).collect();
    for (table, count) in tables.iter_mut().zip(counts) {
        table.reserve(count, rehash);
    }
    for ((mut entry, hash), id) in entries.into_iter().zip(hashes).zip(1..) {
        let shard = shard_of(*hash);
        if tables[shard].get(*hash, &entry.key).is_some() {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{} holds the key `{}` twice; nothing was changed", dir.display(), entry.key),
            ));
        }
        if renumber {
            entry.renumber(id, shard as u8);
        }
        tables[shard].insert(*hash, entry, rehash);
    }
    Ok(tables)
}
