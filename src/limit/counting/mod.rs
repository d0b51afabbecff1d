//! The algorithms and their state: pure functions of (state, limit, now, cost).
//!
//! Arrows go down this list: `state`, the four algorithms, `quote`.

mod fixed_window_counter;
#[cfg(test)]
pub mod properties;
pub mod quote;
mod sliding_window_counter;
mod sliding_window_log;
pub mod state;
mod token_bucket;
