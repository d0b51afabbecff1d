//! The bytes of the files: what is encoded and decoded, without a file.

pub mod frame;
pub mod record;
