//! The engine over a store: its lanes, and what is asked of the whole store.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::copies::reader::Source;
use super::errors::told;
use super::keeper;
use super::lanes::lane::{self, Figures, Inbox};
use super::lanes::router::{Route, Router};
use super::lanes::state::{Mode, Round};
use super::lease::Lease;
use super::link::{Address, Options, Store};
use super::names;
use crate::bounds::{MAX_HOLDS, MAX_KEYS, STORE_KEY_MS, STORE_TIMEOUT_MS};
use crate::clock::Clock;
use crate::engine::interface::{Done, Operation};
use crate::error::{Error, Kind, Result};

/// Times as long as other operations an edit of patterns may take in a Cluster.
const EDIT_TIMES: u32 = 5;

/// Lanes of one store that is no Cluster. With more, one decides while another waits for the store; but each operation
/// then runs once more, to find out to which it belongs.
const LANES: usize = 1;

/// Scratch limiters that find out to which lane an operation belongs.
const ROUTERS: usize = 4;

/// Keys that are changed at once by an operation that shares a lane with others, at most.
const MANY: usize = 256;

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
    /// Threads that decide, but in a Cluster, where there is one for each shard.
    pub lanes: usize,
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
            lanes: LANES,
        }
    }
}

/// Connects to a store. The first to come gives it its identity: `own`, or one that is drawn.
///
/// # Errors
/// `invalid_argument` for a bad address, `store_unavailable`.
pub fn connect(settings: &Settings, own: Option<&[u8; 16]>) -> Result<Source> {
    let address = Address::parse(&settings.url).map_err(Error::invalid)?;
    let options = Options { replicas: settings.replicas, clock: settings.clock.clone() };
    let store = Store::open(address, options).map_err(|error| told(&error, false))?;
    let deadline = Instant::now() + settings.timeout;
    let identity = store.link().identity(names::IDENTITY, own, deadline).map_err(|error| told(&error, false))?;
    let Settings { clock, max_keys, max_holds, timeout, .. } = settings.clone();
    Ok(Source { store, clock, identity, max_keys, max_holds, timeout })
}

/// Limits in a store.
pub struct Remote {
    pub(super) source: Source,
    /// For keys: one for each shard of a Cluster, else a few.
    lanes: Vec<Inbox>,
    router: Router,
    /// Chooses lanes, but in a Cluster.
    hasher: RandomState,
    /// In a Cluster.
    apart: Option<Apart>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    keeper: Mutex<Option<keeper::Handle>>,
    figures: Arc<Figures>,
    pub(super) replicas: u32,
}

/// What a Cluster needs, where keys and patterns can't change together.
struct Apart {
    patterns: Inbox,
    lease: Arc<Lease>,
}

impl Remote {
    /// Connects to a store, and starts the lanes.
    ///
    /// # Errors
    /// `invalid_argument` for a bad address, `store_unavailable`, `io`.
    pub fn open(settings: Settings) -> Result<Remote> {
        let source = connect(&settings, None)?;
        let figures = Arc::new(Figures::default());
        let mut threads = Vec::new();
        let mut start = |mode| {
            let round = Round::new(source.scratch(), source.store.link(), mode);
            let (inbox, thread) = lane::start(round, threads.len(), &figures, settings.timeout)?;
            threads.push(thread);
            Ok(inbox)
        };
        let lease = source.store.is_cluster().then(|| Arc::new(Lease::default()));
        let (lanes, apart) = match &lease {
            None => ((0..settings.lanes.max(1)).map(|_| start(Mode::All)).collect::<Result<_>>()?, None),
            Some(lease) => {
                let keys = |_| start(Mode::Keys(Arc::clone(lease)));
                let lanes = (0..source.store.shards().max(1)).map(keys).collect::<Result<_>>()?;
                (lanes, Some(Apart { patterns: start(Mode::Patterns)?, lease: Arc::clone(lease) }))
            }
        };
        let keeper = Mutex::new(Some(keeper::start(&source, lease)?));
        let router = Router::new(ROUTERS, || source.scratch());
        let (hasher, threads, replicas) = (RandomState::new(), Mutex::new(threads), settings.replicas);
        Ok(Remote { source, lanes, router, hasher, apart, threads, keeper, figures, replicas })
    }

    /// Runs an operation, and returns once its outcome is known.
    ///
    /// # Errors
    /// `store_unavailable`, `outcome_unknown`, `overloaded`, `corrupt`, `cross_slot`.
    pub fn run(&self, mut operation: Operation) -> Result<()> {
        let (lane, slot, timeout) = self.lane_of(&mut operation);
        lane.run(operation, slot, timeout)
    }

    /// The same, of an operation that changes so many keys at once. One of many has a lane and a deadline of its own:
    /// others neither wait for it nor cut it short.
    ///
    /// # Errors
    /// As [`Remote::run`]; `io` where no thread can be started.
    pub fn run_many(&self, keys: usize, operation: Operation) -> Result<()> {
        if keys <= MANY || self.apart.is_some() {
            return self.run(operation);
        }
        let timeout = self.source.timeout + Duration::from_millis(STORE_KEY_MS) * keys as u32;
        let round = Round::new(self.source.scratch(), self.source.store.link(), Mode::All);
        let (inbox, thread) = lane::start(round, self.lanes.len(), &self.figures, self.source.timeout)?;
        let done = inbox.run(operation, None, timeout);
        inbox.close();
        let _ = thread.join();
        done
    }

    /// The same without waiting: `done` is called later, from any thread, once.
    pub fn submit(&self, mut operation: Operation, done: Done) {
        let (lane, slot, timeout) = self.lane_of(&mut operation);
        lane.submit(operation, done, slot, timeout);
    }

    /// The lane to which an operation belongs, its slot in a Cluster, and how long it may take.
    fn lane_of(&self, operation: &mut Operation) -> (&Inbox, Option<u16>, Duration) {
        let timeout = self.source.timeout;
        if self.apart.is_none() && self.lanes.len() == 1 {
            return (&self.lanes[0], None, timeout);
        }
        match (self.router.route(operation), &self.apart) {
            (Route::Keys(key, slot), Some(_)) => {
                let lane = self.source.store.shard_of(&key) % self.lanes.len();
                (&self.lanes[lane], Some(slot), timeout)
            }
            (Route::Keys(key, _), None) => {
                let lane = self.hasher.hash_one(key) as usize % self.lanes.len();
                (&self.lanes[lane], None, timeout)
            }
            // An edit waits until no server goes by what was before, and those after it wait for that too.
            (Route::Patterns, Some(apart)) => (&apart.patterns, None, EDIT_TIMES * timeout),
            (Route::Patterns, None) => (&self.lanes[0], None, timeout),
        }
    }

    /// Why nothing can be decided, if that is so: at once, without asking the store.
    ///
    /// # Errors
    /// `store_unavailable`, `internal`.
    pub fn health(&self) -> Result<()> {
        if self.figures.ended.load(Ordering::Acquire) {
            let what = "a thread that decides has ended, which is a defect of Flint; restart the server";
            return Err(Error::new(Kind::Internal, what));
        }
        if let Some(error) = self.source.store.away() {
            return Err(told(&error, false));
        }
        match &self.apart {
            Some(apart) if !apart.lease.is_fresh() => Err(apart.lease.error()),
            _ => Ok(()),
        }
    }

    /// Returns once all that was answered before is in the store, denials too.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn flush(&self) -> Result<()> {
        for lane in self.lanes.iter().chain(self.apart.iter().map(|apart| &apart.patterns)) {
            lane.flush(self.source.timeout)?;
        }
        Ok(())
    }

    /// What the lanes have done since the start.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Answers what waits, writes what was counted, and ends the threads.
    pub fn close(&self) {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.lanes.iter().chain(self.apart.iter().map(|apart| &apart.patterns)).for_each(Inbox::close);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close();
    }
}
