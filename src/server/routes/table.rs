//! The table of endpoints: the one place that knows paths, methods, query parameters and which function answers.

use super::super::http::head::Found;
use super::call::{Answer, Call};
use super::query::path_of;
use super::spend::{checks, holds};
use super::{backup, gates, limits, operations};
use crate::bounds::{MAX_BODY_BYTES, MAX_LIMITS_BYTES};

/// An endpoint, as the manual page names it.
pub struct Endpoint {
    /// Its path. One that ends with `{key}` stands for every path with a percent-encoded key there, one with `{name}`
    /// for every path with the name of a gate there and anything after it.
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
    /// `ANY` stands for all of them.
    pub name: &'static str,
    /// The query parameters that it knows.
    pub parameters: &'static [&'static str],
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
    Method { name: "GET", parameters, answer, foreign: false }
}

const fn post(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "POST", parameters, answer, foreign: false }
}

const fn delete(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "DELETE", parameters, answer, foreign: false }
}

const fn any(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: ANY, parameters, answer, foreign: false }
}

const HEALTH: &str = "/v1/health";

/// All endpoints.
pub const ENDPOINTS: [Endpoint; 22] = [
    quick("/v1/check", &[post(&["status"], checks::check)]),
    quick("/v1/check-all", &[post(&["status"], checks::check_all)]),
    quick("/v1/check-many", &[post(&[], checks::check_many)]),
    endpoint("/v1/peek", &[post(&[], holds::peek)]),
    quick("/v1/hold", &[post(&["status"], holds::hold)]),
    quick("/v1/settle", &[post(&[], holds::settle)]),
    quick("/v1/renew", &[post(&[], holds::renew)]),
    quick("/v1/charge", &[post(&[], holds::charge)]),
    quick("/v1/refund", &[post(&[], holds::refund)]),
    quick("/v1/take/{key}", &[post(&["cost", "limit"], checks::take)]),
    gate("/v1/gate/{key}", &[any(&["cost", "limit", "deny", "on_error"], gates::gate)]),
    gate("/v1/gates/{name}", &[Method { foreign: true, ..any(&[], gates::named) }]),
    quick(HEALTH, &[get(&[], operations::health)]),
    bulk(
        "/v1/limits",
        &[
            get(&["live", "prefix", "pattern", "limit", "after"], limits::list),
            post(&[], limits::configure),
            delete(&["prefix"], limits::remove_prefix),
        ],
    ),
    endpoint("/v1/limits/{key}", &[get(&[], limits::status), delete(&[], limits::remove)]),
    endpoint("/v1/reset", &[post(&[], limits::reset)]),
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
    /// Whether the query of a request is none of Flint's.
    pub fn query_is_foreign(&self) -> bool {
        self.foreign
    }

    /// Answers a call.
    pub fn answer(&self, call: &Call<'_>) -> Answer {
        (self.answer)(call)
    }
}
