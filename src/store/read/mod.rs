//! Reading a data directory.

pub mod found;
pub mod recovery;
pub mod repair;
