//! The endpoints of holds, and those that spend and give back without a decision, or decide without spending: hold,
//! settle, renew, peek, charge, refund.

use super::super::super::http::reply::Reply;
use super::super::body::{self, Asked, Charge, Hold, Peek, Renew, Settle};
use super::super::call::{Answer, Call};
use super::checks::{DECISION_BYTES, denied_status};
use super::once::{once, write};
use crate::error::Result;
use crate::limiter::{self, AllDecision, Guard, Status, write_hold, write_hold_of_one};

/// Room for the id of a hold and its times, in bytes.
const HOLD_BYTES: usize = 96;

pub fn hold(call: &Call<'_>) -> Answer {
    let body: Hold<'_> = body::parse(call.body)?;
    let (asked, ttl) = (body.asked()?, body.ttl()?);
    let denied_status = denied_status(call)?;
    let items = match &asked {
        Asked::One(item) => std::slice::from_ref(item),
        Asked::All(items) => items,
    };
    call.permit_items(items)?;
    let reply = |all: &AllDecision, hold: Option<&limiter::Hold>| {
        let mut out = Vec::with_capacity(HOLD_BYTES + items.len() * DECISION_BYTES);
        match &asked {
            Asked::One(item) => write_hold_of_one(all, hold, item.key, &mut out),
            Asked::All(items) => write_hold(all, hold, items, &mut out),
        }
        let mut reply = Reply::json(out);
        if !all.allowed {
            reply.status = denied_status;
        }
        reply.with_tightest(all.results.iter(), call.sources.legacy)
    };
    let ask = |guard: Option<&Guard<'_>>| match guard {
        None => call.limiter()?.hold_all_for(items, ttl, call.sources.non_blocking),
        Some(guard) => {
            let mut kept = |all: &AllDecision, hold: Option<&limiter::Hold>| write(&reply(all, hold));
            call.limiter()?.hold_all_once(items, ttl, guard, &mut kept, call.sources.non_blocking)
        }
    };
    once(call, ask, |held| reply(&held.all, held.hold.as_ref()))
}

pub fn settle(call: &Call<'_>) -> Answer {
    let body: Settle<'_> = body::parse(call.body)?;
    let costs = body.costs();
    let (hold, cost) = (body.hold()?, body.cost(costs.as_deref())?);
    permit_hold(call, hold)?;
    let settled = call.limiter()?.settle_for(hold, cost, call.sources.non_blocking)?;
    let mut out = Vec::new();
    settled.write_json(&mut out);
    Ok(Reply::json(out))
}

pub fn renew(call: &Call<'_>) -> Answer {
    let body: Renew<'_> = body::parse(call.body)?;
    let (hold, ttl) = (body.hold()?, body.ttl()?);
    permit_hold(call, hold)?;
    let renewed = call.limiter()?.renew_for(hold, ttl, call.sources.non_blocking)?;
    let mut out = Vec::new();
    renewed.write_json(&mut out);
    Ok(Reply::json(out))
}

pub fn peek(call: &Call<'_>) -> Answer {
    let body: Peek<'_> = body::parse(call.body)?;
    let mut out = Vec::new();
    match body.asked()? {
        Asked::One(item) => {
            call.permit(item.key)?;
            let decision = call.limiter()?.peek(item)?;
            decision.write_json(item.key, &mut out);
            Ok(Reply::json(out).with_tightest(std::iter::once(&decision), call.sources.legacy))
        }
        Asked::All(items) => {
            call.permit_items(&items)?;
            let all = call.limiter()?.peek_all(&items)?;
            all.write_json(&items, &mut out);
            Ok(Reply::json(out).with_tightest(all.results.iter(), call.sources.legacy))
        }
    }
}

pub fn charge(call: &Call<'_>) -> Answer {
    let body: Charge<'_> = body::parse(call.body)?;
    let item = body.item()?;
    call.permit(item.key)?;
    let ask = |guard: Option<&Guard<'_>>| match guard {
        None => call.limiter()?.charge_for(item, call.sources.non_blocking),
        Some(guard) => call.limiter()?.charge_once(&item, guard, &mut kept, call.sources.non_blocking),
    };
    once(call, ask, told)
}

pub fn refund(call: &Call<'_>) -> Answer {
    let body: Charge<'_> = body::parse(call.body)?;
    let item = body.item()?;
    call.permit(item.key)?;
    let ask = |guard: Option<&Guard<'_>>| match guard {
        None => call.limiter()?.refund_for(item, call.sources.non_blocking),
        Some(guard) => call.limiter()?.refund_once(&item, guard, &mut kept, call.sources.non_blocking),
    };
    once(call, ask, told)
}

/// Refuses a hold of keys that the token is not for.
fn permit_hold(call: &Call<'_>, hold: &str) -> Result<()> {
    match call.grant {
        None => Ok(()),
        Some(_) => call.limiter()?.each_key_of_hold(hold, call.sources.non_blocking, |key| call.permit(key)),
    }
}

/// What is kept of it.
fn kept(status: &Status) -> String {
    write(&told(status))
}

fn told(status: &Status) -> Reply {
    let mut out = Vec::new();
    status.write_json(&mut out);
    Reply::json(out)
}
