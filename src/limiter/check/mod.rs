//! Checks.
//!
//! Arrows go down this list: `several`, `wait`.

pub mod several;
pub mod wait;
