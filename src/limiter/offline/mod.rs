//! A data directory that is not opened for checks: read record by record, verified, repaired.
//!
//! Each module may use only those after it in this list: `repair`, `inspect`.

pub mod inspect;
pub mod repair;
