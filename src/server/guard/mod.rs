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

mod config;
mod connection;
mod cuts;
mod handle;
mod memory;
mod table;
#[cfg(test)]
mod tests;
mod verdict;
mod walker;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

pub use self::config::GuardConfig;
pub use self::handle::{Body, Notes, Ticket};
pub use self::verdict::CutReason;
pub use self::walker::{Alarm, OnAlarm, OnWalk};

use self::cuts::Watched;
use self::handle::Shared;
use self::walker::Walker;
use super::net::descriptors::Peephole;
use super::net::names::local_name;

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
        let shared: &'static Shared = Box::leak(Box::new(Shared::new(config.max_connections, wake.try_clone()?)));
        let watched = Watched::new(shared, config, watched, Peephole::new(wake.try_clone()?)?);
        let walker = Walker::new(watched, wake.try_clone()?, on_alarm, on_walk);
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
