//! `flint limit history`, `flint log …` and `flint doctor`: the storage.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bounds::COMPACT_REPLY_MS;
use crate::cli::answer::{Answer, usage};
use crate::cli::options::{Args, Global};
use crate::cli::output::{Output, counted};
use crate::cli::remote::{Request, ask};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::limiter::{Access, dump, history, repair, rewind, verify};
use crate::store::{Recovered, ahead_notice};

/// `limit history`
pub fn show_history(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.need_directory(args)?;
    let key = args.key()?;
    let mut shown = 0_u64;
    let mut result = Ok(());
    // One by one: there may be millions.
    history(&global.dir, key, &mut |event| {
        if result.is_ok() {
            result = match (output.json, shown) {
                (true, 0) => output.text(&format!("[{event}")),
                (true, _) => output.text(&format!(",{event}")),
                (false, _) => output.line(&describe(event)),
            };
            shown += 1;
        }
    })?;
    result?;
    if shown == 0 {
        return Err(Error::not_configured(key));
    }
    output.text(if output.json { "]\n" } else { "" }).map(|()| Answer::Yes)
}

/// An event for people: its instant, its name, and what else it holds.
fn describe(event: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let at = event["at"].as_str().unwrap_or("-");
    let mut line = format!("{at:<24}  {:<12}", text(&event["event"]));
    for (name, value) in event.as_object().into_iter().flatten() {
        if !["at", "event", "id", "key"].contains(&name.as_str()) {
            line.push_str(&format!("  {name} {}", text(value)));
        }
    }
    line
}

/// `log flush`
pub fn flush(_: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    output.done(&ask(global, Access::Write, &Request::new("POST", "/v1/log/flush"))?)
}

/// `log compact`
pub fn compact(_: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let patience = Duration::from_millis(COMPACT_REPLY_MS);
    let request = Request { patience, ..Request::new("POST", "/v1/log/compact") };
    let reply = ask(global, Access::Write, &request)?;
    output.reply(&reply, |output| {
        let (before, after) = (reply.number("log_bytes_before")?, reply.number("log_bytes_after")?);
        output.line(&format!("log {before} -> {after} bytes, snapshot {} bytes", reply.number("snapshot_bytes")?))
    })
}

/// `log dump`
pub fn print_log(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.need_directory(args)?;
    let mut result = Ok(());
    dump(&global.dir, &mut |record| {
        if result.is_ok() {
            result = output.json(record);
        }
    })?;
    result.map(|()| Answer::Yes)
}

/// `log verify`
pub fn check_log(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.need_directory(args)?;
    let found = match verify(&global.dir) {
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => return problem(&error, output),
        found => found?,
    };
    let torn = found.torn.as_ref().map(|torn| (torn.file.display().to_string(), torn.bytes, torn.offset));
    let ahead = ahead(&found);
    if output.json {
        let torn = torn.map(|(file, bytes, offset)| json!({"file": file, "offset": offset, "bytes": bytes}));
        let ahead_ms = ahead.map(|ahead| ahead.as_micros().div_ceil(1000) as u64);
        output.json(&json!({"ok": true, "events": found.events, "segments": found.segments.len(),
            "log_bytes": found.log_bytes, "snapshot_bytes": found.snapshot_bytes, "torn": torn, "ahead_ms": ahead_ms}))?;
        return Ok(Answer::Yes);
    }
    let events = counted(found.events, "event");
    output.line(&format!("ok, {events} in {}", counted(found.segments.len() as u64, "segment")))?;
    if let Some((file, bytes, offset)) = torn {
        let what = "were never confirmed; the next start cuts them off";
        output.line(&format!("{file}: {bytes} bytes from offset {offset} {what}"))?;
    }
    if let Some(ahead) = ahead {
        output.line(&ahead_notice(ahead))?;
    }
    Ok(Answer::Yes)
}

/// How far a log that was read is ahead of the system clock, where that is more than a moment.
fn ahead(found: &Recovered) -> Option<Duration> {
    let clock = Clock::system();
    found.resume(&clock);
    clock.ahead()
}

/// `log repair`
pub fn repair_log(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let to = args.path("--to")?;
    global.need_directory(args)?;
    let act = if args.os_text("--rewind-clock").is_some() { rewind } else { repair };
    let done = act(&global.dir, to).map_err(|error| match error.kind() {
        // What is wrong is an option, not a value in a file; one of them is named with its dashes.
        Kind::InvalidArgument if !error.message().starts_with("--") => usage(format!("--{error}")),
        Kind::InvalidArgument => usage(error.message()),
        _ => error,
    })?;
    if output.json {
        output.json(&done.to_json())?;
    } else {
        done.lines().iter().try_for_each(|line| output.line(line))?;
    }
    Ok(Answer::Yes)
}

/// `doctor`
pub fn doctor(_: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let reply = match ask(global, Access::Read, &Request::new("GET", "/v1/doctor")) {
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => return problem(&error, output),
        reply => reply?,
    };
    let ok = reply.bool("ok")?;
    output.reply(&reply, |output| output.report(&reply.value))?;
    Ok(ok.into())
}

/// A directory that can't be opened is an answer too: no.
fn problem(error: &Error, output: &mut Output) -> Result<Answer> {
    if output.json {
        output.json(&json!({"ok": false, "problems": [error.message()]}))?;
    } else {
        output.line(&format!("problem: {error}"))?;
    }
    Ok(Answer::No)
}
