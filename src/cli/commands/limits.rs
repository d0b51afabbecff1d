//! `flint limit add`, `status`, `reset` and `remove`: one limit by its key, or all below a prefix; `apply`: all limits
//! of a file.

use serde_json::{Value, json};

use super::values;
use crate::cli::answer::Answer;
use crate::cli::limits_file::LimitsFile;
use crate::cli::options::{Args, Global, Target};
use crate::cli::output::{Output, counted};
use crate::cli::remote::{Request, ask, encode};
use crate::cli::status::describe;
use crate::error::Result;
use crate::limiter::Access;

/// `limit add`
pub fn add(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let mut fields = values::configured(args, global)?;
    fields.insert("key".to_owned(), args.key()?.into());
    let reply = ask(global, Access::Create, &Request::post("/v1/limits", &Value::from(fields)))?;
    let created = reply.bool("created")?;
    output.reply(&reply, |output| output.line(if created { "created" } else { "configured" }))
}

/// `limit status`
pub fn status(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let reply = ask(global, Access::Read, &by_key("GET", args.key()?))?;
    output.reply(&reply, |output| output.text(&describe(&reply.value)?))
}

/// `limit reset`
pub fn reset(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let body = match args.target()? {
        Target::Key(key) => json!({"key": key}),
        Target::Prefix(prefix) => json!({"prefix": prefix}),
    };
    output.done(&ask(global, Access::Write, &Request::post("/v1/reset", &body))?)
}

/// `limit remove`
pub fn remove(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let prefix = match args.target()? {
        Target::Key(key) => return output.done(&ask(global, Access::Write, &by_key("DELETE", key))?),
        Target::Prefix(prefix) => prefix,
    };
    let request = Request::new("DELETE", format!("/v1/limits?prefix={}", encode(prefix)));
    let reply = ask(global, Access::Write, &request)?;
    let removed = reply.number("removed")?;
    output.reply(&reply, |output| output.line(&format!("{} removed", counted(removed, "limit"))))
}

/// `limit apply`
pub fn apply(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let file = LimitsFile::read(&args.operands[0])?;
    let given = |name| args.os_text(name).is_some();
    let (prune, dry_run) = (given("--prune"), given("--dry-run"));
    let url = format!("/v1/limits?prune={prune}&dry_run={dry_run}");
    let request = Request { body: file.text.clone(), ..Request::new("PUT", url) };
    let access = if dry_run { Access::Write } else { Access::Create };
    let reply = ask(global, access, &request).map_err(|error| file.named(error))?;
    let (added, changed, removed) = (reply.number("added")?, reply.number("changed")?, reply.number("removed")?);
    output.reply(&reply, |output| {
        let would = if dry_run { "nothing is changed; the result would be: " } else { "" };
        output.line(&format!("{would}{} added, {changed} changed, {removed} removed", counted(added, "limit")))
    })
}

fn by_key(method: &'static str, key: &str) -> Request {
    Request::new(method, format!("/v1/limits/{}", encode(key)))
}
