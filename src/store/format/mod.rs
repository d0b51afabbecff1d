//! The bytes of the files: what is encoded and decoded, without a file.
//!
//! Each module may use only those after it in this list: `frame`, `record`. Neither names the other.

pub mod frame;
pub mod record;
