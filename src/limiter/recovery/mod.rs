//! From the records of a data directory to limits in memory.
//!
//! Each module may use only those after it in this list: `build`, `replay`.

pub mod build;
pub mod replay;
