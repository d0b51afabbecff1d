//! The terminal, while it shows something that changes.
//!
//! Owns: its modes and its other screen, which are given back when this is dropped, and the signals that would end the
//! program before that. Keys are bytes: the terminal makes no signals of them meanwhile.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use crate::error::{Error, Kind, Result};

/// The other screen, without a cursor; what has no room on a line is cut off.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What happened.
pub enum Event {
    /// A key asks for the end, or the terminal has gone.
    End,
    /// A signal does.
    Signal(i32),
    /// A key asks for a stop, as Ctrl-Z does.
    Suspend,
    Resized,
    /// Another thread has something.
    Woken,
}

/// The terminal of standard output, and of standard input where that is one.
pub struct Terminal {
    /// How it was before.
    before: Option<Termios>,
    pipe: UnixStream,
    sender: UnixStream,
    resized: Arc<AtomicBool>,
    ended: [(i32, Arc<AtomicBool>); 3],
}

/// Wakes the thread that waits for the terminal.
pub struct Waker(UnixStream);

impl Waker {
    pub fn wake(&self) {
        // A pipe that is full wakes it too.
        let _ = (&self.0).write(&[0]);
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Io, format!("cannot use the terminal: {error}"))
}

impl Terminal {
    /// Takes the terminal.
    ///
    /// # Errors
    /// `io`.
    pub fn enter() -> Result<Terminal> {
        let (pipe, sender) = UnixStream::pair().map_err(failed)?;
        pipe.set_nonblocking(true).map_err(failed)?;
        sender.set_nonblocking(true).map_err(failed)?;
        let resized = Arc::<AtomicBool>::default();
        let ended = [SIGHUP, SIGINT, SIGTERM].map(|signal| (signal, Arc::<AtomicBool>::default()));
        for (signal, flag) in ended.iter().chain([&(SIGWINCH, Arc::clone(&resized))]) {
            // Actions run in the order of their registration: the flag is set when the byte is read.
            signal_hook::flag::register(*signal, Arc::clone(flag)).map_err(failed)?;
            signal_hook::low_level::pipe::register(*signal, sender.try_clone().map_err(failed)?).map_err(failed)?;
        }
        let mut terminal = Terminal { before: None, pipe, sender, resized, ended };
        terminal.take()?;
        Ok(terminal)
    }

    fn take(&mut self) -> Result<()> {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let before = tcgetattr(&stdin).map_err(failed)?;
            let mut modes = before.clone();
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            self.before = Some(before);
            tcsetattr(&stdin, OptionalActions::Drain, &modes).map_err(failed)?;
        }
        write(ENTER)
    }

    /// Gives it back as it was.
    fn give_back(&mut self) -> Result<()> {
        let shown = write(LEAVE);
        match self.before.take() {
            Some(before) => tcsetattr(std::io::stdin(), OptionalActions::Drain, &before).map_err(failed).and(shown),
            None => shown,
        }
    }

    /// For another thread.
    ///
    /// # Errors
    /// `io`.
    pub fn waker(&self) -> Result<Waker> {
        self.sender.try_clone().map(Waker).map_err(failed)
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        match tcgetwinsize(std::io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    /// Shows these lines and nothing else.
    ///
    /// # Errors
    /// `io`.
    pub fn draw(&self, lines: &[String]) -> Result<()> {
        let mut text = "\x1b[H".to_owned();
        for (index, line) in lines.iter().enumerate() {
            text += if index > 0 { "\r\n" } else { "" };
            text += line;
            text += "\x1b[K";
        }
        write(&(text + "\x1b[J"))
    }

    /// Waits until something happens.
    ///
    /// # Errors
    /// `io`.
    pub fn wait(&self) -> Result<Event> {
        loop {
            let came = self.ended.iter().find(|(_, flag)| flag.load(Ordering::Acquire));
            if let Some((signal, _)) = came {
                return Ok(Event::Signal(*signal));
            }
            if self.resized.swap(false, Ordering::AcqRel) {
                return Ok(Event::Resized);
            }
            let stdin = std::io::stdin();
            let mut waited = [
                PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            ];
            // No keys come from anything but a terminal.
            let count = if self.before.is_some() { 2 } else { 1 };
            match poll(&mut waited[..count], None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(failed(error)),
            }
            let [pipe, keys] = waited.map(|waited| !waited.revents().is_empty());
            if keys && let Some(event) = key(&stdin)? {
                return Ok(event);
            }
            if pipe {
                let mut woken = [0; 64];
                match (&self.pipe).read(&mut woken) {
                    Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                        return Err(failed(error));
                    }
                    _ if self.resized.load(Ordering::Acquire) => {}
                    _ if self.ended.iter().any(|(_, flag)| flag.load(Ordering::Acquire)) => {}
                    _ => return Ok(Event::Woken),
                }
            }
        }
    }

    /// Stops the process as Ctrl-Z does, and goes on when it is continued.
    ///
    /// # Errors
    /// `io`.
    pub fn suspend(&mut self) -> Result<()> {
        self.give_back()?;
        kill_process(getpid(), Signal::TSTP).map_err(failed)?;
        self.take()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            log::debug!("{error}");
        }
    }
}

/// What the keys ask for that were pressed.
fn key(stdin: &std::io::Stdin) -> Result<Option<Event>> {
    let mut keys = [0; 64];
    // Past the buffer of standard input, of which poll knows nothing.
    let count = match rustix::io::read(stdin, &mut keys) {
        Ok(0) | Err(rustix::io::Errno::IO) => return Ok(Some(Event::End)),
        Ok(count) => count,
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => 0,
        Err(error) => return Err(failed(error)),
    };
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_Z: u8 = 26;
    Ok(keys[..count].iter().find_map(|key| match key {
        b'q' | b'Q' | &CTRL_C | &CTRL_D => Some(Event::End),
        &CTRL_Z => Some(Event::Suspend),
        _ => None,
    }))
}

fn write(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(failed)
}
