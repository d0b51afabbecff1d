//! Limits in a store, over real servers that the tests start: redis-server, and Valkey where it is installed.

mod cluster;
mod engines;
mod exact;
mod failover;
mod kills;
#[path = "../../src/engine/remote/link/tests/proxy.rs"]
#[allow(dead_code, reason = "the tests of the link use all of it")]
mod proxy;
#[path = "../../src/engine/remote/link/tests/servers.rs"]
#[allow(dead_code, reason = "the tests of the link use all of it")]
mod servers;
mod whole;
