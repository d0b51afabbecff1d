//! What the rest of the server holds of the guard: its handle, and a request guard for each request in progress.
//!
//! Must never happen here: a wait, or a lock on the path of a request that is as it should be.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use super::table::{BODY_EVENT, BODY_UNREAD, LARGE_UNREAD, REQUEST, Slot, Table};
use super::verdict::CutReason;

/// Peers that can be noted for an immediate cut between two walks; connections of further ones keep the usual grace.
const MOST_URGENT: usize = 64;

/// What the guard's thread and the threads of requests share.
#[derive(Debug)]
pub struct Shared {
    pub table: Table,
    /// Open connections at the last walk, and how many of them have leaked.
    pub open: AtomicUsize,
    pub leaked: AtomicUsize,
    pub cuts: [AtomicU64; CutReason::ALL.len()],
    /// The alarm of leaked connections was raised.
    pub alarmed: AtomicBool,
    /// The guard's thread is to end.
    pub stop: AtomicBool,
    /// How often tiny_http was made to take up a connection that it had forgotten.
    pub woken: AtomicU64,
    /// The server stops or is replaced.
    pub draining: AtomicBool,
    /// A walk since then found no connection that was not cut.
    pub drained: AtomicBool,
    /// The last request to cut all Unix connections, and the last one that is done.
    pub cut_requests: [AtomicU64; 2],
    /// Keys of peers to be cut without grace. Locked for a moment, holding no other lock, and only for requests that
    /// break a bound.
    pub urgent: Mutex<Vec<u64>>,
    /// Wakes the guard's thread.
    pub wake: OwnedFd,
}

impl Shared {
    /// For at most this many connections at once, with the descriptor that wakes the guard's thread.
    pub fn new(max_connections: usize, wake: OwnedFd) -> Shared {
        Shared {
            table: Table::new(max_connections),
            open: AtomicUsize::new(0),
            leaked: AtomicUsize::new(0),
            cuts: Default::default(),
            alarmed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            woken: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            cut_requests: Default::default(),
            urgent: Mutex::default(),
            wake,
        }
    }

    /// Wakes the guard's thread.
    pub fn wake(&self) {
        // The counter can't overflow, and a failure would have no remedy.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A request to cut all connections of Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CutRequest(pub u64);

/// Whether bytes of a request's body are still on the socket when it is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// No body, or tiny_http has read it: a `Content-Length` of at most 1024, without `Expect`.
    Read,
    /// A longer or chunked body, or a body that waits for `100 Continue`.
    Unread,
}

/// The guard as the rest of the server sees it: cheap to copy, valid for the rest of the process.
#[derive(Clone, Copy, Debug)]
pub struct GuardHandle {
    pub(super) shared: &'static Shared,
}

impl GuardHandle {
    /// Notes that tiny_http handed over a request. `peer` is its `Request::remote_addr`. Takes about 20 ns, never
    /// blocks and never allocates.
    #[must_use = "dropping the request guard says that the reply is written"]
    pub fn note_request(self, peer: Option<SocketAddr>, body: Body) -> RequestGuard {
        let table = &self.shared.table;
        let slot = match peer {
            Some(peer) => table.enter(table.key(peer)),
            None => {
                table.unix.flow.fetch_add(REQUEST, SeqCst);
                &table.unix
            }
        };
        let unread = body == Body::Unread;
        if unread {
            slot.body.fetch_add(BODY_EVENT + BODY_UNREAD, SeqCst);
        }
        RequestGuard { slot, attributed: slot.key.load(Relaxed) != 0, unread, large: false }
    }

    /// The server stops or is replaced: bodies and unread replies have `DRAIN_TIMEOUT` (walker.rs) at most from now on.
    pub fn drain(self) {
        self.shared.draining.store(true, Relaxed);
        self.shared.wake();
    }

    /// Has the connection of this peer cut at once: it sends requests faster than they can be dropped.
    pub fn cut_now(self, peer: SocketAddr) {
        let key = self.shared.table.key(peer);
        {
            let mut urgent = self.shared.urgent.lock().unwrap_or_else(PoisonError::into_inner);
            if urgent.len() >= MOST_URGENT || urgent.contains(&key) {
                return;
            }
            urgent.push(key);
        }
        self.shared.wake();
    }

    /// Has all connections of Unix sockets cut, since the guard can't tell by which of them a request came.
    /// [`GuardHandle::is_done`] returns when that has happened.
    pub fn cut_all_unix(self) -> CutRequest {
        let request = CutRequest(self.shared.cut_requests[0].fetch_add(1, SeqCst) + 1);
        self.shared.wake();
        request
    }

    /// Whether all Unix connections are cut that were open at the time of this request.
    #[must_use]
    pub fn is_done(self, request: CutRequest) -> bool {
        self.shared.cut_requests[1].load(SeqCst) >= request.0
    }

    /// Open connections at the last walk, with the leaked ones.
    #[must_use]
    pub fn open_connections(self) -> usize {
        self.shared.open.load(Relaxed)
    }

    /// Whether a look at all connections since [`GuardHandle::drain`] has found none but those that were cut.
    /// Connections that have leaked never end.
    #[must_use]
    pub fn is_drained(self) -> bool {
        self.shared.drained.load(Relaxed)
    }

    /// Connections that were cut over `GuardConfig::leaked_after` ago and are still open: each keeps a thread and two
    /// descriptors until this process is replaced.
    #[must_use]
    pub fn leaked(self) -> usize {
        self.shared.leaked.load(Relaxed)
    }

    /// Connections cut so far, in the order of [`CutReason::ALL`].
    #[must_use]
    pub fn cut_total(self) -> [u64; CutReason::ALL.len()] {
        std::array::from_fn(|i| self.shared.cuts[i].load(Relaxed))
    }

    /// How often tiny_http was made to take up a connection that it had forgotten.
    #[must_use]
    pub fn woken(self) -> u64 {
        self.shared.woken.load(Relaxed)
    }
}

/// One request in progress. Dropping it says that the reply is written.
#[derive(Debug)]
pub struct RequestGuard {
    slot: &'static Slot,
    pub(super) attributed: bool,
    unread: bool,
    large: bool,
}

impl RequestGuard {
    /// Whether the guard knows the request's connection. Not so on a Unix socket, or if the table of peers was full.
    #[must_use]
    pub fn is_attributed(&self) -> bool {
        self.attributed
    }

    /// The body may be larger than `GuardConfig::max_body_bytes`. Its length is known, so that no more of it is read;
    /// and the caller sees to it that there are few at once ([`MAX_LARGE_BODIES`](crate::bounds::MAX_LARGE_BODIES)).
    pub fn expect_large_body(&mut self) {
        if self.unread && !self.large {
            self.slot.body.fetch_add(LARGE_UNREAD, SeqCst);
            self.large = true;
        }
    }

    /// The body was read to its end. Dropping the request guard implies it.
    pub fn body_done(&mut self) {
        if !self.unread {
            return;
        }
        let large = if self.large { LARGE_UNREAD } else { 0 };
        self.slot.body.fetch_add(BODY_EVENT - BODY_UNREAD - large, SeqCst);
        (self.unread, self.large) = (false, false);
    }

    /// Whether the connection was given up: this request and all after it on the connection are to be dropped without
    /// an answer, since their bytes may be the body of an earlier one.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.attributed && self.slot.is_abandoned()
    }

    /// Gives the connection up: it is cut after `GuardConfig::abandon_grace`, and its further requests count as given
    /// up. Does nothing where the guard does not know the connection.
    pub fn give_up(&mut self) {
        if self.attributed {
            self.slot.abandoned.fetch_add(1, Relaxed);
        }
    }

    /// [`RequestGuard::give_up`] and the end of the request: for a request that is answered and then forgotten
    /// (`std::mem::forget`), and for a request whose reply could not be sent.
    pub fn abandon(mut self) {
        self.give_up();
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.body_done();
        self.slot.flow.fetch_sub(1, SeqCst);
    }
}
