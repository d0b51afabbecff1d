//! The algorithms and their state: pure functions of (state, window, now, cost).
//!
//! A [`Standing`](standing::Standing) is everything that a key has counted; a [`State`](state::State) is one window of
//! it. `reconfigure` says why new values give nothing back, `give_back` what a hold or a refund does.
//!
//! Each module may use only those after it in this list: `give_back`, `standing`, `reconfigure`, `rest`, `ceiling`,
//! `state`, `algorithms`, `speed`, `quote`, `parts`.

mod algorithms;
mod ceiling;
mod give_back;
pub mod parts;
pub mod quote;
mod reconfigure;
mod rest;
mod speed;
pub mod standing;
mod state;
#[cfg(test)]
mod tests;
