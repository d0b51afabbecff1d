//! The endpoints that decide: check, check-all, check-many, take.

use super::super::super::http::reply::Reply;
use super::super::body::{self, Check, Items};
use super::super::call::{Answer, Call};
use super::once::{once, write};
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, excerpt};
use crate::limiter::{AllDecision, Decision, Guard, Item, millis_up, write_many};

/// Room for a decision on a key of usual length, in bytes.
pub const DECISION_BYTES: usize = 320;

pub fn check(call: &Call<'_>) -> Answer {
    let check: Check<'_> = body::parse(call.body)?;
    let item = check.item()?;
    call.permit(item.key)?;
    let denied_status = denied_status(call)?;
    let reply = |decision: &Decision| {
        let mut out = Vec::with_capacity(DECISION_BYTES);
        decision.write_json(item.key, &mut out);
        let mut reply = Reply::json(out);
        if !decision.allowed {
            reply.status = denied_status;
        }
        reply.decision(decision, call.sources.legacy);
        reply
    };
    let ask = |guard: Option<&Guard<'_>>| match guard {
        None => call.limiter()?.check_for(item, call.sources.non_blocking),
        Some(guard) => {
            let mut kept = |all: &AllDecision| all.results.first().map(|one| write(&reply(one))).unwrap_or_default();
            let all = call.limiter()?.check_all_once(&[item], guard, &mut kept, call.sources.non_blocking)?;
            let one = all.results.into_iter().next();
            one.ok_or_else(|| Error::new(Kind::Internal, "a check without a decision"))
        }
    };
    once(call, ask, reply)
}

/// The status of a reply that denies.
pub fn denied_status(call: &Call<'_>) -> Result<u16> {
    match call.query.get("status") {
        None | Some("200") => Ok(200),
        Some("429") => Ok(429),
        Some(other) => Err(Error::invalid(format!("status must be 200 or 429, not {}", excerpt(other)))),
    }
}

pub fn take(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let cost = call.query.number("cost")?.unwrap_or(1);
    let limit = call.query.get("limit").map(str::parse::<Limit>).transpose()?;
    let key = call.key()?;
    let mut item = Item::new(&key).with_cost(cost);
    item.limit = limit.as_ref();
    let decision = call.limiter()?.check_for(item, call.sources.non_blocking)?;
    let (status, word, number, none) = match decision.allowed {
        true => (200, "ok", decision.remaining, "unlimited"),
        false => (429, "denied", decision.retry_after.map(millis_up), "never"),
    };
    let text = match number {
        Some(number) => format!("{word} {number}\n"),
        None => format!("{word} {none}\n"),
    };
    let mut reply = Reply::new(status, "text/plain; charset=utf-8", text.into_bytes());
    reply.decision(&decision, call.sources.legacy);
    Ok(reply)
}

pub fn check_all(call: &Call<'_>) -> Answer {
    let items: Items<'_> = body::parse(call.body)?;
    let items = items.items()?;
    call.permit_items(&items)?;
    let denied_status = denied_status(call)?;
    let reply = |all: &AllDecision| {
        let mut out = Vec::with_capacity(items.len() * DECISION_BYTES);
        all.write_json(&items, &mut out);
        let mut reply = Reply::json(out);
        if !all.allowed {
            reply.status = denied_status;
        }
        reply.with_tightest(all.results.iter(), call.sources.legacy)
    };
    let ask = |guard: Option<&Guard<'_>>| match guard {
        None => call.limiter()?.check_all_for(&items, call.sources.non_blocking),
        Some(guard) => {
            let mut kept = |all: &AllDecision| write(&reply(all));
            call.limiter()?.check_all_once(&items, guard, &mut kept, call.sources.non_blocking)
        }
    };
    once(call, ask, reply)
}

pub fn check_many(call: &Call<'_>) -> Answer {
    let items: Items<'_> = body::parse(call.body)?;
    let items = items.items()?;
    call.permit_items(&items)?;
    let reply = |results: &[Result<Decision>]| {
        let mut out = Vec::with_capacity(items.len() * DECISION_BYTES);
        write_many(results, &items, &mut out);
        Reply::json(out).with_tightest(results.iter().flatten(), call.sources.legacy)
    };
    let ask = |guard: Option<&Guard<'_>>| match guard {
        None => call.limiter()?.check_many_for(&items, call.sources.non_blocking),
        Some(guard) => {
            let mut kept = |results: &[Result<Decision>]| write(&reply(results));
            call.limiter()?.check_many_once(&items, guard, &mut kept, call.sources.non_blocking)
        }
    };
    once(call, ask, |results| reply(results))
}
