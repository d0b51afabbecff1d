//! The commands that send requests or read files, with a file for each group.

pub mod backup;
pub mod checks;
pub mod holds;
pub mod limits;
pub mod listing;
mod parent;
pub mod program;
pub mod run;
pub mod storage;
mod values;
