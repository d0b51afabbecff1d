//! Replies on their way to their clients.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::super::guard::RequestGuard;
use super::super::waiting::turns::Turn;
use super::exchange::{Exchange, Parts};
use super::more::{More, begin_chunk, end_chunk};
use super::unsent::{Counted, Unsent};

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
    turn: Option<Turn<Exchange>>,
    /// Only held.
    away: Option<Counted>,
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
    /// The reply to a request, ready to be sent. To be called when no byte of the body is on the socket any more, or
    /// when the socket was told not to wait for them.
    pub fn new(exchange: Exchange, bytes: Vec<u8>) -> Option<Sending> {
        let Parts { peer, writer, request_guard, turn, away } = exchange.into_parts()?;
        let unsent = Unsent::new(writer, bytes);
        Some(Sending { peer, unsent, more: None, chunked: false, last: false, request_guard, turn, away })
    }

    /// Counts it among the requests that are with threads that may wait.
    pub fn go_away(&mut self, away: &Arc<AtomicUsize>) {
        self.away.get_or_insert_with(|| Counted::of(away));
    }

    /// Adds what follows the bytes that there are.
    pub fn followed_by(mut self, more: Option<Box<dyn More>>, chunked: bool) -> Sending {
        (self.more, self.chunked) = (more, chunked);
        self
    }

    /// Lets the connection be given up when all is sent: nothing more of it is taken for a request.
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
        let out = self.unsent.renew();
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
