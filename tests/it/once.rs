//! `Idempotency-Key`: a request that is sent again is answered again and not done again.

use crate::over_store;
use crate::util::{Client, Reply, Server};

/// A request with these header lines.
fn bytes(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

fn post(client: &mut Client, path: &str, key: &str, body: &str) -> Reply {
    client.raw(&bytes(path, &format!("Idempotency-Key: {key}\r\n"), body), false).unwrap()
}

fn used(client: &mut Client, key: &str) -> u64 {
    client.get(&format!("/v1/limits/{key}")).ok()["used"].as_u64().unwrap()
}

/// The same reply, but for what says that it was given before.
#[track_caller]
fn is_again(first: &Reply, again: &Reply) {
    assert_eq!(first.header("Idempotency-Replayed"), None, "{first:?}");
    assert_eq!(again.header("Idempotency-Replayed"), Some("true"), "{again:?}");
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    for name in ["RateLimit", "RateLimit-Policy", "Cache-Control", "Content-Type"] {
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
}

const LIMITS: &str = r#"[{"key":"a","limit":"100/366d fixed_window_counter"},{"key":"b","limit":"100/366d"},
    {"key":"gpu","slots":2},{"key":"full","limit":"1/366d"}]"#;

const REQUESTS: [(&str, &str); 8] = [
    ("/v1/check", r#"{"key":"a","cost":3}"#),
    ("/v1/check?status=429", r#"{"key":"a","cost":3}"#),
    ("/v1/check-all", r#"{"items":[["a",3],"b"]}"#),
    ("/v1/check-many", r#"{"items":[["a",3],"b",["a",3],"nobody",["a",1000]]}"#),
    ("/v1/hold", r#"{"key":"a","cost":3}"#),
    ("/v1/hold", r#"{"items":["gpu",["a",3]],"ttl":"1h"}"#),
    ("/v1/charge", r#"{"key":"a","cost":5}"#),
    ("/v1/refund", r#"{"key":"a","cost":2}"#),
];

#[test]
fn what_was_spent_once_is_answered_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for sync in ["always", "batch", "relaxed"] {
        let server = Server::start(&data, &["--sync", sync]);
        let mut client = server.client();
        client.post("/v1/limits", LIMITS).ok();
        client.post("/v1/reset", r#"{"prefix":"a"}"#).ok();
        let mut first = Vec::new();
        for (index, (path, body)) in REQUESTS.iter().enumerate() {
            let key = format!("{sync} {index}");
            let reply = post(&mut client, path, &key, body);
            assert_eq!(reply.status, 200, "{path} {body}: {reply:?}");
            is_again(&reply, &post(&mut client, path, &key, body));
            first.push(reply);
        }
        assert_eq!(used(&mut client, "a"), 3 + 3 + 3 + 6 + 3 + 3 + 5 - 2, "{sync}");
        assert_eq!(used(&mut client, "gpu"), 1, "{sync}");
        // What relaxed answers may still be in memory.
        client.post("/v1/log/flush", "").ok();
        server.kill();
        let server = Server::start(&data, &[]);
        let mut client = server.client();
        for (index, (path, body)) in REQUESTS.iter().enumerate() {
            is_again(&first[index], &post(&mut client, path, &format!("{sync} {index}"), body));
        }
        if !over_store::is_on() {
            client.compact();
        }
        server.kill();
        let server = Server::start(&data, &[]);
        let mut client = server.client();
        for (index, (path, body)) in REQUESTS.iter().enumerate() {
            is_again(&first[index], &post(&mut client, path, &format!("{sync} {index}"), body));
        }
        assert_eq!((used(&mut client, "a"), used(&mut client, "gpu")), (24, 1), "{sync}");
        let hold = first[5].json()["hold"].as_str().unwrap().to_owned();
        client.post("/v1/settle", &format!(r#"{{"hold":"{hold}"}}"#)).ok();
        server.terminate();
    }
}

/// An answer is kept as long as it fits into a record; a longer one is refused before anything is spent.
#[test]
fn long_answers_are_kept_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"k*","limit":"100/1h fixed_window_counter"}"#).ok();
    let items = |count: usize, width: usize| {
        let keys: Vec<String> = (0..count).map(|number| format!("\"k{number:0>width$}\"")).collect();
        format!("{{\"items\":[{}]}}", keys.join(","))
    };
    let paths = ["/v1/check-all", "/v1/check-many", "/v1/hold"];
    let some = items(500, 8);
    let first = paths.map(|path| post(&mut client, path, path, &some));
    for (path, first) in paths.iter().zip(&first) {
        is_again(first, &post(&mut client, path, path, &some));
    }
    let many = items(1000, 500);
    for path in paths {
        let error = post(&mut client, path, &format!("{path} 2"), &many).error(400, "invalid_argument");
        assert!(error.contains("idempotency key; split them"), "{path}: {error}");
    }
    server.kill();
    let server = Server::start(&data, &[]);
    let mut client = server.client();
    for (path, first) in paths.iter().zip(&first) {
        is_again(first, &post(&mut client, path, path, &some));
    }
    assert_eq!(used(&mut client, "k00000499"), 3);
    assert_eq!(client.get("/v1/limits?live=true&limit=1000").ok().as_array().unwrap().len(), 501);
    server.terminate();
}

#[test]
fn another_request_with_the_same_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    client.post("/v1/limits", LIMITS).ok();
    post(&mut client, "/v1/check", "k", r#"{"key":"a"}"#).ok();
    for (path, body) in [
        ("/v1/check", r#"{"key":"b"}"#),
        ("/v1/check", r#"{"key":"a" }"#),
        ("/v1/check?status=429", r#"{"key":"a"}"#),
        ("/v1/hold", r#"{"key":"a"}"#),
        ("/v1/charge", r#"{"key":"a","cost":1}"#),
    ] {
        post(&mut client, path, "k", body).error(422, "idempotency_mismatch");
    }
    post(&mut client, "/v1/check", "K", r#"{"key":"a"}"#).ok();
    assert_eq!((used(&mut client, "a"), used(&mut client, "b")), (2, 0));
    // Denials and errors are decided again.
    post(&mut client, "/v1/check", "full", r#"{"key":"full"}"#).ok();
    assert_eq!(post(&mut client, "/v1/check", "denied", r#"{"key":"full"}"#).ok()["allowed"], false);
    client.post("/v1/reset", r#"{"key":"full"}"#).ok();
    assert_eq!(post(&mut client, "/v1/check", "denied", r#"{"key":"full"}"#).ok()["allowed"], true);
    post(&mut client, "/v1/check", "later", r#"{"key":"new"}"#).error(404, "limit_not_configured");
    client.post("/v1/limits", r#"{"key":"new","limit":"1/1h"}"#).ok();
    post(&mut client, "/v1/check", "later", r#"{"key":"new"}"#).ok();
    // A key is 1 to 128 printable characters, and is sent once.
    let longest = "~".repeat(128);
    post(&mut client, "/v1/check", &longest, r#"{"key":"a"}"#).ok();
    for key in [format!("{longest}~"), String::new(), "a\tb".to_owned()] {
        let error = post(&mut client, "/v1/check", &key, r#"{"key":"a"}"#).error(400, "invalid_argument");
        assert!(error.contains("Idempotency-Key must be 1 to 128 printable"), "{error}");
    }
    let twice = "Idempotency-Key: x\r\nidempotency-key: x\r\n";
    let error = client.raw(&bytes("/v1/check", twice, r#"{"key":"a"}"#), false).unwrap().error(400, "invalid_argument");
    assert!(error.contains("Idempotency-Key was sent twice"), "{error}");
    assert_eq!(used(&mut client, "a"), 3);
    server.terminate();
}

#[test]
fn a_key_is_one_tokens_own() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "first\nsecond\n").unwrap();
    std::fs::set_permissions(&tokens, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Server::start(&dir.path().join("data"), &["--token-file", tokens.to_str().unwrap()]);
    let mut client = Client::new(&server.url, Some("first"));
    client.post("/v1/limits", LIMITS).ok();
    let mut check = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\nIdempotency-Key: k\r\n");
        let reply = client.raw(&bytes("/v1/check", &headers, r#"{"key":"a"}"#), false).unwrap();
        reply.ok();
        reply.header("Idempotency-Replayed").is_some()
    };
    assert_eq!(["first", "second", "first", "second"].map(&mut check), [false, false, true, true]);
    assert_eq!(used(&mut client, "a"), 2);
    server.terminate();
}

#[test]
fn a_crowd_with_one_key_spends_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut client = server.client();
    client.post("/v1/limits", LIMITS).ok();
    let replayed: usize = std::thread::scope(|scope| {
        let start = |_| {
            scope.spawn(|| {
                let mut client = server.client();
                let ask = |_| post(&mut client, "/v1/check", "crowd", r#"{"key":"a","cost":7}"#);
                let replies: Vec<Reply> = (0..32).map(ask).collect();
                assert!(replies.iter().all(|reply| reply.ok()["remaining"] == 93), "{replies:?}");
                replies.iter().filter(|reply| reply.header("Idempotency-Replayed").is_some()).count()
            })
        };
        let clients: Vec<_> = (0..32).map(start).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!((replayed, used(&mut client, "a")), (32 * 32 - 1, 7));
    server.terminate();
}

/// A status tells when more is there, which is another time a millisecond later: the answer is what was kept.
#[test]
fn what_is_kept_is_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--sync", "relaxed"]);
    let mut client = server.client();
    client.post("/v1/limits", LIMITS).ok();
    for round in 0..500 {
        for (path, cost) in [("/v1/charge", 2), ("/v1/refund", 1)] {
            let (key, body) = (format!("{path} {round}"), format!(r#"{{"key":"a","cost":{cost}}}"#));
            let first = post(&mut client, path, &key, &body);
            is_again(&first, &post(&mut client, path, &key, &body));
        }
    }
    server.terminate();
}
