//! `flint log backup` and `flint log restore`, from the outside.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flint::bounds::MAX_BACKUPS;
use serde_json::{Value, json};

use crate::format::Page;
use crate::util::{Client, PATIENCE, Run, Server, command, flint, run};

/// Takes a backup of the directory into a file, with or without its server.
#[track_caller]
fn back_up(dir: &Path, file: &Path) -> Value {
    let taken = flint(dir, &["--json", "log", "backup", file.to_str().unwrap()]);
    assert_eq!((taken.code, taken.err.as_str()), (Some(0), ""), "{taken:?}");
    taken.json()
}

fn try_restore(dir: &Path, file: &Path) -> Run {
    flint(dir, &["--json", "log", "restore", file.to_str().unwrap()])
}

/// Restores it, and verifies what there is then.
#[track_caller]
fn restore(dir: &Path, file: &Path) {
    let restored = try_restore(dir, file);
    assert_eq!((restored.code, restored.err.as_str()), (Some(0), ""), "{restored:?}");
    let verified = flint(dir, &["--json", "log", "verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!((&verified.json()["ok"], &verified.json()["torn"]), (&json!(true), &Value::Null), "{verified:?}");
}

fn allowed(dir: &Path, key: &str) -> u64 {
    flint(dir, &["--json", "limit", "status", key]).json()["total_allowed"].as_u64().unwrap()
}

fn spawn(arguments: &mut Command) -> Child {
    arguments.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A server with so many limits that no socket holds their backup: about 24 MB.
fn large(dir: &Path) -> Server {
    let server = Server::start(dir, &[]);
    let key = "k".repeat(480);
    for part in 0..4 {
        let limits: Vec<String> =
            (0..12_000).map(|at| format!(r#"{{"key":"{key}{part}-{at}","rate":9,"per":"1h"}}"#)).collect();
        server.client().post("/v1/limits", &format!("[{}]", limits.join(","))).ok();
    }
    server
}

/// Asks for a backup, and reads only the head of the reply. Its body goes on to the end of the connection.
fn begun(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"POST /v1/log/backup HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nContent-Type: application/octet-stream\r\n"),
        "{head}"
    );
    stream
}

#[test]
fn under_load_with_compactions_everything_answered_before_is_in_it() {
    for sync in ["always", "batch", "relaxed"] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let server = Server::start(&dir, &["--sync", sync]);
        let keys = ["a", "b", "c", "d"];
        for key in keys {
            server.client().post("/v1/limits", &format!(r#"{{"key":"{key}","rate":1000000,"per":"366d"}}"#)).ok();
        }
        let (answered, stop) = ([const { AtomicU64::new(0) }; 4], AtomicBool::new(false));
        let read = || -> Vec<u64> { answered.iter().map(|count| count.load(Ordering::SeqCst)).collect() };
        let stopped = || stop.load(Ordering::SeqCst);
        let backups = thread::scope(|scope| {
            for (key, answered) in keys.iter().zip(&answered) {
                let (mut client, stopped) = (server.client(), &stopped);
                scope.spawn(move || {
                    while !stopped() {
                        client.post("/v1/check", &format!(r#"{{"key":"{key}"}}"#)).ok();
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(|| {
                let mut client = server.client();
                while !stopped() {
                    client.post("/v1/log/compact", "").ok();
                }
            });
            let backups: Vec<_> = (0..4)
                .map(|number| {
                    let file = parent.path().join(format!("{number}.backup"));
                    wait_for("no checks", || read().iter().all(|count| *count > 20 * (number + 1)));
                    let before = read();
                    back_up(&dir, &file);
                    (file, before)
                })
                .collect();
            stop.store(true, Ordering::SeqCst);
            backups
        });
        let last = read();
        for (file, before) in backups {
            let to = file.with_extension("restored");
            restore(&to, &file);
            for (at, key) in keys.iter().enumerate() {
                let spent = allowed(&to, key);
                assert!((before[at]..=last[at]).contains(&spent), "{sync}: {spent} of {before:?} to {last:?}");
            }
        }
        server.terminate();
        restore(&parent.path().join("closed"), &{
            let file = parent.path().join("closed.backup");
            back_up(&dir, &file);
            file
        });
        assert_eq!(allowed(&parent.path().join("closed"), "a"), last[0]);
    }
}

#[test]
fn a_file_is_new_private_and_whole_or_not_there() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let (dir, file) = (parent.path().join("data"), parent.path().join("b"));
    assert_eq!(flint(&dir, &["limit", "add", "k", "100/1h"]).code, Some(0));
    assert_eq!(flint(&dir, &["limit", "check", "k"]).code, Some(0));
    let taken = back_up(&dir, &file);
    let length = std::fs::metadata(&file).unwrap().len();
    assert!(taken["ok"] == true && taken["files"] == 1 && taken["bytes"].as_u64().unwrap() < length, "{taken}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&file).unwrap();

    let file_text = file.to_str().unwrap();
    let again = flint(&dir, &["log", "backup", file_text]);
    assert_eq!(again.err, format!("flint: {file_text} exists already and is not overwritten; name a new file\n"));
    assert_eq!((again.code, std::fs::read(&file).unwrap()), (Some(3), bytes.clone()));
    for (args, code, what) in [
        (vec!["log", "backup"], 2, "FILE|- is missing"),
        (vec!["log", "backup", ""], 2, "FILE must not be empty"),
        (vec!["log", "backup", "a", "b"], 2, "`b`"),
        (vec!["log", "backup", "/nowhere/b"], 3, "cannot create /nowhere/b"),
        (vec!["log", "restore", "/nowhere/b"], 3, "cannot open /nowhere/b"),
        (vec!["limit", "status", "-"], 2, "-"),
    ] {
        let run = flint(&dir, &args);
        assert!(run.code == Some(code) && run.err.contains(what) && run.err.lines().count() == 1, "{run:?}");
    }
    // A directory that is none makes no file.
    let none = flint(&parent.path().join("none"), &["log", "backup", parent.path().join("n").to_str().unwrap()]);
    assert!(none.code == Some(3) && none.err.contains("does not exist"), "{none:?}");
    assert!(!parent.path().join("n").exists() && !parent.path().join("none").exists());

    let used = try_restore(&dir, &file);
    let holds = format!("{} is not empty: it has 0000000001.aof", dir.display());
    assert!(used.code == Some(3) && used.err.contains(&holds), "{used:?}");
    let to = parent.path().join("to");
    for (broken, place) in [
        (bytes[..100].to_vec(), "is cut off at offset 100"),
        ([&bytes[..], &bytes].concat(), &*format!("is damaged at offset {length}: data follows")),
        (
            bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 200)).collect(),
            "is damaged at offset 77: no valid block",
        ),
    ] {
        let path = parent.path().join("broken");
        std::fs::write(&path, broken).unwrap();
        let refused = try_restore(&to, &path);
        assert!(refused.code == Some(3) && refused.err.contains(place), "{refused:?}");
        assert_eq!(refused.err.lines().count(), 1, "{refused:?}");
        assert!(!to.join("0000000001.aof").exists());
    }
    restore(&to, &file);
    assert_eq!(allowed(&to, "k"), 1);
    let people = flint(&parent.path().join("more"), &["log", "restore", file_text]);
    assert!(people.code == Some(0) && people.out.starts_with("restored 1 file with "), "{people:?}");
}

#[test]
fn the_page_has_the_format() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, file) = (parent.path().join("data"), parent.path().join("b"));
    let server = Server::start(&dir, &[]);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"k","rate":100,"per":"1h"}"#).ok();
    client.post("/v1/log/compact", "").ok();
    client.post("/v1/check", r#"{"key":"k"}"#).ok();
    back_up(&dir, &file);
    server.terminate();
    let files = Page::read().unpack(&std::fs::read(&file).unwrap());
    assert_eq!(files.iter().map(|(kind, number, _)| (*kind, *number)).collect::<Vec<_>>(), [(1, 2), (2, 2)]);
    assert_eq!(files[0].2, std::fs::read(dir.join("0000000002.snapshot")).unwrap());
    // The server wrote on after it.
    assert!(std::fs::read(dir.join("0000000002.aof")).unwrap().starts_with(&files[1].2));
}

#[test]
fn through_a_pipe_over_a_unix_socket_and_with_a_token() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let socket = format!("unix:{}", parent.path().join("s").display());
    let server = Server::start_on(&dir, &socket, &["--token", "secret"]);
    Client::new(&server.url, Some("secret")).post("/v1/limits", r#"{"key":"k","limit":"9/1h"}"#).ok();
    let refused = run(command().args(["--server", &socket, "log", "backup", "-"]));
    assert!(refused.code == Some(3) && refused.out.is_empty() && refused.err.contains("token"), "{refused:?}");
    let file = parent.path().join("b");
    let refused = flint(&dir, &["--token", "other", "log", "backup", file.to_str().unwrap()]);
    assert!(refused.code == Some(3) && refused.err.contains("refuses this token") && !file.exists(), "{refused:?}");
    let restored = parent.path().join("restored");
    let mut from = spawn(command().args(["--server", &socket, "--token", "secret", "log", "backup", "-"]));
    let mut to = command();
    to.arg("--data-dir").arg(&restored).args(["log", "restore", "-"]).stdin(from.stdout.take().unwrap());
    let done = run(&mut to);
    assert_eq!((done.code, from.wait().unwrap().code()), (Some(0), Some(0)), "{done:?}");
    // The lock and the token are not in it.
    for file in std::fs::read_dir(&restored).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
    }
    assert_eq!(flint(&restored, &["limit", "status", "k"]).code, Some(0));
    let with_server = run(command().args(["--server", &socket, "log", "restore", "-"]));
    assert!(with_server.code == Some(2) && with_server.err.contains("--server"), "{with_server:?}");
    // While it is served, nothing is restored into it.
    let file = parent.path().join("c");
    assert_eq!(flint(&dir, &["--token", "secret", "log", "backup", file.to_str().unwrap()]).code, Some(0));
    assert_eq!(try_restore(&dir, &file).code, Some(3));
}

#[test]
fn a_terminal_gets_no_backup_and_gives_none() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "k", "5/1d"]).code, Some(0));
    let (_person, program) = crate::top::terminal();
    let end = || Stdio::from(program.try_clone().unwrap());
    let new = parent.path().join("new");
    for (dir, verb, end_of) in [(&dir, "backup", "output"), (&new, "restore", "input")] {
        let mut command = command();
        command.arg("--data-dir").arg(dir).args(["log", verb, "-"]);
        // No output that `run` could collect.
        match verb {
            "backup" => command.stdout(end()).stdin(Stdio::null()),
            _ => command.stdin(end()).stdout(Stdio::null()),
        };
        let done = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{verb}: {said}");
        assert!(said.contains("terminal") && said.contains(end_of) && said.contains("FILE"), "{said}");
    }
    assert!(!new.exists());
}

#[test]
fn a_client_that_is_slow_or_gone_holds_up_neither_checks_nor_compactions_nor_backups() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = large(&dir);
    let descriptors = server.process().descriptors();
    let mut slow: Vec<TcpStream> = (0..MAX_BACKUPS).map(|_| begun(&server)).collect();
    let mut client = server.client();
    let message = client.post("/v1/log/backup", "").error(503, "overloaded");
    assert!(message.contains("2 backups are already being taken"), "{message}");
    // A compaction runs to its end, and removes what is still being sent.
    client.post("/v1/log/compact", "").ok();
    assert!(!dir.join("0000000001.aof").exists());
    client.post("/v1/limits", r#"{"key":"after","limit":"9/1h"}"#).ok();
    let file = parent.path().join("b");
    let mut body = Vec::new();
    slow.pop().unwrap().read_to_end(&mut body).unwrap();
    std::fs::write(&file, body).unwrap();
    restore(&parent.path().join("slow"), &file);
    assert_eq!(flint(&parent.path().join("slow"), &["limit", "status", "after"]).code, Some(3));
    std::fs::remove_file(&file).unwrap();
    drop(slow);
    wait_for("a place for a backup", || flint(&dir, &["log", "backup", file.to_str().unwrap()]).code == Some(0));
    restore(&parent.path().join("to"), &file);
    assert_eq!(flint(&parent.path().join("to"), &["limit", "status", "after"]).code, Some(0));
    // kill -9 of clients that do not read, more than there may be at once.
    for _ in 0..=MAX_BACKUPS {
        let mut child = spawn(command().arg("--data-dir").arg(&dir).args(["log", "backup", "-"]));
        let mut first = [0; 1000];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let file = parent.path().join("next");
        wait_for("a place", || flint(&dir, &["log", "backup", file.to_str().unwrap()]).code == Some(0));
        std::fs::remove_file(file).unwrap();
    }
    client.post("/v1/check", r#"{"key":"after"}"#).ok();
    drop(client);
    wait_for("files are kept open", || server.process().descriptors() <= descriptors + 2);
}

#[test]
fn a_server_that_is_killed_in_the_middle_leaves_no_file_and_nothing_that_is_restored() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = large(&dir);
    let mut child = spawn(command().arg("--data-dir").arg(&dir).args(["log", "backup", "-"]));
    let mut bytes = vec![0; 1000];
    child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    // It stands still, so the next client waits for its answer.
    signal(server.pid(), "STOP");
    let file = parent.path().join("b");
    let mut waiting = spawn(command().arg("--data-dir").arg(&dir).args(["log", "backup", file.to_str().unwrap()]));
    let other = parent.path().join("c");
    let mut stopped = spawn(command().arg("--data-dir").arg(&dir).args(["log", "backup", other.to_str().unwrap()]));
    wait_for("no file", || file.exists() && other.exists());
    // Until it waits for the answer, a signal would end it as any other program.
    let pid = stopped.id();
    wait_for("no socket", || {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        files
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .any(|to| to.to_string_lossy().starts_with("socket:"))
    });
    signal(pid, "TERM");
    let status = stopped.wait().unwrap();
    let mut err = String::new();
    stopped.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((status.code(), other.exists()), (Some(3), false), "{err}");
    server.kill();
    let mut err = String::new();
    assert_eq!(waiting.wait().unwrap().code(), Some(3));
    waiting.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("the server at ") && err.lines().count() == 1 && !file.exists(), "{err}");
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    err.clear();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{err}");
    let cut = parent.path().join("cut");
    std::fs::write(&cut, &bytes).unwrap();
    let refused = try_restore(&parent.path().join("to"), &cut);
    let place = format!("is cut off at offset {}", bytes.len());
    assert!(refused.code == Some(3) && refused.err.contains(&place), "{refused:?}");
    // Killed, the directory is copied as it is.
    back_up(&dir, &file);
    restore(&parent.path().join("to"), &file);
}

#[test]
fn a_restore_that_is_killed_leaves_a_directory_that_is_refused_and_restored_again() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to, file) = (parent.path().join("data"), parent.path().join("to"), parent.path().join("b"));
    assert_eq!(flint(&dir, &["limit", "add", "k", "100/1h"]).code, Some(0));
    back_up(&dir, &file);
    let bytes = std::fs::read(&file).unwrap();
    let mut restoring = command();
    restoring.arg("--data-dir").arg(&to).args(["log", "restore", "-"]).stdin(Stdio::piped());
    let mut child = spawn(&mut restoring);
    child.stdin.as_mut().unwrap().write_all(&bytes[..bytes.len() - 1]).unwrap();
    wait_for("no file", || to.join("0000000001.aof").exists());
    // Nobody else opens it meanwhile.
    let run = flint(&to, &["limit", "status", "k"]);
    assert!(run.code == Some(3), "{run:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    for args in [&["limit", "status", "k"][..], &["log", "backup", "-"], &["server", "start", "--bind", "127.0.0.1:0"]]
    {
        let run = flint(&to, args);
        let what = format!("a restore of a backup into {} was interrupted; restore it again", to.display());
        assert!(run.code == Some(3) && run.err.contains(&what), "{args:?}: {run:?}");
    }
    assert_eq!(flint(&to, &["doctor"]).code, Some(1));
    restore(&to, &file);
    assert_eq!(flint(&to, &["limit", "status", "k"]).code, Some(0));
}

/// Runs the program on a disk that is full once a file has this many blocks of 512 bytes.
fn on_small_disk(blocks: u32, dir: &Path, args: &[&str]) -> Run {
    let mut command = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_flint"), "--data-dir"]).arg(dir).args(args);
    run(command.stdin(Stdio::null()).env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_SERVER"))
}

#[test]
fn a_full_disk_of_the_target_leaves_nothing_and_one_of_the_server_is_no_hindrance() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, file, to) = (parent.path().join("data"), parent.path().join("b"), parent.path().join("to"));
    let server = Server::start_on_small_disk(&dir, 2048);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"k","rate":1000000,"per":"366d"}"#).ok();
    let item = format!(r#"["{}",1]"#, "x".repeat(500));
    let mut spent = 0;
    // Until the log takes no more.
    for at in 0.. {
        let limit = format!(r#"{{"key":"{at}-{}","rate":9,"per":"1h"}}"#, &item[2..400]);
        if client.post("/v1/limits", &limit).status != 200 {
            break;
        }
        spent += u64::from(client.post("/v1/check", r#"{"key":"k"}"#).status == 200);
    }
    let small = on_small_disk(64, &dir, &["log", "backup", file.to_str().unwrap()]);
    assert!(small.code == Some(3) && small.err.contains("make room and try again"), "{small:?}");
    assert!(!file.exists() && small.err.lines().count() == 1, "{small:?}");
    back_up(&dir, &file);
    let small = on_small_disk(64, &to, &["log", "restore", file.to_str().unwrap()]);
    assert!(small.code == Some(3) && small.err.contains("make room and try again"), "{small:?}");
    let mut left: Vec<_> = std::fs::read_dir(&to).unwrap().map(|item| item.unwrap().file_name()).collect();
    left.retain(|name| name != ".gitignore");
    assert_eq!(left, ["flint.lock"]);
    restore(&to, &file);
    assert_eq!(allowed(&to, "k"), spent);
}
