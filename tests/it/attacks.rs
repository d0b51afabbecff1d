//! Hostile clients. Through and after each attack a well-behaved client that sends a check every 100 ms is answered
//! 200 in time, the server stays the same process, and what the attack held is released.
//!
//! `FLINT_SOAK=1` runs them at full size and with the full promise: an answer within 1 s. Without it they are smaller,
//! and a slow, busy machine is forgiven.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::util::{Client, PATIENCE, Server, get};

mod bodies;
mod floods;
mod memory;
mod replaced;
mod unix;

const TOKEN: &str = "dev-secret";
const MIB: u64 = 1024;

/// At full size?
fn soak() -> bool {
    std::env::var_os("FLINT_SOAK").is_some()
}

fn size(full: usize, small: usize) -> usize {
    if soak() { full } else { small }
}

/// What `FLINT_SOAK_MAX_BLOCKING` asks for.
static MAX_BLOCKING: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("FLINT_SOAK_MAX_BLOCKING").ok());

/// The arguments, with `--max-blocking` where it is asked for and they have none.
fn with_threads<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut args = args.to_vec();
    if let (Some(threads), false) = (&*MAX_BLOCKING, args.contains(&"--max-blocking")) {
        args.extend(["--max-blocking", threads]);
    }
    args
}

/// How soon the good client must be answered.
fn in_time() -> Duration {
    if soak() { Duration::from_secs(1) } else { Duration::from_secs(8) }
}

/// One attack at a time: each is about what the machine can take.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|error| error.into_inner())
}

/// A server under attack, and what it held before.
struct Victim {
    server: Server,
    address: SocketAddr,
    good: Option<Good>,
    threads: u64,
    descriptors: u64,
    _dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// A well-behaved client at work.
struct Good {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Duration, Result<u16, String>)>>,
}

impl Good {
    fn start(url: &str) -> Good {
        Good::asking(url, "POST", "/v1/check", r#"{"key":"good"}"#)
    }

    fn asking(url: &str, method: &'static str, path: &'static str, body: impl Into<String>) -> Good {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url, body) = (Arc::clone(&stop), url.to_owned(), body.into());
        let thread = std::thread::spawn(move || {
            let mut client = Client::new(&url, Some(TOKEN));
            let mut answers = Vec::new();
            // More than once, also where the attack is over at once.
            while answers.len() < 2 || !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = client.try_ask(method, path, &body);
                answers.push((start.elapsed(), answer.map(|reply| reply.status).map_err(|error| error.to_string())));
                std::thread::sleep(Duration::from_millis(100));
            }
            answers
        });
        Good { stop, thread }
    }

    /// Every answer was 200 and in time. Returns how many there were.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.thread.join().unwrap();
        for (took, answer) in &answers {
            assert!(*answer == Ok(200) && *took <= in_time(), "after {took:?}: {answer:?} of {}", answers.len());
        }
        answers.len() as u64
    }
}

impl Victim {
    fn new(args: &[&str]) -> Victim {
        let args = [&["--token", TOKEN, "--sync", "batch"], args].concat();
        Victim::started(|dir| Server::start(dir, &with_threads(&args)))
    }

    /// A server that starts afresh at 256 connections that are not released: an eighth of its descriptors.
    fn soon_worn_out(args: &[&str]) -> Victim {
        let limited = ["-c", "ulimit -n 2048; exec \"$@\"", "sh"];
        let args = [&["--sync", "batch"], args].concat();
        Victim::started(|dir| Server::start_by("sh", &limited, dir, &with_threads(&args)))
    }

    fn started(start: impl FnOnce(&Path) -> Server) -> Victim {
        let alone = alone();
        // The attackers are in this process.
        let _ = rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(16_000), maximum: Some(20_000) },
        );
        let dir = tempfile::tempdir().unwrap();
        let server = start(&dir.path().join("data"));
        let mut client = Client::new(&server.url, Some(TOKEN));
        client.post("/v1/limits", r#"{"key":"good","rate":1000000,"per":"366d"}"#).ok();
        client.post("/v1/limits", r#"{"key":"k","rate":1000000000,"per":"366d"}"#).ok();
        drop(client);
        let address = server.url.trim_start_matches("http://").parse().unwrap();
        let (threads, descriptors) = (server.process().threads(), server.process().descriptors());
        let good = Some(Good::start(&server.url));
        // The attack begins when the good client is at work.
        let mut client = Client::new(&server.url, Some(TOKEN));
        while client.get("/v1/limits/good").ok()["total_allowed"] == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(client);
        Victim { server, address, good, threads, descriptors, _dir: dir, _alone: alone }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn client(&self) -> Client {
        Client::new(&self.server.url, Some(TOKEN))
    }

    fn memory(&self) -> u64 {
        self.server.process().resident()
    }

    fn doctor(&self) -> Value {
        self.client().get("/v1/doctor").ok()
    }

    /// Waits until it is so.
    #[track_caller]
    fn until(&self, what: &str, patience: Duration, so: impl Fn() -> bool) {
        let deadline = Instant::now() + patience;
        while !so() {
            assert!(Instant::now() < deadline, "not within {patience:?}: {what}; {}", self.describe());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn describe(&self) -> String {
        let process = self.server.process();
        format!("{} threads, {} descriptors, {} KiB", process.threads(), process.descriptors(), process.resident())
    }

    /// The attack is over: the good client was answered, memory is back, and nothing is held.
    #[track_caller]
    fn survived(mut self) -> Survivor {
        // tiny_http keeps idle threads of its own for 5 s; the good client has one and a connection's two descriptors.
        let (threads_before, descriptors_before) = (self.threads + 4, self.descriptors + 4);
        let process = self.server.process();
        let patience = if soak() { Duration::from_secs(20) } else { PATIENCE };
        self.until("threads and descriptors are let go", patience, || {
            process.threads() <= threads_before && process.descriptors() <= descriptors_before
        });
        self.until("memory is back", patience, || self.memory() < 100 * MIB);
        let answered = self.good.take().unwrap().finish();
        // Nothing that was answered is lost, and nothing else was spent of the good client's quota.
        let status = self.client().get("/v1/limits/good").ok();
        assert_eq!(status["total_allowed"].as_u64().unwrap(), answered, "{status}");
        Survivor { server: self.server, _dir: self._dir }
    }
}

/// A server after an attack, with its directory: without that it could not end well.
struct Survivor {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Survivor {
    #[track_caller]
    fn terminate(self) -> String {
        self.server.terminate()
    }
}

impl std::ops::Deref for Survivor {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Sends these bytes. Returns the status of the final reply; 0 when the connection ends without one.
fn status(stream: &TcpStream, bytes: &[u8]) -> u16 {
    let mut client = Client::on(stream.try_clone().unwrap());
    client.send(bytes).and_then(|()| client.receive_head()).map_or(0, |reply| reply.status)
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n{body}")
        .into_bytes()
}

/// Whether the other side ends the connection in this time.
fn ended(stream: &TcpStream, patience: Duration) -> bool {
    Client::on(stream.try_clone().unwrap()).has_ended(patience)
}

#[test]
fn lengths_that_lie() {
    let victim = Victim::new(&[]);
    let lengths = [
        "18446744073709551615",
        "9223372036854775808",
        "4611686018427387904",
        "1000000000000000",
        "1000000000000",
        "10000000000",
        "1048577",
        "-1",
        "+5",
        "5, 5",
        "0x10",
        "99999999999999999999999",
        "",
        "5\r\nContent-Length: 50",
        "5\r\nContent-Length: 5",
        "5\r\nTransfer-Encoding: chunked",
        "5\r\nTransfer-Encoding: gzip",
    ];
    let body = "GET /v1/limits HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    for length in lengths {
        for token in [format!("Authorization: Bearer {TOKEN}\r\n"), String::new()] {
            let request =
                format!("POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\n{token}Content-Length: {length}\r\n\r\n{body}");
            let mut client = Client::on(victim.connect());
            let reply = client.raw(&request, false).unwrap();
            let status = reply.status;
            assert!([400, 413].contains(&status) || (status == 401 && token.is_empty()), "{length}: {reply:?}");
            // The body is not taken for a request: the connection ends, with no second reply.
            assert_eq!(client.rest().unwrap_or_default(), "", "{length}");
        }
    }
    // Those that tiny_http will not release are known.
    victim.until("at least 14 open connections", PATIENCE, || {
        victim.doctor()["connections"]["open"].as_u64().unwrap() >= 14
    });
    let Victim { server, good, .. } = victim;
    good.unwrap().finish();
    server.terminate();
}

#[test]
fn slow_bodies() {
    let victim = Victim::new(&["--max-blocking", "8"]);
    let health = Good::asking(&victim.server.url, "GET", "/v1/health", "");
    let many = size(600, 300);
    let kinds = [
        (TOKEN, "Content-Length: 2000\r\n", ""),
        ("wrong", "Content-Length: 2000\r\n", ""),
        (TOKEN, "Transfer-Encoding: chunked\r\n", "7d0\r\n"),
        ("wrong", "Transfer-Encoding: chunked\r\n", "7d0\r\n"),
        (TOKEN, "Content-Length: 2000\r\nExpect: 100-continue\r\n", ""),
        (TOKEN, "Content-Length: 100\r\n", ""),
    ];
    let start = Instant::now();
    let streams: Vec<_> = (0..many)
        .map(|index| {
            let (token, headers, body) = kinds[index % kinds.len()];
            let mut stream = victim.connect();
            let head = format!("POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n");
            stream.write_all(format!("{head}{headers}\r\n{body}{{").as_bytes()).unwrap();
            stream
        })
        .collect();
    // A byte now and then keeps no connection alive.
    let dripping = std::thread::spawn({
        let mut writers: Vec<_> = streams.iter().map(|stream| stream.try_clone().unwrap()).collect();
        move || {
            for _ in 0..40 {
                std::thread::sleep(Duration::from_millis(250));
                writers.retain_mut(|writer| writer.write_all(b" ").is_ok());
            }
        }
    });
    assert!(streams.iter().all(|stream| ended(stream, PATIENCE)));
    // With 4 workers for bodies those that found no room were refused at once; the others had 10 s from their head on.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(if soak() { 12 } else { 60 }), "{took:?}");
    dripping.join().unwrap();
    drop(streams);
    health.finish();
    // All of them were released: it takes more than slow bodies to wear the server out.
    assert_eq!(victim.doctor()["connections"]["leaked"], 0);
    victim.survived().terminate();
}

#[test]
fn dripping_heads() {
    let victim = Victim::new(&[]);
    let many = size(600, 100);
    let start = Instant::now();
    let streams: Vec<_> = (0..many).map(|_| victim.connect()).collect();
    let mut writers: Vec<_> = streams.iter().map(|stream| stream.try_clone().unwrap()).collect();
    let mut silent = victim.connect();
    silent.write_all(b"GET /v1/health HTTP/1.1\nHost: 127.0.0.1\n\n").unwrap();
    let dripping = std::thread::spawn(move || {
        for byte in b"POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
            writers.retain_mut(|writer| writer.write_all(&[*byte]).is_ok());
            if writers.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    assert!(streams.iter().all(|stream| ended(stream, PATIENCE)));
    let took = start.elapsed();
    assert!(took < if soak() { Duration::from_secs(20) } else { PATIENCE }, "{took:?}");
    dripping.join().unwrap();
    drop(streams);
    // Lines that end with only LF are not lines for tiny_http; its client gets an error in the end.
    let mut client = Client::on(silent);
    let reply = client.receive().unwrap();
    assert!(reply.error(408, "invalid_argument").contains("CR LF") && reply.closes(), "{reply:?}");
    assert_eq!(client.rest().unwrap(), "");
    victim.survived().terminate();
}

#[test]
fn endless_heads() {
    let victim = Victim::new(&[]);
    for (begin, line) in [
        ("GET / HTTP/1.1\r\nX: ", "a".repeat(65536)),
        ("GET / HTTP/1.1\r\n", "a:b\r\n".repeat(13107)),
        ("GET /", "a".repeat(65536)),
    ] {
        let before = victim.memory();
        let mut streams: Vec<_> = (0..4).map(|_| victim.connect()).collect();
        let mut most = 0;
        let mut sent = 0;
        for stream in &mut streams {
            stream.write_all(begin.as_bytes()).unwrap();
        }
        while !streams.is_empty() {
            streams.retain_mut(|stream| stream.write_all(line.as_bytes()).is_ok());
            sent += line.len() * streams.len();
            most = most.max(victim.memory().saturating_sub(before));
            assert!(sent < 1 << 32, "never cut");
        }
        assert!(most < 64 * MIB, "{most} KiB for {begin:?}");
    }
    victim.survived().terminate();
}

#[test]
fn pipelining_without_reading() {
    let victim = Victim::new(&[]);
    let each = size(20_000, 5_000);
    let request = post("/v1/check", "Content-Length: 11\r\n", r#"{"key":"k"}"#);
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = victim.connect();
            let request = request.clone();
            std::thread::spawn(move || {
                for _ in 0..each / 50 {
                    if stream.write_all(&request.repeat(50)).is_err() {
                        return stream;
                    }
                }
                stream
            })
        })
        .collect();
    let mut most = 0;
    while !threads.iter().all(JoinHandle::is_finished) {
        most = most.max(victim.memory());
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("pipelining: at most {most} KiB");
    let streams: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(streams.iter().all(|stream| ended(stream, PATIENCE)));
    drop(streams);
    victim.survived().terminate();
}

#[test]
fn slow_readers() {
    let victim = Victim::new(&[]);
    let mut client = victim.client();
    for index in 0..1200 {
        client.post("/v1/limits", &json!({"key": format!("key-{index}"), "rate": 5, "per": "1h"}).to_string()).ok();
    }
    drop(client);
    // Some ask for all, of which few are answered at once; the others for a page, which is made at once.
    let (all, page) = (get("/v1/limits", Some(TOKEN)), get("/v1/limits?limit=180", Some(TOKEN)));
    let many = size(240, 180);
    let request = |index: usize| if index < 8 { all.as_bytes() } else { page.as_bytes() };
    let mut streams: Vec<_> = (0..many).map(|index| slow_reader(&victim, request(index))).collect();
    let ended = || {
        let reply = victim.client().get("/v1/doctor");
        let ended = if reply.status == 503 { None } else { reply.ok()["connections"]["ended"]["send"].as_u64() };
        ended.unwrap_or(0) as usize
    };
    // A small pool refuses what finds no room in its queue.
    let least = MAX_BLOCKING.as_ref().map_or(many - many / 8, |_| flint::bounds::MIN_QUEUED);
    let deadline = Instant::now() + PATIENCE;
    while ended() < least {
        assert!(Instant::now() < deadline, "{} of {many} ended; {}", ended(), victim.describe());
        // A few bytes now and then: progress, but of years.
        let mut buffer = [0; 100];
        streams.retain_mut(|stream| stream.read(&mut buffer).is_ok_and(|read| read > 0));
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(streams);
    victim.survived().terminate();
}

/// A client that has asked, and has little room for the reply.
fn slow_reader(victim: &Victim, request: &[u8]) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &victim.address).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(request).unwrap();
    stream
}

#[test]
fn pipelining_within_the_bound_is_answered_in_order() {
    let victim = Victim::new(&[]);
    let mut stream = victim.connect();
    let many = 500;
    // So few in a year that none is refilled meanwhile.
    victim.client().post("/v1/limits", r#"{"key":"few","rate":1000,"per":"366d"}"#).ok();
    let request = post("/v1/take/few?cost=1", "Content-Length: 0\r\n", "");
    stream.write_all(&request.repeat(many)).unwrap();
    let mut got = String::new();
    let mut buffer = [0; 65536];
    while got.matches("\r\n\r\nok ").count() < many || !got.ends_with('\n') {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "ended after {}", got.matches("\r\n\r\nok ").count());
        got += std::str::from_utf8(&buffer[..read]).unwrap();
    }
    let left: Vec<u64> =
        got.split("\r\n\r\nok ").skip(1).map(|rest| rest.lines().next().unwrap().parse().unwrap()).collect();
    assert!(left.windows(2).all(|pair| pair[1] + 1 == pair[0]), "{left:?}");
    drop(stream);
    victim.survived().terminate();
}

/// Lets the connection be reset when it is dropped.
fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn resets() {
    let victim = Victim::new(&[]);
    let request = post("/v1/check", "Content-Length: 11\r\n", r#"{"key":"k"}"#);
    for turn in 0..size(5_000, 1_000) {
        let mut stream = victim.connect();
        match turn % 5 {
            // Often before it is accepted.
            0 | 1 => {}
            2 => drop(stream.write_all(&request[..20])),
            3 => drop(stream.write_all(&request)),
            _ => assert_eq!(status(&stream, &request), 200),
        }
        reset(stream);
    }
    victim.survived().terminate();
}

#[test]
fn out_of_descriptors() {
    let victim = Victim::started(|dir| {
        let limited = ["-c", "ulimit -n 128; exec \"$@\"", "sh"];
        Server::start_by("sh", &limited, dir, &["--token", TOKEN, "--sync", "batch"])
    });
    let streams: Vec<_> = (0..400).map(|_| victim.connect()).collect();
    std::thread::sleep(Duration::from_millis(1500));
    // The good client may be refused now, and is answered again soon after.
    victim.good.as_ref().unwrap().stop.store(true, Ordering::Relaxed);
    drop(streams);
    let start = Instant::now();
    loop {
        let mut client = victim.client();
        if client.try_ask("POST", "/v1/check", r#"{"key":"k"}"#).is_ok_and(|reply| reply.status == 200) {
            break;
        }
        assert!(start.elapsed() < in_time() * 5, "{}", victim.describe());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("answered {:?} after the connections' end", start.elapsed());
    let process = victim.server.process();
    victim.until("descriptors are let go", PATIENCE, || process.descriptors() <= victim.descriptors + 8);
    for _ in 0..50 {
        assert_eq!(victim.client().post("/v1/check", r#"{"key":"k"}"#).status, 200);
    }
    victim.server.terminate();
}

#[test]
fn idle_connections() {
    let victim = Victim::new(&["--idle-timeout", "4s", "--max-connections", "300"]);
    let mut streams = Vec::new();
    for _ in 0..size(2_000, 600) {
        streams.push(victim.connect());
        if streams.len() % 20 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let ended_at_once = |streams: &mut Vec<TcpStream>| {
        streams.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            matches!(stream.read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        streams.len()
    };
    let deadline = Instant::now() + PATIENCE;
    while ended_at_once(&mut streams) > 300 {
        assert!(Instant::now() < deadline, "{} are left; {}", streams.len(), victim.describe());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The rest falls idle.
    while ended_at_once(&mut streams) > 0 {
        assert!(Instant::now() < deadline, "{} are left; {}", streams.len(), victim.describe());
        std::thread::sleep(Duration::from_millis(20));
    }
    victim.survived().terminate();
}

#[test]
fn odd_requests() {
    let victim = Victim::new(&[]);
    let long =
        format!("GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n", "a".repeat(60_000));
    let longer = long.replacen("aaaa", &"a".repeat(50_000), 1);
    let get = |line: &str, headers: &str| {
        format!("{line}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n").into_bytes()
    };
    let chunked = |body: &str| post("/v1/check", "Transfer-Encoding: chunked\r\n", body);
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03random\r\n\r\n".to_vec(), &[400, 0]),
        ("NUL", b"GET /v1/health\0 HTTP/1.1\r\n\r\n".to_vec(), &[400, 401, 0]),
        ("not ASCII", "GET /v1/limits/ключ HTTP/1.1\r\n\r\n".as_bytes().to_vec(), &[400, 0]),
        ("long target", long.into_bytes(), &[404]),
        ("longer target", longer.into_bytes(), &[404, 0]),
        ("bad escape", get("GET /v1/limits/%zz HTTP/1.1", ""), &[400]),
        ("cut escape", get("GET /v1/limits/%4 HTTP/1.1", ""), &[400]),
        ("not UTF-8", get("GET /v1/limits/%ff%fe HTTP/1.1", ""), &[400]),
        ("HTTP/1.0", get("GET /v1/health HTTP/1.0", ""), &[200]),
        ("HTTP/0.9", b"GET /v1/health\r\n\r\n".to_vec(), &[400, 0]),
        ("HTTP/3.0", get("GET /v1/health HTTP/3.0", ""), &[408, 0]),
        ("HEAD", get("HEAD /v1/health HTTP/1.1", ""), &[200]),
        ("OPTIONS", get("OPTIONS * HTTP/1.1", ""), &[404, 405]),
        ("CONNECT", get("CONNECT example.org:443 HTTP/1.1", ""), &[404, 405]),
        ("absolute target", get("GET http://127.0.0.1/v1/health HTTP/1.1", ""), &[200]),
        ("absolute target elsewhere", get("GET http://evil.example/v1/health HTTP/1.1", ""), &[403]),
        ("Expect", post("/v1/check", "Expect: 100-continue\r\nContent-Length: 11\r\n", r#"{"key":"k"}"#), &[200]),
        ("odd Expect", post("/v1/check", "Expect: tea\r\nContent-Length: 11\r\n", r#"{"key":"k"}"#), &[417, 0]),
        ("upgrade", get("GET /v1/health HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n"), &[200]),
        (
            "upgrade with a body",
            post("/v1/check", "Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 11\r\n", r#"{"key":"k"}"#),
            &[200],
        ),
        ("chunked", chunked("b\r\n{\"key\":\"k\"}\r\n0\r\n\r\n"), &[200]),
        ("huge chunk", chunked("ffffffffffffffff\r\n{"), &[400, 413]),
        ("huger chunk", chunked("fffffffffffffffffffffff\r\n{"), &[400]),
        ("no chunk", chunked("xyz\r\n\r\n"), &[400]),
        ("negative chunk", chunked("-5\r\n{\"key\"\r\n"), &[400]),
        ("two hosts", get("GET /v1/health HTTP/1.1", "Host: evil.example\r\n"), &[400]),
        ("origin", get("GET /v1/health HTTP/1.1", "Origin: http://evil.example\r\n"), &[403]),
        ("bare line feeds", b"GET /v1/health HTTP/1.1\nHost: 127.0.0.1\n\n\r\n\r\n".to_vec(), &[400, 401, 0]),
    ];
    for (name, request, statuses) in cases {
        let mut stream = victim.connect();
        // A client that waits for more than a reply is told that there is none.
        let waits = ["huge chunk", "HTTP/3.0", "TLS hello"].contains(&name);
        if waits {
            stream.write_all(&request).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let status = status(&stream, if waits { b"" } else { &request });
        assert!(statuses.contains(&status), "{name}: {status}");
    }
    victim.survived().terminate();
}

#[test]
fn bodies_are_never_requests() {
    let victim = Victim::new(&[]);
    // In each the body holds a request that would be answered 200 and spend 1000 of k.
    let inner = String::from_utf8(post("/v1/take/k?cost=1000", "Content-Length: 0\r\n", "")).unwrap();
    let padded = format!("{inner}{}", " ".repeat(3000));
    let wrong = |headers: &str, body: &str| {
        format!("POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n{body}").into_bytes()
    };
    let length = format!("Content-Length: {}\r\n", inner.len());
    let long = format!("Content-Length: {}\r\n", padded.len());
    let chunk = format!("{:x}\r\n{padded}\r\n0\r\n\r\n", padded.len());
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let cases = [
        wrong(&length, &inner),
        wrong(&long, &padded),
        wrong("Transfer-Encoding: chunked\r\n", &chunk),
        wrong(&format!("{bearer}{length}"), &inner),
        wrong(&format!("{bearer}{long}"), &padded),
        wrong(&format!("{bearer}Transfer-Encoding: chunked\r\n"), &chunk),
        wrong(&format!("{bearer}Content-Length: 5\r\n{length}"), &inner),
        wrong(&format!("{bearer}Content-Length: 2000\r\n{long}"), &padded),
        wrong(&format!("{bearer}{length}Transfer-Encoding: chunked\r\n"), &inner),
        wrong(&format!("{bearer}Transfer-Encoding: chunked\r\n"), &format!("zzz\r\n{inner}")),
        wrong(&format!("{bearer}Transfer-Encoding: identity\r\n"), &inner),
        wrong(&format!("{bearer}Transfer-Encoding: chunked, identity\r\n"), &inner),
        wrong(&format!("{bearer}Content-Length: x\r\n"), &inner),
        wrong(&format!("{bearer}Content-Length: 2000000\r\n"), &inner),
        wrong(&format!("{bearer}Connection: upgrade\r\n{length}"), &inner),
        wrong(&format!("{bearer}Connection: upgrade\r\nTransfer-Encoding: chunked\r\n"), &chunk),
        wrong(&format!("{bearer}Expect: 100-continue\r\n{length}"), &inner),
        wrong(&format!("{bearer}Origin: http://evil.example\r\n{long}"), &padded),
        // A line that ends at a bare LF for some, and holds a length.
        wrong(&format!("{bearer}X: y\n{length}"), &inner),
        wrong(&format!("{bearer}X: y\r{length}"), &inner),
        wrong(&format!("{bearer}X\0: y\r\n{length}"), &inner),
        wrong(&format!("{bearer}:y\r\n{length}"), &inner),
        format!("POST /v1/take/k\n HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer}\r\n{inner}").into_bytes(),
    ];
    for request in &cases {
        let got = Client::on(victim.connect()).finish(request);
        let request = String::from_utf8_lossy(request);
        assert!(!got.contains("HTTP/1.1 200"), "{request}\n{got}");
    }
    assert_eq!(victim.client().get("/v1/limits/k").ok()["total_allowed"], 0);
    let Victim { server, good, .. } = victim;
    good.unwrap().finish();
    server.terminate();
}

#[test]
fn mutations_of_valid_requests() {
    let victim = Victim::new(&["--idle-timeout", "2s"]);
    let templates = [
        post("/v1/check", "Content-Length: 22\r\n", r#"{"key":"k","cost":100}"#),
        post("/v1/check-all", "Content-Length: 31\r\nConnection: close\r\n", r#"{"items":["k",{"key":"good2"}]}"#),
        post("/v1/take/k?cost=3", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post(
            "/v1/limits",
            "Expect: 100-continue\r\nContent-Length: 37\r\n",
            r#"{"key":"x","rate":10,"per":"10s"}    "#,
        ),
        b"GET /v1/limits?prefix=a&limit=10 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer dev-secret\r\n\r\n"
            .to_vec(),
    ];
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as usize % below
    };
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for turn in 0..size(10_000, 1_500) {
        let mut request = templates[turn % templates.len()].clone();
        for _ in 0..1 + random(4) {
            if request.is_empty() {
                break;
            }
            let at = random(request.len());
            match random(5) {
                0 => request[at] = random(256) as u8,
                1 => request.insert(at, random(256) as u8),
                2 => drop(request.remove(at)),
                3 => request.truncate(at.max(1)),
                _ => {
                    let from = random(request.len());
                    let piece: Vec<u8> = request[from..].iter().take(20).copied().collect();
                    request.splice(at..at, piece);
                }
            }
        }
        let mut stream = victim.connect();
        let _ = stream.write_all(&request);
        let _ = stream.shutdown(Shutdown::Write);
        *statuses.entry(status(&stream, b"")).or_default() += 1;
    }
    println!("{statuses:?}");
    let known = [0, 200, 400, 401, 403, 404, 405, 408, 413, 417, 429, 503, 505];
    assert!(statuses.keys().all(|status| known.contains(status)), "{statuses:?}");
    assert!(statuses[&200] > 10 && statuses[&400] > 10, "{statuses:?}");
    victim.survived().terminate();
}

#[test]
fn hostile_json() {
    let victim = Victim::new(&[]);
    let mut client = victim.client();
    let deep = "[".repeat(1 << 20);
    let nested = format!(r#"{{"key":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let named = [
        (r#"{"key":"k","cost":1e400}"#, "cost"),
        (r#"{"key":"k","cost":1.5}"#, "cost"),
        (r#"{"key":"k","cost":"5"}"#, "cost"),
        (r#"{"key":"k","cost":-1}"#, "cost"),
        (r#"{"key":"k","cost":123456789012345678901234567890}"#, "cost"),
        (r#"{"key":"k","cost":0}"#, "cost"),
        (r#"{"key":"k","cost":null}"#, "cost"),
        (r#"{"key":"k","key":"k"}"#, "key"),
        (r#"{"key":"k","cost":1,"cost":2}"#, "cost"),
        (r#"{"key":5}"#, "key"),
        (r#"{"key":"\ud800"}"#, "`key`"),
        (r#"{"key":"\udc00\ud800"}"#, "`key`"),
        (r#"{"key":"k","price":1}"#, "price"),
        (r#"{"key":"a\u0000b"}"#, "key"),
        (r#"{"cost":1}"#, "key"),
        (&nested, "key"),
    ];
    for (body, name) in named {
        let reply = client.post("/v1/check", body);
        assert_eq!(reply.status, 400, "{reply:?}");
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(name), "{name}: {error}");
    }
    for body in [deep.as_str(), "", "{", "{}{}", "null", "\"k\"", "{\"key\":\"k\"} x", "\u{feff}{}", "{\"key\":\"k\",}"]
    {
        let reply = client.post("/v1/check", body);
        assert_eq!(reply.status, 400, "{:?}: {reply:?}", &body[..body.len().min(20)]);
    }
    let one = json!({"items": [{"key": "k", "cost": 1.5}]}).to_string();
    let error = client.post("/v1/check-all", &one).error(400, "invalid_argument");
    assert!(error.contains("cost"), "{error}");
    assert_eq!(client.get("/v1/limits/k").ok()["total_allowed"], 0);
    victim.survived().terminate();
}

#[test]
fn long_replies_do_not_stall() {
    let victim = Victim::new(&[]);
    let mut client = victim.client();
    for index in 0..40 {
        client.post("/v1/limits", &json!({"key": format!("key-{index}"), "rate": 5, "per": "1h"}).to_string()).ok();
    }
    let mut times: Vec<Duration> = (0..41)
        .map(|_| {
            let start = Instant::now();
            assert!(client.get("/v1/limits").body.len() > 4096);
            start.elapsed()
        })
        .collect();
    times.sort();
    // Nagle's algorithm and a delayed acknowledgement would make 40 ms of each.
    assert!(times[20] < Duration::from_millis(35), "{times:?}");
    victim.survived().terminate();
}

#[test]
#[cfg(debug_assertions)]
fn a_panic_costs_one_request() {
    let victim = Victim::started(|dir| {
        Server::start_with_environment(dir, &[("FLINT_TEST_PANIC", "/v1/reset")], &["--token", TOKEN])
    });
    let mut client = victim.client();
    for _ in 0..20 {
        assert_eq!(client.post("/v1/check", r#"{"key":"k"}"#).status, 200);
        client.post("/v1/reset", r#"{"key":"k"}"#).error(500, "internal");
    }
    let err = victim.survived().terminate();
    assert_eq!(err.matches("only that request was answered 500").count(), 20, "{err}");
}

#[test]
fn held_connections_lead_to_a_fresh_image() {
    let many = size(2_000, 300);
    let token = ["--token", TOKEN];
    let victim = if soak() { Victim::new(&[]) } else { Victim::soon_worn_out(&token) };
    let pid = victim.server.pid();
    let image =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains("FLINT_OWN_SOCKET");
    assert!(!image(pid));
    let mut streams = Vec::new();
    for turn in 0..2 * many {
        let Ok(mut stream) = TcpStream::connect(victim.address) else { continue };
        if turn % 2 == 0 {
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        } else {
            let _ = stream.write_all(&post("/v1/check", "Content-Length: 10000000000\r\n", "{"));
        }
        streams.push(stream);
        std::thread::sleep(Duration::from_millis(1));
    }
    victim.until("a fresh image of the same process", PATIENCE, || image(pid));
    drop(streams);
    let server = victim.survived();
    assert_eq!(server.pid(), pid);
    let mut client = Client::new(&server.url, Some(TOKEN));
    assert_eq!(client.get("/v1/doctor").ok()["ok"], true);
    let err = server.terminate();
    assert!(err.contains("starting afresh on the same socket"), "{err}");
}
