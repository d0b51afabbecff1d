//! How replies reach their clients: in order, whole, and without holding anybody up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::util::{Client, PATIENCE, Server};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the connection brings until `ends` says that it is enough.
fn read_until(stream: &mut TcpStream, ends: impl Fn(&str) -> bool) -> String {
    let (mut got, mut buffer) = (Vec::new(), [0; 65536]);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "ended after {} bytes", got.len());
        got.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&got);
        if ends(&text) {
            return text.into_owned();
        }
    }
}

/// Clients that send many checks ahead get all the answers, each connection in its order, and no unit is spent twice.
fn pipelined_checks_are_answered_in_order(server: &Server) {
    const EACH: usize = 100;
    const CLIENTS: usize = 4;
    let mut client = Client::new(&server.url, None);
    // So few in a year that none is refilled meanwhile; the last ones of all are denied.
    let rate = EACH * CLIENTS - 50;
    client.post("/v1/limits", &format!(r#"{{"key":"few","rate":{rate},"per":"366d"}}"#)).ok();
    client.post("/v1/limits", r#"{"key":"many","rate":1000,"per":"366d"}"#).ok();
    let take = "POST /v1/take/few HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
    // Others of every kind in between: a check of several, one that a worker handles, and an error.
    let all = r#"{"items":["many"]}"#;
    let other = format!("POST /v1/check-all HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n{all}", all.len())
        + "GET /v1/limits/many HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        + "POST /v1/take/unknown HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = connect(server);
            let requests = format!("{other}{}", take.repeat(10)).repeat(EACH / 10);
            std::thread::spawn(move || {
                stream.write_all(requests.as_bytes()).unwrap();
                let done = |text: &str| text.matches("HTTP/1.1 ").count() == EACH / 10 * 13 && text.ends_with('\n');
                read_until(&mut stream, done)
            })
        })
        .collect();
    let mut left = Vec::new();
    let mut denied = 0;
    for thread in threads {
        let text = thread.join().unwrap();
        let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
        for thirteen in statuses.chunks(13) {
            assert_eq!(thirteen[..3], ["200", "200", "404"]);
            assert!(thirteen[3..].iter().all(|status| matches!(*status, "200" | "429")), "{thirteen:?}");
        }
        let own: Vec<u64> =
            text.split("\r\n\r\nok ").skip(1).map(|rest| rest.lines().next().unwrap().parse().unwrap()).collect();
        assert!(own.windows(2).all(|pair| pair[1] < pair[0]), "out of order: {own:?}");
        denied += text.matches("\r\n\r\ndenied ").count();
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
        let requests: String = (0..250)
            .map(|number| format!(r#"{{"key":"{part}-{number}-{key}","rate":1,"per":"1s"}}"#))
            .map(|body| {
                format!("POST /v1/limits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            })
            .collect();
        let mut stream = connect(&server);
        stream.write_all(requests.as_bytes()).unwrap();
        read_until(&mut stream, |text| text.matches("HTTP/1.1 200").count() == 250);
    }
    let whole = client.get("/v1/limits").body;
    assert!(whole.len() > 1_000_000, "{}", whole.len());
    let mut slow = connect(&server);
    slow.write_all(b"GET /v1/limits HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    // The reply is stuck by now, for longer than a socket's patience; others are answered.
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    for _ in 0..20 {
        client.post("/v1/check", &format!(r#"{{"key":"0-0-{key}"}}"#)).ok();
    }
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    let got = read_until(&mut slow, |text| text.ends_with("]\n"));
    let (_, body) = got.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), whole.len());
    // Its connection is as good as before.
    slow.write_all(b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    assert!(read_until(&mut slow, |text| text.ends_with("}\n")).starts_with("HTTP/1.1 200"));
    server.terminate();
}
