//! Keys that come and go, over HTTP: limits that requests bring, patterns, several windows, values for a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use flint::bounds::{MAX_BODY_BYTES, MAX_LIMITS_BYTES};
use serde_json::{Value, json};

use crate::over_store;
use crate::util::{Client, PATIENCE, Reply, Server, run};

struct Fixture {
    server: Server,
    client: Client,
    dir: tempfile::TempDir,
}

fn start(args: &[&str]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), args);
    let client = server.client();
    Fixture { server, client, dir }
}

impl Fixture {
    /// Ends the server without a warning, and starts another on what it has left.
    fn restart(&mut self) {
        let server = Server::start(&self.dir.path().join("other"), &[]);
        std::mem::replace(&mut self.server, server).kill();
        let server = Server::start(&self.dir.path().join("data"), &[]);
        self.client = server.client();
        self.server = server;
    }

    fn check(&mut self, body: &Value) -> Value {
        self.client.post("/v1/check", &body.to_string()).ok()
    }

    fn configure(&mut self, body: &Value) -> Value {
        self.client.post("/v1/limits", &body.to_string()).ok()
    }

    fn status(&mut self, key: &str) -> Value {
        self.client.get(&format!("/v1/limits/{key}")).ok()
    }

    /// The keys of a list.
    fn list(&mut self, query: &str) -> Vec<String> {
        let listing = self.client.get(&format!("/v1/limits{query}")).ok();
        listing.as_array().unwrap().iter().map(|status| status["key"].as_str().unwrap().to_owned()).collect()
    }
}

fn line(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.body.trim_end())
}

#[test]
fn a_backup_once_a_day_needs_no_configuration() {
    let mut fixture = start(&[]);
    let target = "/v1/take/backup?limit=1/1d";
    assert_eq!(line(&fixture.client.post(target, "")), (200, "ok 0"));
    let denied = fixture.client.post(target, "");
    assert!(denied.status == 429 && denied.body.starts_with("denied 86"), "{denied:?}");
    assert!((86_000..=86_400).contains(&denied.header("Retry-After").unwrap().parse::<u32>().unwrap()));
    fixture.restart();
    assert_eq!(fixture.client.post(target, "").status, 429);
    // An earlier request's limit serves no request that brings none; and no limit is configured.
    fixture.client.post("/v1/take/backup", "").error(404, "limit_not_configured");
    assert_eq!((fixture.list(""), fixture.list("?live=true")), (vec![], vec!["backup".to_owned()]));
    let status = fixture.status("backup");
    assert_eq!((&status["source"], &status["rate"], &status["remaining"]), (&json!("request"), &json!(1), &json!(0)));
    fixture.server.terminate();
}

#[test]
fn curl_says_so_too() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: curl is not installed");
        return;
    }
    let fixture = start(&[]);
    let target = format!("{}/v1/take/backup?limit=1/1d", fixture.server.url);
    let take = || run(Command::new("curl").args(["-fsS", "-XPOST", &target]));
    let (first, second) = (take(), take());
    assert_eq!((first.code, first.out.as_str()), (Some(0), "ok 0\n"), "{first:?}");
    assert!(second.code == Some(22) && second.err.contains("429"), "{second:?}");
    fixture.server.terminate();
}

#[test]
fn what_an_operator_configures_wins_at_once() {
    let mut fixture = start(&[]);
    let brought = json!({"key": "user:1", "limit": "2/1d fixed_window_counter"});
    let also = json!({"key": "user:2", "limit": "2/1d fixed_window_counter"});
    for body in [&brought, &also] {
        let left = [fixture.check(body), fixture.check(body), fixture.check(body)].map(|it| it["allowed"].clone());
        assert_eq!(left, [true, true, false]);
    }
    // Exactly, by a pattern, and by nothing again: what was spent stays spent.
    fixture.configure(&json!({"key": "user:1", "limit": "3/1d fixed_window_counter"}));
    let decision = fixture.check(&brought);
    assert_eq!(
        (&decision["allowed"], &decision["limit"], &decision["remaining"]),
        (&json!(true), &json!(3), &json!(0))
    );
    fixture.configure(&json!({"key": "user:*", "limit": "5/1d fixed_window_counter"}));
    let decision = fixture.check(&also);
    let told = ["limit", "remaining", "pattern"].map(|name| decision[name].clone());
    assert_eq!(told, [json!(5), json!(2), json!("user:*")]);
    assert_eq!(fixture.check(&brought)["allowed"], false);
    // A request changes nothing of that, whatever it brings.
    fixture.check(&json!({"key": "user:2", "limit": "unlimited"}));
    fixture.client.post("/v1/take/user:2?limit=900/1s", "");
    let status = fixture.status("user:2");
    assert_eq!((&status["rate"], &status["source"], &status["used"]), (&json!(5), &json!("pattern"), &json!(5)));
    assert_eq!(
        (fixture.list(""), fixture.status("user:1")["rate"].clone()),
        (vec!["user:*".to_owned(), "user:1".to_owned()], json!(3))
    );
    fixture.restart();
    assert_eq!(fixture.check(&also)["allowed"], false);
    assert_eq!(fixture.client.ask("DELETE", "/v1/limits?prefix=user:", "").ok(), json!({"ok": true, "removed": 2}));
    assert_eq!(fixture.check(&json!({"key": "user:9", "limit": "2/1d"}))["remaining"], 1);
    fixture.server.terminate();
}

#[test]
fn all_of_an_array_or_none() {
    let mut fixture = start(&[]);
    let both = json!([{"key": "a", "limit": "5/1h"}, {"key": "p:*", "windows": ["1/1s", "9/day"], "max_keys": 7}]);
    assert_eq!(fixture.configure(&both), json!({"ok": true, "created": true}));
    assert_eq!(fixture.configure(&both), json!({"ok": true, "created": false}));
    let one_new = json!([{"key": "a", "unlimited": true}, {"key": "b", "rate": 1, "per": 1}]);
    assert_eq!(fixture.configure(&one_new), json!({"ok": true, "created": true}));
    for bad in [
        json!([{"key": "c", "limit": "1/1s"}, {"key": "a", "limit": "1/1s", "max_keys": 4}]),
        json!([{"key": "c", "limit": "1/1s"}, {"key": "c", "limit": "2/1s"}]),
        json!([{"key": "c", "limit": "1/1s"}, {"key": "", "limit": "2/1s"}]),
        json!([{"key": "c", "limit": "1/1s"}, 7]),
    ] {
        fixture.client.post("/v1/limits", &bad.to_string()).error(400, "invalid_argument");
    }
    assert_eq!(fixture.list(""), ["a", "b", "p:*"]);
    assert_eq!(fixture.configure(&json!([])), json!({"ok": true, "created": false}));
    fixture.restart();
    assert_eq!(fixture.list(""), ["a", "b", "p:*"]);
    let (a, pattern) = (fixture.status("a"), fixture.status("p:*"));
    assert_eq!((&a["unlimited"], &a["remaining"]), (&json!(true), &Value::Null));
    let windows: Vec<_> = pattern["windows"].as_array().unwrap().iter().map(|window| window["name"].clone()).collect();
    assert_eq!(
        (windows, &pattern["max_keys"], &pattern["live"]),
        (vec![json!("1/1s"), json!("9/day")], &json!(7), &json!(0))
    );
    fixture.server.terminate();
}

#[test]
fn what_is_told_of_a_limit_configures_it() {
    let mut fixture = start(&[]);
    fixture.configure(&json!([
        {"key": "bucket", "rate": 9, "per": "1h", "burst": 20, "mode": "shadow"},
        {"key": "log", "rate": 9, "per": "90s", "algorithm": "sliding_window_log"},
        {"key": "month", "rate": 9, "per": "month", "tz": "Europe/Berlin", "anchor": 31},
        {"key": "p:*", "rate": 0, "per": "1s", "max_keys": 5},
        {"key": "free", "unlimited": true},
    ]));
    let listing = fixture.client.get("/v1/limits").ok();
    let values = ["key", "rate", "per", "burst", "algorithm", "tz", "anchor", "unlimited", "mode", "max_keys"];
    let told: Vec<Value> = listing
        .as_array()
        .unwrap()
        .iter()
        .map(|status| {
            let fields = status.as_object().unwrap().iter().filter(|(name, _)| values.contains(&name.as_str()));
            Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
        })
        .collect();
    let events = |fixture: &mut Fixture| fixture.client.get("/v1/doctor").ok()["events_written"].clone();
    let before = events(&mut fixture);
    assert_eq!(fixture.configure(&Value::Array(told)), json!({"ok": true, "created": false}));
    assert_eq!(events(&mut fixture), before, "the same values leave no record");
    fixture.server.terminate();
}

#[test]
fn several_windows_all_or_none() {
    let mut fixture = start(&[]);
    fixture.configure(
        &json!({"key": "api", "windows": [{"rate": 100, "per": "366d"}, "3/365d", "3/365d sliding_window_log"]}),
    );
    let reply = fixture.client.post("/v1/check", r#"{"key":"api","cost":2}"#);
    let decision = reply.ok();
    assert_eq!((&decision["remaining"], &decision["window"]), (&json!(1), &json!("3/365d")));
    let left: Vec<_> =
        decision["windows"].as_array().unwrap().iter().map(|window| window["remaining"].clone()).collect();
    assert_eq!(left, [json!(1), json!(1), json!(98)]);
    let policy = "\"3/365d\";q=3;w=31536000, \"3/365d#2\";q=3;w=31536000, \"100/366d\";q=100;w=31622400";
    assert_eq!(reply.header("RateLimit-Policy"), Some(policy));
    let limit = reply.header("RateLimit").unwrap();
    let names: Vec<&str> = limit.split(", ").map(|item| item.split(";t=").next().unwrap()).collect();
    assert_eq!(names, ["\"3/365d\";r=1", "\"3/365d#2\";r=1", "\"100/366d\";r=98"]);
    let reply = fixture.client.post("/v1/check?status=429", r#"{"key":"api","cost":2}"#);
    assert_eq!((reply.status, reply.json()["windows"][2]["remaining"].clone()), (429, json!(98)), "nothing was spent");
    let wait: u64 = reply.header("Retry-After").unwrap().parse().unwrap();
    let later = reply
        .header("RateLimit")
        .unwrap()
        .split(", ")
        .map(|item| item.split(";t=").nth(1).unwrap().parse::<u64>().unwrap());
    let later: Vec<u64> = later.collect();
    assert!(later.iter().all(|seconds| *seconds <= wait) && later.contains(&wait), "{later:?} {wait}");
    fixture.server.terminate();
}

#[test]
fn headers_of_several_keys() {
    let mut fixture = start(&[]);
    fixture.configure(&json!([{"key": "wide", "limit": "50/366d"}, {"key": "tight", "limit": "2/365d"}, {"key": "free", "unlimited": true}]));
    let policy =
        |reply: &Reply| reply.header("RateLimit-Policy").map(|policy| policy.split(';').next().unwrap().to_owned());
    let of = |name: &str| Some(format!("\"{name}\""));
    let body = r#"{"items":["wide","tight",{"key":"new","limit":"9/1d"}]}"#;
    let reply = fixture.client.post("/v1/check-all?status=429", body);
    assert_eq!((reply.status, policy(&reply), reply.header("Cache-Control")), (200, of("2/365d"), Some("no-store")));
    let denying = r#"{"items":[["wide",49],["tight",2],"new"]}"#;
    let denied = fixture.client.post("/v1/check-all?status=429", r#"{"items":["free",["wide",50]]}"#);
    assert_eq!(
        (denied.status, policy(&denied), denied.json()["denied_key"].clone()),
        (429, of("50/366d"), json!("wide"))
    );
    assert!(denied.header("Retry-After").is_some() && denied.header("Cache-Control") == Some("no-store"));
    let denied = fixture.client.post("/v1/check-all", denying);
    // That it can't be told of `new`, for which nothing is configured, comes before any decision.
    denied.error(404, "limit_not_configured");
    let denied = fixture.client.post("/v1/check-all", r#"{"items":["wide",["tight",2]]}"#);
    assert_eq!((denied.status, policy(&denied), denied.header("Retry-After")), (200, of("2/365d"), None));
    let many = fixture.client.post("/v1/check-many", r#"{"items":["none","wide","tight"]}"#);
    assert_eq!((many.status, policy(&many), many.header("Cache-Control")), (200, of("2/365d"), Some("no-store")));
    let many = fixture.client.post("/v1/check-many", r#"{"items":["none","free"]}"#);
    assert_eq!((policy(&many), many.header("RateLimit"), many.header("Cache-Control")), (None, None, Some("no-store")));
    fixture.client.post("/v1/check-all?status=404", denying).error(400, "invalid_argument");
    fixture.server.terminate();
}

#[test]
fn keys_live_and_are_listed_by_pattern() {
    let mut fixture = start(&[]);
    fixture.configure(&json!([{"key": "user:*", "limit": "9/366d"}, {"key": "user:admin", "unlimited": true}, {"key": "u*", "limit": "1/366d"}]));
    for key in ["user:1", "user:2", "user:admin", "ux"] {
        fixture.check(&json!({"key": key}));
    }
    fixture.check(&json!({"key": "brought", "limit": "1/366d"}));
    assert_eq!(fixture.list(""), ["u*", "user:*", "user:admin"]);
    assert_eq!(fixture.list("?live=false"), ["u*", "user:*", "user:admin"]);
    assert_eq!(fixture.list("?live=true"), ["brought", "u*", "user:*", "user:1", "user:2", "user:admin", "ux"]);
    assert_eq!(fixture.list("?live=true&prefix=user:&limit=2&after=user:*"), ["user:1", "user:2"]);
    assert_eq!(fixture.list("?pattern=user:*"), ["user:1", "user:2"]);
    assert_eq!(
        (fixture.list("?pattern=u*&live=true"), fixture.list("?pattern=u*&prefix=user")),
        (vec!["ux".to_owned()], vec![])
    );
    fixture.client.get("/v1/limits?pattern=nothing:*").error(404, "limit_not_configured");
    // Under a pattern a key has a status before anything is spent; under nothing it has none, and none when it was denied.
    let status = fixture.status("user:77");
    assert_eq!(
        (&status["source"], &status["pattern"], &status["remaining"]),
        (&json!("pattern"), &json!("user:*"), &json!(9))
    );
    fixture.client.get("/v1/limits/nobody").error(404, "limit_not_configured");
    assert_eq!(fixture.check(&json!({"key": "nobody", "limit": "0/1s"}))["retry_after_ms"], Value::Null);
    fixture.client.get("/v1/limits/nobody").error(404, "limit_not_configured");
    // The pattern's totals are those of its keys.
    let status = fixture.status("user:*");
    assert_eq!((&status["total_allowed"], &status["live"], &status["remaining"]), (&json!(2), &json!(2), &Value::Null));

    assert_eq!(fixture.client.post("/v1/reset", r#"{"prefix":"user:"}"#).ok(), json!({"ok": true}));
    assert_eq!((fixture.status("user:1")["remaining"].clone(), fixture.list("?pattern=user:*")), (json!(9), vec![]));
    assert_eq!(fixture.list("?pattern=u*"), ["ux"]);
    assert_eq!(fixture.client.post("/v1/reset", r#"{"key":"ux"}"#).ok(), json!({"ok": true}));
    assert_eq!(fixture.list("?pattern=u*"), [""; 0]);
    fixture.client.post("/v1/reset", r#"{"key":"nobody"}"#).error(404, "limit_not_configured");
    assert_eq!(fixture.client.ask("DELETE", "/v1/limits?prefix=none", "").ok(), json!({"ok": true, "removed": 0}));
    fixture.server.terminate();
}

#[test]
fn shadows_and_bans_and_no_limit_at_all() {
    let mut fixture = start(&[]);
    fixture.configure(&json!([{"key": "shadow", "limit": "1/366d shadow"}, {"key": "free", "unlimited": true}, {"key": "k", "limit": "5/366d"}]));
    assert_eq!(fixture.check(&json!({"key": "shadow"}))["would_deny"], false);
    let reply = fixture.client.post("/v1/check?status=429", r#"{"key":"shadow"}"#);
    let decision = reply.ok();
    assert_eq!(
        (&decision["allowed"], &decision["shadow"], &decision["would_deny"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!((reply.header("Retry-After"), decision["retry_after_ms"].clone()), (None, json!(0)));
    assert_eq!(line(&fixture.client.post("/v1/take/shadow", "")), (200, "ok 0"));
    let free = fixture.client.post("/v1/take/free?cost=1000000", "");
    assert_eq!(
        (line(&free), free.header("RateLimit"), free.header("Cache-Control")),
        ((200, "ok unlimited"), None, Some("no-store"))
    );
    let banned = fixture.client.post("/v1/take/banned?limit=0/1s", "");
    assert_eq!((line(&banned), banned.header("Retry-After")), ((429, "denied never"), None));
    assert_eq!(banned.header("RateLimit"), Some("\"0/1s\";r=0"));

    // A ban for an hour lies over the limit, and says when it ends.
    fixture.configure(&json!({"key": "k", "rate": 0, "per": "1s", "for": 3600}));
    let denied = fixture.client.post("/v1/check?status=429", r#"{"key":"k"}"#);
    assert_eq!((denied.status, denied.json()["limit"].clone()), (429, json!(0)));
    let wait = denied.header("Retry-After").map(|wait| wait.parse::<u64>().unwrap());
    assert!(wait.is_some_and(|wait| (3590..=3600).contains(&wait)), "{denied:?}");
    let status = fixture.status("k");
    assert_eq!((&status["rate"], &status["below"]["rate"]), (&json!(0), &json!(5)));
    assert!((3_590_000..=3_600_000).contains(&status["for_ms"].as_u64().unwrap()), "{status}");
    fixture.restart();
    assert_eq!(fixture.check(&json!({"key": "k"}))["allowed"], false);
    // Without `for` what lies below changes; removing it removes both.
    fixture.configure(&json!({"key": "k", "limit": "7/366d"}));
    assert_eq!(
        (fixture.status("k")["rate"].clone(), fixture.status("k")["below"]["rate"].clone()),
        (json!(0), json!(7))
    );
    fixture.client.ask("DELETE", "/v1/limits/k", "").ok();
    fixture.client.get("/v1/limits/k").error(404, "limit_not_configured");
    fixture.server.terminate();
}

#[test]
fn keys_that_find_no_room_share_a_limit_and_it_is_told() {
    let mut fixture = start(&["--max-keys", "1"]);
    fixture.configure(&json!({"key": "p:*", "limit": "3/366d", "max_keys": 1}));
    let mut check = |body: Value| {
        let decision = fixture.check(&body);
        (decision["overflow"] == true, decision["remaining"].as_u64().unwrap())
    };
    let left = ["p:1", "p:2", "p:3", "p:1", "p:4"].map(|key| check(json!({"key": key})));
    assert_eq!(left, [(false, 2), (true, 2), (true, 1), (false, 1), (true, 0)]);
    assert_eq!(check(json!({"key": "one", "limit": "9/366d"})), (false, 8));
    assert_eq!(check(json!({"key": "two", "limit": "9/366d"})), (true, 8));
    let doctor = fixture.client.get("/v1/doctor").ok();
    assert_eq!(
        (&doctor["ok"], &doctor["overflows"], &doctor["patterns"], &doctor["live"]),
        (&json!(false), &json!(2), &json!(1), &json!(2))
    );
    let problems = doctor["problems"].to_string();
    assert!(problems.contains("`p:*`") && problems.contains("--max-keys"), "{problems}");
    let metrics = fixture.client.get("/v1/metrics").body;
    for line in [
        "flint_patterns 1",
        "flint_live_keys 2",
        "flint_overflows 2",
        // A lane may decide several times, so that it does not count these.
        if over_store::is_on() { "flint_store_reachable 1" } else { "flint_overflow_decisions_total 4" },
        "flint_limits 0",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    }
    fixture.server.terminate();
}

#[test]
fn long_arrays_are_taken_and_no_other_long_body() {
    let mut fixture = start(&[]);
    let limits: Vec<Value> = (0..20_000)
        .map(|number| json!({"key": format!("tenant/{number}/{}", "k".repeat(40)), "limit": "5/1h"}))
        .collect();
    let body = Value::Array(limits).to_string();
    assert!(body.len() > MAX_BODY_BYTES, "{}", body.len());
    assert_eq!(fixture.client.post("/v1/limits", &body).ok(), json!({"ok": true, "created": true}));
    fixture.restart();
    assert_eq!(fixture.client.get("/v1/doctor").ok()["limits"], 20_000);
    assert_eq!(fixture.client.post("/v1/limits", &body).ok(), json!({"ok": true, "created": false}));
    assert_eq!(
        fixture.client.ask("DELETE", "/v1/limits?prefix=tenant/", "").ok(),
        json!({"ok": true, "removed": 20_000})
    );

    // As long as one may be.
    let last = r#"[{"key":"last","limit":"1/1s"}]"#;
    let longest = format!("{last}{}", " ".repeat(MAX_LIMITS_BYTES - last.len()));
    assert_eq!(fixture.client.post("/v1/limits", &longest).ok(), json!({"ok": true, "created": true}));

    let one = format!("{{\"key\":\"k\",\"limit\":\"1/1s\"}}{}", " ".repeat(MAX_BODY_BYTES));
    assert!(fixture.client.post("/v1/limits", &one).error(413, "body_too_large").contains("1048576"));
    let head =
        |length: usize| format!("POST /v1/limits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n");
    // None of the body is sent: the answer must not wait for it.
    let refused = fixture.server.client().raw(&head(MAX_LIMITS_BYTES + 1), false).unwrap();
    assert!(refused.error(413, "body_too_large").contains("67108864"), "{refused:?}");
    // One at a time, and the next when it has gone.
    let mut slow = TcpStream::connect(("127.0.0.1", fixture.server.port())).unwrap();
    let expecting = head(MAX_LIMITS_BYTES).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    slow.write_all(expecting.as_bytes()).unwrap();
    let mut interim = [0; 12];
    slow.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100");
    let deadline = Instant::now() + PATIENCE;
    let ask = |wanted: u16| loop {
        let reply = fixture.server.client().post("/v1/limits", &body);
        if reply.status == wanted {
            break reply;
        }
        assert!(Instant::now() < deadline, "not {wanted}: {reply:?}");
    };
    let busy = ask(503);
    assert_eq!((busy.error(503, "overloaded").is_empty(), busy.header("Retry-After")), (false, Some("1")));
    fixture.client.post("/v1/limits", r#"[{"key":"k","limit":"1/1s"}]"#).ok();
    drop(slow);
    ask(200);
    fixture.server.terminate();
}
