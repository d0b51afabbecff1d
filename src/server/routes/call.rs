//! What the function of an endpoint is given.

use tiny_http::Header;

use super::super::guard::GuardHandle;
use super::super::http::reply::Reply;
use super::super::vitals::Vitals;
use super::metrics::Metrics;
use super::query::{Query, decode};
use crate::error::Result;
use crate::limiter::{Limiter, NonBlocking};

/// What an endpoint's function gives back.
pub type Answer = Result<Reply>;

/// What requests are answered from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub limiter: &'a Limiter,
    /// For threads that must not wait: checks leave to it what becomes of the answer.
    pub non_blocking: Option<&'a NonBlocking<'a>>,
    /// What doctor and metrics tell of connections, requests and threads; a command that has opened the data directory
    /// itself has none.
    pub guard: Option<GuardHandle>,
    pub metrics: Option<&'a Metrics>,
    pub vitals: Option<&'a Vitals>,
}

impl<'a> Sources<'a> {
    /// The limiter alone.
    pub fn of(limiter: &'a Limiter) -> Sources<'a> {
        Sources { limiter, non_blocking: None, guard: None, metrics: None, vitals: None }
    }
}

/// One request for one endpoint.
pub struct Call<'a> {
    pub sources: Sources<'a>,
    /// The key in the path, still encoded; empty where the path bears none.
    pub key: &'a str,
    pub query: Query<'a>,
    pub body: &'a [u8],
    /// Path and query, as they were sent.
    pub target: &'a str,
    pub headers: &'a [Header],
}

impl Call<'_> {
    /// The key in the path.
    ///
    /// # Errors
    /// `invalid_argument` for a bad encoding.
    pub fn key(&self) -> Result<String> {
        decode(self.key, "the key in the path")
    }
}
