//! Help texts, one per command, in one table.

/// Command, its arguments, what it does, and its options.
pub const COMMANDS: [(&str, &str, &str, &str); 18] = [
    (
        "server start",
        "[OPTIONS]",
        "Own the data directory and serve it over HTTP until SIGTERM or SIGINT.",
        "  --bind ADDR               HOST:PORT, [::1]:PORT or unix:PATH (default 127.0.0.1:7878)
  --sync always|batch       answer after fsync (default), or fsync in batches
  --flush-every-ms N        batch: fsync after N milliseconds at the latest (default 100)
  --flush-every-events N    batch: fsync after N records at the latest (default 100)
  --max-blocking N          worker threads, 1 to 4096 (default 64)
  --compact-after BYTES     compact when the log has grown past this (default 67108864)
  --idle-timeout DURATION   end connections that are silent so long (default 60s)
  --max-connections N       connections at once; more end the longest idle (default 1024)
  --allow-host NAME         accept this name in a Host header; may be repeated
  --socket-mode MODE        permissions of a Unix socket, octal (default 600)
",
    ),
    (
        "limit add",
        "KEY --rate N --per DURATION [--algorithm A] [--burst N]",
        "Configure a limit of N units per DURATION (250ms, 10s, 1m, 24h, 7d).",
        "  --rate N                  units per period, 1 to 10^12
  --per DURATION            the period, 1ms to 366d; a bare integer is seconds
  --algorithm A             token_bucket (default), sliding_window_log,
                            fixed_window_counter or sliding_window_counter
  --burst N                 token_bucket alone: the bucket's capacity (default: the rate)
",
    ),
    (
        "limit check",
        "KEY [--cost N]",
        "Spend N units if the limit allows it. Exit status 0 allowed, 1 denied.",
        "  --cost N                  units to spend (default 1)\n",
    ),
    (
        "limit check-all",
        "KEY... [--cost KEY=N]...",
        "Spend of all limits or of none. Exit status 0 allowed, 1 denied.",
        "  --cost KEY=N              units to spend of KEY (default 1); may be repeated\n",
    ),
    ("limit status", "KEY", "Show how a limit stands.", ""),
    (
        "limit list",
        "[--prefix TEXT] [--after KEY] [--limit N]",
        "List limits, sorted by key.",
        "  --prefix TEXT             only keys that begin with TEXT
  --after KEY               only keys behind KEY
  --limit N                 at most N of them
",
    ),
    ("limit reset", "KEY", "Give back all that was spent of a limit.", ""),
    ("limit remove", "KEY", "Remove a limit.", ""),
    (
        "limit top",
        "[--by allowed|denied] [--limit N]",
        "List the limits with the most denied or allowed checks.",
        "  --by allowed|denied       what to count (default denied)
  --limit N                 at most N of them (default 10)
",
    ),
    ("limit history", "KEY", "Show the events of a limit that the log still has.", ""),
    (
        "run",
        "KEY [--cost N] [--wait DURATION] -- COMMAND [ARGUMENT]...",
        "Spend N units, then become COMMAND. Exit status its own; 75 denied, 124 waited in vain.",
        "  --cost N                  units to spend (default 1)
  --wait DURATION           when denied, wait so long for units (30s, 5m)
",
    ),
    ("log flush", "", "Make all that was answered durable.", ""),
    ("log compact", "", "Write a snapshot and remove the log it stands for.", ""),
    ("log dump", "", "Print snapshot and log as JSON lines.", ""),
    ("log verify", "", "Read all of snapshot and log. Exit status 0 whole, 1 damaged.", ""),
    (
        "log repair",
        "--to NEWDIR",
        "Save what can be read of a damaged directory into a new one; the old one is not changed.",
        "  --to NEWDIR               where to; must be empty or not exist
",
    ),
    ("doctor", "", "Report on the storage. Exit status 0 healthy, 1 problems.", ""),
    ("completions", "bash|zsh|fish", "Print the completions for a shell.", ""),
];

const GLOBAL: &str = "Options of every command:
  --data-dir DIR            the data directory (default .flint); while a server owns it, the server is asked
  --server URL              ask this server: http://HOST:PORT or unix:PATH (default FLINT_SERVER)
  --token TOKEN             bearer token, of the server that is started or asked (shows in ps)
  --token-file FILE         tokens, one a line; without either, FLINT_SERVER_TOKEN
  --json                    print JSON, the same as the HTTP API's
  --help                    show this
  --version                 print the version
";

const EXIT: &str = "Exit status: 0 done, allowed, healthy; 1 the answer is no; 2 wrong usage; 3 it could not be done.
";

/// An option, as its lines of help say.
pub struct OptionHelp {
    /// With its dashes.
    pub name: &'static str,
    /// What its value stands for; empty for a flag.
    pub value: &'static str,
    pub about: String,
}

fn parse(text: &'static str) -> impl Iterator<Item = OptionHelp> {
    let mut options: Vec<OptionHelp> = Vec::new();
    for line in text.lines() {
        if line.starts_with("  --") {
            let (usage, about) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
            let (name, value) = usage.split_once(' ').unwrap_or((usage, ""));
            options.push(OptionHelp { name, value, about: about.trim().to_owned() });
        } else if let Some(option) = options.last_mut().filter(|_| line.starts_with("    ")) {
            option.about = format!("{} {}", option.about, line.trim());
        }
    }
    options.into_iter()
}

/// The options of every command.
pub fn global_options() -> impl Iterator<Item = OptionHelp> {
    parse(GLOBAL)
}

/// Their names.
pub fn global_names() -> Vec<&'static str> {
    global_options().map(|option| option.name).collect()
}

/// The options of a command alone.
pub fn own_options(command: &str) -> impl Iterator<Item = OptionHelp> {
    parse(COMMANDS.iter().find(|(name, ..)| *name == command).map_or("", |(.., options)| options))
}

/// The first words of all commands.
pub fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = COMMANDS.iter().filter_map(|(name, ..)| name.split(' ').next()).collect();
    groups.dedup();
    groups
}

/// The second words of the commands of a group.
pub fn members(group: &str) -> Vec<&'static str> {
    let of_group = |(name, ..): &(&'static str, _, _, _)| name.strip_prefix(group)?.strip_prefix(' ');
    COMMANDS.iter().filter_map(of_group).collect()
}

/// Whether these words are a whole command.
pub fn is_command(words: &[String]) -> bool {
    let name = words.join(" ");
    COMMANDS.iter().any(|(command, ..)| *command == name)
}

/// The help on a topic: a command, a group of commands, or everything for no topic.
pub fn text(topic: &str) -> Option<String> {
    if let Some((name, arguments, about, options)) = COMMANDS.iter().find(|(name, ..)| *name == topic) {
        let arguments = if arguments.is_empty() { String::new() } else { format!(" {arguments}") };
        let options = if options.is_empty() { String::new() } else { format!("Options:\n{options}\n") };
        return Some(format!("Usage: flint {name}{arguments}\n\n{about}\n\n{options}{GLOBAL}\n{EXIT}"));
    }
    let in_group = |name: &str| topic.is_empty() || name.split(' ').next() == Some(topic);
    let mut list = String::new();
    for (name, _, about, _) in COMMANDS.iter().filter(|(name, ..)| in_group(name)) {
        list += &format!("  {name:<16}  {about}\n");
    }
    (!list.is_empty()).then(|| {
        format!(
            "Usage: flint [--data-dir DIR | --server URL] COMMAND\n\nA durable rate limiter: state on disk, no Redis, no broker.\n\n\
             Commands:\n{list}  help [COMMAND]    Show this, or a command's options.\n\n{GLOBAL}\n{EXIT}"
        )
    })
}
