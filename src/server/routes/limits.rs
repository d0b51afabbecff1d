//! The endpoints of limits: list, configure, status, remove, reset, top.

use serde_json::json;

use super::super::http::reply::Reply;
use super::body::{self, Configure, Key};
use super::call::{Answer, Call};
use super::listing;
use crate::error::{Error, Result};
use crate::limit::excerpt;
use crate::limiter::{By, Page, write_statuses};

/// Limits that `top` tells of where nothing else is asked for.
const TOP: u64 = 10;

pub fn list(call: &Call<'_>) -> Answer {
    let limit = call.query.number("limit")?.map(as_size);
    let page = Page { prefix: call.query.get("prefix").unwrap_or(""), after: call.query.get("after"), limit };
    listing::reply(call.sources.limiter.listing(page)?)
}

pub fn configure(call: &Call<'_>) -> Answer {
    let configure: Configure<'_> = body::parse(call.body)?;
    let (key, limit) = configure.parts()?;
    let created = call.sources.limiter.configure(key, limit)?;
    Ok(Reply::ok(true, &json!({"created": created})))
}

pub fn status(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let key = call.key()?;
    let mut out = Vec::new();
    call.sources.limiter.status(&key)?.ok_or_else(|| Error::not_configured(&key))?.write_json(&mut out);
    Ok(Reply::json(out))
}

pub fn remove(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    done(call.sources.limiter.remove(&call.key()?))
}

pub fn reset(call: &Call<'_>) -> Answer {
    let body: Key<'_> = body::parse(call.body)?;
    done(call.sources.limiter.reset(body.key()?))
}

pub fn top(call: &Call<'_>) -> Answer {
    let by = match call.query.get("by") {
        None | Some("denied") => By::Denied,
        Some("allowed") => By::Allowed,
        Some(other) => return Err(Error::invalid(format!("by must be allowed or denied, not {}", excerpt(other)))),
    };
    let limit = as_size(call.query.number("limit")?.unwrap_or(TOP));
    let mut out = Vec::new();
    write_statuses(&call.sources.limiter.top(by, limit)?, &mut out);
    Ok(Reply::json(out))
}

/// The reply to what has nothing to tell.
pub fn done(result: Result<()>) -> Answer {
    result.map(|()| Reply::ok(true, &json!({})))
}

fn as_size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
