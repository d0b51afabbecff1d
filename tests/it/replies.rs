//! How replies reach their clients: in order, whole, and without delaying others.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
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
    // Others of every kind in between: a check of several, a request that a worker handles, and an error.
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
fn pipelined_checks_are_answered_in_order_in_each_mode() {
    for sync in ["always", "batch", "relaxed"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"), &["--sync", sync]);
        pipelined_checks_are_answered_in_order(&server);
        server.terminate();
    }
}

#[test]
fn few_workers_hold_up_no_checks() {
    // One decider and one worker: more connections than threads could wait for the disk.
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

/// The thread that sends replies panics while it sends a reply that waited for the disk.
#[test]
#[cfg(debug_assertions)]
fn a_panic_in_a_late_reply_costs_one_request() {
    const PANICS: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let variables = [("FLINT_TEST_PANIC_LATE", "/v1/take/boom")];
    let server = Server::start_with_environment(&dir.path().join("data"), &variables, &["--sync", "always"]);
    let mut client = server.client();
    for key in ["boom", "k"] {
        client.post("/v1/limits", &format!(r#"{{"key":"{key}","rate":100000,"per":"366d"}}"#)).ok();
    }
    let threads = || -> Vec<String> {
        let names = server.process().thread_names();
        names.into_iter().filter(|name| name.starts_with("flint-http-") || name.starts_with("flint-work-")).collect()
    };
    let before = threads();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut answered) = (server.client(), 0);
                    while !done.load(Ordering::Relaxed) {
                        client.post("/v1/check", r#"{"key":"k"}"#).ok();
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..PANICS {
            let reply = client.post("/v1/take/boom", "");
            reply.error(500, "internal");
            assert!(reply.closes(), "{reply:?}");
            assert_eq!(client.get("/v1/health").ok()["ok"], true);
        }
        done.store(true, Ordering::Relaxed);
        let answered: usize = others.into_iter().map(|other| other.join().unwrap()).sum();
        assert!(answered > 0);
        assert_eq!(client.get("/v1/limits/k").ok()["total_allowed"], answered);
    });
    // Its spending was durable before.
    assert_eq!(client.get("/v1/limits/boom").ok()["total_allowed"], PANICS);
    assert_eq!(threads(), before, "a thread is gone");
    let err = server.terminate();
    assert_eq!(err.matches("only that request was answered 500").count(), PANICS, "{err}");
}

/// A connection from this address and port, which another one may have had a moment ago.
fn connect_from(local: SocketAddr, server: &Server) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let deadline = Instant::now() + PATIENCE;
    loop {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &local).unwrap();
        match connect(&socket, &SocketAddr::from(([127, 0, 0, 1], server.port()))) {
            Ok(()) => return socket.into(),
            // The last acknowledgement of the old one is on its way.
            Err(rustix::io::Errno::ADDRNOTAVAIL) if Instant::now() < deadline => std::thread::yield_now(),
            Err(error) => panic!("from {local}: {error}"),
        }
    }
}

#[test]
fn a_new_connection_from_the_port_of_one_that_was_closed_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--sync", "batch"]);
    // A port that nobody else has, on an address that nobody else binds.
    let local = std::net::TcpListener::bind("127.0.7.1:0").unwrap().local_addr().unwrap();
    let last = "GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    for turn in 0..8 {
        for request in [last, &get("/v1/health", None)] {
            let mut client = Client::on(connect_from(local, &server));
            let reply = client.raw(request, false).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
            assert_eq!((reply.ok()["ok"].clone(), reply.closes()), (true.into(), request == last), "turn {turn}");
            if request == last {
                assert_eq!(client.rest().unwrap(), "");
            }
        }
    }
    server.terminate();
}
