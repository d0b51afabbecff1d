//! Property tests of routing and of bodies: whatever is asked gets a whole, well-formed reply, and what is refused
//! changes nothing.

use std::cell::Cell;
use std::net::TcpListener;
use std::os::fd::AsFd;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::guard::{ConnectionGuard, GuardConfig};
use super::http::reply::{Reply, Then};
use super::routes::call::Sources;
use super::routes::metrics::Metrics;
use super::routes::table::{ENDPOINTS, find};
use super::routes::{Ask as Asked, answer};
use crate::clock::Clock;
use crate::error::Kind;
use crate::limiter::{Limiter, Options, Page, SyncMode, write_statuses};

/// One request, as the routes get it.
#[derive(Debug, Clone)]
struct Ask {
    method: String,
    target: String,
    body: Vec<u8>,
    /// As an API's user would send it: no syntax and no type is wrong.
    sound: bool,
}

const KEYS: [&str; 4] = ["a", "route:/v1/chat", "ключ", "100% \"quoted\" \\ +"];

fn encoded(key: &str) -> String {
    percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn keys() -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => Just("unknown".to_owned())]
}

/// A limit in one of its forms, as a request brings it.
fn limits() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("5/1m"),
        json!("unlimited"),
        json!("9/1s, 50/day"),
        json!(["3/1h", {"rate": 7, "per": "month", "anchor": 31}]),
        json!({"rate": 4, "per": 60, "algorithm": "sliding_window_log"}),
        json!({"rate": 0, "per": "1s"}),
        json!({"windows": ["8/1s", "9/1s"], "mode": "shadow"}),
    ])
}

/// A key that nothing is configured for, or that a pattern may serve.
fn brought_keys() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|number| format!("new:{number}"))
}

/// What a user of holds would send. Keys of slots are not those of checks.
fn held() -> impl Strategy<Value = (String, Value)> {
    let slots = |number: u8| json!({"key": format!("held:{number}"), "cost": number, "limit": {"slots": 2}});
    (keys(), 1..4u8, 0..8usize, prop::sample::select(&["1s", "24h", "90m"][..])).prop_map(
        move |(key, cost, form, ttl)| {
            let (path, body) = match form {
                0 => ("hold", json!({"key": key, "cost": cost, "ttl": ttl})),
                1 => ("hold?status=429", json!({"items": [slots(cost), [key, cost]], "ttl": ttl})),
                2 => ("hold", slots(cost)),
                3 => ("peek", json!({"key": key, "cost": cost})),
                4 => ("peek", json!({"items": [slots(cost), key]})),
                5 => ("charge", json!({"key": key, "cost": cost})),
                6 => ("refund", json!({"key": key, "cost": cost})),
                _ => ("settle", json!({"hold": "1k14kdyy3pcsz6raegh", "costs": {key: cost}})),
            };
            (format!("/v1/{path}"), body)
        },
    )
}

/// What a user would send.
fn sound() -> impl Strategy<Value = Ask> {
    let ask = |method: &str, target: String, body: String| Ask {
        method: method.to_owned(),
        target,
        body: body.into_bytes(),
        sound: true,
    };
    let algorithm = prop::sample::select(crate::limit::Algorithm::ALL);
    let items = prop::collection::btree_map(keys(), 1..4u64, 1..4);
    prop_oneof![
        4 => (keys(), 1..4u64, 0..3usize).prop_map(move |(key, cost, query)| {
            let query = ["", "?status=200", "?status=429"][query];
            ask("POST", format!("/v1/check{query}"), json!({"key": key, "cost": cost}).to_string())
        }),
        2 => items.prop_map(move |items| {
            let items: Vec<Value> = items.into_iter().enumerate().map(|(form, (key, cost))| match form % 3 {
                0 => json!({"key": key, "cost": cost}),
                1 => json!([key, cost]),
                _ => json!(key),
            }).collect();
            ask("POST", "/v1/check-all".to_owned(), json!({"items": items}).to_string())
        }),
        3 => (keys(), 1..100u64, 1..1000u64, algorithm).prop_map(move |(key, rate, per, algorithm)| {
            let body = json!({"key": key, "rate": rate, "per": format!("{per}s"), "algorithm": algorithm.name()});
            ask("POST", "/v1/limits".to_owned(), body.to_string())
        }),
        2 => (brought_keys(), 1..4u64, limits(), 0..3usize).prop_map(move |(key, cost, limit, form)| match form {
            0 => ask("POST", "/v1/check".to_owned(), json!({"key": key, "cost": cost, "limit": limit}).to_string()),
            1 => {
                let items = json!({"items": [key, {"key": "a", "limit": limit}, {"key": "new:9", "limit": limit}]});
                ask("POST", "/v1/check-all?status=429".to_owned(), items.to_string())
            }
            _ => ask("POST", format!("/v1/take/{key}?limit=3/1m,9/day"), String::new()),
        }),
        2 => (limits(), prop::option::of(1..9u64), any::<bool>()).prop_map(move |(limit, seconds, pattern)| {
            let first = json!({"key": if pattern { "new:*" } else { "new:0" }, "limit": limit});
            let second = json!({"key": "a", "rate": 50, "per": "1m", "for": seconds.map(|s| format!("{s}s"))});
            ask("POST", "/v1/limits".to_owned(), json!([first, second]).to_string())
        }),
        1 => prop::sample::select(&["/v1/limits?prefix=new", "/v1/limits?prefix=new:0"][..])
            .prop_map(move |target| ask("DELETE", target.to_owned(), String::new())),
        1 => Just(ask("POST", "/v1/reset".to_owned(), json!({"prefix": "new:"}).to_string())),
        1 => prop::sample::select(&["?live=true", "?live=false&prefix=new", "?live=true&pattern=new:*&limit=2"][..])
            .prop_map(move |query| ask("GET", format!("/v1/limits{query}"), String::new())),
        2 => (keys(), 1..4u64).prop_map(move |(key, cost)| {
            ask("POST", format!("/v1/take/{}?cost={cost}", encoded(&key)), String::new())
        }),
        1 => (keys(), 1..4u64).prop_map(move |(key, cost)| {
            ask("POST", format!("/v1/gate/{}?cost={cost}&deny=429&on_error=allow", encoded(&key)), "x".to_owned())
        }),
        1 => keys().prop_map(move |key| ask("POST", "/v1/reset".to_owned(), json!({"key": key}).to_string())),
        1 => keys().prop_map(move |key| ask("GET", format!("/v1/limits/{}", encoded(&key)), String::new())),
        1 => keys().prop_map(move |key| ask("DELETE", format!("/v1/limits/{}", encoded(&key)), "{}".to_owned())),
        1 => (keys(), 1..10u64).prop_map(move |(key, limit)| {
            ask("GET", format!("/v1/limits?prefix=r&limit={limit}&after={}", encoded(&key)), String::new())
        }),
        1 => prop::sample::select(
            &["/v1/health", "/v1/doctor", "/v1/metrics", "/v1/top?by=allowed&limit=3", "/v1/limits"][..],
        )
        .prop_map(move |target| ask("GET", target.to_owned(), String::new())),
        1 => Just(ask("POST", "/v1/log/flush".to_owned(), String::new())),
        2 => held().prop_map(move |(path, body)| ask("POST", path, body.to_string())),
    ]
}

/// Changes one place of a text: takes out, puts in, doubles, or flips a bit.
fn mutated(bytes: &mut Vec<u8>, (kind, place, with): (u8, prop::sample::Index, u8)) {
    if bytes.is_empty() {
        bytes.push(with);
    }
    let at = place.index(bytes.len());
    match kind % 5 {
        0 => drop(bytes.remove(at)),
        1 => bytes.insert(at, with),
        2 => bytes.truncate(at),
        3 => bytes.extend_from_within(at..),
        _ => bytes[at] ^= 1 << (with % 8),
    }
}

/// Requests with one to three places changed, of target or body.
fn broken() -> impl Strategy<Value = Ask> {
    let change = (any::<bool>(), (any::<u8>(), any::<prop::sample::Index>(), any::<u8>()));
    (sound(), prop::collection::vec(change, 1..4)).prop_map(|(mut ask, changes)| {
        ask.sound = false;
        for (of_target, change) in changes {
            if of_target {
                let mut target = std::mem::take(&mut ask.target).into_bytes();
                mutated(&mut target, change);
                ask.target = String::from_utf8_lossy(&target).into_owned();
            } else {
                mutated(&mut ask.body, change);
            }
        }
        ask
    })
}

/// JSON of the right shape with values that are wrong in their type or range.
fn mistaken() -> impl Strategy<Value = Ask> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([[], {}])),
        Just(json!({"key": "a"})),
    ];
    let name = prop::sample::select(
        &[
            "key",
            "cost",
            "limit",
            "rate",
            "per",
            "algorithm",
            "burst",
            "windows",
            "mode",
            "for",
            "items",
            "other",
            "hold",
            "ttl",
            "costs",
            "slots",
        ][..],
    );
    let target = prop::sample::select(
        &[
            "/v1/check",
            "/v1/check-all",
            "/v1/limits",
            "/v1/reset",
            "/v1/take/a",
            "/v1/hold",
            "/v1/settle",
            "/v1/renew",
            "/v1/peek",
            "/v1/charge",
            "/v1/refund",
        ][..],
    );
    (target, prop::collection::btree_map(name, value, 0..5)).prop_map(|(target, fields)| Ask {
        method: "POST".to_owned(),
        target: target.to_owned(),
        body: json!(fields).to_string().into_bytes(),
        sound: false,
    })
}

fn random() -> impl Strategy<Value = Ask> {
    let known =
        prop::sample::select(&["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", ""][..]).prop_map(str::to_owned);
    let path = prop::sample::select(ENDPOINTS.iter().map(|endpoint| endpoint.path).collect::<Vec<_>>());
    let target = prop_oneof![
        any::<String>(),
        (path.clone(), any::<String>()).prop_map(|(path, rest)| format!("{path}{rest}")),
        (path, any::<String>(), any::<String>()).prop_map(|(path, name, value)| format!("{path}?{name}={value}")),
    ];
    let body = prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 0..200)];
    (prop_oneof![4 => known, 1 => any::<String>()], target, body).prop_map(|(method, target, body)| Ask {
        method,
        target,
        body,
        sound: false,
    })
}

/// The limits at one instant.
fn state(limiter: &Limiter) -> String {
    let mut out = Vec::new();
    write_statuses(&limiter.list(Page::default().with_live(true)).unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

/// Status, headers and body of a reply.
type Read = (u16, Vec<(String, String)>, String);

/// Reads a reply's bytes; what is not whole is an error.
fn read(bytes: &[u8]) -> Result<Read, TestCaseError> {
    let text = std::str::from_utf8(bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| TestCaseError::fail("a head without an end"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| TestCaseError::fail(format!("no header: {line:?}")))?;
        prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{line:?}");
        prop_assert!(!value.is_empty() && !value.contains(char::is_control), "{line:?}");
        headers.push((name.to_owned(), value.to_owned()));
    }
    Ok((status.ok_or_else(|| TestCaseError::fail("no status line"))?, headers, body.to_owned()))
}

fn well_formed(ask: &Ask, reply: &Reply) -> Result<(), TestCaseError> {
    let (status, headers, body) = read(&reply.encode(Then::Open, false, true))?;
    let header = |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    if status == 204 {
        prop_assert!(header("Content-Length").is_none() && body.is_empty() && header("RateLimit").is_some());
        return Ok(());
    }
    let length = body.len().to_string();
    prop_assert_eq!(header("Content-Length"), Some(length.as_str()));
    let (_, _, nothing) = read(&reply.encode(Then::Closed, true, true))?;
    prop_assert!(nothing.is_empty(), "a reply to HEAD has no body");
    prop_assert!(body.ends_with('\n'), "{}", body);
    // Nothing here is a defect, a full queue or a failing disk.
    prop_assert!([200, 400, 404, 405, 429].contains(&status), "{} {}", status, body);
    if body.starts_with("too many requests") {
        prop_assert!(status == 429 && header("Retry-After").is_some());
        return Ok(());
    }
    if header("Content-Type") != Some("application/json") {
        let taken = body.strip_prefix(if status == 200 { "ok " } else { "denied " });
        let known = if status == 200 { "unlimited" } else { "never" };
        let told = |number: &str| number == known || number.parse::<u64>().is_ok();
        let whole = taken.is_some_and(|number| told(number.trim_end()));
        prop_assert!(whole || (status == 200 && body.starts_with("# HELP ")), "{}", body);
        return Ok(());
    }
    let json: Value = serde_json::from_str(&body).map_err(|error| TestCaseError::fail(format!("{error}: {body}")))?;
    if [200, 429].contains(&status) {
        prop_assert!(json["error"].is_null(), "{}", body);
        prop_assert!(status == 200 || json["allowed"] == false, "{}", body);
        return Ok(());
    }
    let kind = json["code"].as_str().and_then(Kind::from_code);
    prop_assert_eq!(kind.map(Kind::http_status), Some(status), "{}", body);
    let message = json["error"].as_str().unwrap_or_default();
    prop_assert!(message.len() > 10 && !message.contains(char::is_control), "{}", body);
    if let Some(allow) = header("Allow") {
        prop_assert!(status == 405 && !allow.split(", ").any(|method| method == ask.method), "{}", allow);
    }
    prop_assert_eq!(status == 405, header("Allow").is_some());
    Ok(())
}

#[test]
fn whatever_is_asked_is_answered_and_what_is_refused_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Time stands still: what differs between two looks was changed by the request between them.
    let options =
        Options { clock: Clock::manual(1_800_000_000_000_000), sync: SyncMode::Relaxed, ..Options::default() };
    let limiter = Limiter::open(dir.path().join("data"), options).unwrap();
    for key in KEYS {
        limiter
            .configure(key, crate::Limit::of_millis(50, 60_000, crate::limit::Algorithm::TokenBucket, None).unwrap())
            .unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = GuardConfig { max_connections: 1, ..GuardConfig::default() };
    let guard = ConnectionGuard::start(&[listener.as_fd()], config, Box::new(|_| ()), Box::new(|_| ())).unwrap();
    let metrics = Metrics::new(ENDPOINTS.iter().map(|endpoint| endpoint.path));
    let sources = Sources { guard: Some(guard.handle()), metrics: Some(&metrics), ..Sources::of(&limiter) };

    let (spent, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let asks = prop_oneof![3 => sound(), 3 => broken(), 2 => mistaken(), 2 => random()];
    let result = TestRunner::new(config).run(&asks, |ask| {
        let before = state(&limiter);
        let found = find(&ask.target);
        let Ask { method, target, body, .. } = &ask;
        let asked = Asked { found, method, target, body, peer: None, headers: &[], grant: None };
        let reply = answer(sources, &asked);
        well_formed(&ask, &reply)?;
        let changed = before != state(&limiter);
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        if ![200, 204, 429].contains(&reply.status) {
            refused.set(refused.get() + 1);
            prop_assert!(!changed, "refused with {}, and something changed", said);
        }
        if ask.method != "POST" && ask.method != "DELETE" {
            prop_assert!(!changed, "{} changed something", ask.method);
        }
        if ask.sound {
            let known = ["limit_not_configured", "cost_exceeds_capacity", "hold_not_found"]
                .iter()
                .any(|code| said.contains(code));
            prop_assert!([200, 204, 429].contains(&reply.status) || known, "{}", said);
            spent.set(spent.get() + u32::from(changed));
        }
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.unwrap_err());
    // Else the strategies have missed their aim.
    assert!(spent.get() > 100 && refused.get() > 500, "{} changed something, {} refused", spent.get(), refused.get());
}
