//! The answer of a command: an exit status, and the JSON that it prints or reads numbers from.

use serde_json::Value;

use crate::error::{Error, Kind, Result};

/// The exit status that a command that did its work ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    /// A status that only `run` has.
    Status(u8),
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Answer {
        if yes { Answer::Yes } else { Answer::No }
    }
}

/// A good reply: JSON as the HTTP API has it, without the line's end.
pub struct Document {
    pub bytes: Vec<u8>,
    pub value: Value,
}

impl Document {
    /// A field that is true or false.
    ///
    /// # Errors
    /// `unreachable`, when there is no such field.
    pub fn bool(&self, name: &str) -> Result<bool> {
        self.value[name].as_bool().ok_or_else(not_understood)
    }

    /// A field that is a number.
    ///
    /// # Errors
    /// `unreachable`, when there is no such field.
    pub fn number(&self, name: &str) -> Result<u64> {
        self.value[name].as_u64().ok_or_else(not_understood)
    }
}

/// The error for a wrong command line.
pub fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

/// The error for a reply that lacks what it should hold.
pub fn not_understood() -> Error {
    Error::new(Kind::Unreachable, "the server's answer is incomplete; is it a flint server?")
}
