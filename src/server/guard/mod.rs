//! The connection guard: bounds what a client can hold of a tiny_http server.
//!
//! tiny_http 0.12 has no time-outs, a thread per connection, and no bound on a request's head (`ClientConnection::read`
//! in its client.rs). The guard works in parallel: the thread `flint-guard` looks at this process's own connections
//! from outside and shuts down those that break a bound; then tiny_http's thread sees the end of the stream and drops
//! the connection. The server only has to report each request to the guard.
//!
//! **Owns** the time-outs and bounds of connections (config.rs), the one rule that applies them to a connection
//! (verdict.rs), the bounds of all connections together (cuts.rs), the count of requests per connection (table.rs), and
//! the counts of connections that are open, cut and leaked.
//!
//! **Called by** the threads that take requests from tiny_http ([`GuardHandle::note_request`], for each) and the thread
//! that has a request ([`RequestGuard`], one per request). The routes `doctor` and `metrics` read the counts.
//!
//! **Must never happen here:** a wait for anything but the clock and the kernel's signal of a new connection; a lock on
//! the path of a request; a panic; a cut of a connection whose request is in progress, except for what its client does
//! wrong (body too slow, replies not read), or when more such connections than `max_connections` are open.
//!
//! # What the server must do
//!
//! - Call `note_request` in the thread that takes requests from tiny_http, at once after `recv` (`Exchange::new`). That
//!   thread, a decider or an old instance's, must not wait for anything else: a request in tiny_http's queue looks like
//!   a request whose head is incomplete.
//! - Drop the [`RequestGuard`] after the reply is written, never before. Where `flint-slow` sends the rest of a reply,
//!   the request guard goes there with it.
//! - Say [`Body::Unread`] if bytes of the body are still on the socket: `Content-Length` over 1024,
//!   `Transfer-Encoding`, or `Expect` (`new_request` in tiny_http's request.rs); and call `body_done` when they are
//!   read.
//! - Call [`RequestGuard::abandon`] for a request that is forgotten (`std::mem::forget`), and for a request whose reply
//!   could not be sent completely.
//!
//! # Why well-behaved connections are not cut
//!
//! A slot per peer address counts the requests that were handed over and answered. The guard reads the slot *before*
//! the kernel's count of received bytes. So if the slot has changed since the last walk, every byte of the requests
//! that it counts is within the number of bytes then read, which becomes the new baseline; bytes beyond the baseline,
//! while the slot is unchanged, belong to a request that was not handed over. Errors go one way: new bytes may count as
//! old (the connection is judged later), never the reverse. If a slot is lost, shared or stale (the table is full, a
//! port is reused at once), that shows as a change too, and a change only resets clocks.
//!
//! # Connections that tiny_http forgets
//!
//! tiny_http's pool (`TaskPool::spawn` in its util/task_pool.rs) gives a new connection to a waiting thread without
//! counting those that it has already given to it: of 8 connections that arrive at once, 3 or 4 wait until another
//! *ends*, which may never happen (a thread that panics loses them too). The guard sees them: bytes have arrived and
//! none was read. Any further connection that ends at once makes the pool take one up, so the guard wakes it by such a
//! connection, one for each, and does not count their heads as late meanwhile.
//!
//! # Connections that leak
//!
//! Some threads of tiny_http never end, and nothing outside can end them: the connection is shut down, and the thread,
//! two descriptors and the socket stay until the process is replaced. `ClientConnection::next` answers a version above
//! 1.1 (a line such as `PRI * HTTP/2.0`) by a second writer while the request still has the first one, so the thread
//! waits for itself; and a request with a body over [`MAX_DROPPED_BODY_BYTES`](crate::bounds::MAX_DROPPED_BODY_BYTES)
//! can't be dropped, since tiny_http would allocate as much (`EqualReader::drop`). The guard counts them, frees what
//! the kernel has queued for them, and raises [`Alarm::Leaked`].
//!
//! # What the guard can't tell
//!
//! Requests on a Unix socket have no address, and the kernel keeps no byte counts for it. There the guard sees the
//! requests of all Unix connections together. It cuts a client that doesn't read replies (exact), all of them if no
//! request at all was handed over for `idle_timeout`, one that streams bytes while no request is handed over, and those
//! beyond `max_connections`, of the process that has the most. It can't recognize an idle, dripping or endlessly
//! streaming connection while another Unix client makes requests. The socket's permissions say which processes may
//! connect. Before a request is dropped without an answer, all Unix connections are cut
//! ([`GuardHandle::cut_all_unix`]): otherwise a later reply would be taken for its reply.

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
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

pub use self::config::GuardConfig;
pub use self::handle::{Body, GuardHandle, RequestGuard};
pub use self::verdict::CutReason;
pub use self::walker::{Alarm, OnAlarm, OnWalk};

use self::cuts::Watched;
use self::handle::Shared;
use self::walker::Walker;
use super::net::descriptors::Probe;
use super::net::names::local_name;

/// The running guard. Dropping it ends its thread, and only then the guard's clones of the listeners are closed: until
/// then the port is in use.
#[derive(Debug)]
pub struct ConnectionGuard {
    handle: GuardHandle,
    thread: Option<JoinHandle<()>>,
}

impl ConnectionGuard {
    /// Starts `flint-guard` for the connections that are accepted from these listening sockets (TCP or Unix) or clones
    /// of them. To be called before the first connection is accepted.
    ///
    /// One per process: its table (256 bytes per `max_connections`) is never freed, since request guards may outlive
    /// the guard.
    ///
    /// # Errors
    /// No descriptor or thread was free, or a listener is not a stream socket.
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
        let watched = Watched::new(shared, config, watched, Probe::new(wake.try_clone()?)?);
        let walker = Walker::new(watched, wake.try_clone()?, on_alarm, on_walk);
        let thread = std::thread::Builder::new()
            .name("flint-guard".to_owned())
            .stack_size(256 << 10)
            .spawn(move || walker.run())?;
        Ok(ConnectionGuard { handle: GuardHandle { shared }, thread: Some(thread) })
    }

    /// The guard as the rest of the server sees it.
    #[must_use]
    pub fn handle(&self) -> GuardHandle {
        self.handle
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.handle.shared.stop.store(true, SeqCst);
        self.handle.shared.wake();
        if let Some(thread) = self.thread.take() {
            // It catches its own panics, and ends within one walk.
            let _ = thread.join();
        }
    }
}
