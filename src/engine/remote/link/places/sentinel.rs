//! Asking Sentinels who is master.

use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::super::address::{Address, Endpoint, Login};
use super::super::connection::{Connection, Dialing};
use super::super::error::{LinkError, Verdict, verdict};
use super::super::wire::reply;
use crate::bounds::STORE_ASK_MS;

/// Connections to the Sentinels of an address.
pub struct Sentinels {
    name: String,
    dialing: Dialing,
    endpoints: Vec<(Endpoint, Option<Connection>)>,
}

/// What a Sentinel says.
struct Vote {
    epoch: i64,
    master: Endpoint,
}

impl Sentinels {
    pub fn new(address: &Address, name: &str, login: &Login) -> Sentinels {
        let endpoints = address.endpoints().iter().map(|endpoint| (endpoint.clone(), None)).collect();
        Sentinels { name: name.to_owned(), dialing: Dialing::to_sentinels(address, login), endpoints }
    }

    /// Who is master: what more than half of the Sentinels say, else what the one with the latest configuration says.
    /// A Sentinel that is cut off goes on naming the old master.
    pub fn master(&mut self, until: Instant) -> Result<Endpoint, LinkError> {
        let all = self.endpoints.len();
        let mut votes: Vec<Vote> = Vec::new();
        let mut failure = None;
        for at in 0..all {
            match self.ask(at, until) {
                Ok(vote) => votes.push(vote),
                Err(error) => failure = failure.or(Some(error)),
            }
            let same = |one: &&Vote| votes.iter().filter(|other| other.master == one.master).count() * 2 > all;
            if let Some(vote) = votes.iter().find(same) {
                return Ok(vote.master.clone());
            }
        }
        match votes.into_iter().max_by_key(|vote| vote.epoch) {
            Some(vote) => Ok(vote.master),
            None => Err(failure.unwrap_or_else(|| LinkError::unavailable("there is no Sentinel to ask"))),
        }
    }

    fn ask(&mut self, at: usize, until: Instant) -> Result<Vote, LinkError> {
        let until = until.min(Instant::now() + Duration::from_millis(STORE_ASK_MS));
        let (endpoint, kept) = &mut self.endpoints[at];
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::plain(&self.dialing, endpoint, until)?,
        };
        let reply = connection.try_ask(&[b"SENTINEL", b"MASTER", self.name.as_bytes()], until)?;
        *kept = Some(connection);
        if let Reply::ServerError(error) = &reply {
            let detail = error.details().unwrap_or_default();
            if detail.contains("No such master") {
                return Err(LinkError::refused(format!("the Sentinel {endpoint} knows no master `{}`", self.name)));
            }
            return Err(match verdict(error, endpoint) {
                Verdict::Fails(error) | Verdict::Away(error) | Verdict::Demoted(error) => error,
                other => LinkError::unavailable(format!("the Sentinel {endpoint} answers {other:?}")),
            });
        }
        let field = |name| reply::field(&reply, name);
        let host = field("ip").and_then(reply::text);
        let port = field("port").and_then(reply::number).and_then(|port| u16::try_from(port).ok());
        let epoch = field("config-epoch").and_then(reply::number).unwrap_or(0);
        match (host, port) {
            (Some(host), Some(port)) => Ok(Vote { epoch, master: Endpoint { host: host.to_owned(), port } }),
            _ => Err(LinkError::unavailable(format!("the Sentinel {endpoint} does not say where the master is"))),
        }
    }
}
