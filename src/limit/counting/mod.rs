//! The algorithms and their state: pure functions of (state, limit, now, cost).
//!
//! Arrows go down this list: `standing`, `state`, the four algorithms, `quote`, `parts`.

pub mod parts;
pub mod quote;
pub mod standing;
