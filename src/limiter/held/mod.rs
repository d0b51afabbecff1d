//! Holds in memory: the table of holds, and their ids.
//!
//! Owns: which holds are open, which are remembered, and how many slots of a key are in use, which is exactly what the
//! open holds take. No clock, no log and no lock but the table's own.
//!
//! Each module may use only those after it in this list: `load`, `book`, `outside`, `pledge`, `id`.

pub mod book;
pub mod id;
#[cfg(feature = "store")]
mod load;
#[cfg(feature = "store")]
pub mod outside;
mod pledge;

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use self::book::Book;
use self::id::Ids;

/// How often a thread that must not wait tries to lock the table.
const LOCK_TRIES: u32 = 64;

/// The table of holds, and what it needs.
#[derive(Debug)]
pub struct Holds {
    /// Rank 5, after the shards. What changes it queues its record under this lock.
    book: Mutex<Book>,
    pub ids: Ids,
    /// Open holds at most.
    pub most: u64,
}

impl Holds {
    pub fn new(book: Book, ids: Ids, most: u64) -> Holds {
        Holds { book: Mutex::new(book), ids, most }
    }

    pub fn lock(&self) -> MutexGuard<'_, Book> {
        // It is changed in steps none of which panics.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if it is free or about to be. A compaction has it for longer.
    pub fn lock_soon(&self) -> Option<MutexGuard<'_, Book>> {
        for _ in 0..LOCK_TRIES {
            match self.book.try_lock() {
                Ok(book) => return Some(book),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }
}
