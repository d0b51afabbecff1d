//! What takes memory beyond what was sent, and what has no end.

use super::*;

/// Sends each of these streams the bytes again and again until all are ended; returns the most memory taken meanwhile, in
/// KiB, and the bytes sent.
fn pour(victim: &Victim, mut streams: Vec<TcpStream>, bytes: &[u8]) -> (u64, usize) {
    let before = victim.memory();
    let (mut most, mut sent) = (0, 0);
    while !streams.is_empty() {
        streams.retain_mut(|stream| stream.write_all(bytes).is_ok());
        sent += bytes.len() * streams.len();
        most = most.max(victim.memory().saturating_sub(before));
        assert!(sent < 1 << 32, "never cut");
    }
    (most, sent)
}

#[test]
fn endless_bodies() {
    let victim = Victim::new(&[]);
    // The line with a chunk's length, what may follow it, and chunks of one byte.
    for (begin, more) in [("", "0".repeat(65536)), ("5;", "a".repeat(65536)), ("", "1\r\n \r\n".repeat(10_000))] {
        for token in [TOKEN, "wrong"] {
            let mut streams: Vec<_> = (0..4).map(|_| victim.connect()).collect();
            let head = "POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n";
            for stream in &mut streams {
                stream.write_all(format!("{head}Authorization: Bearer {token}\r\n\r\n{begin}").as_bytes()).unwrap();
            }
            let (most, sent) = pour(&victim, streams, more.as_bytes());
            assert!(most < 200 * MIB, "{most} KiB for {begin:?} and {sent} bytes");
        }
    }
    victim.survived().terminate();
}

#[test]
fn as_many_header_lines_as_the_bound_and_one_more() {
    let victim = Victim::new(&[]);
    // Two are there already, Host and Authorization.
    for (many, status) in [(126, 200), (127, 0)] {
        let request = post("/v1/health", &"a:b\r\n".repeat(many), "");
        let request = String::from_utf8(request).unwrap().replacen("POST", "GET", 1);
        assert_eq!(super::status(&victim.connect(), request.as_bytes()), status, "{many}");
    }
    victim.survived().terminate();
}

#[test]
fn heads_that_take_more_memory_than_was_sent() {
    let victim = Victim::new(&[]);
    let swelling = "a:b\r\n".repeat(10_000);
    // Whole heads, one after the other.
    let request = post("/v1/check", &format!("{swelling}Content-Length: 11\r\n"), r#"{"key":"k"}"#);
    let streams: Vec<_> = (0..4).map(|_| victim.connect()).collect();
    let (most, _) = pour(&victim, streams, &request);
    println!("whole heads: {most} KiB");
    assert!(most < 200 * MIB, "{most} KiB");
    // Heads without an end, which would be 1 GiB and more.
    let mut streams = Vec::new();
    let (before, mut most) = (victim.memory(), 0);
    for _ in 0..1000 {
        let mut stream = victim.connect();
        let _ = stream.write_all(&request[..request.len() - 100]);
        streams.push(stream);
        most = most.max(victim.memory().saturating_sub(before));
    }
    println!("heads without an end: {most} KiB");
    assert!(most < 600 * MIB, "{most} KiB");
    drop(streams);
    victim.survived().terminate();
}

#[test]
fn long_heads_sent_ahead() {
    let victim = Victim::new(&["--max-blocking", "2"]);
    let request = post("/v1/check", &format!("X: {}\r\nContent-Length: 11\r\n", "a".repeat(50_000)), r#"{"key":"k"}"#);
    // 20 MiB each if all of them waited.
    let threads: Vec<_> = (0..size(100, 20))
        .map(|_| {
            let (mut stream, request) = (victim.connect(), request.clone());
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            std::thread::spawn(move || (0..400).try_for_each(|_| stream.write_all(&request)).is_err())
        })
        .collect();
    let (before, mut most) = (victim.memory(), 0);
    while !threads.iter().all(JoinHandle::is_finished) {
        most = most.max(victim.memory().saturating_sub(before));
        std::thread::sleep(Duration::from_millis(5));
    }
    let cut = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|cut| *cut).count();
    println!("{cut} were cut");
    println!("long heads: {most} KiB");
    assert!(most < 200 * MIB, "{most} KiB");
    victim.survived().terminate();
}
