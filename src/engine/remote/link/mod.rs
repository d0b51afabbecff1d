//! The link to a store that speaks Redis' protocol: bytes under names, changed by compare-and-set.
//!
//! Owns: addresses and passwords, connections and their time-outs, the script, what is sent again and when, what a
//! reply means, which of several machines is asked. Called by the lanes of `remote`. Knows nothing of limits, and
//! decides nothing about them.
//!
//! # Use
//!
//! A process opens one [`Store`], and each lane (a thread) takes a [`Link`] of it. A link has a connection to each
//! master it has needed so far, and at most one exchange under way. [`Link::exchange`] takes any number of *attempts*
//! which share no key, sends all of them at once and returns once each has its outcome.
//!
//! # Attempts
//!
//! An [`Attempt`] is a group of keys that change together. It names the version of each key that the caller knows. If
//! the store still has all of these, all is written as one ([`Outcome::Won`]); else nothing is, and what the store has
//! comes back ([`Outcome::Lost`]). Every attempt that writes has a version of its own, which all keys it puts have from
//! then on. An attempt that only compares ([`Write::Keep`] for each key) costs no write and waits for no replica.
//!
//! A value in the store:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | format: `1` a record, `0` the place of a removed one, which vanishes after a minute and counts as absent |
//! | 1 | number *n* of writers, 1 to 16 |
//! | 16 × *n* | the last attempt of each of the last *n* links that wrote it, the latest first: its number is the version |
//! | the rest | the record |
//!
//! Valid if and only if the format is known, 1 <= *n* <= 16, and it is at least 2 + 16 *n* bytes long.
//!
//! # Replies that are lost
//!
//! An attempt whose reply does not arrive is sent again over a new connection until the deadline. The script looks for
//! its version among the writers first, so it is never done twice. Links are told apart by 8 random bytes, and a link
//! has one attempt under way for a key, so the list tells the truth until 16 other links have written the same key in
//! between. Only then, and where no reply comes before the deadline, is the outcome unknown
//! ([`ErrorKind::OutcomeUnknown`]). An attempt carries the instant after which the store must not execute it any more:
//! one that lies in the buffers of a stopped store does nothing when that goes on.

mod address;
mod connection;
mod delivery;
mod error;
mod exchange;
mod facts;
mod options;
mod places;
mod replicas;
mod requests;
mod store;
mod wire;

pub use address::Address;
pub use error::{ErrorKind, LinkError};
pub use exchange::Link;
pub use facts::Facts;
pub use options::Options;
pub use store::Store;
pub use wire::attempt::{Attempt, Found, Known, Mark, Outcome, Part, Version, Write};
pub use wire::slots::{slot_of, tag_of};
pub use wire::value::Value;

/// The name of the record with this key.
pub fn limit_key(key: &str) -> Vec<u8> {
    [b"flint:", key.as_bytes()].concat()
}

#[cfg(test)]
pub(crate) mod tests;
