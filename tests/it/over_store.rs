//! The same tests a second time, over a store: `FLINT_TEST_STORE=1`, and a program with the feature `store`.
//!
//! If a test starts a server on a data directory, a server over a store is started; if it runs a command on the
//! directory, the command asks a server over the store. Each directory stands for a database of one redis-server, which
//! this process starts. So a directory that a test opens again is found as it was left, however its server ended.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::util::PATIENCE;

/// Databases that the store has; each data directory of a test takes one.
const DATABASES: usize = 4096;

/// Options of a server that make no sense over a store, each with a value. The tests that are about these call
/// [`needs_directory`].
const OF_DIRECTORY: [&str; 4] = ["--sync", "--flush-every-ms", "--flush-every-events", "--compact-after"];

/// Whether limits are kept in a store.
pub fn is_on() -> bool {
    std::env::var_os("FLINT_TEST_STORE").is_some_and(|value| value == "1")
}

/// Whether the test that calls it is to end at once, since it is about a data directory (its files, its log, its lock,
/// recovery) and limits are kept in a store. Says so.
#[track_caller]
pub fn needs_directory() -> bool {
    if is_on() {
        let at = std::panic::Location::caller();
        eprintln!("SKIPPED over a store, since it is about a data directory: {}:{}", at.file(), at.line());
    }
    is_on()
}

/// The options of a server that it knows over a store too.
pub fn without_directory<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let (mut left, mut args) = (Vec::new(), args.iter());
    while let Some(arg) = args.next() {
        match OF_DIRECTORY.iter().any(|option| arg == option) {
            true => drop(args.next()),
            false => left.push(*arg),
        }
    }
    left
}

/// The URL of the database that stands for a data directory.
pub fn url(dir: &Path) -> String {
    static TAKEN: Mutex<Option<HashMap<PathBuf, usize>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().unwrap();
    let taken = taken.get_or_insert_default();
    let next = taken.len();
    let database = *taken.entry(dir.to_owned()).or_insert(next);
    assert!(database < DATABASES, "more data directories than the store has databases");
    format!("redis://127.0.0.1:{}/{database}", store().port)
}

/// The URL of a server that answers for a data directory: the one that the test has started, else one of its own.
pub fn server(dir: &Path) -> String {
    if let Some(url) = started().lock().unwrap().get(dir) {
        return url.clone();
    }
    static OWN: Mutex<Vec<Own>> = Mutex::new(Vec::new());
    let mut own = OWN.lock().unwrap();
    // Those of tests that have ended.
    own.retain(|server| server.while_there.exists());
    if let Some(server) = own.iter().find(|server| server.dir == dir) {
        return server.url.clone();
    }
    let words = ["server", "start", "--bind", "127.0.0.1:0", "--store", &url(dir)];
    let (helper, out) = Helper::start(env!("CARGO_BIN_EXE_flint"), &words);
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).unwrap();
    let rest = line.strip_prefix("flint server listening on ").unwrap_or_else(|| panic!("no server: {line:?}"));
    let url = rest.split(" (").next().unwrap().to_owned();
    // A directory that is not there yet is made in one that goes with the test.
    let while_there = if dir.exists() { dir.to_owned() } else { dir.parent().unwrap().to_owned() };
    own.push(Own { dir: dir.to_owned(), url: url.clone(), while_there, _helper: helper });
    url
}

/// A server that was not started by the test.
struct Own {
    dir: PathBuf,
    url: String,
    while_there: PathBuf,
    _helper: Helper,
}

/// Servers that tests have started, by their data directories.
fn started() -> &'static Mutex<HashMap<PathBuf, String>> {
    static STARTED: OnceLock<Mutex<HashMap<PathBuf, String>>> = OnceLock::new();
    STARTED.get_or_init(Mutex::default)
}

/// That a server answers for a data directory, as long as this lives.
pub struct Answering(PathBuf);

impl Answering {
    pub fn new(dir: &Path, url: &str) -> Answering {
        started().lock().unwrap().insert(dir.to_owned(), url.to_owned());
        Answering(dir.to_owned())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        started().lock().unwrap().remove(&self.0);
    }
}

/// A process that ends when its guard does, and with this process, however that ends: when its input ends.
struct Helper {
    child: Child,
    input: Option<ChildStdin>,
}

impl Helper {
    fn start(program: &str, words: &[&str]) -> (Helper, ChildStdout) {
        let script = "exec 3<&0; \"$@\" </dev/null 3<&- & read -r _ <&3; kill $!; wait $!";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", program]).args(words);
        command.env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_TOKEN_FILE").env_remove("FLINT_LOG");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, out) = (child.stdin.take(), child.stdout.take().unwrap());
        (Helper { child, input }, out)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.input.take();
        let _ = self.child.wait();
    }
}

struct Store {
    port: u16,
    _helper: Helper,
}

/// The store of this process.
fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap().keep();
        let script = "dir=$1; shift; trap : TERM; \"$@\" >/dev/null & wait $!; kill $!; wait $!; rm -rf \"$dir\"";
        let (port_text, databases) = (port.to_string(), DATABASES.to_string());
        let dir = dir.to_str().unwrap();
        let redis = ["redis-server", "--port", &port_text, "--bind", "127.0.0.1", "--dir", dir];
        // What a disk takes its time for is nothing to these tests.
        let kept = ["--databases", &databases, "--appendonly", "yes", "--appendfsync", "no", "--save", ""];
        let words = [&["-c", script, "sh", dir][..], &redis, &kept].concat();
        let (helper, _) = Helper::start("sh", &words);
        let deadline = Instant::now() + PATIENCE;
        while !answers(port) {
            assert!(Instant::now() < deadline, "redis-server does not answer; it is Debian's package redis-server");
            std::thread::sleep(Duration::from_millis(5));
        }
        Store { port, _helper: helper }
    })
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut reply = [0; 5];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut reply).is_ok() && &reply == b"+PONG"
}
