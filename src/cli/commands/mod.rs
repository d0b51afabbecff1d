//! The commands that ask or look, a file for each group.

pub mod limits;
pub mod run;
pub mod storage;
