//! What waits: requests for their turns, replies for the disk, deciders for work. Of what kind requests and replies
//! are is for others to say.

#[cfg(all(loom, test))]
mod model;
pub mod pending;
mod sync;
pub mod turns;
pub mod wake;
