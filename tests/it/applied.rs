//! Limits that are kept in a file: `limit apply`, `PUT /v1/limits`, `server start --limits`.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::util::{PATIENCE, Server, command_on, flint, run, server_command};

/// Configures one limit of each kind.
fn every_kind(dir: &Path) {
    for words in [
        &["bucket", "10/1s", "--burst", "20"][..],
        &["log", "10/1s", "--algorithm", "sliding_window_log"],
        &["pair", "10/1m", "--algorithm", "sliding_window_counter"],
        &["window", "10/1m", "--algorithm", "fixed_window_counter"],
        &["month", "9/month", "--tz", "Europe/Berlin", "--anchor", "31"],
        &["several", "10/1s", "10/1s sliding_window_log", "5000/day"],
        &["shadow", "1/1h", "--mode", "shadow"],
        &["none", "0/1h"],
        &["free", "--unlimited"],
        &["user:*", "100/1m", "--max-keys", "50"],
        &["org:*", "10/1s, 100/1h"],
        &["odd \"key\" *", "7/1s"],
        &["lasting", "5/1s"],
        &["lasting", "1/1h", "--for", "1h"],
        &["user:banned", "0/1s", "--for", "1h"],
        &["alone", "0/1s", "--for", "1h"],
    ] {
        let done = flint(dir, &[&["limit", "add"], words].concat());
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    for key in ["bucket", "log", "pair", "several", "user:1", "org:1"] {
        assert_eq!(flint(dir, &["limit", "check", key]).code, Some(0), "{key}");
    }
}

/// Writes a file of limits in this directory and returns its name.
fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("limits.json");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_a_list_prints_is_taken_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let (data, other) = (home.path().join("data"), home.path().join("other"));
    every_kind(&data);
    let all = flint(&data, &["limit", "list", "--live", "--json"]).out;
    let listed = flint(&data, &["limit", "list", "--json"]).out;
    for text in [&all, &listed] {
        let path = file(home.path(), text);
        // Nothing is changed where all is so already; values for a time last on.
        for prune in [&[][..], &["--prune"]] {
            let done = flint(&data, &[&["limit", "apply", &path], prune].concat());
            assert_eq!((done.code, &*done.out), (Some(0), "0 limits added, 0 changed, 0 removed\n"), "{done:?}");
        }
        assert_eq!(flint(&data, &["limit", "check", "alone"]).code, Some(1));
        // Elsewhere it makes the same limits, but for those that would have ended.
        let done = flint(&other, &["limit", "apply", &path, "--prune", "--json"]);
        let expected = if text == &all { 13 } else { 0 };
        assert_eq!(done.json(), json!({"ok": true, "added": expected, "changed": 0, "removed": 0}), "{done:?}");
    }
    let values = |dir: &Path| {
        let list = flint(dir, &["limit", "list", "--json"]).json();
        let values = ["key", "rate", "per", "burst", "algorithm", "tz", "anchor", "mode", "unlimited", "max_keys"];
        let of = |limit: &serde_json::Value| {
            let windows = limit["windows"].as_array().cloned().unwrap_or_else(|| vec![limit.clone()]);
            let own = values.map(|name| limit[name].clone()).to_vec();
            (own, windows.iter().map(|window| values.map(|name| window[name].clone())).collect::<Vec<_>>())
        };
        list.as_array().unwrap().iter().filter(|limit| limit["for_until"].is_null()).map(of).collect::<Vec<_>>()
    };
    let copy = values(&other);
    let lasting = copy.iter().position(|(own, _)| own[0] == "lasting").unwrap();
    assert_eq!((&copy[lasting].0[1], copy.len()), (&json!(5), 13), "what comes back is applied");
    let mut rest = copy.clone();
    rest.remove(lasting);
    assert_eq!(rest, values(&data));
}

#[test]
fn a_file_is_applied_as_a_whole_and_told() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    let mut put = |query: &str, body: &str| client.ask("PUT", &format!("/v1/limits{query}"), body);
    let told = |added: u64, changed: u64, removed: u64| json!({"ok": true, "added": added, "changed": changed, "removed": removed});
    let three = r#"[{"key":"a","limit":"1/1h"},{"key":"b","rate":2,"per":"1h"},{"key":"c:*","windows":["3/1h"]}]"#;
    assert_eq!(put("?dry_run=true", three).ok(), told(3, 0, 0));
    assert_eq!(put("", three).ok(), told(3, 0, 0), "a dry run had changed nothing");
    assert_eq!(put("", three).ok(), told(0, 0, 0));
    let other = r#"[{"key":"a","limit":"5/1h"},{"key":"d","limit":"1/1h"}]"#;
    assert_eq!(put("?prune=true&dry_run=true", other).ok(), told(1, 1, 2));
    assert_eq!(put("?prune=false", other).ok(), told(1, 1, 0));
    // A wrong file leaves all of them unchanged.
    for (body, message) in [
        (
            r#"[{"key":"a","limit":"9/1h"},{"key":"b","rate":0.5,"per":"1h"}]"#,
            "item 2: field `rate` must be an integer from 0 to 1000000000000, not 0.5",
        ),
        (r#"[{"key":"a","limit":"9/1h"},{"key":"a","limit":"8/1h"}]"#, "the key `a` is given twice"),
        (r#"[{"key":"a","limit":"9/1h","color":1}]"#, "item 1: unknown field `color`"),
        (r#"[{"limit":"9/1h"}]"#, "item 1: field `key` is missing"),
        (r#"[{"key":"a"}]"#, "item 1: key `a`: "),
        (r#"{"key":"a","limit":"9/1h"}"#, "the body must be an array of limits, such as "),
        ("", "the body is empty; it must be an array of limits"),
    ] {
        let error = put("", body).error(400, "invalid_argument");
        assert!(error.starts_with(message), "{body}: {error}");
    }
    put("?prune=maybe", "[]").error(400, "invalid_argument");
    assert_eq!(put("?dry_run=true", other).ok(), told(0, 0, 0));
    // Figures are taken here only.
    client.post("/v1/limits", r#"[{"key":"a","limit":"9/1h","used":1}]"#).error(400, "invalid_argument");

    // The command asks the same server; a wrong file is named with its line.
    let applied = flint(&data, &["limit", "apply", &file(home.path(), other), "--prune", "--dry-run"]);
    let expected = "nothing is changed; the result would be: 0 limits added, 0 changed, 2 removed\n";
    assert_eq!((applied.code, &*applied.out), (Some(0), expected), "{applied:?}");
    let wrong = file(home.path(), "[\n  {\"key\": \"a\", \"limit\": \"9/1h\"},\n  {\"key\": \"b\", \"rate\": -1}\n]\n");
    let applied = flint(&data, &["limit", "apply", &wrong]);
    let expected =
        format!("flint: {wrong}: item 2: field `rate` must be an integer from 0 to 1000000000000, not -1 (line 3)\n");
    assert_eq!((applied.code, applied.err), (Some(2), expected));
    let broken = file(home.path(), "[\n  {\"key\": \"a\" \"limit\": \"9/1h\"}\n]\n");
    let applied = flint(&data, &["limit", "apply", &broken]);
    assert_eq!(applied.code, Some(2));
    assert!(
        applied.err.starts_with(&format!("flint: {broken} is not JSON: a `,` or `}}` is missing, near `"))
            && applied.err.ends_with("` (line 2)\n"),
        "{applied:?}"
    );
    let missing = flint(&data, &["limit", "apply", "/no/such/file"]);
    assert!(missing.code == Some(2) && missing.err.starts_with("flint: /no/such/file cannot be read: "), "{missing:?}");
    let limits = std::fs::File::open(file(home.path(), other)).unwrap();
    let applied = run(command_on(&data).args(["limit", "apply", "-", "--prune"]).stdin(limits));
    assert_eq!((applied.code, &*applied.out), (Some(0), "0 limits added, 0 changed, 2 removed\n"), "{applied:?}");
    server.terminate();
    let list = flint(&data, &["limit", "list", "--json"]).json();
    let keys: Vec<_> = list.as_array().unwrap().iter().map(|limit| limit["key"].clone()).collect();
    assert_eq!(keys, ["a", "d"]);
}

#[test]
fn a_server_keeps_its_limits_in_a_file() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let good = r#"[{"key":"a","limit":"5/1h"}]"#;
    let path = file(home.path(), "[\n{\"key\": \"a\", \"per\": \"1h\"}\n]");
    // A wrong file is reported before a directory is created.
    let start = ["server", "start", "--bind", "127.0.0.1:0", "--limits", &path];
    let refused = flint(&data, &start);
    let expected = format!("flint: {path}: item 1: key `a`: rate must be given with per, such as 100 (line 2)\n");
    assert_eq!((refused.code, refused.err), (Some(2), expected));
    // What was read once can't be read again.
    let refused = flint(&data, &["server", "start", "--bind", "127.0.0.1:0", "--limits", "-"]);
    let expected = "flint: --limits must be a file, not standard input: it is read again on SIGHUP\n";
    assert_eq!((refused.code, refused.err.as_str()), (Some(2), expected));
    assert!(!data.exists());

    file(home.path(), good);
    let mut start = server_command(&data, "127.0.0.1:0", &["--limits", &path]);
    // Whatever is logged.
    let quiet = home.path().join("quiet");
    for level in ["warn", "off"] {
        let mut start = server_command(&quiet.join(level), "127.0.0.1:0", &["--limits", &path]);
        let server = Server::spawn_for(&quiet.join(level), start.env("FLINT_LOG", level));
        assert_eq!(server.client().get("/v1/limits/a").ok()["rate"], 5, "FLINT_LOG={level}");
        server.terminate();
    }
    let mut server = Server::spawn_for(&data, start.env("FLINT_LOG", "info"));
    let rate = |server: &Server| server.client().get("/v1/limits/a").ok()["rate"].as_u64().unwrap();
    assert_eq!(rate(&server), 5);
    let mut hang_up = |text: &str, told: &str| {
        let before = server.stderr().matches(told).count();
        file(home.path(), text);
        let pid = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let begun = Instant::now();
        while server.stderr().matches(told).count() == before {
            assert!(begun.elapsed() < PATIENCE, "{}", server.stderr());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        rate(&server)
    };
    assert_eq!(hang_up(r#"[{"key":"a","limit":"6/1h"},{"key":"b","limit":"1/1h"}]"#, "1 limit added, 1 changed"), 6);
    let bad = "[{\"key\":\"a\",\"limit\":\"7/1h\"},\n{\"key\":\"b\",\"rate\":\"1\"}]";
    let told = "SIGHUP changed no limit: ";
    assert_eq!(hang_up(bad, told), 6, "a bad file keeps the limits");
    assert_eq!(hang_up("[{\"key\":\"a\",", told), 6);
    assert_eq!(hang_up(r#"[{"key":"a","limit":"8/1h"}]"#, "0 limits added, 1 changed"), 8);
    let err = server.terminate();
    let named = format!("SIGHUP changed no limit: {path}: item 2: field `rate` must be an integer from 0 to");
    assert!(err.contains(&named) && err.contains("(line 2)"), "{err}");
    assert!(err.contains(&format!("{path} is not JSON: it ends within an object")), "{err}");
}
