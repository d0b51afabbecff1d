//! The command line with a running server: the same commands, the same output, and what can go wrong on the way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::over_store::{self, needs_directory};
use crate::util::{PATIENCE, Run, Server, command, command_on, flint, run, server_command};

/// Runs a command against a server named by its URL.
fn against(url: &str, args: &[&str]) -> Run {
    run(command().args(["--server", url]).args(args))
}

/// The one line of an error.
#[track_caller]
fn complaint(run: &Run, code: i32) -> &str {
    assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{run:?}");
    assert!(run.err.starts_with("flint: ") && run.err.lines().count() == 1, "{run:?}");
    &run.err
}

/// Output without what differs from one run to the next: digits of instants, and the sizes and counts of doctor.
fn settled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"-:.TZ".contains(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        let runs_down = out.ends_with("\"next_ms\":");
        out.push_str(match word {
            _ if runs_down => "WAIT",
            word if word.len() >= 20 && word.contains('T') => "INSTANT",
            word => word,
        });
        rest = behind;
    }
    out
}

const ODD: &str = "route:/v1/chat \"q\" \\ %41 ключ?&#";

/// Every command that changes or shows a limit, in an order that leaves each of them something to show, and its exit
/// status.
fn commands() -> Vec<(Vec<&'static str>, i32)> {
    let list: [(&[&str], i32); 41] = [
        (&["limit", "add", "job", "--rate", "3", "--per", "366d"], 0),
        (&["limit", "add", "job", "--rate", "3", "--per", "366d"], 0),
        (&["limit", "add", "win", "--rate=10", "--per=7d", "--algorithm", "fixed_window_counter"], 0),
        (&["limit", "add", ODD, "--rate", "5", "--per", "366d", "--burst", "6"], 0),
        (&["limit", "add", "--rate", "1", "--per", "366d", "--", "--dash"], 0),
        (&["limit", "check", "job"], 0),
        (&["limit", "check", "job", "--cost", "2"], 0),
        (&["limit", "check", ODD], 0),
        (&["limit", "check", "--", "--dash"], 0),
        (&["limit", "check", "job", "--cost", "4"], 2),
        (&["limit", "check", "job", "--cost", "0"], 2),
        (&["limit", "check", "nobody"], 3),
        (&["limit", "check", ""], 2),
        (&["limit", "check", "..", "--cost", "1"], 3),
        (&["limit", "check-all", "win", ODD, "--cost", "win=4"], 0),
        (&["limit", "check-all", "win", "win"], 2),
        (&["limit", "check-all", "win", "nobody"], 3),
        (&["limit", "check-all", "win", "job", "--cost", "job=4"], 2),
        (&["limit", "status", "job"], 0),
        (&["limit", "status", ODD], 0),
        (&["limit", "status", "nobody"], 3),
        (&["limit", "status", ".."], 3),
        (&["limit", "list"], 0),
        (&["limit", "list", "--prefix", "w"], 0),
        (&["limit", "list", "--prefix", "nothing"], 0),
        (&["limit", "list", "--after", "job", "--limit", "1"], 0),
        (&["limit", "list", "--limit", "0"], 2),
        (&["limit", "list", "--limit", "100001"], 2),
        (&["limit", "top", "--by", "allowed", "--limit", "2"], 0),
        (&["limit", "top", "--by", "allowed"], 0),
        (&["limit", "top", "--limit", "0"], 2),
        (&["limit", "reset", "job"], 0),
        (&["limit", "reset", "nobody"], 3),
        (&["limit", "check", "job", "--cost", "3"], 0),
        (&["limit", "remove", "win"], 0),
        (&["limit", "remove", "win"], 3),
        (&["limit", "remove", ODD], 0),
        (&["limit", "list"], 0),
        (&["limit", "history", "job"], 0),
        (&["log", "flush"], 0),
        (&["limit", "history", "nobody"], 3),
    ];
    list.iter().map(|(args, code)| (args.to_vec(), *code)).collect()
}

#[test]
fn every_command_says_the_same_beside_a_server() {
    for form in [&[][..], &["--json"]] {
        let parent = tempfile::tempdir().unwrap();
        let (alone, served) = (parent.path().join("alone"), parent.path().join("served"));
        let _server = Server::start(&served, &[]);
        let mut wrong = Vec::new();
        for (args, code) in commands() {
            // A store keeps no history.
            let code = if over_store::is_on() && args.contains(&"history") { 2 } else { code };
            let args = [form, &args].concat();
            let (embedded, beside) = (flint(&alone, &args), flint(&served, &args));
            let same = settled(&embedded.out) == settled(&beside.out) && embedded.err == beside.err;
            if embedded.code != Some(code) || beside.code != Some(code) || !same {
                wrong.push(format!("{args:?}\n  embedded {embedded:?}\n  beside   {beside:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn denials_say_the_same_beside_a_server() {
    let parent = tempfile::tempdir().unwrap();
    let (alone, served) = (parent.path().join("alone"), parent.path().join("served"));
    let _server = Server::start(&served, &[]);
    let digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    for dir in [&alone, &served] {
        assert_eq!(flint(dir, &["limit", "add", "job", "--rate", "1", "--per", "366d"]).code, Some(0));
        assert_eq!(flint(dir, &["limit", "add", "free", "--rate", "9", "--per", "366d"]).code, Some(0));
        assert_eq!(flint(dir, &["limit", "check", "job"]).code, Some(0));
    }
    for args in [
        &["limit", "check", "job"][..],
        &["limit", "check", "job", "--json"],
        &["limit", "check-all", "free", "job"],
        &["limit", "check-all", "free", "job", "--json"],
    ] {
        let (embedded, beside) = (flint(&alone, args), flint(&served, args));
        assert_eq!((embedded.code, beside.code), (Some(1), Some(1)), "{args:?}: {embedded:?} {beside:?}");
        assert!(embedded.err.is_empty() && beside.err.is_empty(), "{args:?}: {embedded:?} {beside:?}");
        assert_eq!(digits(&embedded.out), digits(&beside.out), "{args:?}");
        let left = flint(&served, &["limit", "status", "free", "--json"]).json();
        assert_eq!(left["remaining"], 9, "a denied check-all spends nothing");
    }
}

#[test]
fn storage_commands_beside_a_server() {
    if needs_directory() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &[]);
    assert_eq!(flint(&dir, &["limit", "add", "job", "--rate", "3", "--per", "366d"]).code, Some(0));
    assert_eq!(flint(&dir, &["limit", "check", "job"]).code, Some(0));
    // These read the files next to the server, which goes on writing them.
    let dump = flint(&dir, &["log", "dump"]);
    assert!(dump.code == Some(0) && dump.err.is_empty(), "{dump:?}");
    let events: Vec<Value> = dump.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
    assert_eq!(names, ["clock", "created", "spent"], "{dump:?}");
    let history = flint(&dir, &["--json", "limit", "history", "job"]).json();
    assert_eq!(history, json!(events[1..]));
    let verified = flint(&dir, &["log", "verify", "--json"]).json();
    assert_eq!((&verified["ok"], &verified["events"], &verified["torn"]), (&json!(true), &json!(3), &Value::Null));
    assert!(flint(&dir, &["log", "verify"]).out.starts_with("ok, 3 events in 1 segment\n"));

    let compaction = flint(&dir, &["log", "compact", "--json"]);
    assert!(compaction.code == Some(0) && compaction.json()["snapshot_bytes"].as_u64().unwrap() > 0, "{compaction:?}");
    let text = flint(&dir, &["log", "compact"]);
    assert!(text.code == Some(0) && text.out.starts_with("log ") && text.out.contains(" bytes, snapshot "), "{text:?}");
    assert_eq!(flint(&dir, &["log", "verify", "--json"]).json()["ok"], true);
    assert!(flint(&dir, &["log", "dump"]).out.contains("\"entry\""));

    let doctor = flint(&dir, &["doctor", "--json"]);
    assert_eq!((doctor.code, &doctor.json()["ok"], &doctor.json()["limits"]), (Some(0), &json!(true), &json!(1)));
    assert_eq!(doctor.json(), {
        let asked = server.client().get("/v1/doctor").ok();
        // What is left of the disk, the connections, and the log that becomes idle, may have changed in between.
        let mut asked = asked;
        for name in ["free_bytes", "connections", "log_bytes"] {
            asked[name] = doctor.json()[name].clone();
        }
        asked
    });
    let text = flint(&dir, &["doctor"]);
    let line = |name: &str| text.out.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert!(text.code == Some(0) && text.out.starts_with("ok "), "{text:?}");
    assert_eq!((line("ok "), line("limits "), line("compactions ")), (Some("true"), Some("1"), Some("2")), "{text:?}");
    server.terminate();
    assert_eq!(flint(&dir, &["limit", "status", "job", "--json"]).json()["remaining"], 2);
}

#[test]
fn the_files_are_read_while_they_are_written() {
    if needs_directory() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &["--sync", "batch", "--compact-after", "65536"]);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"job","rate":1000000000,"per":"366d"}"#).ok();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = server.client();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    client.post("/v1/check", r#"{"key":"job"}"#).ok();
                }
            });
        }
        let mut wrong = Vec::new();
        for _ in 0..15 {
            for args in [&["log", "verify"][..], &["log", "dump"], &["limit", "history", "job"]] {
                let run = flint(&dir, args);
                // Right after a compaction the log may hold no event of it.
                let nothing = args[1] == "history" && run.err.contains("no limit is configured");
                if (run.code != Some(0) || !run.err.is_empty()) && !nothing {
                    wrong.push(format!("{args:?}: {} {}", run.err, run.out.lines().next_back().unwrap_or_default()));
                }
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
    server.terminate();
}

/// As with a pager: what was not read yet may be removed meanwhile, and comes all the same.
#[test]
fn a_dump_that_nobody_reads_keeps_no_server_from_its_start() {
    if needs_directory() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &["--sync", "batch"]);
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"job","rate":1000000000,"per":"366d"}"#).ok();
    let many = json!({"items": vec!["job"; 1000]}).to_string();
    (0..20).for_each(|_| drop(client.post("/v1/check-many", &many).ok()));
    client.post("/v1/log/flush", "").ok();
    server.kill();
    let mut dump = command();
    let mut dump = dump.arg("--data-dir").arg(&dir).args(["log", "dump"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = dump.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    let server = Server::start(&dir, &[]);
    server.client().post("/v1/log/compact", "").ok();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.lines().count(), dump.wait().unwrap().code()), (20_002, Some(0)));
    server.terminate();
    // A command that looks at the directory is waited for, and so long only.
    let directory = std::fs::File::open(&dir).unwrap();
    directory.lock_shared().unwrap();
    let refused = flint(&dir, &["server", "start", "--bind", "127.0.0.1:0"]);
    assert!(complaint(&refused, 3).contains("(by a command that reads it)"), "{refused:?}");
}

#[test]
fn tokens() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let file = parent.path().join("token");
    std::fs::write(&file, "# of the web application\nsecret\nother\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start(&dir, &["--token-file", file.to_str().unwrap()]);
    let add = ["limit", "add", "job", "--rate", "3", "--per", "366d"];

    let none = flint(&dir, &add);
    assert!(complaint(&none, 3).contains("needs a token") && none.err.contains("--token-file"), "{none:?}");
    let wrong = flint(&dir, &[&["--token", "nonsense"][..], &add].concat());
    assert!(complaint(&wrong, 3).contains("refuses this token") && !wrong.err.contains("nonsense"), "{wrong:?}");
    assert_eq!(flint(&dir, &[&["--token", "secret"][..], &add].concat()).code, Some(0));
    assert_eq!(flint(&dir, &[&add[..], &["--token=other"]].concat()).code, Some(0));
    let by_file = ["limit", "check", "job", "--token-file", file.to_str().unwrap()];
    assert_eq!(flint(&dir, &by_file).code, Some(0));
    let environment = |token: &str, args: &[&str]| run(command_on(&dir).env("FLINT_SERVER_TOKEN", token).args(args));
    assert_eq!(environment("secret", &["limit", "check", "job"]).code, Some(0));
    // The option wins; an empty one is none.
    assert_eq!(environment("secret", &["limit", "check", "job", "--token", "bad"]).code, Some(3));
    assert_eq!(environment("secret", &["limit", "check", "job", "--token="]).code, Some(0));
    assert_eq!(environment("bad", &by_file).code, Some(1), "the file wins over the environment; the quota is spent");
    for token in [" a", "a\r\nX-Evil: 1", "ключ"] {
        assert!(complaint(&flint(&dir, &["doctor", "--token", token]), 2).contains("token"), "{token:?}");
    }
    let alone = parent.path().join("alone");
    let odd = run(command().env("FLINT_SERVER_TOKEN", "ключ").arg("--data-dir").arg(&alone).args(add));
    assert_eq!(odd.code, Some(0), "without a server no header has to carry it: {odd:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(flint(&dir, &by_file).err, "", "a mounted secret can't be helped");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o606)).unwrap();
    assert!(complaint(&flint(&dir, &by_file), 2).contains("can be written by others; run chmod o-w on it"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let by_variable = |file: &Path, more: &[&str]| {
        let mut doctor = command_on(&dir);
        doctor.env("FLINT_TOKEN_FILE", file).env("FLINT_SERVER_TOKEN", "bad");
        run(doctor.arg("doctor").args(more))
    };
    assert_eq!(by_variable(&file, &[]).code, Some(0));
    assert_eq!(by_variable(&file, &["--token", "bad"]).code, Some(3), "the option wins");
    assert!(
        complaint(&by_variable(Path::new("/nowhere"), &[]), 2).contains("FLINT_TOKEN_FILE /nowhere cannot be read")
    );
    // A client sends the token of the first line, without what the server makes of it.
    std::fs::write(&file, "# first\nadmin secret\n").unwrap();
    assert!(complaint(&by_variable(&file, &[]), 2).contains("line 2 of FLINT_TOKEN_FILE"));
    std::fs::write(&file, "# first\nadmin: secret\n").unwrap();
    assert_eq!(by_variable(&file, &[]).code, Some(0));
    server.terminate();
}

#[test]
fn a_named_server() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, other) = (parent.path().join("data"), parent.path().join("other"));
    let socket = parent.path().join("flint.sock");
    let server = Server::start(&dir, &[]);
    let unix = Server::start_on(&other, &format!("unix:{}", socket.display()), &[]);
    assert_eq!(flint(&dir, &["limit", "add", "tcp", "--rate", "1", "--per", "1d"]).code, Some(0));
    assert_eq!(flint(&other, &["limit", "add", "unix", "--rate", "1", "--per", "1d"]).code, Some(0));
    let listed = |run: Run| run.json().as_array().unwrap().iter().map(|one| one["key"].clone()).collect::<Vec<_>>();
    let list = ["limit", "list", "--json"];
    let local = format!("http://localhost:{}/", server.port());
    for url in [&server.url, &local] {
        assert_eq!(listed(against(url, &list)), ["tcp"]);
    }
    assert_eq!(listed(against(&unix.url, &list)), ["unix"]);
    assert_eq!(listed(run(command().args(["limit", "list", "--json", "--server"]).arg(&unix.url))), ["unix"]);
    // The environment names one too; what the command line says is nearer.
    let with = |args: &[&str]| run(command().env("FLINT_SERVER", &server.url).args(args));
    assert_eq!(listed(with(&list)), ["tcp"]);
    assert_eq!(listed(with(&["--server", &unix.url, "limit", "list", "--json"])), ["unix"]);
    if !over_store::is_on() {
        assert_eq!(listed(with(&["--data-dir", other.to_str().unwrap(), "limit", "list", "--json"])), ["unix"]);
    }
    assert_eq!(with(&["--data-dir", "nowhere", "limit", "list"]).code, Some(3));
    let both = run(command().args(["--server", &server.url, "--data-dir", "x", "limit", "list"]));
    assert!(complaint(&both, 2).contains("--data-dir") && both.err.contains("--server"));
    // The files of a server that was named may be anywhere.
    for args in [&["log", "dump"][..], &["log", "verify"], &["limit", "history", "tcp"]] {
        let remote = against(&server.url, args);
        assert!(complaint(&remote, 2).contains("--data-dir") && remote.err.contains("--server"), "{remote:?}");
        assert!(complaint(&with(args), 2).contains("FLINT_SERVER"), "{args:?}");
    }
    assert!(complaint(&against(&server.url, &["server", "start"]), 2).contains("--bind"));
    // What needs no server does not look at the variable.
    assert_eq!(run(command().env("FLINT_SERVER", "nonsense").arg("help")).code, Some(0));
    for (url, word) in [("https://127.0.0.1:1", "proxy"), ("127.0.0.1:7878", "http://"), ("", "http://")] {
        assert!(complaint(&against(url, &["doctor"]), 2).contains(word), "{url}");
    }
    assert!(complaint(&run(command().env("FLINT_SERVER", "https://x").arg("doctor")), 2).contains("FLINT_SERVER"));
    server.terminate();
    unix.terminate();
}

#[test]
fn nobody_listens() {
    let parent = tempfile::tempdir().unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = format!("unix:{}", parent.path().join("none").display());
    let long = format!("unix:/{}", "x".repeat(200));
    for url in [&format!("http://{dead}"), &socket, &long, "http://name.invalid:1"] {
        let error = against(url, &["limit", "check", "job"]);
        let expected = format!("flint: cannot reach the server at {url}: ");
        assert!(complaint(&error, 3).starts_with(&expected), "{error:?}");
        assert!(error.err.ends_with("; is it running?\n"), "{error:?}");
    }
}

/// The note of a server that is gone must not lead anywhere.
#[test]
fn a_stale_note_is_not_followed() {
    if needs_directory() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let (dir, other) = (parent.path().join("data"), parent.path().join("other"));
    let killed = Server::start(&dir, &[]);
    assert_eq!(flint(&dir, &["limit", "add", "job", "--rate", "5", "--per", "366d"]).code, Some(0));
    let stale = std::fs::read_to_string(dir.join("flint.lock")).unwrap();
    let url = killed.url.clone();
    killed.kill();
    assert_eq!(std::fs::read_to_string(dir.join("flint.lock")).unwrap(), stale, "nobody was there to change the note");
    assert_eq!(flint(&dir, &["limit", "check", "job"]).code, Some(0), "the lock is free");
    // Another server now, and the first one's note with its address.
    let stranger = Server::start(&other, &[]);
    std::fs::write(dir.join("flint.lock"), stale.replace(&url, &stranger.url)).unwrap();
    // A reader holds the lock: nobody writes.
    let directory = std::fs::File::open(&dir).unwrap();
    directory.lock_shared().unwrap();
    let waits = flint(&dir, &["run", "job", "--wait", "300ms", "--", "true"]);
    assert!(complaint(&waits, 3).contains("(by a command that reads it)"), "{waits:?}");
    assert_eq!(flint(&dir, &["limit", "status", "job", "--json"]).json()["remaining"], 4, "readers go together");
    drop(directory);
    assert_eq!(flint(&dir, &["limit", "check", "job"]).code, Some(0));
    assert_eq!(stranger.client().get("/v1/limits").ok(), json!([]));
    // A server that ended well has taken its address back.
    let ended = Server::start(&dir, &[]);
    ended.terminate();
    assert!(!std::fs::read_to_string(dir.join("flint.lock")).unwrap().contains("http:"));
    stranger.terminate();
}

/// Commands that meet a server which starts or stops: each is done in one way or the other.
#[test]
fn servers_come_and_go() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    assert_eq!(flint(&dir, &["limit", "add", "job", "--rate", "100000", "--per", "366d"]).code, Some(0));
    let (mut spent, mut unsure) = (0, 0);
    for _ in 0..4 {
        std::thread::scope(|scope| {
            let checks = scope.spawn(|| (0..8).map(|_| flint(&dir, &["limit", "check", "job"])).collect::<Vec<_>>());
            // A command may hold the directory just when the server would take it.
            if let Some(server) = Server::try_spawn(&mut server_command(&dir, "127.0.0.1:0", &[])) {
                server.terminate();
            }
            for check in checks.join().unwrap() {
                match check.code {
                    Some(0) => spent += 1,
                    // Sent, and the server stopped: no second try, which might spend twice.
                    _ => {
                        assert!(complaint(&check, 3).contains("server") || check.err.contains("locked"), "{check:?}");
                        unsure += 1;
                    }
                }
            }
        });
    }
    let total = flint(&dir, &["limit", "status", "job", "--json"]).json()["total_allowed"].as_u64().unwrap();
    assert!((spent..=spent + unsure).contains(&total), "{spent} {unsure} {total}");
    assert!(spent > 16, "{spent} of 32 were done");
}

/// A server that answers every connection with these bytes, and closes.
fn stub(answer: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                answer(stream);
            }
        }
    });
    url
}

fn ok_with(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn hostile_servers() {
    let deep = ok_with(&"[".repeat(1 << 20));
    let answers: [(&str, Vec<u8>); 15] = [
        ("nothing", Vec::new()),
        ("noise", (0..=255).cycle().skip(128).take(10_000).collect()),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ("too many headers", [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(1000), b"\r\n{}".to_vec()].concat()),
        ("half a body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"allowed\":true".to_vec()),
        ("an endless body announced", b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n".to_vec()),
        ("no number", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_vec()),
        ("a wild chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx".to_vec()),
        ("no JSON", ok_with("<html>\n<body>\nhello")),
        ("no text", ok_with("\u{1b}[2J")),
        ("deep", deep),
        ("other types", ok_with(r#"{"allowed":"yes","ok":1,"created":0,"key":[],"limits":{}}"#)),
        ("another status", b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}".to_vec()),
        (
            "two lines",
            b"HTTP/1.1 503 No\r\nContent-Length: 51\r\n\r\n{\"error\":\"a\\nb\\u001b[31m\",\"code\":\"overloaded\"}     ".to_vec(),
        ),
    ];
    for (name, bytes) in answers {
        let url = stub(move |mut stream| drop(stream.write_all(&bytes)));
        for args in [
            &["limit", "check", "job"][..],
            &["limit", "check-all", "a", "b"],
            &["limit", "list"],
            &["limit", "list", "--json"],
            &["limit", "status", "job"],
            &["limit", "add", "job", "--rate", "1", "--per", "1s"],
            &["log", "flush"],
            &["log", "compact"],
            &["doctor"],
        ] {
            let started = Instant::now();
            let run = against(&url, args);
            let line = complaint(&run, 3);
            assert!(!line.contains('\u{1b}') && line.len() < 400, "{name}: {line:?}");
            assert!(started.elapsed() < Duration::from_secs(20), "{name}: {args:?} took {:?}", started.elapsed());
        }
    }
}

/// Servers that never end: their heads and bodies are read up to a bound.
#[test]
fn endless_servers() {
    for start in [
        "HTTP/1.1 200 OK\r\nX: ",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        "",
    ] {
        let piece = if start.is_empty() { "HTTP/1.1 100 Continue\r\n\r\n".repeat(100) } else { "1".repeat(2400) };
        let url = stub(move |mut stream| {
            let _ = stream.write_all(start.as_bytes());
            while stream.write_all(piece.as_bytes()).is_ok() {}
        });
        let run = against(&url, &["limit", "check", "job"]);
        let line = complaint(&run, 3);
        assert!(line.contains("server at http://127.0.0.1:") && !line.contains("in time"), "{start:?}: {line}");
    }
}

#[test]
fn a_request_is_sent_once() {
    let (sender, requests) = std::sync::mpsc::channel();
    let url = stub(move |_| sender.send(()).unwrap());
    let run = against(&url, &["limit", "check", "job"]);
    assert!(complaint(&run, 3).contains("may or may not have been carried out"), "{run:?}");
    requests.recv().unwrap();
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_long_list_comes_in_pages() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let count = 20_001;
    fill(&dir, count);
    let keys = || {
        let listing = flint(&dir, &["limit", "list", "--json"]).json();
        listing.as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected: Vec<String> = (0..count).map(|index| format!("k{index:05}")).collect();
    assert!(keys() == expected);
    assert_eq!(flint(&dir, &["limit", "list"]).out.lines().count(), count + 1);
    let server = Server::start(&dir, &[]);
    assert!(keys() == expected);
    let some = flint(&dir, &["limit", "list", "--json", "--limit", "20001", "--after", "k00001"]);
    assert_eq!(some.json().as_array().unwrap().len(), count - 2);
    assert_eq!(flint(&dir, &["limit", "top", "--json", "--limit", "100000"]).json().as_array().unwrap().len(), count);
    server.terminate();
}

/// Untouched limits k00000, k00001 and so on.
fn fill(dir: &Path, count: usize) {
    let policy = flint::Options::default().with_sync(flint::SyncMode::Relaxed);
    let limiter = flint::Limiter::open(dir, policy).unwrap();
    let limit = flint::Limit::of_millis(1, 1000, flint::Algorithm::FixedWindowCounter, None).unwrap();
    std::thread::scope(|scope| {
        let (limiter, limit) = (&limiter, &limit);
        for worker in 0..16 {
            scope.spawn(move || {
                for index in (worker..count).step_by(16) {
                    limiter.configure(&format!("k{index:05}"), limit.clone()).unwrap();
                }
            });
        }
    });
    limiter.close().unwrap();
}
