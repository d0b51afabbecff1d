//! Limits in a store that speaks Redis' protocol, shared by any number of servers.

pub mod link;
