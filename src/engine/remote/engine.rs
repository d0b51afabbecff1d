//! The engine over a store: its lanes, and what is asked of the whole store.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lane::{self, Figures, Inbox};
use super::link::{Address, Options, Store};
use super::names;
use super::reader::Source;
use super::round::{Done, Mode, Operation, Round, told};
use crate::bounds::{MAX_HOLDS, MAX_KEYS, STORE_TIMEOUT_MS};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// How a store is used.
#[derive(Clone)]
#[must_use]
pub struct Settings {
    /// Its address, as [`Address::parse`] reads it.
    pub url: String,
    /// Replicas that must have confirmed a write before it is answered.
    pub replicas: u32,
    /// Keys that may live by what requests bring.
    pub max_keys: u64,
    /// Holds that may be open.
    pub max_holds: u64,
    /// How long an operation may take.
    pub timeout: Duration,
    /// Follows the store's.
    pub clock: Clock,
}

impl Settings {
    /// The defaults, with a store at this address.
    pub fn new(url: &str) -> Settings {
        Settings {
            url: url.to_owned(),
            replicas: 0,
            max_keys: MAX_KEYS,
            max_holds: MAX_HOLDS,
            timeout: Duration::from_millis(STORE_TIMEOUT_MS),
            clock: Clock::system(),
        }
    }
}

/// Limits in a store.
pub struct Remote {
    pub(super) source: Source,
    lanes: Vec<Inbox>,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
    figures: Arc<Figures>,
    timeout: Duration,
}

impl Remote {
    /// Connects to a store, and starts the lanes.
    ///
    /// # Errors
    /// `invalid_argument` for a bad address, `store_unavailable`, `io`.
    pub fn open(settings: Settings) -> Result<Remote> {
        let address = Address::parse(&settings.url).map_err(Error::invalid)?;
        let options = Options { replicas: settings.replicas, clock: settings.clock.clone() };
        let store = Store::open(address, options).map_err(|error| told(&error, false))?;
        let deadline = Instant::now() + settings.timeout;
        let mut link = store.link();
        let identity = link.identity(names::IDENTITY, deadline).map_err(|error| told(&error, false))?;
        let figures = Arc::new(Figures::default());
        let Settings { clock, max_keys, max_holds, timeout, .. } = settings.clone();
        let source = Source { store, clock, identity, max_keys, max_holds, timeout };
        let round = Round::new(source.scratch(), link, Mode::All);
        let (inbox, thread) = lane::start(round, 0, &figures, settings.timeout)?;
        let threads = std::sync::Mutex::new(vec![thread]);
        Ok(Remote { source, lanes: vec![inbox], threads, figures, timeout: settings.timeout })
    }

    /// Runs an operation, and returns once its outcome is known.
    ///
    /// # Errors
    /// `store_unavailable`, `outcome_unknown`, `overloaded`, `corrupt`, `cross_slot`.
    pub fn run(&self, operation: Operation) -> Result<()> {
        let (sender, outcome) = sync_channel(1);
        self.submit(operation, Box::new(move |done| drop(sender.try_send(done))));
        outcome.recv().unwrap_or_else(|_| Err(super::round::closed()))
    }

    /// The same without waiting: `done` is called later, from any thread, once.
    pub fn submit(&self, operation: Operation, done: Done) {
        self.lanes[0].submit(operation, done, None, self.timeout);
    }

    /// Answers what waits, writes what was counted, and ends the lanes.
    pub fn close(&self) {
        self.lanes.iter().for_each(Inbox::close);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}
