//! Reading a data directory. Changes no file.
//!
//! Arrows go down this list: `rewind`, `repair`, `recovery`, `found`.

pub mod found;
pub mod recovery;
pub mod repair;
pub mod rewind;
