//! Endpoints: from a method, a path and a body to a reply. No sockets here.
//!
//! A request finds its row in [`table`]; the function that is named there answers it. To add an endpoint, write
//! `fn name(call: &Call<'_>) -> Answer` in `spend`, `gates`, `limits`, `operations` or
//! `backup`, and add a row to
//! [`table::ENDPOINTS`]: `endpoint(..)` runs on a worker and may block; `quick(..)` runs on a decider and must not, so
//! it passes `call.sources.non_blocking` to the limiter. If that would block, a worker calls the function again from
//! the start (with `None`), so it must change nothing before it asks the limiter. A function without body fields calls
//! [`body::parse_empty`], unless it answers GET or any method. What it needs is the role `read` for GET and else
//! `admin`, and a token for all keys, unless its row says `.needs(..)` or `.keyed()`. The function of a `.keyed()`
//! method must hand each key and prefix to [`Call::permit`] or [`Call::permit_prefix`] before it does anything. Then
//! document it in `man/flint-http.7`, which a test compares. `listing` has no endpoint: it streams long lists.

mod backup;
pub mod body;
pub mod call;
mod gates;
mod limits;
mod listing;
pub mod metrics;
mod operations;
mod query;
mod spend;
pub mod table;

use std::net::IpAddr;

use tiny_http::Header;

use self::call::{Answer, Call, Sources};
use self::query::{Query, path_of};
use self::table::{Method, find};
use super::gate::named::Gates;
use super::http::head::Found;
use super::http::reply::Reply;
use super::tokens::Grant;
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;
use crate::limiter::Limiter;

/// One request, as the endpoints see it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// What [`find`] says of the target.
    pub found: Option<Found>,
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub body: &'a [u8],
    /// Who sent it; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    pub headers: &'a [Header],
    /// What the token may do; `None` for everything. [`check_grant`] has seen it.
    pub grant: Option<&'a Grant>,
}

/// Answers one request of a client of the server.
pub fn answer(sources: Sources<'_>, ask: &Ask<'_>) -> Reply {
    try_answer(sources, ask).unwrap_or_else(|error| refusal(&error, ask.found, ask.target, sources.gates))
}

/// The reply that reports an error; of a gate that lets requests through without a decision, the reply that does so.
pub fn refusal(error: &Error, found: Option<Found>, target: &str, gates: Option<&Gates>) -> Reply {
    if let Some(found) = found.filter(|found| found.gate && gates::is_without_decision(error))
        && gates::policy(found, target, gates).open
    {
        return Reply::degraded(error);
    }
    let mut reply = Reply::error(error);
    if error.kind() == Kind::MethodNotAllowed {
        reply.header("Allow", found.map(table::allowed).unwrap_or_default());
    }
    reply
}

/// Answers one request of a command that has opened the data directory itself.
pub fn answer_locally(limiter: &Limiter, method: &str, target: &str, body: &[u8]) -> Reply {
    let ask = Ask { found: find(target), method, target, body, peer: None, headers: &[], grant: None };
    let mut reply = answer(Sources::of(limiter), &ask);
    if let Some(mut more) = reply.more.take() {
        while more.next(&mut reply.body) {}
    }
    reply
}

/// Refuses a path without an endpoint, and a method that its endpoint does not know.
///
/// # Errors
/// `not_found`, `method_not_allowed`.
pub fn check_method(found: Option<Found>, method: &str, target: &str) -> Result<()> {
    let path = excerpt(path_of(target));
    let Some(found) = found else {
        return Err(Error::new(Kind::NotFound, format!("there is no {path}; the API is under /v1")));
    };
    match table::method(found, method) {
        Some(_) => Ok(()),
        None => {
            let allowed = table::allowed(found);
            Err(Error::new(Kind::MethodNotAllowed, format!("{path} takes {allowed}, not {method}")))
        }
    }
}

/// Whether a call is answered only by questions about single keys.
pub fn is_on_limiter(found: Option<Found>, name: &str) -> bool {
    found.and_then(|found| table::method(found, name)).is_some_and(Method::is_on_limiter)
}

/// Refuses a call that its token does not permit, as far as the head shows that. The keys are for the endpoint's
/// function.
///
/// # Errors
/// `forbidden`.
pub fn check_grant(grant: &Grant, found: Option<Found>, name: &str, target: &str) -> Result<()> {
    let known = if name == "HEAD" { "GET" } else { name };
    let Some(method) = found.and_then(|found| table::method(found, known)) else { return Ok(()) };
    let what = || format!("{name} {}", excerpt(path_of(target)));
    grant.check_role(method.role, what)?;
    if method.keyed { Ok(()) } else { grant.check_all_keys(what) }
}

fn try_answer(sources: Sources<'_>, ask: &Ask<'_>) -> Answer {
    let Ask { found, method: name, target, body, peer, headers, grant } = *ask;
    let Some((found, method)) = found.and_then(|found| Some((found, table::method(found, name)?))) else {
        check_method(found, name, target)?;
        return Err(Error::new(Kind::NotFound, "there is no such endpoint"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = if method.query_is_foreign() { Query::default() } else { Query::parse(query, method.parameters)? };
    let key = &path[found.key_at..];
    method.answer(&Call { sources, key, query, body, peer, method: name, target, headers, grant })
}
