//! The bytes of the files: what is encoded and decoded, without a file.
//!
//! Each module may use only those after it in this list: `frame`, `encode`, `decode`, `record`. The first three do not
//! name each other. `properties` tests them.

pub mod decode;
pub mod encode;
pub mod frame;
#[cfg(test)]
pub mod properties;
pub mod record;
