//! What the running server is asked for: by signals, and by itself when it needs a fresh process.
//!
//! Owns: the handlers of SIGTERM, SIGINT and SIGHUP. Each event is a flag and a byte on one pipe: the flag says which
//! event it was, the byte wakes the thread that waits.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Kind, Result};

/// What the server is asked for.
pub enum Event {
    /// SIGHUP: read the token file again.
    Reload,
    /// tiny_http holds too many connections that have ended.
    Replace,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The events that have come and are to come.
pub struct Signals {
    pipe: UnixStream,
    sender: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    replace: Arc<AtomicBool>,
}

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// `io`.
    pub fn catch() -> Result<Signals> {
        let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot catch signals: {error}"));
        let (pipe, sender) = UnixStream::pair().map_err(failed)?;
        let signals = Signals { pipe, sender, stop: Arc::default(), reload: Arc::default(), replace: Arc::default() };
        for (signal, flag) in [(SIGTERM, &signals.stop), (SIGINT, &signals.stop), (SIGHUP, &signals.reload)] {
            // Actions run in the order of their registration: the flag is set when the byte is read.
            signal_hook::flag::register(signal, Arc::clone(flag)).map_err(failed)?;
            let sender = signals.sender.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, sender).map_err(failed)?;
        }
        Ok(signals)
    }

    /// What the server is to call, from any thread, when it needs a fresh process.
    pub fn replacement_request(&self) -> Box<dyn Fn() + Send + Sync> {
        let replace = Arc::clone(&self.replace);
        // If no descriptor is left for a clone, the next signal wakes the thread that waits.
        let sender = self.sender.try_clone();
        Box::new(move || {
            replace.store(true, Ordering::Release);
            if let Ok(mut sender) = sender.as_ref() {
                let _ = sender.write_all(&[0]);
            }
        })
    }

    /// Whether a stop has been asked for and not been returned by [`Signals::wait`].
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The next event. A replacement that was postponed is asked for again after a second.
    pub fn wait(&self, postponed: bool) -> Event {
        if let Err(error) = self.pipe.set_read_timeout(postponed.then_some(Duration::from_secs(1))) {
            log::debug!("waiting for a signal: {error}");
        }
        loop {
            let events = [(&self.stop, Event::Stop), (&self.replace, Event::Replace), (&self.reload, Event::Reload)];
            if let Some((_, event)) = events.into_iter().find(|(flag, _)| flag.swap(false, Ordering::AcqRel)) {
                return event;
            }
            match (&self.pipe).read_exact(&mut [0]) {
                Err(error) if postponed && error.kind() == ErrorKind::WouldBlock => return Event::Replace,
                Err(error) => log::debug!("waiting for a signal: {error}"),
                Ok(()) => {}
            }
        }
    }
}
