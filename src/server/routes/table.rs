//! The table of endpoints: the one place that knows paths, methods, query parameters and which function answers.

use super::super::http::head::Found;
use super::super::tokens::Role;
use super::call::{Answer, Call};
use super::query::path_of;
use super::spend::{checks, holds};
use super::{backup, gates, limits, operations};
use crate::bounds::{MAX_BODY_BYTES, MAX_LIMITS_BYTES};

/// An endpoint, as the manual page names it.
pub struct Endpoint {
    /// Its path. A path that ends with `{key}` matches every path with a percent-encoded key there, a path with
    /// `{name}` for every path with the name of a gate there and anything after it.
    pub path: &'static str,
    /// Its methods, in the order of the `Allow` header.
    pub methods: &'static [Method],
    /// It runs on a decider, so its function must not block. Its reply may wait for the disk, without a thread.
    quick: bool,
    /// A reverse proxy asks it.
    gate: bool,
    /// Largest body, in bytes.
    max_body: usize,
}

/// A method of an endpoint.
pub struct Method {
    /// `ANY` means all of them.
    pub name: &'static str,
    /// The query parameters that it knows.
    pub parameters: &'static [&'static str],
    /// The role that a token needs; `None` if any token will do.
    pub role: Option<Role>,
    /// It is also for tokens with a prefix: its function refuses keys that the token is not for.
    pub keyed: bool,
    /// It is a question about single keys, and asked of a limiter, which may be a lane's; others are the engine's.
    on_limiter: bool,
    answer: fn(&Call<'_>) -> Answer,
    /// The query is another server's.
    foreign: bool,
}

/// The name of a method that is any.
pub const ANY: &str = "ANY";

const fn endpoint(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: false, gate: false, max_body: MAX_BODY_BYTES }
}

const fn quick(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: true, gate: false, max_body: MAX_BODY_BYTES }
}

/// A quick endpoint that a reverse proxy asks.
const fn gate(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: true, gate: true, max_body: MAX_BODY_BYTES }
}

/// An endpoint that takes many limits at once.
const fn bulk(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: false, gate: false, max_body: MAX_LIMITS_BYTES }
}

const fn get(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "GET", parameters, role: Some(Role::Read), keyed: false, on_limiter: false, answer, foreign: false }
}

const fn post(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method {
        name: "POST",
        parameters,
        role: Some(Role::Admin),
        keyed: false,
        on_limiter: false,
        answer,
        foreign: false,
    }
}

const fn put(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "PUT", ..post(parameters, answer) }
}

const fn delete(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "DELETE", ..post(parameters, answer) }
}

/// Whatever spends quota, or asks what a check would answer.
const fn spend(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    post(parameters, answer).needs(Role::Check).keyed().on_limiter()
}

const fn any(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: ANY, ..spend(parameters, answer) }
}

const HEALTH: &str = "/v1/health";

/// All endpoints.
pub const ENDPOINTS: [Endpoint; 22] = [
    quick("/v1/check", &[spend(&["status"], checks::check)]),
    quick("/v1/check-all", &[spend(&["status"], checks::check_all)]),
    quick("/v1/check-many", &[spend(&[], checks::check_many)]),
    endpoint("/v1/peek", &[spend(&[], holds::peek)]),
    quick("/v1/hold", &[spend(&["status"], holds::hold)]),
    quick("/v1/settle", &[spend(&[], holds::settle)]),
    quick("/v1/renew", &[spend(&[], holds::renew)]),
    quick("/v1/charge", &[spend(&[], holds::charge)]),
    quick("/v1/refund", &[spend(&[], holds::refund)]),
    quick("/v1/take/{key}", &[spend(&["cost", "limit"], checks::take)]),
    gate("/v1/gate/{key}", &[any(&["cost", "limit", "deny", "on_error"], gates::gate)]),
    gate("/v1/gates/{name}", &[Method { foreign: true, ..any(&[], gates::named) }]),
    quick(HEALTH, &[get(&[], operations::health).for_all()]),
    bulk(
        "/v1/limits",
        &[
            get(&["live", "prefix", "pattern", "limit", "after"], limits::list).keyed(),
            post(&[], limits::configure).keyed(),
            put(&["prune", "dry_run"], limits::apply).keyed(),
            delete(&["prefix"], limits::remove_prefix).keyed(),
        ],
    ),
    endpoint(
        "/v1/limits/{key}",
        &[get(&[], limits::status).keyed().on_limiter(), delete(&[], limits::remove).keyed().on_limiter()],
    ),
    endpoint("/v1/reset", &[post(&[], limits::reset).keyed()]),
    endpoint("/v1/log/flush", &[post(&[], operations::flush)]),
    endpoint("/v1/log/compact", &[post(&[], operations::compact)]),
    endpoint("/v1/log/backup", &[post(&[], backup::backup)]),
    endpoint("/v1/doctor", &[get(&[], operations::doctor)]),
    endpoint("/v1/top", &[get(&["by", "limit"], limits::top)]),
    endpoint("/v1/metrics", &[get(&[], operations::metrics)]),
];

/// Finds the endpoint of a target (path and query).
pub fn find(target: &str) -> Option<Found> {
    let path = path_of(target);
    ENDPOINTS.iter().enumerate().find_map(|(index, endpoint)| {
        let key = match endpoint.path.split_once('{') {
            Some((before, _)) => path.strip_prefix(before).filter(|key| !key.is_empty())?,
            None => path.strip_prefix(endpoint.path).filter(|rest| rest.is_empty())?,
        };
        let Endpoint { quick, gate, max_body, .. } = *endpoint;
        let health = endpoint.path == HEALTH;
        Some(Found { index, key_at: path.len() - key.len(), quick, gate, health, max_body })
    })
}

fn endpoint_of(found: Found) -> &'static Endpoint {
    const TABLE: &[Endpoint] = &ENDPOINTS;
    &TABLE[found.index]
}

/// The method of an endpoint with this name. HEAD is answered as GET, without the body.
pub fn method(found: Found, name: &str) -> Option<&'static Method> {
    let name = if name == "HEAD" { "GET" } else { name };
    endpoint_of(found).methods.iter().find(|method| method.name == name || method.name == ANY)
}

/// The methods of an endpoint, as the `Allow` header names them.
pub fn allowed(found: Found) -> String {
    let names =
        endpoint_of(found).methods.iter().map(|method| if method.name == "GET" { "GET, HEAD" } else { method.name });
    names.collect::<Vec<_>>().join(", ")
}

impl Method {
    /// Whether the query of a request is not for Flint.
    pub fn query_is_foreign(&self) -> bool {
        self.foreign
    }

    /// It needs this role and no other than it.
    const fn needs(self, role: Role) -> Method {
        Method { role: Some(role), ..self }
    }

    /// Its function hands every key and prefix to [`Call::permit`] or [`Call::permit_prefix`].
    const fn keyed(self) -> Method {
        Method { keyed: true, ..self }
    }

    /// Its function asks only [`Call::limiter`].
    const fn on_limiter(self) -> Method {
        Method { on_limiter: true, ..self }
    }

    /// Whether its function asks only [`Call::limiter`].
    pub fn is_on_limiter(&self) -> bool {
        self.on_limiter
    }

    /// Any token will do: nothing is said of keys.
    const fn for_all(self) -> Method {
        Method { role: None, keyed: true, ..self }
    }

    /// Answers a call.
    pub fn answer(&self, call: &Call<'_>) -> Answer {
        (self.answer)(call)
    }
}
