//! Lanes: threads that decide, each with a scratch limiter and a link.
//!
//! Each module may use only those after it in this list: `lane`, `router`, `round`, `sending`, `state`, `job`, `group`,
//! `wire`, `bell`.

mod bell;
pub mod group;
pub mod job;
pub mod lane;
mod round;
pub mod router;
mod sending;
pub mod state;
pub mod wire;
