//! One request on its way to its reply: the only place where a tiny_http request is read, answered or released.
//!
//! Owns: the care that tiny_http's requests need. To drop one is to read the rest of its body (`EqualReader::drop`),
//! into a buffer of the length that was announced, which may wait for the client. So a request whose body may still
//! be on the socket is dropped by a thread that may wait, or after its socket was told not to; one with a length that
//! is too large to be allocated is never dropped.
//!
//! A socket that takes no more bytes fails a write after a moment (SO_SNDTIMEO). What is left of the reply
//! ([`Sending`]) is then for a thread that may wait for the client.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tiny_http::{Header, Request, Response};

use super::super::guard::{Body, GuardHandle, RequestGuard};
use super::super::tokens::Grant;
use super::super::waiting::turns::{Request as WaitingRequest, Turn};
use super::head::{Class, Find, Head};
use super::reply::{Reply, Then};
use super::unsent::{Counted, Unsent};
use crate::bounds::{MAX_BODY_BYTES, MAX_DROPPED_BODY_BYTES, MAX_LARGE_BODIES};
use crate::error::{Error, Kind, too_large};

/// One request. Dropped without a reply (a handler panicked), it is answered 500.
pub struct Exchange {
    /// Taken by whatever ends the exchange.
    request: Option<Request>,
    /// Dropped when the reply is written.
    request_guard: Option<RequestGuard>,
    /// Dropped last: then the connection's next request may be handled.
    turn: Option<Turn<Exchange>>,
    /// The connection's address; `None` on a Unix socket, whose connections can't be told apart.
    pub peer: Option<SocketAddr>,
    pub head: Head,
    /// What its token may do; `None` for everything. Set when it is admitted.
    pub grant: Option<Arc<Grant>>,
    /// The body, as far as it was read.
    body: Vec<u8>,
    guard: GuardHandle,
    /// Set while it is with a thread that may wait.
    away: Option<Counted>,
    /// Set while its large body counts among those that are taken at once.
    large: Option<Counted>,
    /// When it was handed over.
    pub arrived: Instant,
}

/// What a reply needs of its request.
pub struct Parts {
    pub peer: Option<SocketAddr>,
    pub writer: Box<dyn Write + Send>,
    pub request_guard: Option<RequestGuard>,
    pub turn: Option<Turn<Exchange>>,
    pub away: Option<Counted>,
}

/// How far a body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Done,
    /// Nothing more has arrived, and the socket was told not to wait for it.
    Waiting,
}

impl Exchange {
    /// Takes over a request that tiny_http has just handed out.
    pub fn new(request: Request, guard: GuardHandle, find: Find) -> Exchange {
        let head = Head::of(&request, find);
        let peer = request.remote_addr().copied();
        let request_guard = guard.note_request(peer, if head.unread { Body::Unread } else { Body::Read });
        Exchange {
            request: Some(request),
            request_guard: Some(request_guard),
            turn: None,
            peer,
            head,
            grant: None,
            body: Vec::new(),
            guard,
            away: None,
            large: None,
            arrived: Instant::now(),
        }
    }

    /// Notes that it is this request's turn.
    pub fn begin_turn(&mut self, turn: Turn<Exchange>) {
        self.turn = Some(turn);
    }

    /// Whether its connection's replies have found no room lately.
    pub fn is_slow(&self) -> bool {
        self.turn.as_ref().is_some_and(Turn::is_slow)
    }

    /// Counts it among the requests that are with threads that may wait, until its reply is sent.
    pub fn go_away(&mut self, away: &Arc<AtomicUsize>) {
        self.away.get_or_insert_with(|| Counted::of(away));
    }

    pub fn method(&self) -> &str {
        self.request.as_ref().map_or("", |request| request.method().as_str())
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        self.request.as_ref().map_or("/", |request| self.head.target(request.url()))
    }

    pub fn headers(&self) -> &[Header] {
        self.request.as_ref().map_or(&[], |request| request.headers())
    }

    pub fn authorization(&self) -> Option<&str> {
        self.head.authorization(self.request.as_ref()?.headers())
    }

    pub fn host(&self) -> Option<&str> {
        let request = self.request.as_ref()?;
        self.head.host(request.url(), request.headers())
    }

    /// Whether its reply may have to wait for another reply, from a thread that may wait.
    pub fn waits_for_others(&self, away: &AtomicUsize) -> bool {
        self.away.is_none() && away.load(Ordering::Relaxed) > 0
    }

    /// Whether the guard can tell its connection from others.
    pub fn is_attributed(&self) -> bool {
        self.request_guard.as_ref().is_some_and(RequestGuard::is_attributed)
    }

    /// The connection was given up: this must not be answered, since it may be part of another request's body.
    pub fn is_given_up(&self) -> bool {
        self.request_guard.as_ref().is_some_and(RequestGuard::is_given_up)
    }

    /// Whether the body that was announced is longer than may be read.
    pub fn is_over_bound(&self) -> bool {
        let announced = self.request.as_ref().and_then(Request::body_length);
        let most = self.head.max_body();
        announced.is_some_and(|length| length > most) || self.head.length.is_some_and(|length| length > most as u64)
    }

    /// Takes up a place among the large bodies that may be read at once, where its body is one: until it is answered.
    ///
    /// # Errors
    /// `overloaded` where none is free.
    pub fn admit_large(&mut self, large: &Arc<AtomicUsize>) -> crate::error::Result<()> {
        let is_large = self.head.length.is_some_and(|length| length > MAX_BODY_BYTES as u64);
        if !is_large || self.large.is_some() {
            return Ok(());
        }
        let place = Counted::of(large);
        if large.load(Ordering::Relaxed) > MAX_LARGE_BODIES {
            drop(place);
            let message = format!(
                "only {MAX_LARGE_BODIES} body of more than {MAX_BODY_BYTES} bytes is accepted at a time; try again in \
                 a second"
            );
            return Err(Error::new(Kind::Overloaded, message));
        }
        self.large = Some(place);
        if let Some(request_guard) = self.request_guard.as_mut() {
            request_guard.expect_large_body();
        }
        Ok(())
    }

    /// Whether tiny_http would allocate more than there is to spare when it releases the body's reader.
    fn must_be_kept(&self) -> bool {
        let announced = self.request.as_ref().and_then(Request::body_length);
        announced.is_some_and(|length| length > MAX_DROPPED_BODY_BYTES)
    }

    /// The body that was read.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Reads what there is of the body. Waits for more unless the socket was told not to.
    ///
    /// # Errors
    /// `body_too_large`; `invalid_json` when it can't be read to its end. The connection must not be used again then.
    pub fn read_body(&mut self) -> crate::error::Result<Progress> {
        if self.is_over_bound() {
            return Err(too_large(self.head.max_body()));
        }
        let Some(request) = self.request.as_mut() else { return Ok(Progress::Done) };
        // The announced length bounds what is read where tiny_http does not.
        let bound = self.head.max_body();
        let most = match self.head.length {
            Some(length) => length,
            None if self.head.chunked => bound as u64 + 1,
            // To ask tiny_http for a reader would send `100 Continue` to a request without a body.
            None => 0,
        };
        let left = most.saturating_sub(self.body.len() as u64);
        if left > 0 {
            self.body.reserve(self.head.length.map_or(0, |_| left as usize));
            match request.as_reader().take(left).read_to_end(&mut self.body) {
                Ok(_) => {}
                // What was read before is in the body.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Waiting),
                Err(error) => {
                    log::debug!("a body could not be read: {error}");
                    return Err(if self.head.chunked { bad_chunk() } else { cut_short() });
                }
            }
        }
        if self.body.len() > bound {
            return Err(too_large(bound));
        }
        if self.head.length.is_some_and(|length| (self.body.len() as u64) < length) {
            return Err(cut_short());
        }
        if let Some(request_guard) = self.request_guard.as_mut() {
            request_guard.body_done();
        }
        self.head.unread = false;
        Ok(Progress::Done)
    }

    /// What a reply needs of it. Lets go of tiny_http's reader.
    pub fn into_parts(mut self) -> Option<Parts> {
        let writer = self.request.take()?.into_writer();
        Some(Parts {
            peer: self.peer,
            writer,
            request_guard: self.request_guard.take(),
            turn: self.turn.take(),
            away: self.away.take(),
        })
    }

    /// Gives the connection up: nothing more of it is taken for a request.
    pub fn give_up(&mut self) {
        if let Some(request_guard) = self.request_guard.as_mut() {
            request_guard.give_up();
        }
    }

    /// Lets go of the request without an answer, and has the connection ended. No byte of the body must be on the
    /// socket any more, or the thread may wait for it.
    pub fn discard(mut self) {
        self.give_up();
        if let Some(peer) = self.peer.filter(|_| self.head.class == Class::Bloated || self.head.is_large()) {
            self.guard.cut_now(peer);
        }
        self.let_go();
    }

    /// Lets go of the request, and may wait for its client. On a Unix socket all connections must have been ended:
    /// before that, the replies to those after it would be taken for its own.
    pub fn discard_after_cut(mut self) {
        self.let_go();
    }

    /// Takes a body that is too long for an answer off the socket, if it is not much too long: then the connection can
    /// be answered like any other. Returns whether nothing of it is left. Waits for the client.
    pub fn drain_body(&mut self) -> bool {
        let keep = self.must_be_kept();
        let length = self.head.length.unwrap_or(0);
        let Some(request) = self.request.as_mut().filter(|_| length > 0) else { return true };
        if keep || self.head.chunked || length > MAX_DROPPED_BODY_BYTES as u64 {
            return false;
        }
        let read = io::copy(&mut request.as_reader().take(length), &mut io::sink());
        let done = read.is_ok_and(|read| read == length);
        if let (true, Some(request_guard)) = (done, self.request_guard.as_mut()) {
            request_guard.body_done();
        }
        done
    }

    /// Answers where the request may never be dropped, or only after its connection has ended. The connection is never
    /// read from again: tiny_http holds it until the process is replaced, and the guard counts it.
    pub fn send_and_keep(mut self, bytes: &[u8]) {
        let Some(request) = self.request.take() else { return };
        let Some((response, body)) = response(bytes) else { return std::mem::forget(request) };
        // The one way of tiny_http to write and keep the reader. It sends the head of a reply without a length or a
        // body, and says `Connection: upgrade`; what is lacking stands among the headers, and the body follows.
        let writer = request.upgrade("HTTP/1.1", response);
        let mut unsent = Unsent::new(writer, body.to_vec());
        if let Err(error) = unsent.finish(Instant::now()) {
            log::debug!("a reply could not be sent: {error}");
        }
        std::mem::forget(unsent);
        self.give_up();
    }

    fn let_go(&mut self) {
        let keep = self.must_be_kept();
        let Some(request) = self.request.take() else { return };
        // Without its writer it answers nothing.
        if keep {
            std::mem::forget(request);
        } else {
            drop(request.into_writer());
        }
    }
}

impl WaitingRequest for Exchange {
    fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn weight(&self) -> usize {
        self.head.weight
    }

    fn is_given_up(&self) -> bool {
        Exchange::is_given_up(self)
    }

    fn shed(&mut self) {
        self.head.class = Class::Shed;
    }

    fn begin_turn(&mut self, turn: Turn<Exchange>) {
        Exchange::begin_turn(self, turn);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.request.is_none() {
            return;
        }
        let error = Error::new(Kind::Internal, "an error inside the server; its log on stderr says more");
        let bytes = Reply::error(&error).encode(Then::Closed, false, false);
        self.give_up();
        let keep = self.must_be_kept();
        let Some(request) = self.request.take() else { return };
        if keep {
            std::mem::forget(request);
        } else if let Err(error) = Unsent::new(request.into_writer(), bytes).finish(Instant::now()) {
            log::debug!("a reply could not be sent: {error}");
        }
    }
}

/// The head of a reply as tiny_http sends it, and the body. The status line is tiny_http's own; all header lines are in
/// the value of one, since tiny_http would leave out `Connection` and `Content-Length`.
fn response(bytes: &[u8]) -> Option<(Response<io::Empty>, &[u8])> {
    const END: &[u8] = b"\r\n\r\n";
    let end = bytes.windows(END.len()).position(|window| window == END)?;
    let (status_line, lines) = std::str::from_utf8(&bytes[..end]).ok()?.split_once("\r\n")?;
    let status: u16 = status_line.split(' ').nth(1)?.parse().ok()?;
    let header = Header::from_bytes("Server", format!("flint\r\n{lines}")).ok()?;
    Some((Response::new(status.into(), vec![header], io::empty(), None, None), &bytes[end + END.len()..]))
}

fn bad_chunk() -> Error {
    let message = "the body could not be read to its end: a chunk begins with its size in hexadecimal digits, lines \
                   end with CR LF, and the last chunk, of size 0, is followed by an empty line; trailers are not \
                   accepted";
    Error::new(Kind::InvalidJson, message)
}

fn cut_short() -> Error {
    Error::new(Kind::InvalidJson, "the body could not be read to its end")
}
