//! man/flint.1 and `flint help` know the same commands and options, and the manual's examples work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

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
    section.lines().map(|line| line.trim().split("  ").next().unwrap().replace(" [COMMAND]", "")).collect()
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
    let server = listed(&help(&["server", "start"]));
    assert_eq!(described, server.union(&global).cloned().collect(), "options with a description");
}

/// The literal displays of the section EXAMPLES.
fn examples() -> Vec<String> {
    let page = page();
    let section = page.split("\n.Sh EXAMPLES\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let displays = section.split(".Bd -literal -offset indent\n").skip(1);
    displays.map(|display| display.split(".Ed").next().unwrap().replace("\\e", "\\")).collect()
}

#[test]
fn the_examples_work_with_and_without_a_server() {
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    let bin = Path::new(env!("CARGO_BIN_EXE_flint")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for served in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let server = served.then(|| Server::start(&dir.path().join(".flint"), &[]));
        // A damaged directory is repaired where no server owns it.
        for example in examples.iter().filter(|example| !served || !example.contains("log repair")) {
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", example]).current_dir(dir.path()).env("PATH", &path);
            shell.env_remove("FLINT_SERVER").env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_LOG");
            let done = run(&mut shell);
            assert_eq!(done.code, Some(0), "served {served}: {example}{done:?}");
            // What is denied as the example means it to be is told on stderr.
            let told = done.err.lines().all(|line| line.starts_with("flint: denied by `backup`"));
            assert!(told && !done.out.is_empty(), "served {served}: {example}{done:?}");
        }
        if let Some(server) = server {
            server.terminate();
        }
    }
}

#[test]
fn the_page_names_every_variable_and_status() {
    let page = page();
    for name in ["FLINT_SERVER", "FLINT_SERVER_TOKEN", "FLINT_LOG"] {
        assert!(page.contains(&format!(".It Ev {name}\n")), "{name}");
    }
    let section = page.split("\n.Sh EXIT STATUS\n").nth(1).unwrap().split("\n.Sh ").next().unwrap();
    let statuses: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix(".It ")).collect();
    assert_eq!(statuses, ["0", "1", "2", "3", "75", "124", "126", "127"]);
}
