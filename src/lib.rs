//! Flint: a durable rate limiter.
//!
//! State is kept in a data directory on disk; what was answered is never forgotten. A program embeds a [`Limiter`], or
//! several processes share one through `flint server start`, which speaks HTTP.
//!
//! # In an async program
//!
//! The methods of [`Limiter`] block: with [`SyncMode::Always`] an allowed check waits for the disk, about 0.1 to 10 ms.
//! Call them where a thread may wait, such as in tokio's `spawn_blocking`:
//!
//! ```
//! # use std::sync::Arc;
//! # mod tokio {
//! #     pub mod task {
//! #         pub async fn spawn_blocking<T>(act: impl FnOnce() -> T) -> Result<T, std::fmt::Error> { Ok(act()) }
//! #     }
//! # }
//! # async fn handle(limiter: Arc<flint::Limiter>) -> Result<bool, Box<dyn std::error::Error>> {
//! let limiter = Arc::clone(&limiter);
//! let decision = tokio::task::spawn_blocking(move || limiter.check("api:user-42", 1)).await??;
//! # Ok(decision.allowed)
//! # }
//! ```
//!
//! Calls that wait at the same time share one sync of the disk, so many of them at once are cheap. With
//! [`SyncMode::Batch`] a check waits until its record is written, which needs no sync; with [`SyncMode::Relaxed`] only
//! if the log is full, and then for seconds at most.
//!
//! # Features
//!
//! `cli` is the command `flint`, and `server` what it serves over HTTP. A program that embeds Flint needs neither, nor
//! their dependencies: `flint = { version = "0.1", default-features = false }`.
//!
//! # Instants
//!
//! Instants are [`Micros`]: microseconds since 1970-01-01T00:00:00Z. The clock never runs backwards, not even over a
//! restart. Lengths of time are [`Duration`](std::time::Duration).
//!
//! # For contributors
//!
//! Start with the architecture page at the top of `src/server/mod.rs`: threads, locks, the life of a check. Modules use
//! only those after them: `cli`, `server`, `engine`, `limiter`, `store`, `limit`, `clock`, `error`, `bounds`.

// Only files of `server/net/` may have any: some of what the kernel reports about connections has no safe interface.
#![deny(unsafe_code)]

pub mod bounds;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod limit;
#[doc(hidden)]
pub mod limiter;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod store;

pub use clock::{Clock, Micros};
pub use error::{Error, Kind, Result};
pub use limit::{Algorithm, CalendarUnit, Detail, Fields, Limit, Mode, Period, Quote, Quotes, Window, Zone};
pub use limiter::{
    AllDecision, Applied, By, Compaction, Cost, Decision, Hold, HoldDecision, Item, Lasting, Limiter, Listing,
    OpenHold, Options, Origin, Overflowing, Page, Report, Setting, Settled, SettledItem, SlotsInUse, Status, SyncMode,
    Totals,
};
pub use store::{Access, Backup, Health};

/// The Rust of README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
