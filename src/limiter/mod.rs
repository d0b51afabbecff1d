//! The limiter: limits in a sharded map, and the operations on them.
//!
//! Owns: the map, the order in which its locks are taken, and the promise that a record stands in the log before its
//! decision is returned. Called by `server`, by `cli`, and by programs that embed Flint ([`Limiter`]). No HTTP
//! and no command line here.
//!
//! Locks, by rank: the compaction lock, the lock for writing denials, then shards in the order of their index. Under
//! a shard's lock time is read, a decision is made and a record is queued; nothing there waits for the disk, for
//! another thread or for memory of unbounded size. Records of one limit are therefore in the log in the order of
//! their decisions.
//!
//! Each module may use only those after it in this list: `open`, `offline`, `list`, `check`, `limits`, `report`,
//! `background`, `recovery`, `core`, `options`, `entry`, `json`, `answers`. Each room below has a list of its own.

// The documentation of `Limiter` has its methods in this order.
mod open;

mod limits;

mod check;

mod list;

mod report;

mod answers;
mod background;
mod core;
mod entry;
mod json;
mod offline;
mod options;
mod recovery;
#[cfg(test)]
mod tests;

pub use self::answers::{AllDecision, Compaction, Decision, Status, Totals};
pub use self::check::several::validate_items;
pub use self::check::wait::NonBlocking;
pub use self::core::Limiter;
pub use self::json::{write_many, write_number, write_statuses, write_text};
pub use self::list::listing::{By, Listing, Page};
pub use self::offline::inspect::{dump, history, verify};
pub use self::offline::repair::{Repair, repair};
pub use self::options::{Options, SyncMode};
pub use self::report::Report;
pub use crate::store::Access;
