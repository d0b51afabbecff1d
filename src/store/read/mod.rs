//! Reading a data directory. Changes no file.
//!
//! Each module may use only those after it in this list: `rewind`, `repair`, `recovery`, `found`.

pub mod found;
pub mod recovery;
pub mod repair;
pub mod rewind;
