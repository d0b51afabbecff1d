//! `flint limit check` and `check-all`.

use serde_json::{Value, json};

use crate::cli::answer::{Answer, Document, not_understood, usage};
use crate::cli::options::{Args, Global, text};
use crate::cli::output::Output;
use crate::cli::remote::{Request, ask};
use crate::error::Result;
use crate::limit::{excerpt, validate_key};
use crate::limiter::Access;

/// The answer to one check.
pub struct Decision {
    pub allowed: bool,
    pub retry_after_ms: u64,
    pub reply: Document,
}

impl Decision {
    /// Makes a check.
    ///
    /// # Errors
    /// As [`ask`]; `invalid_argument` for a bad key.
    pub fn ask(global: &Global, key: &str, cost: u64) -> Result<Decision> {
        validate_key(key)?;
        let reply = ask(global, Access::Write, &Request::post("/v1/check", &json!({"key": key, "cost": cost})))?;
        Ok(Decision { allowed: reply.bool("allowed")?, retry_after_ms: reply.number("retry_after_ms")?, reply })
    }
}

/// `limit check`
pub fn check(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let Decision { allowed, retry_after_ms, reply } = Decision::ask(global, args.key()?, args.number("--cost")?)?;
    output.reply(&reply, |output| match allowed {
        true => output.line(&format!("allowed, {} of {} left", reply.number("remaining")?, reply.number("limit")?)),
        false => output.line(&format!("denied, try again in {retry_after_ms} ms")),
    })?;
    Ok(allowed.into())
}

/// `limit check-all`
pub fn check_all(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let keys = args.operands.iter().map(text).collect::<Result<Vec<_>>>()?;
    let mut items: Vec<(&str, u64)> = keys.iter().map(|key| (*key, 1)).collect();
    let mut named = Vec::new();
    for value in args.texts("--cost")? {
        let wrong = |what: String| Err(usage(format!("--cost {what}")));
        let Some((key, cost)) = value.rsplit_once('=').and_then(|(key, cost)| Some((key, cost.parse().ok()?))) else {
            return wrong(format!("must be KEY=N, not `{}`", excerpt(value)));
        };
        if named.contains(&key) {
            return wrong(format!("names the key `{}` twice", excerpt(key)));
        }
        if cost == 0 {
            return wrong("must be 1 or more, not 0".to_owned());
        }
        let Some(item) = items.iter_mut().find(|(other, _)| *other == key) else {
            return wrong(format!("names `{}`, which is not among the keys", excerpt(key)));
        };
        item.1 = cost;
        named.push(key);
    }
    crate::limiter::validate_items(&items)?;
    let items: Vec<Value> = items.iter().map(|(key, cost)| json!([key, cost])).collect();
    let reply = ask(global, Access::Write, &Request::post("/v1/check-all", &json!({"items": items})))?;
    let allowed = reply.bool("allowed")?;
    output.reply(&reply, |output| {
        if allowed {
            return output.line("allowed");
        }
        // The results run up to the first that was denied.
        let denied = reply.value["results"].as_array().and_then(|results| results.last());
        let wait = denied.and_then(|denied| denied["retry_after_ms"].as_u64()).ok_or_else(not_understood)?;
        let key = reply.value["denied_key"].as_str().ok_or_else(not_understood)?;
        output.line(&format!("denied by {key}, try again in {wait} ms; nothing was spent"))
    })?;
    Ok(allowed.into())
}
