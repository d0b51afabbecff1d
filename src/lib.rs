//! Flint: a durable rate limiter.
//!
//! State is kept in a data directory on disk; what was answered is never forgotten. A program embeds [`Limiter`], or
//! several processes share one through `flint server start`, which speaks HTTP.
//!
//! Modules import downwards only: `cli` -> `server` -> `limiter` -> `store` -> `limit` -> `clock` -> `error` ->
//! `bounds`.

// Only `server/net/sockets.rs` may have any: the kernel's facts on connections have no safe interface.
#![deny(unsafe_code)]

pub mod bounds;
#[doc(hidden)]
pub mod cli;
pub mod clock;
pub mod error;
pub mod limit;
pub mod limiter;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod store;

pub use clock::Clock;
pub use error::{Error, Kind, Result};
pub use limit::{Algorithm, Limit};
pub use limiter::{AllDecision, By, Decision, Limiter, Listing, Options, Page, Report, Status, SyncMode};

/// The Rust of README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
