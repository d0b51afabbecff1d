//! Endpoints: from a method, a path and a body to a reply. No sockets here.

pub mod body;
mod listing;
pub mod metrics;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use self::body::{Check, Configure, Items, Key};
use self::metrics::Metrics;
use super::guard::{CutReason, Notes};
use super::http::reply::Reply;
use super::vitals::Vitals;
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;
use crate::limiter::{By, Limiter, NonBlocking, Page, write_many, write_statuses};
use crate::store::Health;

/// What an endpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Check,
    CheckAll,
    CheckMany,
    Take,
    Health,
    Limits,
    Limit,
    Reset,
    Flush,
    Compact,
    Doctor,
    Top,
    Metrics,
}

/// An endpoint, as the manual page names it.
pub struct Endpoint {
    route: Route,
    /// Its path. One that ends with `{key}` stands for every path with a percent-encoded key there.
    pub path: &'static str,
    /// Its methods, in the order of the `Allow` header, each with the query parameters that it knows.
    pub methods: &'static [(&'static str, &'static [&'static str])],
}

const fn endpoint(
    route: Route,
    path: &'static str,
    methods: &'static [(&'static str, &'static [&'static str])],
) -> Endpoint {
    Endpoint { route, path, methods }
}

/// All endpoints: the one place that knows paths, methods and query parameters.
pub const ENDPOINTS: [Endpoint; 13] = [
    endpoint(Route::Check, "/v1/check", &[("POST", &["status"])]),
    endpoint(Route::CheckAll, "/v1/check-all", &[("POST", &[])]),
    endpoint(Route::CheckMany, "/v1/check-many", &[("POST", &[])]),
    endpoint(Route::Take, "/v1/take/{key}", &[("POST", &["cost"])]),
    endpoint(Route::Health, "/v1/health", &[("GET", &[])]),
    endpoint(Route::Limits, "/v1/limits", &[("GET", &["prefix", "limit", "after"]), ("POST", &[])]),
    endpoint(Route::Limit, "/v1/limits/{key}", &[("GET", &[]), ("DELETE", &[])]),
    endpoint(Route::Reset, "/v1/reset", &[("POST", &[])]),
    endpoint(Route::Flush, "/v1/log/flush", &[("POST", &[])]),
    endpoint(Route::Compact, "/v1/log/compact", &[("POST", &[])]),
    endpoint(Route::Doctor, "/v1/doctor", &[("GET", &[])]),
    endpoint(Route::Top, "/v1/top", &[("GET", &["by", "limit"])]),
    endpoint(Route::Metrics, "/v1/metrics", &[("GET", &[])]),
];

/// The endpoint that was found for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its place in [`ENDPOINTS`].
    pub index: usize,
    /// Where the key begins in the path, still encoded.
    key_at: usize,
}

/// Finds the endpoint of a target (path and query).
pub fn find(target: &str) -> Option<Found> {
    let path = path_of(target);
    ENDPOINTS.iter().enumerate().find_map(|(index, endpoint)| {
        let key = match endpoint.path.strip_suffix("{key}") {
            Some(before) => path.strip_prefix(before).filter(|key| !key.is_empty())?,
            None => path.strip_prefix(endpoint.path).filter(|rest| rest.is_empty())?,
        };
        Some(Found { index, key_at: path.len() - key.len() })
    })
}

fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

impl Found {
    /// Whether it is answered from memory, and waits for the disk at most: a check of any kind, or health.
    pub fn is_quick(self) -> bool {
        use Route::{Check, CheckAll, CheckMany, Health, Take};
        matches!(ENDPOINTS[self.index].route, Check | CheckAll | CheckMany | Take | Health)
    }
}

/// One request, as the endpoints see it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// What [`find`] says of the target.
    pub found: Option<Found>,
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub body: &'a [u8],
}

/// What requests are answered from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub limiter: &'a Limiter,
    /// Given by a thread that must not wait: how a check waits for the disk instead.
    pub non_blocking: Option<&'a NonBlocking<'a>>,
    /// What doctor and metrics tell of connections and requests; a command that has opened the data directory itself has
    /// none.
    pub notes: Option<Notes>,
    pub metrics: Option<&'a Metrics>,
    pub vitals: Option<&'a Vitals>,
}

impl<'a> Sources<'a> {
    /// The limiter alone.
    pub fn of(limiter: &'a Limiter) -> Sources<'a> {
        Sources { limiter, non_blocking: None, notes: None, metrics: None, vitals: None }
    }
}

/// Answers one request of a client of the server.
pub fn answer(sources: Sources<'_>, ask: &Ask<'_>) -> Reply {
    try_answer(sources, ask).unwrap_or_else(|error| match error.kind() {
        Kind::MethodNotAllowed => {
            let mut reply = Reply::error(&error);
            reply.header("Allow", ask.found.map(allowed).unwrap_or_default());
            reply
        }
        _ => Reply::error(&error),
    })
}

/// Answers one request of a command that has opened the data directory itself.
pub fn answer_locally(limiter: &Limiter, method: &str, target: &str, body: &[u8]) -> Reply {
    let mut reply = answer(Sources::of(limiter), &Ask { found: find(target), method, target, body });
    while let Some(mut more) = reply.more.take() {
        if more.next(&mut reply.body) {
            reply.more = Some(more);
        }
    }
    reply
}

/// Refuses a method that the endpoint does not know, and a path that is none.
///
/// # Errors
/// `not_found`, `method_not_allowed`.
pub fn check_method(found: Option<Found>, method: &str, target: &str) -> Result<()> {
    let path = excerpt(path_of(target));
    let Some(found) = found else {
        return Err(Error::new(Kind::NotFound, format!("there is no {path}; the API is under /v1")));
    };
    if ENDPOINTS[found.index].methods.iter().any(|(name, _)| *name == method) {
        return Ok(());
    }
    Err(Error::new(Kind::MethodNotAllowed, format!("{path} takes {}, not {method}", allowed(found))))
}

/// The methods of an endpoint, as the `Allow` header names them.
fn allowed(found: Found) -> String {
    ENDPOINTS[found.index].methods.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The reply to a health request, which needs neither a worker nor the disk.
fn health(limiter: &Limiter, vitals: Option<&Vitals>) -> Reply {
    let version = env!("CARGO_PKG_VERSION");
    let health = match vitals.and_then(Vitals::complaint) {
        Some(complaint) => (Health::Failed, Some(complaint)),
        None => limiter.health(),
    };
    match health {
        (Health::Healthy, _) => Reply::json(ok_first(true, &json!({"version": version})).into_bytes()),
        (_, reason) => {
            let body = ok_first(false, &json!({"version": version, "error": reason}));
            Reply { status: 503, ..Reply::json(body.into_bytes()) }
        }
    }
}

fn try_answer(sources: Sources<'_>, ask: &Ask<'_>) -> Result<Reply> {
    let Sources { limiter, non_blocking, notes, metrics, vitals } = sources;
    let Ask { found, method, target, body: bytes } = *ask;
    check_method(found, method, target)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Found { index, key_at } = found.unwrap_or(Found { index: 0, key_at: 0 });
    let key = &path[key_at..];
    let Endpoint { route, methods, .. } = &ENDPOINTS[index];
    let parameters = methods.iter().find(|(name, _)| *name == method).map_or(&[][..], |(_, parameters)| parameters);
    let query = Query::parse(query, parameters)?;
    // A decision on a key of usual length fits, and the end of the line.
    let mut out = Vec::with_capacity(320);
    match route {
        Route::Check => {
            let check: Check<'_> = body::parse(bytes)?;
            let (key, cost) = check.parts()?;
            let denied_status = match query.get("status") {
                None | Some("200") => 200,
                Some("429") => 429,
                Some(other) => {
                    return Err(Error::invalid(format!("status must be 200 or 429, not {}", excerpt(other))));
                }
            };
            let decision = limiter.check_for(key, cost, non_blocking)?;
            decision.write_json(key, &mut out);
            let mut reply = Reply::json(out);
            if !decision.allowed {
                reply.status = denied_status;
            }
            reply.decision(&decision);
            return Ok(reply);
        }
        Route::Take => {
            body::parse_empty(bytes)?;
            let key = decode(key, "the key in the path")?;
            let cost = query.number("cost")?.unwrap_or(1);
            let decision = limiter.check_for(&key, cost, non_blocking)?;
            let (status, text) = match decision.allowed {
                true => (200, format!("ok {}\n", decision.remaining)),
                false => (429, format!("denied {}\n", decision.retry_after.as_millis())),
            };
            let content_type = "text/plain; charset=utf-8";
            let mut reply = Reply { status, headers: Vec::new(), body: text.into_bytes(), more: None, content_type };
            reply.decision(&decision);
            return Ok(reply);
        }
        Route::CheckAll => {
            let items: Items<'_> = body::parse(bytes)?;
            let items = items.parts()?;
            limiter.check_all_for(&items, non_blocking)?.write_json(&items, &mut out);
            let mut reply = Reply::json(out);
            reply.header("Cache-Control", "no-store");
            return Ok(reply);
        }
        Route::CheckMany => {
            let items: Items<'_> = body::parse(bytes)?;
            let items = items.parts()?;
            out.reserve(items.len() * 256);
            write_many(&limiter.check_many_for(&items, non_blocking)?, &items, &mut out);
            let mut reply = Reply::json(out);
            reply.header("Cache-Control", "no-store");
            return Ok(reply);
        }
        Route::Health => return Ok(health(limiter, vitals)),
        Route::Metrics => {
            let (Some(metrics), Some(notes)) = (metrics, notes) else {
                return Err(Error::new(Kind::NotFound, "only a server has metrics"));
            };
            let body = metrics.page(limiter, notes);
            return Ok(Reply {
                status: 200,
                headers: Vec::new(),
                body,
                more: None,
                content_type: metrics::CONTENT_TYPE,
            });
        }
        Route::Limits if method == "GET" => {
            let limit = query.number("limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
            let page = Page { prefix: query.get("prefix").unwrap_or(""), after: query.get("after"), limit };
            return listing::reply(limiter.listing(page)?);
        }
        Route::Limits => {
            let configure: Configure<'_> = body::parse(bytes)?;
            let (key, limit) = configure.parts()?;
            let created = limiter.configure(key, limit)?;
            out = ok_first(true, &json!({"created": created})).into_bytes();
        }
        Route::Limit => {
            body::parse_empty(bytes)?;
            let key = decode(key, "the key in the path")?;
            if method == "DELETE" {
                limiter.remove(&key)?;
                out.extend_from_slice(b"{\"ok\":true}");
            } else {
                limiter.status(&key)?.ok_or_else(|| Error::not_configured(&key))?.write_json(&mut out);
            }
        }
        Route::Reset => {
            let body: Key<'_> = body::parse(bytes)?;
            limiter.reset(body.key()?)?;
            out.extend_from_slice(b"{\"ok\":true}");
        }
        Route::Flush => {
            body::parse_empty(bytes)?;
            limiter.flush()?;
            out.extend_from_slice(b"{\"ok\":true}");
        }
        Route::Compact => {
            body::parse_empty(bytes)?;
            limiter.compact()?.write_json(&mut out);
        }
        Route::Doctor => out = doctor(limiter, vitals, notes.map(connections)).into_bytes(),
        Route::Top => {
            let by = match query.get("by") {
                None | Some("denied") => By::Denied,
                Some("allowed") => By::Allowed,
                Some(other) => {
                    return Err(Error::invalid(format!("by must be allowed or denied, not {}", excerpt(other))));
                }
            };
            let limit = query.number("limit")?.unwrap_or(10);
            write_statuses(&limiter.top(by, usize::try_from(limit).unwrap_or(usize::MAX))?, &mut out);
        }
    }
    Ok(Reply::json(out))
}

/// What doctor tells of connections: how many are open, how many tiny_http holds that were ended long ago, how often it had
/// to be woken for one that it had forgotten, and how many the guard has ended, by reason.
fn connections(notes: Notes) -> Value {
    let reasons = CutReason::ALL.iter().zip(notes.cut_total());
    let ended: serde_json::Map<_, _> =
        reasons.map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
    json!({"open": notes.open_connections(), "leaked": notes.leaked(), "woken": notes.knocks(), "ended": ended})
}

/// The report of `doctor`; a server adds its connections.
fn doctor(limiter: &Limiter, vitals: Option<&Vitals>, connections: Option<Value>) -> String {
    let report = limiter.report();
    let mut problems = report.problems();
    problems.extend(vitals.and_then(Vitals::complaint));
    let mut rest = json!({
        "problems": problems,
        "version": env!("CARGO_PKG_VERSION"),
        "data_dir": report.dir.display().to_string(),
        "sync": report.sync.name(),
        "limits": report.limits,
        "log_bytes": report.log_bytes,
        "events_written": report.events,
        "queued_bytes": report.queued_bytes,
        "fsyncs": report.syncs(),
        "fsync_mean_us": report.mean_sync().map(|mean| mean.as_micros() as u64),
        "free_bytes": report.free_bytes,
        "compactions": report.compactions,
        "allowed": report.allowed,
        "denied": report.denied,
    });
    if let Some(connections) = connections {
        rest["connections"] = connections;
    }
    ok_first(problems.is_empty(), &rest)
}

/// An object whose first field is `ok`: serde_json sorts the names.
fn ok_first(ok: bool, rest: &serde_json::Value) -> String {
    let rest = rest.to_string();
    format!("{{\"ok\":{ok},{}", rest.trim_start_matches('{'))
}

/// The parameters behind the `?`.
struct Query<'a>(Vec<(&'a str, String)>);

impl<'a> Query<'a> {
    fn parse(query: &'a str, known: &[&str]) -> Result<Query<'a>> {
        let mut parameters: Vec<(&str, String)> = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if !known.contains(&name) {
                return Err(Error::invalid(format!("unknown query parameter `{}`", excerpt(name))));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Error::invalid(format!("query parameter `{name}` stands twice")));
            }
            parameters.push((name, decode(value, name)?));
        }
        Ok(Query(parameters))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    Error::invalid(format!("query parameter `{name}` must be an integer, not `{}`", excerpt(value)))
                })
            })
            .transpose()
    }
}

fn decode(text: &str, what: &str) -> Result<String> {
    // A percent sign that begins no escape would be passed on as it is, and name another key than was meant.
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let escape = rest.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if escape.is_none() {
            return Err(Error::invalid(format!("{what} has a % that is no percent-encoding; write it as %25")));
        }
        rest = &rest[at + 3..];
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::invalid(format!("{what} is not UTF-8 when percent-decoded"))),
    }
}
