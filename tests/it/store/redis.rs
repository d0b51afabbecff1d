//! A redis-server of a test's own.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The programs that a store can be, those that are installed. Demanded where `CI=true`.
pub fn programs() -> Vec<&'static str> {
    let is_there = |program: &&str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let found: Vec<&str> = ["redis-server", "valkey-server"].into_iter().filter(is_there).collect();
    if found.is_empty() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "redis-server is demanded");
        eprintln!("SKIPPED: redis-server is not installed (Debian package redis-server)");
    }
    found
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server, which ends with its guard.
pub struct Redis {
    program: &'static str,
    child: Child,
    pub port: u16,
    dir: tempfile::TempDir,
    words: Vec<String>,
}

impl Redis {
    /// Starts one that keeps all on disk before it answers.
    pub fn start(program: &'static str) -> Redis {
        Redis::start_with(program, &["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub fn start_with(program: &'static str, words: &[&str]) -> Redis {
        let dir = tempfile::tempdir().unwrap();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let port = free_port();
        let child = spawn(program, &dir.path().to_owned(), port, &words);
        let redis = Redis { program, child, port, dir, words };
        redis.await_answer();
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until it answers.
    pub fn await_answer(&self) {
        let begun = Instant::now();
        while self.cli(&["ping"]) != "PONG" {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} does not answer", self.program);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a command answers.
    pub fn cli(&self, words: &[&str]) -> String {
        if TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            return String::new();
        }
        let port = self.port.to_string();
        let program = self.program.replace("-server", "-cli");
        let output = Command::new(program).args(["-p", &port]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it for so long.
    pub fn pause(&self, time: Duration) {
        self.signal(Signal::STOP);
        std::thread::sleep(time);
        self.signal(Signal::CONT);
    }

    /// Ends it as a power cut would, as far as a process can tell.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`Redis::kill`].
    pub fn start_again(&mut self) {
        self.child = spawn(self.program, &self.dir.path().to_owned(), self.port, &self.words);
        self.await_answer();
    }
}

fn spawn(program: &str, dir: &PathBuf, port: u16, words: &[String]) -> Child {
    let log = File::create(dir.join("log")).unwrap();
    let port = port.to_string();
    let mut command = Command::new(program);
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir).args(words);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
