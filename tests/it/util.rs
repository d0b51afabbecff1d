//! A server process that ends with its guard, one-shot commands, and a keep-alive HTTP client.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde_json::Value;

use crate::over_store::{self, Answering};

/// Longest wait for anything, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command of the binary under test, without what the environment would add.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flint"));
    command
        .env_remove("FLINT_DATA_DIR")
        .env_remove("FLINT_SERVER_TOKEN")
        .env_remove("FLINT_SERVER")
        .env_remove("FLINT_LOG")
        .env_remove("FLINT_TOKEN_FILE")
        .env_remove("FLINT_STORE")
        .stdin(Stdio::null());
    command
}

/// What a one-shot command left.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Run {
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = Owned(command.spawn().unwrap());
    let status = child.wait(PATIENCE).expect("the command should end");
    Run { code: status.code(), out: whole(&mut out), err: whole(&mut err) }
}

/// Starts `flint --data-dir DIR ARGS` and kills it after this time, if it still runs.
pub fn flint_killed(dir: &Path, args: &[&str], after: Duration) {
    let mut command = command();
    command.arg("--data-dir").arg(dir).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    Owned(command.spawn().unwrap()).wait(after);
}

/// A command on this directory; over a store, one that asks a server which answers for this directory.
pub fn command_on(dir: &Path) -> Command {
    let mut command = command();
    match over_store::is_on() {
        true => command.env("FLINT_SERVER", over_store::server(dir)),
        false => command.arg("--data-dir").arg(dir),
    };
    command
}

/// Runs a command on this directory, or over the store that stands for it.
pub fn flint(dir: &Path, args: &[&str]) -> Run {
    if over_store::is_on() && args.starts_with(&["server", "start"]) {
        return run(command().env("FLINT_STORE", over_store::url(dir)).args(args));
    }
    run(command_on(dir).args(args))
}

fn whole(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A child that is killed, and waited for, with its guard.
struct Owned(Child);

impl Owned {
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running server.
pub struct Server {
    child: Owned,
    pub url: String,
    err: File,
    answering: Option<Answering>,
}

/// A command that starts a server on this address.
pub fn server_command(dir: &Path, bind: &str, args: &[&str]) -> Command {
    let mut command = command();
    server_start(&mut command, dir, bind, args);
    command
}

/// The words that start a server: on a data directory, or over the store that stands for it.
fn server_start(command: &mut Command, dir: &Path, bind: &str, args: &[&str]) {
    if over_store::is_on() {
        command.args(["server", "start", "--bind", bind, "--store", &over_store::url(dir)]);
        command.args(over_store::without_directory(args));
    } else {
        command.arg("--data-dir").arg(dir).args(["server", "start", "--bind", bind]).args(args);
    }
}

impl Server {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start(dir: &Path, args: &[&str]) -> Server {
        Server::start_on(dir, "127.0.0.1:0", args)
    }

    pub fn start_on(dir: &Path, bind: &str, args: &[&str]) -> Server {
        Server::spawn_for(dir, &mut server_command(dir, bind, args))
    }

    /// Starts what a [`server_command`] has made.
    pub fn spawn_for(dir: &Path, command: &mut Command) -> Server {
        Server::spawn(command).answering_for(dir)
    }

    /// Starts one on a disk that is full once a file has this many blocks of 512 bytes.
    pub fn start_on_small_disk(dir: &Path, blocks: u32) -> Server {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$@\"");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_flint"), "--data-dir"]).arg(dir);
        command.args(["server", "start", "--bind", "127.0.0.1:0"]).stdin(Stdio::null());
        Server::spawn(command.env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_LOG"))
    }

    /// Starts one by another program, which must become it: the process keeps its id.
    pub fn start_by(program: &str, program_args: &[&str], dir: &Path, args: &[&str]) -> Server {
        let mut command = Command::new(program);
        command.args(program_args).arg(env!("CARGO_BIN_EXE_flint"));
        server_start(&mut command, dir, "127.0.0.1:0", args);
        command.stdin(Stdio::null()).env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_LOG");
        Server::spawn(&mut command).answering_for(dir)
    }

    /// Starts one with variables in its environment.
    #[cfg(debug_assertions)]
    pub fn start_with_environment(dir: &Path, variables: &[(&str, &str)], args: &[&str]) -> Server {
        Server::spawn_for(dir, server_command(dir, "127.0.0.1:0", args).envs(variables.iter().copied()))
    }

    /// Has commands on this directory ask it, where they can't find it there.
    fn answering_for(mut self, dir: &Path) -> Server {
        self.answering = over_store::is_on().then(|| Answering::new(dir, &self.url));
        self
    }

    /// Starts what this command makes of itself.
    pub fn spawn(command: &mut Command) -> Server {
        Server::try_spawn(command).expect("the server should start")
    }

    /// Starts one, or says on stderr why it did not start.
    pub fn try_spawn(command: &mut Command) -> Option<Server> {
        let mut err = tempfile::tempfile().unwrap();
        command.stdout(Stdio::piped()).stderr(err.try_clone().unwrap());
        let mut child = Owned(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(url) =
            line.trim_end().strip_prefix("flint server listening on ").and_then(|rest| rest.split(" (").next())
        else {
            eprintln!("the server did not start: {line:?} {}", whole(&mut err));
            return None;
        };
        Some(Server { child, url: url.to_owned(), err, answering: None })
    }

    pub fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub fn process(&self) -> Process {
        Process(self.pid())
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url, None)
    }

    /// `kill -9`. Returns what stood on stderr.
    pub fn kill(mut self) -> String {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
        whole(&mut self.err)
    }

    /// A signal, and the exit status it leads to.
    pub fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let kill = format!("kill -{signal} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let status = self.child.wait(PATIENCE).expect("the server should stop");
        (status.code(), whole(&mut self.err))
    }

    /// SIGTERM, which must end it well.
    pub fn terminate(self) -> String {
        let (code, err) = self.stop("TERM");
        assert_eq!(code, Some(0), "{err}");
        err
    }

    /// Makes room on the small disk, where the system has a command for it.
    pub fn make_room(&self) -> bool {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--fsize=unlimited:", "--pid"]).arg(self.pid().to_string());
        prlimit.status().is_ok_and(|status| status.success())
    }

    pub fn stderr(&mut self) -> String {
        whole(&mut self.err)
    }
}

trait Stream: Read + Write + Send + AsFd {}
impl<T: Read + Write + Send + AsFd> Stream for T {}

/// A client that keeps its connection.
pub struct Client {
    url: String,
    token: Option<String>,
    stream: Option<BufReader<Box<dyn Stream>>>,
    /// The connection is not good for another request.
    over: bool,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Statuses below 200 that came before it.
    pub interim: Vec<u16>,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The body of a reply that must be 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("Content-Type"), Some("application/json"), "{self:?}");
        self.json()
    }

    /// Asserts status and code of an error, and returns its message.
    #[track_caller]
    pub fn error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{self:?}");
        body["error"].as_str().unwrap().to_owned()
    }

    /// Whether the connection ends after it.
    pub fn closes(&self) -> bool {
        self.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The bytes of a request without a body. Without a token it has no `Authorization`.
pub fn get(path: &str, token: Option<&str>) -> String {
    request("GET", path, token, "")
}

/// The bytes of a request with this body.
pub fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> String {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{authorization}\r\n{body}")
}

impl Client {
    pub fn new(url: &str, token: Option<&str>) -> Client {
        Client { url: url.to_owned(), token: token.map(str::to_owned), stream: None, over: false }
    }

    /// A client on a connection that was made elsewhere. It makes none itself.
    pub fn on(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { url: String::new(), token: None, stream: Some(BufReader::new(Box::new(stream))), over: false }
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        if let Some(path) = self.url.strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            return Ok(Box::new(stream));
        }
        let stream = TcpStream::connect(self.url.trim_start_matches("http://"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Box::new(stream))
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, "")
    }

    pub fn post(&mut self, path: &str, body: &str) -> Reply {
        self.ask("POST", path, body)
    }

    /// Has the log compacted. A store has none, and the server says so.
    #[track_caller]
    pub fn compact(&mut self) {
        let reply = self.post("/v1/log/compact", "");
        match over_store::is_on() {
            true => assert!(reply.error(400, "invalid_argument").contains("a store has no log to compact")),
            false => drop(reply.ok()),
        }
    }

    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let reply = self.try_ask(method, path, body);
        reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn try_ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        let request = request(method, path, self.token.as_deref(), body);
        self.raw(&request, method == "HEAD")
    }

    /// Sends these bytes, and reads one reply.
    pub fn raw(&mut self, request: &str, head_only: bool) -> io::Result<Reply> {
        self.send(request)?;
        if head_only { self.receive_head() } else { self.receive() }
    }

    /// Sends these bytes, on a new connection if there is none, or none that is good for them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        if std::mem::take(&mut self.over) {
            self.stream = None;
        }
        let sent = self.stream().and_then(|stream| stream.get_mut().write_all(bytes.as_ref()));
        self.over = sent.is_err();
        sent
    }

    fn stream(&mut self) -> io::Result<&mut BufReader<Box<dyn Stream>>> {
        if self.stream.is_none() {
            self.stream = Some(BufReader::new(self.connect()?));
        }
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Reads the next reply.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let mut reply = self.receive_head()?;
        // Until it is whole.
        let over = std::mem::replace(&mut self.over, true);
        let body = read_body(self.stream()?, &reply)?;
        reply.body = match reply.header("Content-Type") {
            // A backup is not text.
            Some("application/octet-stream") => String::from_utf8_lossy(&body).into_owned(),
            _ => String::from_utf8(body).map_err(invalid)?,
        };
        self.over = over;
        Ok(reply)
    }

    /// Reads the head of the next reply: all of it, if the request was a HEAD.
    pub fn receive_head(&mut self) -> io::Result<Reply> {
        self.over = true;
        let mut interim = Vec::new();
        loop {
            let reply = read_head(self.stream()?)?;
            if reply.status >= 200 {
                self.over = reply.closes();
                return Ok(Reply { interim, ..reply });
            }
            interim.push(reply.status);
        }
    }

    /// Sends these bytes as the last ones, and returns all that comes until the server has ended the connection.
    pub fn finish(mut self, bytes: impl AsRef<[u8]>) -> String {
        // Any of this may fail: the server ends what it does not understand.
        let _ = self.send(bytes);
        let _ = self.stream().map(|stream| rustix::net::shutdown(stream.get_ref().as_fd(), Shutdown::Write));
        let mut received = Vec::new();
        let _ = self.stream().and_then(|stream| stream.read_to_end(&mut received));
        String::from_utf8_lossy(&received).into_owned()
    }

    /// All that comes until the server has ended the connection cleanly.
    pub fn rest(mut self) -> io::Result<String> {
        let mut received = String::new();
        self.stream()?.read_to_string(&mut received)?;
        Ok(received)
    }

    /// Whether the server ends the connection in this time. What it still sends is left out.
    pub fn has_ended(&mut self, patience: Duration) -> bool {
        let Some(stream) = self.stream.as_mut() else { return true };
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            set_socket_timeout(stream.get_ref().as_fd(), Timeout::Recv, Some(left)).unwrap();
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            }
            if Instant::now() > deadline {
                return false;
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    // What is cut off is not a line.
    let line = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    String::from_utf8(line.to_vec()).map_err(invalid)
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Reply> {
    let line = read_line(stream)?;
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| invalid(format!("no status line: {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok(Reply { status, interim: Vec::new(), headers, body: String::new() });
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(format!("no header: {line:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// The body of a reply with this head (RFC 9112, 6.3): in chunks, of a length, or up to the connection's end.
fn read_body(stream: &mut impl BufRead, head: &Reply) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head.status == 204 {
        return Ok(body);
    }
    match (head.header("Transfer-Encoding"), head.header("Content-Length")) {
        (Some("chunked"), None) => loop {
            let line = read_line(stream)?;
            let length = usize::from_str_radix(&line, 16).map_err(invalid)?;
            let before = body.len();
            body.resize(before + length, 0);
            stream.read_exact(&mut body[before..])?;
            if !read_line(stream)?.is_empty() {
                return Err(invalid("a chunk is longer than its length"));
            }
            if length == 0 {
                return Ok(body);
            }
        },
        (None, Some(length)) => {
            body.resize(length.parse().map_err(invalid)?, 0);
            stream.read_exact(&mut body)?;
        }
        (None, None) if head.closes() => drop(stream.read_to_end(&mut body)?),
        other => return Err(invalid(format!("no length, or two: {other:?}"))),
    }
    Ok(body)
}

/// Figures of a process, as the system reports them.
pub struct Process(pub u32);

impl Process {
    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Names of its threads, sorted.
    pub fn thread_names(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0)).unwrap().flatten();
        let mut names: Vec<String> =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect();
        names.iter_mut().for_each(|name| name.truncate(name.trim_end().len()));
        names.sort();
        names
    }

    pub fn descriptors(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap().count() as u64
    }

    /// Memory that it takes, in KiB.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that it took since [`Process::forget_peak`], in KiB.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").unwrap();
    }
}

/// Statuses without `next_ms`, which runs down while all else holds still.
pub fn still(mut statuses: Value) -> Value {
    match &mut statuses {
        Value::Array(items) => items.iter_mut().for_each(|item| *item = still(item.take())),
        Value::Object(fields) => {
            fields.remove("next_ms");
            fields.values_mut().for_each(|field| *field = still(field.take()));
        }
        _ => {}
    }
    statuses
}

/// The segments of a data directory, oldest first.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "aof")).collect();
    files.sort();
    files
}

/// All files of the log with their bytes.
pub fn log_files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let ours = |path: &PathBuf| path.extension().is_some_and(|end| end != "lock" && end != "queue");
    let mut files: Vec<_> = files.filter(ours).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

/// Offsets of the frames of a segment, and where the last one ends, by the lengths in their headers.
pub fn frames(segment: &[u8]) -> (Vec<usize>, usize) {
    let (mut offsets, mut at) = (Vec::new(), 64);
    while segment.get(at..at + 4) == Some(b"FLfr".as_slice()) {
        offsets.push(at);
        at += 40 + u32::from_le_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    (offsets, at)
}
