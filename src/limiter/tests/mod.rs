//! Tests of the limiter and its store together, and what they share.

mod backup;
mod check;
mod disk;
mod helper;
mod holds;
mod list;
mod model;
mod offline;
mod rules;
mod state;
mod sweep;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::core::shard_of;
use super::recovery::replay::Replayed;
use super::*;
use crate::clock::Clock;
use crate::error::{Kind, Result};
use crate::limit::{Algorithm, Limit};
use crate::store::{self, Disk, Health, Policy, SystemDisk};

pub const START: u64 = 1_800_000_000_000_000;

/// Keys and patterns of the models that compare two limiters; those with a `*` are only configured.
pub const KEYS: &[&str] = &["user:1", "user:12", "user:x", "org", "ip:1", "ip:2", "user:*", "user:1*", "*", "ip:*"];
/// How many of them are keys.
pub const LITERAL: usize = 6;
/// Limits of them, of every kind that counts spending.
pub const RATES: &[&str] = &[
    "5/1m",
    "10/1m",
    "3/10s burst=6",
    "6/1m fixed_window_counter",
    "6/1m sliding_window_log",
    "8/1m sliding_window_counter",
    "2/1s, 9/1m",
    "7/day tz=Europe/Berlin, 4/1m",
    "0/1m",
    "4/1m shadow",
    "unlimited",
];

pub fn options(clock: &Clock) -> Options {
    Options { clock: clock.clone(), ..Options::default() }
}

pub fn limit(rate: u64, algorithm: Algorithm) -> Limit {
    Limit::of_millis(rate, 60_000, algorithm, None).unwrap()
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
    }
}

pub fn all(limiter: &Limiter) -> Vec<Status> {
    limiter.list(Page::default()).unwrap()
}

/// What a copy of the directory recovers to, at the same instant.
pub fn recovered(dir: &Path, clock: &Clock) -> Result<Vec<Status>> {
    let parent = tempfile::tempdir().unwrap();
    let crashed = parent.path().join("copy");
    copy(dir, &crashed);
    Limiter::open(&crashed, options(&clock.restarted())).map(|limiter| all(&limiter))
}
