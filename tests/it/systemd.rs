//! What a service manager relies on: readiness, passed sockets, and the units in `scripts/systemd`. No systemd runs here.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::util::{Client, PATIENCE, Run, Server, command, run};

const TOKEN: &str = "unit-secret";

/// Binds or listens on a socket, puts it on descriptor 3 and becomes the command that follows, as systemd does.
const PASS: &str = r#"
import os, socket, sys
address, blocking, command = sys.argv[1], sys.argv[2] == "blocking", sys.argv[3:]
if address.startswith("/"):
    passed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    passed.bind(address)
else:
    passed = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    passed.bind((address, 0))
passed.listen(16)
passed.setblocking(blocking)
os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.execv(command[0], command)
"#;

fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status();
    let has = found.is_ok_and(|status| status.success());
    if !has {
        eprintln!("SKIPPED: {program} is not installed");
    }
    has
}

/// A server command that gets a socket on `address` passed.
fn passing(address: &str, blocking: bool, data: &Path, args: &[&str]) -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", PASS, address, if blocking { "blocking" } else { "non-blocking" }]);
    python.args([env!("CARGO_BIN_EXE_flint"), "--data-dir"]).arg(data).args(["server", "start"]).args(args);
    python.env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_LOG").stdin(std::process::Stdio::null());
    python
}

fn heard(socket: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).expect("the server should tell something");
    String::from_utf8(message[..length].to_vec()).unwrap()
}

fn signal(server: &Server, name: &str) {
    let kill = format!("kill -{name} {}", server.pid());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// The course of a server's life, as it is reported.
fn tells(socket: &UnixDatagram, name: &str) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    write_private(&tokens, "one\n");
    let mut start = command();
    start.env("NOTIFY_SOCKET", name).arg("--data-dir").arg(dir.path().join("data"));
    start.args(["server", "start", "--bind", "127.0.0.1:0", "--token-file"]).arg(&tokens);
    let server = Server::spawn(&mut start);
    assert_eq!(heard(socket), format!("READY=1\nSTATUS=listening on {}", server.url));
    Client::new(&server.url, Some("one")).get("/v1/health").ok();
    write_private(&tokens, "two\nthree\n");
    signal(&server, "HUP");
    let reloaded = heard(socket);
    assert!(reloaded.starts_with("READY=1\nSTATUS=") && reloaded.contains("read 2 tokens"), "{reloaded}");
    assert!(!reloaded.contains("two"), "{reloaded}");
    std::fs::remove_file(&tokens).unwrap();
    signal(&server, "HUP");
    let reloaded = heard(socket);
    assert!(reloaded.starts_with("READY=1\n") && reloaded.contains("changed no token"), "{reloaded}");
    server.terminate();
    assert!(heard(socket).starts_with("STOPPING=1\n"));
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_manager_is_told_by_path_and_by_abstract_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    tells(&UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap());
    let name = format!("flint-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    tells(&UnixDatagram::bind_addr(&address).unwrap(), &format!("@{name}"));
}

#[test]
fn a_manager_that_does_not_listen_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("/{}", "x".repeat(200));
    for name in ["/nowhere/at/all", "@nobody-is-here", "relative", "", "@", &long] {
        let mut start = command();
        start.env("NOTIFY_SOCKET", name).arg("--data-dir").arg(dir.path().join("data"));
        let server = Server::spawn(start.args(["server", "start", "--bind", "127.0.0.1:0"]));
        server.client().get("/v1/health").ok();
        assert_eq!(server.terminate(), "", "{name}");
    }
}

#[test]
fn a_passed_socket_is_served_and_left() {
    if !has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("flint.sock");
    let data = dir.path().join("data");
    for (address, blocking) in [
        ("127.0.0.1", true),
        ("127.0.0.1", false),
        (socket.to_str().unwrap(), true),
        (socket.to_str().unwrap(), false),
        ("0.0.0.0", false),
    ] {
        let _ = std::fs::remove_file(&socket);
        // What is passed takes the place of --bind, which here could not be bound.
        let args = ["--bind", "192.0.2.1:1", "--token", TOKEN];
        let server = Server::spawn(&mut passing(address, blocking, &data, &args));
        let unix = address.starts_with('/');
        assert!(server.url.contains(address) && server.url.starts_with("unix:") == unix, "{}", server.url);
        Client::new(&server.url, None).get("/v1/health").error(401, "unauthorized");
        // More connections than one: a non-blocking listener would end the accept loop between them.
        for _ in 0..3 {
            Client::new(&server.url, Some(TOKEN)).get("/v1/health").ok();
        }
        server.terminate();
        assert_eq!(socket.exists(), unix, "a socket that was lent is not removed");
    }
}

#[test]
fn an_open_passed_socket_needs_a_token() {
    if !has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let refused: Run = run(&mut passing("0.0.0.0", true, &data, &[]));
    assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{refused:?}");
    assert!(refused.err.contains("non-loopback address without --token: http://0.0.0.0:"), "{refused:?}");
    assert!(!data.exists(), "no file is touched");
    // Variables for another process are none.
    let mut start = command();
    start.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").arg("--data-dir").arg(&data);
    Server::spawn(start.args(["server", "start", "--bind", "127.0.0.1:0"])).terminate();
    // Two sockets are one too many, and say so.
    let mut two = Command::new("sh");
    two.args(["-c", "LISTEN_FDS=2 LISTEN_PID=$$ exec \"$@\"", "sh", env!("CARGO_BIN_EXE_flint")]);
    let refused = run(two.env_remove("FLINT_SERVER_TOKEN").args(["server", "start"]).current_dir(dir.path()));
    assert!(refused.code == Some(3) && refused.err.contains("LISTEN_FDS=2"), "{refused:?}");
}

/// A fresh image of the same process says so, for the manager waits for nobody else.
#[test]
fn a_fresh_image_is_ready_again() {
    if !has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut start = passing("127.0.0.1", true, &dir.path().join("data"), &[]);
    // As `Listener::hand_over` has it.
    start.env("NOTIFY_SOCKET", &path).env("FLINT_OWN_SOCKET", "1").stdout(std::process::Stdio::null());
    let mut child = start.spawn().unwrap();
    let ready = heard(&manager);
    let url = ready.strip_prefix("READY=1\nSTATUS=listening on ").unwrap_or_else(|| panic!("{ready}"));
    Client::new(url, None).get("/v1/health").ok();
    let kill = format!("kill -TERM {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd").join(name)
}

/// The units with the binary under test, in a directory.
fn units() -> (tempfile::TempDir, [PathBuf; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let copies = ["flint.service", "flint.socket"].map(|name| {
        let text = std::fs::read_to_string(unit(name)).unwrap().replace("/usr/bin/flint", env!("CARGO_BIN_EXE_flint"));
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    (dir, copies)
}

#[test]
fn systemd_accepts_the_units() {
    if !has("systemd-analyze") {
        return;
    }
    let (_dir, copies) = units();
    let verified = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&copies));
    // Of other units of this machine it may complain.
    assert!(verified.code == Some(0) && !verified.err.contains("flint"), "{verified:?}");
    // An exposure of at most 1.5 of 10.
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=yes", "--no-pager", "--threshold=15"]).arg(&copies[0]);
    let rated = run(&mut security);
    assert_eq!(rated.code, Some(0), "{rated:?}");
}

/// The program accepts the command line of the unit.
#[test]
fn the_unit_starts_a_server() {
    let text = std::fs::read_to_string(unit("flint.service")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/flint ")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    write_private(&dir.path().join("token"), TOKEN);
    // systemd makes words of it, and none of an empty one.
    let line = line.strip_suffix(" $FLINT_OPTIONS").unwrap();
    let line = line.replace("/var/lib/flint", &format!("{here}/data")).replace("%d", here);
    let mut start = command();
    start.args(line.split(' ')).args(["--bind", "127.0.0.1:0"]);
    let server = Server::spawn(&mut start);
    Client::new(&server.url, Some(TOKEN)).get("/v1/health").ok();
    server.terminate();
}

/// The system calls that a group of `systemd-analyze syscall-filter` means.
fn group(name: &str) -> Vec<String> {
    let listed = run(Command::new("systemd-analyze").args(["syscall-filter", name]));
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let members = listed.out.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(|line| if line.starts_with('@') { group(line) } else { vec![line.to_owned()] }).collect()
}

/// What a server calls is within the unit's filter, over its start, requests, a reload, compaction and its stop.
#[test]
fn the_filter_of_system_calls_lets_a_server_live() {
    if !has("systemd-analyze") || !has("strace") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut start = Command::new("strace");
    start.args(["-D", "-f", "-q", "-e", "signal=none", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_flint"));
    start.arg("--data-dir").arg(dir.path().join("data")).args(["server", "start", "--bind", "127.0.0.1:0"]);
    start.args(["--max-blocking", "4"]).env_remove("FLINT_SERVER_TOKEN").stdin(std::process::Stdio::null());
    if run(Command::new("strace").args(["-q", "-o", "/dev/null", "true"])).code != Some(0) {
        eprintln!("SKIPPED: strace may not trace here");
        return;
    }
    let server = Server::spawn(&mut start);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"k","rate":5,"per":"1d"}"#).ok();
    client.post("/v1/check", r#"{"key":"k"}"#).ok();
    client.post("/v1/log/compact", "").ok();
    assert_eq!(client.get("/v1/metrics").status, 200);
    client.get("/v1/doctor").ok();
    signal(&server, "HUP");
    // The guard walks meanwhile.
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    let (allowed, denied) = (group("@system-service"), group("@privileged"));
    let trace = std::fs::read_to_string(&trace).unwrap();
    // Each line: process id, name, arguments in brackets.
    let mut called: Vec<&str> = trace
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.split_once('(').map(|(name, _)| name))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'))
        .collect();
    called.sort_unstable();
    called.dedup();
    for name in ["fdatasync", "accept4", "signalfd4", "execve"] {
        assert!(called.contains(&name), "{name} was not seen: {called:?}");
    }
    let refused: Vec<_> =
        called.iter().filter(|name| denied.iter().any(|d| d == *name) || !allowed.iter().any(|a| a == *name)).collect();
    assert!(refused.is_empty(), "the unit refuses {refused:?}");
}
