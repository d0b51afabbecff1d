//! What the function of an endpoint is given.

use std::net::IpAddr;

use tiny_http::Header;

use super::super::gate::named::Gates;
use super::super::guard::GuardHandle;
use super::super::http::reply::{LegacyHeaders, Reply};
use super::super::tokens::Grant;
use super::super::vitals::Vitals;
use super::metrics::Metrics;
use super::query::{Query, decode};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::limiter::{Item, Limiter, NonBlocking};

/// What an endpoint's function gives back.
pub type Answer = Result<Reply>;

/// What requests are answered from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub engine: &'a dyn Engine,
    /// What operations on single keys are called on: the limiter that is open here, or a lane's. Questions about more
    /// than that are asked of the engine, and never from a lane.
    pub limiter: Option<&'a Limiter>,
    /// For threads that must not wait: checks leave to it what becomes of the answer.
    pub non_blocking: Option<&'a NonBlocking<'a>>,
    /// What doctor and metrics tell of connections, requests and threads; a command that has opened the data directory
    /// itself has none.
    pub guard: Option<GuardHandle>,
    pub metrics: Option<&'a Metrics>,
    pub vitals: Option<&'a Vitals>,
    /// A command has none.
    pub gates: Option<&'a Gates>,
    /// What replies with decisions bear besides.
    pub legacy: LegacyHeaders,
}

impl<'a> Sources<'a> {
    /// Only the limiter.
    pub fn of(limiter: &'a Limiter) -> Sources<'a> {
        let legacy = LegacyHeaders::None;
        Sources {
            engine: limiter,
            limiter: Some(limiter),
            non_blocking: None,
            guard: None,
            metrics: None,
            vitals: None,
            gates: None,
            legacy,
        }
    }
}

/// One request for one endpoint.
pub struct Call<'a> {
    pub sources: Sources<'a>,
    /// The key in the path, still encoded; empty if the path bears none.
    pub key: &'a str,
    pub query: Query<'a>,
    pub body: &'a [u8],
    /// Who sent it; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    pub method: &'a str,
    /// Path and query, as they were sent.
    pub target: &'a str,
    pub headers: &'a [Header],
    /// What the token may do; `None` for everything.
    pub grant: Option<&'a Grant>,
}

impl<'a> Call<'a> {
    /// What an operation on single keys is called on.
    ///
    /// # Errors
    /// `internal` where the endpoint's row in the table is not `.on_limiter()`.
    pub fn limiter(&self) -> Result<&'a Limiter> {
        let missing = || Error::new(Kind::Internal, "this endpoint has no limiter, which is a defect of Flint");
        self.sources.limiter.ok_or_else(missing)
    }

    /// Refuses a key that the token is not for.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn permit(&self, key: &str) -> Result<()> {
        self.grant.map_or(Ok(()), |grant| grant.check_key(key))
    }

    /// Refuses items of which one has a key that the token is not for.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn permit_items(&self, items: &[Item<'_>]) -> Result<()> {
        items.iter().try_for_each(|item| self.permit(item.key))
    }

    /// Refuses what concerns all keys, where the token is not for all of them. `what` is the method and path.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn permit_all_keys(&self, what: &str) -> Result<()> {
        self.grant.map_or(Ok(()), |grant| grant.check_all_keys(|| what.to_owned()))
    }

    /// Refuses the keys that begin so, where the token is not for all of them.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn permit_prefix(&self, prefix: &str) -> Result<()> {
        self.grant.map_or(Ok(()), |grant| grant.check_prefix(prefix))
    }

    /// The key in the path, which the token is for.
    ///
    /// # Errors
    /// `invalid_argument` for a bad encoding, `forbidden`.
    pub fn key(&self) -> Result<String> {
        let key = decode(self.key, "the key in the path")?;
        self.permit(&key)?;
        Ok(key)
    }
}
