//! What all threads of a server share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::gate::named::Gates;
use super::guard::GuardHandle;
use super::http::exchange::Exchange;
use super::http::reply::LegacyHeaders;
use super::routes::call::Sources;
use super::routes::metrics::Metrics;
use super::tokens::Tokens;
use super::vitals::Vitals;
use super::waiting::pending::Pending;
use super::waiting::turns::Turns;
use super::work::{Jobs, Slow, Waiting};
use crate::engine::Engine;
use crate::store::Completion;

/// Requests that are to leave.
#[derive(Default)]
pub struct Leaving {
    pub requests: Vec<Exchange>,
    /// A thread releases them.
    pub is_attended: bool,
}

/// What all threads of a server share.
pub struct Context {
    /// What it serves.
    pub engine: Arc<dyn Engine>,
    /// Replaced when the token file is read again.
    pub tokens: RwLock<Tokens>,
    pub hosts: Vec<String>,
    pub gates: Gates,
    /// Health needs no token.
    pub open_health: bool,
    pub legacy: LegacyHeaders,
    /// Only this machine's users reach a Unix socket; no browser does.
    pub unix: bool,
    /// Connections are told to close: the server stops, or a new image of this program is about to take over.
    pub draining: AtomicBool,
    pub guard: GuardHandle,
    pub metrics: Metrics,
    pub vitals: Vitals,
    pub turns: Arc<Turns<Exchange>>,
    pub pending: Arc<Pending<Waiting>>,
    /// The same, as the log knows it.
    pub completion: Arc<dyn Completion>,
    pub jobs: Jobs,
    pub slow: Slow,
    /// Requests of a Unix socket that are with threads that may wait.
    pub away: Arc<AtomicUsize>,
    /// Threads that wait for one body each.
    pub bodies: AtomicUsize,
    /// Requests of a Unix socket that are released when all its connections are ended.
    pub leaving: Mutex<Leaving>,
    /// Requests with large bodies that are read or answered.
    pub large: Arc<AtomicUsize>,
}

impl Context {
    pub fn sources(&self) -> Sources<'_> {
        Sources {
            engine: &*self.engine,
            limiter: self.engine.local(),
            non_blocking: None,
            guard: Some(self.guard),
            metrics: Some(&self.metrics),
            vitals: Some(&self.vitals),
            gates: Some(&self.gates),
            legacy: self.legacy,
        }
    }

    pub fn tokens(&self) -> RwLockReadGuard<'_, Tokens> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
