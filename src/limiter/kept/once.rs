//! What a request is known by.

/// What identifies a request that may be sent again, by hashes of the caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// Of the key that the client gave it, and of who the client is.
    pub key: [u8; 16],
    /// Of all that it asks for.
    pub request: [u8; 16],
}
