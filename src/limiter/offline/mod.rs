//! A data directory that is not opened for checks: read record by record, verified, repaired.
//!
//! Arrows go down this list: `repair`, `inspect`.

pub mod inspect;
pub mod repair;
