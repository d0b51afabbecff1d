//! `flint limit hold`, `settle`, `renew`, `charge` and `refund`.

use std::time::Duration;

use serde_json::{Value, json};

use super::checks::{Decision, Way, describe};
use super::values;
use crate::bounds::{HOLD_MS, SETTLE_WAIT_MS};
use crate::cli::answer::{Answer, Document, not_understood, usage};
use crate::cli::options::{Args, Global, text};
use crate::cli::output::{Output, length, printable};
use crate::cli::remote::{PATIENCE, Patience, Request, ask, ask_within};
use crate::error::Result;
use crate::limit::{excerpt, parse_length};
use crate::limiter::Access;

/// A hold that was made.
pub struct Held {
    pub id: String,
    /// It is of slots, not of units.
    pub slots: bool,
    /// How long it lasts, in milliseconds.
    pub ttl_ms: u64,
}

impl Held {
    /// The hold in a good answer.
    ///
    /// # Errors
    /// `unreachable`, when there is none.
    pub fn of(decision: &Decision) -> Result<Held> {
        let id = decision.reply.value["hold"].as_str().ok_or_else(not_understood)?;
        let told = &decision.reply.value;
        let slots = told["algorithm"].is_null() && told["limit"].is_u64();
        Ok(Held { id: printable(id), slots, ttl_ms: decision.reply.number("ttl_ms")? })
    }

    /// Settles it: as it was held, or to this cost. Many commands may end at once, so it waits long for its turn.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn settle(&self, global: &Global, cost: Option<u64>) -> Result<Document> {
        let request = Request::post("/v1/settle", &json!({"hold": self.id, "cost": cost}));
        ask_within(global, Access::Write, Patience::of(Duration::from_millis(SETTLE_WAIT_MS)), &request)
    }

    /// Lets it last for its time from now.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn renew(&self, global: &Global) -> Result<Document> {
        ask(global, Access::Write, &Request::post("/v1/renew", &json!({"hold": self.id})))
    }
}

/// A length of time that a hold may last.
///
/// # Errors
/// `usage`.
pub fn ttl(text: &str) -> Result<&str> {
    let length = parse_length("--ttl", text, *HOLD_MS.start(), *HOLD_MS.end());
    length.map(|_| text).map_err(|error| usage(error.message()))
}

/// `limit hold`. Prints the id by itself, for the shell.
pub fn hold(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let limit = values::brought(args)?;
    let way = Way::Hold(ttl(args.text("--ttl")?)?);
    let decision = Decision::ask(global, way, args.key()?, args.number("--cost")?, limit.as_ref(), PATIENCE)?;
    output.reply(&decision.reply, |output| match decision.allowed {
        true => output.line(&Held::of(&decision)?.id),
        false => output.line(&describe(&decision)?),
    })?;
    Ok(decision.allowed.into())
}

/// `limit settle`
pub fn settle(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let body = json!({"hold": args.operand()?, "cost": args.given_number("--cost")?});
    let reply = ask(global, Access::Write, &Request::post("/v1/settle", &body))?;
    let late = reply.bool("late")?;
    output.reply(&reply, |output| {
        for item in reply.value["results"].as_array().ok_or_else(not_understood)? {
            output.line(&settled(item, late)?)?;
        }
        Ok(())
    })
}

/// What became of one item of a hold.
fn settled(item: &Value, late: bool) -> Result<String> {
    let number = |name: &str| item[name].as_u64().ok_or_else(not_understood);
    let key = item["key"].as_str().map(printable).ok_or_else(not_understood)?;
    let mut line = format!("{key}: {} of {} held", number("cost")?, number("held")?);
    line += &match item["remaining"].as_u64() {
        Some(left) => format!(", {left} left"),
        None if item["configured"] == false => "; it no longer has a limit".to_owned(),
        None => ", unlimited".to_owned(),
    };
    line += &beyond(number("debt")?);
    if late {
        line += "; the hold had expired";
    }
    Ok(line)
}

fn beyond(debt: u64) -> String {
    if debt > 0 { format!(", {debt} beyond the limit") } else { String::new() }
}

/// `limit renew`
pub fn renew(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let mut body = json!({"hold": args.operand()?});
    if let Some(given) = args.given_text("--ttl")? {
        body["ttl"] = ttl(given)?.into();
    }
    let reply = ask(global, Access::Write, &Request::post("/v1/renew", &body))?;
    let (ttl, until) = (reply.number("ttl_ms")?, reply.value["expires_at"].as_str().ok_or_else(not_understood)?);
    let line = format!("renewed for {}, until {}", length(ttl), printable(until));
    output.reply(&reply, |output| output.line(&line))
}

/// `limit charge`
pub fn charge(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    without_decision("charge", "charged", args, global, output)
}

/// `limit refund`
pub fn refund(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    without_decision("refund", "refunded", args, global, output)
}

fn without_decision(what: &str, done: &str, args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let limit = values::brought(args)?;
    let (key, number) = (args.key()?, text(&args.operands[1])?);
    let Some(cost) = number.parse::<u64>().ok().filter(|cost| *cost > 0) else {
        return Err(usage(format!("N must be an integer of 1 or more, not `{}`", excerpt(number))));
    };
    // Without its own limit it needs a directory that is there.
    let access = if limit.is_some() { Access::Create } else { Access::Write };
    let body = json!({"key": key, "cost": cost, "limit": limit});
    let reply = ask(global, access, &Request::post(&format!("/v1/{what}"), &body))?;
    let left = reply.value["remaining"].as_u64().map_or_else(|| "unlimited".to_owned(), |left| format!("{left} left"));
    let debt = beyond(reply.value["debt"].as_u64().unwrap_or(0));
    output.reply(&reply, |output| output.line(&format!("{done}, {left}{debt}")))
}
