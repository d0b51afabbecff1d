//! A command that runs while something is held for it, with this process as its parent.
//!
//! Owns: the signals that are passed on to the command, and the thread that renews the hold at a third of its time. A
//! signal that this process was told to ignore is left alone, so that the command ignores it too (nohup). One that the
//! terminal sends reaches both by itself and is not sent twice.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::holds::Held;
use crate::cli::options::Global;
use crate::cli::output::print_error;
use crate::error::{Error, Kind, Result};

/// The signals that a command is passed.
const PASSED: [(i32, Signal); 6] = [
    (SIGHUP, Signal::HUP),
    (SIGINT, Signal::INT),
    (SIGQUIT, Signal::QUIT),
    (SIGTERM, Signal::TERM),
    (SIGUSR1, Signal::USR1),
    (SIGUSR2, Signal::USR2),
];

/// Longest pause between two attempts to renew after one has failed.
const RETRY: Duration = Duration::from_secs(5);

/// Signals that came, from the moment on when they are caught.
pub struct Signals {
    pipe: UnixStream,
    came: Vec<(i32, Signal, Arc<AtomicBool>)>,
}

impl Signals {
    /// Catches those that are to be passed on.
    ///
    /// # Errors
    /// `io`.
    pub fn catch() -> Result<Signals> {
        let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot catch signals: {error}"));
        let ignored = ignored();
        let (pipe, sender) = UnixStream::pair().map_err(failed)?;
        let mut signals = Signals { pipe, came: Vec::new() };
        for (number, signal) in PASSED.into_iter().filter(|(number, _)| ignored >> (number - 1) & 1 == 0) {
            let flag = Arc::default();
            // Actions run in the order of their registration: the flag is set when the byte is read.
            signal_hook::flag::register(number, Arc::clone(&flag)).map_err(failed)?;
            signal_hook::low_level::pipe::register(number, sender.try_clone().map_err(failed)?).map_err(failed)?;
            signals.came.push((number, signal, flag));
        }
        signal_hook::low_level::pipe::register(SIGCHLD, sender).map_err(failed)?;
        Ok(signals)
    }

    /// Whether one has come that was not taken yet.
    pub fn has_come(&self) -> bool {
        self.came.iter().any(|(.., flag)| flag.load(Ordering::Acquire))
    }

    /// The number of the next signal that came, which ends this process.
    pub fn end(&self) -> Option<i32> {
        self.next().map(|(number, _)| number)
    }

    /// The next signal that came. A command is passed it.
    fn next(&self) -> Option<(i32, Signal)> {
        let came = self.came.iter().find(|(.., flag)| flag.swap(false, Ordering::AcqRel));
        came.map(|(number, signal, _)| (*number, *signal))
    }

    /// Waits for a signal, or for this long. Returns the number of a signal that ends this process.
    pub fn pause(&self, pause: Duration) -> Option<i32> {
        let deadline = Instant::now() + pause;
        loop {
            if let Some(number) = self.end() {
                return Some(number);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.wait(Some(left));
        }
    }

    /// Waits until a signal has come, or this time is over.
    fn wait(&self, most: Option<Duration>) {
        if let Err(error) = self.pipe.set_read_timeout(most) {
            log::debug!("waiting for a signal: {error}");
        }
        match (&self.pipe).read(&mut [0; 64]) {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                log::debug!("waiting for a signal: {error}");
            }
            _ => {}
        }
    }
}

/// The signals that this process ignores, as Linux reports them; none if they are unknown.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Runs a command while a hold is renewed. Returns how it has ended.
///
/// # Errors
/// If it could not be started.
pub fn run(mut command: Command, signals: &Signals, held: &Held, global: &Global) -> std::io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let (ended, end) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || keep(held, global, &end));
        let status = wait(&mut child, signals);
        drop(ended);
        status
    })
}

/// Waits for a command to end, and passes signals on to it.
fn wait(child: &mut Child, signals: &Signals) -> std::io::Result<ExitStatus> {
    loop {
        while let Some((_, signal)) = signals.next() {
            if !from_terminal(signal)
                && let Some(pid) = Pid::from_raw(child.id() as i32)
                && let Err(error) = kill_process(pid, signal)
            {
                log::debug!("passing {signal:?} on: {error}");
            }
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        signals.wait(None);
    }
}

/// Whether the terminal has sent a signal, to this process and the command alike, as far as is known.
fn from_terminal(signal: Signal) -> bool {
    if ![Signal::INT, Signal::QUIT].contains(&signal) {
        return false;
    }
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|foreground| foreground == getpgrp()))
}

/// Renews a hold until the command has ended. If it is lost, the command goes on without it.
fn keep(held: &Held, global: &Global, end: &Receiver<()>) {
    let third = Duration::from_millis(held.ttl_ms / 3);
    let mut pause = third;
    let mut told = false;
    while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Err(error) = held.renew(global) else {
            (pause, told) = (third, false);
            continue;
        };
        let lost = matches!(error.kind(), Kind::HoldExpired | Kind::HoldNotFound | Kind::HoldSettled);
        if lost || !told {
            let what = if lost { "is lost" } else { "could not be renewed yet" };
            print_error(&Error::new(
                error.kind(),
                format!("hold {} {what}, and the command goes on: {error}", held.id),
            ));
        }
        if lost {
            return;
        }
        (pause, told) = ((third / 4).min(RETRY), true);
    }
}

/// The exit status that a shell has for how a command ended.
pub fn status_of(ended: ExitStatus) -> u8 {
    let status = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(status).unwrap_or(255)
}
