//! Queues of things that wait: requests for their turn (`turns`), replies for the disk (`pending`), deciders for work
//! (`wake`). Generic over the types of requests and replies. `server/mod.rs` says which threads may block on what.

#[cfg(all(loom, test))]
mod model;
pub mod pending;
mod sync;
pub mod turns;
pub mod wake;
