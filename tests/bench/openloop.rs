//! An open-loop load: requests are due at fixed times whether or not earlier ones were answered, and latency counts from
//! when a request was due. So a server that stalls is not spared the requests it would have kept waiting. For
//! `scripts/bench`; prints percentiles in microseconds.
//!
//!     openloop HOST:PORT REQUESTS_PER_SECOND SECONDS CONNECTIONS

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(address), Some(rate), Some(seconds), Some(connections)) = (args.first(), number(1), number(2), number(3))
    else {
        eprintln!("usage: openloop HOST:PORT REQUESTS_PER_SECOND SECONDS CONNECTIONS");
        return;
    };
    let start = Instant::now() + Duration::from_millis(200);
    let interval = Duration::from_nanos(1_000_000_000 * connections / rate);
    let threads: Vec<_> = (0..connections)
        .map(|index| {
            let address = address.clone();
            let first = start + Duration::from_nanos(1_000_000_000 * index / rate);
            thread::spawn(move || one(&address, first, interval, start + Duration::from_secs(seconds)))
        })
        .collect();
    let mut all: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().expect("a connection")).collect();
    all.sort_unstable();
    let at = |share: f64| all[((all.len() as f64 * share) as usize).min(all.len() - 1)];
    println!(
        "requests {} rate {:.0} p50 {} p99 {} p99.9 {} max {}",
        all.len(),
        all.len() as f64 / start.elapsed().as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        all[all.len() - 1]
    );
}

/// Microseconds from when each request was due to its whole reply.
fn one(address: &str, first: Instant, interval: Duration, end: Instant) -> Vec<u32> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let request =
        format!("POST /v1/check HTTP/1.1\r\nHost: {address}\r\nContent-Length: 15\r\n\r\n{{\"key\":\"bench\"}}");
    let (mut due, mut took) = (first, Vec::new());
    let mut buffer = [0; 4096];
    while due < end {
        // Late already: it is sent at once, and its lateness counts.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request.as_bytes()).expect("sent");
        let mut got = 0;
        loop {
            got += stream.read(&mut buffer[got..]).expect("a reply");
            assert!(got > 0, "the server ended the connection");
            if buffer[..got].ends_with(b"}\n") {
                break;
            }
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..got]));
        took.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        due += interval;
    }
    took
}
