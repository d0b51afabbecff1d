//! One request on its way to its reply: the only place where a tiny_http request is read, answered or let go.
//!
//! Owns: the care that tiny_http's requests need. Dropping one reads the rest of its body, into a buffer of the length
//! that was announced, and may wait for the client; so a request with an over-bound length is never dropped, and one
//! whose body may still be on the socket is dropped by a worker, never by the thread that hands requests out.
//!
//! A socket that takes no more bytes fails a write after a moment (SO_SNDTIMEO), so that who must not wait for a client
//! can leave the rest of a reply ([`Sending`]) to somebody who may.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tiny_http::Request;

use super::super::guard::{Body, Notes, Ticket};
use super::super::routes;
use super::head::Head;
use super::linger::{self, Remains};
use super::reply::Reply;
use crate::bounds::{MAX_BODY_BYTES, MAX_HEADERS, SEND_TIMEOUT_MS};
use crate::error::{Error, Kind};

/// A request of this size, in bytes, has its connection ended without grace where it is let go unanswered: those behind it
/// take memory faster than they can be let go.
const LARGE_BYTES: usize = 8 * 1024;

/// One request. Dropped without a reply (a handler panicked), it is answered 500.
pub struct Exchange {
    /// Taken by whatever ends the exchange.
    request: Option<Request>,
    /// Dropped when the reply is written.
    ticket: Option<Ticket>,
    /// The connection's address; `None` on a Unix socket, whose connections can't be told apart.
    pub peer: Option<SocketAddr>,
    /// Bytes of the body may still be on the socket.
    pub unread: bool,
    /// Length of the body as announced, in bytes; `None` for a chunked body or none.
    pub length: Option<u64>,
    /// Memory that it takes while it waits, in bytes, about.
    pub weight: usize,
    /// More header lines than anybody needs.
    pub bloated: bool,
    health: bool,
    /// A check of usual size whose body tiny_http has read, on a connection that can be told from others: nothing of it
    /// needs to wait for the client.
    pub quick: bool,
    /// Counted among the quick ones that workers have.
    pub shared_out: bool,
    /// The body, if it was read already by who could not finish.
    body: Option<Vec<u8>>,
    notes: Notes,
    /// There is no worker for it: to be answered `overloaded`.
    pub shed: bool,
    /// When it was handed over.
    pub arrived: Instant,
}

impl Exchange {
    /// Takes over a request that tiny_http has just handed out.
    pub fn new(request: Request, notes: Notes) -> Exchange {
        let head = Head::of(&request);
        let (unread, length) = (head.unread, head.length);
        let health = head.method == "GET" && head.target == "/v1/health" && !unread;
        let (weight, bloated) = (head.weight(&request), request.headers().len() > MAX_HEADERS);
        let peer = request.remote_addr().copied();
        let quick = !unread && peer.is_some() && weight <= LARGE_BYTES && routes::is_check(head.target);
        let ticket = notes.note_request(peer, if unread { Body::Unread } else { Body::Read });
        Exchange {
            request: Some(request),
            ticket: Some(ticket),
            peer,
            unread,
            length,
            weight,
            bloated,
            health,
            quick,
            shared_out: false,
            body: None,
            notes,
            shed: false,
            arrived: Instant::now(),
        }
    }

    /// The request. Never called once it is answered.
    fn request(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    /// The head, while the exchange lasts.
    pub fn head(&self) -> Option<Head<'_>> {
        self.request().map(Head::of)
    }

    /// Whether it takes much memory while it waits.
    pub fn is_large(&self) -> bool {
        self.weight > LARGE_BYTES
    }

    /// Whether it asks for no more than health.
    pub fn is_health(&self) -> bool {
        self.health
    }

    /// The connection was given up: this must not be answered, since it may be part of another request's body.
    pub fn is_doomed(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_doomed)
    }

    /// Whether tiny_http would allocate more than a body's bound when it lets go of this request.
    fn is_over_bound(&self) -> bool {
        self.request().and_then(Request::body_length).is_some_and(|length| length > MAX_BODY_BYTES)
    }

    /// Reads the body into `body`, up to one byte past its bound; the guard ends what takes too long.
    ///
    /// # Errors
    /// `body_too_large`; `invalid_json` when it can't be read to its end. The connection must not be used again then.
    pub fn read_body(&mut self, length: Option<u64>, body: &mut Vec<u8>) -> crate::error::Result<()> {
        body.clear();
        if let Some(read) = self.body.take() {
            *body = read;
            return Ok(());
        }
        if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) || self.is_over_bound() {
            return Err(too_large());
        }
        let Some(request) = self.request.as_mut() else { return Ok(()) };
        // The announced length bounds what is read where tiny_http does not.
        let most = length.unwrap_or(MAX_BODY_BYTES as u64 + 1);
        match request.as_reader().take(most).read_to_end(body) {
            Ok(read) if read > MAX_BODY_BYTES => return Err(too_large()),
            Ok(read) if length.is_some_and(|length| (read as u64) < length) => return Err(cut_short()),
            Ok(_) => {}
            Err(error) => {
                log::debug!("a body could not be read: {error}");
                return Err(cut_short());
            }
        }
        if let Some(ticket) = self.ticket.as_mut() {
            ticket.body_done();
        }
        self.unread = false;
        Ok(())
    }

    /// Keeps the body that was read, for whoever takes this request over.
    pub fn keep_body(&mut self, body: &[u8]) {
        self.body = Some(body.to_vec());
    }

    /// Answers. What is left to send is for somebody who may wait for the client.
    pub fn reply(self, reply: &Reply, close: bool, head_only: bool) -> Option<Sending> {
        if self.is_over_bound() {
            self.reply_and_cut(reply, head_only);
            return None;
        }
        self.begin(reply.encode(close, head_only))
    }

    /// Begins to answer with these bytes. What is left to send is for somebody who may wait for the client.
    pub fn begin(mut self, bytes: Vec<u8>) -> Option<Sending> {
        let writer = self.request.take()?.into_writer();
        let (peer, ticket) = (self.peer, self.ticket.take());
        Sending { peer, unsent: Unsent { writer, bytes, sent: 0 }, ticket }.go_on()
    }

    /// Answers, and has the connection ended: nothing more of it is taken for a request.
    pub fn reply_and_cut(mut self, reply: &Reply, head_only: bool) {
        let bytes = reply.encode(true, head_only);
        let attributed = self.ticket.as_ref().is_some_and(Ticket::is_attributed);
        if self.is_over_bound() || (self.unread && !attributed) {
            self.send_and_forget(&bytes);
        } else if self.unread && self.shed {
            self.send_and_bury(&bytes);
        } else {
            self.send_and_end(bytes);
        }
    }

    /// Lets go of the request without an answer, and has the connection ended.
    pub fn discard(mut self, may_wait: bool) {
        let over_bound = self.is_over_bound();
        self.abandon();
        if let Some(peer) = self.peer.filter(|_| self.bloated || self.weight > LARGE_BYTES) {
            self.notes.cut_now(peer);
        }
        let Some(request) = self.request.take() else { return };
        if over_bound {
            // tiny_http keeps this connection; the guard counts it.
            std::mem::forget(request);
        } else if self.peer.is_none() {
            // The replies to those behind it would be taken for its own.
            let wish = self.notes.cut_unix();
            linger::bury(Remains::Unix(Box::new(request), self.notes, wish));
        } else if self.unread && !may_wait {
            // To drop it would wait for the body.
            linger::bury(Remains::Unanswered(Box::new(request)));
        } else {
            drop(request.into_writer());
        }
    }

    /// Has the guard end the connection once the client had time to read the reply.
    pub fn abandon(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.abandon();
        }
    }

    /// Gives the connection up before the reader is let go, so that no byte behind it is taken for a request.
    fn send_and_end(&mut self, bytes: Vec<u8>) {
        if let Some(ticket) = self.ticket.as_mut() {
            ticket.doom();
        }
        let Some(request) = self.request.take() else { return };
        let mut unsent = Unsent { writer: request.into_writer(), bytes, sent: 0 };
        if let Err(error) = unsent.finish(Instant::now()) {
            log::debug!("a reply could not be sent: {error}");
        }
    }

    /// Answers before the reader is let go, which would wait for the body; that is left to another thread.
    fn send_and_bury(&mut self, bytes: &[u8]) {
        let Some(ticket) = self.ticket.as_mut() else { return };
        ticket.doom();
        if let Some(stream) = self.send_and_keep(bytes) {
            linger::bury(Remains::Answered(stream));
        }
    }

    /// Answers without running tiny_http's destructor of its reader, which would allocate as many bytes as were
    /// announced. The connection is never read from again.
    fn send_and_forget(&mut self, bytes: &[u8]) {
        std::mem::forget(self.send_and_keep(bytes));
        self.abandon();
    }

    /// Answers, and returns what must not be dropped.
    fn send_and_keep(&mut self, bytes: &[u8]) -> Option<Box<dyn tiny_http::ReadWrite + Send>> {
        let request = self.request.take()?;
        // The one way to write and keep the reader goes by an interim reply.
        let writer = request.upgrade("close", tiny_http::Response::empty(100));
        let mut unsent = Unsent { writer, bytes: bytes.to_vec(), sent: 0 };
        if let Err(error) = unsent.finish(Instant::now()) {
            log::debug!("a reply could not be sent: {error}");
        }
        Some(unsent.writer)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.request.is_some() {
            let error = Error::new(Kind::Internal, "an error inside the server; its log on stderr says more");
            let bytes = Reply::error(&error).encode(true, false);
            if self.is_over_bound() {
                self.send_and_forget(&bytes);
            } else {
                self.send_and_end(bytes);
            }
        }
    }
}

/// A reply of which a part is sent. Dropped, it ends its connection.
pub struct Sending {
    /// The connection's address.
    pub peer: Option<SocketAddr>,
    unsent: Unsent<Box<dyn Write + Send>>,
    /// Taken when the reply is written.
    ticket: Option<Ticket>,
}

impl Sending {
    /// Sends what the socket takes in a moment; what is left comes back.
    fn go_on(mut self) -> Option<Sending> {
        match self.unsent.go_on() {
            Ok(false) => return Some(self),
            Ok(true) => drop(self.ticket.take()),
            Err(error) => log::debug!("a reply could not be sent: {error}"),
        }
        None
    }

    /// Sends the rest, waiting for the client as long as it may take.
    pub fn finish(mut self) {
        match self.unsent.finish(Instant::now()) {
            Ok(()) => drop(self.ticket.take()),
            Err(error) => log::debug!("a reply could not be sent: {error}"),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // Half a reply may have gone out.
        if let Some(ticket) = self.ticket.take() {
            ticket.abandon();
        }
    }
}

/// Bytes on their way to a client.
struct Unsent<W> {
    writer: W,
    bytes: Vec<u8>,
    /// How many the writer has taken; it may hold the last of them back until it is flushed.
    sent: usize,
}

impl<W: Write> Unsent<W> {
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

    /// Sends all, unless that takes longer than a client may leave a reply unread.
    fn finish(&mut self, begun: Instant) -> io::Result<()> {
        while !self.go_on()? {
            if begun.elapsed() > Duration::from_millis(SEND_TIMEOUT_MS) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

/// The error for a body over its bound.
fn too_large() -> Error {
    Error::new(Kind::BodyTooLarge, format!("the body is larger than {MAX_BODY_BYTES} bytes; send less at once"))
}

fn cut_short() -> Error {
    Error::new(Kind::InvalidJson, "the body could not be read to its end")
}
