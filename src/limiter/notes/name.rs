//! What a record kept elsewhere is known by.

use std::sync::Arc;

/// What a record is known by. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A key, or the limit that keys share which found no room: that begins with U+0002, which no key of a request
    /// does.
    Key(Arc<str>),
    /// All patterns.
    Patterns,
    /// The hold of this number.
    Hold(u64),
    /// The answer that is kept for the request with this hash of its idempotency key.
    Answer([u8; 16]),
}

/// What keys live under that come and go, for the bound on how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Live {
    /// The pattern of this id.
    Pattern(u64),
    /// What requests brought.
    Requested,
}
