//! The command line: from arguments to a command, from a command to output and an exit status.
//!
//! Owns: options, help texts and tables. Exit statuses: 0 done, allowed, healthy; 1 the answer is no; 2 wrong usage;
//! 3 it could not be done.

mod commands;
mod options;
mod output;
mod remote;
mod serve;

use std::ffi::OsString;

use self::commands::{limits, run, storage};
use self::options::args::Args;
use self::options::global::Global;
use self::options::{completions, help};
use self::output::Output;
use self::remote::session::{Document, not_understood};
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

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
        Ok(Answer::Status(status)) => status,
        Err(error) if output.reader_gone() => error.kind().exit_status(),
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
    /// A status of its own, of `run` alone.
    Status(u8),
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
        // `doctor`, `run` and `help` are whole by themselves; what follows are their operands.
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
        "limit add" => limits::add(args, &global, output),
        "limit check" => limits::check(args, &global, output),
        "limit check-all" => limits::check_all(args, &global, output),
        "limit status" => limits::status(args, &global, output),
        "limit list" => limits::list(args, &global, output),
        "limit reset" => limits::reset(args, &global, output),
        "limit remove" => limits::remove(args, &global, output),
        "limit top" => limits::top(args, &global, output),
        "limit history" => storage::show_history(args, &global, output),
        "log flush" => storage::flush(args, &global, output),
        "log compact" => storage::compact(args, &global, output),
        "log dump" => storage::print_log(args, &global, output),
        "log verify" => storage::check_log(args, &global, output),
        "log repair" => storage::repair_log(args, &global, output),
        "run" => run::run(args, &global, output),
        "completions" => {
            let [shell] = args.exactly(["SHELL"])?;
            output.text(&completions::script(&shell)?)?;
            Ok(Answer::Yes)
        }
        "doctor" => storage::doctor(args, &global, output),
        _ => Err(unknown(&name)),
    }
}

fn unknown(name: &str) -> Error {
    let (group, rest) = name.split_once(' ').unwrap_or((name, ""));
    let members = help::members(group).join(", ");
    Error::new(
        Kind::Usage,
        match (members.is_empty(), rest.is_empty()) {
            (true, _) => format!("there is no command `{}`; `flint help` lists them", excerpt(name)),
            (false, true) => format!("`{group}` needs a further word: {members}"),
            (false, false) => format!("there is no command `{}`; `{group}` has {members}", excerpt(name)),
        },
    )
}

/// Prints the answer of a command that has nothing to tell but that it is done.
fn done(document: &Document, global: &Global, output: &mut Output) -> Result<Answer> {
    if document.value["ok"] != true {
        return Err(not_understood());
    }
    if global.json {
        output.bytes(&document.bytes)?;
    } else {
        output.line("ok")?;
    }
    Ok(Answer::Yes)
}

fn missing(what: &str) -> Error {
    Error::new(Kind::Usage, format!("{what} is missing"))
}

/// Puts dashes before the message of an error about a value that was given by an option of the same name.
fn option_error<T>(dashes: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::new(Kind::Usage, format!("{dashes}{error}")))
}
