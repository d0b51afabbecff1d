//! The command line: from arguments to a command, from a command to output and an exit status.
//!
//! Owns: options, help texts and tables. Exit statuses: 0 done, allowed, healthy; 1 the answer is no; 2 wrong usage;
//! 3 it could not be done.
//!
//! Its rooms, from the top: `serve` is `flint server start`, `top` is `flint top`; `commands` has all others; `remote`
//! finds what answers their requests; `options` reads arguments by one table, which also gives the help and the
//! completions; `status` is the text of a limit, `columns` that of a table; `limits_file` reads files of limits;
//! `output` prints; `answer` is the result of a command.

mod answer;
mod columns;
mod commands;
mod limits_file;
mod options;
mod output;
mod remote;
mod serve;
mod status;
mod top;

use std::ffi::OsString;

use self::answer::Answer;
use self::commands::{backup, checks, holds, limits, listing, run as program, storage};
use self::options::{Args, Global, Line};
use self::output::Output;
use crate::error::Result;

/// Runs a command. Returns the exit status.
pub fn run(argv: Vec<OsString>) -> u8 {
    // At the file-size limit a write must fail, as on a full disk, and not kill the process. The program works also
    // where the handler can't be set.
    let reached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, reached);
    let mut output = Output::new();
    let answer = dispatch(argv, &mut output);
    // An answer that could not be written was not given.
    match output.flush().and(answer) {
        Ok(Answer::Yes) => 0,
        Ok(Answer::No) => 1,
        Ok(Answer::Status(status)) => status,
        Err(error) => {
            if !output.reader_gone() {
                output::print_error(&error);
            }
            error.kind().exit_status()
        }
    }
}

fn dispatch(argv: Vec<OsString>, output: &mut Output) -> Result<Answer> {
    let args = match Line::read(argv)? {
        Line::Version => return output.line(concat!("flint ", env!("CARGO_PKG_VERSION"))).map(|()| Answer::Yes),
        Line::Help(topic) => return output.text(&options::help(&topic)?).map(|()| Answer::Yes),
        Line::Command(args) => args,
    };
    let global = Global::read(&args)?;
    output.json = args.os_text("--json").is_some();
    let action = action(args.command.name).unwrap_or_else(|| panic!("`{}` does nothing", args.command.name));
    action(&args, &global, output)
}

type Action = fn(&Args, &Global, &mut Output) -> Result<Answer>;

/// What does a command of the table; `help` does nothing here.
fn action(command: &str) -> Option<Action> {
    Some(match command {
        "server start" => serve::start,
        "limit add" => limits::add,
        "limit check" => checks::check,
        "limit check-all" => checks::check_all,
        "limit hold" => holds::hold,
        "limit settle" => holds::settle,
        "limit renew" => holds::renew,
        "limit charge" => holds::charge,
        "limit refund" => holds::refund,
        "limit status" => limits::status,
        "limit list" => listing::list,
        "limit reset" => limits::reset,
        "limit remove" => limits::remove,
        "limit apply" => limits::apply,
        "limit top" => listing::top,
        "limit history" => storage::show_history,
        "run" => program::run,
        "top" => top::top,
        "log flush" => storage::flush,
        "log compact" => storage::compact,
        "log dump" => storage::print_log,
        "log verify" => storage::check_log,
        "log repair" => storage::repair_log,
        "store import" => storage::import,
        "store export" => storage::export,
        "log backup" => backup::take,
        "log restore" => backup::restore,
        "doctor" => storage::doctor,
        "completions" => |args, _, output| output.text(&options::script(args.operand()?)?).map(|()| Answer::Yes),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_table_does_something() {
        for command in options::COMMANDS.iter().filter(|command| command.name != "help") {
            assert!(action(command.name).is_some(), "{}", command.name);
        }
    }
}
