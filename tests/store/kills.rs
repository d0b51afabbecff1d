//! Servers that are killed: what they told is spent, and at most what was in flight on them besides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flint::engine::remote::{Remote, Settings};

use super::engines::{configure, status, stores};
use super::servers::long;

/// Connections to each server, each with one check at a time.
const CONNECTIONS: usize = 8;

/// A flint server over a store.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(store: &str) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flint"));
        command.args(["server", "start", "--bind", "127.0.0.1:0", "--store", store]);
        command.env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_SERVER").env_remove("FLINT_STORE");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next());
        Server { address: address.unwrap_or_else(|| panic!("{line}")).to_owned(), child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks a key until the server is gone. Counts what was answered, and what had no answer.
fn client(address: &str, told: &AtomicU64, open: &AtomicU64) {
    let body = "{\"key\":\"one\"}";
    let request = format!("POST /v1/check HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let mut buffer = [0; 4096];
    loop {
        if stream.write_all(request.as_bytes()).is_err() {
            return;
        }
        let mut reply = Vec::new();
        while !reply.ends_with(b"}") && !reply.ends_with(b"}\n") {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => reply.extend_from_slice(&buffer[..read]),
                _ => {
                    open.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        let reply = String::from_utf8_lossy(&reply);
        if reply.contains("\"allowed\":true") {
            told.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(reply.contains("_unavailable") || reply.contains("outcome_unknown"), "{reply}");
        }
    }
}

#[test]
fn what_killed_servers_told_is_spent() {
    let rounds = if long() { 20 } else { 2 };
    for store in stores() {
        let engine = Remote::open(Settings::new(&store.address())).unwrap();
        configure(&engine, "one", "100000000/365d fixed_window_counter");
        let (told, open) = (AtomicU64::new(0), AtomicU64::new(0));
        for round in 0..rounds {
            let mut servers: Vec<Server> = (0..4).map(|_| Server::start(&store.address())).collect();
            thread::scope(|scope| {
                for server in &servers {
                    for _ in 0..CONNECTIONS {
                        let (address, told, open) = (server.address.clone(), &told, &open);
                        scope.spawn(move || client(&address, told, open));
                    }
                }
                thread::sleep(Duration::from_millis(200 + 37 * round % 100));
                servers.iter().for_each(|server| {
                    let kill = Command::new("kill").args(["-9", &server.child.id().to_string()]).status();
                    assert!(kill.unwrap().success());
                });
            });
            servers.clear();
        }
        let (told, open) = (told.into_inner(), open.into_inner());
        let begun = Instant::now();
        let used = status(&engine, "one").used.unwrap();
        eprintln!(
            "kill -9 of 4 servers, {rounds} times: told {told}, spent {used}, in flight {open}, {:?}",
            begun.elapsed()
        );
        assert!(told > 0 && told <= used && used <= told + open, "told {told}, in flight {open}, spent {used}");
    }
}
