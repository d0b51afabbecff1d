//! The endpoints that decide: check, check-all, check-many, take.

use super::super::http::reply::Reply;
use super::body::{self, Check, Items};
use super::call::{Answer, Call};
use crate::error::{Error, Result};
use crate::limit::excerpt;
use crate::limiter::write_many;

/// Room for a decision on a key of usual length, in bytes.
const DECISION_BYTES: usize = 320;

pub fn check(call: &Call<'_>) -> Answer {
    let check: Check<'_> = body::parse(call.body)?;
    let (key, cost) = check.parts()?;
    let denied_status = denied_status(call)?;
    let decision = call.sources.limiter.check_for(key, cost, call.sources.non_blocking)?;
    let mut out = Vec::with_capacity(DECISION_BYTES);
    decision.write_json(key, &mut out);
    let mut reply = Reply::json(out);
    if !decision.allowed {
        reply.status = denied_status;
    }
    reply.decision(&decision);
    Ok(reply)
}

/// The status of a reply that denies.
fn denied_status(call: &Call<'_>) -> Result<u16> {
    match call.query.get("status") {
        None | Some("200") => Ok(200),
        Some("429") => Ok(429),
        Some(other) => Err(Error::invalid(format!("status must be 200 or 429, not {}", excerpt(other)))),
    }
}

pub fn take(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let cost = call.query.number("cost")?.unwrap_or(1);
    let decision = call.sources.limiter.check_for(&call.key()?, cost, call.sources.non_blocking)?;
    let (status, text) = match decision.allowed {
        true => (200, format!("ok {}\n", decision.remaining)),
        false => (429, format!("denied {}\n", decision.retry_after.as_millis())),
    };
    let mut reply = Reply::new(status, "text/plain; charset=utf-8", text.into_bytes());
    reply.decision(&decision);
    Ok(reply)
}

pub fn check_all(call: &Call<'_>) -> Answer {
    let items: Items<'_> = body::parse(call.body)?;
    let items = items.parts()?;
    let mut out = Vec::with_capacity(items.len() * DECISION_BYTES);
    call.sources.limiter.check_all_for(&items, call.sources.non_blocking)?.write_json(&items, &mut out);
    Ok(Reply::json(out).not_to_be_stored())
}

pub fn check_many(call: &Call<'_>) -> Answer {
    let items: Items<'_> = body::parse(call.body)?;
    let items = items.parts()?;
    let mut out = Vec::with_capacity(items.len() * DECISION_BYTES);
    write_many(&call.sources.limiter.check_many_for(&items, call.sources.non_blocking)?, &items, &mut out);
    Ok(Reply::json(out).not_to_be_stored())
}
