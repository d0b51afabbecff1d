//! The log: its thread, and those that wait for it.

#[cfg(all(loom, test))]
mod model;
mod sync;
pub mod wait;
pub mod writer;
