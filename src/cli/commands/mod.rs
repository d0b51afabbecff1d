//! The commands that ask or look, a file for each group.

pub mod checks;
pub mod limits;
pub mod listing;
pub mod program;
pub mod run;
pub mod storage;
mod values;
