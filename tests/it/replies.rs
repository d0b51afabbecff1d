//! How replies reach their clients: in order, whole, and without holding anybody up.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::util::{Client, PATIENCE, Server, get, request};

/// Clients that send many checks ahead get all the answers, each connection in its order, and no unit is spent twice.
fn pipelined_checks_are_answered_in_order(server: &Server) {
    const EACH: usize = 100;
    const CLIENTS: usize = 4;
    let mut client = Client::new(&server.url, None);
    // So few in a year that none is refilled meanwhile; the last ones of all are denied.
    let rate = EACH * CLIENTS - 50;
    client.post("/v1/limits", &format!(r#"{{"key":"few","rate":{rate},"per":"366d"}}"#)).ok();
    client.post("/v1/limits", r#"{"key":"many","rate":1000,"per":"366d"}"#).ok();
    let take = request("POST", "/v1/take/few", None, "");
    // Others of every kind in between: a check of several, one that a worker handles, and an error.
    let other = request("POST", "/v1/check-all", None, r#"{"items":["many"]}"#)
        + &get("/v1/limits/many", None)
        + &request("POST", "/v1/take/unknown", None, "");
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = server.client();
            let requests = format!("{other}{}", take.repeat(10)).repeat(EACH / 10);
            std::thread::spawn(move || {
                client.send(requests).unwrap();
                (0..EACH / 10 * 13).map(|_| client.receive().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut left = Vec::new();
    let mut denied = 0;
    for thread in threads {
        let replies = thread.join().unwrap();
        for thirteen in replies.chunks(13) {
            assert_eq!(thirteen[..3].iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 200, 404]);
            assert!(thirteen[3..].iter().all(|reply| matches!(reply.status, 200 | 429)), "{thirteen:?}");
        }
        let words = |word: &'static str| replies.iter().filter_map(move |reply| reply.body.strip_prefix(word));
        let own: Vec<u64> = words("ok ").map(|rest| rest.trim_end().parse().unwrap()).collect();
        assert!(own.windows(2).all(|pair| pair[1] < pair[0]), "out of order: {own:?}");
        denied += words("denied ").count();
        left.extend(own);
    }
    left.sort_unstable();
    assert_eq!(left, (0..rate as u64).collect::<Vec<_>>());
    assert_eq!(denied, 50);
    assert_eq!(client.get("/v1/limits/many").ok()["total_allowed"], CLIENTS * EACH / 10);
}

#[test]
fn pipelined_checks_are_answered_in_order_in_either_mode() {
    for sync in ["always", "batch"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"), &["--sync", sync]);
        pipelined_checks_are_answered_in_order(&server);
        server.terminate();
    }
}

/// With more processors than tiny_http's threads keep busy, workers decide some of the checks.
#[test]
#[cfg(debug_assertions)]
fn pipelined_checks_are_answered_in_order_by_many_processors() {
    for sync in ["always", "batch"] {
        let dir = tempfile::tempdir().unwrap();
        let variables = [("FLINT_TEST_PROCESSORS", "6")];
        let server = Server::start_with_environment(&dir.path().join("data"), &variables, &["--sync", sync]);
        pipelined_checks_are_answered_in_order(&server);
        server.terminate();
    }
}

#[test]
fn few_workers_hold_up_no_checks() {
    // One worker, which a check must not need: more connections than threads could wait for the disk.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--max-blocking", "1"]);
    pipelined_checks_are_answered_in_order(&server);
    server.terminate();
}

#[test]
fn a_slow_reader_gets_all_of_a_long_reply_and_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--sync", "batch", "--max-blocking", "2"]);
    let mut client = Client::new(&server.url, None);
    // Far more than the buffers of both sockets take.
    let key = "k".repeat(500);
    for part in 0..8 {
        let bodies = (0..250).map(|number| format!(r#"{{"key":"{part}-{number}-{key}","rate":1,"per":"1s"}}"#));
        client.send(bodies.map(|body| request("POST", "/v1/limits", None, &body)).collect::<String>()).unwrap();
        (0..250).for_each(|_| drop(client.receive().unwrap().ok()));
    }
    let whole = client.get("/v1/limits").body;
    assert!(whole.len() > 1_000_000, "{}", whole.len());
    let mut slow = server.client();
    slow.send(get("/v1/limits", None)).unwrap();
    // The reply is stuck by now, for longer than a socket's patience; others are answered.
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    for _ in 0..20 {
        client.post("/v1/check", &format!(r#"{{"key":"0-0-{key}"}}"#)).ok();
    }
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    // All of it in its order; what was spent meanwhile may stand in it.
    let reply = slow.receive().unwrap();
    assert_eq!((reply.header("Transfer-Encoding"), reply.header("Content-Length")), (Some("chunked"), None));
    let keys = |listing: &Value| -> Vec<String> {
        listing.as_array().unwrap().iter().map(|limit| limit["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&reply.ok()), keys(&serde_json::from_str(&whole).unwrap()));
    // Its connection is as good as before.
    slow.send(get("/v1/health", None)).unwrap();
    assert_eq!(slow.receive().unwrap().ok()["ok"], true);
    server.terminate();
}
