//! Limits in a store that speaks Redis' protocol, shared by any number of servers.
//!
//! # How a check is decided
//!
//! The store knows nothing of quotas. A *lane* (`flint-lane-N`, a thread with a link) runs each operation on a *scratch
//! limiter*, which is the ordinary one with copies of some of the store's records. What an operation has changed there
//! is written by compare-and-set: only if the store still has all that it looked at as it was. Else the store's records
//! come back, replace the copies, and the operation runs again. So checks, holds, patterns and all the rest are the
//! same code over a store as in a data directory, and exact however many servers there are.
//!
//! All that waits for a lane goes into its next *round*: it runs one after the other, what shares a record is joined to
//! one attempt, and all attempts go out in one pipeline. One round trip carries as many checks as came meanwhile.
//!
//! # What else there is
//!
//! - The keeper (`flint-keeper`) takes names of vanished records off the lists, and in a Cluster reads the patterns.
//! - `flint-store`, a thread of the link, finds out who is master and whether a store that is away has come back.
//! - Lists, changes of many limits and moves are made from outside the lanes: names from the lists in the store, copies
//!   of their records, and operations of a few hundred keys each.
//!
//! No lock is held while the store is asked. A lane's thread owns all that it knows.
//!
//! Each module may use only those after it in this list: `served`, `port`, `admin`, `engine`, `keeper`, `copies`,
//! `lanes`, `lease`, `errors`, `names`, `link`.

mod admin;
mod copies;
mod engine;
mod errors;
mod keeper;
mod lanes;
mod lease;
pub mod link;
mod names;
pub mod port;
mod served;
#[cfg(test)]
mod tests;

pub use self::engine::{Remote, Settings};
