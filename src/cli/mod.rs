//! The command line: from arguments to a command, from a command to output and an exit status.
//!
//! Owns: options, help texts and tables. Exit statuses: 0 done, allowed, healthy; 1 the answer is no; 2 wrong usage;
//! 3 it could not be done.

mod args;
mod help;
mod notify;
mod output;
mod serve;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::args::Args;
use self::output::Output;
use crate::bounds::LOCK_WAIT_MS;
use crate::error::{Error, Kind, Result};
use crate::limit::{Algorithm, Limit, excerpt, parse_period};
use crate::limiter::{Access, By, Limiter, Options, Page, Status, dump, history, verify, write_statuses};

/// Runs a command. Returns the exit status.
pub fn run(argv: Vec<OsString>) -> u8 {
    // At the file-size limit a write must fail, as on a full disk, and not kill the process. That the handler can't be
    // set is no reason not to work.
    let reached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, reached);
    let mut output = Output::new();
    let answer = Args::new(argv).and_then(|args| dispatch(args, &mut output));
    // An answer that could not be written was not given.
    match output.flush().and(answer) {
        Ok(Answer::Yes) => 0,
        Ok(Answer::No) => 1,
        Err(error) => {
            output::complain(&error);
            error.kind().exit_status()
        }
    }
}

/// What a command has to say by its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Answer {
        if yes { Answer::Yes } else { Answer::No }
    }
}

fn dispatch(mut args: Args, output: &mut Output) -> Result<Answer> {
    if args.flag("--version")? {
        output.line(&format!("flint {}", env!("CARGO_PKG_VERSION")))?;
        return Ok(Answer::Yes);
    }
    let help = args.flag("--help")? | args.flag("-h")?;
    let global = Global::take(&mut args)?;
    let mut words: Vec<String> = Vec::new();
    while words.len() < 2 {
        let Some(word) = args.word()? else { break };
        words.push(word);
        // `doctor` and `help` are whole by themselves; what follows are their operands.
        if help::is_command(&words) || words[0] == "help" {
            break;
        }
    }
    let name = words.join(" ");
    if words.is_empty() && !help {
        return Err(Error::new(Kind::Usage, "a command is missing; `flint help` lists them"));
    }
    if help || words[0] == "help" {
        let mut topic = if words.first().is_some_and(|word| word == "help") { Vec::new() } else { words };
        topic.extend(args.operands()?);
        let text = help::text(&topic.join(" ")).ok_or_else(|| unknown(&topic.join(" ")))?;
        output.text(&text)?;
        return Ok(Answer::Yes);
    }
    match name.as_str() {
        "server start" => serve::start(args, &global, output),
        "limit add" => limit_add(args, &global, output),
        "limit check" => limit_check(args, &global, output),
        "limit check-all" => limit_check_all(args, &global, output),
        "limit status" => limit_status(args, &global, output),
        "limit list" => limit_list(args, &global, output),
        "limit reset" => limit_change(args, &global, output, Limiter::reset),
        "limit remove" => limit_change(args, &global, output, Limiter::remove),
        "limit top" => limit_top(args, &global, output),
        "limit history" => limit_history(args, &global, output),
        "log flush" => log_flush(args, &global, output),
        "log compact" => log_compact(args, &global, output),
        "log dump" => log_dump(args, &global, output),
        "log verify" => log_verify(args, &global, output),
        "doctor" => doctor(args, &global, output),
        _ => Err(unknown(&name)),
    }
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::Usage, format!("there is no command `{}`; `flint help` lists them", excerpt(name)))
}

/// Options of every command.
struct Global {
    dir: std::path::PathBuf,
    json: bool,
}

impl Global {
    fn take(args: &mut Args) -> Result<Global> {
        let dir = args.os_value("--data-dir")?.unwrap_or_else(|| ".flint".into());
        if dir.is_empty() {
            return Err(Error::new(Kind::Usage, "--data-dir must not be empty"));
        }
        Ok(Global { dir: dir.into(), json: args.flag("--json")? })
    }

    /// Opens the data directory. Another command that holds it for a moment is waited for; a server or an application
    /// that keeps it is told of.
    fn open(&self, access: Access) -> Result<Limiter> {
        let deadline = Instant::now() + Duration::from_millis(LOCK_WAIT_MS);
        loop {
            match Limiter::open(&self.dir, Options { access, ..Options::default() }) {
                Err(error) if error.kind() == Kind::Locked => {
                    let url = crate::store::owner(&self.dir).url;
                    if let Some(url) = url {
                        return Err(Error::new(Kind::Locked, format!("{error}; its server answers at {url}")));
                    }
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }
}

fn limit_add(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let rate = args.number("--rate")?.ok_or_else(|| missing("--rate N"))?;
    let per = args.value("--per")?.ok_or_else(|| missing("--per DURATION"))?;
    let algorithm = args.value("--algorithm")?.unwrap_or_else(|| Algorithm::TokenBucket.name().to_owned());
    let burst = args.number("--burst")?;
    let [key] = args.exactly(["KEY"])?;
    let limit = Limit::new(
        rate,
        option_error("--", parse_period(&per))?,
        option_error("--", Algorithm::from_name(&algorithm))?,
        burst,
    );
    let limit = option_error("--", limit)?;
    crate::limit::validate_key(&key)?;
    let limiter = global.open(Access::Create)?;
    let created = limiter.configure(&key, limit)?;
    limiter.close()?;
    if global.json {
        output.line(&format!("{{\"ok\":true,\"created\":{created}}}"))?;
    } else {
        output.line(if created { "created" } else { "configured" })?;
    }
    Ok(Answer::Yes)
}

fn limit_check(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let cost = args.number("--cost")?.unwrap_or(1);
    let [key] = args.exactly(["KEY"])?;
    crate::limit::validate_key(&key)?;
    refuse_zero(cost)?;
    let limiter = global.open(Access::Write)?;
    let decision = limiter.check(&key, cost)?;
    limiter.close()?;
    if global.json {
        let mut out = Vec::new();
        decision.write_json(&key, &mut out);
        output.bytes(&out)?;
    } else if decision.allowed {
        output.line(&format!("allowed, {} of {} left", decision.remaining, decision.limit.capacity()))?;
    } else {
        output.line(&format!("denied, try again in {} ms", decision.retry_after_ms))?;
    }
    Ok(decision.allowed.into())
}

fn limit_check_all(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let mut costs: Vec<(String, u64)> = Vec::new();
    while let Some(value) = args.value_again("--cost")? {
        let (key, cost) = value
            .rsplit_once('=')
            .and_then(|(key, cost)| Some((key, cost.parse().ok()?)))
            .ok_or_else(|| Error::new(Kind::Usage, format!("--cost must be KEY=N, not `{}`", excerpt(&value))))?;
        if costs.iter().any(|(other, _)| other == key) {
            return Err(Error::new(Kind::Usage, format!("--cost names the key `{}` twice", excerpt(key))));
        }
        costs.push((key.to_owned(), cost));
    }
    let keys = args.operands()?;
    if keys.is_empty() {
        return Err(missing("KEY"));
    }
    if let Some((key, _)) = costs.iter().find(|(key, _)| !keys.contains(key)) {
        return Err(Error::new(Kind::Usage, format!("--cost names `{}`, which is not among the keys", excerpt(key))));
    }
    let cost_of = |key: &str| costs.iter().find(|(other, _)| other == key).map_or(1, |(_, cost)| *cost);
    let items: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), cost_of(key))).collect();
    crate::limiter::validate_items(&items)?;
    items.iter().try_for_each(|(_, cost)| refuse_zero(*cost))?;
    let limiter = global.open(Access::Write)?;
    let answer = limiter.check_all(&items)?;
    limiter.close()?;
    if global.json {
        let mut out = Vec::new();
        answer.write_json(&items, &mut out);
        output.bytes(&out)?;
    } else {
        match answer.denied {
            None => output.line("allowed")?,
            Some(index) => {
                let wait = answer.results.get(index).map_or(0, |result| result.retry_after_ms);
                output.line(&format!("denied by {}, try again in {wait} ms; nothing was spent", items[index].0))?;
            }
        }
    }
    Ok(answer.allowed.into())
}

fn limit_status(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    let limiter = global.open(Access::Read)?;
    let status = limiter.status(&key)?.ok_or_else(|| Error::not_configured(&key))?;
    if global.json {
        let mut out = Vec::new();
        status.write_json(&mut out);
        output.bytes(&out)?;
    } else {
        output.status(&status)?;
    }
    Ok(Answer::Yes)
}

fn limit_list(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let prefix = args.value("--prefix")?.unwrap_or_default();
    let after = args.value("--after")?;
    let limit = args.number("--limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let [] = args.exactly([])?;
    let limiter = global.open(Access::Read)?;
    let page = Page { prefix: &prefix, after: after.as_deref(), limit };
    let statuses = option_error("--", limiter.list(page))?;
    statuses_out(&statuses, global, output)
}

fn limit_top(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let by = match args.value("--by")?.as_deref() {
        None | Some("denied") => By::Denied,
        Some("allowed") => By::Allowed,
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--by must be allowed or denied, not `{}`", excerpt(other))));
        }
    };
    let limit = args.number("--limit")?.unwrap_or(10);
    let [] = args.exactly([])?;
    let limiter = global.open(Access::Read)?;
    let statuses = option_error("--", limiter.top(by, usize::try_from(limit).unwrap_or(usize::MAX)))?;
    statuses_out(&statuses, global, output)
}

fn statuses_out(statuses: &[Status], global: &Global, output: &mut Output) -> Result<Answer> {
    if global.json {
        let mut out = Vec::new();
        write_statuses(statuses, &mut out);
        output.bytes(&out)?;
    } else {
        output.table(statuses)?;
    }
    Ok(Answer::Yes)
}

fn limit_change(
    args: Args,
    global: &Global,
    output: &mut Output,
    change: impl Fn(&Limiter, &str) -> Result<()>,
) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    let limiter = global.open(Access::Write)?;
    change(&limiter, &key)?;
    limiter.close()?;
    done(global, output)
}

fn done(global: &Global, output: &mut Output) -> Result<Answer> {
    if global.json {
        output.json(&json!({"ok": true}))?;
    } else {
        output.line("ok")?;
    }
    Ok(Answer::Yes)
}

fn limit_history(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [key] = args.exactly(["KEY"])?;
    crate::limit::validate_key(&key)?;
    let mut events = Vec::new();
    history(&global.dir, &key, &mut |event| events.push(event.clone()))?;
    if events.is_empty() {
        return Err(Error::not_configured(&key));
    }
    if global.json {
        output.json(&Value::Array(events))?;
    } else {
        for event in &events {
            output.line(&describe(event))?;
        }
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

fn log_flush(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let limiter = global.open(Access::Write)?;
    limiter.flush()?;
    limiter.close()?;
    done(global, output)
}

fn log_compact(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let limiter = global.open(Access::Write)?;
    let compaction = limiter.compact()?;
    limiter.close()?;
    if global.json {
        let mut out = Vec::new();
        compaction.write_json(&mut out);
        output.bytes(&out)?;
    } else {
        output.line(&format!(
            "log {} -> {} bytes, snapshot {} bytes",
            compaction.log_bytes_before, compaction.log_bytes_after, compaction.snapshot_bytes
        ))?;
    }
    Ok(Answer::Yes)
}

fn log_dump(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let mut result = Ok(());
    dump(&global.dir, &mut |record| {
        if result.is_ok() {
            result = output.json(record);
        }
    })?;
    result.map(|()| Answer::Yes)
}

fn log_verify(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    match verify(&global.dir) {
        Ok(found) => {
            let torn = found.torn.as_ref().map(
                |torn| json!({"file": torn.file.display().to_string(), "offset": torn.offset, "bytes": torn.bytes}),
            );
            if global.json {
                output.json(&json!({"ok": true, "events": found.events, "segments": found.segments.len(),
                    "log_bytes": found.log_bytes, "snapshot_bytes": found.snapshot_bytes, "torn": torn}))?;
            } else {
                output.line(&format!("ok, {} events in {} segments", found.events, found.segments.len()))?;
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

fn doctor(args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let [] = args.exactly([])?;
    let report = match global.open(Access::Read) {
        Ok(limiter) => {
            let text = crate::server::doctor(&limiter, None);
            if global.json {
                output.line(&text)?;
            }
            serde_json::from_str(&text).unwrap_or(Value::Null)
        }
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
            return problem(&error, global, output);
        }
        Err(error) => return Err(error),
    };
    if !global.json {
        for (name, value) in report.as_object().into_iter().flatten() {
            match value {
                Value::Array(problems) => {
                    for problem in problems {
                        output.line(&format!("problem: {}", problem.as_str().unwrap_or_default()))?;
                    }
                }
                Value::Null => {}
                value => output.line(&format!("{name:<16} {}", value.to_string().trim_matches('"')))?,
            }
        }
    }
    Ok((report["ok"] == true).into())
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

fn refuse_zero(cost: u64) -> Result<()> {
    if cost == 0 {
        return Err(Error::new(Kind::Usage, "--cost must be 1 or more, not 0"));
    }
    Ok(())
}

fn missing(what: &str) -> Error {
    Error::new(Kind::Usage, format!("{what} is missing"))
}

/// Puts dashes before the message of an error about a value that was given by an option of the same name.
fn option_error<T>(dashes: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::new(Kind::Usage, format!("{dashes}{error}")))
}
