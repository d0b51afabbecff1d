//! Disks that fail, fill up and come back, under the real binary; and a short selection of what `scripts/soak` does.
//!
//! Faults come from strace, from limits of the system and from a library that is loaded before libc. Where one of these is
//! missing, the test says so on stderr and passes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flint::{Algorithm, Limit, Limiter, Options};
use serde_json::{Value, json};

use crate::util::{Client, PATIENCE, Server, flint, run, segments};

const CHECK: &str = r#"{"key":"k"}"#;

/// Reports that a test proves nothing here. Past the capture of libtest, which would swallow it.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether strace is there and may trace; says so if not.
fn can_trace() -> bool {
    let can = works("strace", &["-qq", "-o", "/dev/null", "true"]);
    if !can {
        skip("strace is not installed or may not trace here (Debian package strace)");
    }
    can
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn configure(client: &mut Client, key: &str, rate: u64) {
    let body = json!({"key": key, "rate": rate, "per": "366d", "algorithm": "fixed_window_counter"});
    client.post("/v1/limits", &body.to_string()).ok();
}

fn total_allowed(server: &Server, key: &str) -> u64 {
    server.client().get(&format!("/v1/limits/{key}")).ok()["total_allowed"].as_u64().unwrap()
}

/// Numbers of the files with this ending.
fn numbers(dir: &Path, ending: &str) -> Vec<u64> {
    let names = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<u64> = names.filter_map(|name| name.strip_suffix(ending)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Faults in a process that runs, until this is dropped.
struct Faults(Child);

impl Faults {
    fn inject(server: &Server, fault: &str, path: &Path) -> Faults {
        let call = fault.split(':').next().unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-P"]).arg(path);
        command.args(["-e", &format!("inject={fault}"), "-p", &server.pid().to_string()]).stderr(Stdio::null());
        let mut faults = Faults(command.spawn().unwrap());
        until("strace should attach to every thread", || {
            assert!(faults.0.try_wait().unwrap().is_none(), "strace could not attach");
            let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
            tasks.flatten().all(|task| {
                std::fs::read_to_string(task.path().join("status"))
                    .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
            })
        });
        faults
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // SIGINT lets it detach cleanly.
        works("kill", &["-INT", &self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

#[test]
fn a_failed_fdatasync_is_final_and_told_everywhere() {
    if !can_trace() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    // Only the log thread's third one fails: the limit, the first check, the second check.
    let fault = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"];
    let fault = [&fault[..], &["inject=fdatasync:error=EIO:when=3"]].concat();
    let mut server = Server::start_by("strace", &fault, &dir, &[]);
    let mut client = server.client();
    configure(&mut client, "k", 2);
    assert_eq!(client.post("/v1/check", CHECK).ok()["remaining"], 1);
    for _ in 0..3 {
        let message = client.post("/v1/check", CHECK).error(503, "log_failed");
        assert!(message.contains("cannot sync the log") && message.contains("restart"), "{message}");
    }
    for (path, body) in [
        ("/v1/check-all", r#"{"items":["k"]}"#),
        ("/v1/take/k", ""),
        ("/v1/limits", r#"{"key":"l","rate":1,"per":1}"#),
        ("/v1/log/flush", ""),
        ("/v1/log/compact", ""),
    ] {
        client.post(path, body).error(503, "log_failed");
    }
    let health = client.get("/v1/health");
    assert_eq!((health.status, &health.json()["ok"]), (503, &json!(false)), "{health:?}");
    assert!(health.json()["error"].as_str().unwrap().contains("cannot sync the log"), "{health:?}");
    let doctor = client.get("/v1/doctor").ok();
    assert!(doctor["ok"] == false && doctor["problems"].to_string().contains("cannot sync the log"), "{doctor}");
    let err = server.stderr();
    assert!(err.contains("ERROR") && err.contains("cannot sync the log"), "{err}");

    let (before, after) = (numbers(&dir, ".aof"), |server: &Server| total_allowed(server, "k"));
    assert_eq!(before, [1]);
    server.kill();
    let server = Server::start(&dir, &[]);
    assert!([1, 2].contains(&after(&server)), "what was answered is there: {}", after(&server));
    assert_eq!((numbers(&dir, ".snapshot"), numbers(&dir, ".aof")), (vec![2], vec![2]), "recovery ends with new files");
    assert_eq!(server.client().get("/v1/health").status, 200);
}

#[test]
fn interrupted_calls_have_no_effect() {
    if !can_trace() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    // Each thread's first call of a kind is interrupted, its third, and so on.
    let fault = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync,fsync,ftruncate", "-e"];
    let fault = [&fault[..], &["inject=pwrite64,fdatasync,fsync,ftruncate:error=EINTR:when=1+2"]].concat();
    let mut server = Server::start_by("strace", &fault, &dir, &[]);
    work_through(&server);
    assert_eq!((server.stderr(), server.terminate()), (String::new(), String::new()));
    let server = Server::start_by("strace", &fault, &dir, &[]);
    assert_eq!(total_allowed(&server, "k"), 60);
    server.kill();
    let server = Server::start_by("strace", &fault, &dir, &[]);
    assert_eq!(total_allowed(&server, "k"), 60);
}

/// Sixty checks with compactions among them, all of which must succeed.
fn work_through(server: &Server) {
    let mut client = server.client();
    configure(&mut client, "k", 1000);
    for turn in 1..=60 {
        let decision = client.post("/v1/check", CHECK).ok();
        assert_eq!(decision["remaining"], 1000 - turn, "{decision}");
        if turn % 20 == 0 {
            client.post("/v1/log/compact", "").ok();
        }
    }
}

/// pwrite64 that writes a part of what it is given, as the system may.
const SHORT_WRITES: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
#include <fcntl.h>
static long shortened;
ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    if (count > 1) {
        __sync_fetch_and_add(&shortened, 1);
        count = count > 4096 ? count / 2 : count - count / 3;
    }
    return next(file, bytes, count, at);
}
__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("SHORTENED");
    int file = path ? open(path, O_WRONLY | O_CREAT, 0600) : -1;
    if (file >= 0 && shortened > 100) { if (write(file, "many", 4) != 4) abort(); }
}
"#;

#[test]
fn short_writes_have_no_effect() {
    let parent = tempfile::tempdir().unwrap();
    let (source, library) = (parent.path().join("short.c"), parent.path().join("short.so"));
    std::fs::write(&source, SHORT_WRITES).unwrap();
    let (source, library) = (source.to_str().unwrap(), library.to_str().unwrap());
    if !works("cc", &["-shared", "-fPIC", "-o", library, source, "-ldl"]) {
        return skip("cc is not installed or builds no library (Debian package gcc)");
    }
    let (dir, told) = (parent.path().join("data"), parent.path().join("told"));
    let preload = [format!("LD_PRELOAD={library}"), format!("SHORTENED={}", told.display())];
    let server = Server::start_by("env", &[&preload[0], &preload[1]], &dir, &[]);
    work_through(&server);
    assert_eq!(server.terminate(), "");
    assert_eq!(std::fs::read_to_string(&told).unwrap_or_default(), "many", "writes were shortened");
    let server = Server::start(&dir, &[]);
    assert_eq!(total_allowed(&server, "k"), 60);
}

/// One way in which a compaction fails, and whether it then does.
struct Failing {
    fault: &'static str,
    /// Ending of the file of the next number, or of this one's for `.aof`.
    file: &'static str,
    refused: bool,
}

const FAILING: [Failing; 12] = [
    Failing { fault: "openat:error=EMFILE", file: ".aof.new", refused: true },
    Failing { fault: "pwrite64:error=ENOSPC", file: ".aof.new", refused: true },
    Failing { fault: "pwrite64:error=EIO", file: ".aof.new", refused: true },
    Failing { fault: "fsync:error=EIO", file: ".aof.new", refused: true },
    Failing { fault: "rename:error=EIO", file: ".aof.new", refused: true },
    Failing { fault: "openat:error=ENOSPC", file: ".snapshot.new", refused: true },
    Failing { fault: "pwrite64:error=ENOSPC", file: ".snapshot.new", refused: true },
    Failing { fault: "pwrite64:error=EIO", file: ".snapshot.new", refused: true },
    Failing { fault: "fsync:error=EIO", file: ".snapshot.new", refused: true },
    Failing { fault: "rename:error=EIO", file: ".snapshot.new", refused: true },
    Failing { fault: "rename:error=ENOSPC", file: ".snapshot.new", refused: true },
    Failing { fault: "unlink:error=EIO", file: ".aof", refused: false },
];

#[test]
fn a_failed_compaction_keeps_the_old_files_and_is_made_up_for() {
    if !can_trace() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &["--max-blocking", "4"]);
    let mut client = server.client();
    configure(&mut client, "k", 1_000_000);
    let mut spent = 0;
    let mut check = |client: &mut Client| {
        client.post("/v1/check", CHECK).ok();
        spent += 1;
        spent
    };
    for Failing { fault, file, refused } in FAILING {
        check(&mut client);
        let (old_snapshots, old_segments) = (numbers(&dir, ".snapshot"), numbers(&dir, ".aof"));
        let number = old_segments.last().unwrap() + u64::from(file != ".aof");
        let faults = Faults::inject(&server, fault, &dir.join(format!("{number:010}{file}")));
        let reply = client.post("/v1/log/compact", "");
        check(&mut client);
        if refused {
            assert!(reply.status >= 500 && !reply.json()["error"].as_str().unwrap().is_empty(), "{fault} {reply:?}");
            assert_eq!(numbers(&dir, ".snapshot"), old_snapshots, "{fault} {file}");
            assert!(numbers(&dir, ".aof").starts_with(&old_segments), "{fault} {file}");
            let problems = client.get("/v1/doctor").json()["problems"].to_string();
            assert!(problems.contains("the last compaction failed"), "{fault} {file}: {problems}");
        } else {
            assert!(reply.status == 200 && numbers(&dir, ".aof").len() == 2, "{fault} {file}: {reply:?}");
        }
        assert_eq!(client.get("/v1/health").status, 200, "{fault} {file}");
        drop(faults);
        let leftover = |ending: &str| numbers(&dir, ending).is_empty();
        assert!(leftover(".aof.new") && leftover(".snapshot.new"), "{fault} {file}");
        client.post("/v1/log/compact", "").ok();
        assert!(!client.get("/v1/doctor").json()["problems"].to_string().contains("compaction"), "{fault} {file}");
        assert_eq!((numbers(&dir, ".snapshot").len(), numbers(&dir, ".aof").len()), (1, 1), "{fault} {file}");
    }
    let expected = check(&mut client);
    server.kill();
    assert_eq!(total_allowed(&Server::start(&dir, &[]), "k"), expected);
}

#[test]
fn compactions_do_not_fill_the_disk_ahead() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &[]);
    let mut client = server.client();
    configure(&mut client, "k", 1000);
    for _ in 0..20 {
        client.post("/v1/log/compact", "").ok();
    }
    let bytes: u64 = segments(&dir).iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert!(bytes < 4 * 1024 * 1024, "{bytes} bytes are held for a log of one limit");
}

#[test]
fn a_file_size_limit_ends_nothing() {
    // The first step of zero-filling does not fit, or the second. The shell does not ignore SIGXFSZ: the server must.
    for blocks in [100, 300] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let limited = format!("ulimit -S -f {blocks} && exec \"$@\"");
        let mut server = Server::start_by("sh", &["-c", &limited, "sh"], &dir, &[]);
        let mut client = server.client();
        let (mut configured, mut refused) = (Vec::new(), 0);
        for turn in 0..400 {
            let key = format!("{turn:04}{}", "x".repeat(480));
            let body = json!({"key": key, "rate": 1, "per": "366d"}).to_string();
            let reply = client.post("/v1/limits", &body);
            match reply.status {
                200 => configured.push(key),
                _ => {
                    assert!(reply.error(503, "log_failed").contains("room"), "{reply:?}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 100 && configured.len() == 400 - refused, "{refused}");
        assert!(server.stderr().contains("no room for the log"), "{}", server.stderr());
        let listed = |server: &Server| -> Vec<Value> {
            let limits = server.client().get("/v1/limits").ok();
            limits.as_array().unwrap().iter().map(|limit| limit["key"].clone()).collect()
        };
        assert_eq!(listed(&server), configured, "what was refused is not there");
        server.kill();
        assert_eq!(listed(&Server::start(&dir, &[])), configured, "after a restart");
    }
}

/// A small file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir(&at).unwrap();
        let mounted = works("mount", &["-t", "tmpfs", "-o", "size=8m", "flint-test", at.to_str().unwrap()]);
        mounted.then_some(SmallDisk(at))
    }

    /// Takes all that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut filler = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        while filler.write_all(&[7; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        until("the small disk should be unmounted", || works("umount", &[self.0.to_str().unwrap()]));
    }
}

/// Uses up the filled space of a log whose disk is full. Returns how many checks were allowed before one was refused.
fn use_up(client: &mut Client, round: usize) -> u64 {
    for turn in 0.. {
        assert!(turn < 10_000, "the disk never was full");
        // Long keys use it up sooner than checks do.
        let long = json!({"key": format!("{round}-{turn:06}-{}", "x".repeat(490)), "rate": 1, "per": "366d"});
        let reply = client.post("/v1/limits", &long.to_string());
        if reply.status != 200 {
            reply.error(503, "log_failed");
            break;
        }
    }
    for spent in 0..1000 {
        let reply = client.post("/v1/check", CHECK);
        if reply.status != 200 {
            assert!(reply.error(503, "log_failed").contains("make room on the disk"), "{reply:?}");
            return spent;
        }
    }
    panic!("checks are allowed though nothing else has room");
}

#[test]
fn a_full_disk_is_survived_and_service_resumes() {
    let parent = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(parent.path().join("disk")) else {
        return skip("a tmpfs cannot be mounted here; only root may");
    };
    let dir = disk.0.join("data");
    let mut server = Server::start(&dir, &[]);
    let mut client = server.client();
    configure(&mut client, "k", 1_000_000);
    let mut spent = 0;
    for round in 0..3 {
        let filler = disk.fill();
        spent += use_up(&mut client, round);
        assert_eq!(total_allowed(&server, "k"), spent, "a refused check spends nothing");
        let health = client.get("/v1/health");
        assert_eq!((health.status, &health.json()["ok"]), (503, &json!(false)), "{health:?}");
        assert_eq!(client.get("/v1/doctor").json()["ok"], false);
        if round == 1 {
            server.kill();
            // A start needs room for its snapshot: it says so, and nothing is lost.
            let run = flint(&dir, &["server", "start", "--bind", "127.0.0.1:0"]);
            assert!(run.code == Some(3) && run.err.contains("No space left"), "{run:?}");
            std::fs::remove_file(&filler).unwrap();
            server = Server::start(&dir, &[]);
            client = server.client();
        } else {
            std::fs::remove_file(&filler).unwrap();
        }
        until("service should resume by itself", || client.post("/v1/check", CHECK).status == 200);
        spent += 1;
        until("health should be good again", || client.get("/v1/health").status == 200);
        client.post("/v1/log/compact", "").ok();
    }
    assert_eq!(total_allowed(&server, "k"), spent);
    server.kill();
    assert_eq!(total_allowed(&Server::start(&dir, &[]), "k"), spent);
}

/// A history is printed as it is read: 200 000 events in 100 MB of address space.
#[test]
fn a_long_history_takes_no_memory() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::start(&dir, &["--sync", "batch"]);
    let mut client = server.client();
    configure(&mut client, "k", 1_000_000_000);
    let body = json!({"items": vec!["k"; 1000]}).to_string();
    (0..200).for_each(|_| drop(client.post("/v1/check-many", &body).ok()));
    server.terminate();
    let script = format!(
        "ulimit -v 100000 && exec {} --data-dir {} --json limit history k",
        env!("CARGO_BIN_EXE_flint"),
        dir.display()
    );
    let run = run(Command::new("sh").args(["-c", &script]));
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""));
    let history = run.json();
    let events = history.as_array().unwrap();
    assert_eq!((events.len(), &events[200_000]["event"]), (200_001, &json!("spent")));
}

#[test]
fn a_million_denials_are_a_few_records() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let flush_every = Duration::from_millis(flint::bounds::FLUSH_EVERY_MS);
    let limiter = Limiter::open(dir.path(), options).unwrap();
    let limit = Limit::of_millis(1, flint::bounds::MAX_PERIOD_MS, Algorithm::FixedWindowCounter, None).unwrap();
    for key in KEYS {
        limiter.configure(key, limit.clone()).unwrap();
        assert!(limiter.check(key, 1).unwrap().allowed);
    }
    let (before, begun) = (limiter.report().log_bytes, Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for turn in 0..500_000 {
                    assert!(!limiter.check(KEYS[turn % KEYS.len()], 1).unwrap().allowed);
                }
            });
        }
    });
    limiter.flush().unwrap();
    let intervals = (begun.elapsed().as_nanos() / flush_every.as_nanos()) as usize + 1;
    let grown = limiter.report().log_bytes - before;
    assert!(grown < 1024 * 1024, "{grown} bytes for a million denials");
    limiter.close().unwrap();
    drop(limiter);
    let mut records = [0; KEYS.len()];
    flint::limiter::dump(dir.path(), &mut |record| {
        if record["event"] == "denied" {
            records[KEYS.iter().position(|key| record["key"] == *key).unwrap()] += 1;
        }
    })
    .unwrap();
    // One more for the flush, and one for the close.
    assert!(records.iter().all(|count| (1..=intervals + 2).contains(count)), "{records:?} in {intervals} intervals");
    let limiter = Limiter::open(dir.path(), Options::default()).unwrap();
    for key in KEYS {
        assert_eq!(limiter.status(key).unwrap().unwrap().totals.denied, 250_000);
    }
}

/// Two mounts of one upper directory: a lock taken through one is not seen through the other.
#[test]
fn a_second_server_through_another_overlay_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let script = r#"
        mkdir lower1 lower2 upper work1 work2 one two
        mount -t overlay overlay -o lowerdir=lower1,upperdir=upper,workdir=work1 one || exit 77
        mount -t overlay overlay -o lowerdir=lower2,upperdir=upper,workdir=work2 two || exit 77
        "$0" --data-dir one/data server start --bind 127.0.0.1:0 > said 2> first &
        while ! [ -s said ]; do sleep 0.05; done
        "$0" --data-dir two/data server start --bind 127.0.0.1:0; second=$?
        kill -TERM $!; wait $! || exit 70
        "$0" --data-dir two/data doctor > /dev/null 2>&1 || exit 71
        exit $second
    "#;
    let mut unshare = Command::new("unshare");
    let run = unshare.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_flint")]).current_dir(parent.path()).output();
    let Ok(run) = run else { return eprintln!("SKIPPED: unshare is not installed") };
    let err = String::from_utf8_lossy(&run.stderr);
    if matches!(run.status.code(), Some(1 | 77)) {
        return eprintln!("SKIPPED: no overlays can be mounted here: {err}");
    }
    assert_eq!(run.status.code(), Some(3), "{err}");
    assert!(
        err.contains("data directory is already locked: two/data (by process ") && err.contains("overlay)"),
        "{err}"
    );
}

/// Runs a part of `scripts/soak` with few rounds.
fn soak(part: &str, rounds: &str) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/soak").join(format!("{part}.py"));
    let mut command = Command::new("python3");
    command.arg(program).args(["--rounds", rounds]).env("FLINT_BIN", env!("CARGO_BIN_EXE_flint"));
    command.env("FLINT_SOAK_LIMITS", "500");
    let Ok(output) = command.stdin(Stdio::null()).output() else { return skip("python3 is not installed") };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(77) => skip(&said),
        _ => panic!("{said}"),
    }
}

#[test]
fn kills_at_random_moments_lose_nothing_that_was_promised() {
    soak("kill", "8");
}

#[test]
fn backups_under_load_hold_what_was_answered_before() {
    soak("backup", "3");
}

#[test]
fn kills_at_system_calls_lose_nothing_that_was_promised() {
    soak("strace", "2");
}

#[test]
fn kills_while_limits_are_applied_leave_all_or_none() {
    soak("apply", "8");
}

#[test]
fn a_stop_under_busy_clients_leaves_nothing_unanswered() {
    soak("stops", "2");
}
