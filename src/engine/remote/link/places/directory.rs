//! What all links of a process share: the map, the servers, and the thread's rounds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use super::super::address::{Address, Endpoint};
use super::super::connection::Dialing;
use super::super::options::Options;
use super::super::wire::script::Scripts;
use super::map::Map;
use super::place::Place;

/// Locks: `map` and `known` are leaves, held for a copy; `rounds` is held while a link waits for the thread.
pub struct Directory {
    pub address: Address,
    pub dialing: Dialing,
    pub options: Options,
    pub scripts: OnceLock<Scripts>,
    map: RwLock<Arc<Map>>,
    known: Mutex<HashMap<Endpoint, Arc<Place>>>,
    bell: Arc<Bell>,
}

/// How links wake the thread, and how it tells them that a round is over.
pub struct Bell {
    rounds: Mutex<Rounds>,
    rung: Condvar,
    over: Condvar,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Rounds {
    asked: u64,
    /// The number of the last request that was there when the last finished round began.
    answered: u64,
}

impl Directory {
    pub fn new(address: Address, options: Options) -> Directory {
        let dialing = Dialing::to_servers(&address);
        let bell = Bell {
            rounds: Mutex::default(),
            rung: Condvar::new(),
            over: Condvar::new(),
            stopped: AtomicBool::new(false),
        };
        let map = RwLock::new(Arc::new(Map::of_slots()));
        let (scripts, known) = (OnceLock::new(), Mutex::default());
        Directory { address, dialing, options, scripts, map, known, bell: Arc::new(bell) }
    }

    pub fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a map, if it is another.
    pub fn set_map(&self, map: Map) {
        let mut kept = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_same(&map) {
            *kept = Arc::new(map);
        }
    }

    /// Notes that a slot has moved.
    pub fn moved(&self, slot: u16, to: &Endpoint) {
        let place = self.place(to);
        let mut kept = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if kept.place_of(slot).is_none_or(|known| !Arc::ptr_eq(known, &place)) {
            *kept = Arc::new(kept.with_moved(slot, &place));
        }
        drop(kept);
        self.bell.ring();
    }

    /// What is known of a server.
    pub fn place(&self, endpoint: &Endpoint) -> Arc<Place> {
        let replicas = self.options.replicas;
        let mut known = self.known();
        let place = known.entry(endpoint.clone()).or_insert_with(|| Arc::new(Place::new(endpoint.clone(), replicas)));
        Arc::clone(place)
    }

    /// Forgets servers that the address does not name and nobody has met lately.
    pub fn keep_only(&self, needed: &[Endpoint]) {
        let given = self.address.endpoints();
        self.known().retain(|endpoint, _| needed.contains(endpoint) || given.contains(endpoint));
    }

    /// All servers that were ever told of, those of the map first.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self.map().places().iter().map(|place| place.endpoint().clone()).collect();
        let mut others: Vec<Endpoint> = self.known().keys().cloned().collect();
        others.sort();
        others.extend_from_slice(self.address.endpoints());
        for endpoint in others {
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        endpoints
    }

    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Endpoint, Arc<Place>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.bell.stop();
    }
}

impl Bell {
    /// Asks for a round soon.
    pub fn ring(&self) {
        self.lock().asked += 1;
        self.rung.notify_one();
    }

    /// Asks for a round and waits until one has begun after that and is over, or for that long.
    pub fn ring_and_wait(&self, until: Instant) {
        let mut rounds = self.lock();
        rounds.asked += 1;
        let own = rounds.asked;
        self.rung.notify_one();
        while rounds.answered < own && !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            rounds = self.over.wait_timeout(rounds, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a request of a round, or for that long. Returns the number that this round answers, and whether one
    /// was asked for.
    pub fn next(&self, until: Instant) -> (u64, bool) {
        let mut rounds = self.lock();
        while rounds.asked == rounds.answered && !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            rounds = self.rung.wait_timeout(rounds, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (rounds.asked, rounds.asked != rounds.answered)
    }

    /// Tells those who wait that a round is over.
    pub fn answered(&self, number: u64) {
        self.lock().answered = number;
        self.over.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Whoever is about to wait has the lock now, or sees the flag.
        drop(self.lock());
        self.rung.notify_all();
        self.over.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
