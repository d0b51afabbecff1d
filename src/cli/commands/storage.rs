//! `flint limit history`, `flint log …` and `flint doctor`: the storage.

use serde_json::{Value, json};

use crate::bounds::COMPACT_REPLY_MS;
use crate::cli::options::args::Args;
use crate::cli::options::global::Global;
use crate::cli::output::{Output, counted};
use crate::cli::remote::http::Request;
use crate::cli::remote::session::{ask, not_understood, request};
use crate::cli::{Answer, done, missing};
use crate::error::{Error, Kind, Result};
use crate::limiter::{Access, dump, history, repair, verify};

/// `limit history`
pub fn show_history(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    global.need_directory("limit history")?;
    crate::limit::validate_key(&key)?;
    let mut shown = 0_u64;
    let mut result = Ok(());
    // One by one: there may be millions.
    history(&global.dir, &key, &mut |event| {
        if result.is_ok() {
            result = match (global.json, shown) {
                (true, 0) => output.text(&format!("[{event}")),
                (true, _) => output.text(&format!(",{event}")),
                (false, _) => output.line(&describe(event)),
            };
            shown += 1;
        }
    })?;
    result?;
    match (shown, global.json) {
        (0, _) => return Err(Error::not_configured(&key)),
        (_, true) => output.line("]")?,
        (_, false) => {}
    }
    Ok(Answer::Yes)
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
pub fn flush(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let document = ask(global, Access::Write, &request("POST", "/v1/log/flush"))?;
    done(&document, global, output)
}

/// `log compact`
pub fn compact(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let patience = std::time::Duration::from_millis(COMPACT_REPLY_MS);
    let document = ask(global, Access::Write, &Request { patience, ..request("POST", "/v1/log/compact") })?;
    if global.json {
        output.bytes(&document.bytes)?;
    } else {
        let bytes = |name: &str| document.value[name].as_u64().ok_or_else(not_understood);
        output.line(&format!(
            "log {} -> {} bytes, snapshot {} bytes",
            bytes("log_bytes_before")?,
            bytes("log_bytes_after")?,
            bytes("snapshot_bytes")?
        ))?;
    }
    Ok(Answer::Yes)
}

/// `log dump`
pub fn print_log(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    global.need_directory("log dump")?;
    let mut result = Ok(());
    dump(&global.dir, &mut |record| {
        if result.is_ok() {
            result = output.json(record);
        }
    })?;
    result.map(|()| Answer::Yes)
}

/// `log verify`
pub fn check_log(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    global.need_directory("log verify")?;
    match verify(&global.dir) {
        Ok(found) => {
            let torn = found.torn.as_ref().map(
                |torn| json!({"file": torn.file.display().to_string(), "offset": torn.offset, "bytes": torn.bytes}),
            );
            if global.json {
                output.json(&json!({"ok": true, "events": found.events, "segments": found.segments.len(),
                    "log_bytes": found.log_bytes, "snapshot_bytes": found.snapshot_bytes, "torn": torn}))?;
            } else {
                let events = counted(&found.events.to_string(), "event");
                output.line(&format!("ok, {events} in {}", counted(&found.segments.len().to_string(), "segment")))?;
                if let Some(torn) = found.torn {
                    output.line(&format!(
                        "{}: {} bytes from offset {} were never confirmed; the next start cuts them off",
                        torn.file.display(),
                        torn.bytes,
                        torn.offset
                    ))?;
                }
            }
            Ok(Answer::Yes)
        }
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => problem(&error, global, output),
        Err(error) => Err(error),
    }
}

/// `log repair`
pub fn repair_log(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let to = args.os_value("--to")?.filter(|to| !to.is_empty()).ok_or_else(|| missing("--to NEWDIR"))?;
    let [] = args.exactly([])?;
    global.need_directory("log repair")?;
    let done = repair(&global.dir, to.as_ref())?;
    if global.json {
        output.json(&done.to_json())?;
    } else {
        done.lines().iter().try_for_each(|line| output.line(line))?;
    }
    Ok(Answer::Yes)
}

/// `doctor`
pub fn doctor(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let document = match ask(global, Access::Read, &request("GET", "/v1/doctor")) {
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
            return problem(&error, global, output);
        }
        document => document?,
    };
    let ok = document.value["ok"].as_bool().ok_or_else(not_understood)?;
    if global.json {
        output.bytes(&document.bytes)?;
        return Ok(ok.into());
    }
    output.report(&document.value)?;
    Ok(ok.into())
}

/// A directory that can't be opened is an answer too: no.
fn problem(error: &Error, global: &Global, output: &mut Output) -> Result<Answer> {
    if global.json {
        output.json(&json!({"ok": false, "problems": [error.message()]}))?;
    } else {
        output.line(&format!("problem: {error}"))?;
    }
    Ok(Answer::No)
}
