//! Limits in a store that speaks Redis' protocol, shared by any number of servers.
//!
//! Each module may use only those after it in this list: `admin`, `engine`, `listing`, `reader`, `lane`, `round`, `wire`,
//! `lease`, `names`, `group`, `link`.

mod admin;
mod engine;
mod group;
mod lane;
mod lease;
pub mod link;
mod listing;
mod names;
mod reader;
mod round;
#[cfg(test)]
mod tests;
mod wire;

pub use self::engine::{Remote, Settings};
pub use self::listing::Listing;
