//! Limits in a store that speaks Redis' protocol, shared by any number of servers.
//!
//! Each module may use only those after it in this list: `engine`, `lane`, `round`, `wire`, `names`, `group`, `link`.

mod engine;
mod group;
mod lane;
pub mod link;
mod names;
mod round;
#[cfg(test)]
mod tests;
mod wire;

pub use self::engine::{Remote, Settings};
