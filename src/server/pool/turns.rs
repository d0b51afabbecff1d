//! Turns: of each connection one request at a time.
//!
//! tiny_http lets a client send any number of requests ahead of their replies, and makes the thread that answers one wait
//! until those before it are answered (`SequentialWriter` in its util/sequential.rs). So of each connection at most one
//! request is under way; the others wait here, bounded in number and memory, and cost no thread.
//!
//! Owns: the requests that wait, and those that are ready for a decider. A request whose turn it is holds a [`Turn`]; when
//! that is dropped, the connection's next request goes to the end of what is ready. Connections of a Unix socket can't be
//! told apart: tiny_http gives their requests no address, and nothing else in its interface names the connection. All
//! their requests are ready at once; `pending` and the pool keep their replies in order.
//!
//! Must never happen here: that a request is dropped, which may wait for its client, while the lock is held.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::http::exchange::Exchange;
use super::super::http::head::Class;
use crate::bounds::{MAX_PIPELINED, MAX_WAITING, MAX_WAITING_BYTES, PIPELINED_ALWAYS, PIPELINED_ALWAYS_BYTES};

/// On a Unix socket, where it can't be told which connection sends too much, requests that are ready are refused beyond
/// [`MAX_PIPELINED`], and all connections are ended beyond so many times that.
const UNIX_FACTOR: usize = 4;

/// Called when a request has become ready.
pub type OnReady = Box<dyn Fn() + Send + Sync>;

/// The requests that wait.
pub struct Turns {
    /// Locked for a moment, holding nothing else; requests are never dropped under it.
    state: Mutex<State>,
    on_ready: OnReady,
}

#[derive(Default)]
struct State {
    /// A connection is in here while one of its requests is ready or under way.
    connections: HashMap<SocketAddr, Waiting>,
    ready: VecDeque<Exchange>,
    /// Requests that wait for those before them on their connections, and the memory they take.
    total: usize,
    bytes: usize,
    /// Requests of a Unix socket that are ready or under way.
    unix: usize,
}

/// Those of one connection that wait, and the memory they take.
#[derive(Default)]
struct Waiting {
    requests: VecDeque<Exchange>,
    bytes: usize,
    slow: bool,
}

impl State {
    /// Whether another request of this size may wait after these.
    fn has_room(&self, waiting: &Waiting, more: usize) -> bool {
        let (count, bytes) = (waiting.requests.len(), waiting.bytes + more);
        (self.total < MAX_WAITING && self.bytes + more <= MAX_WAITING_BYTES && count < MAX_PIPELINED)
            || (count < PIPELINED_ALWAYS && bytes <= PIPELINED_ALWAYS_BYTES)
    }

    /// Takes out what waits on this connection.
    fn clear(&mut self, peer: SocketAddr) -> VecDeque<Exchange> {
        let Some(waiting) = self.connections.get_mut(&peer) else { return VecDeque::new() };
        self.total -= waiting.requests.len();
        self.bytes -= std::mem::take(&mut waiting.bytes);
        std::mem::take(&mut waiting.requests)
    }
}

/// What became of a request that was taken from tiny_http.
pub enum Entered {
    /// It is ready, or waits for its turn.
    Kept,
    /// There was no room: its connection must be given up, with these requests, in this order.
    Refused(Vec<Exchange>),
}

impl Turns {
    pub fn new(on_ready: OnReady) -> Arc<Turns> {
        Arc::new(Turns { state: Mutex::default(), on_ready })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request that tiny_http has handed out.
    pub fn enter(self: &Arc<Self>, mut exchange: Exchange) -> Entered {
        let mut state = self.lock();
        let Some(peer) = exchange.peer else {
            exchange.begin_turn(Turn { turns: Arc::clone(self), peer: None, slow: AtomicBool::new(false) });
            state.unix += 1;
            if state.ready.len() >= UNIX_FACTOR * MAX_PIPELINED {
                return Entered::Refused(vec![exchange]);
            }
            if state.ready.len() >= MAX_PIPELINED {
                // It stays in its place all the same: its reply must follow those of the requests before it.
                exchange.head.class = Class::Shed;
            }
            state.ready.push_back(exchange);
            return Entered::Kept;
        };
        let Some(waiting) = state.connections.get(&peer) else {
            state.connections.insert(peer, Waiting::default());
            exchange.begin_turn(Turn { turns: Arc::clone(self), peer: Some(peer), slow: AtomicBool::new(false) });
            state.ready.push_back(exchange);
            return Entered::Kept;
        };
        let weight = exchange.head.weight;
        if state.has_room(waiting, weight) && !exchange.is_given_up() {
            let State { connections, total, bytes, .. } = &mut *state;
            let waiting = connections.entry(peer).or_default();
            (*total, *bytes, waiting.bytes) = (*total + 1, *bytes + weight, waiting.bytes + weight);
            waiting.requests.push_back(exchange);
            return Entered::Kept;
        }
        let mut refused: Vec<Exchange> = state.clear(peer).into();
        refused.push(exchange);
        Entered::Refused(refused)
    }

    /// The next request that is ready.
    pub fn next_ready(&self) -> Option<Exchange> {
        self.lock().ready.pop_front()
    }

    pub fn is_ready(&self) -> bool {
        !self.lock().ready.is_empty()
    }

    /// Makes a request ready again, whose turn it is.
    pub fn resume(&self, exchange: Exchange) {
        self.lock().ready.push_back(exchange);
        (self.on_ready)();
    }

    /// Whether no request is under way, and none waits.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.connections.is_empty() && state.unix == 0
    }

    /// Requests that wait, or are ready.
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        state.total + state.ready.len()
    }

    /// Ends a turn. Returns whether another request has become ready.
    fn end(self: &Arc<Self>, peer: Option<SocketAddr>, slow: bool) -> bool {
        let mut state = self.lock();
        let Some(peer) = peer else {
            state.unix -= 1;
            return false;
        };
        let Some(waiting) = state.connections.get_mut(&peer) else { return false };
        let Some(mut exchange) = waiting.requests.pop_front() else {
            state.connections.remove(&peer);
            return false;
        };
        let weight = exchange.head.weight;
        waiting.bytes -= weight;
        waiting.slow |= slow;
        let slow = AtomicBool::new(waiting.slow);
        exchange.begin_turn(Turn { turns: Arc::clone(self), peer: Some(peer), slow });
        state.total -= 1;
        state.bytes -= weight;
        state.ready.push_back(exchange);
        true
    }
}

/// Held by the request that is under way. Dropped, it makes the connection's next one ready.
pub struct Turn {
    turns: Arc<Turns>,
    peer: Option<SocketAddr>,
    /// The connection's replies have found no room.
    slow: AtomicBool,
}

impl Turn {
    /// Notes that the client was slow to take a reply: the replies to what it has sent ahead are not tried by threads that
    /// must not wait.
    pub fn note_slow(&self) {
        self.slow.store(true, Ordering::Relaxed);
    }

    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.turns.end(self.peer, *self.slow.get_mut()) {
            (self.turns.on_ready)();
        }
    }
}
