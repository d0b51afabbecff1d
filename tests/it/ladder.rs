//! The order of the rooms: what may use what, how large a file and a room may be.
//!
//! A room is a directory of src/, with its `mod.rs`. Within a room the modules stand in a list, from the top; each uses
//! only what is below it. The `mod.rs` of a room may use all of its modules, so none of them, nor any module further
//! in, may use what that `mod.rs` defines. What it only re-exports counts as the module's in which it is defined. Tests
//! may use all of their own room, and are held to the order of the outermost room only.

use std::path::{Path, PathBuf};

use crate::modules::{Module, Modules, Names, lines_without_tests};

/// Each room and its modules, from the top. To add a room: a row with its path below src/ and each module that its
/// `mod.rs` declares, but for those of tests; and take the room off [`UNLISTED`].
const ROOMS: &[(&str, &[&str])] = &[
    ("", &["cli", "server", "engine", "limiter", "store", "limit", "clock", "error", "bounds"]),
    ("cli", &["serve", "top", "commands", "remote", "options", "status", "columns", "limits_file", "output", "answer"]),
    ("cli/serve", &["start", "opening", "control", "signals", "notify"]),
    ("cli/top", &["terminal", "frame", "sample"]),
    (
        "cli/commands",
        &["run", "program", "parent", "holds", "checks", "limits", "values", "listing", "backup", "storage"],
    ),
    ("cli/commands/backup", &["take", "restore", "place"]),
    ("cli/commands/storage", &["files", "moving"]),
    ("cli/remote", &["session", "http"]),
    ("cli/options", &["completions", "help", "global", "address", "store", "args", "table"]),
    (
        "server",
        &[
            "fuzz", "accept", "pool", "context", "work", "routes", "gate", "digest", "http", "waiting", "guard",
            "tokens", "vitals", "net",
        ],
    ),
    ("server/pool", &["decider", "worker", "slow", "passing", "handle", "asked"]),
    ("server/gate", &["named", "proxies"]),
    ("server/http", &["auth", "sending", "exchange", "head", "unsent", "reply", "more", "instances"]),
    ("server/waiting", &["turns", "pending", "wake", "sync"]),
    (
        "server/routes",
        &["table", "gates", "spend", "operations", "backup", "limits", "call", "query", "metrics", "listing", "body"],
    ),
    ("server/routes/spend", &["holds", "checks", "once"]),
    ("server/routes/body", &["listed", "limits", "holds", "checks", "values", "object", "syntax", "scalars"]),
    ("server/guard", &["walker", "memory", "cuts", "connection", "handle", "table", "verdict", "config"]),
    (
        "server/net",
        &["listener", "activation", "bind", "options", "descriptors", "facts", "names", "process", "pressure"],
    ),
    ("engine", &["remote", "local", "interface", "report"]),
    (
        "engine/remote",
        &["served", "port", "admin", "engine", "keeper", "copies", "lanes", "lease", "errors", "names", "link"],
    ),
    ("engine/remote/copies", &["listing", "reader"]),
    (
        "engine/remote/link",
        &[
            "store",
            "facts",
            "requests",
            "exchange",
            "delivery",
            "places",
            "connection",
            "error",
            "wire",
            "options",
            "address",
        ],
    ),
    ("engine/remote/link/places", &["watch", "cluster", "sentinel", "replicas", "directory", "map", "place"]),
    ("engine/remote/link/wire", &["script", "attempt", "value", "slots", "reply", "pack"]),
    ("engine/remote/lanes", &["lane", "router", "round", "sending", "state", "job", "group", "wire", "bell"]),
    (
        "store",
        &[
            "opening",
            "directory",
            "backup",
            "snapshot",
            "log",
            "read",
            "files",
            "format",
            "policy",
            "timings",
            "clocks",
        ],
    ),
    ("store/backup", &["restore", "unpack", "copy", "format"]),
    ("store/log", &["handle", "writer", "queue", "growth", "health", "segment", "wait", "sync"]),
    ("store/read", &["rewind", "repair", "recovery", "found"]),
    ("store/files", &["lock", "queue", "view", "data_dir", "kept", "disk", "names", "random"]),
    ("store/format", &["frame", "encode", "decode", "record"]),
    (
        "limiter",
        &[
            "scratch",
            "open",
            "offline",
            "list",
            "holds",
            "limits",
            "check",
            "report",
            "background",
            "recovery",
            "gone",
            "lookup",
            "core",
            "options",
            "held",
            "kept",
            "entry",
            "registry",
            "notes",
            "json",
            "answers",
        ],
    ),
    ("limiter/offline", &["backup", "repair", "inspect"]),
    ("limiter/list", &["listing", "parts", "least"]),
    ("limiter/limits", &["group", "configure", "remove", "reset", "change", "setting", "status"]),
    ("limiter/holds", &["once", "settle", "renew", "hold", "known", "refund"]),
    ("limiter/held", &["load", "book", "outside", "pledge", "id"]),
    ("limiter/notes", &["noting", "noted", "name"]),
    ("limiter/scratch", &["directory", "place", "lane", "load", "save", "state", "record"]),
    ("limiter/kept", &["shelf", "once"]),
    ("limiter/check", &["several", "many", "all", "walk", "progress", "decide", "room", "slots", "wait"]),
    ("limiter/entry", &["table", "journal", "chunks", "recorded", "key", "tag", "text", "shares"]),
    ("limiter/background", &["helpers", "backup", "denials", "heal", "compact", "sweep"]),
    ("limiter/recovery", &["build", "settle", "redo", "replay", "shares", "by_id"]),
    (
        "limit",
        &["counting", "patterns", "validation", "values", "calendar", "window", "period", "zone", "algorithm", "text"],
    ),
    (
        "limit/counting",
        &["give_back", "standing", "reconfigure", "rest", "ceiling", "state", "algorithms", "speed", "quote", "parts"],
    ),
    (
        "limit/counting/algorithms",
        &["debt", "token_bucket", "sliding_window_log", "logged", "fixed_window_counter", "sliding_window_counter"],
    ),
];

/// Rooms that have no row in [`ROOMS`] yet, with all rooms in them. This list must become empty.
const UNLISTED: &[&str] = &[];

/// Rooms in which files, rooms or comments are larger than they may be, with all rooms in them. This list must become
/// empty.
const UNFINISHED: &[&str] = &[];

/// Most lines of a file, without its tests.
const MAX_LINES: usize = 500;

/// Most files in a room, without the rooms in it.
const MAX_FILES: usize = 10;

/// Most columns of a line that is a comment.
const MAX_COLUMNS: usize = 120;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn names(room: &str) -> Names {
    room.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The exception that a room, or a room around it, is.
fn exception(exceptions: &[&'static str], room: &[String]) -> Option<&'static str> {
    exceptions.iter().copied().find(|exception| room.starts_with(&names(exception)))
}

/// What is wrong with the order of one room, by its list.
fn disorder(modules: &Modules, room: &str, list: &[&str]) -> Vec<String> {
    let path = names(room);
    let Some(own) = modules.get(&path) else { return vec![format!("{room}: there is no such room")] };
    let shown = if room.is_empty() { "src" } else { room };
    let mut wrong = Vec::new();
    for (child, test) in &own.children {
        if !test && !list.contains(&child.as_str()) {
            wrong.push(format!("{shown}: module {child} is not in the room's list"));
        }
    }
    let gone = list.iter().filter(|listed| !own.children.contains_key(**listed));
    wrong.extend(gone.map(|listed| format!("{shown}: there is no module {listed}")));
    let inside = modules.iter().filter(|module| module.path.len() > path.len() && module.path.starts_with(&path));
    for module in inside {
        wrong.extend(upward_uses(modules, module, &path, list));
    }
    wrong
}

/// The uses of a module that go up in the list of a room around it.
fn upward_uses(modules: &Modules, module: &Module, room: &[String], list: &[&str]) -> Vec<String> {
    let rank = |name: &String| list.iter().position(|listed| listed == name);
    let own = &module.path[room.len()];
    let mut wrong = Vec::new();
    for used in module.uses.iter().filter(|used| room.is_empty() || !used.test) {
        let Some(home) = modules.home(&used.path).filter(|home| home.starts_with(room)) else { continue };
        let what = used.path.join("::");
        let reason = match home.get(room.len()) {
            None => format!("`{what}` is defined around it, in the room that holds {own}"),
            // A module that is missing in the list is reported once, separately.
            Some(other) => match (rank(own), rank(other)) {
                (Some(own_rank), Some(rank)) if rank < own_rank => {
                    format!("{own} uses `{what}`, but {other} stands above it")
                }
                _ => continue,
            },
        };
        wrong.push(format!("{}:{}: {reason}", module.file.display(), used.line));
    }
    wrong
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let modules = Modules::read(&src());
    assert!(modules.iter().count() > 20);
    let seen = modules.iter().map(|module| module.uses.len()).sum::<usize>();
    assert!(seen > 200, "only {seen} uses were found");
    let mut wrong: Vec<String> = ROOMS.iter().flat_map(|(room, list)| disorder(&modules, room, list)).collect();
    for module in modules.iter().filter(|module| module.file.ends_with("mod.rs") && !module.test) {
        let listed = ROOMS.iter().any(|(room, _)| names(room) == module.path);
        match (listed, exception(UNLISTED, &module.path)) {
            (false, None) => wrong.push(format!("{}: the room is not in ROOMS", module.file.display())),
            (true, Some(room)) if names(room) == module.path => {
                wrong.push(format!("{room} is in ROOMS; take it off UNLISTED"))
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every directory below src/ and its files, the rooms before those in them.
fn rooms(dir: &Path, found: &mut Vec<(Names, Vec<PathBuf>)>) {
    let at = found.len();
    let room = dir.strip_prefix(src()).unwrap().iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    found.push((room, Vec::new()));
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            rooms(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found[at].1.push(path);
        }
    }
}

#[test]
fn files_and_rooms_are_small() {
    let modules = Modules::read(&src());
    let for_tests: Vec<&Path> =
        modules.iter().filter(|module| module.test).map(|module| module.file.as_path()).collect();
    let mut found = Vec::new();
    rooms(&src(), &mut found);
    assert!(found.len() > 5 && !for_tests.is_empty());
    let (mut wrong, mut excused) = (Vec::new(), Vec::new());
    for (room, files) in found {
        let mut here = Vec::new();
        if files.len() > MAX_FILES {
            here.push(format!("{}: {} files, {MAX_FILES} are allowed", room.join("/"), files.len()));
        }
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = if for_tests.contains(&file.as_path()) { 0 } else { lines_without_tests(&text) };
            if lines > MAX_LINES {
                here.push(format!("{}: {lines} lines without tests, {MAX_LINES} are allowed", file.display()));
            }
            // A row of a table can't be broken.
            let is_row = |line: &str| line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with('|');
            let wide = |line: &&str| {
                line.trim_start().starts_with("//") && line.chars().count() > MAX_COLUMNS && !is_row(line)
            };
            if let Some(line) = text.lines().position(|line| wide(&line)) {
                here.push(format!("{}:{}: a comment of more than {MAX_COLUMNS} columns", file.display(), line + 1));
            }
        }
        match exception(UNFINISHED, &room) {
            None => wrong.extend(here),
            Some(room) if !here.is_empty() => excused.push(room),
            Some(_) => {}
        }
    }
    let idle = UNFINISHED.iter().filter(|room| !excused.contains(room));
    wrong.extend(idle.map(|room| format!("{room} is small enough; take it off UNFINISHED")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a message of the log is made of is evaluated only where the message is written: nothing may be done there.
fn is_done_in_messages(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, _) in text.match_indices("log::") {
        let Some((level, rest)) = text[at + 5..].split_once("!(") else { continue };
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            continue;
        }
        // Up to the parenthesis that closes it. None of the literals has a quote within it.
        let (mut open, mut literal, mut code) = (1, false, String::new());
        for letter in rest.chars() {
            match letter {
                '"' => literal = !literal,
                _ if literal => continue,
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                break;
            }
            code.push(letter);
        }
        if code.contains('?') || code.contains("&mut ") || code.contains(".unwrap(") {
            wrong.push(code);
        }
    }
    wrong
}

#[test]
fn nothing_is_done_within_a_message() {
    let seen = is_done_in_messages(r#"log::info!("what? {}", apply(it)?); log::warn!("{}: why?", name(it));"#);
    assert_eq!(seen, [r#""", apply(it)?"#]);
    let mut found = Vec::new();
    rooms(&src(), &mut found);
    for file in found.iter().flat_map(|(_, files)| files) {
        let wrong = is_done_in_messages(&std::fs::read_to_string(file).unwrap());
        assert!(wrong.is_empty(), "{}: {wrong:?}", file.display());
    }
}

/// The order sees what it is to see, in a crate that is made for this test.
#[test]
fn disorder_is_seen() {
    let parent = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = parent.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod room;\npub use room::low::Low;");
    write(
        "room/mod.rs",
        "mod high;\nmod low;\nmod inner;\npub use low::{Low, Low as Other};\npub struct Own;\npub fn x() {}",
    );
    write("room/high.rs", "use super::{low::Low, Other};\nuse crate::room::inner::Deep;");
    write("room/low.rs", "pub struct Low;\n#[cfg(test)]\nmod tests { use super::super::{Own, high::High}; }");
    write("room/inner/mod.rs", "mod deep;\npub use deep::Deep;\nuse super::low;");
    write("room/inner/deep.rs", "pub struct Deep;\nuse crate::Low;");
    let check = |list: &[&str]| {
        let modules = Modules::read(parent.path());
        let mut wrong = disorder(&modules, "room", list);
        wrong.extend(disorder(&modules, "room/inner", &["deep"]));
        let cut = |line: String| line.rsplit('/').next().unwrap().to_owned();
        wrong.into_iter().map(cut).collect::<Vec<_>>()
    };
    let list = ["high", "inner", "low"];
    assert!(check(&list).is_empty(), "{:?}", check(&list));
    assert_eq!(check(&["high", "low"]), ["room: module inner is not in the room's list"]);
    assert_eq!(check(&["high", "inner", "low", "odd"]), ["room: there is no module odd"]);
    let above = check(&["low", "high", "inner"]);
    assert_eq!(above.len(), 4, "{above:?}");
    assert_eq!(above[0], "high.rs:1: high uses `room::low::Low`, but low stands above it");
    assert_eq!(above[1], "high.rs:1: high uses `room::Other`, but low stands above it");
    // What a `mod.rs` defines, from its module, from a module further in, and by a glob.
    for text in ["super::super::Own;", "crate::room::x;", "super::super::*;"] {
        write("room/inner/deep.rs", &format!("use {text}\npub struct Deep;"));
        assert_eq!(check(&list).len(), 1, "{text}");
    }
    write("room/inner/deep.rs", "pub struct Deep;\nfn f() { super::helper() }");
    assert_eq!(check(&list), ["deep.rs:2: `room::inner::helper` is defined around it, in the room that holds deep"]);
}
