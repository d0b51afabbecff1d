//! From the records of a data directory to keys in memory.
//!
//! Arrows go down this list: `build`, `settle`, `replay`, `shares`, `by_id`.

pub mod build;
mod by_id;
pub mod replay;
pub mod settle;
pub mod shares;
