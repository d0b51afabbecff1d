//! `man/flint-http.7` and the code say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use flint::bounds::*;
use flint::server::ENDPOINTS;
use serde_json::Value;

use crate::mdoc::{Page, displays, items, unescape};
use crate::util::{Client, Server, run};

const TOKEN: &str = "page-token";

fn page() -> Page {
    Page::read("flint-http.7")
}

/// What the page says of one method of one path.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    parameters: BTreeSet<String>,
    fields: BTreeSet<String>,
}

/// By path and method.
fn described() -> BTreeMap<(String, String), Described> {
    let mut found: BTreeMap<_, Described> = BTreeMap::new();
    let mut current = None;
    let page = page();
    // The lists after the last endpoint belong to no endpoint.
    let lines = page.section("ENDPOINTS").iter().take_while(|line| !line.starts_with(".Ss "));
    for line in lines {
        if let Some((method, path)) = line.strip_prefix(".It Cm ").and_then(|rest| rest.split_once(" Pa ")) {
            let name = (path.to_owned(), method.to_owned());
            assert!(found.insert(name.clone(), Described::default()).is_none(), "{name:?} stands twice");
            current = Some(name);
        }
        let Some(entry) = current.as_ref().and_then(|name| found.get_mut(name)) else { continue };
        if let Some(parameter) = line.strip_prefix(".It Ic ") {
            entry.parameters.insert(parameter.split(' ').next().unwrap().to_owned());
        } else if let Some(field) = line.strip_prefix(".It Va ") {
            entry.fields.insert(field.to_owned());
        }
    }
    found
}

fn started() -> (tempfile::TempDir, Server, Client) {
    let parent = tempfile::tempdir().unwrap();
    let server = Server::start(&parent.path().join("data"), &["--gate", "web=by=path&limit=9/1h"]);
    let mut client = server.client();
    for body in [r#"{"key":"k","rate":10,"per":"1h"}"#, r#"{"key":"other","rate":10,"per":"1h"}"#] {
        client.post("/v1/limits", body).ok();
    }
    (parent, server, client)
}

#[test]
fn endpoints_methods_and_parameters() {
    let mut code = BTreeMap::new();
    for endpoint in &ENDPOINTS {
        for method in endpoint.methods {
            let parameters: BTreeSet<String> = method.parameters.iter().map(|name| (*name).to_owned()).collect();
            code.insert((endpoint.path.to_owned(), method.name.to_owned()), parameters);
        }
    }
    let page: BTreeMap<_, _> = described().into_iter().map(|(name, entry)| (name, entry.parameters)).collect();
    assert_eq!(page, code);
}

#[test]
fn endpoints_of_the_page_answer() {
    let (_dir, server, mut client) = started();
    let described = described();
    for (path, method) in described.keys() {
        // Another key each time: DELETE comes before GET.
        let key = format!("{}-{}", method.to_lowercase(), path.len());
        client.post("/v1/limits", &format!("{{\"key\":\"{key}\",\"rate\":10,\"per\":\"1h\"}}")).ok();
        let target = path.replace("{key}", &key).replace("{name}", "web");
        let reply = client.ask(method, &target, "");
        assert!(![404, 405].contains(&reply.status), "{method} {target}: {reply:?}");
        if method == "ANY" {
            continue;
        }
        let other = client.ask("PATCH", &target, "");
        other.error(405, "method_not_allowed");
        let allowed = other.header("Allow").unwrap().split(", ");
        // The page says once that GET answers HEAD.
        let allowed: BTreeSet<&str> = allowed.filter(|method| *method != "HEAD").collect();
        let of_page = described.keys().filter(|(other, _)| other == path).map(|(_, method)| method.as_str()).collect();
        assert_eq!(allowed, of_page, "{target}");
    }
    server.terminate();
}

#[test]
fn parameters_and_body_fields() {
    let (_dir, server, mut client) = started();
    let described_all = described();
    for ((path, method), entry) in &described_all {
        if path == "/v1/gates/{name}" {
            // Its query is another server's.
            continue;
        }
        let target = path.replace("{key}", "k");
        // A parameter that is known is not complained of as unknown; whatever else is wrong with this one.
        for parameter in &entry.parameters {
            let message = client.ask(method, &format!("{target}?{parameter}=%FF"), "").error(400, "invalid_argument");
            assert!(message.contains(parameter.as_str()) && !message.contains("unknown"), "{message}");
        }
        let message = client.ask(method, &format!("{target}?surplus=1"), "").error(400, "invalid_argument");
        assert!(message.contains("unknown query parameter `surplus`"), "{message}");
        let body = if method == "PUT" { r#"[{"surplus":1}]"# } else { r#"{"surplus":1}"# };
        let reply = client.ask(method, &target, body);
        if [200, 204].contains(&reply.status) {
            assert!(
                ["GET", "ANY"].contains(&method.as_str()) && path != "/v1/limits/{key}",
                "{method} {path} looks at no body"
            );
            continue;
        }
        let message = reply.error(400, "invalid_argument");
        let known = message.split_once("known: ").unwrap_or_else(|| panic!("{path}: {message}")).1;
        // An array has the objects of POST.
        let of = if method == "PUT" { "POST" } else { method };
        let fields = &described_all[&(path.clone(), of.to_owned())].fields;
        let known: BTreeSet<&str> = known.split('`').skip(1).step_by(2).collect();
        assert_eq!(known, fields.iter().map(String::as_str).collect(), "{method} {path}");
    }
    server.terminate();
}

#[test]
fn fields_of_replies() {
    let (_dir, server, mut client) = started();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let page = page();
    let listed = |title: &str| items(page.section(title), "Va").into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let decision = client.post("/v1/check", r#"{"key":"k"}"#);
    let (decisions, statuses) = of_all_kinds(&mut client);
    let all = |objects: &[Value]| objects.iter().flat_map(names).collect::<BTreeSet<_>>();
    let windows = |objects: &[Value]| -> Vec<Value> {
        objects.iter().filter_map(|object| object["windows"].as_array()).flatten().cloned().collect()
    };
    assert_eq!(all(&decisions), listed("Decision"));
    assert_eq!(all(&statuses), listed("Status object"));
    let holds: Vec<Value> =
        statuses.iter().filter_map(|status| status["holds"].as_array()).flatten().cloned().collect();
    assert_eq!(all(&holds), listed("Open hold"));
    assert_eq!(all(&[windows(&decisions), windows(&statuses)].concat()), listed("Window"));
    // What is in every one of them.
    let plain = names(&client.post("/v1/check", r#"{"key":"other"}"#).ok());
    assert!(decisions.iter().all(|decision| plain.is_subset(&names(decision))), "{plain:?}");
    assert_eq!(names(&client.get("/v1/doctor").ok()), listed("Report of doctor"));
    let headers: Vec<&str> = items(page.section("Headers of a decision"), "Li");
    assert_eq!(headers, ["RateLimit-Policy", "RateLimit", "Cache-Control", "Retry-After"]);
    for header in &headers {
        assert_eq!(decision.header(header).is_some(), *header != "Retry-After", "{decision:?}");
    }
    client.post("/v1/check", r#"{"key":"k","cost":9}"#).ok();
    let denied = client.post("/v1/check?status=429", r#"{"key":"k"}"#);
    assert_eq!(denied.status, 429);
    assert!(headers.iter().all(|header| denied.header(header).is_some()), "{denied:?}");
    let hold = client.post("/v1/hold", r#"{"key":"other"}"#).ok()["hold"].as_str().unwrap().to_owned();
    let renewed = client.post("/v1/renew", &format!(r#"{{"hold":"{hold}"}}"#));
    client.ask("DELETE", "/v1/limits/other", "").ok();
    let settled = client.post("/v1/settle", &format!(r#"{{"hold":"{hold}"}}"#));
    client.post("/v1/limits", r#"{"key":"other","rate":10,"per":"1h"}"#).ok();
    // Objects that the page describes in a sentence.
    let text = page.text();
    for (reply, missing) in [
        (client.post("/v1/check-all", r#"{"items":["k"]}"#), ""),
        (client.post("/v1/log/compact", ""), ""),
        (client.get("/v1/health"), ""),
        (client.post("/v1/hold", r#"{"items":["other"]}"#), ""),
        (renewed, ""),
        (settled, ""),
    ] {
        let unnamed: Vec<String> =
            names(&reply.ok()).into_iter().filter(|name| !text.contains(name.as_str())).collect();
        assert_eq!(unnamed.join(" "), missing);
    }
    server.terminate();
}

/// Decisions and statuses in which every field appears at least once.
fn of_all_kinds(client: &mut Client) -> (Vec<Value>, Vec<Value>) {
    let algorithms = r#"["9/1h sliding_window_log","9/2h sliding_window_counter","9/month tz=Europe/Berlin anchor=5"]"#;
    for body in [
        r#"{"key":"p:*","rate":9,"per":"1h","mode":"shadow","max_keys":1}"#.to_owned(),
        format!(r#"{{"key":"all","windows":{algorithms}}}"#),
        r#"{"key":"all","rate":9,"per":"month","for":"1h"}"#.to_owned(),
        format!(r#"{{"key":"several","windows":{algorithms}}}"#),
        r#"{"key":"log","rate":9,"per":"1h","algorithm":"sliding_window_log"}"#.to_owned(),
        r#"{"key":"pair","rate":9,"per":"1h","algorithm":"sliding_window_counter"}"#.to_owned(),
        r#"{"key":"free","unlimited":true}"#.to_owned(),
        r#"{"key":"debt","rate":9,"per":"1h"}"#.to_owned(),
        r#"{"key":"slots","slots":9}"#.to_owned(),
    ] {
        client.post("/v1/limits", &body).ok();
    }
    let mut check = |key: &str| client.post("/v1/check", &format!(r#"{{"key":"{key}","cost":2}}"#)).ok();
    let mut decisions: Vec<Value> = ["p:1", "p:2", "several", "all", "log", "pair", "free"].map(&mut check).to_vec();
    for _ in 0..3 {
        check("debt");
    }
    client.post("/v1/limits", r#"{"key":"debt","rate":9,"per":"1h","burst":1}"#).ok();
    decisions.push(client.post("/v1/check", r#"{"key":"debt"}"#).ok());
    client.post("/v1/hold", r#"{"key":"slots"}"#).ok();
    let mut status = |key: &str| client.get(&format!("/v1/limits/{key}")).ok();
    let keys = ["p:*", "p:1", "p:2", "all", "several", "log", "pair", "free", "debt", "slots"];
    (decisions, keys.map(&mut status).to_vec())
}

#[test]
fn error_codes_and_statuses() {
    let page = page();
    let rows = page.section("STATUS CODES");
    let mut listed: BTreeMap<String, u16> = BTreeMap::new();
    for row in items(rows, "Li") {
        let cells: Vec<&str> = row.split(" Ta ").collect();
        listed.insert(cells[0].to_owned(), cells[1].parse().unwrap());
    }
    let (reply, command): (Vec<flint::Kind>, Vec<flint::Kind>) =
        flint::Kind::ALL.iter().copied().partition(|kind| listed.contains_key(kind.code()));
    let of_code: BTreeMap<String, u16> =
        reply.iter().map(|kind| (kind.code().to_owned(), kind.http_status())).collect();
    assert_eq!(listed, of_code);
    // The others are named as those that no reply bears.
    let start = rows.iter().position(|line| line == "The codes").expect("a paragraph of the command line's codes");
    let end = rows.iter().position(|line| line.starts_with("are the command line's")).unwrap();
    let named: BTreeSet<&str> = rows[start + 1..end]
        .iter()
        .filter_map(|line| line.strip_prefix(".Li "))
        .map(|code| code.trim_end_matches(" ,"))
        .collect();
    assert_eq!(named, command.iter().map(|kind| kind.code()).collect());
}

#[test]
fn bounds() {
    let page = page();
    let lines = page.section("BOUNDS");
    let of_code = [
        ("Key", format!("1 to {MAX_KEY_BYTES} bytes of UTF-8")),
        ("Rate", format!("0 to {MAX_UNITS} units")),
        ("Burst and cost", format!("1 to {MAX_UNITS} units")),
        ("Windows of one limit", format!("1 to {MAX_WINDOWS}")),
        ("Slots", format!("1 to {MAX_SLOTS}")),
        ("Time of a hold", format!("{} ms to {} ms, by default {DEFAULT_HOLD_MS} ms", HOLD_MS.start(), HOLD_MS.end())),
        ("Open holds", format!("1 to {MAX_MAX_HOLDS}, by default {MAX_HOLDS}")),
        ("Holds remembered that were settled or have expired", format!("{MAX_REMEMBERED}, each for {REMEMBER_MS} ms")),
        ("Open holds listed of one key", MAX_LISTED_HOLDS.to_string()),
        ("Idempotency-Key", format!("1 to {MAX_IDEMPOTENCY_KEY} characters")),
        (
            "Answers kept for idempotency keys",
            format!("{MAX_KEPT_ANSWERS}, {MAX_KEPT_BYTES} bytes, each for {REMEMBER_MS} ms"),
        ),
        ("Period", format!("{MIN_PERIOD_MS} ms to {MAX_PERIOD_MS} ms, which is {} d", MAX_PERIOD_MS / 86_400_000)),
        ("Time to fill an empty token bucket", format!("at most {MAX_REFILL_MS} ms")),
        ("Live keys of a pattern", format!("1 to {MAX_MAX_KEYS}, by default {MAX_KEYS}")),
        ("Values of limits from requests whose keys overflow", MAX_OVERFLOWS.to_string()),
        ("Items of check-all and check-many", format!("1 to {MAX_ITEMS}")),
        ("Page of a listing, and top", format!("1 to {MAX_PAGE} status objects")),
        ("Body", format!("{MAX_BODY_BYTES} bytes")),
        (
            "Body with an array of limits",
            format!(
                "{MAX_LIMITS_BYTES} bytes with a Content-Length, {MAX_LARGE_BODIES} such body at once beyond \
                 {MAX_BODY_BYTES} bytes"
            ),
        ),
        ("Backups at once", MAX_BACKUPS.to_string()),
        ("Time to take a backup", format!("{BACKUP_MS} ms, plus a second for each {BACKUP_BYTES_PER_SECOND} bytes")),
        ("Head", format!("{MAX_HEAD_BYTES} bytes; beyond it the connection is closed")),
        ("Time for a head", format!("{HEAD_TIMEOUT_MS} ms")),
        ("Time for a body", format!("{BODY_TIMEOUT_MS} ms")),
        ("Time for a client to read replies", format!("{SEND_TIMEOUT_MS} ms")),
        ("Time between requests", format!("{IDLE_TIMEOUT_MS} ms, by default")),
        (
            "Requests ahead of their replies",
            format!(
                "{MAX_PIPELINED} on one connection, {PIPELINED_ALWAYS} while {MAX_WAITING} wait in all; beyond that the \
                 connection is closed"
            ),
        ),
        ("Wait for the disk", format!("{LOG_WAIT_MS} ms, then the answer is overloaded")),
    ];
    let of_page: Vec<(&str, &str)> =
        lines.windows(2).filter_map(|pair| Some((pair[0].strip_prefix(".It ")?, pair[1].as_str()))).collect();
    let of_code: Vec<(&str, &str)> = of_code.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(of_page, of_code);
}

#[test]
fn examples_run_as_they_stand() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: curl is not installed, the page's examples were not run");
        return;
    }
    let blocks = displays(page().section("EXAMPLES"));
    assert!(blocks.len() > 5, "{blocks:?}");
    let script = blocks.concat();
    let parent = tempfile::tempdir().unwrap();
    let server = Server::start(&parent.path().join("data"), &["--token", TOKEN]);
    let mut shell = Command::new("sh");
    shell.args(["-euc", &script]).env("FLINT_SERVER", &server.url).env("FLINT_SERVER_TOKEN", TOKEN);
    let done = run(&mut shell);
    assert_eq!(done.code, Some(0), "{done:?}");
    // What the page says that is printed is printed, in that order.
    let mut printed = done.out.lines();
    for expected in script.lines().filter_map(|line| line.strip_prefix("# prints ")) {
        assert!(printed.any(|line| line == expected), "`{expected}` was not printed in its place: {done:?}");
    }
    assert!(!done.out.contains("\"error\""), "{done:?}");
    let doctor = Client::new(&server.url, Some(TOKEN)).get("/v1/doctor").ok();
    assert_eq!((&doctor["allowed"], &doctor["denied"]), (&Value::from(9), &Value::from(4)));
    server.terminate();
}

#[test]
fn json_in_the_page_is_json() {
    let page = page();
    let objects: Vec<String> = page
        .section("DESCRIPTION")
        .iter()
        .chain(page.section("ENDPOINTS"))
        .filter_map(|line| line.strip_prefix(".Li {\\(dq"))
        .map(|rest| unescape(&format!("{{\\(dq{rest}")).trim_end_matches([' ', ',', '.', ':']).to_owned())
        .collect();
    assert!(objects.len() >= 3, "{objects:?}");
    for object in objects {
        let json = object.replace(":cost}", ":1}");
        assert!(serde_json::from_str::<Value>(&json).is_ok(), "{object}");
    }
}
