//! Replies on their way to their clients.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::super::guard::RequestGuard;
use super::super::pool::turns::Turn;
use super::exchange::Away;
use super::reply::{begin_chunk, end_chunk};
use crate::bounds::SEND_TIMEOUT_MS;

/// More of a reply, made when what there was is sent.
pub trait More: Send {
    /// Appends the next part, of some tens of KiB and at least a byte. Returns whether there may be another.
    fn next(&mut self, out: &mut Vec<u8>) -> bool;
}

/// A reply of which a part may be sent. Dropped before all is sent, it ends its connection.
pub struct Sending {
    /// The connection's address.
    pub peer: Option<SocketAddr>,
    unsent: Unsent<Box<dyn Write + Send>>,
    more: Option<Box<dyn More>>,
    /// What follows is sent in chunks.
    chunked: bool,
    /// The connection is given up when all is sent.
    last: bool,
    /// Taken when the reply is written.
    request_guard: Option<RequestGuard>,
    turn: Option<Turn>,
    /// Only held.
    away: Option<Away>,
}

/// How far a reply is.
pub enum Sent {
    All,
    /// The socket takes no more for now.
    Waiting(Sending),
    /// What there was is sent; the next part must be made.
    More(Sending),
}

impl Sending {
    pub fn new(
        peer: Option<SocketAddr>,
        unsent: Unsent<Box<dyn Write + Send>>,
        request_guard: Option<RequestGuard>,
        turn: Option<Turn>,
        away: Option<Away>,
    ) -> Sending {
        Sending { peer, unsent, more: None, chunked: false, last: false, request_guard, turn, away }
    }

    /// Counts it among the requests that are with threads that may wait.
    pub fn go_away(&mut self, away: &Arc<AtomicUsize>) {
        self.away.get_or_insert_with(|| Away::of(away));
    }

    /// Adds what follows the bytes that there are.
    pub fn followed_by(mut self, more: Option<Box<dyn More>>, chunked: bool) -> Sending {
        (self.more, self.chunked) = (more, chunked);
        self
    }

    /// Has the connection given up when all is sent: nothing more of it is taken for a request.
    pub fn then_end(mut self, last: bool) -> Sending {
        self.last = last;
        self
    }

    /// Sends what the socket takes in a moment.
    pub fn go_on(mut self) -> Sent {
        let done = self.unsent.go_on();
        self.judge(done)
    }

    /// Sends what the socket takes at once, by a descriptor of the same connection.
    pub fn go_on_by(mut self, fd: BorrowedFd<'_>) -> Sent {
        let done = self.unsent.go_on_by(fd);
        self.judge(done)
    }

    fn judge(mut self, done: io::Result<bool>) -> Sent {
        match done {
            Ok(true) if self.more.is_some() => return Sent::More(self),
            Ok(true) => self.end(),
            Ok(false) => {
                if let Some(turn) = &self.turn {
                    turn.note_slow();
                }
                return Sent::Waiting(self);
            }
            Err(error) => log::debug!("a reply could not be sent: {error}"),
        }
        Sent::All
    }

    /// Makes the next part.
    pub fn make_more(&mut self) {
        self.unsent.clear();
        let out = &mut self.unsent.bytes;
        let begun = begin_chunk(out, self.chunked);
        let last = !self.more.as_mut().is_some_and(|more| more.next(out));
        end_chunk(out, begun, last);
        if last {
            self.more = None;
        }
    }

    /// All is sent.
    fn end(&mut self) {
        match self.request_guard.take() {
            Some(request_guard) if self.last => request_guard.abandon(),
            request_guard => drop(request_guard),
        }
    }

    /// Sends the rest, waiting for the client as long as it may take.
    pub fn finish(mut self) {
        loop {
            match self.unsent.finish(Instant::now()) {
                Ok(()) if self.more.is_some() => self.make_more(),
                Ok(()) => return self.end(),
                Err(error) => return log::debug!("a reply could not be sent: {error}"),
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Half a reply may have gone out.
        if let Some(request_guard) = self.request_guard.take() {
            request_guard.abandon();
        }
    }
}

/// Bytes on their way to a client.
pub struct Unsent<W> {
    writer: W,
    bytes: Vec<u8>,
    /// How many the writer has taken; it may hold the last of them back until it is flushed.
    sent: usize,
}

impl<W: Write> Unsent<W> {
    pub fn new(writer: W, bytes: Vec<u8>) -> Unsent<W> {
        Unsent { writer, bytes, sent: 0 }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Sends what the socket takes. Returns whether that was all.
    fn go_on(&mut self) -> io::Result<bool> {
        loop {
            let unsent = &self.bytes[self.sent..];
            let done = if unsent.is_empty() { self.writer.flush().map(|()| 0) } else { self.writer.write(unsent) };
            match done {
                Ok(_) if unsent.is_empty() => return Ok(true),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => self.sent += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // SO_SNDTIMEO has passed; nothing of what was refused was taken.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// As `go_on`, without waiting. tiny_http's writer holds back less than a kibibyte, and nothing after a write that it
    /// did not take whole; so what it holds can only be the end of the reply.
    fn go_on_by(&mut self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            match rustix::net::send(fd, &self.bytes[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(more) => self.sent += more,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.go_on()
    }

    /// Sends all, unless that takes longer than a client may leave a reply unread.
    pub fn finish(&mut self, begun: Instant) -> io::Result<()> {
        while !self.go_on()? {
            if begun.elapsed() > Duration::from_millis(SEND_TIMEOUT_MS) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}
