//! `flint top`: live on a terminal, once and plain in a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::over_store;
use crate::util::{PATIENCE, Server, command, flint, run};

/// A command on its own terminal.
struct OnTerminal {
    child: Child,
    keys: File,
    terminal: OwnedFd,
    before: String,
    shown: Arc<Mutex<String>>,
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modes(terminal: &OwnedFd) -> String {
    let Termios { input_modes, output_modes, control_modes, local_modes, special_codes, .. } =
        tcgetattr(terminal).unwrap();
    format!("{input_modes:?} {output_modes:?} {control_modes:?} {local_modes:?} {special_codes:?}")
}

fn resize(terminal: &OwnedFd, columns: u16, lines: u16) {
    tcsetwinsize(terminal, Winsize { ws_col: columns, ws_row: lines, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// A new terminal: the end of who sits at it, and that of a program.
pub fn terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let program = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (master, program)
}

impl OnTerminal {
    fn start(server: &Server, args: &[&str]) -> OnTerminal {
        let (master, terminal) = terminal();
        resize(&terminal, 80, 24);
        let before = modes(&terminal);
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut top = command();
        top.args(["--server", &server.url, "top"]).args(args).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        let child = top.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let shown = Arc::<Mutex<String>>::default();
        let mut output = File::from(master.try_clone().unwrap());
        let keep = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                keep.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        OnTerminal { child, keys: File::from(master), terminal, before, shown }
    }

    /// Waits until this is shown, and forgets all up to there.
    #[track_caller]
    fn until(&self, text: &str) {
        let begun = Instant::now();
        loop {
            let mut shown = self.shown.lock().unwrap();
            if let Some(at) = shown.find(text) {
                shown.drain(..at + text.len());
                return;
            }
            let last = shown.rfind("\x1b[H").unwrap_or(0);
            assert!(begun.elapsed() < PATIENCE, "{text:?} is not in {:?}", &shown[last..]);
            drop(shown);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// It ends with this status, and the terminal is as it was.
    #[track_caller]
    fn ends(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
        assert_eq!(modes(&self.terminal), self.before);
        self.until("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}

fn server(dir: &std::path::Path) -> Server {
    let server = Server::start(dir, &[]);
    let mut client = server.client();
    client
        .post(
            "/v1/limits",
            r#"[{"key":"quiet","limit":"9/1d"},{"key":"free","limit":"1000000/1d"},{"key":"user:*","limit":"5/1d"}]"#,
        )
        .ok();
    server
}

/// Asks for two keys, of which one is soon denied.
fn ask(server: &Server, times: usize) {
    let mut client = server.client();
    for _ in 0..times {
        client.post("/v1/check-many", r#"{"items":["user:a","free"]}"#).ok();
    }
}

#[test]
fn a_terminal_shows_who_asks_and_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("data"));
    let mut top = OnTerminal::start(&server, &[]);
    top.until("\x1b[?1049h\x1b[?25l\x1b[?7l");
    top.until(&format!("flint top: {}", server.url));
    assert!(!tcgetattr(&top.terminal).unwrap().local_modes.contains(LocalModes::ICANON), "keys are heard at once");
    top.until("ALLOWED/S  DENIED/S     LEFT");
    ask(&server, 50);
    top.until("checks/s, ");
    top.until("████████████████████  free");
    top.until("user:a");
    // Narrow: one rate, a short bar.
    resize(&top.terminal, 40, 12);
    top.signal(Signal::WINCH);
    top.until("\x1b[1mALLOWED/S              KEY");
    top.until("\x1b[J");
    let frame = |top: &OnTerminal| {
        top.shown.lock().unwrap().clear();
        top.signal(Signal::WINCH);
        top.until("\x1b[H");
        let begun = Instant::now();
        while !top.shown.lock().unwrap().contains("\x1b[J") && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        top.shown.lock().unwrap().split("\x1b[J").next().unwrap().replace("\x1b[K", "")
    };
    resize(&top.terminal, 20, 3);
    // A frame of the size before may still be on its way.
    let begun = Instant::now();
    while frame(&top).lines().count() != 3 {
        assert!(begun.elapsed() < PATIENCE, "as many lines as the terminal has: {:?}", frame(&top));
    }
    // A key that means nothing does nothing.
    top.keys.write_all(b"x").unwrap();
    top.until("\x1b[J");
    top.keys.write_all(b"q").unwrap();
    top.ends(0);
    server.terminate();
}

#[test]
fn ctrl_c_and_signals_give_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("data"));
    let mut top = OnTerminal::start(&server, &["--by", "denied", "--limit", "1"]);
    top.until("KEY");
    top.keys.write_all(&[3]).unwrap();
    top.ends(0);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let top = OnTerminal::start(&server, &[]);
        top.until("KEY");
        top.signal(signal);
        top.ends(code);
    }
    server.terminate();
}

#[test]
fn a_server_that_goes_is_told_of_and_one_that_comes_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = server(&data);
    let address = first.url.strip_prefix("http://").unwrap().to_owned();
    let mut top = OnTerminal::start(&first, &[]);
    top.until("checks/s, ");
    first.terminate();
    top.until("cannot reach the server");
    let again = Server::start_on(&data, &address, &[]);
    top.until("\x1b[Hflint top: ");
    // The report of the trouble disappears by itself.
    top.until("checks/s, 0 denied/s (0.0%)\x1b[K\r\r\n2 limits, 1 pattern, ");
    top.until(" 0 holds\x1b[K\r\r\n\x1b[K\r\r\n\x1b[1mALLOWED/S");
    top.keys.write_all(b"q").unwrap();
    top.ends(0);
    again.terminate();
}

#[test]
fn in_a_pipe_it_is_plain_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = server(&data);
    ask(&server, 9);
    let url = server.url.clone();
    let plain = run(command().args(["--server", &url, "top", "--by=denied", "--limit=1"]).env("TERM", "xterm"));
    assert_eq!((plain.code, plain.err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = plain.out.lines().collect();
    let expected = [
        &*format!("flint top: {url}"),
        "0 checks/s, 0 denied/s (0.0%)",
        "2 limits, 1 pattern, 1 live key, 0 holds",
        "",
        "ALLOWED/S  DENIED/S     LEFT                        KEY",
        "        0         0        0                        user:a",
    ];
    assert_eq!(lines, expected, "{plain:?}");
    // JSON is that of the HTTP API, as everywhere.
    let top = flint(&data, &["top", "--json", "--limit", "2"]).json();
    let other = flint(&data, &["limit", "top", "--json", "--by", "allowed", "--limit", "2"]).json();
    for name in ["key", "total_allowed", "total_denied", "remaining", "source"] {
        let of = |top: &serde_json::Value| [0, 1].map(|row| top[row][name].clone());
        assert_eq!(of(&top), of(&other), "{name}");
    }
    assert_eq!((top[0]["key"].as_str(), top.as_array().unwrap().len()), (Some("free"), 2));
    server.terminate();
    // For a directory that no server owns, it names the directory.
    let own = flint(&data, &["top"]);
    let named = format!("flint top: {}, which no server owns\n", data.display());
    assert!(over_store::is_on() || own.out.starts_with(&named), "{own:?}");
    assert!(own.out.contains("  quiet\n"), "{own:?}");
    for (args, said) in
        [(&["top", "--by", "both"][..], "--by"), (&["top", "--limit", "0"], "--limit"), (&["top", "x"], "`x`")]
    {
        let wrong = flint(&data, args);
        assert!(wrong.code == Some(2) && wrong.err.contains(said), "{wrong:?}");
    }
    let gone = run(Command::new(env!("CARGO_BIN_EXE_flint")).args(["--server", &url, "top"]));
    assert!(gone.code == Some(3) && gone.err.starts_with("flint: cannot reach the server"), "{gone:?}");
}
