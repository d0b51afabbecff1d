//! The bytes of the files: what is encoded and decoded, without a file.
//!
//! Arrows go down this list: `frame`, `record`. Neither names the other.

pub mod frame;
pub mod record;
