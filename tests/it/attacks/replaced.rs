//! The server replaces itself by a fresh image, when it had better not, and when threads are not available.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

/// Takes connections that tiny_http does not release, and a few more than it takes to be replaced.
fn wear_out(victim: &Victim) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..270 {
        let mut stream = victim.connect();
        stream.write_all(&post("/v1/check", "Content-Length: 10000000000\r\n", "{")).unwrap();
        streams.push(stream);
    }
    streams
}

fn is_fresh(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().contains("FLINT_OWN_SOCKET")
}

#[test]
fn a_stop_meets_a_server_that_starts_afresh() {
    let mut victim = Victim::soon_worn_out(&["--token", TOKEN]);
    let streams = wear_out(&victim);
    let deadline = Instant::now() + PATIENCE;
    while !victim.server.stderr().contains("starting afresh on the same socket") {
        assert!(Instant::now() < deadline, "never worn out");
        std::thread::sleep(Duration::from_millis(10));
    }
    let Victim { server, good, .. } = victim;
    good.as_ref().unwrap().stop.store(true, Ordering::Relaxed);
    // It must not be forgotten by the image that is given up, nor end the new one before that catches it.
    server.terminate();
    drop(streams);
}

#[test]
fn a_server_that_could_not_start_afresh_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(TOKEN);
    let mut victim = Victim::soon_worn_out(&["--token-file", file.to_str().unwrap()]);
    let pid = victim.server.pid();
    write("");
    let mut streams = wear_out(&victim);
    let deadline = Instant::now() + PATIENCE;
    while !victim.server.stderr().contains("can't yet") {
        assert!(Instant::now() < deadline, "never worn out");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!is_fresh(pid));
    assert_eq!(victim.client().get("/v1/health").ok()["ok"], true);
    // Now it can, and nothing waits for bodies that do not come.
    for _ in 0..60 {
        let mut stream = victim.connect();
        stream.write_all(&post("/v1/check", "Content-Length: 2000\r\n", "{")).unwrap();
        streams.push(stream);
    }
    write(TOKEN);
    let asked = Instant::now();
    victim.until("a fresh image of the same process", PATIENCE, || is_fresh(pid));
    println!("replaced after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(if soak() { 4 } else { 60 }), "{:?}", asked.elapsed());
    drop(streams);
    victim.survived().terminate();
}

#[test]
fn out_of_threads() {
    // A separate user, so that no other threads are counted: not those of another run of this test either.
    let user = format!("--reuid={}", 1_000_000 + std::process::id());
    let user = [&*user, "--clear-groups", "prlimit", "--nproc=60", "--"];
    let works = Command::new("setpriv").args(user).args([env!("CARGO_BIN_EXE_flint"), "--version"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        return eprintln!("SKIPPED: it takes root, setpriv and prlimit to run out of threads");
    }
    let victim = Victim::started(|dir| {
        std::fs::set_permissions(dir.parent().unwrap(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Server::start_by("setpriv", &user, dir, &["--token", TOKEN, "--sync", "batch", "--max-blocking", "8"])
    });
    let mut streams: Vec<_> = (0..200).map(|_| victim.connect()).collect();
    for stream in &mut streams {
        let _ = stream.write_all(b"G");
    }
    std::thread::sleep(Duration::from_millis(1500));
    victim.good.as_ref().unwrap().stop.store(true, Ordering::Relaxed);
    drop(streams);
    // As with descriptors: it may be deaf while there are none, and hears again.
    let start = Instant::now();
    while !victim.client().try_ask("POST", "/v1/check", r#"{"key":"k"}"#).is_ok_and(|reply| reply.status == 200) {
        assert!(start.elapsed() < in_time() * 5, "{}", victim.describe());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("answered {:?} after the connections' end", start.elapsed());
    victim.server.terminate();
}
