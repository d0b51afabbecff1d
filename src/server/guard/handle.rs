//! What the rest of the server has of the guard: the handle, and the guard of each request.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use super::table::{BODY_EVENT, BODY_UNREAD, REQUEST, Slot, Table};
use super::verdict::CutReason;

/// Peers to be cut at once that are noted between two walks; more of them have the usual grace.
const MOST_URGENT: usize = 64;

#[derive(Debug)]
pub struct Shared {
    pub table: Table,
    pub open: AtomicUsize,
    pub leaked: AtomicUsize,
    pub cuts: [AtomicU64; CutReason::ALL.len()],
    pub restart: AtomicBool,
    pub stop: AtomicBool,
    pub knocks: AtomicU64,
    /// The process is about to be replaced.
    pub hurry: AtomicBool,
    /// How often it was asked for that all Unix connections are cut, and how many of these wishes are fulfilled.
    pub unix_cuts: [AtomicU64; 2],
    /// Keys of peers to be cut without grace. Locked for a moment, holding nothing else, and never for a request that is
    /// as it should be.
    pub urgent: Mutex<Vec<u64>>,
    pub wake: OwnedFd,
}

impl Shared {
    /// For at most so many connections at once, with the descriptor that wakes the guard's thread.
    pub fn new(max_connections: usize, wake: OwnedFd) -> Shared {
        Shared {
            table: Table::new(max_connections),
            open: AtomicUsize::new(0),
            leaked: AtomicUsize::new(0),
            cuts: Default::default(),
            restart: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            knocks: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
            unix_cuts: Default::default(),
            urgent: Mutex::default(),
            wake,
        }
    }
}

/// Whether bytes of a request's body are still on the socket when it is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// No body, or tiny_http has read it: a `Content-Length` of at most 1024, without `Expect`.
    Read,
    /// A longer or chunked one, or one that waits for `100 Continue`.
    Unread,
}

/// The server's side of the guard: cheap to copy, valid for the rest of the process.
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    pub(super) shared: &'static Shared,
}

impl Notes {
    /// Notes that tiny_http handed over a request. `peer` is its `remote_addr`. Takes some 20 ns,
    /// never blocks and never allocates.
    #[must_use = "dropping the ticket says that the reply is written"]
    pub fn note_request(self, peer: Option<SocketAddr>, body: Body) -> Ticket {
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
        Ticket { slot, attributed: slot.key.load(Relaxed) != 0, unread }
    }

    /// The process is about to be replaced: bodies and unread replies are given [`HURRIED`] at most from now on.
    pub fn hurry(self) {
        self.shared.hurry.store(true, Relaxed);
    }

    /// Has the connection of this peer cut at once: it sends faster than what it sends can be let go.
    pub fn cut_now(self, peer: SocketAddr) {
        let key = self.shared.table.key(peer);
        {
            let mut urgent = self.shared.urgent.lock().unwrap_or_else(PoisonError::into_inner);
            if urgent.len() >= MOST_URGENT || urgent.contains(&key) {
                return;
            }
            urgent.push(key);
        }
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }

    /// Has all connections of Unix sockets cut, since it can't be told which of them a request came by. Returns a wish,
    /// for [`Notes::is_fulfilled`].
    pub fn cut_unix(self) -> u64 {
        let wish = self.shared.unix_cuts[0].fetch_add(1, SeqCst) + 1;
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        wish
    }

    /// Whether all Unix connections were cut that were open when this was wished for.
    #[must_use]
    pub fn is_fulfilled(self, wish: u64) -> bool {
        self.shared.unix_cuts[1].load(SeqCst) >= wish
    }

    /// Connections open at the last walk, the leaked ones among them.
    #[must_use]
    pub fn open_connections(self) -> usize {
        self.shared.open.load(Relaxed)
    }

    /// Connections that were cut over [`GuardConfig::leaked_after`] ago and are still open: a thread
    /// and two descriptors each, lost until this process is replaced.
    #[must_use]
    pub fn leaked(self) -> usize {
        self.shared.leaked.load(Relaxed)
    }

    /// Connections cut so far, in the order of [`CutReason::ALL`].
    #[must_use]
    pub fn cut_total(self) -> [u64; CutReason::ALL.len()] {
        std::array::from_fn(|i| self.shared.cuts[i].load(Relaxed))
    }

    /// Knocks so far: how often a connection was found that tiny_http had forgotten.
    #[must_use]
    pub fn knocks(self) -> u64 {
        self.shared.knocks.load(Relaxed)
    }
}

/// One request in progress. Dropping it says that the reply is written.
#[derive(Debug)]
pub struct Ticket {
    slot: &'static Slot,
    pub(super) attributed: bool,
    unread: bool,
}

impl Ticket {
    /// Whether the guard can tell which connection it is about. Not so on a Unix socket, nor where the table of peers
    /// was full.
    #[must_use]
    pub fn is_attributed(&self) -> bool {
        self.attributed
    }

    /// The body was read to its end. Implied when the ticket is dropped.
    pub fn body_done(&mut self) {
        if !self.unread {
            return;
        }
        self.slot.body.fetch_add(BODY_EVENT - BODY_UNREAD, SeqCst);
        self.unread = false;
    }

    /// Whether this connection was abandoned: this request and all behind it are to be dropped unanswered, for what
    /// stands in them may be the body of another.
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        self.attributed && self.slot.is_abandoned()
    }

    /// Has the connection cut after [`GuardConfig::abandon_grace`], and all further requests of it doomed. On a Unix
    /// socket this can't be attributed and does nothing.
    pub fn doom(&mut self) {
        if self.attributed {
            self.slot.abandoned.fetch_add(1, Relaxed);
        }
    }

    /// [`Ticket::doom`] and the end of the request: for one that is answered and then forgotten
    /// (`std::mem::forget`), and where the reply could not be sent.
    pub fn abandon(mut self) {
        self.doom();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.body_done();
        self.slot.flow.fetch_sub(1, SeqCst);
    }
}
