//! A client for a running server: one connection, one request, one reply.
//!
//! Owns: the sockets to servers, and the parsing of replies within their bounds. Called by `session`. No request is
//! ever sent twice: what has been sent may have been carried out, even if no reply came.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, send, socket_with};
use serde_json::Value;

use crate::bounds::{CONNECT_MS, MAX_REPLY_BYTES, MAX_REPLY_HEAD_BYTES, REPLY_MS};
use crate::cli::options::Address;
use crate::error::{Error, Kind, Result};

/// A request and what its reply may be.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: &'static str,
    /// Path and query, percent-encoded.
    pub url: String,
    pub body: String,
    /// Largest body of the reply, in bytes.
    pub most: usize,
    /// How long the reply may take.
    pub patience: Duration,
}

impl Request {
    /// A request with an empty body.
    pub fn new(method: &'static str, url: impl Into<String>) -> Request {
        let (most, patience) = (MAX_REPLY_BYTES, Duration::from_millis(REPLY_MS));
        Request { method, url: url.into(), body: String::new(), most, patience }
    }

    /// A POST of JSON.
    pub fn post(url: &str, body: &Value) -> Request {
        Request { body: body.to_string(), ..Request::new("POST", url) }
    }
}

/// Text as a part of a path or query.
pub fn encode(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A connection on which nothing has been sent yet.
pub struct Connection {
    socket: OwnedFd,
    address: Address,
}

fn connect(address: &Address) -> io::Result<OwnedFd> {
    let patience = Duration::from_millis(CONNECT_MS);
    let authority = match address {
        Address::Unix(path) => return connect_unix(path, patience),
        Address::Tcp(authority) => authority,
    };
    let deadline = Instant::now() + patience;
    let mut last = io::Error::other("the host name has no address");
    for address in authority.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The standard library has no time-out for connecting to a Unix socket, whose server may be too busy to accept. On
/// Linux the time-out for sending counts for it.
fn connect_unix(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Why there is no connection.
#[derive(Debug)]
pub struct NoConnection {
    /// Whether no process listens there, as after a server has stopped.
    pub refused: bool,
    pub error: Error,
}

impl Connection {
    /// Connects.
    pub fn open(address: &Address) -> std::result::Result<Connection, NoConnection> {
        match connect(address) {
            Ok(socket) => Ok(Connection { socket, address: address.clone() }),
            Err(error) => {
                let refused = matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
                let message = format!("cannot reach the server at {address}: {error}; is it running?");
                Err(NoConnection { refused, error: Error::new(Kind::Unreachable, message) })
            }
        }
    }

    /// Sends the request and reads the reply: its status and its body.
    ///
    /// # Errors
    /// `unreachable`, when no reply comes, or the reply is not HTTP or over a bound.
    pub fn send(self, request: &Request, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
        let Connection { socket, address } = self;
        let mut stream = Timed { socket, deadline: Instant::now() + request.patience };
        let sent = write_request(&mut stream, &address, request, token, "1.1");
        // A server may refuse a body without reading it: its reply counts more than an error of sending.
        receive(&mut stream, request.most).map_err(|error| {
            let what = describe(&if is_failure(&error) { sent.err().unwrap_or(error) } else { error });
            let doubt = if request.method == "GET" { "" } else { "; the request may or may not have been carried out" };
            Error::new(Kind::Unreachable, format!("the server at {address} {what}{doubt}"))
        })
    }

    /// Sends the request, and reads the reply's head: its body is read as it comes, however long it is. By HTTP/1.0, in
    /// which it ends with the connection; the reader must know by itself whether that was all.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn download(self, request: &Request, token: Option<&str>) -> Result<Download> {
        let Connection { socket, address } = self;
        let mut stream = Timed { socket, deadline: Instant::now() + request.patience };
        let sent = write_request(&mut stream, &address, request, token, "1.0");
        let received = receive_head(&mut stream).and_then(|(head, rest)| match (head.status, head.chunked) {
            (200, false) => Ok(Download::Body(Body { rest: io::Cursor::new(rest), stream })),
            (200, true) => Err(not_flint("sent chunks to a client that does not know them")),
            _ => {
                let status = head.status;
                let body = receive_body(&mut stream, head, rest, request.most)?;
                Ok(Download::Refused(status, body))
            }
        });
        received.map_err(|error| {
            let what = describe(&if is_failure(&error) { sent.err().unwrap_or(error) } else { error });
            Error::new(Kind::Unreachable, format!("the server at {address} {what}"))
        })
    }
}

/// What comes of a request for a long body.
pub enum Download {
    Body(Body),
    /// The reply has another status than 200, and this body.
    Refused(u16, Vec<u8>),
}

/// A body that is read as it comes. Each read may take [`REPLY_MS`].
pub struct Body {
    rest: io::Cursor<Vec<u8>>,
    stream: Timed,
}

impl Read for Body {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.rest.read(bytes)? {
            0 => {}
            read => return Ok(read),
        }
        self.stream.deadline = Instant::now() + Duration::from_millis(REPLY_MS);
        self.stream.read(bytes).map_err(|error| match error.kind() {
            ErrorKind::Interrupted => error,
            _ => io::Error::other(format!("the server {}", describe(&error))),
        })
    }
}

fn write_request(
    stream: &mut Timed,
    address: &Address,
    request: &Request,
    token: Option<&str>,
    version: &str,
) -> io::Result<()> {
    let host = match address {
        Address::Tcp(authority) => authority,
        Address::Unix(_) => "localhost",
    };
    let Request { method, url, body, .. } = request;
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let head = format!("{method} {url} HTTP/{version}\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
    stream.write_all(format!("{head}Connection: close\r\n{authorization}\r\n{body}").as_bytes())
}

/// The error for a reply that is not one of flint's.
fn not_flint(what: impl fmt::Display) -> io::Error {
    io::Error::other(format!("{what}; is it a flint server?"))
}

/// Whether the connection failed, as opposed to a reply that is not whole or not flint's.
fn is_failure(error: &io::Error) -> bool {
    error.get_ref().is_none() && error.kind() != ErrorKind::UnexpectedEof
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "did not answer in time".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
            "closed the connection before its answer was complete".to_owned()
        }
        _ if is_failure(error) => format!("had a connection error: {error}"),
        _ => error.to_string(),
    }
}

/// What counts of a reply's head.
struct Head {
    bytes: usize,
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

/// Reads a head, if it is complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let not_http = || not_flint("answered with something that is not HTTP");
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(not_http()),
    };
    let mut head = Head { bytes: length, status: response.code.unwrap_or(0), length: None, chunked: false };
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("Content-Length") {
            let length = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
            let length = length.and_then(|value| value.parse().ok()).ok_or_else(not_http)?;
            if head.length.replace(length).is_some_and(|other| other != length) {
                return Err(not_http());
            }
        } else if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            if !value.eq_ignore_ascii_case("chunked") || head.chunked {
                return Err(not_http());
            }
            head.chunked = true;
        }
    }
    // With two lengths, two readers could disagree on where the reply ends.
    if head.chunked && head.length.is_some() { Err(not_http()) } else { Ok(Some(head)) }
}

/// Reads status and body.
fn receive(stream: &mut impl Read, most: usize) -> io::Result<(u16, Vec<u8>)> {
    let (head, rest) = receive_head(stream)?;
    let status = head.status;
    receive_body(stream, head, rest, most).map(|body| (status, body))
}

/// Reads the head, and what came with it of the body.
fn receive_head(stream: &mut impl Read) -> io::Result<(Head, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut passed = 0;
    let head = loop {
        match parse_head(&bytes)? {
            // An interim reply, as of a proxy; the bound on the head counts them all.
            Some(head) if head.status < 200 => {
                bytes.drain(..head.bytes);
                passed += head.bytes;
                continue;
            }
            Some(head) => break head,
            None => {}
        }
        if passed + bytes.len() >= MAX_REPLY_HEAD_BYTES {
            return Err(not_flint(format!("sent a head of more than {MAX_REPLY_HEAD_BYTES} bytes")));
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    };
    let rest = bytes.split_off(head.bytes);
    Ok((head, rest))
}

/// Reads the rest of a body.
fn receive_body(stream: &mut impl Read, head: Head, rest: Vec<u8>, most: usize) -> io::Result<Vec<u8>> {
    let source = rest.as_slice().chain(stream);
    let mut body = Vec::new();
    let bound = most as u64 + 1;
    let too_long = || Err(not_flint(format!("sent a body of more than {most} bytes")));
    let whole = match head.length {
        Some(length) if length > most as u64 => return too_long(),
        Some(length) => source.take(length).read_to_end(&mut body)? as u64 == length,
        None if head.chunked => {
            // The decoder has no bound for what is between the chunks.
            let mut decoder = chunked_transfer::Decoder::new(io::BufReader::new(source.take(2 * bound + 1024)));
            match decoder.by_ref().take(bound).read_to_end(&mut body) {
                Err(error) if error.kind() != ErrorKind::InvalidInput => return Err(error),
                read => read.is_ok() && decoder.remaining_chunks_size().is_none(),
            }
        }
        None => source.take(bound).read_to_end(&mut body).map(|_| true)?,
    };
    match (body.len() > most, whole) {
        (true, _) => too_long(),
        (false, true) => Ok(body),
        (false, false) => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// A socket on which everything together must be done by the deadline.
struct Timed {
    socket: OwnedFd,
    deadline: Instant,
}

impl Timed {
    /// Lets the next call on the socket take no longer than the time that is left.
    fn limit(&self, call: Timeout) -> io::Result<()> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(set_socket_timeout(&self.socket, call, Some(left))?),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.limit(Timeout::Recv)?;
        Ok(rustix::io::read(&self.socket, bytes)?)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit(Timeout::Send)?;
        Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::excerpt;

    fn read(reply: &str, most: usize) -> std::result::Result<(u16, String), String> {
        match receive(&mut reply.as_bytes(), most) {
            Ok((status, body)) => Ok((status, String::from_utf8(body).unwrap())),
            Err(error) => Err(describe(&error)),
        }
    }

    #[test]
    fn replies() {
        let ok = |body: &str| Ok((200, body.to_owned()));
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcd", 2), ok("ab"));
        assert_eq!(read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 2), ok(""));
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\nabc", 3), ok("abc"));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(&format!("{chunked}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), 5), ok("abcde"));
        for (reply, word) in [
            ("", "closed"),
            ("HTTP/1.1 200 OK\r\nContent-Le", "closed"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "closed"),
            (&format!("{chunked}3\r\nab"), "closed"),
            (&format!("{chunked}3\r\nabc\r\n"), "closed"),
            (&format!("{chunked}zz\r\nabc\r\n"), "closed"),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", "not HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nabc", "more than 5 bytes"),
            ("HTTP/1.1 200 OK\r\n\r\nabcdef", "more than 5 bytes"),
            (&format!("{chunked}6\r\nabcdef\r\n0\r\n\r\n"), "more than 5 bytes"),
            (&format!("{chunked}{}", "0".repeat(1 << 20)), "closed"),
            (&"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), "a head of more than"),
            (&format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_REPLY_HEAD_BYTES)), "a head of more than"),
        ] {
            let problem = read(reply, 5).unwrap_err();
            assert!(problem.contains(word), "{}: {problem}", excerpt(reply));
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for_longer_than_allowed() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let connection = Connection { socket: ours.into(), address: Address::Unix("/s".into()) };
        let request = Request { patience: Duration::from_millis(50), ..Request::new("POST", "/") };
        let error = connection.send(&request, Some("secret")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.message().contains("in time") && error.message().contains("may or may not have been"), "{error}");
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).unwrap();
        assert!(sent.starts_with("POST / HTTP/1.1\r\n") && sent.contains("Bearer secret\r\n"), "{sent}");
    }
}
