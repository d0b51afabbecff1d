//! The worker pool: who handles which request when.
//!
//! Owns: the queues between the threads that take requests from tiny_http and the workers, and the order of requests of
//! one connection.
//!
//! tiny_http lets a client send any number of requests ahead of their replies, and makes whoever answers one wait until
//! those before it are answered. So of each connection one request at most is with a worker ([`Lanes`]); the others
//! wait in its lane, bounded, and cost no worker. Bodies that are still on the socket are read by half of the workers
//! alone, so that slow ones leave the other half to checks. Health, and refusals when the queue is full, are answered
//! by two threads of their own, the desk.
//!
//! Must never happen: that the thread which hands requests out waits for a client, a worker or the disk.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::exchange::Exchange;
use super::{Shared, handle, handle_at_desk};
use crate::bounds::{
    MAX_PIPELINED, MAX_WAITING, MAX_WAITING_BYTES, PIPELINED_ALWAYS, PIPELINED_ALWAYS_BYTES, STACK_BYTES,
};

/// Threads that answer health and refuse what the pool has no room for.
const DESKS: usize = 2;

/// Requests that wait for the desk; what finds no room there has its connection ended.
const DESK_QUEUE: usize = 256;

/// The same on a Unix socket, where it can't be told whose connection is to be ended, so that all are: more than there
/// are clients that send one request at a time.
const UNIX_DESK_QUEUE: usize = 4096;

/// Where requests are handed in. When the last one is gone, the workers end once all is answered.
#[derive(Clone)]
pub struct Intake {
    pool: Queues,
    desk: Sender<Exchange>,
    lanes: Arc<Lanes>,
}

/// The way to the workers.
#[derive(Clone)]
struct Queues {
    checks: Sender<Exchange>,
    bodies: Sender<Exchange>,
}

impl Queues {
    /// Queues a request; gives it back, to be refused, if there is no room.
    fn offer(&self, exchange: Exchange) -> Option<Exchange> {
        let queue = if exchange.unread { &self.bodies } else { &self.checks };
        match queue.try_send(exchange) {
            Ok(()) => None,
            Err(TrySendError::Full(mut exchange) | TrySendError::Disconnected(mut exchange)) => {
                exchange.shed = true;
                Some(exchange)
            }
        }
    }
}

/// Starts the workers and the desk.
///
/// # Errors
/// A thread could not be started.
pub fn start(shared: &Arc<Shared>, workers: usize) -> std::io::Result<(Intake, Vec<JoinHandle<()>>)> {
    let (checks, check_queue) = bounded(workers.max(64));
    let (bodies, body_queue) = bounded(workers.max(64));
    let (desk, desk_queue) = bounded(if shared.unix { UNIX_DESK_QUEUE } else { DESK_QUEUE });
    let pool = Queues { checks, bodies };
    let lanes = Arc::new(Lanes::default());
    let mut threads = Vec::with_capacity(workers + DESKS);
    for index in 0..workers {
        let (shared, lanes, checks) = (Arc::clone(shared), Arc::clone(&lanes), check_queue.clone());
        // One of two, the first among them.
        let bodies = index.is_multiple_of(2).then(|| body_queue.clone());
        let thread = thread::Builder::new().name(format!("flint-http-{index}")).stack_size(STACK_BYTES);
        threads.push(thread.spawn(move || {
            let mut body = Vec::new();
            while let Some(exchange) = next(&checks, bodies.as_ref()) {
                work(&shared, &lanes, exchange, &mut body);
            }
        })?);
    }
    for index in 0..DESKS {
        let (shared, lanes, queue, pool) = (Arc::clone(shared), Arc::clone(&lanes), desk_queue.clone(), pool.clone());
        let thread = thread::Builder::new().name(format!("flint-desk-{index}")).stack_size(STACK_BYTES);
        threads.push(thread.spawn(move || {
            while let Ok(exchange) = queue.recv() {
                work_at_desk(&shared, &lanes, exchange, &pool);
            }
        })?);
    }
    Ok((Intake { pool, desk, lanes }, threads))
}

/// The next request; `None` when there will be none any more.
fn next(checks: &Receiver<Exchange>, bodies: Option<&Receiver<Exchange>>) -> Option<Exchange> {
    let Some(bodies) = bodies else { return checks.recv().ok() };
    select! {
        recv(checks) -> exchange => exchange.or_else(|_| bodies.recv()).ok(),
        recv(bodies) -> exchange => exchange.or_else(|_| checks.recv()).ok(),
    }
}

/// Handles a request, and then those of the same connection that have come to wait for it.
fn work(shared: &Shared, lanes: &Lanes, first: Exchange, body: &mut Vec<u8>) {
    let peer = first.peer;
    let mut next = Some(first);
    while let Some(exchange) = next {
        contain(exchange, |exchange| handle(shared, exchange, body));
        body.clear();
        body.shrink_to(64 * 1024);
        next = peer.and_then(|peer| lanes.leave(peer));
    }
}

/// Answers health or refuses, and sends the connection's next request to where it belongs.
fn work_at_desk(shared: &Shared, lanes: &Lanes, first: Exchange, pool: &Queues) {
    let peer = first.peer;
    let mut next = Some(first);
    while let Some(exchange) = next {
        contain(exchange, |exchange| handle_at_desk(shared, exchange));
        next = peer.and_then(|peer| lanes.leave(peer));
        if let Some(exchange) = next.take_if(|exchange| !exchange.is_health()) {
            next = pool.offer(exchange);
        }
    }
}

/// A panic in a handler costs one request. Those of a connection that was given up are let go unanswered.
fn contain(exchange: Exchange, handler: impl FnOnce(Exchange)) {
    if exchange.is_doomed() {
        return exchange.discard(true);
    }
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(exchange))).is_err() {
        log::error!("a request's handler panicked; that request alone was answered 500");
    }
}

impl Intake {
    /// Hands in a request. Never waits.
    pub fn submit(&self, exchange: Exchange) {
        let Some(exchange) = self.lanes.enter(exchange) else { return };
        // The disk may be what is asked about: health must not wait for workers that wait for it.
        let for_desk = if exchange.is_health() { Some(exchange) } else { self.pool.offer(exchange) };
        let Some(exchange) = for_desk else { return };
        if let Err(TrySendError::Full(exchange) | TrySendError::Disconnected(exchange)) = self.desk.try_send(exchange) {
            self.drop_out(exchange);
        }
    }

    fn drop_out(&self, exchange: Exchange) {
        let peer = exchange.peer;
        exchange.discard(false);
        let mut left = peer;
        while let Some(exchange) = left.and_then(|peer| self.lanes.leave(peer)) {
            exchange.discard(false);
            left = peer;
        }
    }
}

/// Requests that wait for one of the same connection to be answered.
#[derive(Default)]
struct Lanes {
    /// A connection is in here while one of its requests is queued or with a worker. Locked for a moment, holding
    /// nothing else; requests are never dropped under it.
    lanes: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    lanes: HashMap<SocketAddr, Lane>,
    total: usize,
    /// What all of them take of memory.
    bytes: usize,
}

/// Those of one connection, and what they take of memory.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Exchange>,
    bytes: usize,
}

impl Waiting {
    /// Whether another request of this size may wait in a lane.
    fn has_room(&self, lane: &Lane, more: usize) -> bool {
        let (count, bytes) = (lane.waiting.len(), lane.bytes + more);
        (self.total < MAX_WAITING && self.bytes + more <= MAX_WAITING_BYTES && count < MAX_PIPELINED)
            || (count < PIPELINED_ALWAYS && bytes <= PIPELINED_ALWAYS_BYTES)
    }
}

impl Lanes {
    /// Gives the request back if it is the connection's turn; keeps it otherwise.
    fn enter(&self, exchange: Exchange) -> Option<Exchange> {
        let Some(peer) = exchange.peer else { return Some(exchange) };
        let too_many = {
            let mut waiting = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(lane) = waiting.lanes.get(&peer) else {
                waiting.lanes.insert(peer, Lane::default());
                return Some(exchange);
            };
            let fits = waiting.has_room(lane, exchange.weight) && !exchange.is_doomed();
            let Waiting { lanes, total, bytes } = &mut *waiting;
            let lane = lanes.entry(peer).or_default();
            if fits {
                (*total, *bytes, lane.bytes) = (*total + 1, *bytes + exchange.weight, lane.bytes + exchange.weight);
                lane.waiting.push_back(exchange);
                return None;
            }
            (*total, *bytes) = (*total - lane.waiting.len(), *bytes - lane.bytes);
            std::mem::take(lane).waiting
        };
        exchange.discard(false);
        too_many.into_iter().for_each(|exchange| exchange.discard(false));
        None
    }

    /// The connection's request was answered: its next one, if any waits.
    fn leave(&self, peer: SocketAddr) -> Option<Exchange> {
        let mut waiting = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { lanes, total, bytes } = &mut *waiting;
        let lane = lanes.get_mut(&peer)?;
        let next = lane.waiting.pop_front();
        match &next {
            Some(exchange) => {
                (*total, *bytes, lane.bytes) = (*total - 1, *bytes - exchange.weight, lane.bytes - exchange.weight);
            }
            None => drop(lanes.remove(&peer)),
        }
        next
    }
}
