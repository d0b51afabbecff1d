//! The endpoints of limits: list, configure, status, remove, reset, top.

use serde_json::json;

use super::super::http::reply::Reply;
use super::body::{self, Reset, ToReset};
use super::call::{Answer, Call};
use super::listing;
use crate::bounds::MAX_BODY_BYTES;
use crate::error::{Error, Result, too_large};
use crate::limit::excerpt;
use crate::limiter::{Applied, By, Page, write_statuses};

/// Limits that `top` lists by default.
const TOP: u64 = 10;

pub fn list(call: &Call<'_>) -> Answer {
    // If the token is for a prefix, the list must be too.
    call.permit_prefix(call.query.get("prefix").unwrap_or(""))?;
    let limit = call.query.number("limit")?.map(as_size);
    let mut page =
        Page::default().with_prefix(call.query.get("prefix").unwrap_or("")).with_live(call.query.flag("live")?);
    (page.after, page.limit, page.pattern) = (call.query.get("after"), limit, call.query.get("pattern"));
    listing::reply(call.sources.engine.listing(page)?)
}

/// Tells whether the limit is new; of an array whether any of them is.
pub fn configure(call: &Call<'_>) -> Answer {
    let is_array = call.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !is_array && call.body.len() > MAX_BODY_BYTES {
        return Err(too_large(MAX_BODY_BYTES));
    }
    let mut body = body::parse_settings(call.body)?;
    let settings = body.take();
    settings.iter().try_for_each(|setting| call.permit(setting.key))?;
    let created = match &settings[..] {
        [setting] if !is_array => json!(call.sources.engine.configure(setting)?),
        settings => {
            let created = call.sources.engine.configure_all(settings)?;
            json!(created.contains(&true))
        }
    };
    Ok(Reply::ok(true, &json!({"created": created})))
}

/// Makes the configured limits what the array says.
pub fn apply(call: &Call<'_>) -> Answer {
    let (prune, dry_run) = (call.query.flag("prune")?, call.query.flag("dry_run")?);
    let mut body = body::parse_listed(call.body)?;
    let settings = body.take();
    settings.iter().try_for_each(|setting| call.permit(setting.key))?;
    if prune {
        call.permit_all_keys("PUT /v1/limits?prune=true")?;
    }
    let applied = call.sources.engine.apply(&settings, prune, dry_run)?;
    let Applied { added, changed, removed, .. } = applied;
    Ok(Reply::ok(true, &json!({"added": added, "changed": changed, "removed": removed})))
}

pub fn status(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let key = call.key()?;
    let mut out = Vec::new();
    call.limiter()?.status(&key)?.ok_or_else(|| Error::not_configured(&key))?.write_json_with_holds(&mut out);
    Ok(Reply::json(out))
}

pub fn remove(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    done(call.limiter()?.remove(&call.key()?))
}

pub fn remove_prefix(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let prefix = call.query.required("prefix")?;
    call.permit_prefix(prefix)?;
    let removed = call.sources.engine.remove_prefix(prefix)?;
    Ok(Reply::ok(true, &json!({"removed": removed})))
}

pub fn reset(call: &Call<'_>) -> Answer {
    let body: Reset<'_> = body::parse(call.body)?;
    match body.what()? {
        ToReset::Key(key) => call.permit(key).and_then(|()| done(call.sources.engine.reset(key))),
        ToReset::Prefix(prefix) => {
            call.permit_prefix(prefix)?;
            done(call.sources.engine.reset_prefix(prefix).map(|_| ()))
        }
    }
}

pub fn top(call: &Call<'_>) -> Answer {
    let by = match call.query.get("by") {
        None | Some("denied") => By::Denied,
        Some("allowed") => By::Allowed,
        Some(other) => return Err(Error::invalid(format!("by must be allowed or denied, not {}", excerpt(other)))),
    };
    let limit = as_size(call.query.number("limit")?.unwrap_or(TOP));
    let mut out = Vec::new();
    write_statuses(&call.sources.engine.top(by, limit)?, &mut out);
    Ok(Reply::json(out))
}

/// The reply to what has nothing to tell.
pub fn done(result: Result<()>) -> Answer {
    result.map(|()| Reply::ok(true, &json!({})))
}

fn as_size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
