//! `flint limit check` and `check-all`.

use serde_json::{Value, json};

use super::values;
use crate::cli::answer::{Answer, Document, not_understood, usage};
use crate::cli::options::{Args, Global, text};
use crate::cli::output::{Output, length, printable};
use crate::cli::remote::{PATIENCE, Patience, Request, ask, ask_within};
use crate::error::Result;
use crate::limit::{excerpt, validate_key};
use crate::limiter::{Access, Item};

/// What a decision is asked for.
#[derive(Clone, Copy)]
pub enum Way<'a> {
    /// To spend.
    Check,
    /// To know what a check would answer.
    Peek,
    /// To spend or take slots until they are settled, for this long.
    Hold(&'a str),
}

/// The answer to one check.
pub struct Decision {
    pub allowed: bool,
    /// `None` for never.
    pub retry_after_ms: Option<u64>,
    pub reply: Document,
}

impl Decision {
    /// Makes a check, a look or a hold. `limit` is what it brings for a key that no limit is configured for, `patience`
    /// how long it may wait for the data directory.
    ///
    /// # Errors
    /// As [`ask`]; `invalid_argument` for a bad key.
    pub fn ask(
        global: &Global,
        way: Way<'_>,
        key: &str,
        cost: u64,
        limit: Option<&Value>,
        patience: Patience<'_>,
    ) -> Result<Decision> {
        validate_key(key)?;
        let mut body = json!({"key": key, "cost": cost});
        // Without its own limit it can be decided only by what is configured, in a directory that is there.
        let mut access = Access::Write;
        if let Some(limit) = limit {
            body["limit"] = limit.clone();
            access = Access::Create;
        }
        let path = match way {
            Way::Check => "/v1/check",
            Way::Peek => {
                access = Access::Read;
                "/v1/peek"
            }
            Way::Hold(ttl) => {
                body["ttl"] = ttl.into();
                "/v1/hold"
            }
        };
        let reply = ask_within(global, access, patience, &Request::post(path, &body))?;
        Ok(Decision { allowed: reply.bool("allowed")?, retry_after_ms: retry_after_ms(&reply.value)?, reply })
    }
}

/// When a denied check could be allowed; `None` for never.
fn retry_after_ms(decision: &Value) -> Result<Option<u64>> {
    match &decision["retry_after_ms"] {
        Value::Null if decision["key"].is_string() => Ok(None),
        wait => wait.as_u64().map(Some).ok_or_else(not_understood),
    }
}

/// What is to be done about a denial.
pub fn advice(retry_after_ms: Option<u64>) -> String {
    match retry_after_ms {
        Some(wait) => format!("try again in {}", length(wait)),
        None => "and waiting does not help".to_owned(),
    }
}

/// `limit check`
pub fn check(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let limit = values::brought(args)?;
    let way = if args.os_text("--peek").is_some() { Way::Peek } else { Way::Check };
    let decision = Decision::ask(global, way, args.key()?, args.number("--cost")?, limit.as_ref(), PATIENCE)?;
    if args.os_text("--quiet").is_none() {
        output.reply(&decision.reply, |output| output.line(&describe(&decision)?))?;
    }
    Ok(decision.allowed.into())
}

/// The line for people.
pub fn describe(decision: &Decision) -> Result<String> {
    let Decision { allowed, retry_after_ms, reply } = decision;
    // With several windows, the window that binds is named.
    let window = reply.value["window"].as_str().map(printable);
    let mut line = if !allowed {
        let by = window.map_or_else(String::new, |window| format!(" by {window}"));
        format!("denied{by}, {}", advice(*retry_after_ms))
    } else if reply.value["would_deny"] == true {
        "allowed in shadow mode, which would have been denied".to_owned()
    } else if reply.value["remaining"].is_null() {
        "allowed, unlimited".to_owned()
    } else {
        let of = window.map_or_else(String::new, |window| format!(" ({window})"));
        format!("allowed, {} of {} left{of}", reply.number("remaining")?, reply.number("limit")?)
    };
    if reply.value["overflow"] == true {
        line += "; this key shares its limit with others, because max_keys is reached";
    }
    Ok(line)
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
    crate::limiter::validate_items(&items.iter().map(|item| Item::from(*item)).collect::<Vec<_>>())?;
    let items: Vec<Value> = items.iter().map(|(key, cost)| json!([key, cost])).collect();
    let reply = ask(global, Access::Write, &Request::post("/v1/check-all", &json!({"items": items})))?;
    let allowed = reply.bool("allowed")?;
    output.reply(&reply, |output| {
        if allowed {
            return output.line("allowed");
        }
        // The results run up to the first that was denied.
        let denied = reply.value["results"].as_array().and_then(|results| results.last());
        let wait = retry_after_ms(denied.ok_or_else(not_understood)?)?;
        let key = reply.value["denied_key"].as_str().ok_or_else(not_understood)?;
        output.line(&format!("denied by {}, {}; nothing was spent", printable(key), advice(wait)))
    })?;
    Ok(allowed.into())
}
