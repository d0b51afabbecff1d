//! Checks.
//!
//! Each module may use only those after it in this list: `several`, `wait`.

pub mod several;
pub mod wait;
