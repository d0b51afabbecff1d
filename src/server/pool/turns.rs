//! Lanes: requests of one connection, one after the other.
//!
//! tiny_http lets a client send any number of requests ahead of their replies, and makes whoever answers one wait until
//! those before it are answered. So of each connection one request at most is under way; the others wait in its lane,
//! bounded in number and memory, and cost no thread.
//!
//! Owns: which connections have a request under way, and what waits behind it. Called by whoever takes requests from
//! tiny_http ([`Lanes::enter`]) and by whoever has answered one ([`Lanes::leave`]). Must never happen here: that a request
//! is dropped, which may wait for its client, while the lock is held.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::super::http::exchange::Exchange;
use crate::bounds::{MAX_PIPELINED, MAX_WAITING, MAX_WAITING_BYTES, PIPELINED_ALWAYS, PIPELINED_ALWAYS_BYTES};

/// Requests that wait for one of the same connection to be answered.
#[derive(Default)]
pub struct Lanes {
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
    pub fn enter(&self, exchange: Exchange) -> Option<Exchange> {
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
    pub fn leave(&self, peer: SocketAddr) -> Option<Exchange> {
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
