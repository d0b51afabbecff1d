//! The log: the thread that writes it, and how others queue records and wait for them. A full disk: see `health.rs`
//! (`NoSpace`) and `queue.rs`. A failed write or sync: see `writer.rs`.
//!
//! Each module may use only those after it in this list: `handle`, `writer`, `queue`, `growth`, `health`, `segment`,
//! `wait`, `sync`. `model` tests them under loom.

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
