//! A data directory that is not opened for checks: read record by record, verified, repaired, copied.
//!
//! Each module may use only those after it in this list: `backup`, `repair`, `inspect`.

pub mod backup;
pub mod inspect;
pub mod repair;
