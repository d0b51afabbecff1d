//! Floods, in a short form of what `scripts/soak floods` does: many connections, most of them without the token.

use super::*;

/// How long a flood lasts.
fn seconds() -> Duration {
    Duration::from_secs(if soak() { 30 } else { 1 })
}

/// Most memory of the server meanwhile, in KiB.
const MOST: u64 = 300 * MIB;

fn peak_within(victim: &Victim) {
    let peak = victim.server.process().peak();
    println!("peak: {peak} KiB");
    assert!(peak < MOST, "{peak} KiB");
}

/// A request that has no token.
fn stranger(headers: &str, body: &str) -> String {
    format!("POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n{body}")
}

/// A body over 1 KiB, which tiny_http does not read.
fn long_body() -> String {
    format!("{}{}", r#"{"items":["k"]}"#, " ".repeat(2000))
}

/// A good client that sends such bodies.
fn with_long_bodies(victim: &Victim) -> Good {
    Good::asking(&victim.server.url, "POST", "/v1/check-all", long_body())
}

/// Holds this many connections that have each sent this, for as long as a flood lasts; new ones for those that are
/// ended. Meanwhile others are answered, on connections that they had before and on new ones.
fn hold(victim: &Victim, count: usize, bytes: &str) {
    let begun = Instant::now();
    let mut streams: Vec<TcpStream> = Vec::new();
    while begun.elapsed() < seconds() {
        streams.retain(|stream| !ended(stream, Duration::from_millis(1)));
        while streams.len() < count {
            let mut stream = victim.connect();
            stream.write_all(bytes.as_bytes()).unwrap();
            streams.push(stream);
        }
        let asked = Instant::now();
        assert_eq!(victim.client().post("/v1/check-all", &long_body()).status, 200);
        assert_eq!(victim.client().post("/v1/check", r#"{"key":"k"}"#).status, 200);
        assert!(asked.elapsed() < in_time(), "{:?}", asked.elapsed());
    }
}

#[test]
fn requests_ahead_of_connections_that_close_at_once() {
    let victim = Victim::new(&[]);
    for request in [stranger("Content-Length: 11\r\n", r#"{"key":"k"}"#), stranger("Content-Length: 0\r\n", "")] {
        let ahead = request.repeat(100);
        let connections: usize = std::thread::scope(|scope| {
            let work = || {
                let (begun, mut connections) = (Instant::now(), 0);
                while begun.elapsed() < seconds() {
                    // The backlog may be full, and the connection over before all is sent.
                    let Ok(mut stream) = TcpStream::connect(victim.address) else { continue };
                    let _ = stream.write_all(ahead.as_bytes());
                    connections += 1;
                }
                connections
            };
            let threads = [scope.spawn(work), scope.spawn(work)];
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        println!("{connections} connections");
        assert!(connections > 10, "{connections}");
    }
    peak_within(&victim);
    victim.survived().terminate();
}

#[test]
fn idle_bodies_keep_no_long_body_waiting() {
    let victim = Victim::new(&[]);
    let good = with_long_bodies(&victim);
    let known = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 5000\r\n");
    hold(&victim, 33, &stranger("Content-Length: 5000\r\n", "{"));
    hold(&victim, 33, &stranger(&known, "{"));
    good.finish();
    peak_within(&victim);
    victim.survived().terminate();
}

#[test]
fn a_slow_body_does_not_stop_the_only_worker() {
    let victim = Victim::new(&["--max-blocking", "1"]);
    let good = with_long_bodies(&victim);
    let known = format!("Authorization: Bearer {TOKEN}\r\n");
    for headers in ["", &known] {
        hold(&victim, 1, &stranger(&format!("{headers}Content-Length: 2000\r\n"), "{"));
        hold(&victim, 1, &stranger(&format!("{headers}Transfer-Encoding: chunked\r\n"), "7d0\r\n{"));
    }
    good.finish();
    victim.survived().terminate();
}

#[test]
fn another_version_of_http() {
    // Each keeps a thread and two descriptors. At full size they are over an eighth of the descriptors, which leads to
    // a fresh image.
    let many = size(400, 100);
    let victim = if soak() { Victim::soon_worn_out(&["--token", TOKEN]) } else { Victim::new(&[]) };
    let pid = victim.server.pid();
    let fresh = || std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains("FLINT_OWN_SOCKET");
    let mut streams = Vec::new();
    for _ in 0..many {
        let Ok(mut stream) = TcpStream::connect(victim.address) else { continue };
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        streams.push(stream);
    }
    if soak() {
        victim.until("a fresh image of the same process", PATIENCE, fresh);
        drop(streams);
        victim.survived().terminate();
        return;
    }
    // Connections that tiny_http does not release are known, and good clients are answered meanwhile.
    victim.until("they are known", PATIENCE, || {
        victim.doctor()["connections"]["leaked"].as_u64().is_some_and(|leaked| leaked >= many as u64 / 2)
    });
    peak_within(&victim);
    assert!(!fresh());
    drop(streams);
    let Victim { server, good, .. } = victim;
    good.unwrap().finish();
    server.terminate();
}
