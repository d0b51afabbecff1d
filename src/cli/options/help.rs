//! Help texts, from the table of commands and options.

use super::args::unknown_command;
use super::table::{COMMANDS, Command, CommandOption, global_options};
use crate::error::Result;

/// Most columns of a line.
const WIDTH: usize = 100;

/// The help on a topic: a command, a group of commands, or everything for no topic.
///
/// # Errors
/// `usage`, for an unknown topic.
pub fn help(topic: &str) -> Result<String> {
    let body = match Command::find(topic) {
        Some(command) => {
            let own = options("Options", command.own_options());
            format!("Usage: {}\n\n{}\n\n{own}", usage(command), wrapped(command.about, 0))
        }
        None => {
            let in_group = |command: &&Command| topic.is_empty() || command.name.split(' ').next() == Some(topic);
            let listed: Vec<&Command> = COMMANDS.iter().filter(in_group).collect();
            if listed.is_empty() {
                return Err(unknown_command(topic));
            }
            let lines: String = listed.iter().map(|command| entry(command.name, 16, command.about)).collect();
            format!(
                "Usage: flint [--data-dir DIR | --server URL] COMMAND\n\n\
                 A durable rate limiter: state on disk, no Redis, no broker.\n\n\
                 Commands:\n{lines}\n"
            )
        }
    };
    let exit = "Exit status: 0 done, allowed, healthy; 1 the answer is no; 2 wrong usage; 3 it could not be done.";
    Ok(format!("{body}{}{}\n", options("Options of every command", global_options()), wrapped(exit, 0)))
}

/// A command with its operands and options. Options come before a `--`; more than five are not named.
fn usage(command: &Command) -> String {
    let (operands, program) = match command.operands.split_once(" -- ") {
        Some((operands, program)) => (operands, format!("-- {program}")),
        None => (command.operands, String::new()),
    };
    let option = |option: &CommandOption| match (option.required, option.repeatable) {
        (true, _) => option.usage(),
        (false, true) => format!("[{}]...", option.usage()),
        (false, false) => format!("[{}]", option.usage()),
    };
    let mut options: Vec<String> = command.own_options().map(option).collect();
    if options.len() > 5 {
        options = vec!["[OPTIONS]".to_owned()];
    }
    let parts = ["flint", command.name, operands, &options.join(" "), &program];
    wrapped(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "), 0)
}

fn options<'a>(title: &str, options: impl Iterator<Item = &'a CommandOption>) -> String {
    let lines: String = options.map(|option| entry(&option.usage(), 24, &option.sentence())).collect();
    if lines.is_empty() { lines } else { format!("{title}:\n{lines}\n") }
}

/// A name and its description, in two columns.
fn entry(name: &str, width: usize, about: &str) -> String {
    format!("  {name:<width$}  {}\n", wrapped(about, width + 4))
}

/// Text in lines that fit the terminal; all but the first are indented.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut lines, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        if column + word.len() > WIDTH {
            lines = format!("{}\n{:indent$}", lines.trim_end(), "");
            column = indent;
        }
        lines += &format!("{word} ");
        column += word.len() + 1;
    }
    lines.trim_end().to_owned()
}
