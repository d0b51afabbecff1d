//! A Unix socket, whose connections tiny_http does not tell apart.

use std::os::unix::net::UnixStream;
use std::process::Command;

use super::*;

struct Quarry {
    server: Server,
    path: String,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

fn start(args: &[&str]) -> Quarry {
    let alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket").to_str().unwrap().to_owned();
    let args = [&["--token", TOKEN, "--sync", "batch"], args].concat();
    let server = Server::start_on(&dir.path().join("data"), &format!("unix:{path}"), &args);
    let mut client = Client::new(&server.url, Some(TOKEN));
    for key in ["good", "k0", "k1", "k2", "k3", "k4", "k5", "k6"] {
        client.post("/v1/limits", &json!({"key": key, "rate": 1_000_000, "per": "366d"}).to_string()).ok();
    }
    Quarry { server, path, dir, _alone: alone }
}

#[test]
fn each_reply_is_that_of_its_request() {
    let quarry = start(&["--max-blocking", "4"]);
    let mut stream = UnixStream::connect(&quarry.path).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let many = size(60_000, 20_000);
    // More than there is room for: some are refused, or the connection is ended before the server has read all.
    let sender = std::thread::spawn(move || {
        for index in 0..many {
            let body = format!("{{\"key\":\"k{}\"}}", index % 7);
            let request = post("/v1/check", &format!("Content-Length: {}\r\n", body.len()), &body);
            if writer.write_all(&request).is_err() {
                return;
            }
        }
        let _ = writer.shutdown(Shutdown::Write);
    });
    let mut got = Vec::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if let Err(error) = stream.read_to_end(&mut got) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    sender.join().unwrap();
    let got = String::from_utf8_lossy(&got);
    let (mut answered, mut refused) = (0, 0);
    for (index, reply) in got.split("HTTP/1.1 ").skip(1).enumerate() {
        if let Some((_, key)) = reply.split_once("\"key\":\"k") {
            assert!(key.starts_with(&(index % 7).to_string()), "reply {index}: {reply}");
            answered += 1;
        } else {
            assert!(reply.starts_with("503 "), "reply {index}: {reply}");
            refused += 1;
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(answered > 0 && (refused > 0 || answered < many));
    drop(stream);
    // No worker waits for a turn that never comes. Others are ended too while what is left of the flood is released.
    let deadline = Instant::now() + PATIENCE;
    let mut in_a_row = 0;
    while in_a_row < 20 {
        let reply = Client::new(&quarry.server.url, Some(TOKEN)).try_ask("POST", "/v1/check", r#"{"key":"k0"}"#);
        in_a_row = if reply.is_ok_and(|reply| reply.status == 200) { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < deadline, "never well again");
    }
    quarry.server.terminate();
    drop(quarry.dir);
}

#[test]
fn a_process_with_many_connections_ends_its_own() {
    let quarry = start(&["--max-connections", "50"]);
    let good = Good::start(&quarry.server.url);
    let flood = "import socket, sys, time\nheld = []\nfor turn in range(400):\n    s = socket.socket(socket.AF_UNIX)\n    \
                 s.settimeout(60)\n    s.connect(sys.argv[1])\n    held.append(s)\n    time.sleep(0.002)\ntime.sleep(0.5)";
    let flooded = Command::new("python3").args(["-c", flood, &quarry.path]).status();
    if !flooded.is_ok_and(|status| status.success()) {
        good.finish();
        return eprintln!("SKIPPED: it takes python3 to flood from another process");
    }
    let ended = Client::new(&quarry.server.url, Some(TOKEN)).get("/v1/doctor").ok();
    assert!(ended["connections"]["ended"]["excess"].as_u64().unwrap() >= 300, "{ended}");
    // The oldest connection of all was not among them, though idle for most of the time.
    good.finish();
    quarry.server.terminate();
    drop(quarry.dir);
}

/// All threads that end refused bodies are busy, and one more is to be ended whose reply has to wait for its client.
#[test]
fn a_refusal_that_has_to_wait_keeps_no_decider() {
    let quarry = start(&[]);
    let mut good = Client::new(&quarry.server.url, Some(TOKEN));
    let limits: Vec<_> =
        (0..4000).map(|number| json!({"key": format!("{number:0200}"), "rate": 1, "per": "1m"})).collect();
    good.post("/v1/limits", &Value::from(limits).to_string()).ok();
    let refused = "POST /v1/check HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\nContent-Length: 5000\r\n\r\n";
    let connect = || UnixStream::connect(&quarry.path).unwrap();
    let busy: Vec<_> = (0..flint::bounds::MAX_WAITING_BODIES).map(|_| connect()).collect();
    for mut stream in &busy {
        stream.write_all(refused.as_bytes()).unwrap();
    }
    let process = quarry.server.process();
    let deadline = Instant::now() + PATIENCE;
    while process.thread_names().iter().filter(|name| *name == "flint-body").count() < busy.len() {
        assert!(Instant::now() < deadline, "each should have its thread: {:?}", process.thread_names());
    }
    // The list is longer than what fits into the socket, and its client reads none of it.
    let mut slow = connect();
    let list = format!("GET /v1/limits HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    slow.write_all(list.as_bytes()).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.read_exact(&mut [0; 12]).unwrap();
    slow.write_all(refused.as_bytes()).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let asked = Instant::now();
        good.post("/v1/check", r#"{"key":"k0"}"#).ok();
        assert!(asked.elapsed() < Duration::from_secs(1), "after {:?}", asked.elapsed());
    }
    drop((busy, slow));
    quarry.server.terminate();
    drop(quarry.dir);
}

#[test]
fn a_body_in_chunks_is_refused() {
    let quarry = start(&[]);
    for (token, status) in [(TOKEN, 400), ("wrong", 401)] {
        let head = "POST /v1/check HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer ";
        // The line with a chunk's length has no end.
        let request = format!("{head}{token}\r\n\r\n{}", "0".repeat(4096));
        assert_eq!(Client::new(&quarry.server.url, None).raw(&request, false).unwrap().status, status);
    }
    quarry.server.terminate();
    drop(quarry.dir);
}
