//! man/flint.1 and `flint help` know the same commands and options, and the manual's examples work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use flint::bounds;

use crate::mdoc::{Page, unescape};
use crate::util::{Server, command, run};

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/flint.1")).unwrap()
}

fn help(words: &[&str]) -> String {
    let run = run(command().arg("help").args(words));
    assert_eq!(run.code, Some(0), "{run:?}");
    run.out
}

/// The options that a help text lists, with their dashes.
fn listed(help: &str) -> BTreeSet<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  --"));
    lines.map(|line| format!("--{}", line.split(' ').next().unwrap())).collect()
}

/// The options in lines of the page.
fn flags(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let named = words.windows(2).filter(|pair| pair[0] == "Fl" || pair[0] == ".Fl");
    named
        .filter_map(|pair| pair[1].strip_prefix('-'))
        .filter(|name| !name.is_empty())
        .map(|name| format!("--{name}"))
        .collect()
}

/// Commands of the page with the rest of their lines.
fn documented(page: &str) -> BTreeMap<String, String> {
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Cm "));
    items
        .map(|line| {
            let is_word = |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase());
            let name: Vec<&str> = line.split(' ').take_while(is_word).collect();
            (name.join(" "), line.to_owned())
        })
        .collect()
}

/// Commands of `flint help`.
fn commands() -> Vec<String> {
    let whole = help(&[]);
    let section = whole.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // A line that begins further in goes on with what a command does.
    let lines = section.lines().filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    lines.map(|line| line.split("  ").next().unwrap().to_owned()).collect()
}

#[test]
fn the_page_and_the_help_name_the_same_commands_and_options() {
    let page = page();
    let documented = documented(&page);
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    let names: BTreeSet<&String> = documented.keys().collect();
    assert_eq!(names, commands.iter().collect(), "commands of the page and of the help");
    let global = listed(&help(&["doctor"]));
    let mut all = BTreeSet::new();
    for name in commands.iter().filter(|name| *name != "help") {
        let options = listed(&help(&name.split(' ').collect::<Vec<_>>()));
        // A server's many options have a section of their own.
        if name != "server start" {
            let own: BTreeSet<String> = options.difference(&global).cloned().collect();
            assert_eq!(flags(&documented[name]), own, "options of {name}");
        }
        all.extend(options);
    }
    assert_eq!(flags(&page), all, "options of the page and of the help");
    let described: BTreeSet<String> = page.lines().filter(|line| line.starts_with(".It Fl ")).flat_map(flags).collect();
    // Those of most commands are described with their command.
    let of = |words: &[&str]| listed(&help(words));
    let mut wanted: BTreeSet<String> = of(&["server", "start"]).union(&of(&["limit", "add"])).cloned().collect();
    for name in ["--rate", "--per"] {
        assert!(wanted.remove(name), "{name}");
    }
    assert_eq!(described, wanted, "options with a description");
}

/// An option, as a help text lists it.
pub struct Listed {
    /// With its dashes.
    pub name: String,
    pub range: Option<String>,
    pub default: Option<String>,
}

/// The options of a help text that only some commands have, with what is in brackets after each sentence.
pub fn own_options(help: &str) -> Vec<Listed> {
    let own = help.split("Options of every command").next().unwrap();
    let options = own.split("\n  --").skip(1).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    options
        .map(|text| {
            let notes = text.rsplit_once(" (").map_or("", |(_, notes)| notes.trim_end_matches(')')).split("; ");
            let is_range = |note: &str| note.split_once(" to ").is_some_and(|(low, _)| low.parse::<u64>().is_ok());
            Listed {
                name: format!("--{}", text.split(' ').next().unwrap()),
                range: notes.clone().find(|note| is_range(note)).map(str::to_owned),
                default: notes.clone().find_map(|note| note.strip_prefix("default ")).map(str::to_owned),
            }
        })
        .collect()
}

#[test]
fn the_page_has_the_ranges_and_defaults_of_the_help() {
    let page = page();
    let (mut ranges, mut defaults) = (0, 0);
    for option in own_options(&help(&["server", "start"])) {
        let item =
            page.split(&format!("\n.It Fl -{}", &option.name[2..])).find(|item| item.starts_with([' ', '\n'])).unwrap();
        let text = unescape(&item.split("\n.It ").next().unwrap().replace('\n', " "));
        for wanted in [&option.range, &option.default].into_iter().flatten() {
            assert!(text.contains(wanted.as_str()), "{}: {wanted} is not in: {text}", option.name);
        }
        ranges += usize::from(option.range.is_some());
        defaults += usize::from(option.default.is_some());
    }
    assert_eq!((ranges, defaults), (9, 14), "read from the help");
}

/// The literal displays of the section EXAMPLES.
fn examples() -> Vec<String> {
    let page = page();
    let section = page.split("\n.Sh EXAMPLES\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let displays = section.split(".Bd -literal -offset indent\n").skip(1);
    displays.map(|display| unescape(display.split(".Ed").next().unwrap())).collect()
}

#[test]
fn the_examples_work_with_and_without_a_server() {
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    let bin = Path::new(env!("CARGO_BIN_EXE_flint")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/flint.sh");
    for served in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let server = served.then(|| Server::start(&dir.path().join(".flint"), &[]));
        // A damaged directory is repaired where no server owns it; the functions for sh ask one.
        for example in examples.iter().filter(|example| !example.contains(["flint.sh", "log repair"][served as usize]))
        {
            let mut shell = Command::new("sh");
            let placed = example.replace("/usr/local/share/flint/flint.sh", functions.to_str().unwrap());
            shell.args(["-e", "-c", &placed]).current_dir(dir.path()).env("PATH", &path);
            shell.env_remove("FLINT_SERVER").env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_LOG");
            if let Some(server) = server.as_ref().filter(|_| placed != *example) {
                shell.env("FLINT_SERVER", &server.url).env_remove("FLINT_TOKEN_FILE");
            }
            let done = run(&mut shell);
            assert_eq!(done.code, Some(0), "served {served}: {example}{done:?}");
            // The denial that the example shows is on stderr.
            let expected = done.err.lines().all(|line| line.starts_with("flint: denied by `backup`"));
            assert!(expected && !done.out.is_empty(), "served {served}: {example}{done:?}");
        }
        if let Some(server) = server {
            server.terminate();
        }
    }
}

#[test]
fn the_page_names_every_variable_and_status() {
    let page = page();
    for name in ["FLINT_SERVER", "FLINT_SERVER_TOKEN", "FLINT_TOKEN_FILE", "FLINT_LOG"] {
        assert!(page.contains(&format!(".It Ev {name}\n")), "{name}");
    }
    let section = page.split("\n.Sh EXIT STATUS\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let statuses: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix(".It ")).collect();
    assert_eq!(statuses, ["0", "1", "2", "3", "75", "126", "127"]);
}

#[test]
fn the_page_has_the_codes_bounds_and_algorithms() {
    let text = Page::read("flint.1").text();
    for sentence in [
        format!("given {} seconds for the connection", bounds::CONNECT_MS / 1000),
        format!("seconds for the connection and {} for its answer", bounds::REPLY_MS / 1000),
        format!("{} minutes for that of", bounds::COMPACT_REPLY_MS / 60_000),
        format!("1 to {} keys", bounds::MAX_ITEMS),
        format!("up to {}.", bounds::MAX_PAGE),
        format!("1 to {} bytes of UTF-8", bounds::MAX_KEY_BYTES),
        format!("of 0 to {} units", bounds::MAX_UNITS),
        format!("its capacity, 1 to {}", bounds::MAX_UNITS),
        format!("from 1ms to {}d", bounds::MAX_PERIOD_MS / 86_400_000),
        format!("after this duration, 1ms to {}d", bounds::MAX_PERIOD_MS / 86_400_000),
        format!("Of several, {} at most,", bounds::MAX_WINDOWS),
        format!("has 1 to {} windows", bounds::MAX_WINDOWS),
        format!("begins, 1 to {}, 1 by default", bounds::MAX_ANCHOR),
        format!("may live under it, 1 to {}, {} by default", bounds::MAX_MAX_KEYS, bounds::MAX_KEYS),
        format!("Worker threads, 1 to {}, {} by default", bounds::MAX_MAX_BLOCKING, bounds::MAX_BLOCKING),
        format!("{}, {} by default", bounds::MAX_COMPACT_AFTER_BYTES, bounds::COMPACT_AFTER_BYTES),
        format!("silent for this long, {}s by default", bounds::IDLE_TIMEOUT_MS / 1000),
        format!("Connections at once, 1 to {}, {} by default", bounds::MAX_MAX_CONNECTIONS, bounds::MAX_CONNECTIONS),
        format!("1 to {}, {} by default", bounds::MAX_FLUSH_EVERY_MS, bounds::FLUSH_EVERY_MS),
        format!("1 to {}, {} by default", bounds::MAX_FLUSH_EVERY_EVENTS, bounds::FLUSH_EVERY_EVENTS),
    ] {
        assert!(text.contains(&sentence), "flint.1 lacks `{sentence}`: {text}");
    }
    let waits = format!("else for {} seconds.", bounds::QUEUE_WAIT_MS / 1000);
    assert!(text.contains(&waits), "flint.1 lacks `{waits}`");
    for algorithm in flint::Algorithm::ALL {
        assert!(page().contains(&format!("\n.It Li {}\n", algorithm.name())), "{}", algorithm.name());
    }
}

#[test]
fn the_page_names_the_functions_for_sh() {
    let script = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/flint.sh")).unwrap();
    let defined: Vec<&str> =
        script.lines().filter_map(|line| line.strip_suffix("() (")).filter(|name| !name.starts_with('_')).collect();
    let page = page();
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Ic "));
    let named: Vec<&str> = items.map(|item| item.split(' ').next().unwrap()).collect();
    assert!(defined.len() > 10, "{defined:?}");
    assert_eq!(named, defined);
}
