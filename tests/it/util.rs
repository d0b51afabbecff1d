//! A server process that ends with its guard, one-shot commands, and a keep-alive HTTP client.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A command of the binary under test, without what the environment would add.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flint"));
    command.env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_SERVER").env_remove("FLINT_LOG").stdin(Stdio::null());
    command
}

/// What a one-shot command left behind.
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

/// Runs `flint --data-dir DIR ARGS`.
pub fn flint(dir: &Path, args: &[&str]) -> Run {
    run(command().arg("--data-dir").arg(dir).args(args))
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
}

impl Server {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start(dir: &Path, args: &[&str]) -> Server {
        Server::start_on(dir, "127.0.0.1:0", args)
    }

    pub fn start_on(dir: &Path, bind: &str, args: &[&str]) -> Server {
        let mut command = command();
        command.arg("--data-dir").arg(dir).args(["server", "start", "--bind", bind]).args(args);
        Server::spawn(&mut command)
    }

    /// Starts one on a disk that is full once a file has so many blocks of 512 bytes.
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
        command.args(program_args).arg(env!("CARGO_BIN_EXE_flint")).arg("--data-dir").arg(dir);
        command.args(["server", "start", "--bind", "127.0.0.1:0"]).args(args).stdin(Stdio::null());
        Server::spawn(command.env_remove("FLINT_SERVER_TOKEN").env_remove("FLINT_LOG"))
    }

    /// Starts one with variables in its environment.
    #[cfg(debug_assertions)]
    pub fn start_with_environment(dir: &Path, variables: &[(&str, &str)], args: &[&str]) -> Server {
        let mut command = command();
        command.envs(variables.iter().copied()).arg("--data-dir").arg(dir);
        Server::spawn(command.args(["server", "start", "--bind", "127.0.0.1:0"]).args(args))
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
        let Some(url) = line.trim_end().strip_prefix("flint server listening on ") else {
            eprintln!("the server did not start: {line:?} {}", whole(&mut err));
            return None;
        };
        Some(Server { child, url: url.to_owned(), err })
    }

    pub fn port(&self) -> u16 {
        self.url.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
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

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A client that keeps its connection.
pub struct Client {
    url: String,
    token: Option<String>,
    stream: Option<BufReader<Box<dyn Stream>>>,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
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
}

impl Client {
    pub fn new(url: &str, token: Option<&str>) -> Client {
        Client { url: url.to_owned(), token: token.map(str::to_owned), stream: None }
    }

    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
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

    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let reply = self.try_ask(method, path, body);
        reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn try_ask(&mut self, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n", body.len());
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        self.raw(&format!("{head}\r\n{body}"), method == "HEAD")
    }

    /// Sends these bytes, and reads one reply.
    pub fn raw(&mut self, request: &str, head_only: bool) -> std::io::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(self.connect()?),
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let mut reply = read_head(&mut stream)?;
        while reply.status < 200 {
            reply = read_head(&mut stream)?;
        }
        if !head_only {
            let length = reply.header("Content-Length").and_then(|length| length.parse().ok());
            let mut body = vec![0; length.unwrap_or_else(|| panic!("no Content-Length: {reply:?}"))];
            stream.read_exact(&mut body)?;
            reply.body = String::from_utf8(body).unwrap();
        }
        if reply.header("Connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
            self.stream = Some(stream);
        }
        Ok(reply)
    }
}

fn read_head(stream: &mut impl BufRead) -> std::io::Result<Reply> {
    let mut reply = Reply { status: 0, headers: Vec::new(), body: String::new() };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if reply.status == 0 {
            let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
            reply.status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        } else if line.is_empty() {
            return Ok(reply);
        } else {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
            reply.headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
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
    let ours = |path: &PathBuf| path.extension().is_some_and(|end| end != "lock");
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
