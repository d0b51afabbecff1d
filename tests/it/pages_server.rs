//! `man/flint-server.8` and the code say the same.

use std::collections::BTreeMap;

use flint::bounds::*;

use crate::mdoc::{Page, unescape};
use crate::pages_cli::{Listed, own_options};
use crate::util::{command, run};

fn page() -> Page {
    Page::read("flint-server.8")
}

/// The options of the page, each with what is said of it in one line.
fn options() -> BTreeMap<String, String> {
    let page = page();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in page.section("DESCRIPTION") {
        if let Some(rest) = line.strip_prefix(".It Fl -") {
            let name = format!("--{}", rest.split(' ').next().unwrap());
            assert!(found.insert(name.clone(), String::new()).is_none(), "{name} stands twice");
            current = Some(name);
        } else if let Some(text) = current.as_ref().and_then(|name| found.get_mut(name)) {
            let words =
                line.strip_prefix('.').map_or(line.as_str(), |rest| rest.split_once(' ').map_or("", |(_, rest)| rest));
            *text += &format!("{} ", unescape(words));
        }
    }
    found
}

#[test]
fn options_and_defaults() {
    let help = run(command().args(["help", "server", "start"]));
    assert_eq!(help.code, Some(0), "{help:?}");
    let (_, of_every) = help.out.split_once("Options of every command").unwrap();
    let mut of_code = Vec::new();
    let options = options();
    for Listed { name, range, default } in own_options(&help.out) {
        let text = options.get(&name).unwrap_or_else(|| panic!("{name} is not in the page"));
        if let Some(default) = default {
            let forms = [format!("{default} by default"), format!("{default} , No the default")];
            assert!(forms.iter().any(|form| text.contains(form)), "{name}: {default} is the default, not {text}");
        }
        if let Some(range) = range {
            assert!(text.contains(&range), "{name}: {range} is its range, not {text}");
        }
        of_code.push(name);
    }
    // Of every command's options the page has those that mean something else to a server.
    for name in ["--token", "--token-file"] {
        assert!(of_every.contains(&format!("  {name} ")), "{of_every}");
        of_code.push(name.to_owned());
    }
    of_code.sort();
    assert_eq!(options.into_keys().collect::<Vec<_>>(), of_code);
}

/// What is said of an option is what the program does at the bound and one past it.
#[test]
fn bounds_of_options() {
    let dir = tempfile::tempdir().unwrap();
    let options = options();
    for (name, low, high) in [
        ("--flush-every-ms", 1, MAX_FLUSH_EVERY_MS),
        ("--flush-every-events", 1, MAX_FLUSH_EVERY_EVENTS),
        ("--max-blocking", 1, MAX_MAX_BLOCKING as u64),
        ("--max-connections", 1, MAX_MAX_CONNECTIONS as u64),
        ("--max-keys", 1, MAX_MAX_KEYS),
        ("--max-holds", 1, MAX_MAX_HOLDS),
        ("--compact-after", MIN_COMPACT_AFTER_BYTES, MAX_COMPACT_AFTER_BYTES),
    ] {
        assert!(options[name].contains(&format!("{low} to {high},")), "{name}: {}", options[name]);
        for (value, refused) in [(low - 1, true), (low, false), (high, false), (high + 1, true)] {
            // The refused bind comes after all options, and before any file is touched.
            let mut start = command();
            start.arg("--data-dir").arg(dir.path().join("data")).args(["server", "start", "--bind", "192.0.2.1:1"]);
            let done = run(start.args([name, &value.to_string()]));
            assert_eq!(done.code, Some(2), "{done:?}");
            assert_eq!(done.err.contains(name), refused, "{name} {value}: {done:?}");
            assert_eq!(done.err.contains("refusing to bind"), !refused, "{name} {value}: {done:?}");
        }
    }
    for (value, refused) in [("99ms", true), ("100ms", false), ("1d", false), ("86401s", true)] {
        let mut start = command();
        start.arg("--data-dir").arg(dir.path().join("data")).args(["server", "start", "--bind", "192.0.2.1:1"]);
        let done = run(start.args(["--idle-timeout", value]));
        assert_eq!((done.code, done.err.contains("--idle-timeout")), (Some(2), refused), "{value}: {done:?}");
    }
    assert!(options["--max-keys"].contains(&format!("{MAX_OVERFLOWS} of them at most")), "{}", options["--max-keys"]);
    assert_eq!((MIN_IDLE_TIMEOUT_MS, MAX_IDLE_TIMEOUT_MS), (100, 86_400_000));
    assert!(!dir.path().join("data").exists());
}

#[test]
fn bounds_of_connections() {
    let page = page();
    let text = page.section("CONNECTIONS").join(" ");
    let seconds = |ms: u64| format!("{} s", ms / 1000);
    for sentence in [
        format!("A head must arrive within {} of its first byte", seconds(HEAD_TIMEOUT_MS)),
        format!("at most {} KiB long, with at most {MAX_HEADERS} header lines", MAX_HEAD_BYTES / 1024),
        format!("A body must arrive within {} of its head", seconds(BODY_TIMEOUT_MS)),
        format!("at most {} MiB long", MAX_BODY_BYTES / (1024 * 1024)),
        format!("and {} MiB with the frames of its chunks", MAX_BODY_WIRE_BYTES / (1024 * 1024)),
        format!("may take about {} MiB of memory", MAX_UNFINISHED_BYTES / (1024 * 1024)),
        format!("those that wait take {} MiB of memory", MAX_WAITING_BYTES / (1024 * 1024)),
        format!("it is {} KiB of them on one connection", PIPELINED_ALWAYS_BYTES / 1024),
        format!("takes less than {} KiB of them in {}", MIN_DRAIN_BYTES / 1024, seconds(SEND_TIMEOUT_MS)),
        format!("silent for {} between two requests", seconds(IDLE_TIMEOUT_MS)),
        format!("{MAX_CONNECTIONS} connections are served at once"),
        format!("{MAX_PIPELINED} requests may be sent ahead"),
        format!("{PIPELINED_ALWAYS} while {MAX_WAITING} wait in all"),
        format!("at least {MIN_LEAKED} and at most {MAX_LEAKED} of them"),
    ] {
        assert!(text.contains(&sentence), "the page lacks `{sentence}`");
    }
}

#[test]
fn environment_and_exit_statuses() {
    let page = page();
    let environment = page.section("ENVIRONMENT").join("\n");
    for variable in ["FLINT_SERVER_TOKEN", "FLINT_LOG", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "JOURNAL_STREAM"] {
        assert!(environment.contains(variable), "{variable}");
    }
    let statuses: Vec<&String> = page.section("EXIT STATUS").iter().filter(|line| line.starts_with(".It ")).collect();
    // 1 is an answer, which a server does not give.
    let mut of_code: Vec<u8> = flint::Kind::ALL.iter().map(|kind| kind.exit_status()).chain([0]).collect();
    of_code.sort_unstable();
    of_code.dedup();
    assert_eq!(
        statuses,
        of_code.iter().map(|status| format!(".It {status}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
}

#[test]
fn alerts_are_of_metrics_that_there_are() {
    let page = page();
    let rules = page.section("Prometheus").join("\n");
    let known = Page::read("flint-http.7");
    let known = crate::mdoc::items(known.section("Metrics"), "Va");
    let known: Vec<&str> = known.iter().filter_map(|item| item.split(' ').next()).collect();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let named: Vec<&str> = rules.split(|c| !is_name(c)).filter(|word| word.starts_with("flint_")).collect();
    assert!(named.len() >= 5, "{rules}");
    for name in named {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_count");
        assert!(known.contains(&family), "{name} is none of {known:?}");
    }
}
