//! From the records of a data directory to limits in memory.
//!
//! Arrows go down this list: `build`, `replay`.

pub mod build;
pub mod replay;
