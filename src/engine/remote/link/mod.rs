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

mod error;

pub use error::{ErrorKind, LinkError};

use std::time::{Duration, Instant};

use crate::clock::Clock;

/// A store's address, read from what a user wrote. Its [`Display`](std::fmt::Display) never shows a password.
///
/// | form | |
/// |---|---|
/// | `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]` | one server, or what stands in for one |
/// | `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],.../NAME[/DB]` | Sentinels, asked for the master NAME |
/// | `redis+cluster://[[USER]:PASSWORD@]HOST[:PORT],...` | nodes of a Cluster |
/// | `rediss://`, `rediss+sentinel://`, `rediss+cluster://` | the same with TLS (feature `store-tls`) |
///
/// User and password are percent-encoded. `?sentinel-password=...` and `?sentinel-user=...` are what Sentinels want.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {}

impl Address {
    /// Reads an address. The error is one sentence that says what is wrong, without the password.
    pub fn parse(text: &str) -> Result<Address, String> {
        todo!("{text}")
    }

    /// Whether keys that change together must share a slot.
    pub fn is_cluster(&self) -> bool {
        todo!()
    }
}

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Replicas that must have confirmed a write before it counts, 0 to [`crate::bounds::MAX_REPLICAS`].
    pub replicas: u32,
    /// The clock that follows the store's: raised ([`Clock::raise`]) by the time in each reply.
    pub clock: Clock,
}

/// What all links of a process share: the address, who is master, which of the machines are known to be away, and a
/// thread (`flint-store`) that finds out once a second whether these are back. Clones are one store.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Connects, and finds out who is master. Fails with [`ErrorKind::Refused`] where trying again is of no use (a
    /// wrong password, no such database, a server that is too old), and else with [`ErrorKind::Unavailable`].
    ///
    /// Takes at most [`crate::bounds::STORE_TIMEOUT_MS`] for each address that was given.
    pub fn open(address: Address, options: Options) -> Result<Store, LinkError> {
        todo!("{:?}", (address.is_cluster(), options))
    }

    /// A link of its own for one lane. Connects when it is first used.
    pub fn link(&self) -> Link {
        todo!()
    }

    /// The clock given in the options.
    pub fn clock(&self) -> &Clock {
        todo!()
    }

    /// Whether keys that change together must share a slot.
    pub fn is_cluster(&self) -> bool {
        todo!()
    }

    /// How many masters share the slots now; 1 but for a Cluster.
    pub fn shards(&self) -> usize {
        todo!()
    }

    /// Which of the masters (below [`Store::shards`]) has the slot of `key` now; 0 but for a Cluster. It may change at
    /// any time, and a link serves every key: this only says which keys are best served by one lane.
    pub fn shard_of(&self, key: &[u8]) -> usize {
        todo!("{key:?}")
    }

    /// Why the store is known to be away, if it is: at once, without asking it. In a Cluster: any of its shards.
    pub fn away(&self) -> Option<LinkError> {
        todo!()
    }
}

/// The slot of a key in a Cluster, 0 to 16383: CRC-16 of what stands between its first `{` and the next `}`, where
/// that is not empty, else of the whole key.
pub fn slot_of(key: &[u8]) -> u16 {
    todo!("{key:?}")
}

/// The shortest tag (of letters and digits, without braces) whose slot is `slot`: a key with `{TAG}` lies there.
/// `slot` is below 16384.
pub fn tag_of(slot: u16) -> &'static str {
    todo!("{slot}")
}

/// The attempt that wrote a value: 8 bytes of the link, 8 of the attempt's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version(pub [u8; 16]);

/// What the caller knows of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// It has the value of this version.
    Version(Version),
    /// The store has no such key.
    Absent,
}

/// What becomes of a key, if all of its attempt is as known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write<'a> {
    /// It is only compared.
    Keep,
    /// It has this record from then on. `expire_at_ms`, in milliseconds since 1970 by the store's clock: from when on
    /// the store may let go of it; it keeps it a minute longer at least than now.
    Put { record: &'a [u8], expire_at_ms: Option<u64> },
    /// It is removed.
    Delete,
}

/// One key of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub key: &'a [u8],
    pub known: Known,
    pub write: Write<'a>,
}

/// A change of the index, made together with an attempt's writes: `member` is in the sorted list `list` from then on,
/// or is not. An attempt that only compares has none.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    pub list: u8,
    pub member: &'a [u8],
    pub present: bool,
}

/// Keys that change together: at least one, none twice. In a Cluster they share a slot, and so do their marks: the list
/// is kept in parts, one for each slot.
#[derive(Clone, Debug, Default)]
pub struct Attempt<'a> {
    pub parts: Vec<Part<'a>>,
    pub marks: Vec<Mark<'a>>,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All was as known and is written; what was put has this version, what was removed is absent, what was kept is as
    /// it was.
    Won(Version),
    /// Something was not as known, or the attempt came too late; nothing was written. What the store has of each part,
    /// in their order.
    Lost(Vec<Found>),
}

/// What the store has of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// What the attempt said is known.
    Same,
    /// There is no such key.
    Absent,
    /// This.
    Present(Value),
}

/// A value as the store has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    bytes: Vec<u8>,
}

impl Value {
    /// The version by which it is known from now on.
    pub fn version(&self) -> Version {
        todo!("{:?}", self.bytes)
    }

    /// The record that was put.
    pub fn record(&self) -> &[u8] {
        todo!()
    }
}

#[cfg(test)]
impl Value {
    /// One that a single link has written.
    pub fn of(version: Version, record: &[u8]) -> Value {
        Value { bytes: [&[1, 1], &version.0[..], record].concat() }
    }
}

/// A connection to each master that was needed, for one lane.
pub struct Link {}

impl Link {
    /// Sends all attempts at once and waits for their outcomes, in their order; until `deadline` at most (and the time
    /// of one reply under way). Attempts fail each for itself, all of them where the store is away.
    ///
    /// After an error, what the caller knows of the attempt's keys may be out of date: fetch them before the next
    /// attempt.
    pub fn exchange(&mut self, attempts: &[Attempt], deadline: Instant) -> Vec<Result<Outcome, LinkError>> {
        todo!("{}", (attempts, deadline).0.len())
    }

    /// What the store has of these keys, in their order: [`Found::Absent`] or [`Found::Present`].
    pub fn fetch(&mut self, keys: &[&[u8]], deadline: Instant) -> Result<Vec<Found>, LinkError> {
        todo!("{:?}", (keys, deadline))
    }

    /// Adds to counters (integers of 64 bits that begin at 0), and returns what each has then. Sent again if a reply
    /// is lost, so it may be added twice: for numbers of which some may stay unused, and for estimates.
    pub fn add(&mut self, counters: &[(&[u8], i64)], deadline: Instant) -> Result<Vec<i64>, LinkError> {
        todo!("{:?}", (counters, deadline))
    }

    /// The 16 random bytes that the store keeps under `key`, drawn by whoever asks first.
    pub fn identity(&mut self, key: &[u8], own: Option<&[u8; 16]>, deadline: Instant) -> Result<[u8; 16], LinkError> {
        todo!("{:?}", (key, own, deadline))
    }

    /// Members of a list that begin with `prefix`, in the order of their bytes, those after `after` only, `limit` at
    /// most; fewer only at the end. Some may belong to keys that have vanished ([`Link::prune`]).
    pub fn names(
        &mut self,
        list: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, LinkError> {
        todo!("{:?}", (list, prefix, after, limit, deadline))
    }

    /// How many members a list has, those of vanished keys included.
    pub fn count(&mut self, list: u8, deadline: Instant) -> Result<u64, LinkError> {
        todo!("{:?}", (list, deadline))
    }

    /// How many members of each list begin with a prefix, those of vanished keys included.
    pub fn counts(&mut self, lists: &[(u8, &[u8])], deadline: Instant) -> Result<Vec<u64>, LinkError> {
        todo!("{:?}", (lists, deadline))
    }

    /// Takes members off a list whose key the store has no more. Each is `(member, key)`; those whose key is there stay.
    pub fn prune(&mut self, list: u8, gone: &[(&[u8], &[u8])], deadline: Instant) -> Result<(), LinkError> {
        todo!("{:?}", (list, gone, deadline))
    }

    /// What each master says of itself.
    pub fn facts(&mut self, deadline: Instant) -> Result<Vec<Facts>, LinkError> {
        todo!("{deadline:?}")
    }
}

/// What a master says of itself; None where it may not be asked (managed ones forbid CONFIG) or does not say.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// `host:port`.
    pub server: String,
    /// `redis` or `valkey`, and its version.
    pub software: Option<(String, String)>,
    /// `noeviction` is what Flint needs: with any other policy limits vanish when memory is full.
    pub maxmemory_policy: Option<String>,
    /// In bytes; 0: no bound.
    pub maxmemory: Option<u64>,
    /// In bytes.
    pub used_memory: Option<u64>,
    pub appendonly: Option<bool>,
    /// `always`, `everysec` or `no`.
    pub appendfsync: Option<String>,
    /// Whether it is a master.
    pub master: Option<bool>,
    /// Replicas that are connected and in step.
    pub replicas: Option<u32>,
    /// Whether it waits for replicas' disks too (`WAITAOF`).
    pub waitaof: Option<bool>,
    /// The time of an exchange that does nothing.
    pub round_trip: Duration,
}

/// The name of the record with this key.
pub fn limit_key(key: &str) -> Vec<u8> {
    [b"flint:", key.as_bytes()].concat()
}
