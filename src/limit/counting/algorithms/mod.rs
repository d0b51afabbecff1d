//! The four algorithms: what each has counted in one window, and what it says of a cost.
//!
//! All of them have the same functions; `state` calls them. Instants are microseconds. `advance` brings a state to an
//! instant and changes no later decision; the others are given the instant to which the state was advanced. `quote`
//! gives the figures after the spend if asked to (`take`), and the current ones otherwise.
//!
//! Each module may use only those after it in this list: `debt`, `token_bucket`, `sliding_window_log`, `logged`,
//! `fixed_window_counter`, `sliding_window_counter`.

pub mod debt;
pub mod fixed_window_counter;
mod logged;
pub mod sliding_window_counter;
pub mod sliding_window_log;
pub mod token_bucket;
