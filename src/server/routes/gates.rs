//! The endpoints that reverse proxies ask: whether a request that is about to be passed on may be.
//!
//! The body is not looked at. What the proxy's client is told stands in headers and in a line of text, since some
//! proxies hand the reply on.

use super::super::gate::named::{Asking, Gates, Policy};
use super::super::http::head::Found;
use super::super::http::reply::{NO_CONTENT, Reply};
use super::call::{Answer, Call};
use super::query::{Query, path_of};
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, excerpt};
use crate::limiter::{Decision, Item};

/// A gate for a key that the proxy has made.
pub fn gate(call: &Call<'_>) -> Answer {
    let policy = policy_of(&call.query)?;
    let limit = call.query.get("limit").map(str::parse::<Limit>).transpose()?;
    let key = call.key()?;
    let item = Item::new(&key).with_cost(call.query.number("cost")?.unwrap_or(1));
    decide(call, item, limit.as_ref(), policy)
}

/// A gate that the operator has named, followed by any path.
pub fn named(call: &Call<'_>) -> Answer {
    let (Some(gates), rest) = (call.sources.gates, call.key) else { return Err(unknown(call.key)) };
    let (gate, rest) = gates.find(rest).ok_or_else(|| unknown(call.key))?;
    let asking = Asking { peer: call.peer, method: call.method, headers: call.headers, rest };
    let key = gate.key(gates, &asking);
    call.permit(&key)?;
    decide(call, Item::new(&key).with_cost(gate.cost), gate.limit.as_ref(), gate.policy)
}

fn unknown(path: &str) -> Error {
    let name = path.split('/').next().unwrap_or(path);
    Error::new(Kind::NotFound, format!("there is no gate {}; define it with --gate {0}=by=ip", excerpt(name)))
}

fn policy_of(query: &Query<'_>) -> Result<Policy> {
    let mut policy = Policy::default();
    for name in ["deny", "on_error"] {
        if let Some(value) = query.get(name) {
            policy.set(name, value)?;
        }
    }
    Ok(policy)
}

fn decide<'a>(call: &Call<'_>, mut item: Item<'a>, limit: Option<&'a Limit>, policy: Policy) -> Answer {
    item.limit = limit;
    let decision = call.limiter()?.check_for(item, call.sources.non_blocking)?;
    let mut reply = match decision.allowed {
        true => Reply::new(NO_CONTENT, "", Vec::new()),
        false => Reply::new(policy.denied, "text/plain; charset=utf-8", denial(&decision)),
    };
    reply.decision(&decision, call.sources.legacy);
    reply.open_gate = policy.open;
    Ok(reply)
}

/// What a person in front of a browser may be shown.
fn denial(decision: &Decision) -> Vec<u8> {
    match decision.retry_after.map(|wait| wait.as_millis().div_ceil(1000).max(1)) {
        Some(seconds) => format!("too many requests; try again in {seconds} s\n").into_bytes(),
        None => b"too many requests\n".to_vec(),
    }
}

/// Whether an error says that no decision is available, and not that the question is wrong.
pub fn is_without_decision(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::Overloaded | Kind::LogFailed | Kind::StoreUnavailable | Kind::OutcomeUnknown | Kind::Io | Kind::Internal
    )
}

/// How the gate answers that was found for a target, as far as that is known.
pub fn policy(found: Found, target: &str, gates: Option<&Gates>) -> Policy {
    let path = path_of(target);
    let gate = gates.and_then(|gates| gates.find(&path[found.key_at..]));
    match gate.filter(|_| path.starts_with(NAMED)) {
        Some((gate, _)) => gate.policy,
        None if path.starts_with(NAMED) => Policy::default(),
        None => {
            let query = target.split_once('?').map_or("", |(_, query)| query);
            let open = query.split('&').any(|parameter| parameter == "on_error=allow");
            Policy { open, ..Policy::default() }
        }
    }
}

const NAMED: &str = "/v1/gates/";
