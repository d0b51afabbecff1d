//! The table of endpoints: the one place that knows paths, methods, query parameters and which function answers.

use super::super::http::head::Found;
use super::call::{Answer, Call};
use super::{checks, limits, operations};
use crate::bounds::{MAX_BODY_BYTES, MAX_LIMITS_BYTES};

/// An endpoint, as the manual page names it.
pub struct Endpoint {
    /// Its path. One that ends with `{key}` stands for every path with a percent-encoded key there.
    pub path: &'static str,
    /// Its methods, in the order of the `Allow` header.
    pub methods: &'static [Method],
    /// It runs on a decider, so its function must not block. Its reply may wait for the disk, without a thread.
    quick: bool,
    /// Largest body, in bytes.
    max_body: usize,
}

/// A method of an endpoint.
pub struct Method {
    pub name: &'static str,
    /// The query parameters that it knows.
    pub parameters: &'static [&'static str],
    answer: fn(&Call<'_>) -> Answer,
}

const fn endpoint(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: false, max_body: MAX_BODY_BYTES }
}

const fn quick(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: true, max_body: MAX_BODY_BYTES }
}

/// An endpoint that takes many limits at once.
const fn bulk(path: &'static str, methods: &'static [Method]) -> Endpoint {
    Endpoint { path, methods, quick: false, max_body: MAX_LIMITS_BYTES }
}

const fn get(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "GET", parameters, answer }
}

const fn post(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "POST", parameters, answer }
}

const fn put(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "PUT", parameters, answer }
}

const fn delete(parameters: &'static [&'static str], answer: fn(&Call<'_>) -> Answer) -> Method {
    Method { name: "DELETE", parameters, answer }
}

/// All endpoints.
pub const ENDPOINTS: [Endpoint; 13] = [
    quick("/v1/check", &[post(&["status"], checks::check)]),
    quick("/v1/check-all", &[post(&["status"], checks::check_all)]),
    quick("/v1/check-many", &[post(&[], checks::check_many)]),
    quick("/v1/take/{key}", &[post(&["cost", "limit"], checks::take)]),
    quick("/v1/health", &[get(&[], operations::health)]),
    bulk(
        "/v1/limits",
        &[
            get(&["live", "prefix", "pattern", "limit", "after"], limits::list),
            post(&[], limits::configure),
            put(&["prune", "dry_run"], limits::apply),
            delete(&["prefix"], limits::remove_prefix),
        ],
    ),
    endpoint("/v1/limits/{key}", &[get(&[], limits::status), delete(&[], limits::remove)]),
    endpoint("/v1/reset", &[post(&[], limits::reset)]),
    endpoint("/v1/log/flush", &[post(&[], operations::flush)]),
    endpoint("/v1/log/compact", &[post(&[], operations::compact)]),
    endpoint("/v1/doctor", &[get(&[], operations::doctor)]),
    endpoint("/v1/top", &[get(&["by", "limit"], limits::top)]),
    endpoint("/v1/metrics", &[get(&[], operations::metrics)]),
];

/// Finds the endpoint of a target (path and query).
pub fn find(target: &str) -> Option<Found> {
    let path = path_of(target);
    ENDPOINTS.iter().enumerate().find_map(|(index, endpoint)| {
        let key = match endpoint.path.strip_suffix("{key}") {
            Some(before) => path.strip_prefix(before).filter(|key| !key.is_empty())?,
            None => path.strip_prefix(endpoint.path).filter(|rest| rest.is_empty())?,
        };
        let (quick, max_body) = (endpoint.quick, endpoint.max_body);
        Some(Found { index, key_at: path.len() - key.len(), quick, max_body })
    })
}

/// The path of a target.
pub fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

fn endpoint_of(found: Found) -> &'static Endpoint {
    const TABLE: &[Endpoint] = &ENDPOINTS;
    &TABLE[found.index]
}

/// The method of an endpoint with this name.
pub fn method(found: Found, name: &str) -> Option<&'static Method> {
    endpoint_of(found).methods.iter().find(|method| method.name == name)
}

/// The methods of an endpoint, as the `Allow` header names them.
pub fn allowed(found: Found) -> String {
    endpoint_of(found).methods.iter().map(|method| method.name).collect::<Vec<_>>().join(", ")
}

impl Method {
    /// Answers a call.
    pub fn answer(&self, call: &Call<'_>) -> Answer {
        (self.answer)(call)
    }
}
