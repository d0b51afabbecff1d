//! A client for a running server: one connection, one request, one reply.
//!
//! Owns: server addresses, the sockets to them, and the parsing of replies within their bounds. Called by `target`. No
//! request is ever sent twice: what has been sent may have been carried out, whatever became of the reply.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::bounds::{CONNECT_MS, MAX_REPLY_HEAD_BYTES};
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `http://HOST:PORT`, with HOST:PORT as it stands in the URL.
    Tcp(String),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl Address {
    /// Reads `http://HOST:PORT` or `unix:PATH`; `source` says where the URL was given.
    ///
    /// # Errors
    /// `usage`, naming the source.
    pub fn parse(url: &str, source: &str) -> Result<Address> {
        let wrong = |what: &str| Err(Error::new(Kind::Usage, format!("{source} {what}, not `{}`", excerpt(url))));
        if let Some(path) = url.strip_prefix("unix:") {
            return match path.is_empty() || path.contains('\0') {
                true => wrong("must name a socket, such as unix:/run/flint.sock"),
                false => Ok(Address::Unix(path.into())),
            };
        }
        let scheme = |scheme: &str| url.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
        if scheme("https://") {
            return wrong(
                "must begin with http:// or unix: (flint speaks no TLS; put a proxy that does on both machines)",
            );
        }
        if !scheme("http://") {
            return wrong("must be http://HOST:PORT or unix:PATH");
        }
        let authority = url["http://".len()..].trim_end_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return wrong("must be http://HOST:PORT or unix:PATH");
        }
        // A colon within brackets belongs to an IPv6 address.
        let port = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        match port {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(authority.to_owned()))
            }
            Some(_) => wrong("must be http://HOST:PORT or unix:PATH"),
            None => Ok(Address::Tcp(format!("{authority}:80"))),
        }
    }

    fn connect(&self) -> io::Result<Stream> {
        let patience = Duration::from_millis(CONNECT_MS);
        match self {
            Address::Unix(path) => connect_unix(path, patience).map(Stream::Unix),
            Address::Tcp(authority) => {
                let deadline = Instant::now() + patience;
                let mut last = io::Error::other("the name has no address");
                for address in authority.to_socket_addrs()? {
                    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                    match TcpStream::connect_timeout(&address, left) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

/// The standard library knows no time-out for connecting to a Unix socket, whose server may be too busy to accept; on
/// Linux the time-out for sending counts for it.
fn connect_unix(path: &std::path::Path, patience: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(authority) => write!(f, "http://{authority}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

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

/// A connection on which nothing has been sent yet.
pub struct Connection {
    stream: Stream,
    address: Address,
}

/// Why there is no connection.
#[derive(Debug)]
pub struct NoConnection {
    /// Whether nobody listens there, as after a server has stopped.
    pub refused: bool,
    pub error: Error,
}

impl Connection {
    /// Connects.
    pub fn open(address: &Address) -> std::result::Result<Connection, NoConnection> {
        match address.connect() {
            Ok(stream) => Ok(Connection { stream, address: address.clone() }),
            Err(error) => Err(NoConnection {
                refused: matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
                error: Error::new(
                    Kind::Unreachable,
                    format!("cannot reach the server at {address}: {error}; is it running?"),
                ),
            }),
        }
    }

    /// Sends the request and reads the reply: its status and its body.
    ///
    /// # Errors
    /// `unreachable`, when there is no reply, or none that can be understood.
    pub fn send(self, request: &Request, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
        let Connection { stream, address } = self;
        let mut stream = Timed { stream, deadline: Instant::now() + request.patience };
        let host = match &address {
            Address::Tcp(authority) => authority,
            Address::Unix(_) => "localhost",
        };
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n",
            request.method,
            request.url,
            request.body.len()
        );
        if let Some(token) = token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        let sent = stream.write_all(format!("{head}\r\n{}", request.body).as_bytes());
        // A server may refuse a body without reading it: its reply counts, not that the rest could not be sent.
        receive(&mut stream, request.most).map_err(|problem| {
            let what = match (sent, problem) {
                (Err(error), Problem::Io(_)) => Problem::Io(error).to_string(),
                (_, problem) => problem.to_string(),
            };
            let doubt = if request.method == "GET" { "" } else { "; the request may have been carried out or not" };
            Error::new(Kind::Unreachable, format!("the server at {address} {what}{doubt}"))
        })
    }
}

/// What can be wrong with a reply.
#[derive(Debug)]
enum Problem {
    Io(io::Error),
    Closed,
    NotHttp,
    LongHead,
    LongBody(usize),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind::{ConnectionReset, TimedOut, WouldBlock};
        match self {
            Problem::Io(error) if matches!(error.kind(), TimedOut | WouldBlock) => {
                write!(f, "did not answer in time")
            }
            Problem::Io(error) if error.kind() == ConnectionReset => Problem::Closed.fmt(f),
            Problem::Io(error) => write!(f, "could not be talked to: {error}"),
            Problem::Closed => write!(f, "closed the connection before its answer was complete"),
            Problem::NotHttp => write!(f, "answered with something that is not HTTP; is it a flint server?"),
            Problem::LongHead => {
                write!(f, "sent a head of more than {MAX_REPLY_HEAD_BYTES} bytes; is it a flint server?")
            }
            Problem::LongBody(most) => write!(f, "sent a body of more than {most} bytes; is it a flint server?"),
        }
    }
}

/// What is looked at of a reply's head.
struct Head {
    bytes: usize,
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

/// Reads a head, if it is complete.
fn parse_head(bytes: &[u8]) -> std::result::Result<Option<Head>, Problem> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Problem::NotHttp),
    };
    let mut head = Head { bytes: length, status: response.code.unwrap_or(0), length: None, chunked: false };
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("Content-Length") {
            let length = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
            let length = length.and_then(|value| value.parse().ok()).ok_or(Problem::NotHttp)?;
            if head.length.replace(length).is_some_and(|other| other != length) {
                return Err(Problem::NotHttp);
            }
        } else if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            if !value.eq_ignore_ascii_case("chunked") || head.chunked {
                return Err(Problem::NotHttp);
            }
            head.chunked = true;
        }
    }
    // Two lengths would let two readers disagree on where the reply ends.
    if head.chunked && head.length.is_some() { Err(Problem::NotHttp) } else { Ok(Some(head)) }
}

/// Reads status and body.
fn receive(stream: &mut impl Read, most: usize) -> std::result::Result<(u16, Vec<u8>), Problem> {
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
            return Err(Problem::LongHead);
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 => return Err(Problem::Closed),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    };
    let rest = bytes.split_off(head.bytes);
    let source = rest.as_slice().chain(stream);
    let mut body = Vec::new();
    let bound = most as u64 + 1;
    match head.length {
        Some(length) if length > most as u64 => return Err(Problem::LongBody(most)),
        Some(length) => {
            if source.take(length).read_to_end(&mut body)? as u64 != length {
                return Err(Problem::Closed);
            }
        }
        None if head.chunked => {
            // The decoder itself knows no bound for what stands between the chunks.
            let mut decoder = chunked_transfer::Decoder::new(io::BufReader::new(source.take(2 * bound + 1024)));
            let read = decoder.by_ref().take(bound).read_to_end(&mut body);
            match read {
                Ok(read) if read > most => return Err(Problem::LongBody(most)),
                Ok(_) if decoder.remaining_chunks_size().is_none() => {}
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error.into()),
                _ => return Err(Problem::Closed),
            }
        }
        None => {
            if source.take(bound).read_to_end(&mut body)? > most {
                return Err(Problem::LongBody(most));
            }
        }
    }
    Ok((head.status, body))
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream on which everything together must be done by the deadline.
struct Timed {
    stream: Stream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.left()?;
        match &mut self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(bytes)),
            Stream::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(bytes)),
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left()?;
        match &mut self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
            Stream::Unix(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, shown) in [
            ("http://127.0.0.1:7878", "http://127.0.0.1:7878"),
            ("HTTP://localhost:1/", "http://localhost:1"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://quota", "http://quota:80"),
            ("unix:/run/flint.sock", "unix:/run/flint.sock"),
        ] {
            assert_eq!(Address::parse(url, "--server").unwrap().to_string(), shown, "{url}");
        }
        for url in [
            "",
            "http://",
            "http://a b:1",
            "http://u@h:1",
            "http://h:1/path",
            "http://h:99999",
            "http://:1",
            "ftp://h:1",
            "localhost:7878",
            "unix:",
            "http://h:1\r\nX: y",
            "http://h:",
        ] {
            let error = Address::parse(url, "--server").unwrap_err();
            assert!(error.kind() == Kind::Usage && error.message().starts_with("--server must"), "{url}: {error}");
        }
        assert!(Address::parse("https://h:1", "FLINT_SERVER").unwrap_err().message().contains("proxy"));
    }

    fn read(reply: &str, most: usize) -> std::result::Result<(u16, String), String> {
        match receive(&mut reply.as_bytes(), most) {
            Ok((status, body)) => Ok((status, String::from_utf8(body).unwrap())),
            Err(problem) => Err(problem.to_string()),
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
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = Connection { stream: Stream::Unix(ours), address: Address::Unix("/s".into()) };
        let patience = Duration::from_millis(50);
        let request = Request { method: "POST", url: "/".into(), body: String::new(), most: 10, patience };
        let error = connection.send(&request, Some("secret")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(error.message().contains("in time") && error.message().contains("may have been"), "{error}");
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).unwrap();
        assert!(sent.starts_with("POST / HTTP/1.1\r\n") && sent.contains("Bearer secret\r\n"), "{sent}");
    }
}
