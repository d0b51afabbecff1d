//! The command line: embedded commands, exit statuses, and what is refused.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::over_store::{self, needs_directory};
use crate::util::{Run, Server, command, command_on, flint, run, server_command};

struct Dir {
    parent: tempfile::TempDir,
    path: PathBuf,
}

impl Dir {
    fn new() -> Dir {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        Dir { parent, path }
    }

    fn run(&self, args: &[&str]) -> Run {
        flint(&self.path, args)
    }

    /// Runs a command that must end with 0 and say nothing on stderr; returns its output.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{args:?}: {run:?}");
        run.out
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!((run.code, run.out.lines().count()), (Some(0), 1), "{args:?}: {run:?}");
        run.json()
    }

    /// Runs a command that must end with this status and one line on stderr, which is returned.
    #[track_caller]
    fn error(&self, code: i32, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{args:?}: {run:?}");
        assert!(run.err.starts_with("flint: ") && run.err.lines().count() == 1, "{args:?}: {run:?}");
        run.err
    }
}

/// A status without what changes only with time.
fn still(mut status: Value) -> Value {
    assert!(status["next_ms"].take().is_number());
    status
}

#[test]
fn an_open_bind_needs_a_token_and_touches_no_file() {
    let dir = Dir::new();
    for address in ["0.0.0.0:0", "[::]:0", "10.255.255.1:7878", "[::ffff:10.0.0.1]:80"] {
        for token in [&[][..], &["--token", ""]] {
            let args = [&["server", "start", "--bind", address][..], token].concat();
            let message = dir.error(2, &args);
            let expected = "flint: refusing to bind shared mode to a non-loopback address without --token: ";
            assert_eq!(message, format!("{expected}{address}\n"));
        }
    }
    let mut empty = command();
    empty.env("FLINT_SERVER_TOKEN", "").arg("--data-dir").arg(&dir.path);
    assert_eq!(run(empty.args(["server", "start", "--bind=0.0.0.0:0"])).code, Some(2));
    assert_eq!(std::fs::read_dir(dir.parent.path()).unwrap().count(), 0);
    // With a token it is not a usage error.
    let server = Server::start_on(&dir.path, "0.0.0.0:0", &["--token", "t"]);
    assert!(server.url.starts_with("http://0.0.0.0:"), "{}", server.url);
    server.terminate();
}

#[test]
fn one_writer_per_directory() {
    if needs_directory() {
        return;
    }
    let dir = Dir::new();
    let server = Server::start(&dir.path, &[]);
    let message = dir.error(3, &["server", "start", "--bind", "127.0.0.1:0"]);
    let locked = format!(
        "data directory is already locked: {} (by process {}); stop that process, or name another directory with \
         --data-dir",
        dir.path.display(),
        server.pid()
    );
    assert!(message.contains(&locked), "{message}");
    server.client().get("/v1/health").ok();
    // A killed owner leaves no lock.
    server.kill();
    Server::start(&dir.path, &[]).terminate();
    dir.ok(&["doctor"]);
}

#[test]
fn limits_embedded() {
    let dir = Dir::new();
    assert!(dir.ok(&["limit", "add", "job", "--rate", "3", "--per", "366d"]).contains("created"));
    assert_eq!(dir.json(&["limit", "add", "job", "--rate=3", "--per=366d"]), json!({"ok": true, "created": false}));
    let args = ["limit", "add", "win", "--rate", "10", "--per", "366d", "--algorithm", "fixed_window_counter"];
    assert_eq!(dir.json(&args), json!({"ok": true, "created": true}));
    dir.ok(&["limit", "add", "ключ/%", "--rate", "1", "--per", "24h", "--burst", "5"]);

    assert!(dir.ok(&["limit", "check", "job"]).contains('2'));
    let decision = dir.json(&["limit", "check", "job", "--cost", "2"]);
    let expected = json!({"key": "job", "allowed": true, "cost": 2, "limit": 3, "remaining": 0, "used": 3,
        "reset_at": decision["reset_at"], "retry_after_ms": 0, "next_ms": decision["next_ms"],
        "algorithm": "token_bucket"});
    assert_eq!(decision, expected);
    let denied = dir.run(&["limit", "check", "job"]);
    assert_eq!((denied.code, denied.err.as_str()), (Some(1), ""), "{denied:?}");
    let denied = dir.run(&["limit", "check", "job", "--json"]);
    assert_eq!((denied.code, &denied.json()["allowed"]), (Some(1), &json!(false)));

    let all = dir.json(&["limit", "check-all", "win", "ключ/%", "--cost", "win=4", "--cost", "ключ/%=2"]);
    assert_eq!((&all["allowed"], &all["denied_key"]), (&json!(true), &Value::Null));
    assert_eq!((&all["results"][0]["remaining"], &all["results"][1]["remaining"]), (&json!(6), &json!(3)));
    let denied = dir.run(&["limit", "check-all", "win", "job", "--json"]);
    assert_eq!((denied.code, &denied.json()["denied_key"]), (Some(1), &json!("job")));
    let denied = dir.run(&["limit", "check-all", "win", "job"]);
    assert!(denied.code == Some(1) && denied.out.contains("job"), "{denied:?}");

    let status = still(dir.json(&["limit", "status", "win"]));
    assert_eq!((&status["remaining"], &status["total_allowed_cost"]), (&json!(6), &json!(4)), "{status}");
    assert_eq!(dir.json(&["limit", "status", "job"])["total_denied"], 4);
    let text = dir.ok(&["limit", "status", "win"]);
    assert!(text.contains("fixed_window_counter") && text.contains("win"), "{text}");
    let listing = dir.json(&["limit", "list"]);
    assert_eq!(listing.as_array().unwrap().iter().map(|one| &one["key"]).collect::<Vec<_>>(), ["job", "win", "ключ/%"]);
    assert_eq!(still(listing[1].clone()), status);
    for page in [&["--prefix", "w"][..], &["--after", "job", "--limit", "1"]] {
        let listing = dir.json(&[&["limit", "list"], page].concat());
        assert_eq!((listing.as_array().unwrap().len(), still(listing[0].clone())), (1, status.clone()));
    }
    let text = dir.ok(&["limit", "list"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert_eq!(dir.json(&["limit", "top"])[0]["key"], "job");
    let top = dir.json(&["limit", "top", "--by", "allowed", "--limit", "1"]);
    assert_eq!((top.as_array().unwrap().len(), &top[0]["key"]), (1, &json!("job")));
    if over_store::is_on() {
        dir.error(2, &["limit", "history", "job"]);
    } else {
        let history = dir.json(&["limit", "history", "job"]);
        assert_eq!((&history[0]["event"], &history[1]["event"]), (&json!("created"), &json!("spent")), "{history}");
        assert!(dir.ok(&["limit", "history", "job"]).lines().count() >= 4);
    }

    assert_eq!(dir.json(&["limit", "reset", "job"]), json!({"ok": true}));
    dir.ok(&["limit", "check", "job"]);
    dir.ok(&["limit", "reset", "win"]);
    assert_eq!(dir.json(&["limit", "remove", "win"]), json!({"ok": true}));
    dir.ok(&["limit", "remove", "job"]);
    assert_eq!(dir.json(&["limit", "list"]).as_array().unwrap().len(), 1);
    for args in [
        &["limit", "check", "job"][..],
        &["limit", "check-all", "ключ/%", "job"],
        &["limit", "status", "job"],
        &["limit", "reset", "job"],
        &["limit", "remove", "job"],
    ] {
        assert!(dir.error(3, args).contains("`job`"), "{args:?}");
    }
    // A key that begins with a dash, after two dashes.
    dir.ok(&["limit", "add", "--rate", "1", "--per", "1d", "--", "--odd"]);
    dir.ok(&["limit", "check", "--", "--odd"]);
}

/// Works alike on the directory and through a server.
fn use_patterns(dir: &Dir) {
    // A check that brings its limit needs nothing before it, not even the directory.
    assert_eq!(dir.ok(&["limit", "check", "signup", "--limit", "2/1d"]), "allowed, 1 of 2 left\n");
    let both = ["limit", "check", "signup", "--limit", "2/1d", "--limit", "100/month"];
    assert_eq!(dir.ok(&both), "allowed, 0 of 2 left (2/1d)\n");
    let denied = dir.run(&both);
    assert_eq!((denied.code, denied.err.as_str()), (Some(1), ""), "{denied:?}");
    let told = ["12h\n", "11h 59m\n"].map(|wait| format!("denied by 2/1d, try again in {wait}"));
    assert!(told.contains(&denied.out), "{denied:?}");
    assert!(dir.error(3, &["limit", "check", "signup"]).contains("`signup`"));
    // A pattern: each key has its own, and what is configured is not changed by what a check brings.
    assert_eq!(dir.ok(&["limit", "add", "user:*", "2/1d", "1000/month", "--max-keys", "50"]), "created\n");
    assert_eq!(dir.ok(&["limit", "add", "user:*", "1000/month, 2/1d", "--max-keys", "50"]), "configured\n");
    for left in ["1", "0"] {
        let decision = dir.json(&["limit", "check", "user:1", "--limit", "1000/1s"]);
        assert_eq!((decision["remaining"].to_string().as_str(), &decision["window"]), (left, &json!("2/1d")));
        assert_eq!((&decision["pattern"], decision["windows"].as_array().unwrap().len()), (&json!("user:*"), 2));
    }
    assert_eq!(dir.run(&["limit", "check", "user:1", "--limit", "1000/1s"]).code, Some(1));
    dir.ok(&["limit", "check", "user:2"]);
    let pattern = dir.json(&["limit", "status", "user:*"]);
    assert_eq!((&pattern["live"], &pattern["max_keys"], &pattern["total_allowed"]), (&json!(2), &json!(50), &json!(3)));
    assert!(dir.ok(&["limit", "status", "user:*"]).contains("\nlive keys     2 of at most 50\n"));
    let text = dir.ok(&["limit", "status", "user:1"]);
    assert!(text.contains("\nlimit         2/1d, 1000/month\nfrom          the pattern user:*\n"), "{text}");
    // Windows are rows below each other, and live keys are listed on request.
    let keys = |args: &[&str]| {
        let list = dir.json(&[&["limit", "list"], args].concat());
        list.as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&[]), ["user:*"]);
    assert_eq!(keys(&["--live"]), ["signup", "user:*", "user:1", "user:2"]);
    assert_eq!(keys(&["--live", "--prefix", "user:1"]), ["user:1"]);
    assert_eq!(keys(&["--pattern", "user:*"]), ["user:1", "user:2"]);
    assert_eq!(keys(&["--pattern", "user:*", "--after", "user:1", "--limit", "1"]), ["user:2"]);
    let table = dir.ok(&["limit", "list", "--live", "--prefix", "user:"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 7, "{table}");
    assert!(
        lines[1].starts_with("2/1d ") && lines[1].contains(" 2 live ") && lines[1].ends_with("  user:*"),
        "{table}"
    );
    assert!(lines[2].starts_with("1000/month ") && lines[2].ends_with('-'), "{table}");
    assert!(
        lines[3].ends_with("  user:1") && lines[4].starts_with("1000/month ") && lines[4].ends_with('Z'),
        "{table}"
    );
    // Many at once.
    dir.ok(&["limit", "reset", "--prefix", "user:1"]);
    assert_eq!(dir.json(&["limit", "check", "user:1"])["remaining"], 1);
    dir.ok(&["limit", "add", "user:9", "5/1d"]);
    assert_eq!(dir.ok(&["limit", "remove", "--prefix", "user:"]), "2 limits removed\n");
    assert_eq!(dir.json(&["limit", "remove", "--prefix", "user:"]), json!({"ok": true, "removed": 0}));
    assert_eq!(keys(&["--live"]), ["signup"]);
    dir.error(3, &["limit", "check", "user:1"]);
}

fn use_modes(dir: &Dir) {
    dir.ok(&["limit", "add", "trial", "1/1d", "--mode", "shadow"]);
    assert_eq!(dir.ok(&["limit", "check", "trial"]), "allowed, 0 of 1 left\n");
    assert_eq!(dir.ok(&["limit", "check", "trial"]), "allowed in shadow mode, which would have been denied\n");
    assert!(dir.ok(&["limit", "status", "trial"]).contains("\nmode          shadow"));
    dir.ok(&["limit", "add", "free", "--unlimited"]);
    assert_eq!(dir.ok(&["limit", "check", "free", "--cost", "1000000"]), "allowed, unlimited\n");
    assert!(dir.ok(&["limit", "list"]).lines().any(|line| line.starts_with("unlimited ") && line.ends_with("  free")));
    dir.ok(&["limit", "add", "closed", "0/1s"]);
    let closed = dir.run(&["limit", "check", "closed"]);
    assert_eq!((closed.code, closed.out.as_str()), (Some(1), "denied, and waiting does not help\n"));
    let vain = dir.run(&["run", "closed", "--wait", "1h", "--", "true"]);
    assert_eq!((vain.code, vain.err.as_str()), (Some(75), "flint: denied by `closed`, and waiting does not help\n"));
    // A raise for a time lies over what is there.
    dir.ok(&["limit", "add", "raised", "1/1d"]);
    assert_eq!(dir.ok(&["limit", "add", "raised", "5/1d", "--for", "2h"]), "configured\n");
    assert_eq!(dir.ok(&["limit", "check", "raised", "--cost", "5"]), "allowed, 0 of 5 left\n");
    let status = dir.json(&["limit", "status", "raised"]);
    assert_eq!((&status["rate"], &status["below"]["rate"]), (&json!(5), &json!(1)));
    let text = dir.ok(&["limit", "status", "raised"]);
    let left =
        |line: &str| ["for           2h, until ", "for           1h 59m, until "].iter().any(|at| line.starts_with(at));
    assert!(text.lines().any(left) && text.contains("\nthen          1/1d\n"), "{text}");
    assert!(dir.ok(&["limit", "list"]).contains("5/1d for "));
    // A month with its own anchor.
    let month = ["limit", "add", "plan", "1000/month", "10/1s", "--tz", "Europe/Berlin", "--anchor", "15"];
    assert_eq!(dir.json(&month)["created"], true);
    let plan = &dir.json(&["limit", "status", "plan"])["windows"][1];
    assert_eq!((&plan["per"], &plan["tz"], &plan["anchor"]), (&json!("month"), &json!("Europe/Berlin"), &json!(15)));
    assert_eq!(dir.run(&["run", "nightly", "--limit", "1/day", "--", "true"]).code, Some(0));
    let again = dir.run(&["run", "nightly", "--limit", "1/day", "--", "true"]);
    assert_eq!(again.code, Some(75), "{again:?}");
}

#[test]
fn patterns_windows_and_limits_that_checks_bring() {
    let dir = Dir::new();
    use_patterns(&dir);
    use_modes(&dir);
    let served = Dir::new();
    let server = Server::start(&served.path, &[]);
    use_patterns(&served);
    use_modes(&served);
    server.terminate();
    // A stop and a start change nothing.
    assert_eq!(served.run(&["limit", "check", "signup", "--limit", "2/1d"]).code, Some(1));
}

#[test]
fn keys_that_checks_bring_are_bounded() {
    let dir = Dir::new();
    let mut server = Server::start(&dir.path, &["--max-keys", "2"]);
    for key in ["a", "b"] {
        assert!(dir.json(&["limit", "check", key, "--limit", "2/1d"])["overflow"].is_null());
    }
    let told = dir.ok(&["limit", "check", "c", "--limit", "2/1d"]);
    assert_eq!(told, "allowed, 1 of 2 left; this key shares its limit with others, because max_keys is reached\n");
    assert_eq!(dir.json(&["limit", "check", "d", "--limit", "2/1d"])["remaining"], 0);
    assert_eq!(dir.run(&["limit", "check", "e", "--limit", "2/1d"]).code, Some(1));
    let doctor = dir.run(&["doctor"]);
    assert!(doctor.code == Some(1) && doctor.out.contains("problem: "), "{doctor:?}");
    assert!(!server.stderr().contains("panicked"));
}

/// A directory whose last record is ahead of the system clock.
fn write_ahead(path: &std::path::Path, ahead: std::time::Duration) {
    let now = flint::Clock::system().now() + ahead.as_micros() as u64;
    let options = flint::Options::default().with_clock(flint::Clock::manual(now));
    let limiter = flint::Limiter::open(path, options).unwrap();
    limiter.configure("slow", "1/2s".parse().unwrap()).unwrap();
    limiter.configure("day", "5/1d".parse().unwrap()).unwrap();
    assert!(limiter.check("slow", 1).unwrap().allowed && limiter.check("day", 3).unwrap().allowed);
    limiter.close().unwrap();
}

#[test]
fn a_log_that_is_ahead_of_the_system_clock_is_told_and_mended() {
    if needs_directory() {
        return;
    }
    for (hours, word) in [(1, "59m"), (10 * 365 * 24, "3649d")] {
        let dir = Dir::new();
        write_ahead(&dir.path, std::time::Duration::from_secs(hours * 3600));
        let notice = "the log is ahead of the system clock by ";
        let verify = dir.ok(&["log", "verify"]);
        assert!(verify.starts_with("ok, ") && verify.contains(notice) && verify.contains(word), "{verify}");
        let ahead = dir.json(&["log", "verify"])["ahead_ms"].as_u64().unwrap();
        assert!((1..60_000).contains(&(hours * 3_600_000 - ahead)), "{ahead}");
        let doctor = dir.run(&["doctor"]);
        assert!(doctor.code == Some(1) && doctor.out.contains(notice), "{doctor:?}");
        let server = Server::start(&dir.path, &[]);
        assert_eq!(dir.run(&["doctor", "--json"]).code, Some(1));
        let log = server.terminate();
        assert!(log.contains(&format!("WARN  {notice}")), "{log}");
        // Limits go on at their pace, in every new command: 2 s are 2 s.
        let begun = std::time::Instant::now();
        assert_eq!(dir.run(&["run", "slow", "--wait", "60s", "--", "true"]).code, Some(0));
        assert_eq!(dir.run(&["run", "slow", "--wait", "60s", "--", "true"]).code, Some(0));
        assert!(begun.elapsed() < std::time::Duration::from_secs(40));

        let to = dir.parent.path().join("mended");
        let repair = dir.ok(&["log", "repair", "--rewind-clock", "--to", to.to_str().unwrap()]);
        assert!(repair.contains("kept: 2 limits"), "{repair}");
        let mended = Dir { parent: tempfile::tempdir().unwrap(), path: to.clone() };
        mended.ok(&["doctor"]);
        assert_eq!(mended.json(&["log", "verify"])["ahead_ms"], Value::Null);
        assert_eq!(mended.json(&["limit", "status", "day"])["remaining"], 2, "what was spent stays spent");
        let more = dir.parent.path().join("more");
        let message = mended.error(2, &["log", "repair", "--rewind-clock", "--to", more.to_str().unwrap()]);
        assert!(message.starts_with("flint: --rewind-clock is for a log that is ahead"), "{message}");
        assert!(!more.exists());
    }
}

#[test]
fn storage_embedded() {
    if needs_directory() {
        return;
    }
    let dir = Dir::new();
    dir.ok(&["limit", "add", "job", "--rate", "3", "--per", "366d"]);
    dir.ok(&["limit", "check", "job"]);
    dir.ok(&["log", "flush"]);
    assert_eq!(dir.json(&["log", "flush"]), json!({"ok": true}));
    let dump = dir.ok(&["log", "dump"]);
    let lines: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["event"] == "spent" && line["key"] == "job"), "{dump}");
    assert_eq!(dir.json(&["log", "verify"])["ok"], true);
    dir.ok(&["log", "verify"]);
    let status = still(dir.json(&["limit", "status", "job"]));
    let compaction = dir.json(&["log", "compact"]);
    assert!(compaction["ok"] == true && compaction["snapshot_bytes"].as_u64().unwrap() > 0, "{compaction}");
    dir.ok(&["log", "compact"]);
    assert_eq!(still(dir.json(&["limit", "status", "job"])), status);
    let doctor = dir.json(&["doctor"]);
    assert_eq!((&doctor["ok"], &doctor["problems"], &doctor["limits"]), (&json!(true), &json!([]), &json!(1)));
    assert!(dir.run(&["doctor", "--json"]).out.starts_with("{\"ok\":true"));
    dir.ok(&["doctor"]);
    // Looking changes no file.
    let files = crate::util::log_files(&dir.path);
    for look in [&["limit", "list"][..], &["limit", "status", "job"], &["log", "dump"], &["log", "verify"], &["doctor"]]
    {
        dir.ok(look);
    }
    assert!(crate::util::log_files(&dir.path) == files);
}

#[test]
fn a_directory_that_is_not_there() {
    if needs_directory() {
        return;
    }
    let dir = Dir::new();
    for args in [
        &["limit", "check", "job"][..],
        &["limit", "check-all", "job"],
        &["limit", "status", "job"],
        &["limit", "list"],
        &["limit", "top"],
        &["limit", "history", "job"],
        &["limit", "reset", "job"],
        &["limit", "remove", "job"],
        &["log", "flush"],
        &["log", "compact"],
        &["log", "dump"],
        &["log", "verify"],
    ] {
        let message = dir.error(3, args);
        assert!(message.contains(dir.path.to_str().unwrap()), "{message}");
    }
    let doctor = dir.run(&["doctor"]);
    assert!(doctor.code.is_some_and(|code| code == 1 || code == 3), "{doctor:?}");
    assert!(!dir.path.exists());
    std::fs::write(&dir.path, "a file").unwrap();
    dir.error(3, &["limit", "add", "job", "--rate", "1", "--per", "1s"]);
    dir.error(3, &["server", "start", "--bind", "127.0.0.1:0"]);
    assert_eq!(std::fs::read_to_string(&dir.path).unwrap(), "a file");
}

#[test]
fn wrong_usage_names_what_is_wrong() {
    let dir = Dir::new();
    let add = ["limit", "add", "job", "--rate", "1", "--per", "1s"];
    let mut wrong = Vec::new();
    for (args, name) in [
        (&[][..], "command"),
        (&["nonsense"], "nonsense"),
        (&["limit"], "limit"),
        (&["limit", "nonsense"], "nonsense"),
        (&["log", "dumb"], "dumb"),
        (&["server"], "server"),
        (&["server", "stop"], "stop"),
        (&["--nonsense", "doctor"], "--nonsense"),
        (&["doctor", "--nonsense"], "--nonsense"),
        (&["doctor", "-x"], "-x"),
        (&["doctor", "more"], "more"),
        (&["limit", "check"], "KEY"),
        (&["limit", "check", "a", "b"], "`b`"),
        (&["limit", "check", "a", "--cost"], "--cost"),
        (&["limit", "check", "a", "--cost", "x"], "--cost"),
        (&["limit", "check", "a", "--cost", "-1"], "--cost"),
        (&["limit", "check", "a", "--cost", "1.5"], "--cost"),
        (&["limit", "check", "a", "--cost", "1", "--cost", "2"], "--cost"),
        (&["limit", "check-all"], "KEY"),
        (&["limit", "check-all", "a", "--cost", "5"], "--cost"),
        (&["limit", "check-all", "a", "--cost", "b=5"], "--cost"),
        (&["limit", "check-all", "a", "--cost", "a=1", "--cost", "a=2"], "--cost"),
        (&["limit", "add", "job", "--per", "1s"], "--rate"),
        (&["limit", "add", "job", "--rate", "1"], "--per"),
        (&["limit", "add", "--rate", "1", "--per", "1s"], "KEY"),
        (&["limit", "add", "job"], "RATE/PER"),
        (&["limit", "add", "job", "5"], "RATE/PER"),
        (&["limit", "add", "job", "5/1x"], "`5/1x`"),
        (&["limit", "add", "job", "1/1s", "1/1s"], "windows"),
        (&["limit", "add", "job", "1/1s", "--rate", "1"], "--rate"),
        (&["limit", "add", "job", "1/1s", "--unlimited"], "--unlimited"),
        (&["limit", "add", "job", "1/1s", "2/1s", "--burst", "5"], "--burst"),
        (&["limit", "add", "job", "1/1s", "--tz", "Europe/Berlin"], "--tz"),
        (&["limit", "add", "job", "1/day", "--tz", "Mars/Olympus"], "Mars/Olympus"),
        (&["limit", "add", "job", "1/day", "--anchor", "5"], "--anchor"),
        (&["limit", "add", "job", "1/month", "--anchor", "32"], "--anchor"),
        (&["limit", "add", "job", "1/1s", "--mode", "loud"], "--mode"),
        (&["limit", "add", "job", "1/1s", "--for", "0s"], "--for"),
        (&["limit", "add", "job", "1/1s", "--for", "367d"], "--for"),
        (&["limit", "add", "job", "1/1s", "--max-keys", "5"], "--max-keys"),
        (&["limit", "add", "job*", "1/1s", "--max-keys", "0"], "--max-keys"),
        (&["limit", "check", "job", "--limit", "5"], "--limit"),
        (&["limit", "check", "job", "--limit", "5/1x"], "--limit"),
        (&["run", "job", "--limit", "5", "--", "true"], "--limit"),
        (&["limit", "add", "job", "--rate", "--per", "1s"], "--rate"),
        (&["limit", "add", "job", "--rate", "1", "--per", "1x"], "--per"),
        (&["limit", "add", "job", "--rate", "1", "--per", "367d"], "--per"),
        (&[&add[..], &["--algorithm", "leaky"]].concat(), "--algorithm"),
        (&[&add[..], &["--burst", "0"]].concat(), "--burst"),
        (&[&add[..], &["--algorithm", "sliding_window_log", "--burst", "2"]].concat(), "--burst"),
        (&[&add[..], &["--rate", "2"]].concat(), "--rate"),
        (&[&add[..], &["--json", "--json"]].concat(), "--json"),
        (&[&add[..], &["--colour=red"]].concat(), "--colour"),
        (&["limit", "list", "more"], "more"),
        (&["limit", "list", "--limit", "x"], "--limit"),
        (&["limit", "top", "--by", "size"], "--by"),
        (&["limit", "status"], "KEY"),
        (&["limit", "history"], "KEY"),
        (&["limit", "reset"], "KEY"),
        (&["limit", "reset", "a", "--prefix", "a"], "--prefix"),
        (&["limit", "remove"], "KEY"),
        (&["limit", "remove", "--prefix="], "--prefix"),
        (&["limit", "remove", "a", "b"], "`b`"),
        (&["log", "flush", "now"], "now"),
        (&["log", "verify", "--deep"], "--deep"),
        (&["server", "start", "--port=80"], "--port"),
        (&["server", "start", "--port", "80"], "--port"),
        (&["server", "start", "--bind"], "--bind"),
        (&["server", "start", "--bind", "--sync"], "--bind"),
        (&["server", "start", "--bind", "localhost"], "--bind"),
        (&["server", "start", "--bind=127.0.0.1:99999"], "--bind"),
        (&["server", "start", "--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0"], "--bind"),
        (&["server", "start", "--sync", "never"], "--sync"),
        (&["server", "start", "--flush-every-ms", "0"], "--flush-every-ms"),
        (&["server", "start", "--flush-every-ms", "x"], "--flush-every-ms"),
        (&["server", "start", "--flush-every-events", "0"], "--flush-every-events"),
        (&["server", "start", "--max-blocking", "0"], "--max-blocking"),
        (&["server", "start", "--max-blocking", "4097"], "--max-blocking"),
        (&["server", "start", "--compact-after", "many"], "--compact-after"),
        (&["server", "start", "--max-keys", "0"], "--max-keys"),
        (&["server", "start", "--socket-mode", "9"], "--socket-mode"),
        (&["server", "start", "--token-file", "/nonexistent/file"], "--token-file"),
        (&["server", "start", "--token", "a", "--token", "b"], "--token"),
        (&["server", "start", "more"], "more"),
        (&["help", "nonsense"], "nonsense"),
        (&["--data-dir", "elsewhere", "doctor"], "--data-dir"),
    ] {
        let run = dir.run(args);
        if over_store::is_on() && args == ["--data-dir", "elsewhere", "doctor"] {
            // It is there once, and goes before FLINT_SERVER.
            continue;
        }
        let said = run.err.starts_with("flint: ") && run.err.contains(name) && run.err.lines().count() == 1;
        if run.code != Some(2) || !run.out.is_empty() || !said {
            wrong.push(format!("{args:?}: {run:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(run(command().args(["doctor", "--data-dir"])).code, Some(2));
    assert_eq!(run(command().args(["--data-dir", "", "doctor"])).code, Some(2));
    assert_eq!(std::fs::read_dir(dir.parent.path()).unwrap().count(), 0, "wrong usage touches no file");
    // A cost that can never be is wrong usage too, and never a denial.
    dir.ok(&add);
    assert!(dir.error(2, &["limit", "check", "job", "--cost", "2"]).contains("job"));
    assert!(dir.error(2, &["limit", "check", "job", "--cost", "0"]).contains("cost"));
    dir.error(2, &["limit", "check-all", "job", "job"]);
    assert!(dir.error(2, &["limit", "check", ""]).contains("key"));
    dir.error(2, &["limit", "check-all", "job", "--cost", "job=2"]);
}

#[test]
fn help_for_every_command() {
    let dir = Dir::new();
    let whole = dir.ok(&["help"]);
    assert_eq!(dir.ok(&["--help"]), whole);
    let commands = [
        (&["server", "start"][..], "--bind"),
        (&["limit", "add"], "--rate"),
        (&["limit", "check"], "--limit"),
        (&["limit", "check-all"], "--cost"),
        (&["limit", "status"], "KEY"),
        (&["limit", "list"], "--live"),
        (&["limit", "reset"], "--prefix"),
        (&["limit", "remove"], "--prefix"),
        (&["limit", "top"], "--by"),
        (&["limit", "history"], "KEY"),
        (&["log", "flush"], "--json"),
        (&["log", "compact"], "--json"),
        (&["log", "dump"], "--json"),
        (&["log", "verify"], "--json"),
        (&["log", "repair"], "--rewind-clock"),
        (&["doctor"], "--json"),
        (&["run"], "--wait"),
        (&["completions"], "bash, zsh or fish"),
    ];
    for (command, option) in commands {
        let help = dir.ok(&[&["help"], command].concat());
        let name = command.join(" ");
        assert!(help.starts_with(&format!("Usage: flint {name}")), "{help}");
        assert!(help.contains(option) && help.contains("Exit status"), "{help}");
        assert!(whole.contains(&name), "{whole}");
        assert_eq!(dir.ok(&[command, &["--help"]].concat()), help);
        assert_eq!(dir.ok(&[command, &["-h"]].concat()), help);
    }
    assert!(dir.ok(&["help", "help"]).starts_with("Usage: flint help [COMMAND]"));
    assert!(dir.ok(&["limit", "add", "job", "--help"]).starts_with("Usage: flint limit add KEY"));
    for group in ["limit", "log", "server"] {
        assert!(dir.ok(&["help", group]).contains(&format!("  {group} ")), "{group}");
    }
    for (words, told) in [
        (&["limit"][..], "`limit` needs another word: add, check"),
        (&["limit", "ad"], "no command `limit ad`; did you mean `limit add`?"),
        (&["limit", "quota"], "no command `limit quota`; `limit` has add, check"),
        (&["quota"], "no command `quota`; `flint help`"),
        (&["limti", "add"], "no command `limti add`; did you mean `limit add`?"),
        (&["doctor", "--jsno"], "unknown option `--jsno`; did you mean `--json`?"),
        (&["doctor", "--odd"], "unknown option `--odd`; `flint help doctor` lists them"),
        (&["help", "log", "odd"], "no command `log odd`; `log` has flush"),
    ] {
        assert!(dir.error(2, words).contains(told), "{words:?}");
    }
    let start = dir.ok(&["help", "server", "start"]);
    for option in ["--token", "--token-file", "--sync", "--flush-every-ms", "--flush-every-events", "--max-blocking"] {
        assert!(start.contains(option), "{option}");
    }
    assert_eq!(dir.ok(&["--version"]), format!("flint {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!dir.path.exists());
}

#[test]
fn commands_wait_for_each_other() {
    let dir = Dir::new();
    dir.ok(&["limit", "add", "job", "--rate", "5", "--per", "366d"]);
    let codes: Vec<_> = std::thread::scope(|scope| {
        let commands: Vec<_> = (0..4).map(|_| scope.spawn(|| dir.run(&["limit", "check", "job"]).code)).collect();
        commands.into_iter().map(|command| command.join().unwrap()).collect()
    });
    // On a slow machine one may give up its wait (3); none may be denied.
    assert!(codes.iter().all(|code| [Some(0), Some(3)].contains(code)), "{codes:?}");
    let done = codes.iter().filter(|code| **code == Some(0)).count();
    assert!(done > 0);
    assert_eq!(dir.json(&["limit", "status", "job"])["total_allowed"], done);
}

#[test]
fn columns_stand_below_each_other_whatever_the_keys() {
    let dir = Dir::new();
    let long = "x".repeat(512);
    let keys = ["--dash", "a \"b\" %41/\\", "e\u{301}", &long, "\u{65e5}\u{672c}", "\u{1f469}\u{200d}\u{1f467}"];
    for key in keys {
        dir.ok(&["limit", "add", "--rate", "1000000000000", "--per", "366d", "--", key]);
    }
    dir.ok(&["limit", "add", "small", "--rate", "1", "--per", "1s", "--algorithm", "sliding_window_log"]);
    for args in [&["limit", "list"][..], &["limit", "top", "--by", "allowed"]] {
        let table = dir.ok(args);
        let heads = table.lines().next().unwrap();
        let starts = ["ALGORITHM", "RESET AT", "KEY"].map(|head| heads.find(head).unwrap());
        let ends = ["REMAINING", "ALLOWED", "DENIED"].map(|head| heads.find(head).unwrap() + head.len());
        assert_eq!(table.lines().count(), keys.len() + 2, "{table}");
        for line in table.lines().skip(1) {
            // There are two blanks after a column's end and before its start, and the key ends the line.
            assert!(starts.iter().all(|at| &line[at - 2..*at] == "  " && line.as_bytes()[*at] != b' '), "{table}");
            assert!(ends.iter().all(|at| &line[*at..at + 2] == "  " && line.as_bytes()[at - 1] != b' '), "{table}");
            let key = &line[starts[2]..];
            assert!(keys.contains(&key) || key == "small", "{key}");
        }
    }
}

#[test]
fn the_longest_status_is_read_from_a_server() {
    let dir = Dir::new();
    let server = Server::start(&dir.path, &[]);
    let key = "\"".repeat(511);
    let zone = "tz=America/Argentina/ComodRivadavia";
    let windows = |rate: u64| {
        let calendar = ["day", "week", "month", "quarter", "year"];
        let calendar = calendar.map(|unit| match unit {
            "day" | "week" => format!("{rate}/{unit} {zone}"),
            _ => format!("{rate}/{unit} {zone} anchor=31"),
        });
        let others = [31_622_399_999_u64, 31_622_399_998, 31_622_399_997];
        let others = others.map(|ms| format!("{rate}/{ms}ms sliding_window_counter"));
        calendar.into_iter().chain(others).collect::<Vec<_>>().join(", ")
    };
    dir.ok(&["limit", "add", &format!("{key}*"), &windows(999_999_999_999)]);
    let key = format!("{key}x");
    dir.ok(&["limit", "check", &key, "--cost", "999999999"]);
    dir.ok(&["limit", "add", &key, &windows(999_999_999_998)]);
    dir.ok(&["limit", "add", &key, &windows(899_999_999_999), "--for", "366d"]);
    let longest = dir.ok(&["limit", "list", "--live", "--prefix", &key, "--limit", "1", "--json"]);
    assert!((4500..flint::bounds::MAX_STATUS_BYTES).contains(&longest.len()), "{}", longest.len());
    assert_eq!(dir.json(&["limit", "top", "--by", "allowed", "--limit", "1"]).as_array().unwrap().len(), 1);
    let decision = dir.ok(&["limit", "check", &key, "--json"]);
    assert!(decision.len() * flint::bounds::MAX_ITEMS < flint::bounds::MAX_REPLY_BYTES, "{}", decision.len());
    server.terminate();
}

#[test]
fn a_reader_that_goes_is_no_news_and_a_full_disk_is() {
    let dir = Dir::new();
    dir.ok(&["limit", "add", "job", "--rate", "3", "--per", "366d"]);
    let into = |stdout: std::process::Stdio, args: &[&str]| {
        let mut started = match args {
            ["server", "start"] => server_command(&dir.path, "127.0.0.1:0", &[]),
            _ => command_on(&dir.path),
        };
        started.args(args.iter().filter(|_| args != ["server", "start"]));
        let done = started.stdout(stdout).stderr(std::process::Stdio::piped()).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    // A store has no log to dump.
    let last = if over_store::is_on() { &["limit", "top"] } else { &["log", "dump"] };
    for args in [&["limit", "list"][..], &["limit", "list", "--json"], &["help"], &["doctor"], last] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(into(writer.into(), args), (Some(3), String::new()), "{args:?}");
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (code, told) = into(full.into(), args);
        assert!(code == Some(3) && told.starts_with("flint: cannot write to standard output: "), "{args:?}: {told}");
    }
    // A server does not end without a word.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (code, told) = into(writer.into(), &["server", "start"]);
    assert!(code == Some(3) && told.contains("ERROR cannot write to standard output: "), "{told}");
    // An answer that was not received was not given.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(into(writer.into(), &["limit", "check", "job"]), (Some(3), String::new()));
}

#[test]
fn log_lines_tell_the_time_or_the_journal_their_priority() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new();
    let path = dir.parent.path().join("log");
    let logged = |journal: &str| {
        let file = std::fs::File::create(&path).unwrap();
        let id = file.metadata().unwrap();
        let mut start = command();
        start.env("JOURNAL_STREAM", journal.replace("FILE", &format!("{}:{}", id.dev(), id.ino())));
        // It warns of the token, and then of the address.
        start.args(["server", "start", "--token", "secret", "--bind", "odd"]).stderr(file);
        assert_eq!(start.output().unwrap().status.code(), Some(2));
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(rest.starts_with("flint: --bind") && !text.contains("secret"), "{text}");
        first.to_owned()
    };
    let warning = "--token is visible in the list of processes; --token-file and FLINT_SERVER_TOKEN are not";
    for elsewhere in ["", "1:2", "odd"] {
        let line = logged(elsewhere);
        let (time, rest) = line.split_once(' ').unwrap();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!((shape.as_str(), rest), ("0000-00-00T00:00:00.000Z", format!("WARN  {warning}").as_str()));
    }
    assert_eq!(logged("FILE"), format!("<4>{warning}"));
}
