//! Limits in a store, over real servers that the tests start: redis-server, and Valkey where it is installed.

mod exact;
mod proxy;
mod redis;
