//! Attempts and their outcomes, as the lanes see them.

use super::value::Value;

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
    /// It has this record from then on.
    Put {
        record: &'a [u8],
        /// From when on the store may let go of it, in milliseconds since 1970 by the store's clock; None: never. The
        /// store keeps it for [`crate::bounds::STORE_KEEPS_MS`] in any case.
        expire_at_ms: Option<u64>,
    },
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

/// Keys that change together: at least one, none twice. In a Cluster they share a slot, and so do their marks: a list
/// is kept in parts, one for each slot.
#[derive(Clone, Debug, Default)]
pub struct Attempt<'a> {
    pub parts: Vec<Part<'a>>,
    pub marks: Vec<Mark<'a>>,
}

impl Attempt<'_> {
    /// Whether it does more than compare.
    pub fn writes(&self) -> bool {
        !self.marks.is_empty() || self.parts.iter().any(|part| part.write != Write::Keep)
    }
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
