//! Holds, slots, looks, charges and refunds: over HTTP, by commands, and by `flint run --hold`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::over_store::{self, needs_directory};
use crate::util::{Client, PATIENCE, Reply, Run, Server, command_on, flint, run};

fn post(client: &mut Client, path: &str, body: Value) -> Reply {
    client.post(path, &body.to_string())
}

fn configure(client: &mut Client, key: &str, limit: Value) {
    post(client, "/v1/limits", json!({"key": key, "limit": limit})).ok();
}

fn status(client: &mut Client, key: &str) -> Value {
    client.get(&format!("/v1/limits/{key}")).ok()
}

fn hold(client: &mut Client, body: Value) -> String {
    post(client, "/v1/hold", body).ok()["hold"].as_str().expect("it is held").to_owned()
}

/// A window that ends in no test, and another that counts exactly too.
const YEAR: &str = "100/366d fixed_window_counter";

/// What a field of a decision or a settlement says.
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_hold_is_settled_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    configure(&mut client, "tokens", json!([YEAR, "1000/day"]));
    let reply = post(&mut client, "/v1/hold", json!({"key": "tokens", "cost": 40, "ttl": "90s"}));
    let held = reply.ok();
    assert_eq!((&held["key"], &held["allowed"], &held["remaining"]), (&json!("tokens"), &json!(true), &json!(60)));
    assert_eq!((&held["ttl_ms"], held["windows"].as_array().unwrap().len()), (&json!(90_000), 2));
    assert!(held["expires_at"].as_str().unwrap().ends_with('Z'), "{held}");
    assert!(reply.header("RateLimit").unwrap().contains("\"100/366d\";r=60"), "{reply:?}");
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    let id = held["hold"].as_str().unwrap();
    assert!(id.len() <= 40 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{id}");

    let settled = post(&mut client, "/v1/settle", json!({"hold": id, "cost": 15})).ok();
    let item = json!({"key": "tokens", "held": 40, "cost": 15, "remaining": 85, "debt": 0});
    assert_eq!(settled, json!({"ok": true, "late": false, "results": [item]}));
    assert_eq!(post(&mut client, "/v1/settle", json!({"hold": id, "cost": 15})).ok(), settled, "the same again");
    let other = post(&mut client, "/v1/settle", json!({"hold": id, "cost": 16}));
    assert!(other.error(409, "hold_settled").contains("another cost"), "{other:?}");
    post(&mut client, "/v1/settle", json!({"hold": id})).error(409, "hold_settled");
    post(&mut client, "/v1/renew", json!({"hold": id})).error(409, "hold_settled");
    assert_eq!(status(&mut client, "tokens")["used"], 15);

    // More than was held, past the limit; and as it was held.
    let id = hold(&mut client, json!({"key": "tokens", "cost": 5}));
    let settled = post(&mut client, "/v1/settle", json!({"hold": id, "cost": 100})).ok();
    assert_eq!((&settled["results"][0]["debt"], &settled["results"][0]["remaining"]), (&json!(15), &json!(0)));
    post(&mut client, "/v1/refund", json!({"key": "tokens", "cost": 115})).ok();
    let id = hold(&mut client, json!({"key": "tokens"}));
    assert_eq!(post(&mut client, "/v1/settle", json!({"hold": id})).ok()["results"][0]["cost"], 1);
    assert_eq!(status(&mut client, "tokens")["used"], 1);
    // If its limit is gone, the answer says that nothing is configured.
    let id = hold(&mut client, json!({"key": "tokens"}));
    client.ask("DELETE", "/v1/limits/tokens", "").ok();
    let settled = post(&mut client, "/v1/settle", json!({"hold": id, "cost": 9})).ok();
    let item = json!({"key": "tokens", "held": 1, "cost": 9, "remaining": null, "debt": 0, "configured": false});
    assert_eq!(settled["results"], json!([item]));
    server.terminate();
}

#[test]
fn slots_are_taken_until_they_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    post(&mut client, "/v1/limits", json!({"key": "gpu", "slots": 4})).ok();
    let reply = post(&mut client, "/v1/hold", json!({"key": "gpu", "cost": 3}));
    let held = reply.ok();
    let told = ["limit", "remaining", "used", "algorithm"].map(|field| held[field].clone());
    assert_eq!(told, [json!(4), json!(1), json!(3), json!(null)]);
    assert_eq!(reply.header("RateLimit-Policy"), Some("\"slots\";q=4"));
    assert!(reply.header("RateLimit").unwrap().starts_with("\"slots\";r=1;t="), "{reply:?}");
    let denied = post(&mut client, "/v1/hold", json!({"key": "gpu", "cost": 2})).ok();
    assert_eq!((&denied["allowed"], &denied["hold"]), (&json!(false), &json!(null)));
    assert!((1..=60_000).contains(&number(&denied["retry_after_ms"])), "{denied}");
    let denied = post(&mut client, "/v1/hold?status=429", json!({"key": "gpu", "cost": 2}));
    assert_eq!((denied.status, denied.header("Retry-After").is_some()), (429, true), "{denied:?}");
    post(&mut client, "/v1/hold", json!({"key": "gpu", "cost": 5})).error(400, "cost_exceeds_capacity");
    for path in ["/v1/check", "/v1/charge", "/v1/refund"] {
        let error = post(&mut client, path, json!({"key": "gpu", "cost": 1})).error(400, "invalid_argument");
        assert_eq!(error, "`gpu` has slots; use hold to take them", "{path}");
    }
    assert_eq!(post(&mut client, "/v1/peek", json!({"key": "gpu"})).ok()["allowed"], true);
    assert_eq!(post(&mut client, "/v1/peek", json!({"key": "gpu", "cost": 2})).ok()["allowed"], false);

    let gpu = status(&mut client, "gpu");
    let told = ["slots", "remaining", "used", "rate"].map(|field| gpu[field].clone());
    assert_eq!(told, [json!(4), json!(1), json!(3), json!(null)]);
    let [only] = gpu["holds"].as_array().unwrap().as_slice() else { panic!("{gpu}") };
    assert_eq!((&only["hold"], &only["cost"], &only["expires_at"]), (&held["hold"], &json!(3), &held["expires_at"]));
    assert!(number(&only["left_ms"]) + number(&only["age_ms"]) >= 60_000, "{only}");
    let listed = client.get("/v1/limits").ok();
    assert_eq!((&listed[0]["slots"], &listed[0]["used"], &listed[0]["holds"]), (&json!(4), &json!(3), &json!(null)));

    // Whatever it cost, all slots come back; even after a crash.
    server.kill();
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    assert_eq!(status(&mut client, "gpu")["holds"][0]["hold"], held["hold"]);
    let settled = post(&mut client, "/v1/settle", json!({"hold": held["hold"], "cost": 0})).ok();
    assert_eq!(settled["results"], json!([{"key": "gpu", "held": 3, "cost": 3, "remaining": 4, "debt": 0}]));
    assert_eq!(status(&mut client, "gpu")["holds"], json!([]));
    // A request may bring slots.
    let brought = json!({"key": "job:7", "limit": {"slots": 1}});
    hold(&mut client, brought.clone());
    assert_eq!(post(&mut client, "/v1/hold", brought).ok()["allowed"], false);
    server.terminate();
}

#[test]
fn one_hold_of_several_keys_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    configure(&mut client, "org", json!(YEAR));
    configure(&mut client, "user", json!(YEAR));
    configure(&mut client, "streams", json!("slots=2"));
    let items = json!([["org", 40], "streams", {"key": "user", "cost": 10}]);
    let held = post(&mut client, "/v1/hold", json!({"items": items, "ttl": 3600})).ok();
    assert_eq!(
        (&held["allowed"], &held["denied_key"], &held["ttl_ms"]),
        (&json!(true), &json!(null), &json!(3_600_000))
    );
    assert_eq!(held["results"].as_array().unwrap().len(), 3);
    let denied = post(&mut client, "/v1/hold", json!({"items": ["streams", ["org", 61]]})).ok();
    assert_eq!((&denied["allowed"], &denied["denied_key"]), (&json!(false), &json!("org")));
    assert_eq!(status(&mut client, "streams")["used"], 1, "nothing was held");
    let id = held["hold"].as_str().unwrap();
    let one_cost = post(&mut client, "/v1/settle", json!({"hold": id, "cost": 3}));
    assert!(one_cost.error(400, "invalid_argument").contains("several keys"), "{one_cost:?}");
    let unknown = post(&mut client, "/v1/settle", json!({"hold": id, "costs": {"nobody": 3}}));
    assert!(unknown.error(400, "invalid_argument").contains("`nobody`"), "{unknown:?}");
    let settled = post(&mut client, "/v1/settle", json!({"hold": id, "costs": {"org": 55}})).ok();
    let costs: Vec<u64> = settled["results"].as_array().unwrap().iter().map(|item| number(&item["cost"])).collect();
    assert_eq!(costs, [55, 1, 10]);
    let used = ["org", "user", "streams"].map(|key| number(&status(&mut client, key)["used"]));
    assert_eq!(used, [55, 10, 0]);
    server.terminate();
}

#[test]
fn what_runs_out_is_free_and_can_still_be_settled() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    configure(&mut client, "org", json!(YEAR));
    configure(&mut client, "gpu", json!("slots=1"));
    let items = json!({"items": [["org", 40], "gpu"], "ttl": 1});
    let id = hold(&mut client, items.clone());
    // It lasts longer when it is renewed, and as long as before when nothing else is said.
    let renewed = post(&mut client, "/v1/renew", json!({"hold": id, "ttl": "2s"})).ok();
    assert_eq!((&renewed["ok"], &renewed["ttl_ms"]), (&json!(true), &json!(2000)));
    let renewed = post(&mut client, "/v1/renew", json!({"hold": id})).ok();
    assert!([1000, 2000].contains(&number(&renewed["ttl_ms"])), "{renewed}");
    assert!(renewed["expires_at"].is_string(), "{renewed}");
    // Its time goes on while no request comes, and while no process runs.
    server.kill();
    let begun = Instant::now();
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    let again = loop {
        let reply = post(&mut client, "/v1/hold", items.clone()).ok();
        match reply["hold"].as_str() {
            Some(id) => break id.to_owned(),
            None => assert!(begun.elapsed() < PATIENCE, "{reply}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    post(&mut client, "/v1/renew", json!({"hold": id})).error(410, "hold_expired");
    let late = post(&mut client, "/v1/settle", json!({"hold": id, "costs": {"org": 1}})).ok();
    assert_eq!((&late["late"], &late["results"][0]["cost"]), (&json!(true), &json!(1)));
    assert_eq!(number(&status(&mut client, "org")["used"]), 41, "the second is as it was");
    assert_eq!(number(&status(&mut client, "gpu")["used"]), 1, "the slot is not that of the first");
    post(&mut client, "/v1/settle", json!({"hold": again})).ok();
    let metrics = client.get("/v1/metrics").body;
    let doctor = client.get("/v1/doctor").ok();
    let told = |line: &str| assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
    told("flint_holds 0");
    assert_eq!(number(&doctor["holds"]), 0);
    // Which of the servers over a store finds that a hold has run out is chance: none counts these.
    if !over_store::is_on() {
        told("flint_holds_expired_total 1");
        told("flint_holds_late_total 1");
        assert_eq!(["holds_expired", "holds_late"].map(|name| number(&doctor[name])), [1, 1]);
    }
    server.terminate();
}

#[test]
fn there_are_so_many_holds() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--max-holds", "2"]);
    let mut client = server.client();
    configure(&mut client, "org", json!(YEAR));
    let first = hold(&mut client, json!({"key": "org"}));
    hold(&mut client, json!({"key": "org"}));
    let refused = post(&mut client, "/v1/hold", json!({"key": "org"}));
    assert!(refused.error(503, "too_many_holds").contains("--max-holds"), "{refused:?}");
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(number(&status(&mut client, "org")["used"]), 2, "nothing was spent");
    post(&mut client, "/v1/settle", json!({"hold": first})).ok();
    hold(&mut client, json!({"key": "org"}));
    server.terminate();
}

#[test]
fn looks_charges_and_refunds() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    configure(&mut client, "org", json!(YEAR));
    let peek = post(&mut client, "/v1/peek", json!({"key": "org", "cost": 30}));
    assert_eq!((&peek.ok()["allowed"], &peek.ok()["remaining"]), (&json!(true), &json!(70)));
    assert!(peek.header("RateLimit").is_some(), "{peek:?}");
    let all = post(&mut client, "/v1/peek", json!({"items": [["org", 1], {"key": "new", "limit": "5/1h"}]})).ok();
    assert_eq!((&all["allowed"], &all["results"][1]["remaining"]), (&json!(true), &json!(4)));
    assert_eq!((number(&status(&mut client, "org")["used"]), client.get("/v1/limits/new").status), (0, 404));

    let charged = post(&mut client, "/v1/charge", json!({"key": "org", "cost": 130})).ok();
    let told = ["key", "used", "remaining", "debt", "total_allowed_cost"].map(|field| charged[field].clone());
    assert_eq!(told, [json!("org"), json!(130), json!(0), json!(30), json!(130)]);
    assert_eq!(post(&mut client, "/v1/peek", json!({"key": "org"})).ok()["allowed"], false);
    let refunded = post(&mut client, "/v1/refund", json!({"key": "org", "cost": 50})).ok();
    assert_eq!((&refunded["used"], &refunded["debt"]), (&json!(80), &json!(null)));
    // Never more than was spent.
    assert_eq!(post(&mut client, "/v1/refund", json!({"key": "org", "cost": 500})).ok()["used"], 0);
    let brought = post(&mut client, "/v1/charge", json!({"key": "new", "cost": 7, "limit": "5/1h"})).ok();
    assert_eq!((&brought["debt"], &brought["source"]), (&json!(2), &json!("request")));
    for path in ["/v1/charge", "/v1/refund"] {
        post(&mut client, path, json!({"key": "nobody", "cost": 1})).error(404, "limit_not_configured");
    }
    server.terminate();
}

/// What is wrong is named, and nothing is changed.
#[test]
fn bad_input_of_each_kind() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    configure(&mut client, "org", json!(YEAR));
    let id = hold(&mut client, json!({"key": "org", "cost": 10}));
    for (path, body, word) in [
        ("/v1/hold", "{}", "`items`"),
        ("/v1/hold", r#"{"key":"org","items":["org"]}"#, "`items`"),
        ("/v1/hold", r#"{"items":["org"],"cost":2}"#, "`cost`"),
        ("/v1/hold", r#"{"items":[]}"#, "1 to 1000"),
        ("/v1/hold", r#"{"items":["org","org"]}"#, "`org`"),
        ("/v1/hold", r#"{"key":"org","ttl":"999ms"}"#, "ttl"),
        ("/v1/hold", r#"{"key":"org","ttl":86401}"#, "ttl"),
        ("/v1/hold", r#"{"key":"org","ttl":-1}"#, "`ttl`"),
        ("/v1/hold", r#"{"key":"org","ttl":1.5}"#, "`ttl`"),
        ("/v1/hold", r#"{"key":"org","cost":0}"#, "cost"),
        ("/v1/hold", r#"{"key":"","cost":1}"#, "key"),
        ("/v1/hold", r#"{"key":"x","limit":{"slots":0}}"#, "slots"),
        ("/v1/hold", r#"{"key":"x","limit":{"slots":1000001}}"#, "slots"),
        ("/v1/hold", r#"{"key":"x","limit":{"slots":1,"rate":1,"per":"1s"}}"#, "`slots`"),
        ("/v1/hold?status=500", r#"{"key":"org"}"#, "status"),
        ("/v1/hold?ttl=5", r#"{"key":"org"}"#, "`ttl`"),
        ("/v1/peek", r#"{"key":"org","ttl":5}"#, "`ttl`"),
        ("/v1/peek?status=429", r#"{"key":"org"}"#, "`status`"),
        ("/v1/settle", "{}", "`hold`"),
        ("/v1/settle", r#"{"hold":5}"#, "`hold`"),
        ("/v1/settle", r#"{"hold":"ID","cost":-1}"#, "`cost`"),
        ("/v1/settle", r#"{"hold":"ID","cost":1000000000001}"#, "cost"),
        ("/v1/settle", r#"{"hold":"ID","cost":1,"costs":{"org":1}}"#, "`costs`"),
        ("/v1/settle", r#"{"hold":"ID","costs":{"org":1,"org":1}}"#, "twice"),
        ("/v1/settle", r#"{"hold":"ID","costs":["org"]}"#, "`costs`"),
        ("/v1/settle", r#"{"hold":"ID","ttl":1}"#, "`ttl`"),
        ("/v1/renew", "{}", "`hold`"),
        ("/v1/renew", r#"{"hold":"ID","ttl":"25h"}"#, "ttl"),
        ("/v1/charge", r#"{"key":"org"}"#, "`cost`"),
        ("/v1/charge", r#"{"key":"org","cost":0}"#, "cost"),
        ("/v1/refund", r#"{"key":"org","cost":1000000000001}"#, "cost"),
        ("/v1/refund", r#"{"items":["org"]}"#, "`items`"),
        ("/v1/limits", r#"{"key":"gpu","slots":"4"}"#, "`slots`"),
        ("/v1/limits", r#"{"key":"gpu","slots":4,"windows":["1/1s"]}"#, "`slots`"),
    ] {
        let reply = client.post(path, &body.replace("ID", &id));
        let message = reply.error(400, "invalid_argument");
        assert!(message.contains(word), "{path} {body}: {message}");
    }
    client.post("/v1/settle", "{").error(400, "invalid_json");
    // An id that was never given: too short, of no digits, of another directory, one character off.
    let off = if id.ends_with('0') { "1" } else { "0" };
    let off = format!("{}{off}", &id[..id.len() - 1]);
    for other in ["", "a", "ключ", "1k14kdyy3pcsz6raeg0", &off, &id.to_uppercase(), &"9".repeat(1000)] {
        for path in ["/v1/settle", "/v1/renew"] {
            post(&mut client, path, json!({"hold": other})).error(404, "hold_not_found");
        }
    }
    for path in ["/v1/hold", "/v1/settle", "/v1/renew", "/v1/peek", "/v1/charge", "/v1/refund"] {
        let reply = client.get(path);
        reply.error(405, "method_not_allowed");
        assert_eq!(reply.header("Allow"), Some("POST"), "{path}");
    }
    assert_eq!(status(&mut client, "org")["used"], 10);
    server.terminate();
}

#[track_caller]
fn said(run: &Run, code: i32, word: &str) {
    let text = if code < 2 { &run.out } else { &run.err };
    assert!(run.code == Some(code) && text.contains(word), "{code} {word}: {run:?}");
}

/// The same, on a directory and by a server.
fn work(dir: &Path) {
    let done = |args: &[&str]| flint(dir, &[&["limit"], args].concat());
    said(&done(&["add", "gpu", "--slots", "2"]), 0, "created");
    said(&done(&["add", "tokens", "100/366d", "--algorithm", "fixed_window_counter"]), 0, "created");
    let first = done(&["hold", "gpu"]);
    let id = first.out.trim_end();
    assert!(first.code == Some(0) && first.out.lines().count() == 1 && !id.contains(' '), "{first:?}");
    let second = done(&["hold", "gpu", "--ttl", "24h", "--json"]).json();
    assert_eq!((&second["remaining"], &second["ttl_ms"]), (&json!(0), &json!(86_400_000)));
    said(&done(&["hold", "gpu"]), 1, "denied, try again in ");
    said(&done(&["hold", "gpu", "--cost", "3"]), 2, "3 is over the 2 slots");
    said(&done(&["check", "gpu"]), 2, "use hold to take them");
    said(&done(&["check", "gpu", "--peek"]), 1, "denied");
    let told = done(&["status", "gpu"]);
    said(&told, 0, "slots=2");
    assert!(told.out.contains("SLOTS") && told.out.contains(id), "{told:?}");
    said(&done(&["list"]), 0, "slots=2");
    said(&done(&["renew", id]), 0, "renewed for 1m, until ");
    said(&done(&["renew", id, "--ttl", "1h"]), 0, "renewed for 1h, until ");
    said(&done(&["renew", id, "--ttl", "1ms"]), 2, "--ttl must be");
    said(&done(&["settle", id]), 0, "gpu: 1 of 1 held, 1 left\n");
    said(&done(&["settle", id]), 0, "gpu: 1 of 1 held, 1 left\n");
    said(&done(&["renew", id]), 3, "settled");
    said(&done(&["settle", "nothing"]), 3, "no such hold");

    let held = done(&["hold", "tokens", "--cost", "40"]);
    let id = held.out.trim_end();
    said(&done(&["settle", id, "--cost", "120"]), 0, "tokens: 120 of 40 held, 0 left, 20 beyond the limit\n");
    said(&done(&["settle", id, "--cost", "1"]), 3, "another cost");
    let json = done(&["settle", id, "--cost", "120", "--json"]).json();
    assert_eq!((&json["ok"], &json["results"][0]["debt"]), (&json!(true), &json!(20)));
    said(&done(&["refund", "tokens", "50"]), 0, "refunded, 30 left\n");
    said(&done(&["check", "tokens", "--peek", "--cost", "30"]), 0, "allowed, 0 of 100 left\n");
    said(&done(&["charge", "tokens", "31"]), 0, "charged, 0 left, 1 beyond the limit\n");
    assert_eq!(done(&["refund", "tokens", "1", "--json"]).json()["remaining"], 0);
    said(&done(&["charge", "other", "2", "--limit", "5/1h"]), 0, "charged, 3 left\n");
    said(&done(&["hold", "job", "--limit", "slots=1"]), 0, "");
    said(&done(&["hold", "job", "--limit", "slots=1"]), 1, "denied");
    for (args, code, word) in [
        (&["hold"][..], 2, "KEY"),
        (&["hold", "nobody"], 3, "`nobody`"),
        (&["hold", "gpu", "--ttl", "soon"], 2, "--ttl"),
        (&["hold", "gpu", "--cost", "0"], 2, "--cost"),
        (&["settle"], 2, "HOLD"),
        (&["settle", id, "--cost", "x"], 2, "--cost"),
        (&["renew"], 2, "HOLD"),
        (&["charge", "tokens"], 2, "N is missing"),
        (&["charge", "tokens", "0"], 2, "N must be"),
        (&["refund", "tokens", "-1"], 2, "-1"),
        (&["refund", "tokens", "1", "2"], 2, "`2` is not expected"),
        (&["add", "x", "--slots", "0"], 2, "--slots"),
        (&["add", "x", "--slots", "1", "1/1s"], 2, "--slots"),
    ] {
        said(&done(args), code, word);
    }
}

#[test]
fn commands_work_on_a_directory_and_by_a_server() {
    let parent = tempfile::tempdir().unwrap();
    work(&parent.path().join("alone"));
    let served = parent.path().join("served");
    let server = Server::start(&served, &[]);
    work(&served);
    server.terminate();
}

/// A command that runs in the background, and is killed with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Started {
    fn run(dir: &Path, args: &[&str]) -> Started {
        let mut command = command_on(dir);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        Started(command.spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    fn end(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it should end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn used(dir: &Path, key: &str) -> u64 {
    number(&flint(dir, &["limit", "status", key, "--json"]).json()["used"])
}

/// A shell that shows by a file that it runs, and ends by itself when it is told to, or with this exit status.
fn waiting(dir: &Path, name: &str, exit: &str) -> (PathBuf, String) {
    let file = dir.join(name);
    let text = format!("trap 'exit {exit}' TERM; : >'{}'; while :; do sleep 0.05; done", file.display());
    (file, text)
}

fn check_run(parent: &Path, dir: &Path, name: &str) {
    assert_eq!(flint(dir, &["limit", "add", "gpu", "--slots", "1"]).code, Some(0));
    // The exit status is the command's own, and the slot is free when it has ended.
    let ok = flint(dir, &["run", "gpu", "--hold", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((ok.code, ok.out.as_str(), ok.err.as_str()), (Some(42), "out\n", "err\n"));
    assert_eq!(used(dir, "gpu"), 0);
    let killed = flint(dir, &["run", "gpu", "--hold", "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!((killed.code, used(dir, "gpu")), (Some(137), 0), "{killed:?}");

    // SIGTERM is passed on; a second one finds no slot meanwhile.
    let (file, script) = waiting(parent, name, "7");
    let mut first = Started::run(dir, &["run", "gpu", "--hold", "--ttl", "1s", "--", "sh", "-c", &script]);
    until("it runs", || file.exists());
    let second = flint(dir, &["run", "gpu", "--hold", "--", "true"]);
    assert_eq!((second.code, second.err.lines().count()), (Some(75), 1), "{second:?}");
    assert!(second.err.starts_with("flint: denied by `gpu`"), "{second:?}");
    // It is renewed: longer than it would last by itself.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(flint(dir, &["run", "gpu", "--hold", "--", "true"]).code, Some(75));
    let late = flint(dir, &["run", "gpu", "--hold", "--wait", "100ms", "--", "true"]);
    assert_eq!(late.code, Some(75), "{late:?}");
    let mut waiting = Started::run(dir, &["run", "gpu", "--hold", "--wait", "100s", "--", "true"]);
    first.signal("TERM");
    assert_eq!((first.end(), waiting.end()), (Some(7), Some(0)), "the one that waits gets the slot");
    assert_eq!(used(dir, "gpu"), 0);
}

#[test]
fn a_slot_while_a_command_runs() {
    let parent = tempfile::tempdir().unwrap();
    check_run(parent.path(), &parent.path().join("alone"), "one");
    let served = parent.path().join("served");
    let server = Server::start(&served, &[]);
    check_run(parent.path(), &served, "two");
    server.terminate();
}

#[test]
fn a_slot_is_free_when_its_time_is_over() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "gpu", "--slots", "1"]).code, Some(0));
    let (file, script) = waiting(parent.path(), "file", "0");
    let script = format!("echo $$ >'{}.pid'; {script}", file.display());
    let mut first = Started::run(&dir, &["run", "gpu", "--hold", "--ttl", "2s", "--", "sh", "-c", &script]);
    until("it runs", || file.exists());
    first.signal("KILL");
    first.end();
    assert_eq!(used(&dir, "gpu"), 1, "nobody has given it back");
    until("it runs out", || used(&dir, "gpu") == 0);
    let pid = std::fs::read_to_string(format!("{}.pid", file.display())).unwrap();
    run(Command::new("kill").args(["-TERM", pid.trim()]));
    // A command that can't be started takes nothing; its arguments are checked first.
    for (args, code) in [
        (&["run", "gpu", "--hold", "--", "/nonexistent/command"][..], 127),
        (&["run", "gpu", "--ttl", "1s", "--", "true"], 2),
        (&["run", "gpu", "--hold", "--ttl", "1ms", "--", "true"], 2),
        (&["run", "gpu", "--", "true"], 2),
    ] {
        assert_eq!(flint(&dir, args).code, Some(code), "{args:?}");
    }
    assert_eq!(used(&dir, "gpu"), 0);
}

fn check_refunds(parent: &Path, dir: &Path, name: &str) {
    assert_eq!(flint(dir, &["limit", "add", "mail", "9/366d"]).code, Some(0));
    let job = |words: &[&str]| flint(dir, &[&["run", "mail", "--cost", "3", "--refund-on-failure"], words].concat());
    // What has done its work is paid for.
    let done = job(&["--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (Some(0), "out\n", "err\n"));
    assert_eq!(used(dir, "mail"), 3);
    // What has not, is not; nothing is said of that, since cron mails every word.
    for (words, code) in [
        (&["--", "sh", "-c", "exit 42"][..], 42),
        (&["--", "sh", "-c", "kill -KILL $$"], 137),
        (&["--hold", "--", "sh", "-c", "exit 1"], 1),
        (&["--hold", "--ttl", "2s", "--", "sh", "-c", "kill -TERM $$"], 143),
    ] {
        let failed = job(words);
        assert_eq!((failed.code, failed.out.as_str(), failed.err.as_str()), (Some(code), "", ""), "{words:?}");
        assert_eq!(used(dir, "mail"), 3, "{words:?}");
    }
    let missing = job(&["--", "/nonexistent/command"]);
    assert_eq!((missing.code, used(dir, "mail")), (Some(127), 3), "{missing:?}");
    // Without the option a failure costs as much as a success.
    assert_eq!(flint(dir, &["run", "mail", "--hold", "--", "false"]).code, Some(1));
    assert_eq!(flint(dir, &["run", "mail", "--", "false"]).code, Some(1));
    assert_eq!(used(dir, "mail"), 5);
    // While it runs the units are spent, and a signal is passed on.
    let (file, script) = waiting(parent, &format!("{name}-mail"), "7");
    let mut first = Started::run(dir, &["run", "mail", "--cost=3", "--refund-on-failure", "--", "sh", "-c", &script]);
    until("it runs", || file.exists());
    assert_eq!(used(dir, "mail"), 8);
    let denied = job(&["--", "true"]);
    assert_eq!((denied.code, denied.err.lines().count()), (Some(75), 1), "{denied:?}");
    first.signal("TERM");
    assert_eq!((first.end(), used(dir, "mail")), (Some(7), 5));
    // Another run in the meantime loses nothing by it.
    assert_eq!(flint(dir, &["run", "mail", "--cost=4", "--", "true"]).code, Some(0));
    assert_eq!(job(&["--", "false"]).code, Some(75));
    assert_eq!(used(dir, "mail"), 9);
    // A slot is for --hold.
    assert_eq!(flint(dir, &["limit", "add", "desk", "--slots", "1"]).code, Some(0));
    let slots = flint(dir, &["run", "desk", "--refund-on-failure", "--", "true"]);
    let said = "flint: `desk` has slots; add --hold to hold them while the command runs\n";
    assert_eq!((slots.code, slots.err.as_str(), used(dir, "desk")), (Some(3), said, 0));
    assert_eq!(flint(dir, &["run", "desk", "--hold", "--refund-on-failure", "--", "false"]).code, Some(1));
    assert_eq!(used(dir, "desk"), 0);
    let ttl = flint(dir, &["run", "mail", "--refund-on-failure", "--ttl", "5s", "--", "true"]);
    assert_eq!((ttl.code, ttl.err.as_str()), (Some(2), "flint: --ttl belongs to --hold\n"));
    // Nothing is left open.
    assert_eq!(number(&flint(dir, &["doctor", "--json"]).json()["holds"]), 0);
}

#[test]
fn a_command_that_fails_costs_nothing_where_that_is_asked_for() {
    let parent = tempfile::tempdir().unwrap();
    check_refunds(parent.path(), &parent.path().join("alone"), "one");
    let served = parent.path().join("served");
    let server = Server::start(&served, &[]);
    check_refunds(parent.path(), &served, "two");
    server.terminate();
}

/// What was to be given back stays spent if no process is there to do it: a crash gets nothing for free.
#[test]
fn a_run_that_is_killed_gives_nothing_back() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let (file, script) = waiting(parent.path(), "file", "0");
    let script = format!("echo $$ >'{}.pid'; {script}", file.display());
    let args = ["run", "mail", "--limit=5/366d", "--cost=2", "--refund-on-failure", "--", "sh", "-c", &script];
    let mut first = Started::run(&dir, &args);
    until("it runs", || file.exists());
    first.signal("KILL");
    first.end();
    let pid = std::fs::read_to_string(format!("{}.pid", file.display())).unwrap();
    run(Command::new("kill").args(["-TERM", pid.trim()]));
    assert_eq!(used(&dir, "mail"), 2);
}

/// A server that comes and goes while the command runs takes the settlement all the same.
#[test]
fn a_run_outlives_its_server() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &[]);
    assert_eq!(flint(&dir, &["limit", "add", "mail", "5/366d"]).code, Some(0));
    let (file, script) = waiting(parent.path(), "file", "1");
    let args = ["run", "mail", "--cost=2", "--refund-on-failure", "--", "sh", "-c", &script];
    let mut first = Started::run(&dir, &args);
    until("it runs", || file.exists());
    assert_eq!(used(&dir, "mail"), 2);
    let address = format!("127.0.0.1:{}", server.port());
    server.terminate();
    // Over a store nobody but a server settles: another one, where the first was.
    let _next = over_store::is_on().then(|| Server::start_on(&dir, &address, &[]));
    first.signal("TERM");
    assert_eq!((first.end(), used(&dir, "mail")), (Some(1), 0));
}

/// A signal ends a run that waits in the queue for the directory, though it is caught to be passed on.
#[test]
fn a_run_in_the_queue_can_be_ended() {
    if needs_directory() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "mail", "9/366d"]).code, Some(0));
    let lock = std::fs::File::open(dir.join("flint.lock")).unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    let args = ["run", "mail", "--refund-on-failure", "--wait", "100s", "--", "true"];
    let mut waiting = Started::run(&dir, &args);
    until("it is in the queue", || std::fs::metadata(dir.join("flint.queue")).is_ok_and(|file| file.len() > 0));
    waiting.signal("INT");
    assert_eq!(waiting.end(), Some(130));
    drop(lock);
    assert_eq!(used(&dir, "mail"), 0);
}

/// A source of numbers that is the same in each run of the test.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

const CLIENTS: u64 = 100;
const ROUNDS: u64 = 2;
const SLOTS: u64 = 4;

/// What a client does in a gateway's day; returns the units that it has spent in the end.
fn client_of_a_gateway(url: &str, seed: u64, streams: &AtomicU64) -> u64 {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9));
    let mut client = Client::new(url, None);
    let mut spent = 0;
    for _ in 0..ROUNDS {
        let behaviour = random.below(16);
        let ttl = if behaviour < 2 { "1s" } else { "1m" };
        let held = random.below(4000) + 1;
        let body = json!({"items": [["org:acme", held], "org:acme:streams"], "ttl": ttl});
        let id = loop {
            let reply = post(&mut client, "/v1/hold", body.clone()).ok();
            if let Some(id) = reply["hold"].as_str() {
                assert!(number(&reply["results"][1]["used"]) <= SLOTS, "{reply}");
                break id.to_owned();
            }
            assert_eq!(reply["denied_key"], "org:acme:streams");
            std::thread::sleep(Duration::from_millis(20 + random.below(60)));
        };
        if behaviour >= 2 {
            // Those that expire by themselves are not counted: nobody knows here when the server frees them.
            assert!(streams.fetch_add(1, Ordering::AcqRel) < SLOTS, "more than {SLOTS} at once");
        }
        std::thread::sleep(Duration::from_millis(random.below(10)));
        let cost = random.below(6000);
        let settle = json!({"hold": id, "costs": {"org:acme": cost}});
        if behaviour >= 2 {
            streams.fetch_sub(1, Ordering::AcqRel);
        }
        spent += match behaviour {
            // It dies, or forgets it: what was held stays spent.
            0 => held,
            1 => {
                std::thread::sleep(Duration::from_millis(1200));
                let settled = post(&mut client, "/v1/settle", settle).ok();
                assert_eq!(settled["late"], true, "{settled}");
                cost
            }
            // It dies before it has read the answer; another one goes on in its place.
            2 | 3 => {
                let request = crate::util::request("POST", "/v1/settle", None, &settle.to_string());
                client.send(request).unwrap();
                client = Client::new(url, None);
                post(&mut client, "/v1/settle", settle).ok();
                cost
            }
            4 | 5 => {
                let first = post(&mut client, "/v1/settle", settle.clone()).ok();
                let second = post(&mut client, "/v1/settle", settle).ok();
                assert_eq!(first["results"][0]["cost"], second["results"][0]["cost"]);
                let other = json!({"hold": id, "costs": {"org:acme": cost + 1}});
                post(&mut client, "/v1/settle", other).error(409, "hold_settled");
                cost
            }
            6 => {
                post(&mut client, "/v1/renew", json!({"hold": id, "ttl": "2m"})).ok();
                post(&mut client, "/v1/settle", json!({"hold": id})).ok();
                held
            }
            _ => {
                post(&mut client, "/v1/settle", settle).ok();
                cost
            }
        };
    }
    spent
}

#[test]
fn a_gateways_day_in_small() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    // Windows that give nothing back by themselves while the test runs.
    let windows = json!([
        {"rate": 1000, "per": "366d", "burst": 1_000_000},
        {"rate": 100_000_000, "per": "366d", "algorithm": "fixed_window_counter"},
        {"rate": 100_000_000, "per": "365d", "algorithm": "sliding_window_log"},
        {"rate": 100_000_000, "per": "364d", "algorithm": "sliding_window_counter"},
    ]);
    configure(&mut client, "org:acme", windows);
    configure(&mut client, "org:acme:streams", json!({"slots": SLOTS}));
    let (streams, url) = (AtomicU64::new(0), server.url.clone());
    let spent: u64 = std::thread::scope(|scope| {
        let start = |seed| {
            scope.spawn({
                let (url, streams) = (&url, &streams);
                move || client_of_a_gateway(url, seed, streams)
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(start).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    until("slots run out", || number(&status(&mut client, "org:acme:streams")["used"]) == 0);
    let check = |client: &mut Client| {
        let org = status(client, "org:acme");
        let used: BTreeSet<u64> = org["windows"].as_array().unwrap().iter().map(|one| number(&one["used"])).collect();
        assert_eq!(used, BTreeSet::from([spent]), "{org}");
        let streams = status(client, "org:acme:streams");
        assert_eq!((&streams["remaining"], &streams["holds"]), (&json!(SLOTS), &json!([])));
    };
    check(&mut client);
    server.kill();
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    check(&mut client);
    client.compact();
    check(&mut client);
    server.terminate();
}
