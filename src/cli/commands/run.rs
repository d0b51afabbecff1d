//! `flint run`: a command that starts when its quota allows.
//!
//! The command replaces this process, so that signals and the exit status are its own. Its file is looked up first: a
//! command that can't be started spends nothing. The data directory is closed, and its lock released, before the
//! command starts and while it waits.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::checks::{Decision, advice};
use super::program::{NOT_EXECUTABLE, NOT_FOUND, find};
use super::values;
use crate::bounds::MAX_PERIOD_MS;
use crate::cli::answer::{Answer, usage};
use crate::cli::options::{Args, Global, text};
use crate::cli::output::{Output, print_error};
use crate::error::{Error, Kind, Result};
use crate::limit::parse_length;

/// Exit status when the limit says no: EX_TEMPFAIL of sysexits.h. Many commands end with 1.
const DENIED: u8 = 75;
/// Exit status when the quota can't be had within `--wait`: that of timeout(1).
const TIMED_OUT: u8 = 124;

/// Takes quota, then becomes the command.
pub fn run(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let cost = args.number("--cost")?;
    let wait = args.given_text("--wait")?.map(duration).transpose()?;
    let (limit, quiet) = (values::brought(args)?, args.os_text("--quiet").is_some());
    let (key, words) = operands(args)?;
    let Some((name, arguments)) = words.split_first() else {
        return Err(usage("COMMAND is missing; it comes after --, as in `flint run KEY -- make`"));
    };
    let program = match find(name) {
        Ok(program) => program,
        Err((status, why)) => return fail(status, &format!("{}: {why}", name.to_string_lossy())),
    };
    let started = Instant::now();
    loop {
        let decision = match Decision::ask(global, key, cost, limit.as_ref()) {
            // It can never start, whatever the reason; 2 is kept for the command line.
            Err(error) if error.kind() == Kind::CostExceedsCapacity => return fail(3, error.message()),
            decision => decision?,
        };
        if decision.allowed {
            break;
        }
        let pause = decision.retry_after_ms.map(|ms| Duration::from_millis(ms.max(1)));
        let left = wait.map(|wait| wait.saturating_sub(started.elapsed()));
        match (pause, left) {
            (Some(pause), Some(left)) if pause <= left => std::thread::sleep(pause),
            _ if quiet => return Ok(Answer::Status(if left.is_some() { TIMED_OUT } else { DENIED })),
            _ => return denied(key, &decision, left.is_some(), output),
        }
    }
    output.flush()?;
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    fail(status, &format!("{}: {error}, after the quota was spent", program.display()))
}

fn denied(key: &str, decision: &Decision, waited: bool, output: &mut Output) -> Result<Answer> {
    output.reply(&decision.reply, |_| Ok(()))?;
    let late = if waited && decision.retry_after_ms.is_some() { ", which is later than --wait allows" } else { "" };
    let message = format!("denied by `{key}`, {}{late}", advice(decision.retry_after_ms));
    fail(if waited { TIMED_OUT } else { DENIED }, &message)
}

fn fail(status: u8, message: &str) -> Result<Answer> {
    print_error(&Error::new(Kind::Internal, message));
    Ok(Answer::Status(status))
}

/// The key, and the words of the command. A key that begins with a dash comes after a `--` of its own.
fn operands(args: &Args) -> Result<(&str, &[OsString])> {
    let (mut key, mut words) = (args.operands.as_slice(), args.program.as_slice());
    if key.is_empty() && words.get(1).is_some_and(|word| word == "--") {
        (key, words) = (&words[..1], &words[2..]);
    }
    match key {
        [] => Err(usage("KEY is missing")),
        [key] => Ok((text(key)?, words)),
        [_, more, ..] => {
            let more = more.to_string_lossy();
            Err(usage(format!("`{more}` must come after --, as in `flint run KEY -- make`")))
        }
    }
}

/// The value of `--wait`.
fn duration(text: &str) -> Result<Duration> {
    let length = parse_length("--wait", text, 1, MAX_PERIOD_MS);
    length.map(Duration::from_millis).map_err(|error| usage(error.message()))
}
