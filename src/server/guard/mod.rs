//! The connection guard: bounds what a client can hold of a tiny_http server.
//!
//! tiny_http 0.12 has no time-outs, a thread per connection, and no bound on a request's head. The
//! guard stands beside it: the thread `flint-guard` looks at this process's own connections from
//! outside and shuts down those that break a bound; tiny_http's thread then sees the end of the
//! stream and lets go. It needs no cooperation of tiny_http, only to be told of each request.
//!
//! **Owns** the time-outs and bounds of connections ([`GuardConfig`]), the one rule that applies
//! them ([`verdict`]), the count of requests per connection, and the counts of connections that are
//! open, cut and leaked.
//!
//! **Called by** the deciders and the threads that accept ([`Notes::note_request`], for every request that tiny_http
//! hands over), and whichever thread of the pool has a request ([`Ticket`], one per request). The routes `doctor` and
//! `metrics` read the counts.
//!
//! **Must never happen here:** a wait for anything but the clock and the kernel's signal of a new connection; a lock on
//! the path of a request; a panic; a cut of a connection whose request is in progress, except for what its client does
//! wrong (body too slow, replies not read), or when more such connections than `max_connections` are open.
//!
//! # What the server must do
//!
//! - `note_request` in the thread that takes requests from tiny_http, at once after `recv` (`Exchange::new`). That thread,
//!   a decider, must do nothing that may block: a request that waits in tiny_http's queue looks like one whose head is
//!   not complete.
//! - Drop the [`Ticket`] after the reply is written (after `respond` returns), never before.
//! - Say [`Body::Unread`] where bytes of the body are still on the socket: `Content-Length` over
//!   1024, `Transfer-Encoding`, or `Expect`; and `body_done` when they are read.
//! - [`Ticket::abandon`] for a request that it forgets (`std::mem::forget`), and where `respond`
//!   failed, since half a reply may have gone out.
//!
//! # Why it cuts nobody who did nothing wrong
//!
//! A slot per peer address counts what was handed over and answered. The guard reads the slot
//! *before* the kernel's count of received bytes. So when the slot has changed since the last walk,
//! every byte of the requests it counts is within the count then read, which becomes the new
//! baseline; bytes beyond the baseline, with the slot unchanged, belong to a request not handed
//! over. Errors go one way: bytes may count as old that are new (the connection is judged later),
//! never the reverse. Where a slot is lost, shared or stale (the table is full, a port is reused
//! at once), that too shows as a change, and a change only ever resets clocks.
//!
//! # Connections that tiny_http forgets
//!
//! tiny_http's pool gives a new connection to a waiting thread without counting those it has
//! already given one: of 8 connections that arrive at once, 3 or 4 wait until another *ends*, which
//! may be for ever (a thread that panics loses them too). The guard sees them: bytes have arrived
//! and none was read. Any further connection that ends at once makes the pool take one up, so the
//! guard knocks, once for each, and their heads are not judged late meanwhile.
//!
//! # What can't be told
//!
//! Requests on a Unix socket have no address, and the kernel keeps no byte counts for it. There the
//! guard sees the requests of all Unix connections together. It cuts a client that doesn't read
//! replies (exact), all of them when no request at all was handed over for `idle_timeout`, one that
//! streams bytes while no request is handed over at all, and the oldest beyond `max_connections`.
//! It can't tell an idle, dripping or endlessly streaming connection while another Unix client is
//! making requests. Who may connect is the socket's permissions' matter. Where a request must be let go unanswered, so
//! that the replies behind it would be taken for its own, all Unix connections are cut before ([`Notes::cut_unix`]).
//! Of too many connections those of the process that has most are cut first.

mod connection;
mod table;
#[cfg(test)]
mod tests;
mod verdict;
mod walker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use self::table::{BODY_EVENT, BODY_UNREAD, REQUEST, Slot, Table};
use self::walker::Walker;
use super::net::descriptors::Peephole;
use super::net::names::local_name;

/// The guard's bounds. Times are met up to one walk late ([`GuardConfig::walk_interval`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// A connection may be silent this long between two requests, and before its first byte.
    pub idle_timeout: Duration,
    /// A request must be complete this long after its first byte: its head, and its body where that
    /// is at most 1024 bytes. Further bytes don't extend it.
    pub head_timeout: Duration,
    /// A longer body must be read this long after its head. The thread `flint-slow` reads what has arrived at once.
    pub body_timeout: Duration,
    /// A client must take at least [`MIN_DRAIN`] bytes of pending replies in this time.
    pub send_timeout: Duration,
    /// Bytes that tiny_http may read for one request before it hands it over.
    pub max_head_bytes: u64,
    /// Bytes that may be read for one body, the frames of its chunks among them.
    pub max_body_bytes: u64,
    /// Memory that unfinished heads and bodies of all connections may take, in bytes; beyond it the largest are cut.
    pub max_unfinished_bytes: u64,
    /// Connections open at once; beyond it those that never asked anything are cut, then the longest idle, then the
    /// oldest.
    pub max_connections: usize,
    /// An abandoned connection is kept this long, for its client to read the reply.
    pub abandon_grace: Duration,
    /// A connection that is still open this long after it was cut counts as leaked.
    pub leaked_after: Duration,
    /// This many leaked connections raise the alarm, once.
    pub leaked_limit: usize,
    /// Time between two walks while connections are open. It bounds how much an idle connection
    /// that turns hostile can send unseen: tiny_http reads 200 MB/s here, so 10 MB. Longer where a
    /// walk would take over a twentieth of one processor, but not over [`LONGEST_INTERVAL`].
    pub walk_interval: Duration,
    /// Time between two looks at a connection that receives much and hands nothing over, and the
    /// delay of the walk that a new connection causes.
    pub fast_interval: Duration,
}

impl Default for GuardConfig {
    fn default() -> GuardConfig {
        GuardConfig {
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(10),
            max_head_bytes: 64 << 10,
            max_body_bytes: 4 << 20,
            max_unfinished_bytes: 48 << 20,
            max_connections: 1024,
            abandon_grace: Duration::from_millis(500),
            leaked_after: Duration::from_secs(10),
            leaked_limit: 256,
            walk_interval: Duration::from_millis(50),
            fast_interval: Duration::from_millis(5),
        }
    }
}

/// Bytes of pending replies that count as progress of their reader.
pub const MIN_DRAIN: u64 = crate::bounds::MIN_DRAIN_BYTES;
/// As [`GuardConfig::send_timeout`], for a client that goes on asking meanwhile: it holds a worker, and has no excuse.
pub const ASKING_SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Peers to be cut at once that are noted between two walks; more of them have the usual grace.
const MOST_URGENT: usize = 64;
/// Longest time for bodies and unread replies when the process is about to be replaced.
const HURRIED: Duration = Duration::from_millis(300);
/// Memory that tiny_http takes per byte of an unfinished head, at worst: it keeps two strings of each header line, which
/// may be as short as `a:b`.
const HEAD_COST: u64 = 24;
/// The same of an unfinished body: a buffer that doubles.
const BODY_COST: u64 = 2;
/// The longest time between two walks while connections are open.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two walks while nothing is connected, where the kernel tells of connections; the
/// walk is then only a net beneath that.
const PARKED: Duration = Duration::from_secs(30);
/// The same where the kernel doesn't tell.
const PARKED_BLIND: Duration = Duration::from_secs(1);
/// The guard goes on walking this long after news of a connection, which may not be accepted yet.
const ACCEPT_GRACE: Duration = Duration::from_secs(1);
/// Time between two looks at memory while connections are open.
const TRIM_INTERVAL: Duration = Duration::from_secs(3);
/// Growth, in bytes, after which the allocator is asked to give back what is free.
const TRIM_GROWTH: u64 = 32 << 20;
/// Of so many connections the end of half is a reason as well.
const TRIM_CONNECTIONS: usize = 32;
/// Pauses before it is asked once more, which double from the first of these to the second.
const TRIM_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(160));
/// Connections that wait this long, with none accepted, tell that nobody accepts any more.
pub const DEAF_AFTER: Duration = Duration::from_millis(300);
/// One walk may cost this part of the time between walks.
const BUDGET: u32 = 20;
/// The same while memory is short.
const PRESSED_BUDGET: u32 = 4;
/// A dead connection is given this long to be closed by tiny_http.
const DEAD_GRACE: Duration = Duration::from_secs(1);
/// Bytes without a request handed over that make a connection worth a closer look.
const HOT_BYTES: u64 = 4 << 10;
/// The same for a body, which may well be this long.
const HOT_BODY_BYTES: u64 = 1 << 20;
/// A connection over the byte bound is cut when seen so this often: a dispatcher that has not run
/// for a moment shall not cost a pipelining client its connection.
const OVER_BOUND_SIGHTINGS: u32 = 2;
/// Over the bound by this factor, once is enough.
const OVER_BOUND_FACTOR: u64 = 4;
/// Samples in a row in which a Unix connection was seen being read and receiving still, while no
/// request came.
const STREAM_SIGHTINGS: u32 = 2;

/// Bytes that nobody has begun to read for this long make a connection count as forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(10);
/// Knocks per look; more forgotten connections wait for the next.
const KNOCKS: u32 = 64;
/// The pause between two knocks for one connection doubles from the first of these to the second.
const KNOCK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// Why a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// Silent for longer than `idle_timeout`.
    Idle,
    /// The request was not complete within `head_timeout`.
    Head,
    /// The body was not complete within `body_timeout`.
    Body,
    /// More than `max_head_bytes` for one request, `max_body_bytes` for its body, or the largest where all together are
    /// more than `max_unfinished_bytes`.
    Bytes,
    /// Replies were not read within `send_timeout`.
    Send,
    /// More than `max_connections`.
    Excess,
    /// The server gave it up ([`Ticket::abandon`]).
    Abandoned,
    /// It was over already, and tiny_http didn't let go of it.
    Dead,
}

impl CutReason {
    /// All reasons, in the order of [`Notes::cut_total`].
    pub const ALL: [CutReason; 8] = [
        CutReason::Idle,
        CutReason::Head,
        CutReason::Body,
        CutReason::Bytes,
        CutReason::Send,
        CutReason::Excess,
        CutReason::Abandoned,
        CutReason::Dead,
    ];

    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CutReason::Idle => "idle",
            CutReason::Head => "head",
            CutReason::Body => "body",
            CutReason::Bytes => "bytes",
            CutReason::Send => "send",
            CutReason::Excess => "excess",
            CutReason::Abandoned => "abandoned",
            CutReason::Dead => "dead",
        }
    }
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug)]
struct Shared {
    table: Table,
    open: AtomicUsize,
    leaked: AtomicUsize,
    cuts: [AtomicU64; CutReason::ALL.len()],
    restart: AtomicBool,
    stop: AtomicBool,
    knocks: AtomicU64,
    /// The process is about to be replaced.
    hurry: AtomicBool,
    /// How often it was asked for that all Unix connections are cut, and how many of these wishes are fulfilled.
    unix_cuts: [AtomicU64; 2],
    /// Keys of peers to be cut without grace. Locked for a moment, holding nothing else, and never for a request that is
    /// as it should be.
    urgent: Mutex<Vec<u64>>,
    wake: OwnedFd,
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
    shared: &'static Shared,
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
    attributed: bool,
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

/// What the guard can't mend by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// So many connections have leaked, [`GuardConfig::leaked_limit`] for the first time: the process is to be
    /// replaced. Raised once.
    Leaked(usize),
    /// Connections wait in a listener's queue and nobody has accepted any for [`DEAF_AFTER`]: tiny_http's accept
    /// thread has ended. Raised again as long as it is so.
    Deaf,
}

/// Called in the guard's thread. It must not block, nor replace the process from there.
pub type OnAlarm = Box<dyn Fn(Alarm) + Send>;

/// Called in the guard's thread, after each look at the connections: some 50 ms apart while there are any. It must not
/// block.
pub type OnWalk = Box<dyn Fn(Instant) + Send>;

/// The running guard. Dropping it ends its thread, and only then does the guard's own clone of the
/// listeners close: drop it before counting on the port to be free.
#[derive(Debug)]
pub struct ConnectionGuard {
    notes: Notes,
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl ConnectionGuard {
    /// Starts `flint-guard` for the connections accepted from these listening sockets (TCP or
    /// Unix), whichever clone of them tiny_http has. Before the first connection is accepted.
    ///
    /// One per process: its table (256 bytes per `max_connections`) is never freed, since tickets
    /// may outlive the guard.
    ///
    /// # Errors
    /// No descriptor or thread was to be had, or a listener is no stream socket.
    pub fn start(
        listeners: &[BorrowedFd<'_>],
        config: GuardConfig,
        on_alarm: OnAlarm,
        on_walk: OnWalk,
    ) -> io::Result<ConnectionGuard> {
        let mut watched = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let name = local_name(listener).ok_or(io::ErrorKind::InvalidInput)?;
            watched.push((listener.try_clone_to_owned()?, name));
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            table: Table::new(config.max_connections),
            open: AtomicUsize::new(0),
            leaked: AtomicUsize::new(0),
            cuts: Default::default(),
            restart: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            knocks: AtomicU64::new(0),
            hurry: AtomicBool::new(false),
            unix_cuts: Default::default(),
            urgent: Mutex::default(),
            wake: wake.try_clone()?,
        }));
        let walker = Walker {
            hole: Peephole::new(wake.try_clone()?)?,
            wake: wake.try_clone()?,
            shared,
            config,
            listeners: watched,
            directory: None,
            directory_failing: false,
            connections: std::collections::HashMap::new(),
            hot: Vec::new(),
            walk: 0,
            on_alarm,
            on_walk,
            pressed: false,
            waiting_since: None,
            next_trim: Instant::now(),
            resident_after_trim: 0,
            open_at_trim: 0,
            trim_again: None,
        };
        let thread = std::thread::Builder::new()
            .name("flint-guard".to_owned())
            .stack_size(256 << 10)
            .spawn(move || walker.run())?;
        Ok(ConnectionGuard { notes: Notes { shared }, wake, thread: Some(thread) })
    }

    /// The side that dispatchers, workers and metrics use.
    #[must_use]
    pub fn notes(&self) -> Notes {
        self.notes
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.notes.shared.stop.store(true, SeqCst);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It catches its own panics, and ends within one walk.
            let _ = thread.join();
        }
    }
}
