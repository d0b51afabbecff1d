//! The HTTP API, endpoint by endpoint and error by error.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use serde_json::{Value, json};

use crate::over_store;
use crate::util::{Client, Server, flint};

const TOKEN: &str = "dev-secret";

struct Fixture {
    server: Server,
    client: Client,
    parent: tempfile::TempDir,
}

fn with_token() -> Fixture {
    start(&["--token", TOKEN], Some(TOKEN))
}

fn start(args: &[&str], token: Option<&str>) -> Fixture {
    let parent = tempfile::tempdir().unwrap();
    let server = Server::start(&parent.path().join("data"), args);
    let client = Client::new(&server.url, token);
    Fixture { server, client, parent }
}

fn configure(client: &mut Client, key: &str, rate: u64, per: &str) {
    let body = json!({"key": key, "rate": rate, "per": per});
    assert_eq!(client.post("/v1/limits", &body.to_string()).ok()["ok"], true);
}

fn keys(listing: &Value) -> Vec<&str> {
    listing.as_array().unwrap().iter().map(|status| status["key"].as_str().unwrap()).collect()
}

/// An instant as the contract has it: RFC 3339 in UTC with milliseconds.
fn assert_instant(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no instant: {value}"));
    assert_eq!((text.len(), &text[10..11], &text[19..20], &text[23..]), (24, "T", ".", "Z"), "{text}");
    assert_eq!(text.bytes().filter(u8::is_ascii_digit).count(), 17, "{text}");
}

#[test]
fn the_main_job() {
    let Fixture { server, mut client, parent } = with_token();
    assert_eq!(client.get("/v1/health").ok(), json!({"ok": true, "version": env!("CARGO_PKG_VERSION")}));

    let body = r#"{"key":"api:user-42","rate":100,"per":"1m"}"#;
    assert_eq!(client.post("/v1/limits", body).ok(), json!({"ok": true, "created": true}));
    let files = || match over_store::is_on() {
        true => 0,
        false => crate::util::log_files(&parent.path().join("data")).len(),
    };
    let log = files();
    assert_eq!(client.post("/v1/limits", body).ok(), json!({"ok": true, "created": false}));
    let stated = r#"{"key":"api:user-42","rate":100,"per":60,"algorithm":"token_bucket","burst":100}"#;
    assert_eq!(client.post("/v1/limits", stated).ok(), json!({"ok": true, "created": false}));
    // An empty frame may follow when the log falls idle; a record would name its key or number.
    assert_eq!(log, files());

    let decision = client.post("/v1/check", r#"{"key":"api:user-42","cost":5}"#).ok();
    assert_instant(&decision["reset_at"]);
    let expected = json!({"key": "api:user-42", "allowed": true, "cost": 5, "limit": 100, "remaining": 95, "used": 5,
        "reset_at": decision["reset_at"], "retry_after_ms": 0, "next_ms": 600, "algorithm": "token_bucket"});
    assert_eq!(decision, expected);
    assert_eq!(client.post("/v1/check", r#"{"key":"api:user-42"}"#).ok()["cost"], 1);

    for (key, rate) in [("user:42", 10), ("org:acme", 25), ("route:/v1/chat", 1000)] {
        configure(&mut client, key, rate, "24h");
    }
    let all = r#"{"items":["user:42",{"key":"org:acme","cost":10},["route:/v1/chat",1]]}"#;
    let answer = client.post("/v1/check-all", all).ok();
    assert_eq!((&answer["allowed"], &answer["denied_key"]), (&json!(true), &Value::Null));
    let results: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|one| (&one["key"], &one["remaining"])).collect();
    let expected = [(json!("user:42"), 9), (json!("org:acme"), 15), (json!("route:/v1/chat"), 999)];
    assert!(
        results.iter().zip(&expected).all(|((key, left), other)| **key == other.0 && **left == other.1),
        "{answer}"
    );
    assert_eq!(results.len(), 3);
    assert_eq!(client.post("/v1/check-all", all).ok()["allowed"], true);

    // 5 of 25 units are left: nothing at all is spent now.
    let reply = client.post("/v1/check-all", all);
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    let answer = reply.ok();
    assert_eq!((&answer["allowed"], &answer["denied_key"]), (&json!(false), &json!("org:acme")));
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "up to and with the first denied one");
    assert_eq!((&results[1]["allowed"], &results[1]["remaining"]), (&json!(false), &json!(5)));
    assert!(results[1]["retry_after_ms"].as_u64().unwrap() > 0);

    let status = client.get("/v1/limits/route%3A%2Fv1%2Fchat").ok();
    let expected = json!({"key": "route:/v1/chat", "rate": 1000, "per": status["per"], "per_millis": 86_400_000,
        "burst": 1000, "algorithm": "token_bucket", "mode": "enforce", "source": "exact", "remaining": 998, "used": 2,
        "reset_at": status["reset_at"], "next_ms": status["next_ms"],
        "total_allowed": 2, "total_denied": 0, "total_allowed_cost": 2, "total_denied_cost": 0,
        "last_allowed_at": status["last_allowed_at"], "last_denied_at": null, "last_reset_at": null});
    assert_eq!(status, expected);
    assert!(["24h", "1d"].contains(&status["per"].as_str().unwrap()), "{status}");
    assert_instant(&status["last_allowed_at"]);
    let org = client.get("/v1/limits/org:acme").ok();
    let counted = ["remaining", "total_allowed", "total_allowed_cost", "total_denied", "total_denied_cost"]
        .map(|name| &org[name]);
    assert_eq!(counted.map(|count| count.as_u64().unwrap()), [5, 2, 20, 1, 10]);
    assert_instant(&org["last_denied_at"]);
    assert_eq!(client.get("/v1/limits/user%3A42").ok()["remaining"], 8);

    assert_eq!(client.post("/v1/log/flush", "").ok(), json!({"ok": true}));
    assert_eq!(client.post("/v1/log/flush", "{}").ok(), json!({"ok": true}));
    client.compact();
    if !over_store::is_on() {
        let compaction = client.post("/v1/log/compact", "").ok();
        assert_eq!(compaction["ok"], true);
        for name in ["log_bytes_before", "log_bytes_after", "snapshot_bytes"] {
            assert!(compaction[name].is_u64(), "{compaction}");
        }
    }
    let doctor = client.get("/v1/doctor");
    assert!(doctor.body.starts_with("{\"ok\":"), "{}", doctor.body);
    assert!(doctor.ok()["problems"].is_array());

    assert_eq!(client.post("/v1/reset", r#"{"key":"org:acme"}"#).ok(), json!({"ok": true}));
    let org = client.get("/v1/limits/org:acme").ok();
    assert_eq!((&org["remaining"], &org["total_allowed"]), (&json!(25), &json!(2)));
    assert_instant(&org["last_reset_at"]);
    assert_eq!(client.ask("DELETE", "/v1/limits/org%3Aacme", "").ok(), json!({"ok": true}));
    client.get("/v1/limits/org:acme").error(404, "limit_not_configured");
    client.ask("DELETE", "/v1/limits/org:acme", "").error(404, "limit_not_configured");
    assert_eq!(keys(&client.get("/v1/limits").ok()), ["api:user-42", "route:/v1/chat", "user:42"]);
    server.terminate();
}

#[test]
fn listing_by_prefix_and_pages() {
    let Fixture { server: _server, mut client, parent: _parent } = start(&[], None);
    assert_eq!(client.get("/v1/limits").ok(), json!([]));
    for key in ["b:2", "a:1", "b:1", "ключ", "c d&e=f+g", "b:3"] {
        configure(&mut client, key, 10, "1h");
    }
    let mut list = |query: &str| -> Vec<String> {
        let listing = client.get(&format!("/v1/limits{query}")).ok();
        keys(&listing).into_iter().map(str::to_owned).collect()
    };
    assert_eq!(list(""), ["a:1", "b:1", "b:2", "b:3", "c d&e=f+g", "ключ"]);
    assert_eq!(list("?prefix=b:"), ["b:1", "b:2", "b:3"]);
    assert_eq!(list("?prefix=b%3A&limit=2"), ["b:1", "b:2"]);
    assert_eq!(list("?prefix=b:&limit=2&after=b:2"), ["b:3"]);
    assert_eq!(list("?limit=1&after=a:0"), ["a:1"]);
    assert_eq!(list("?prefix=%D0%BA"), ["ключ"]);
    assert_eq!(list("?after=%D0%BA%D0%BB%D1%8E%D1%87"), [""; 0]);
    assert_eq!(list("?prefix=c%20d%26e%3Df%2Bg"), ["c d&e=f+g"]);
    for query in
        ["limit=0", "limit=x", "limit=-1", "limit=1&limit=2", "prefixx=a", "prefix=%zz", "prefix=%ff", "live=yes"]
    {
        let message = client.get(&format!("/v1/limits?{query}")).error(400, "invalid_argument");
        let name = query.split('=').next().unwrap();
        assert!(message.contains(name), "{query}: {message}");
    }
}

#[test]
fn decisions_as_text_and_as_headers() {
    let Fixture { server: _server, mut client, parent: _parent } = start(&[], None);
    let body = r#"{"key":"job","rate":100,"per":"1m","algorithm":"fixed_window_counter"}"#;
    client.post("/v1/limits", body).ok();
    let reply = client.post("/v1/check?status=429", r#"{"key":"job","cost":59}"#);
    assert_eq!(reply.ok()["remaining"], 41);
    assert_eq!(reply.header("RateLimit-Policy"), Some("\"100/1m\";q=100;w=60"));
    assert_eq!(reply.header("RateLimit"), Some("\"100/1m\";r=41;t=60"));
    assert_eq!((reply.header("Cache-Control"), reply.header("Retry-After")), (Some("no-store"), None));

    let body = r#"{"key":"job","cost":42}"#;
    let reply = client.post("/v1/check", body);
    assert_eq!((reply.ok()["allowed"].clone(), reply.header("Retry-After")), (json!(false), None));
    assert_eq!(client.post("/v1/check?status=200", body).ok()["allowed"], false);
    let reply = client.post("/v1/check?status=429", body);
    assert_eq!(reply.status, 429);
    let decision = reply.json();
    assert_eq!((&decision["allowed"], &decision["remaining"]), (&json!(false), &json!(41)));
    let seconds = decision["retry_after_ms"].as_u64().unwrap().div_ceil(1000);
    assert!((1..=60).contains(&seconds), "{decision}");
    assert_eq!(reply.header("Retry-After"), Some(seconds.to_string().as_str()));
    assert_eq!(reply.header("RateLimit-Policy"), Some("\"100/1m\";q=100;w=60"));
    assert!(reply.header("RateLimit").unwrap().starts_with("\"100/1m\";r=41;t="), "{reply:?}");
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    client.post("/v1/check?status=500", body).error(400, "invalid_argument");
    client.post("/v1/check?stat=429", body).error(400, "invalid_argument");

    configure(&mut client, "back/up", 3, "366d");
    let reply = client.post("/v1/take/back%2Fup?cost=2", "");
    assert_eq!((reply.status, reply.body.trim_end()), (200, "ok 1"));
    assert!(reply.header("Content-Type").unwrap().starts_with("text/plain"));
    assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    let reply = client.post("/v1/take/back%2Fup?cost=2", "");
    assert_eq!(reply.status, 429);
    let wait: u64 = reply.body.trim_end().strip_prefix("denied ").unwrap().parse().unwrap();
    assert_eq!(reply.header("Retry-After"), Some(wait.div_ceil(1000).to_string().as_str()));
    assert_eq!(client.post("/v1/take/back%2Fup", "").body.trim_end(), "ok 0");
    client.post("/v1/take/back%2Fup?cost=4", "").error(400, "cost_exceeds_capacity");
    client.post("/v1/take/back%2Fup?cost=0", "").error(400, "invalid_argument");
    client.post("/v1/take/back%2Fup?cost=x", "").error(400, "invalid_argument");
    client.post("/v1/take/nobody", "").error(404, "limit_not_configured");
    client.post("/v1/take/50%", "").error(400, "invalid_argument");

    // Below a second there is no w.
    client.post("/v1/limits", r#"{"key":"short","rate":5,"per":"999ms"}"#).ok();
    let reply = client.post("/v1/check", r#"{"key":"short"}"#);
    assert_eq!(reply.header("RateLimit-Policy"), Some("\"5/999ms\";q=5"));
}

/// Every method of every endpoint, a path that is none and a method that no endpoint has.
fn endpoints() -> Vec<(&'static str, String)> {
    let known = flint::server::ENDPOINTS.iter().flat_map(|endpoint| {
        endpoint
            .methods
            .iter()
            .map(|method| (method.name, endpoint.path.replace("{key}", "k").replace("{name}", "web")))
    });
    known.chain([("GET", "/nowhere".to_owned()), ("PUT", "/v1/check".to_owned())]).collect()
}

#[test]
fn no_endpoint_answers_without_the_token() {
    let Fixture { mut server, mut client, parent: _parent } = with_token();
    configure(&mut client, "k", 10, "366d");
    for token in [None, Some("wrong"), Some("dev-secret2"), Some("dev-secre"), Some(""), Some("Bearer")] {
        let mut client = Client::new(&server.url, token);
        for (method, path) in endpoints() {
            let reply = client.ask(method, &path, r#"{"key":"k"}"#);
            let message = reply.error(401, "unauthorized");
            assert_eq!(reply.header("WWW-Authenticate"), Some("Bearer"), "{method} {path}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
    let basic = "GET /v1/health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic dev-secret\r\n\r\n";
    client.raw(basic, false).unwrap().error(401, "unauthorized");
    let lower = "GET /v1/health HTTP/1.1\r\nHost: localhost\r\nauthorization: bearer dev-secret\r\n\r\n";
    client.raw(lower, false).unwrap().ok();
    let status = client.get("/v1/limits/k").ok();
    assert_eq!((&status["remaining"], &status["total_denied"]), (&json!(10), &json!(0)));
    assert!(!server.stderr().contains("secret"));
}

#[test]
fn tokens_from_file_and_environment() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("tokens");
    std::fs::write(&file, "# two\none\n\ntwo\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start(&parent.path().join("data"), &["--token-file", file.to_str().unwrap()]);
    for (token, status) in [("one", 200), ("two", 200), ("# two", 401), ("", 401), ("three", 401)] {
        assert_eq!(Client::new(&server.url, Some(token)).get("/v1/health").status, status, "{token}");
    }
    // --token goes before --token-file; an empty one is none.
    let file = ["--token-file", file.to_str().unwrap()];
    let server = Server::start(&parent.path().join("b"), &[&["--token", "mine"][..], &file].concat());
    assert_eq!(Client::new(&server.url, Some("mine")).get("/v1/health").status, 200);
    assert_eq!(Client::new(&server.url, Some("one")).get("/v1/health").status, 401);
    let server = Server::start(&parent.path().join("c"), &[&["--token", ""][..], &file].concat());
    assert_eq!(Client::new(&server.url, Some("one")).get("/v1/health").status, 200);
    assert_eq!(server.client().get("/v1/health").status, 401);
    std::fs::set_permissions(file[1], std::fs::Permissions::from_mode(0o602)).unwrap();
    let refused = flint(&parent.path().join("d"), &[&["server", "start"], &file[..]].concat());
    assert!(refused.code == Some(2) && refused.err.contains("--token-file"), "{refused:?}");
    assert!(!parent.path().join("d").exists());
}

#[test]
fn every_error_has_its_code_and_names_what_is_wrong() {
    let Fixture { server, mut client, parent: _parent } = start(&[], None);
    configure(&mut client, "k", 10, "366d");
    configure(&mut client, "other", 10, "366d");
    for (path, body, name) in [
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","colour":1}"#, "colour"),
        ("/v1/limits", r#"{"key":"x","per":"1s"}"#, "rate"),
        ("/v1/limits", r#"{"key":"x","rate":1}"#, "per"),
        ("/v1/limits", r#"{"rate":1,"per":"1s"}"#, "key"),
        ("/v1/limits", r#"{"key":"x","rate":0,"per":"1s","burst":1}"#, "burst"),
        ("/v1/limits", r#"{"key":"x","rate":1000000000001,"per":"1s"}"#, "rate"),
        ("/v1/limits", r#"{"key":"x","rate":-1,"per":"1s"}"#, "rate"),
        ("/v1/limits", r#"{"key":"x","rate":1.5,"per":"1s"}"#, "rate"),
        ("/v1/limits", r#"{"key":"x","rate":"1","per":"1s"}"#, "rate"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"0s"}"#, "per"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"367d"}"#, "per"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1day"}"#, "`1d`"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","algorithm":"leaky"}"#, "algorithm"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","burst":0}"#, "burst"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","burst":2,"algorithm":"fixed_window_counter"}"#, "burst"),
        ("/v1/limits", r#"{"key":"","rate":1,"per":"1s"}"#, "key"),
        ("/v1/limits", r#"{"key":"  ","rate":1,"per":"1s"}"#, "key"),
        ("/v1/limits", r#"{"key":"a\nb","rate":1,"per":"1s"}"#, "key"),
        ("/v1/limits", r#"{"key":7,"rate":1,"per":"1s"}"#, "key"),
        ("/v1/limits", "[1]", "item 1"),
        ("/v1/limits", r#"[{"key":"x","rate":1,"per":"1s"},{"key":"x","rate":2,"per":"1s"}]"#, "`x` is given twice"),
        ("/v1/limits", r#"[{"key":"x","rate":1,"per":"1s"},{"key":"y","rate":-1,"per":"1s"}]"#, "item 2"),
        ("/v1/limits", r#"{"key":"x","windows":["1/1s"],"rate":1}"#, "`windows` and `rate`"),
        ("/v1/limits", r#"{"key":"x","unlimited":true,"per":"1s"}"#, "`unlimited` and `per`"),
        ("/v1/limits", r#"{"key":"x","windows":["1/1s","1/1s"]}"#, "`1/1s` is given twice"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","max_keys":5}"#, "max_keys"),
        ("/v1/limits", r#"{"key":"x*","rate":1,"per":"1s","max_keys":0}"#, "max_keys"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","for":"367d"}"#, "for"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","tz":"UTC"}"#, "tz"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"day","tz":"Mars/Olympus"}"#, "`Mars/Olympus`"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"day","anchor":3}"#, "anchor"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"month","anchor":32}"#, "anchor"),
        ("/v1/limits", r#"{"key":"x","rate":1,"per":"1s","mode":"dry"}"#, "shadow"),
        ("/v1/check", r#"{"key":"x","limit":"100"}"#, "RATE/PER"),
        ("/v1/check", r#"{"key":"x","limit":{"rate":1,"per":"1s","max_keys":1}}"#, "`max_keys`"),
        ("/v1/check-all", r#"{"items":["k",{"key":"x","limit":["1/1y"]}]}"#, "item 2"),
        ("/v1/take/x?limit=1", "", "RATE/PER"),
        ("/v1/reset", "{}", "`prefix`"),
        ("/v1/reset", r#"{"prefix":""}"#, "prefix"),
        ("/v1/reset", r#"{"key":"k","prefix":"k"}"#, "`prefix`"),
        ("/v1/check", r#"{"key":"k","coast":1}"#, "coast"),
        ("/v1/check", r#"{"key":"k","cost":0}"#, "cost"),
        ("/v1/check", r#"{"key":"k","cost":-1}"#, "cost"),
        ("/v1/check", r#"{"key":"k","cost":1.5}"#, "cost"),
        ("/v1/check", r#"{"key":"k","cost":true}"#, "cost"),
        ("/v1/check", r#"{"key":"k","cost":"1"}"#, "cost"),
        ("/v1/check", r#"{"key":"k","key":"other"}"#, "key"),
        ("/v1/check", "", "key"),
        ("/v1/check", "{}", "key"),
        ("/v1/check", "null", ""),
        ("/v1/check-all", "{}", "items"),
        ("/v1/check-all", r#"{"items":[]}"#, "items"),
        ("/v1/check-all", r#"{"items":["k","k"]}"#, "k"),
        ("/v1/check-all", r#"{"items":["k",{"key":"other","coast":1}]}"#, "coast"),
        ("/v1/check-all", r#"{"items":["k",["other",1,2]]}"#, ""),
        ("/v1/check-all", r#"{"items":["k",7]}"#, "items"),
        ("/v1/reset", r#"{"key":"k","all":true}"#, "all"),
        ("/v1/log/flush", r#"{"now":true}"#, "now"),
        ("/v1/log/compact", r#"{"now":true}"#, "now"),
    ] {
        let reply = client.post(path, body);
        assert_eq!(reply.status, 400, "{path} {body}: {reply:?}");
        let message = reply.error(400, "invalid_argument");
        assert!(message.contains(name), "{path} {body}: {reply:?}");
        // No message is the JSON library's own.
        let foreign = ["invalid type", "expected", "column", "sequence", "map,"];
        assert!(!foreign.iter().any(|word| message.contains(word)), "{path} {body}: {message}");
    }
    for (query, word) in [("", "`prefix`"), ("?prefix=", "prefix"), ("?prefix=a&live=true", "`live`")] {
        let message = client.ask("DELETE", &format!("/v1/limits{query}"), "").error(400, "invalid_argument");
        assert!(message.contains(word), "{query}: {message}");
    }
    for (path, body) in [
        ("/v1/check", "{"),
        ("/v1/check", "key=k"),
        ("/v1/check", r#"{"key":"k"} x"#),
        ("/v1/check", r#"{"key":"k",}"#),
        ("/v1/limits", r#"{"key":"#),
        ("/v1/check-all", r#"{"items":["k",]}"#),
        ("/v1/reset", "nonsense"),
        ("/v1/log/flush", "nonsense"),
    ] {
        client.post(path, body).error(400, "invalid_json");
    }
    let long = "x".repeat(513);
    client.post("/v1/check", &json!({ "key": long }).to_string()).error(400, "invalid_argument");
    let many: Vec<String> = (0..1001).map(|number| format!("k{number}")).collect();
    client.post("/v1/check-all", &json!({ "items": many }).to_string()).error(400, "invalid_argument");

    client.post("/v1/check", r#"{"key":"k","cost":11}"#).error(400, "cost_exceeds_capacity");
    client.post("/v1/check-all", r#"{"items":["other",["k",11]]}"#).error(400, "cost_exceeds_capacity");
    let message = client.post("/v1/check", r#"{"key":"gone"}"#).error(404, "limit_not_configured");
    assert!(message.contains("`gone`"), "{message}");
    let message = client.post("/v1/check-all", r#"{"items":["k","gone"]}"#).error(404, "limit_not_configured");
    assert!(message.contains("`gone`"), "{message}");
    client.post("/v1/reset", r#"{"key":"gone"}"#).error(404, "limit_not_configured");
    for path in ["/", "/v1", "/v1/", "/v2/health", "/v1/limits/", "/v1/take/", "/v1/limits/a/b/../c?x", "/v1/check/"] {
        let reply = client.get(path);
        assert!([404, 400].contains(&reply.status), "{path}: {reply:?}");
    }
    client.get("/v1/nothing").error(404, "not_found");
    client.post("/", "").error(404, "not_found");
    for (method, path, allow) in [
        ("POST", "/v1/health", "GET, HEAD"),
        ("GET", "/v1/check", "POST"),
        ("DELETE", "/v1/check", "POST"),
        ("PATCH", "/v1/limits", "GET, HEAD, POST, PUT, DELETE"),
        ("POST", "/v1/limits/k", "GET, HEAD, DELETE"),
        ("PUT", "/v1/limits/k", "GET, HEAD, DELETE"),
        ("GET", "/v1/log/compact", "POST"),
        ("GET", "/v1/take/k", "POST"),
        ("POST", "/v1/doctor", "GET, HEAD"),
        ("PATCH", "/v1/reset", "POST"),
    ] {
        let reply = client.ask(method, path, "");
        reply.error(405, "method_not_allowed");
        assert_eq!(reply.header("Allow"), Some(allow), "{method} {path}");
    }
    // Nothing of all this was spent, and the connection and the server are well.
    for key in ["k", "other"] {
        let status = client.get(&format!("/v1/limits/{key}")).ok();
        assert_eq!((&status["remaining"], &status["total_allowed"]), (&json!(10), &json!(0)), "{key}");
    }
    assert_eq!(keys(&client.get("/v1/limits").ok()), ["k", "other"]);
    assert_eq!(server.terminate(), "");
}

#[test]
fn a_large_body_is_refused_unread() {
    let Fixture { server, mut client, parent: _parent } = with_token();
    configure(&mut client, "k", 10, "366d");
    let head = format!("POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n");
    for length in ["2000000", "1048577", "18446744073709551615"] {
        // None of the body is sent: the answer must not wait for it.
        let reply = Client::new(&server.url, None).raw(&format!("{head}Content-Length: {length}\r\n\r\n"), false);
        reply.unwrap().error(413, "body_too_large");
    }
    let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let reply = Client::new(&server.url, None).raw(&format!("{chunked}{}0\r\n\r\n", chunk.repeat(16)), false);
    reply.unwrap().error(400, "invalid_argument");
    chunked += "f\r\n{\"key\":\"k\"}    \r\n0\r\n\r\n";
    assert_eq!(Client::new(&server.url, None).raw(&chunked, false).unwrap().ok()["remaining"], 9);
    // Too much in chunks is noticed while it is read.
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(17));
    Client::new(&server.url, None).raw(&chunked, false).unwrap().error(413, "body_too_large");
    // One mebibyte is not a byte too many.
    let body = format!("{}{}", r#"{"key":"k"}"#, " ".repeat(1024 * 1024 - 11));
    assert_eq!(client.post("/v1/check", &body).ok()["remaining"], 8);
    assert_eq!(client.get("/v1/health").ok()["ok"], true);
    server.terminate();
}

#[test]
fn web_pages_are_refused() {
    let Fixture { server, mut client, parent } = start(&[], None);
    configure(&mut client, "k", 10, "366d");
    let port = server.port();
    let mut ask = |headers: &str| {
        let body = r#"{"key":"k"}"#;
        let head = format!("POST /v1/check HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        client.raw(&head, false).unwrap()
    };
    for headers in [
        "Host: 127.0.0.1\r\nOrigin: https://evil.example\r\n",
        "Host: 127.0.0.1\r\nOrigin: null\r\n",
        "Host: 127.0.0.1\r\norigin: http://127.0.0.1\r\n",
        "Host: evil.example\r\n",
        &format!("Host: evil.example:{port}\r\n"),
        &format!("Host: localhost.evil.example:{port}\r\n"),
        "Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n",
        "Host: 127.0.0.1\r\nsec-fetch-site: Same-Site\r\n",
    ] {
        ask(headers).error(403, "forbidden_origin");
    }
    for host in ["[::1].evil.example", "[::1", "[::1]x", "::1", "127.0.0.1:80:80"] {
        let message = ask(&format!("Host: {host}\r\n")).error(400, "invalid_argument");
        assert!(message.contains(&format!("`{host}`")), "{message}");
    }
    for headers in ["Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: same-origin\r\n"] {
        ask(&format!("Host: localhost\r\n{headers}")).ok();
    }
    for host in [&format!("localhost:{port}"), &format!("127.0.0.1:{port}"), "[::1]:80", "LOCALHOST"] {
        ask(&format!("Host: {host}\r\n")).ok();
    }
    assert_eq!(server.client().get("/v1/limits/k").ok()["total_allowed"], 6);

    let server = Server::start(&parent.path().join("b"), &["--allow-host", "quota.internal"]);
    let ask = |host: &str| {
        let head = format!("GET /v1/health HTTP/1.1\r\nHost: {host}\r\n\r\n");
        server.client().raw(&head, false).unwrap().status
    };
    assert_eq!((ask("quota.internal:80"), ask("quota.external")), (200, 403));
}

#[test]
fn health_may_be_open_and_headers_be_old() {
    let args = ["--token", TOKEN, "--open-health", "--legacy-headers", "delta", "--gate", "web=by=path&limit=5/1d"];
    let Fixture { server, mut client, parent: _parent } = start(&args, Some(TOKEN));
    let mut stranger = server.client();
    stranger.get("/v1/health").ok();
    assert_eq!(stranger.ask("HEAD", "/v1/health", "").status, 200);
    let page = "GET /v1/health HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n";
    stranger.raw(page, false).unwrap().error(403, "forbidden_origin");
    for path in ["/v1/doctor", "/v1/health/x", "/v1/limits", "/v1/gates/web"] {
        server.client().get(path).error(401, "unauthorized");
    }
    let item = r#"{"key":"k","limit":"5/1d fixed_window_counter"}"#;
    for (path, body, left) in [
        ("/v1/check", item.to_owned(), "4"),
        ("/v1/check-all", format!(r#"{{"items":[{item}]}}"#), "3"),
        ("/v1/check-many", format!(r#"{{"items":[{item}]}}"#), "2"),
        ("/v1/take/k", String::new(), "1"),
        ("/v1/gates/web/x", String::new(), "4"),
    ] {
        let reply = client.post(&path.replace("take/k", "take/k?limit=5/1d%20fixed_window_counter"), &body);
        assert_eq!(reply.header("X-RateLimit-Limit"), Some("5"), "{path}: {reply:?}");
        assert_eq!(reply.header("X-RateLimit-Remaining"), Some(left), "{path}: {reply:?}");
        let reset: u64 = reply.header("X-RateLimit-Reset").unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&reset), "{path}: {reply:?}");
    }
    server.terminate();
}

#[test]
fn connections_are_kept_or_closed_as_asked() {
    let Fixture { server, mut client, parent: _parent } = start(&[], None);
    for _ in 0..3 {
        assert_eq!(client.get("/v1/health").header("Connection"), None);
    }
    let reply = client.raw("GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", false).unwrap();
    assert_eq!((reply.status, reply.header("Connection")), (200, Some("close")));
    let reply = client.ask("HEAD", "/v1/health", "");
    assert_eq!((reply.status, reply.header("Content-Length")), (200, Some("30")));
    let reply = client.ask("HEAD", "/v1/check", "");
    assert_eq!((reply.status, reply.header("Allow")), (405, Some("POST")));
    client.get("/v1/health").ok();
    // curl -d sends a form's type; Expect: 100-continue comes with larger bodies.
    configure(&mut client, "k", 10, "366d");
    let headers = "Host: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nExpect: 100-continue\r\n";
    let request = format!("POST /v1/check HTTP/1.1\r\n{headers}Content-Length: 11\r\n\r\n{}", r#"{"key":"k"}"#);
    assert_eq!(server.client().raw(&request, false).unwrap().ok()["remaining"], 9);
    // Two requests in one write are answered in their order.
    let get = "GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let two = format!("{get}GET /v1/limits/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut client = server.client();
    assert_eq!(client.raw(&two, false).unwrap().ok()["ok"], true);
    assert_eq!(client.raw("", false).unwrap().ok()["key"], "k");
}

#[test]
fn check_all_is_atomic_among_many_clients() {
    let Fixture { server, mut client, parent: _parent } = start(&[], None);
    for (key, rate) in [("tight", 50), ("wide", 1000)] {
        configure(&mut client, key, rate, "366d");
    }
    let allowed: usize = std::thread::scope(|scope| {
        let one = |turn: usize| {
            let mut client = server.client();
            let items = if turn.is_multiple_of(2) { r#"["wide","tight"]"# } else { r#"["tight","wide"]"# };
            let body = format!("{{\"items\":{items}}}");
            (0..25).filter(|_| client.post("/v1/check-all", &body).ok()["allowed"] == true).count()
        };
        let clients: Vec<_> = (0..4).map(|turn| scope.spawn(move || one(turn))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!(allowed, 50);
    let left = |client: &mut Client, key: &str| client.get(&format!("/v1/limits/{key}")).ok()["remaining"].clone();
    assert_eq!((left(&mut client, "tight"), left(&mut client, "wide")), (json!(0), json!(950)));
}

#[test]
fn an_address_that_is_taken() {
    let parent = tempfile::tempdir().unwrap();
    let server = Server::start(&parent.path().join("data"), &[]);
    let address = server.url.strip_prefix("http://").unwrap();
    let second = flint(&parent.path().join("second"), &["server", "start", "--bind", address]);
    let said = format!("flint: cannot bind {address}: Address already in use (os error 98); stop what listens there, ");
    assert!(second.code == Some(3) && second.err.starts_with(&said), "{second:?}");
    server.terminate();
}

#[test]
fn a_unix_socket() {
    let parent = tempfile::tempdir().unwrap();
    let socket = parent.path().join("flint.sock");
    let bind = format!("unix:{}", socket.display());
    let server = Server::start_on(&parent.path().join("data"), &bind, &[]);
    assert_eq!(server.url, bind);
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut client = server.client();
    configure(&mut client, "k", 10, "366d");
    assert_eq!(client.post("/v1/check", r#"{"key":"k"}"#).ok()["remaining"], 9);
    let origin = "GET /v1/health HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n";
    client.raw(origin, false).unwrap().error(403, "forbidden_origin");
    // The file of a killed server is replaced; that of a living server is not, and neither is a file that is not a
    // socket.
    server.kill();
    assert!(socket.exists());
    let server = Server::start_on(&parent.path().join("data"), &bind, &["--socket-mode", "660"]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(server.client().get("/v1/limits/k").ok()["remaining"], 9);
    let second = |socket: &str| flint(&parent.path().join("b"), &["server", "start", "--bind", socket]);
    let refused = second(&bind);
    assert!(refused.code == Some(3) && refused.err.contains(socket.to_str().unwrap()), "{refused:?}");
    server.client().get("/v1/health").ok();
    server.terminate();
    assert!(!socket.exists());
    let file = parent.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert_eq!(second(&format!("unix:{}", file.display())).code, Some(3));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn check_many_decides_each_by_itself() {
    let Fixture { server, mut client, parent } = start(&[], None);
    configure(&mut client, "tight", 2, "366d");
    configure(&mut client, "wide", 100, "366d");
    let body = json!({"items": ["tight", "wide", ["tight", 1], {"key": "tight"}, {"key": "wide", "cost": 9}, "none", "",
        ["wide", 101], ["wide", 0]]});
    let answer = client.post("/v1/check-many", &body.to_string()).ok();
    let results = answer["results"].as_array().unwrap();
    let brief: Vec<(bool, u64)> = results[..5]
        .iter()
        .map(|result| (result["allowed"].as_bool().unwrap(), result["remaining"].as_u64().unwrap()))
        .collect();
    assert_eq!(brief, [(true, 1), (true, 99), (true, 0), (false, 0), (true, 90)]);
    let codes: Vec<&str> = results[5..].iter().map(|result| result["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["limit_not_configured", "invalid_argument", "cost_exceeds_capacity", "invalid_argument"]);
    assert_eq!((&results[5]["key"], results[7]["error"].as_str().unwrap().contains("wide")), (&json!("none"), true));
    for (items, word) in [(json!([]), "1 to 1000"), (json!(vec!["wide"; 1001]), "1001"), (json!("wide"), "items")] {
        let body = json!({"items": items}).to_string();
        assert!(client.post("/v1/check-many", &body).error(400, "invalid_argument").contains(word));
    }
    let many = json!({"items": vec![("wide", 1); 80].into_iter().chain(vec![("tight", 1); 920]).collect::<Vec<_>>()});
    let answer = client.post("/v1/check-many", &many.to_string()).ok();
    let allowed = answer["results"].as_array().unwrap().iter().filter(|result| result["allowed"] == true).count();
    assert_eq!(allowed, 80);
    // In `always` mode what was answered is on disk.
    server.kill();
    let server = Server::start(&parent.path().join("data"), &[]);
    assert_eq!(server.client().get("/v1/limits/wide").ok()["remaining"], 10);
    assert_eq!(server.client().get("/v1/limits/tight").ok()["remaining"], 0);
}
