//! `flint run`: a command that starts when its quota allows.
//!
//! The command replaces this process, so that signals and the exit status are its own. Its file is looked up first: a
//! command that can't be started spends nothing. The data directory is closed, and its lock released, before the
//! command starts and while it waits. With `--hold` this process stays, as the command's parent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::checks::{Decision, Way, advice};
use super::holds::{Held, ttl};
use super::parent::{self, Signals, status_of};
use super::program::{NOT_EXECUTABLE, NOT_FOUND, find};
use super::values;
use crate::bounds::MAX_PERIOD_MS;
use crate::cli::answer::{Answer, usage};
use crate::cli::options::{Args, Global, text};
use crate::cli::output::{Output, print_error};
use crate::cli::remote::PATIENCE;
use crate::error::{Error, Kind, Result};
use crate::limit::parse_length;

/// Exit status when the limit says no: EX_TEMPFAIL of sysexits.h. Many commands end with 1.
const DENIED: u8 = 75;
/// Exit status when the quota can't be had within `--wait`: that of timeout(1).
const TIMED_OUT: u8 = 124;

/// Longest pause until a hold is asked for again: slots may be given back before they run out.
const HOLD_PAUSE: Duration = Duration::from_secs(1);

/// Takes quota, then becomes the command, or its parent.
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
    let ttl = args.given_text("--ttl")?.map(ttl).transpose()?;
    let held = args.os_text("--hold").is_some();
    if ttl.is_some() && !held {
        return Err(usage("--ttl belongs to --hold"));
    }
    let way = if held { Way::Hold(ttl.unwrap_or(args.text("--ttl")?)) } else { Way::Check };
    // From here on what is held is given back, whatever comes.
    let signals = held.then(Signals::catch).transpose()?;
    let started = Instant::now();
    // The wait counts for the queue and for the quota.
    let mut patience = wait.unwrap_or(PATIENCE);
    let decision = loop {
        let decision = match Decision::ask(global, way, key, cost, limit.as_ref(), patience) {
            // It can never start, whatever the reason; 2 is kept for the command line.
            Err(error) if error.kind() == Kind::CostExceedsCapacity => return fail(3, error.message()),
            decision => decision?,
        };
        if decision.allowed {
            break decision;
        }
        let pause = decision.retry_after_ms.map(|ms| Duration::from_millis(ms.max(1)));
        let left = wait.map(|wait| wait.saturating_sub(started.elapsed()));
        match (pause, left, &signals) {
            (Some(pause), Some(left), None) if pause <= left => std::thread::sleep(pause),
            (Some(pause), Some(left), Some(signals)) if !left.is_zero() => {
                if let Some(signal) = signals.pause(pause.min(left).min(HOLD_PAUSE)) {
                    return Ok(Answer::Status(128 + signal as u8));
                }
            }
            _ if quiet => return Ok(Answer::Status(if left.is_some() { TIMED_OUT } else { DENIED })),
            _ => return denied(key, &decision, left.is_some(), output),
        }
        patience = wait.map_or(PATIENCE, |wait| wait.saturating_sub(started.elapsed()));
    };
    output.flush()?;
    let mut command = Command::new(&program);
    command.arg0(name).args(arguments);
    if let Some(signals) = signals {
        return hold(command, &signals, &Held::of(&decision)?, global);
    }
    let error = command.exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    fail(status, &format!("{}: {error}, after the quota was spent", program.display()))
}

/// Runs the command as a child, and settles what was held for it when it has ended.
fn hold(command: Command, signals: &Signals, held: &Held, global: &Global) -> Result<Answer> {
    let ended = parent::run(command, signals, held, global);
    // What was never started has cost nothing.
    if let Err(error) = held.settle(global, ended.is_err().then_some(0)) {
        print_error(&Error::new(error.kind(), format!("hold {} could not be settled: {error}", held.id)));
    }
    match ended {
        Ok(status) => Ok(Answer::Status(status_of(status))),
        Err(error) => {
            let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            fail(status, &format!("the command could not be started: {error}; what was held for it was given back"))
        }
    }
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
