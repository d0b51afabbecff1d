//! Limits in a store that speaks Redis' protocol, shared by any number of servers.
//!
//! Each module may use only those after it in this list: `port`, `served`, `admin`, `engine`, `listing`, `keeper`, `reader`, `lane`, `router`, `round`, `wire`,
//! `lease`, `names`, `group`, `link`.

mod admin;
mod engine;
mod group;
mod keeper;
mod lane;
mod lease;
pub mod link;
mod listing;
mod names;
pub mod port;
mod reader;
mod round;
mod router;
mod served;
#[cfg(test)]
mod tests;
mod wire;

pub use self::engine::{Remote, Settings};
pub use self::listing::Listing;
