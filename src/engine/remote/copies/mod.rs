//! Copies of some of the store's records, to look at.
//!
//! Each module may use only those after it in this list: `listing`, `reader`.

pub mod listing;
pub mod reader;
