//! What users are told of errors of a store.

use super::link::{ErrorKind, LinkError};
use crate::error::{Error, Kind};

/// The error of operations that no lane takes any more.
pub fn closed() -> Error {
    Error::new(Kind::StoreUnavailable, "the server is stopping; ask another one")
}

/// What users are told of an error of the link. `writes`: whether something was to be written.
pub fn told(error: &LinkError, writes: bool) -> Error {
    let kind = match error.kind() {
        ErrorKind::OutcomeUnknown if writes => Kind::OutcomeUnknown,
        // Its sentence says that it is written, and may be lost.
        ErrorKind::TooFewReplicas => Kind::StoreUnavailable,
        ErrorKind::Unavailable | ErrorKind::OutcomeUnknown | ErrorKind::Refused => Kind::StoreUnavailable,
        ErrorKind::CrossSlot => Kind::CrossSlot,
        ErrorKind::Corrupt => Kind::Corrupt,
    };
    Error::new(kind, error.message())
}

/// The error of keys that can't be spent together.
pub fn cross_slot(one: &str, other: &str) -> Error {
    let what = format!(
        "the keys `{one}` and `{other}` are in different slots of the Cluster, so they can't be spent together; give them a \
         common tag, such as `{{user:42}}:a` and `{{user:42}}:b`"
    );
    Error::new(Kind::CrossSlot, what)
}

/// The error of patterns and keys that can't change together.
pub fn apart_from_patterns() -> Error {
    let what = "patterns and limits of single keys can't be changed together in a Cluster; send each kind for itself";
    Error::new(Kind::CrossSlot, what)
}
