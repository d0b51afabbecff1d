//! The limiter: limits in a sharded map, and the operations on them.
//!
//! Owns: the map, the order in which its locks are taken, and the promise that a record is in the log before its
//! decision is returned. Called by `server`, by `cli`, and by programs that embed Flint ([`Limiter`]). No HTTP and no
//! command line here.
//!
//! Locks, by rank: 1 the compaction lock, 2 the lock for writing denials, 3 the lock of edits (`registry`), 4
//! shards in the order of their index, 5 the table of holds, 6 the set of patterns, and the copies of values.
//! Under a shard's lock time is read, a decision is made and a record is queued; nothing there waits for the disk,
//! for another thread that does, or for memory of unbounded size. Records of one limit are therefore in the log in
//! the order of their decisions.
//!
//! Each module may use only those after it in this list: `scratch`, `open`, `offline`, `list`, `holds`, `limits`,
//! `check`, `report`, `background`, `recovery`, `gone`, `lookup`, `core`, `options`, `held`, `kept`, `entry`,
//! `registry`, `notes`, `json`, `answers`. Each room below has its own list.

// The documentation of `Limiter` has its methods in this order.
mod open;

mod limits;

mod check;

mod holds;

mod list;

mod report;

mod answers;
mod background;
mod core;
mod entry;
mod gone;
mod held;
mod json;
mod kept;
mod lookup;
// Without stores nothing is noted, and the compiler leaves the calls out.
#[cfg_attr(not(feature = "store"), allow(dead_code, unused_imports))]
mod notes;
mod offline;
mod options;
mod recovery;
mod registry;
#[cfg(feature = "store")]
pub mod scratch;
#[cfg(test)]
mod tests;

pub use self::answers::{
    AllDecision, Compaction, Cost, Decision, Hold, HoldDecision, Item, Lasting, OpenHold, Origin, Settled, SettledItem,
    SlotsInUse, Status, Totals,
};
pub use self::check::several::validate_items;
pub use self::check::wait::NonBlocking;
pub use self::core::Limiter;
pub use self::holds::once::{Begin, Guard};
pub use self::json::{
    millis_up, write_hold, write_hold_of_one, write_many, write_number, write_statuses, write_text, write_window_name,
};
pub use self::kept::Once;
pub use self::limits::{Applied, Setting};
#[cfg(feature = "store")]
pub use self::limits::{place_in_removal, validate_prefix};
pub use self::list::listing::{By, Listing, Page};
#[cfg(feature = "store")]
pub use self::list::parts::Parts;
pub use self::offline::backup::{backup, restore};
pub use self::offline::inspect::{dump, history, verify};
pub use self::offline::repair::{Repair, repair, repair_at, rewind, rewind_at};
pub use self::options::{Options, SyncMode};
#[cfg(feature = "store")]
pub use self::registry::OVERFLOW_MARK;
pub use self::report::{Overflowing, Report};
pub use crate::store::{Access, Backup, Restored};
