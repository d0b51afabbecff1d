//! What new users see: where the data is, and what an error says after a slip.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::util::{command, flint, run};

#[test]
fn the_first_line_of_a_server_names_address_directory_and_limits() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    assert_eq!(flint(&data, &["limit", "add", "a", "1/1h"]).code, Some(0));
    let mut start = command();
    start.current_dir(home.path()).args(["--data-dir", "data", "server", "start", "--bind", "127.0.0.1:0"]);
    let mut child = start.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _ = (child.kill(), child.wait());
    let rest = line.strip_prefix("flint server listening on http://127.0.0.1:").unwrap_or_else(|| panic!("{line}"));
    assert!(rest.ends_with(&format!(" (data in {}, 1 limit)\n", data.display())), "{line}");
}

#[test]
fn the_environment_names_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let (one, other) = (home.path().join("one"), home.path().join("other"));
    let with = |args: &[&str]| run(command().current_dir(home.path()).env("FLINT_DATA_DIR", &one).args(args));
    assert_eq!(with(&["limit", "add", "k", "1/1h"]).code, Some(0));
    assert!(one.join("flint.lock").exists() && !home.path().join(".flint").exists());
    // The option counts before it, and an empty one is none.
    assert_eq!(with(&["--data-dir", other.to_str().unwrap(), "limit", "add", "k", "1/1h"]).code, Some(0));
    assert!(other.join("flint.lock").exists());
    let empty = run(command().current_dir(home.path()).env("FLINT_DATA_DIR", "").args(["limit", "add", "k", "1/1h"]));
    assert_eq!(empty.code, Some(0), "{empty:?}");
    assert!(home.path().join(".flint/flint.lock").exists());
}

#[test]
fn git_leaves_a_directory_out_that_flint_has_made() {
    let home = tempfile::tempdir().unwrap();
    let (made, there) = (home.path().join(".flint"), home.path().join("there"));
    std::fs::create_dir(&there).unwrap();
    for dir in [&made, &there] {
        assert_eq!(flint(dir, &["limit", "add", "k", "1/1h"]).code, Some(0));
    }
    assert_eq!(std::fs::read_to_string(made.join(".gitignore")).unwrap(), "*\n");
    assert!(!there.join(".gitignore").exists(), "a directory of somebody's own keeps its files");
    for args in [&["log", "verify"][..], &["doctor"], &["log", "compact"]] {
        assert_eq!(flint(&made, args).code, Some(0), "{args:?}");
    }
    if Command::new("git").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            run(git.current_dir(home.path()).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", home.path()).args(args))
        };
        assert_eq!(git(&["init", "-q"]).code, Some(0));
        std::fs::remove_dir_all(&there).unwrap();
        assert_eq!(git(&["status", "--porcelain"]).out, "");
    }
}

#[test]
fn a_full_disk_is_told_in_one_line() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let script = "trap '' XFSZ; ulimit -S -f 2; exec \"$@\"";
    let mut add = Command::new("sh");
    add.args(["-c", script, "sh", env!("CARGO_BIN_EXE_flint"), "--data-dir"]).arg(&data).env_remove("FLINT_LOG");
    let full = run(add.args(["limit", "add", "k", "1/1h"]));
    assert_eq!((full.code, full.err.lines().count()), (Some(3), 1), "{full:?}");
    assert!(full.err.starts_with("flint: ") && full.err.contains("make room"), "{full:?}");
}

#[test]
fn a_slip_is_answered_with_the_nearest_word() {
    let home = tempfile::tempdir().unwrap();
    for (args, said) in [
        (&["add", "api"][..], "there is no command `add`; did you mean `limit add`?"),
        (&["limit", "chek", "api"], "there is no command `limit chek`; did you mean `limit check`?"),
        (&["serve", "start"], "there is no command `serve start`; did you mean `server start`?"),
        (&["limit", "add", "api", "1/1h", "--brust=2"], "unknown option `--brust=2`; did you mean `--burst`?"),
        (
            &["limit", "add", "api", "--rate=x", "--per=1h"],
            "--rate must be an integer from 0 to 1000000000000, not `x`",
        ),
        (&["server", "start", "--flush-every-ms=0"], "--flush-every-ms must be from 1 to 3600000, not 0"),
    ] {
        let done = run(command().current_dir(home.path()).args(args));
        assert_eq!((done.code, done.err), (Some(2), format!("flint: {said}\n")), "{args:?}");
    }
    for version in ["--version", "-V"] {
        let done = run(command().arg(version));
        assert_eq!((done.code, done.out), (Some(0), format!("flint {}\n", env!("CARGO_PKG_VERSION"))));
    }
    assert!(home.path().read_dir().unwrap().next().is_none(), "nothing was made");
}

/// It was refused, with the words that it must be 0 or more.
#[test]
fn a_rate_of_0_is_a_limit() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    assert_eq!(flint(&data, &["limit", "add", "closed", "--rate", "0", "--per", "1h"]).code, Some(0));
    let denied = flint(&data, &["limit", "check", "closed"]);
    assert_eq!((denied.code, denied.out.as_str()), (Some(1), "denied, and waiting does not help\n"));
}

/// A wait is printed for people, even if a command is not started.
#[test]
fn a_wait_is_not_told_in_milliseconds() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    assert_eq!(flint(&data, &["limit", "check", "api", "--limit", "1/1d"]).code, Some(0));
    let denied = flint(&data, &["run", "api", "--limit", "1/1d", "--", "true"]);
    let wait = denied.err.trim_end().rsplit("try again in ").next().unwrap();
    assert!(denied.code == Some(75) && ["1d", "23h 59m"].contains(&wait), "{denied:?}");
}
