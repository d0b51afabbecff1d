//! `flint limit add`, `status`, `reset` and `remove`: one limit by its key.

use serde_json::json;

use crate::cli::answer::Answer;
use crate::cli::options::{Args, Global, as_option};
use crate::cli::output::Output;
use crate::cli::remote::{Request, ask, encode};
use crate::error::Result;
use crate::limit::{Algorithm, Limit, parse_period};
use crate::limiter::Access;

/// `limit add`
pub fn add(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let (rate, per) = (args.number("--rate")?, args.text("--per")?);
    let (algorithm, burst) = (args.text("--algorithm")?, args.given_number("--burst")?);
    let period = as_option(parse_period(per))?;
    as_option(algorithm.parse::<Algorithm>().and_then(|known| Limit::of_millis(rate, period, known, burst)))?;
    let mut body = json!({"key": args.key()?, "rate": rate, "per": per, "algorithm": algorithm});
    if let Some(burst) = burst {
        body["burst"] = burst.into();
    }
    let reply = ask(global, Access::Create, &Request::post("/v1/limits", &body))?;
    let created = reply.bool("created")?;
    output.reply(&reply, |output| output.line(if created { "created" } else { "configured" }))
}

/// `limit status`
pub fn status(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let reply = ask(global, Access::Read, &by_key("GET", args)?)?;
    output.reply(&reply, |output| output.status(&reply.value))
}

/// `limit reset`
pub fn reset(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    output.done(&ask(global, Access::Write, &Request::post("/v1/reset", &json!({"key": args.key()?})))?)
}

/// `limit remove`
pub fn remove(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    output.done(&ask(global, Access::Write, &by_key("DELETE", args)?)?)
}

fn by_key(method: &'static str, args: &Args) -> Result<Request> {
    Ok(Request::new(method, format!("/v1/limits/{}", encode(args.key()?))))
}
