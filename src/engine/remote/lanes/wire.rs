//! What a lane needs of a link: so that its logic is tested without a store.

use std::time::Instant;

use super::super::link::{Attempt, Found, Link, LinkError, Outcome};

/// A store as a lane sees it.
pub trait Wire: Send {
    /// As [`Link::exchange`].
    fn exchange(&mut self, attempts: &[Attempt<'_>], deadline: Instant) -> Vec<Result<Outcome, LinkError>>;

    /// As [`Link::fetch`].
    fn fetch(&mut self, keys: &[&[u8]], deadline: Instant) -> Result<Vec<Found>, LinkError>;

    /// As [`Link::add`].
    fn add(&mut self, counters: &[(&[u8], i64)], deadline: Instant) -> Result<Vec<i64>, LinkError>;

    /// As [`Link::counts`].
    fn counts(&mut self, lists: &[(u8, &[u8])], deadline: Instant) -> Result<Vec<u64>, LinkError>;
}

impl Wire for Link {
    fn exchange(&mut self, attempts: &[Attempt<'_>], deadline: Instant) -> Vec<Result<Outcome, LinkError>> {
        Link::exchange(self, attempts, deadline)
    }

    fn fetch(&mut self, keys: &[&[u8]], deadline: Instant) -> Result<Vec<Found>, LinkError> {
        Link::fetch(self, keys, deadline)
    }

    fn add(&mut self, counters: &[(&[u8], i64)], deadline: Instant) -> Result<Vec<i64>, LinkError> {
        Link::add(self, counters, deadline)
    }

    fn counts(&mut self, lists: &[(u8, &[u8])], deadline: Instant) -> Result<Vec<u64>, LinkError> {
        Link::counts(self, lists, deadline)
    }
}
