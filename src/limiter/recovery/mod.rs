//! From the records of a data directory to keys in memory.
//!
//! Arrows go down this list: `build`, `settle`, `redo`, `replay`, `shares`, `by_id`.

pub mod build;
pub mod by_id;
pub mod redo;
pub mod replay;
pub mod settle;
pub mod shares;
