//! What can go wrong between a link and its store.

use std::fmt;

/// Kinds of errors, by what the caller can do about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The store is away, stopped, full, loading, no master, or has too few replicas. Nothing was written; try later.
    Unavailable,
    /// Whether it was written can't be known: no reply came in time, or too few replicas have confirmed it.
    OutcomeUnknown,
    /// The store is there and will not do it until somebody changes a setting: a wrong password, a command that the
    /// user may not use, a server that is too old. Nothing was written.
    Refused,
    /// The keys of one attempt lie in two slots of a Cluster. The message names both keys as bytes of the store.
    CrossSlot,
    /// A key has a value that this version of Flint has not written.
    Corrupt,
}

/// An error, with one sentence for users that names the store. No password stands in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkError {
    kind: ErrorKind,
    message: String,
}

impl LinkError {
    pub(in crate::engine::remote) fn new(kind: ErrorKind, message: impl Into<String>) -> LinkError {
        LinkError { kind, message: message.into() }
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LinkError {}
