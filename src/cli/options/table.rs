//! The table of commands and options. Help, completions, the parser and its messages read it: a new option is a row
//! here and its use in the command.

use crate::bounds::{
    COMPACT_AFTER_BYTES, FLUSH_EVERY_EVENTS, FLUSH_EVERY_MS, IPV6_PREFIX, MAX_ANCHOR, MAX_BLOCKING,
    MAX_COMPACT_AFTER_BYTES, MAX_CONNECTIONS, MAX_FLUSH_EVERY_EVENTS, MAX_FLUSH_EVERY_MS, MAX_HOLDS, MAX_KEYS,
    MAX_MAX_BLOCKING, MAX_MAX_CONNECTIONS, MAX_MAX_HOLDS, MAX_MAX_KEYS, MAX_PAGE, MAX_REPLICAS, MAX_SLOTS, MAX_UNITS,
    MIN_COMPACT_AFTER_BYTES, MIN_IPV6_PREFIX,
};
use crate::limit::Algorithm;

/// Every command, in the order of the help: its words, its operands, and what it does. An operand in brackets may be
/// missing, the last may be repeated if it ends with dots, and another command line may follow after `--`.
/// `limit::Limit` reads `RATE/PER`.
pub static COMMANDS: [Command; 30] = [
    command("server start", "", "Own the data directory and serve it over HTTP until SIGTERM or SIGINT."),
    command(
        "limit add",
        "KEY [RATE/PER]...",
        "Configure a limit of RATE units per PER (100/1m, 5000/day), or a pattern, quoted: 'user:*'.",
    ),
    command("limit check", "KEY", "Spend N units if the limit allows it. Exit status 0 allowed, 1 denied."),
    command("limit check-all", "KEY...", "Spend units of every key, or of none. Exit status 0 allowed, 1 denied."),
    command(
        "limit hold",
        "KEY",
        "Spend N units that are settled later, or take N slots. Prints the hold's id. Exit status 1 denied.",
    ),
    command("limit settle", "HOLD", "Report what a hold has cost, and give back its slots."),
    command("limit renew", "HOLD", "Let a hold last longer."),
    command("limit charge", "KEY N", "Spend N units without a check, also past the limit."),
    command("limit refund", "KEY N", "Give back N units, at most what is used now."),
    command("limit status", "KEY", "Show the state of a limit."),
    command("limit list", "", "List limits and patterns, sorted by key."),
    command("limit reset", "[KEY]", "Give back all that was spent of a limit, or of all limits with a prefix."),
    command("limit remove", "[KEY]", "Remove a limit, or all limits with a prefix."),
    command(
        "limit apply",
        "FILE",
        "Set the limits to those in a JSON file (- for standard input), as `limit list --json` prints it, all or none.",
    ),
    command("limit top", "", "List the limits with the most denied or allowed checks."),
    command("limit history", "KEY", "Show the events of a limit that the log still has."),
    command(
        "run",
        "KEY -- COMMAND [ARGUMENT]...",
        "Spend N units, then become COMMAND. Exit status its own; 75 denied, or not allowed in time.",
    ),
    command("top", "", "Show checks and denials per second and the busiest keys: live, or once in a pipe. q quits."),
    command("log flush", "", "Wait until all that was answered is on disk."),
    command("log compact", "", "Write a snapshot and remove the log that it replaces."),
    command("log dump", "", "Print snapshot and log as JSON lines."),
    command("log verify", "", "Read the whole snapshot and log. Exit status 0 undamaged, 1 damaged."),
    command(
        "log repair",
        "",
        "Save what can be read of a damaged directory into a new one; the old one is not changed.",
    ),
    command(
        "log backup",
        "FILE|-",
        "Copy the data directory into one new file, or to standard output, while checks go on.",
    ),
    command("log restore", "FILE|-", "Create a data directory from a backup; --data-dir must be empty or not exist."),
    command(
        "store import",
        "DIR",
        "Copy all limits of a data directory, and what was spent of them, into an empty store.",
    ),
    command(
        "store export",
        "DIR",
        "Copy all limits of a store, and what was spent of them, into a new data directory.",
    ),
    command("doctor", "", "Report on the storage. Exit status 0 healthy, 1 problems."),
    command("completions", "SHELL", "Print the completions for a shell: bash, zsh or fish."),
    command("help", "[COMMAND]...", "Show all commands, or the options of one command."),
];

/// Every option, in the order of the help: the commands that have it, its name, its value, and what it is for.
pub static OPTIONS: [CommandOption; 64] = [
    option(START, "--bind", Text("ADDR"), "HOST:PORT, [::1]:PORT or unix:PATH").default("127.0.0.1:7878"),
    option(
        START,
        "--sync",
        Word(&["always", "batch", "relaxed"]),
        "answer when a record is on disk, written to the log, or queued for it",
    )
    .default("always"),
    option(
        &["server start", "store import", "store export"],
        "--store",
        Text("URL"),
        "the store that servers share, instead of a data directory: redis://HOST; else FLINT_STORE",
    ),
    option(
        START,
        "--replicas",
        Number("N", 0, MAX_REPLICAS as u64),
        "replicas of the store that must confirm each write",
    )
    .count(0),
    option(
        START,
        "--flush-every-ms",
        Number("N", 1, MAX_FLUSH_EVERY_MS),
        "batch, relaxed: fsync after N milliseconds at the latest",
    )
    .count(FLUSH_EVERY_MS),
    option(
        START,
        "--flush-every-events",
        Number("N", 1, MAX_FLUSH_EVERY_EVENTS),
        "batch, relaxed: fsync after N records at the latest",
    )
    .count(FLUSH_EVERY_EVENTS),
    option(
        START,
        "--max-blocking",
        Number("N", 1, MAX_MAX_BLOCKING as u64),
        "threads that handle requests; 2 is the smallest pool",
    )
    .count(MAX_BLOCKING as u64),
    option(
        START,
        "--compact-after",
        Number("BYTES", MIN_COMPACT_AFTER_BYTES, MAX_COMPACT_AFTER_BYTES),
        "compact when the log has grown past this",
    )
    .count(COMPACT_AFTER_BYTES),
    option(START, "--idle-timeout", Text("DURATION"), "close connections that are silent for this long").default("60s"),
    option(START, "--max-connections", CONNECTIONS, "connections at once; beyond that, the longest idle are closed")
        .count(MAX_CONNECTIONS as u64),
    option(START, "--allow-host", Text("NAME"), "accept this name in a Host header").repeatable(),
    option(START, "--gate", Text("NAME=OPTIONS"), "a gate for reverse proxies: 'web=by=ip,path&limit=100/1m&deny=403'")
        .repeatable(),
    option(
        START,
        "--trusted-proxies",
        Text("LIST"),
        "proxies whose X-Forwarded-For is believed: networks, loopback, unix or none",
    )
    .default(crate::server::DEFAULT_TRUSTED),
    option(
        START,
        "--ipv6-prefix",
        Number("BITS", MIN_IPV6_PREFIX, 128),
        "bits of a client's IPv6 address in a gate's key",
    )
    .count(IPV6_PREFIX),
    option(START, "--open-health", Flag, "answer /v1/health without a token"),
    option(START, "--legacy-headers", Word(&["epoch", "delta"]), "add X-RateLimit-Limit, -Remaining and -Reset"),
    option(START, "--socket-mode", Text("MODE"), "permissions of a Unix socket, octal").default("600"),
    option(START, "--max-keys", KEYS, "keys that live under limits in requests; beyond that, new keys share one limit")
        .count(MAX_KEYS),
    option(
        START,
        "--max-holds",
        Number("N", 1, MAX_MAX_HOLDS),
        "holds that may be open at once; further holds are refused",
    )
    .count(MAX_HOLDS),
    option(START, "--limits", File("FILE"), "limits to configure at start and on SIGHUP, in the form of limit apply"),
    option(
        ADD,
        "--rate",
        Number("N", 0, MAX_UNITS),
        "in place of RATE/PER: units per period; at 0 every check is denied",
    ),
    option(ADD, "--per", Text("PER"), "1ms to 366d (250ms, 10s, 1m, 24h, 7d), or day, week, month, quarter, year"),
    option(ADD, "--algorithm", Value::Algorithm, "how units are counted").default("token_bucket"),
    option(ADD, "--burst", Number("N", 1, MAX_UNITS), "token_bucket only: the bucket's capacity; else the rate"),
    option(ADD, "--tz", Text("ZONE"), "calendar only: the time zone, such as Europe/Berlin").default("UTC"),
    option(ADD, "--anchor", Number("DAY", 1, MAX_ANCHOR as u64), "day on which a month, quarter or year begins")
        .count(1),
    option(ADD, "--unlimited", Flag, "in place of RATE/PER: allow and count every check"),
    option(ADD, "--slots", Number("N", 1, MAX_SLOTS), "in place of RATE/PER: units that may be held at once"),
    option(
        ADD,
        "--mode",
        Word(&["enforce", "shadow"]),
        "shadow: decide and count, but answer that everything is allowed",
    )
    .default("enforce"),
    option(
        ADD,
        "--for",
        Text("DURATION"),
        "these values end after this time, 1ms to 366d, and the key's own values apply again",
    ),
    option(ADD, "--max-keys", KEYS, "patterns only: live keys; beyond that, new keys share one limit").count(MAX_KEYS),
    option(
        &["limit check", "limit hold", "run"],
        "--cost",
        Number("N", 1, u64::MAX),
        "units to spend, or slots to take",
    )
    .count(1),
    option(
        &["limit settle"],
        "--cost",
        Number("N", 0, MAX_UNITS),
        "units that the hold has cost; else as many as were held",
    ),
    option(
        &["limit check", "limit hold", "limit charge", "limit refund", "run"],
        "--limit",
        Text("RATE/PER"),
        "the limit if none is configured for KEY; all must allow",
    )
    .repeatable(),
    option(&["limit check"], "--peek", Flag, "only report what would be decided; spend nothing"),
    option(
        &["limit hold", "run"],
        "--ttl",
        Text("DURATION"),
        "how long the hold lasts unless it is renewed, 1s to 24h",
    )
    .default("1m"),
    option(
        &["limit renew"],
        "--ttl",
        Text("DURATION"),
        "how long the hold lasts from now, 1s to 24h; else as long as before",
    ),
    option(&["limit check-all"], "--cost", Text("KEY=N"), "units to spend of KEY").default("1").repeatable(),
    option(&["limit list"], "--live", Flag, "also the keys that live under a pattern or under a limit in a request"),
    option(&["limit list"], "--pattern", Text("PATTERN"), "only the keys that live under this pattern"),
    option(&["limit list"], "--prefix", Text("TEXT"), "only keys that begin with TEXT"),
    option(&["limit list"], "--after", Text("KEY"), "only keys that are sorted after KEY"),
    option(&["limit list"], "--limit", Number("N", 1, MAX_PAGE as u64), "at most N of them"),
    option(&["limit reset"], "--prefix", Text("TEXT"), "in place of KEY: all limits whose keys begin with TEXT"),
    option(&["limit remove"], "--prefix", Text("TEXT"), "in place of KEY: all limits whose keys begin with TEXT"),
    option(&["limit apply"], "--prune", Flag, "remove the limits that FILE does not name"),
    option(&["limit apply"], "--dry-run", Flag, "change nothing; only report what would change"),
    option(&["limit top"], "--by", Word(&["allowed", "denied"]), "what to count").default("denied"),
    option(&["limit top"], "--limit", Number("N", 1, MAX_PAGE as u64), "at most N of them").count(10),
    option(&["top"], "--by", Word(&["allowed", "denied"]), "what to sort and draw by").default("allowed"),
    option(
        &["top"],
        "--limit",
        Number("N", 1, MAX_PAGE as u64),
        "at most N keys; else as many as fit, and 10 in a pipe",
    ),
    option(&["run"], "--hold", Flag, "hold the units or slots, and give them back when COMMAND has ended"),
    option(&["run"], "--refund-on-failure", Flag, "give the units back when COMMAND fails or is killed"),
    option(&["run"], "--wait", Text("DURATION"), "wait at most this long for units and for other commands (30s, 5m)"),
    option(&["limit check", "run"], "--quiet", Flag, "don't print the decision; the exit status reports it"),
    option(&["log repair"], "--to", Directory("NEWDIR"), "the new directory; must be empty or not exist").required(),
    option(&["log repair"], "--rewind-clock", Flag, "set a log that is ahead of the system clock back to it"),
    option(
        EVERY,
        "--data-dir",
        Directory("DIR"),
        "the data directory; else FLINT_DATA_DIR; if a server owns it, the command asks the server",
    )
    .default(".flint"),
    option(EVERY, "--server", Text("URL"), "ask this server: http://HOST:PORT or unix:PATH; else FLINT_SERVER"),
    option(EVERY, "--token", Text("TOKEN"), "bearer token of the server that is started or asked (visible in ps)"),
    option(EVERY, "--token-file", File("FILE"), "tokens, one per line; else FLINT_TOKEN_FILE, else FLINT_SERVER_TOKEN"),
    option(EVERY, "--json", Flag, "print JSON, the same as the HTTP API's"),
    option(EVERY, "--help", Flag, "show this"),
    option(EVERY, "--version", Flag, "print the version"),
];

const START: &[&str] = &["server start"];
const ADD: &[&str] = &["limit add"];
const EVERY: &[&str] = &[];
const KEYS: Value = Number("N", 1, MAX_MAX_KEYS);
const CONNECTIONS: Value = Number("N", 1, MAX_MAX_CONNECTIONS as u64);

/// A command.
pub struct Command {
    /// One word, or a group and a word.
    pub name: &'static str,
    pub operands: &'static str,
    pub about: &'static str,
}

const fn command(name: &'static str, operands: &'static str, about: &'static str) -> Command {
    Command { name, operands, about }
}

impl Command {
    pub fn find(name: &str) -> Option<&'static Command> {
        COMMANDS.iter().find(|command| command.name == name)
    }

    /// The options that not every command has.
    pub fn own_options(&self) -> impl Iterator<Item = &'static CommandOption> {
        OPTIONS.iter().filter(|option| option.commands.contains(&self.name))
    }

    /// The option of this name, with its dashes.
    pub fn option(&self, name: &str) -> Option<&'static CommandOption> {
        self.own_options().chain(global_options()).find(|option| option.name == name)
    }
}

/// The options of every command.
pub fn global_options() -> impl Iterator<Item = &'static CommandOption> {
    OPTIONS.iter().filter(|option| option.commands.is_empty())
}

/// The first words of all commands.
pub fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = COMMANDS.iter().filter_map(|command| command.name.split(' ').next()).collect();
    groups.dedup();
    groups
}

/// The second words of the commands of a group; none if the group is a command.
pub fn members(group: &str) -> Vec<&'static str> {
    COMMANDS.iter().filter_map(|command| command.name.strip_prefix(group)?.strip_prefix(' ')).collect()
}

/// Every name of an option once. Where two options have the same name, both take a value or neither.
pub fn distinct_options() -> Vec<&'static CommandOption> {
    let first = |option: &&CommandOption| OPTIONS.iter().find(|other| other.name == option.name);
    OPTIONS.iter().filter(|option| first(option).is_some_and(|first| std::ptr::eq(first, *option))).collect()
}

/// An option.
pub struct CommandOption {
    /// None for every command.
    pub commands: &'static [&'static str],
    /// With its dashes.
    pub name: &'static str,
    pub value: Value,
    pub about: &'static str,
    pub default: DefaultValue,
    pub required: bool,
    pub repeatable: bool,
}

/// What the value of an option may be. The first text is what help calls it.
#[derive(Clone, Copy)]
pub enum Value {
    /// There is none.
    Flag,
    Text(&'static str),
    /// A number, the smallest and the largest.
    Number(&'static str, u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// The name of an algorithm, which `limit` judges.
    Algorithm,
    Directory(&'static str),
    File(&'static str),
}

use Value::{Directory, File, Flag, Number, Text, Word};

/// What counts where an option that has a default is not given.
#[derive(Clone, Copy)]
pub enum DefaultValue {
    None,
    Text(&'static str),
    Number(u64),
}

const fn option(
    commands: &'static [&'static str],
    name: &'static str,
    value: Value,
    about: &'static str,
) -> CommandOption {
    CommandOption { commands, name, value, about, default: DefaultValue::None, required: false, repeatable: false }
}

impl CommandOption {
    const fn default(self, default: &'static str) -> CommandOption {
        CommandOption { default: DefaultValue::Text(default), ..self }
    }

    /// A default that is a number.
    const fn count(self, default: u64) -> CommandOption {
        CommandOption { default: DefaultValue::Number(default), ..self }
    }

    const fn required(self) -> CommandOption {
        CommandOption { required: true, ..self }
    }

    const fn repeatable(self) -> CommandOption {
        CommandOption { repeatable: true, ..self }
    }

    pub fn takes_value(&self) -> bool {
        !matches!(self.value, Flag)
    }

    /// The words that its value may be, where they are few.
    pub fn words(&self) -> Vec<&'static str> {
        match self.value {
            Word(words) => words.to_vec(),
            Value::Algorithm => Algorithm::ALL.iter().map(|known| known.name()).collect(),
            _ => Vec::new(),
        }
    }

    /// The option with what its value is called: `--bind ADDR`.
    pub fn usage(&self) -> String {
        match self.value {
            Flag => self.name.to_owned(),
            Text(value) | Number(value, ..) | Directory(value) | File(value) => format!("{} {value}", self.name),
            Word(words) => format!("{} {}", self.name, words.join("|")),
            Value::Algorithm => format!("{} A", self.name),
        }
    }

    /// What it is for, with what the table knows of its value.
    pub fn sentence(&self) -> String {
        let mut notes = Vec::new();
        match self.value {
            Number(_, least, most) if most < u64::MAX => notes.push(format!("{least} to {most}")),
            Value::Algorithm => notes.push(or(&self.words())),
            _ => {}
        }
        match self.default {
            DefaultValue::None => {}
            DefaultValue::Text(text) => notes.push(format!("default {text}")),
            DefaultValue::Number(number) => notes.push(format!("default {number}")),
        }
        if self.repeatable {
            notes.push("may be repeated".to_owned());
        }
        if notes.is_empty() { self.about.to_owned() } else { format!("{} ({})", self.about, notes.join("; ")) }
    }
}

/// `a, b or c`
pub fn or(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_with_each_other_and_with_the_bounds() {
        for option in &OPTIONS {
            let name = option.name;
            let same = distinct_options().into_iter().find(|other| other.name == name).unwrap();
            assert_eq!(option.takes_value(), same.takes_value(), "{name}");
            assert!(option.commands.iter().all(|command| Command::find(command).is_some()), "{name}");
            match (option.value, option.default) {
                (Flag, default) => assert!(matches!(default, DefaultValue::None), "{name}"),
                (Number(_, least, most), DefaultValue::Number(default)) => {
                    assert!((least..=most).contains(&default), "{name}")
                }
                (Number(..), default) => assert!(matches!(default, DefaultValue::None), "{name}"),
                (Word(_) | Value::Algorithm, DefaultValue::Text(default)) => {
                    assert!(option.words().contains(&default), "{name}");
                }
                (_, default) => assert!(!matches!(default, DefaultValue::Number(_)), "{name}"),
            }
        }
        // No command has two options of one name.
        for command in &COMMANDS {
            let mut names: Vec<&str> =
                command.own_options().chain(global_options()).map(|option| option.name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}: {names:?}", command.name);
        }
        let start = Command::find("server start").unwrap();
        let DefaultValue::Text(idle) = start.option("--idle-timeout").unwrap().default else { panic!("no text") };
        let mode = Command::find("limit add").unwrap().option("--mode").unwrap();
        assert_eq!(mode.words(), crate::limit::Mode::ALL.iter().map(|mode| mode.name()).collect::<Vec<_>>());
        let idle = crate::limit::parse_length("idle", idle, 1, u64::MAX).unwrap();
        assert_eq!(idle, crate::bounds::IDLE_TIMEOUT_MS);
    }
}
