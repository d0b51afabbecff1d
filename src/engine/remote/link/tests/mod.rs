//! Links and real servers.

pub mod proxy;
pub mod servers;

mod attempts;
mod failover;
mod failures;
mod load;
mod slots;

use std::time::{Duration, Instant};

use super::{Address, Attempt, Found, Known, Link, LinkError, Options, Outcome, Part, Store, Version, Write};
use crate::clock::Clock;

/// A deadline as the lanes have it.
fn soon() -> Instant {
    Instant::now() + Duration::from_millis(crate::bounds::STORE_TIMEOUT_MS)
}

fn open(address: &str) -> Store {
    open_with(address, 0)
}

fn open_with(address: &str, replicas: u32) -> Store {
    try_open(address, replicas).unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn try_open(address: &str, replicas: u32) -> Result<Store, LinkError> {
    Store::open(Address::parse(address).unwrap(), Options { replicas, clock: Clock::system() })
}

fn put<'a>(key: &'a [u8], known: Known, record: &'a [u8]) -> Attempt<'a> {
    let write = Write::Put { record, expire_at_ms: None };
    Attempt { parts: vec![Part { key, known, write }], marks: Vec::new() }
}

fn keep(key: &[u8], known: Known) -> Attempt<'_> {
    Attempt { parts: vec![Part { key, known, write: Write::Keep }], marks: Vec::new() }
}

fn delete(key: &[u8], known: Known) -> Attempt<'_> {
    Attempt { parts: vec![Part { key, known, write: Write::Delete }], marks: Vec::new() }
}

/// One attempt by itself.
fn one(link: &mut Link, attempt: Attempt) -> Result<Outcome, LinkError> {
    link.exchange(&[attempt], soon()).pop().unwrap()
}

fn won(outcome: Result<Outcome, LinkError>) -> Version {
    match outcome {
        Ok(Outcome::Won(version)) => version,
        other => panic!("{other:?}"),
    }
}

fn lost(outcome: Result<Outcome, LinkError>) -> Vec<Found> {
    match outcome {
        Ok(Outcome::Lost(found)) => found,
        other => panic!("{other:?}"),
    }
}

/// What a key has, as a caller learns it.
fn state(found: Found) -> (Known, Vec<u8>) {
    match found {
        Found::Present(value) => (Known::Version(value.version()), value.record().to_vec()),
        Found::Absent => (Known::Absent, Vec::new()),
        Found::Same => panic!("the same as what?"),
    }
}

fn fetched(link: &mut Link, key: &[u8]) -> (Known, Vec<u8>) {
    state(link.fetch(&[key], soon()).unwrap().pop().unwrap())
}
