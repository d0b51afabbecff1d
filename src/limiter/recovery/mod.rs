//! From the records of a data directory to keys in memory.
//!
//! Each module may use only those after it in this list: `build`, `settle`, `redo`, `replay`, `shares`, `by_id`.

pub mod build;
pub mod by_id;
pub mod redo;
pub mod replay;
pub mod settle;
pub mod shares;
