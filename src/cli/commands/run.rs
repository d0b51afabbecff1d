//! `flint run`: a command that starts when its quota allows.
//!
//! The command replaces this process, so that signals and the exit status are its own. Its file is looked up first: a
//! command that can't be started spends nothing. The data directory is closed, and its lock released, before the
//! command starts and while it waits. With `--hold` and `--refund-on-failure` this process stays, as the command's
//! parent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checks::{Decision, Way, advice};
use super::holds::{Held, ttl};
use super::parent::{self, Signals, status_of};
use super::program::{NOT_EXECUTABLE, NOT_FOUND, find};
use super::values;
use crate::bounds::MAX_PERIOD_MS;
use crate::cli::answer::{Answer, usage};
use crate::cli::options::{Args, Global, text};
use crate::cli::output::{Output, print_error};
use crate::cli::remote::{PATIENCE, Patience};
use crate::error::{Error, Kind, Result};
use crate::limit::parse_length;

/// Exit status when quota or slot was not available in time: EX_TEMPFAIL of sysexits.h. Many commands end with 1.
const DENIED: u8 = 75;

/// How long a hold lasts that is only there to be given back, until it is renewed at a third of this. Longer than a
/// server is away, because an expired hold can be settled for 10 minutes only.
const REFUND_TTL: &str = "1h";

/// Longest pause until a hold is asked for again: slots may be given back before they expire.
const HOLD_PAUSE: Duration = Duration::from_secs(1);

/// What is available before the command may start.
struct Wanted<'a> {
    key: &'a str,
    cost: u64,
    limit: Option<Value>,
    way: Way<'a>,
    wait: Option<Duration>,
    quiet: bool,
}

/// Takes quota, then becomes the command, or its parent.
pub fn run(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let (cost, wait) = (args.number("--cost")?, args.given_text("--wait")?.map(duration).transpose()?);
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
    let [held, refunds] = ["--hold", "--refund-on-failure"].map(|option| args.os_text(option).is_some());
    let way = match (held, refunds) {
        (false, _) if ttl.is_some() => return Err(usage("--ttl belongs to --hold")),
        (true, _) => Way::Hold(ttl.unwrap_or(args.text("--ttl")?)),
        (false, true) => Way::Hold(REFUND_TTL),
        (false, false) => Way::Check,
    };
    // From here on what is held is given back, whatever comes.
    let signals = (held || refunds).then(Signals::catch).transpose()?;
    let wanted = Wanted { key, cost, limit, way, wait, quiet };
    let decision = match take(&wanted, signals.as_ref(), global, output)? {
        Ok(decision) => decision,
        Err(answer) => return Ok(answer),
    };
    output.flush()?;
    let mut command = Command::new(&program);
    command.arg0(name).args(arguments);
    let Some(signals) = signals else {
        let error = command.exec();
        let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
        return fail(status, &format!("{}: {error}, after the quota was spent", program.display()));
    };
    let hold = Held::of(&decision)?;
    if hold.slots && !held {
        give_back(&hold, global, Some(0));
        return fail(3, &format!("`{key}` has slots; add --hold to hold them while the command runs"));
    }
    // A signal that came before the command was there is not for the command.
    if let Some(signal) = signals.end() {
        give_back(&hold, global, Some(0));
        return Ok(killed_by(signal));
    }
    attend(command, &signals, &hold, refunds, global)
}

/// Takes the quota, and waits for it as long as it may. `Err` has the exit status where it was not available.
fn take(
    wanted: &Wanted<'_>,
    signals: Option<&Signals>,
    global: &Global,
    output: &mut Output,
) -> Result<std::result::Result<Decision, Answer>> {
    let Wanted { key, cost, limit, way, wait, .. } = wanted;
    let has_come = || signals.is_some_and(Signals::has_come);
    let started = Instant::now();
    // The wait counts for the queue and for the quota.
    let mut patience = Patience::of(wait.unwrap_or(PATIENCE.most)).unless(signals.map(|_| &has_come as _));
    let mut last = None;
    loop {
        let decision = match Decision::ask(global, *way, key, *cost, limit.as_ref(), patience) {
            // It can never start, whatever the reason; 2 is kept for the command line.
            Err(error) if error.kind() == Kind::CostExceedsCapacity => return fail(3, error.message()).map(Err),
            Err(error) => match (signals.and_then(Signals::end), last) {
                (Some(signal), _) => return Ok(Err(killed_by(signal))),
                // There was no time left to ask once more: the answer is that of the last time.
                (None, Some(denial)) if error.kind() == Kind::Locked => {
                    return denied(wanted, &denial, output).map(Err);
                }
                (None, _) => return Err(error),
            },
            Ok(decision) if decision.allowed => return Ok(Ok(decision)),
            Ok(decision) => decision,
        };
        let pause = decision.retry_after_ms.map(|ms| Duration::from_millis(ms.max(1)));
        let left = wait.map(|wait| wait.saturating_sub(started.elapsed()));
        match (pause, left, signals) {
            (Some(pause), Some(left), None) if pause <= left => std::thread::sleep(pause),
            (Some(pause), Some(left), Some(signals)) if !left.is_zero() => {
                if let Some(signal) = signals.pause(pause.min(left).min(HOLD_PAUSE)) {
                    return Ok(Err(killed_by(signal)));
                }
            }
            _ => return denied(wanted, &decision, output).map(Err),
        }
        last = Some(decision);
        patience.most = wait.map_or(PATIENCE.most, |wait| wait.saturating_sub(started.elapsed()));
    }
}

/// The exit status that a shell has for a command that a signal has ended.
fn killed_by(signal: i32) -> Answer {
    Answer::Status(128 + signal as u8)
}

/// Runs the command as a child, and settles what was held for it when it has ended: to nothing where it was never
/// started, and with `refunds` even if it has failed.
fn attend(command: Command, signals: &Signals, held: &Held, refunds: bool, global: &Global) -> Result<Answer> {
    let ended = parent::run(command, signals, held, global);
    let cost_nothing = ended.as_ref().map_or(true, |status| refunds && !status.success());
    give_back(held, global, cost_nothing.then_some(0));
    match ended {
        Ok(status) => Ok(Answer::Status(status_of(status))),
        Err(error) => {
            let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
            fail(status, &format!("the command could not be started: {error}; what was held for it was given back"))
        }
    }
}

/// Settles a hold: to this cost, or as it was held. Failures are reported.
fn give_back(held: &Held, global: &Global, cost: Option<u64>) {
    if let Err(error) = held.settle(global, cost) {
        print_error(&Error::new(error.kind(), format!("hold {} could not be settled: {error}", held.id)));
    }
}

fn denied(wanted: &Wanted<'_>, decision: &Decision, output: &mut Output) -> Result<Answer> {
    let Wanted { key, wait, quiet, .. } = wanted;
    if *quiet {
        return Ok(Answer::Status(DENIED));
    }
    output.reply(&decision.reply, |_| Ok(()))?;
    let late =
        if wait.is_some() && decision.retry_after_ms.is_some() { ", which is later than --wait allows" } else { "" };
    let message = format!("denied by `{key}`, {}{late}", advice(decision.retry_after_ms));
    fail(DENIED, &message)
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
