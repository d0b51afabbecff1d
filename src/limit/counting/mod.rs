//! The algorithms and their state: pure functions of (state, limit, now, cost).
//!
//! Each module may use only those after it in this list: `state`, the four algorithms, `quote`, `parts`.

mod fixed_window_counter;
pub mod parts;
#[cfg(test)]
pub mod properties;
pub mod quote;
mod sliding_window_counter;
mod sliding_window_log;
pub mod state;
mod token_bucket;
