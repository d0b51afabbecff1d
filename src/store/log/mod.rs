//! The log: its thread, and those that wait for it.
//!
//! Arrows go down this list: `handle`, `writer`, `queue`, `growth`, `health`, `segment`, `wait`, `sync`. `model` tests
//! them under loom.

mod growth;
pub mod handle;
pub mod health;
#[cfg(all(loom, test))]
mod model;
pub mod queue;
pub mod segment;
mod sync;
pub mod wait;
pub mod writer;
