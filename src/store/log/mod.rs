//! The log: its thread, and those that wait for it.

pub mod handle;
pub mod health;
#[cfg(all(loom, test))]
mod model;
pub mod queue;
pub mod segment;
mod sync;
pub mod wait;
pub mod writer;
