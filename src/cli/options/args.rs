//! Reads a command line by the table of options. pico-args finds options and their values; what it leaves to its
//! callers is done here:
//! - `--name=value` is taken out first: pico-args refuses an empty value and takes quotes off others;
//! - a value that begins with `--` is refused unless it follows a `=`: `--bind --sync x` lacks an address;
//! - an option that is given twice, and whatever is left over, is an error.

use std::ffi::{OsStr, OsString};
use std::num::IntErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pico_args::Arguments;

use super::table::{
    COMMANDS, Command, CommandOption, DefaultValue, Value, distinct_options, global_options, members, or,
};
use crate::cli::answer::usage;
use crate::error::{Error, Result};
use crate::limit::{excerpt, validate_key};

/// What a command line asks for.
pub enum Line {
    Version,
    /// Help on the command or group of this name; on all of them for none.
    Help(String),
    Command(Args),
}

/// The arguments of a command.
pub struct Args {
    pub command: &'static Command,
    given: Given,
    /// What is left. For `run`, only what comes before the `--`.
    pub operands: Vec<OsString>,
    /// What comes after the `--` of `run`.
    pub program: Vec<OsString>,
}

impl Line {
    /// Reads arguments without the program's name.
    ///
    /// # Errors
    /// `usage`.
    pub fn read(mut argv: Vec<OsString>) -> Result<Line> {
        // Everything after `--` is an operand, also if it begins with a dash.
        let dashes = argv.iter().position(|argument| argument == "--");
        let after_dashes = dashes.map_or_else(Vec::new, |at| argv.split_off(at).split_off(1));
        let (given, mut operands) = take_options(argv)?;
        let is_given = |name: &str| given.iter().any(|(other, _)| *other == name);
        if is_given("--version") {
            return Ok(Line::Version);
        }
        let words: Vec<_> = operands.iter().take(2).map(|word| word.to_string_lossy()).collect();
        let name = words.join(" ");
        let command = Command::find(&name).or_else(|| Command::find(words.first()?));
        if let Some(option) = operands.iter().find(|operand| is_dashed(operand, command)) {
            return Err(unknown_option(&option.to_string_lossy(), command));
        }
        if is_given("--help") && command.is_none_or(|command| command.name != "help") {
            return Ok(Line::Help(command.map_or(name, |command| command.name.to_owned())));
        }
        let Some(command) = command else { return Err(unknown_command(&name)) };
        operands.drain(..command.name.split(' ').count());
        let mut program = Vec::new();
        if command.operands.contains(" -- ") {
            program = after_dashes;
        } else {
            operands.extend(after_dashes);
        }
        if command.name == "help" {
            return Ok(Line::Help(operands.iter().map(text).collect::<Result<Vec<_>>>()?.join(" ")));
        }
        let args = Args { command, given, operands, program };
        args.check().map(|()| Line::Command(args))
    }
}

/// Whether it would be an option: begins with a dash, and is not the `-` of a command that takes a file.
fn is_dashed(operand: &OsStr, command: Option<&Command>) -> bool {
    let takes_file = command.is_none_or(|command| command.operands.contains("|-") || command.name == "limit apply");
    operand.as_bytes().starts_with(b"-") && !(takes_file && operand == "-")
}

/// Options with their values, in no order. A flag's is empty.
type Given = Vec<(&'static str, OsString)>;

/// Takes every option of the table out of the arguments. Also returns what is left.
fn take_options(argv: Vec<OsString>) -> Result<(Given, Vec<OsString>)> {
    let (with_value, flags): (Vec<&CommandOption>, Vec<_>) =
        distinct_options().into_iter().partition(|option| option.takes_value());
    let find = |name: &OsStr| with_value.iter().map(|option| option.name).find(|option| name == *option);
    let (mut given, mut rest) = (Given::new(), Vec::<OsString>::new());
    for argument in argv {
        let before = rest.last().and_then(|last| find(last));
        if let Some(option) = before.filter(|_| argument.as_bytes().starts_with(b"--")) {
            return Err(usage(format!("{option} needs a value, not `{}`", shown(&argument))));
        }
        let mut parts = argument.as_bytes().splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
        match (parts.next().and_then(find), parts.next()) {
            (Some(option), Some(value)) => given.push((option, value.to_owned())),
            _ => rest.push(argument),
        }
    }
    let mut rest = Arguments::from_vec(rest);
    for CommandOption { name, .. } in with_value {
        let values = rest.values_from_os_str(*name, |value| Ok::<_, std::convert::Infallible>(value.to_owned()));
        let values = values.map_err(|_| usage(format!("{name} needs a value")))?;
        given.extend(values.into_iter().map(|value| (*name, value)));
    }
    // `-h` and `-V` are not in the help; people try them.
    for (key, name) in
        flags.iter().map(|option| (option.name, option.name)).chain([("-h", "--help"), ("-V", "--version")])
    {
        while rest.contains(key) {
            given.push((name, OsString::new()));
        }
    }
    Ok((given, rest.finish()))
}

impl Args {
    /// Holds what is given to the rows of the command and its options.
    fn check(&self) -> Result<()> {
        for (at, (name, _)) in self.given.iter().enumerate() {
            let option = self.command.option(name).ok_or_else(|| unknown_option(name, Some(self.command)))?;
            if !option.repeatable && self.given[..at].iter().any(|(other, _)| other == name) {
                return Err(usage(format!("{name} is given twice")));
            }
        }
        let names: Vec<&str> = self.command.operands.split_whitespace().collect();
        let help = self.command.name;
        match (names.get(self.operands.len()), self.operands.get(names.len())) {
            _ if self.command.operands.contains(" -- ") => Ok(()),
            (Some(name), _) if !name.starts_with('[') => {
                let name = name.trim_end_matches('.');
                Err(usage(format!("{name} is missing; `flint help {help}` shows what it is")))
            }
            (_, Some(more)) if !self.command.operands.ends_with("...") => {
                let more = shown(more);
                Err(usage(format!("`{more}` is not expected here; `flint help {help}` shows what is")))
            }
            _ => Ok(()),
        }
    }

    fn row(&self, name: &str) -> &'static CommandOption {
        self.command.option(name).unwrap_or_else(|| panic!("the table has no {name} for {}", self.command.name))
    }

    /// The value of an option that is given, as it is: a file's name, or nothing for a flag.
    pub fn os_text(&self, name: &str) -> Option<&OsStr> {
        debug_assert_eq!(self.row(name).name, name);
        self.given.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_os_str())
    }

    /// The name of a file, the value of an option that must be given.
    ///
    /// # Errors
    /// `usage`, when it is missing or empty.
    pub fn path(&self, name: &str) -> Result<&Path> {
        let path = self.os_text(name).filter(|path| !path.is_empty());
        path.map(Path::new).ok_or_else(|| missing(&self.row(name).usage()))
    }

    /// The values of an option that may be repeated.
    ///
    /// # Errors
    /// `usage`, as for the next four, when one is not UTF-8, or not what the table says.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>> {
        let option = self.row(name);
        let values = self.given.iter().filter(|(other, _)| *other == name);
        values.map(|(_, value)| value_of(option, value)).collect()
    }

    /// The value of an option that need not be given.
    pub fn given_text(&self, name: &str) -> Result<Option<&str>> {
        self.os_text(name).map(|value| value_of(self.row(name), value)).transpose()
    }

    /// The value of an option that must be given, or has a default.
    pub fn text(&self, name: &str) -> Result<&str> {
        match (self.given_text(name)?, self.row(name).default) {
            (Some(value), _) | (None, DefaultValue::Text(value)) => Ok(value),
            _ => Err(missing(&self.row(name).usage())),
        }
    }

    /// The number that is the value of an option that need not be given.
    pub fn given_number(&self, name: &str) -> Result<Option<u64>> {
        self.given_text(name)?.map(|value| number(self.row(name), value)).transpose()
    }

    /// The number that is the value of an option that must be given, or has a default.
    pub fn number(&self, name: &str) -> Result<u64> {
        match (self.given_number(name)?, self.row(name).default) {
            (Some(value), _) | (None, DefaultValue::Number(value)) => Ok(value),
            _ => Err(missing(&self.row(name).usage())),
        }
    }

    /// The first operand of a command that must have one.
    ///
    /// # Errors
    /// `usage`, when it is not UTF-8.
    pub fn operand(&self) -> Result<&str> {
        text(&self.operands[0])
    }

    /// The first operand of a command that must have one, which is a key.
    ///
    /// # Errors
    /// `usage`; `invalid_argument` for a bad key.
    pub fn key(&self) -> Result<&str> {
        let key = self.operand()?;
        validate_key(key).map(|()| key)
    }

    /// What a command works on that takes a prefix in place of its key.
    ///
    /// # Errors
    /// `usage` for neither, both, and an empty prefix, which an unset variable of a shell gives; `invalid_argument` for
    /// a bad key.
    pub fn target(&self) -> Result<Target<'_>> {
        match (self.operands.first(), self.given_text("--prefix")?) {
            (Some(_), None) => self.key().map(Target::Key),
            (None, Some("")) => Err(usage("--prefix must not be empty: it would match every key")),
            (None, Some(prefix)) => Ok(Target::Prefix(prefix)),
            (None, None) => Err(missing("KEY or --prefix TEXT")),
            (Some(_), Some(_)) => Err(usage("KEY and --prefix can't be used together")),
        }
    }
}

/// One limit, or all whose keys begin with a text.
pub enum Target<'a> {
    Key(&'a str),
    Prefix(&'a str),
}

fn value_of<'a>(option: &CommandOption, value: &'a OsStr) -> Result<&'a str> {
    let value = value.to_str().ok_or_else(|| usage(format!("the value of {} is not UTF-8", option.name)))?;
    match option.value {
        Value::Word(words) if !words.contains(&value) => {
            Err(usage(format!("{} must be {}, not `{}`", option.name, or(words), excerpt(value))))
        }
        _ => Ok(value),
    }
}

fn number(option: &CommandOption, value: &str) -> Result<u64> {
    let Value::Number(_, least, most) = option.value else { panic!("{} has no number in the table", option.name) };
    let what = match value.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => return Ok(number),
        Ok(number) if most < u64::MAX => format!("must be from {least} to {most}, not {number}"),
        Ok(number) => format!("must be {least} or more, not {number}"),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => format!("is too large: `{}`", excerpt(value)),
        Err(_) if most < u64::MAX => format!("must be an integer from {least} to {most}, not `{}`", excerpt(value)),
        Err(_) => format!("must be an integer of {least} or more, not `{}`", excerpt(value)),
    };
    Err(usage(format!("{} {what}", option.name)))
}

/// An argument that must be text.
///
/// # Errors
/// `usage`.
pub fn text(argument: &OsString) -> Result<&str> {
    argument.to_str().ok_or_else(|| usage(format!("`{}` is not UTF-8", shown(argument))))
}

/// Puts dashes before the message of an error about a value that an option of the same name gave.
///
/// # Errors
/// `usage`.
pub fn as_option<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| usage(format!("--{error}")))
}

fn shown(argument: &OsStr) -> String {
    excerpt(&argument.to_string_lossy())
}

fn missing(what: &str) -> Error {
    usage(format!("{what} is missing"))
}

fn unknown_option(given: &str, command: Option<&Command>) -> Error {
    let options = command.into_iter().flat_map(Command::own_options).chain(global_options());
    let help = format!("flint help {}", command.map_or("", |command| command.name));
    let name = given.split('=').next().unwrap_or(given);
    let hint = hint(name, options.map(|option| option.name), help.trim_end());
    usage(format!("unknown option `{}`; {hint}", excerpt(given)))
}

/// The error for words that are not a command.
pub fn unknown_command(name: &str) -> Error {
    let (group, rest) = name.split_once(' ').unwrap_or((name, ""));
    let listed = members(group);
    if name.is_empty() {
        return usage("a command is missing; `flint help` lists them");
    }
    if !listed.is_empty() && rest.is_empty() {
        return usage(format!("`{group}` needs another word: {}", listed.join(", ")));
    }
    // Both words may be meant, the first one, or the second one of a command whose first word was left out.
    let mut near = Vec::new();
    for command in &COMMANDS {
        near.push((distance(name, command.name), command.name, name, command.name));
        if let (true, Some((first, second))) = (listed.is_empty(), command.name.split_once(' ')) {
            near.push((distance(group, first), first, group, first));
            near.push((distance(group, second), second, group, command.name));
        } else if listed.is_empty() {
            near.push((distance(group, command.name), command.name, group, command.name));
        }
    }
    near.retain(|(distance, word, given, _)| {
        // The second words of one group are compared by themselves.
        let (word, given) = match (listed.is_empty(), word.split_once(' '), given.split_once(' ')) {
            (false, Some((first, word)), Some((_, given))) if first == group => (word, given),
            (false, ..) => return false,
            _ => (*word, *given),
        };
        is_near(*distance, word) && !given.is_empty()
    });
    // Of those that are as near, the first of the table.
    let nearest = near.iter().min_by_key(|(distance, ..)| *distance);
    usage(match (nearest, listed.is_empty()) {
        (Some((_, _, given, meant)), _) => {
            format!("there is no command `{}`; did you mean `{meant}`?", excerpt(given))
        }
        (None, true) => format!("there is no command `{}`; `flint help` lists them", excerpt(group)),
        (None, false) => {
            format!("there is no command `{}`; `{group}` has {}", excerpt(name), listed.join(", "))
        }
    })
}

/// Whether a word that is so far from this one may be a slip of it: two letters at most, and half of its own.
fn is_near(distance: usize, word: &str) -> bool {
    distance <= 2 && distance * 2 <= word.len()
}

/// Names the nearest of these names, or else the help that lists all.
fn hint(given: &str, names: impl Iterator<Item = &'static str>, help: &str) -> String {
    match names.map(|name| (distance(given, name), name)).min() {
        Some((distance, name)) if is_near(distance, name.trim_start_matches('-')) => {
            format!("did you mean `{name}`?")
        }
        _ => format!("`{help}` lists them"),
    }
}

/// How many letters must be changed, added or removed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, same) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(letter != same);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Args> {
        match Line::read(words.iter().map(OsString::from).collect())? {
            Line::Command(args) => Ok(args),
            Line::Version => panic!("{words:?} asks for the version"),
            Line::Help(topic) => panic!("{words:?} asks for help on {topic}"),
        }
    }

    fn error(line: &str) -> String {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        read(&words).err().map_or_else(|| panic!("{line} is read"), |error| error.message().to_owned())
    }

    #[test]
    fn options_and_operands_stand_anywhere() {
        for line in
            ["limit add key --rate 5 --per=10s", "--per 10s limit --rate=5 add key", "limit add --rate 5 key --per 10s"]
        {
            let args = read(&line.split(' ').collect::<Vec<_>>()).unwrap();
            assert_eq!((args.number("--rate").unwrap(), args.text("--per").unwrap()), (5, "10s"), "{line}");
            assert_eq!((args.key().unwrap(), args.given_number("--burst").unwrap()), ("key", None), "{line}");
            assert_eq!(args.text("--mode").unwrap(), "enforce", "{line}");
        }
        let dashes = read(&["limit", "check", "--", "--odd"]).unwrap();
        assert_eq!((dashes.key().unwrap(), dashes.number("--cost").unwrap()), ("--odd", 1));
        let several = read(&["limit", "check-all", "a", "--cost", "a=1", "b", "--cost=b=2", "--", "--c"]).unwrap();
        assert_eq!(several.operands, ["a", "b", "--c"]);
        let mut costs = several.texts("--cost").unwrap();
        costs.sort_unstable();
        assert_eq!(costs, ["a=1", "b=2"]);
        let limits = read(&["limit", "check", "key", "--limit", "10/1s", "--limit=5000/day"]).unwrap();
        assert_eq!(limits.texts("--limit").unwrap().len(), 2);
        assert_eq!(read(&["limit", "add", "user:*", "10/1s", "5000/day"]).unwrap().operands.len(), 3);
        for (words, key, prefix) in [
            (&["limit", "reset", "k"][..], Some("k"), None),
            (&["limit", "remove", "--prefix", "u:"], None, Some("u:")),
        ] {
            match read(words).unwrap().target().unwrap() {
                Target::Key(found) => assert_eq!((Some(found), None), (key, prefix)),
                Target::Prefix(found) => assert_eq!((None, Some(found)), (key, prefix)),
            }
        }
        let run = read(&["run", "key", "--wait", "1s", "--", "make", "--", "--cost"]).unwrap();
        assert_eq!((run.operands[0].to_str(), run.program.len()), (Some("key"), 3));
    }

    /// What pico-args would read otherwise.
    #[test]
    fn values_are_taken_as_they_are() {
        let args = read(&["limit", "list", "--token=", "--prefix=\"a\"", "--after=--json", "--limit=7"]).unwrap();
        assert_eq!((args.given_text("--token").unwrap(), args.text("--prefix").unwrap()), (Some(""), "\"a\""));
        assert_eq!((args.text("--after").unwrap(), args.os_text("--json").is_some()), ("--json", false));
        assert_eq!(read(&["limit", "list", "--prefix", "-h"]).unwrap().text("--prefix").unwrap(), "-h");
        assert_eq!(read(&["limit", "list", "--prefix=a=b"]).unwrap().text("--prefix").unwrap(), "a=b");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("", "a command is missing; `flint help` lists them"),
            ("lmit add", "there is no command `lmit add`; did you mean `limit add`?"),
            ("limit ad k", "there is no command `limit ad`; did you mean `limit add`?"),
            ("log vrify", "there is no command `log vrify`; did you mean `log verify`?"),
            ("lmit", "there is no command `lmit`; did you mean `limit`?"),
            ("add api", "there is no command `add`; did you mean `limit add`?"),
            ("chekc api", "there is no command `chekc`; did you mean `limit check`?"),
            ("rn api", "there is no command `rn`; did you mean `run`?"),
            ("docter", "there is no command `docter`; did you mean `doctor`?"),
            ("odd api", "there is no command `odd`; did you mean `limit add`?"),
            ("quota api", "there is no command `quota`; `flint help` lists them"),
            ("log", "`log` needs another word: flush, compact, dump, verify, repair, backup, restore"),
            (
                "log odd",
                "there is no command `log odd`; `log` has flush, compact, dump, verify, repair, backup, restore",
            ),
            ("limit check", "KEY is missing; `flint help limit check` shows what it is"),
            ("limit check-all", "KEY is missing; `flint help limit check-all` shows what it is"),
            ("limit check a b", "`b` is not expected here; `flint help limit check` shows what is"),
            ("doctor --jsno", "unknown option `--jsno`; did you mean `--json`?"),
            ("limit add k --busrt=5", "unknown option `--busrt=5`; did you mean `--burst`?"),
            ("limit add k --colour red", "unknown option `--colour`; `flint help limit add` lists them"),
            ("doctor --cost 5", "unknown option `--cost`; `flint help doctor` lists them"),
            ("doctor --json=yes", "unknown option `--json=yes`; did you mean `--json`?"),
            ("--odd", "unknown option `--odd`; `flint help` lists them"),
            ("doctor --json --json", "--json is given twice"),
            ("limit check k --cost 1 --cost=2", "--cost is given twice"),
            ("limit check k --cost", "--cost needs a value"),
            ("limit list --prefix --after=k", "--prefix needs a value, not `--after=k`"),
            ("limit list --prefix --json", "--prefix needs a value, not `--json`"),
        ] {
            assert_eq!(error(line), message, "{line}");
        }
        for (line, name, message) in [
            ("limit check k --cost 0", "--cost", "--cost must be 1 or more, not 0"),
            ("limit check k --cost x", "--cost", "--cost must be an integer of 1 or more, not `x`"),
            ("limit add k --rate -1", "--rate", "--rate must be an integer from 0 to 1000000000000, not `-1`"),
            ("limit add k --burst 0", "--burst", "--burst must be from 1 to 1000000000000, not 0"),
            ("limit check k --cost 99999999999999999999", "--cost", "--cost is too large: `99999999999999999999`"),
            ("limit top --limit 0", "--limit", "--limit must be from 1 to 100000, not 0"),
            ("limit add k --per 1s", "--rate", "--rate N is missing"),
        ] {
            let args = read(&line.split(' ').collect::<Vec<_>>()).unwrap();
            assert_eq!(args.number(name).unwrap_err().message(), message, "{line}");
        }
        for (words, message) in [
            (&["limit", "reset"][..], "KEY or --prefix TEXT is missing"),
            (&["limit", "remove", "--prefix="], "--prefix must not be empty: it would match every key"),
            (&["limit", "remove", "k", "--prefix=u"], "KEY and --prefix can't be used together"),
        ] {
            let target = read(words).unwrap();
            assert_eq!(target.target().err().map(|error| error.message().to_owned()), Some(message.to_owned()));
        }
        let by = read(&["limit", "top", "--by", "size"]).unwrap();
        assert_eq!(by.text("--by").unwrap_err().message(), "--by must be allowed or denied, not `size`");
    }

    #[test]
    fn help_and_version_come_before_what_is_wrong() {
        for (line, topic) in [
            ("--help", ""),
            ("help limit add", "limit add"),
            ("limit -h", "limit"),
            ("limit add --help", "limit add"),
            ("limit add key --rate 5 --help", "limit add"),
            ("help --help", ""),
        ] {
            match Line::read(line.split(' ').map(OsString::from).collect()).unwrap() {
                Line::Help(found) => assert_eq!(found, topic, "{line}"),
                _ => panic!("{line} asks for no help"),
            }
        }
        let line = ["--version", "--odd"].map(OsString::from).to_vec();
        assert!(matches!(Line::read(line), Ok(Line::Version)));
        assert!(matches!(Line::read(vec!["-V".into()]), Ok(Line::Version)));
    }
}
