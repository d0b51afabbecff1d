//! What survives `kill -9`, SIGTERM and damaged files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::util::{Client, PATIENCE, Server, flint, flint_killed, frames, log_files, segments, still};

const ALGORITHMS: [&str; 4] = ["token_bucket", "fixed_window_counter", "sliding_window_log", "sliding_window_counter"];
const KEYS: [&str; 4] = ["a", "b", "c", "route:/v1/chat"];
const CONNECTIONS: usize = 8;

fn configure(client: &mut Client, key: &str, algorithm: &str, rate: u64, burst: Option<u64>) {
    let mut body = json!({"key": key, "rate": rate, "per": "366d", "algorithm": algorithm});
    if let Some(burst) = burst {
        body["burst"] = burst.into();
    }
    assert_eq!(client.post("/v1/limits", &body.to_string()).ok(), json!({"ok": true, "created": true}));
}

/// The state of all limits, but for what runs down. All of it holds still: the periods are a year long.
fn statuses(server: &Server) -> Value {
    still(server.client().get("/v1/limits").ok())
}

fn total_allowed(statuses: &Value) -> BTreeMap<String, u64> {
    let statuses = statuses.as_array().unwrap().iter();
    statuses
        .map(|status| (status["key"].as_str().unwrap().to_owned(), status["total_allowed"].as_u64().unwrap()))
        .collect()
}

/// One limit of each algorithm, with a history.
fn make_history(client: &mut Client) {
    for algorithm in ALGORITHMS {
        match algorithm {
            "token_bucket" => configure(client, algorithm, algorithm, 1, Some(1000)),
            _ => configure(client, algorithm, algorithm, 1000, None),
        }
        let check = |client: &mut Client, cost: u64| {
            client.post("/v1/check", &json!({"key": algorithm, "cost": cost}).to_string()).ok()
        };
        assert_eq!(check(client, 1000)["remaining"], 0, "{algorithm}");
        client.post("/v1/reset", &json!({"key": algorithm}).to_string()).ok();
        for cost in 1..=30 {
            assert_eq!(check(client, cost)["allowed"], true, "{algorithm}");
        }
        assert_eq!(check(client, 900)["allowed"], false, "{algorithm}");
    }
    let items: Vec<Value> = ALGORITHMS.iter().map(|key| json!([key, 5])).collect();
    assert_eq!(client.post("/v1/check-all", &json!({"items": items}).to_string()).ok()["allowed"], true);
    for (key, remaining) in ALGORITHMS.iter().map(|key| (key, 1000 - 465 - 5)) {
        assert_eq!(client.get(&format!("/v1/limits/{key}")).ok()["remaining"], remaining, "{key}");
    }
    // Counters of denials may lag in the log until then.
    client.post("/v1/log/flush", "").ok();
}

#[test]
fn every_algorithm_is_the_same_after_term_and_after_kill() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &[]);
    make_history(&mut server.client());
    let before = statuses(&server);
    assert_eq!(before.as_array().unwrap().len(), 4);
    assert!(before.as_array().unwrap().iter().all(|status| status["total_denied"] == 1), "{before}");

    assert_eq!(server.terminate(), "");
    let server = Server::start(&dir, &[]);
    assert_eq!(statuses(&server), before, "after SIGTERM");
    server.kill();
    let server = Server::start(&dir, &[]);
    assert_eq!(statuses(&server), before, "after kill -9 of a server that wrote nothing");
    let mut client = server.client();
    for key in ALGORITHMS {
        client.post("/v1/check", &json!({"key": key, "cost": 7}).to_string()).ok();
    }
    let before = statuses(&server);
    server.kill();
    let mut server = Server::start(&dir, &[]);
    assert_eq!(statuses(&server), before, "after kill -9");
    assert_eq!(server.stderr(), "");
    // The same after a compaction, and for the command line.
    server.client().post("/v1/log/compact", "").ok();
    server.kill();
    let server = Server::start(&dir, &[]);
    assert_eq!(statuses(&server), before, "after compaction and kill -9");
    let (code, _) = server.stop("INT");
    assert_eq!(code, Some(0));
    assert_eq!(still(flint(&dir, &["limit", "list", "--json"]).json()), before);
}

/// Checks per key: sent, answered as allowed, and answered before a flush was asked for that was answered.
#[derive(Default)]
struct Counts {
    sent: [AtomicU64; KEYS.len()],
    answered: [AtomicU64; KEYS.len()],
    flushed: [AtomicU64; KEYS.len()],
}

/// Puts load on a server from several connections until `end`, given the server, has ended it.
fn under_load(server: Server, compact: bool, flush: bool, enough: u64, end: impl FnOnce(Server)) -> Counts {
    let counts = Counts::default();
    let done = AtomicBool::new(false);
    let url = server.url.clone();
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let (counts, url, done) = (&counts, &url, &done);
            scope.spawn(move || {
                let mut client = Client::new(url, None);
                for turn in connection.. {
                    let key = turn % KEYS.len();
                    let body = format!("{{\"key\":\"{}\"}}", KEYS[key]);
                    counts.sent[key].fetch_add(1, Ordering::SeqCst);
                    match client.try_ask("POST", "/v1/check", &body) {
                        Ok(reply) => {
                            assert_eq!(reply.ok()["allowed"], true, "{reply:?}");
                            counts.answered[key].fetch_add(1, Ordering::SeqCst);
                        }
                        Err(_) => break,
                    }
                }
                assert!(done.load(Ordering::SeqCst), "a connection broke while the server was meant to live");
            });
        }
        if compact {
            let url = &url;
            scope.spawn(move || {
                let mut client = Client::new(url, None);
                while client.try_ask("POST", "/v1/log/compact", "").is_ok_and(|reply| reply.status == 200) {}
            });
        }
        if flush {
            let (counts, url) = (&counts, &url);
            scope.spawn(move || {
                let mut client = Client::new(url, None);
                loop {
                    let answered = counts.answered.each_ref().map(|count| count.load(Ordering::SeqCst));
                    if !client.try_ask("POST", "/v1/log/flush", "").is_ok_and(|reply| reply.status == 200) {
                        break;
                    }
                    answered.iter().zip(&counts.flushed).for_each(|(now, count)| count.store(*now, Ordering::SeqCst));
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        let answered = || counts.answered.iter().map(|count| count.load(Ordering::SeqCst)).sum::<u64>();
        while answered() < enough && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(500));
        }
        done.store(true, Ordering::SeqCst);
        assert!(answered() >= enough, "only {} answers", answered());
        end(server);
    });
    counts
}

/// What is there must be no less than what was answered (`keeps_all`) or flushed, and no more than what was sent.
fn compare(
    before: &BTreeMap<String, u64>,
    counts: &Counts,
    after: &BTreeMap<String, u64>,
    keeps_all: bool,
    what: &str,
) {
    assert_eq!(after.len(), KEYS.len(), "{what}");
    let promised = if keeps_all { &counts.answered } else { &counts.flushed };
    for (index, key) in KEYS.iter().enumerate() {
        let (sent, promised) = (counts.sent[index].load(Ordering::SeqCst), promised[index].load(Ordering::SeqCst));
        let recovered = after[*key] - before[*key];
        assert!(recovered >= promised, "{what}: {key}: {promised} were promised and {recovered} are left");
        assert!(recovered <= sent, "{what}: {key}: {sent} were sent and {recovered} are counted");
    }
}

fn loaded(dir: &Path, args: &[&str]) -> Server {
    let server = Server::start(dir, args);
    let mut client = server.client();
    for key in KEYS {
        configure(&mut client, key, "fixed_window_counter", 1_000_000_000, None);
    }
    server
}

/// In `relaxed` what was flushed is left.
#[test]
fn nothing_answered_is_lost_in_thirty_kills() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let mut server = loaded(&dir, &["--sync", "always"]);
    let mut before = total_allowed(&statuses(&server));
    let modes = ["always", "batch", "relaxed"];
    for (round, (sync, next)) in (0..30).zip(modes.iter().cycle().zip(modes.iter().cycle().skip(1))) {
        let (compact, flush) = (round % 2 == 1, *sync == "relaxed");
        let enough = 20 + round * 37 % 200;
        let counts = under_load(server, compact, flush, enough, |server| {
            server.kill();
        });
        server = Server::start(&dir, &["--sync", next]);
        let after = total_allowed(&statuses(&server));
        compare(&before, &counts, &after, !flush, &format!("round {round}, {sync}"));
        before = after;
    }
    server.terminate();
    let verify = flint(&dir, &["log", "verify", "--json"]);
    assert_eq!((verify.code, &verify.json()["ok"]), (Some(0), &json!(true)), "{verify:?}");
}

#[test]
fn nothing_answered_is_lost_by_sigterm() {
    for args in [["--sync", "always"], ["--sync", "batch"], ["--sync", "relaxed"]] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let mut server = loaded(&dir, &args);
        let mut before = total_allowed(&statuses(&server));
        for round in 0..3 {
            let counts = under_load(server, round == 1, false, 150, |server| {
                server.terminate();
            });
            server = Server::start(&dir, &args);
            let after = total_allowed(&statuses(&server));
            compare(&before, &counts, &after, true, &format!("{args:?} round {round}"));
            before = after;
        }
    }
}

/// A log of some frames, left by a server that was killed or stopped.
fn some_log(dir: &Path, kill: bool) -> Value {
    let server = Server::start(dir, &[]);
    let mut client = server.client();
    configure(&mut client, "k", "fixed_window_counter", 1000, None);
    for _ in 0..40 {
        client.post("/v1/check", r#"{"key":"k"}"#).ok();
    }
    client.post("/v1/log/flush", "").ok();
    let before = statuses(&server);
    if kill {
        drop(server.kill())
    } else {
        drop(server.terminate())
    }
    before
}

#[test]
fn a_flipped_byte_is_refused_by_name_and_changes_nothing() {
    for kill in [true, false] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let before = some_log(&dir, kill);
        let segment = segments(&dir).pop().unwrap();
        let good = std::fs::read(&segment).unwrap();
        let (offsets, _) = frames(&good);
        assert!(offsets.len() > 30, "{}", offsets.len());
        let middle = offsets[offsets.len() / 2];
        // In the file's header, in a frame's magic, in its header, in its first record.
        for (flipped, named) in
            [(20, 0), (64, 64), (64 + 42, 64), (middle + 5, middle), (middle + 20, middle), (middle + 41, middle)]
        {
            let mut bad = good.clone();
            bad[flipped] ^= 0x10;
            std::fs::write(&segment, &bad).unwrap();
            let files = log_files(&dir);
            let place = format!("{} is damaged at offset {named}:", segment.display());
            let run = flint(&dir, &["server", "start", "--bind", "127.0.0.1:0"]);
            assert_eq!(run.code, Some(3), "{run:?}");
            assert!(run.err.starts_with("flint: ") && run.err.contains(&place), "{place} {run:?}");
            assert_eq!((run.out.as_str(), run.err.lines().count()), ("", 1), "{run:?}");
            let run = flint(&dir, &["limit", "check", "k"]);
            assert!(run.code == Some(3) && run.err.contains(&place), "{run:?}");
            for command in [&["doctor"][..], &["log", "verify"]] {
                let run = flint(&dir, command);
                assert!(run.code == Some(1) && run.out.contains(&place), "{run:?}");
            }
            assert!(log_files(&dir) == files, "a file was changed (byte {flipped} of {})", segment.display());
        }
        std::fs::write(&segment, &good).unwrap();
        let server = Server::start(&dir, &[]);
        assert_eq!(statuses(&server), before);
    }
}

#[test]
fn garbage_behind_the_last_frame_is_cut_with_a_warning() {
    let mut torn = b"FLfr".to_vec();
    torn.extend([7; 40]);
    for garbage in [vec![0xab; 100], torn, b"FL".to_vec()] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let before = some_log(&dir, true);
        let segment = segments(&dir).pop().unwrap();
        let mut bytes = std::fs::read(&segment).unwrap();
        let (_, end) = frames(&bytes);
        assert!(bytes.len() > end + garbage.len(), "a killed server leaves a tail of zeros");
        // The copy of a mark, if the log had the time to write one.
        bytes[end..].fill(0);
        bytes[end..end + garbage.len()].copy_from_slice(&garbage);
        std::fs::write(&segment, &bytes).unwrap();

        let verify = flint(&dir, &["log", "verify", "--json"]);
        assert_eq!(verify.json()["torn"]["offset"], end, "{verify:?}");
        let mut server = Server::start(&dir, &[]);
        let err = server.stderr();
        let name = segment.file_name().unwrap().to_str().unwrap();
        assert!(err.contains("WARN") && err.contains(name) && err.contains(&end.to_string()), "{err}");
        assert_eq!(statuses(&server), before);
        server.kill();
        let mut server = Server::start(&dir, &[]);
        assert_eq!(server.stderr(), "", "the warning comes once");
        assert_eq!(statuses(&server), before);
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    some_log(&dir, false);
    let segment = segments(&dir).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&segment, &bytes).unwrap();
    let files = log_files(&dir);
    let run = flint(&dir, &["server", "start", "--bind", "127.0.0.1:0"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("version 9") && run.err.contains(segment.to_str().unwrap()), "{run:?}");
    assert!(log_files(&dir) == files);
}

/// Each with what doctor says of it, and its exit status.
#[test]
fn directories_that_cannot_be_opened_are_told_of_with_a_way_out() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);
    let make = |name: &str| {
        some_log(&at(name), false);
        at(name)
    };
    std::fs::write(at("file"), "").unwrap();
    let (directory, emptied, gone) = (make("directory"), make("emptied"), make("gone"));
    std::fs::create_dir(directory.join("0000000002.aof")).unwrap();
    std::fs::write(segments(&emptied).pop().unwrap(), "").unwrap();
    // The snapshot of a compaction without the log after it, which has its markers.
    assert_eq!(flint(&gone, &["log", "compact"]).code, Some(0));
    let segment = segments(&gone).pop().unwrap();
    std::fs::remove_file(&segment).unwrap();
    let stranger = make("stranger");
    let mut other = std::fs::read(segments(&directory)[0].clone()).unwrap();
    other[16] = 2;
    let crc = crc32fast::hash(&other[..60]);
    other[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(stranger.join("0000000002.aof"), other).unwrap();
    for (dir, code, what, way_out) in [
        (at("missing"), 3, "does not exist", "flint limit add"),
        (at("file"), 3, "is not a directory", "name another data directory"),
        (directory, 3, "0000000002.aof: Is a directory", "move it away"),
        (emptied, 1, "0000000001.aof is damaged at offset 0: the file is shorter", "flint log repair"),
        (gone, 1, &format!("{} is missing", segment.display()), "flint log repair"),
        (stranger, 1, "0000000002.aof is damaged at offset 24: its header says that it belongs to another", "repair"),
    ] {
        let files = if dir.is_dir() && code == 1 { log_files(&dir) } else { Vec::new() };
        for command in [&["doctor"][..], &["log", "verify"]] {
            let run = flint(&dir, command);
            let said = format!("{}{}", run.out, run.err);
            assert!(run.code == Some(code) && said.contains(what) && said.contains(way_out), "{what}: {run:?}");
        }
        if dir != at("missing") {
            let run = flint(&dir, &["server", "start", "--bind", "127.0.0.1:0"]);
            assert!(run.code == Some(3) && run.err.contains(what) && run.err.contains(way_out), "{what}: {run:?}");
        }
        assert!(files.is_empty() || log_files(&dir) == files, "{what}: a file was changed");
    }
}

/// Foreign files are neither read nor removed, whatever their names look like.
#[test]
fn files_of_others_are_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let before = some_log(&dir, true);
    let foreign = ["notes.txt", "1.aof", "0000000009.snapshot.bak", "notes.new", "0000000001.log", "x.aof.new"];
    for name in foreign {
        std::fs::write(dir.join(name), name).unwrap();
    }
    assert_eq!(flint(&dir, &["log", "verify"]).code, Some(0));
    let server = Server::start(&dir, &[]);
    assert_eq!(statuses(&server), before);
    server.client().post("/v1/log/compact", "").ok();
    server.terminate();
    for name in foreign {
        assert_eq!(std::fs::read_to_string(dir.join(name)).unwrap(), name);
    }
}

#[test]
fn a_start_that_is_killed_changes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let before = some_log(&dir, true);
    for round in 0..30 {
        let after = Duration::from_micros(round * 700);
        match round % 3 {
            2 => flint_killed(&dir, &["log", "compact"], after),
            _ => flint_killed(&dir, &["server", "start", "--bind", "127.0.0.1:0"], after),
        }
        if round % 6 == 5 {
            let server = Server::start(&dir, &[]);
            assert_eq!(statuses(&server), before, "round {round}");
            server.kill();
        }
    }
    assert_eq!(still(flint(&dir, &["limit", "list", "--json"]).json()), before);
}

#[test]
fn a_full_disk_is_told_and_forgets_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    // The first step of zero-filling fits, and not much more.
    let mut server = Server::start_on_small_disk(&dir, 300);
    let mut client = server.client();
    configure(&mut client, "k", "fixed_window_counter", 1000, None);
    for _ in 0..10 {
        client.post("/v1/check", r#"{"key":"k"}"#).ok();
    }
    let long = "x".repeat(480);
    let mut configured = 0;
    let refused = loop {
        let body = json!({"key": format!("{configured:04}{long}"), "rate": 1, "per": "366d"});
        let reply = client.post("/v1/limits", &body.to_string());
        if reply.status != 200 {
            break reply;
        }
        configured += 1;
        assert!(configured < 2000, "the disk never was full");
    };
    let message = refused.error(503, "log_failed");
    assert!(!message.is_empty() && configured > 10, "{configured}");
    let mut spent = 10;
    while client.post("/v1/check", r#"{"key":"k"}"#).status == 200 {
        spent += 1;
        assert!(spent <= 1000, "a check was allowed beyond the limit");
    }
    let reply = client.post("/v1/check", r#"{"key":"k"}"#);
    reply.error(503, "log_failed");
    let health = client.get("/v1/health");
    assert_eq!((health.status, &health.json()["ok"]), (503, &json!(false)), "{health:?}");
    assert!(health.json()["error"].is_string(), "{health:?}");
    let doctor = client.get("/v1/doctor").json();
    assert!(doctor["ok"] == false && doctor["problems"].as_array().is_some_and(|all| !all.is_empty()), "{doctor}");
    // Reading goes on, and what was refused was not spent.
    assert_eq!(client.get("/v1/limits/k").ok()["total_allowed"], spent);
    assert!(server.stderr().contains(" ERROR "), "the operator is told on stderr");
    let keys = total_allowed(&statuses(&server));
    assert_eq!(keys.len(), configured + 1);
    if server.make_room() {
        let deadline = Instant::now() + PATIENCE;
        while client.post("/v1/check", r#"{"key":"k"}"#).status != 200 {
            assert!(Instant::now() < deadline, "service should resume once there is room");
            std::thread::sleep(Duration::from_millis(20));
        }
        spent += 1;
        while client.get("/v1/health").status != 200 {
            assert!(Instant::now() < deadline, "health should be good once there is room");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(client.get("/v1/limits/k").ok()["total_allowed"], spent);
    }
    server.kill();
    let server = Server::start(&dir, &[]);
    let recovered = total_allowed(&statuses(&server));
    assert_eq!(recovered["k"], spent);
    assert!(recovered.keys().eq(keys.keys()), "{} of {} limits are left", recovered.len(), keys.len());
}
