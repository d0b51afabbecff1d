//! Commands that need the data directory at the same time: they queue for it, in order.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::util::{PATIENCE, Run, Server, command, flint};

/// Starts a command and does not wait for it.
fn start(dir: &Path, args: &[&str]) -> Child {
    let mut command = command();
    command.arg("--data-dir").arg(dir).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn finish(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn done(child: Child) {
    let run = finish(child);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
}

fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Holds a file's lock as another process would.
fn hold(path: &Path) -> File {
    let file = File::open(path).unwrap();
    fs4::FileExt::lock(&file).unwrap();
    file
}

fn total_allowed(dir: &Path, key: &str) -> serde_json::Value {
    flint(dir, &["limit", "status", key, "--json"]).json()["total_allowed"].clone()
}

/// Waits until the command sleeps in the queue.
fn until_queued(child: &Child) {
    let waits = format!(" {} ", child.id());
    let is_queued = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&waits))
    };
    until("the command is in the queue", is_queued);
}

/// Waits until the command is the first in the queue.
fn until_first(dir: &Path, child: &Child) {
    let note = format!("{}\n", child.id());
    until("the command is first", || std::fs::read_to_string(dir.join("flint.queue")).is_ok_and(|text| text == note));
}

/// A minute of cron: the directory is not there yet, and nothing serves it.
#[test]
fn hundreds_at_once_are_all_done() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let args = ["run", "api", "--limit", "100000/1d", "--wait", "100s", "--", "true"];
    let jobs: Vec<Child> = (0..200).map(|_| start(&dir, &args)).collect();
    jobs.into_iter().for_each(done);
    assert_eq!(total_allowed(&dir, "api"), 200);
    assert_eq!(flint(&dir, &["log", "verify"]).code, Some(0));
}

#[test]
fn a_lock_that_is_held_for_a_while_is_waited_for() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "api", "100/1d"]).code, Some(0));
    // Longer than a command waited once.
    const HELD: Duration = Duration::from_secs(3);
    let lock = hold(&dir.join("flint.lock"));
    let started = Instant::now();
    let waiting = [
        start(&dir, &["run", "api", "--wait", "100s", "--", "true"]),
        start(&dir, &["limit", "check", "api"]),
        start(&dir, &["limit", "status", "api"]),
        start(&dir, &["limit", "add", "other", "1/1s"]),
    ];
    std::thread::sleep(HELD);
    drop(lock);
    waiting.into_iter().for_each(done);
    assert!(started.elapsed() < HELD + Duration::from_secs(7), "nobody waits for its time to be over");
    assert_eq!(total_allowed(&dir, "api"), 2);
}

#[test]
fn first_come_first_served() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "api", "100/1d"]).code, Some(0));
    let lock = hold(&dir.join("flint.lock"));
    let args = ["run", "api", "--wait", "100s", "--", "true"];
    let first = start(&dir, &args);
    until_first(&dir, &first);
    let mut rest: Vec<Child> = (0..8)
        .map(|number| {
            let key = format!("job-{number}");
            let child = start(&dir, &["limit", "add", &key, "1/1d"]);
            until_queued(&child);
            child
        })
        .collect();
    // A command that is killed leaves no gap.
    let mut killed = rest.remove(3);
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(lock);
    rest.into_iter().for_each(done);
    done(first);
    let dump = flint(&dir, &["log", "dump"]);
    let keys: Vec<_> = dump.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
    let keys: Vec<_> = keys.iter().filter_map(|record| record["key"].as_str()?.strip_prefix("job-")).collect();
    assert_eq!(keys, ["0", "1", "2", "4", "5", "6", "7"], "{}", dump.out);
}

/// What was denied once is denied, also if there is no time left to ask again.
#[test]
fn a_denial_stays_the_answer_while_another_has_the_directory() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "api", "1/3s"]).code, Some(0));
    let denials = || flint(&dir, &["limit", "status", "api", "--json"]).json()["total_denied"].as_u64().unwrap();
    // On a machine that is too slow the quota comes back before the lock is held.
    for _ in 0..20 {
        let spent = Instant::now();
        flint(&dir, &["limit", "check", "api"]);
        let before = denials();
        let waiting = start(&dir, &["run", "api", "--wait", "3100ms", "--", "true"]);
        until("it is denied", || denials() > before);
        let lock = hold(&dir.join("flint.lock"));
        let in_time = spent.elapsed() < Duration::from_millis(2500);
        let run = finish(waiting);
        drop(lock);
        if in_time {
            assert_eq!(run.code, Some(75), "{run:?}");
            assert!(run.err.starts_with("flint: denied by `api`, try again in "), "{run:?}");
            return;
        }
    }
    panic!("twenty times too slow");
}

/// A process that holds the directory and does not go on: each command ends after its own wait, and names this process.
#[test]
fn a_holder_that_is_stopped() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &[]);
    assert_eq!(flint(&dir, &["limit", "add", "api", "100/1d"]).code, Some(0));
    let note = format!("{}\n", json!({"pid": server.pid(), "url": null}));
    // As though it were a command: no server is to be asked there.
    std::fs::write(dir.join("flint.lock"), note).unwrap();
    signal("STOP", server.pid());
    let started = Instant::now();
    let waiting: Vec<(u64, Child)> =
        [900, 500, 700].map(|ms| (ms, start(&dir, &["run", "api", "--wait", &format!("{ms}ms"), "--", "true"]))).into();
    for (ms, child) in waiting {
        let run = finish(child);
        assert!(started.elapsed() >= Duration::from_millis(ms), "{run:?}");
        let expected = format!(
            "flint: data directory is already locked: {} (by process {}), and was not released within {ms}ms; \
             check what that process is doing, or try again\n",
            dir.display(),
            server.pid()
        );
        assert_eq!((run.code, run.err.as_str()), (Some(3), expected.as_str()), "{run:?}");
    }
    assert!(started.elapsed() < PATIENCE);
    signal("CONT", server.pid());
    server.client().get("/v1/health").ok();
    server.terminate();
}

/// One of the queue that is stopped at its head.
#[test]
fn a_head_of_the_queue_that_is_stopped() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "api", "100/1d"]).code, Some(0));
    let lock = hold(&dir.join("flint.lock"));
    let first = start(&dir, &["run", "api", "--wait", "100s", "--", "true"]);
    until_first(&dir, &first);
    signal("STOP", first.id());
    drop(lock);
    let late = flint(&dir, &["run", "api", "--wait", "300ms", "--", "true"]);
    assert_eq!(late.code, Some(3), "{late:?}");
    let by = format!("already locked: {} (by process {}), and was not released", dir.display(), first.id());
    assert!(late.err.contains(&by), "{late:?}");
    // A server needs no place, and commands go through it: also a command that already waits.
    let waiting = start(&dir, &["run", "api", "--wait", "100s", "--", "true"]);
    until_queued(&waiting);
    let server = Server::start(&dir, &[]);
    assert_eq!(flint(&dir, &["limit", "check", "api"]).code, Some(0));
    done(waiting);
    signal("CONT", first.id());
    done(first);
    assert_eq!(server.client().get("/v1/limits/api").ok()["total_allowed"], 3);
    server.terminate();
}

/// A server that starts among many commands is not kept from it by their number.
#[test]
fn a_server_starts_among_commands() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let args = ["run", "api", "--limit", "100000/1d", "--wait", "100s", "--", "true"];
    let jobs: Vec<Child> = (0..100).map(|_| start(&dir, &args)).collect();
    until("a command has begun", || dir.join("flint.queue").exists());
    let server = Server::start(&dir, &[]);
    jobs.into_iter().for_each(done);
    assert_eq!(server.client().get("/v1/limits?live=true").ok()[0]["total_allowed"], 100);
    server.terminate();
}

fn signal(name: &str, pid: u32) {
    let sent = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}
