//! `flint run`: quota first, then the command in its place.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::over_store::needs_directory;
use crate::util::{Run, Server, command_on, flint, run};

fn add(dir: &Path, key: &str, rate: &str, per: &str) {
    let args = ["limit", "add", "--rate", rate, "--per", per, "--algorithm", "fixed_window_counter", "--", key];
    assert_eq!(flint(dir, &args).code, Some(0));
}

fn remaining(dir: &Path, key: &str) -> u64 {
    flint(dir, &["limit", "status", "--json", "--", key]).json()["remaining"].as_u64().unwrap()
}

#[track_caller]
fn said(run: &Run, code: i32, word: &str) {
    assert_eq!((run.code, run.err.lines().count()), (Some(code), 1), "{run:?}");
    assert!(run.err.starts_with("flint: ") && run.err.contains(word), "{run:?}");
}

fn check_run(dir: &Path) {
    add(dir, "job", "5", "366d");
    let ok = flint(dir, &["run", "job", "--", "sh", "-c", "echo out; echo err >&2; exit 42", "sh", "--cost"]);
    assert_eq!((ok.code, ok.out.as_str(), ok.err.as_str()), (Some(42), "out\n", "err\n"));
    assert_eq!(flint(dir, &["run", "--cost=2", "job", "--", "true"]).code, Some(0));
    // Arguments reach the command as they are, also those that look like ours.
    let echo = flint(dir, &["run", "job", "--", "printf", "%s|", "--cost", "", "--", "--json", "a b"]);
    assert_eq!((echo.code, echo.out.as_str()), (Some(0), "--cost||--|--json|a b|"), "{echo:?}");
    assert_eq!(remaining(dir, "job"), 1);
    let killed = flint(dir, &["run", "job", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.code, None, "the signal is the command's own: {killed:?}");
    let denied = flint(dir, &["run", "job", "--", "touch", "/nonexistent/never"]);
    said(&denied, 75, "denied by `job`");
    assert_eq!(denied.out, "");
    let denied = flint(dir, &["--json", "run", "job", "--", "true"]);
    said(&denied, 75, "try again in");
    assert_eq!(denied.json()["allowed"], false);
    // Cron mails every word that a job writes.
    for words in [&["run", "job", "--quiet", "--", "true"][..], &["--json", "run", "job", "--quiet", "--", "true"]] {
        let denied = flint(dir, words);
        assert_eq!((denied.code, &*denied.out, &*denied.err), (Some(75), "", ""), "{words:?}");
    }
    let denied = flint(dir, &["run", "job", "--quiet", "--wait", "1ms", "--", "true"]);
    assert_eq!((denied.code, &*denied.out, &*denied.err), (Some(75), "", ""));
    said(&flint(dir, &["run", "job", "--quiet", "--", "/no/such/program"]), 127, "not found");
    let denied = flint(dir, &["limit", "check", "job", "--quiet"]);
    assert_eq!((denied.code, &*denied.out, &*denied.err), (Some(1), "", ""));
    // A key that begins with a dash.
    add(dir, "--odd", "1", "366d");
    assert_eq!(flint(dir, &["run", "--", "--odd", "--", "true"]).code, Some(0));
    assert_eq!(flint(dir, &["run", "--", "--odd", "--", "true"]).code, Some(75));
}

#[test]
fn a_limit_that_is_brought_needs_no_configuration() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let backup = ["run", "backup", "--limit", "1/day", "--limit", "100/1h", "--", "echo", "ran"];
    let first = flint(&dir, &backup);
    assert_eq!((first.code, first.out.as_str()), (Some(0), "ran\n"), "{first:?}");
    said(&flint(&dir, &backup), 75, "denied by `backup`");
    // What an operator configures counts before it.
    add(&dir, "backup", "3", "366d");
    assert_eq!(flint(&dir, &backup).code, Some(0));
    assert_eq!(remaining(&dir, "backup"), 1);
    said(&flint(&dir, &["run", "other", "--limit", "1/day", "--cost", "2", "--", "true"]), 3, "cost");
    said(&flint(&dir, &["run", "other", "--limit", "1", "--", "true"]), 2, "--limit");
}

#[test]
fn the_command_takes_the_place() {
    let parent = tempfile::tempdir().unwrap();
    check_run(&parent.path().join("alone"));
    let served = parent.path().join("served");
    let server = Server::start(&served, &[]);
    check_run(&served);
    server.terminate();
}

#[test]
fn the_directory_is_free_while_the_command_runs() {
    if needs_directory() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    add(&dir, "job", "5", "366d");
    let inner = format!("'{}' --data-dir '{}' limit check job", env!("CARGO_BIN_EXE_flint"), dir.display());
    let nested = flint(&dir, &["run", "job", "--", "sh", "-c", &inner]);
    assert_eq!((nested.code, nested.out.as_str()), (Some(0), "allowed, 3 of 5 left\n"), "{nested:?}");
}

#[test]
fn what_cannot_start_spends_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    add(&dir, "job", "1", "366d");
    let plain = parent.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let (plain, folder) = (plain.to_str().unwrap(), parent.path().to_str().unwrap());
    for (name, code) in [
        ("no-such-command-at-all", 127),
        ("/nonexistent/command", 127),
        ("", 127),
        (plain, 126),
        (folder, 126),
        ("/etc", 126),
    ] {
        let run = flint(&dir, &["run", "job", "--", name]);
        said(&run, code, "no quota was spent");
    }
    // A script whose interpreter is not there.
    let script = parent.path().join("script");
    std::fs::write(&script, "#! /nonexistent/interpreter -x\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    said(&flint(&dir, &["run", "job", "--", script.to_str().unwrap()]), 126, "interpreter");
    // A file in PATH that can't be executed, as sh has it; and the first that can.
    let bin = parent.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("tool"), "#!/bin/sh\necho found\n").unwrap();
    let with_path = || {
        let path = format!("/nonexistent:{}:/usr/bin:/bin", bin.display());
        run(command_on(&dir).env("PATH", path).args(["run", "job", "--", "tool"]))
    };
    said(&with_path(), 126, "cannot be executed");
    assert_eq!(remaining(&dir, "job"), 1);
    std::fs::set_permissions(bin.join("tool"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(with_path().out, "found\n");
    assert_eq!(remaining(&dir, "job"), 0);
    for (args, code, word) in [
        (&["run", "nobody", "--", "true"][..], 3, "`nobody`"),
        (&["run", "job", "--cost", "2", "--wait", "1h", "--", "true"], 3, "cost"),
        (&["run", "job", "--cost", "0", "--", "true"], 2, "--cost"),
        (&["run", "job", "--wait", "soon", "--", "true"], 2, "--wait must be"),
        (&["run", "job", "--wait", "0s", "--", "true"], 2, "--wait"),
        (&["run", "job"], 2, "COMMAND"),
        (&["run", "job", "--"], 2, "COMMAND"),
        (&["run", "job", "true"], 2, "`true`"),
        (&["run", "--", "true"], 2, "KEY"),
        (&["run"], 2, "KEY"),
        (&["run", "job", "--odd", "--", "true"], 2, "--odd"),
    ] {
        said(&flint(&dir, args), code, word);
    }
}

#[test]
fn waiting() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    add(&dir, "soon", "1", "300ms");
    add(&dir, "late", "1", "366d");
    for key in ["soon", "late"] {
        assert_eq!(flint(&dir, &["limit", "check", key]).code, Some(0));
    }
    // The window ends long before the patience does.
    assert_eq!(flint(&dir, &["run", "soon", "--wait", "100s", "--", "true"]).code, Some(0));
    // It can't be in time: that is reported at once.
    let started = Instant::now();
    let vain = flint(&dir, &["run", "late", "--wait", "1h", "--", "true"]);
    said(&vain, 75, "--wait");
    assert!(started.elapsed() < Duration::from_secs(60));
    // While it waits, others use the directory, and may give the quota back.
    add(&dir, "busy", "1", "100s");
    assert_eq!(flint(&dir, &["limit", "check", "busy"]).code, Some(0));
    let mut waiting = command_on(&dir);
    let mut waiting =
        waiting.args(["run", "busy", "--wait", "200s", "--", "true"]).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(flint(&dir, &["limit", "check", "late"]).code, Some(1));
    assert!(waiting.try_wait().unwrap().is_none(), "it waits");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}
