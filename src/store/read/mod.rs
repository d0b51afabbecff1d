//! Reading a data directory.

pub mod recovery;
pub mod repair;
