//! Shared mode: sockets and HTTP around one limiter.
//!
//! Owns: the listener, the accept thread, the pool of workers and the queue between them. tiny_http reads heads and
//! small bodies in a thread per connection; what it hands over is queued for the pool, and answered `overloaded` at
//! once when the queue is full. Nothing here decides anything about quotas.

mod access;
mod body;
mod reply;
mod routes;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tiny_http::Request;

pub use self::access::{Bind, Tokens, read_token_file};
pub use self::routes::answer;

use self::reply::Reply;
use crate::bounds::{MAX_BODY_BYTES, STACK_BYTES};
use crate::error::{Error, Kind, Result};
use crate::limiter::Limiter;

/// How a server is started.
pub struct Config {
    /// Where it listens.
    pub bind: Bind,
    /// Who may ask; everybody, if empty.
    pub tokens: Tokens,
    /// Worker threads.
    pub workers: usize,
    /// Names by which it may be called in a `Host` header, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Permissions of a Unix socket.
    pub socket_mode: u32,
}

/// Refuses to serve other machines without a token. To be called before any file is touched.
///
/// # Errors
/// `usage`, with the address as it was given.
pub fn refuse_open_bind(bind: &Bind, given: &str, tokens: &Tokens) -> Result<()> {
    if tokens.is_empty() && !bind.is_local() {
        return Err(Error::new(
            Kind::Usage,
            format!("refusing to bind shared mode to a non-loopback address without --token: {given}"),
        ));
    }
    Ok(())
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    url: String,
    accept: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    socket: Option<PathBuf>,
}

struct Shared {
    limiter: Arc<Limiter>,
    tokens: Tokens,
    hosts: Vec<String>,
    /// Only this machine's users reach a Unix socket; no browser does.
    any_host: bool,
    stopping: AtomicBool,
    http: Mutex<Option<Arc<tiny_http::Server>>>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn serve(&self) -> std::result::Result<tiny_http::Server, String> {
        let listener: tiny_http::Listener = match self {
            Listener::Tcp(listener) => listener.try_clone().map_err(|error| error.to_string())?.into(),
            Listener::Unix(listener) => listener.try_clone().map_err(|error| error.to_string())?.into(),
        };
        tiny_http::Server::from_listener(listener, None).map_err(|error| error.to_string())
    }
}

impl Server {
    /// Binds and serves. When this returns, requests are answered.
    ///
    /// # Errors
    /// `io` when the address can't be bound.
    pub fn start(config: Config, limiter: Arc<Limiter>) -> Result<Server> {
        let (listener, url, socket) = bind(&config)?;
        let shared = Arc::new(Shared {
            limiter,
            tokens: config.tokens,
            hosts: config.hosts,
            any_host: socket.is_some(),
            stopping: AtomicBool::new(false),
            http: Mutex::new(None),
        });
        let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot start a thread: {error}"));
        let (queue, requests) = bounded(config.workers.max(64));
        let mut workers = Vec::with_capacity(config.workers);
        for index in 0..config.workers {
            let (shared, requests) = (Arc::clone(&shared), requests.clone());
            let worker = thread::Builder::new()
                .name(format!("flint-http-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&shared, &requests))
                .map_err(failed)?;
            workers.push(worker);
        }
        let first = listener.serve().map_err(|error| Error::new(Kind::Io, format!("cannot serve: {error}")))?;
        let accept = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("flint-accept".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || accept(&shared, &listener, first, &queue))
                .map_err(failed)?
        };
        shared.limiter.announce(&url)?;
        Ok(Server { shared, url, accept: Some(accept), workers, socket })
    }

    /// The server's URL, with the real port.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops accepting, answers what is in flight, and ends the threads.
    pub fn stop(mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(http) = &*self.shared.http.lock().unwrap_or_else(PoisonError::into_inner) {
            http.unblock();
        }
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
        // The accept thread held the queue's sender: the workers end when it is empty.
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(config: &Config) -> Result<(Listener, String, Option<PathBuf>)> {
    match &config.bind {
        Bind::Tcp(addresses) => {
            let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot bind {}: {error}", addresses[0]));
            let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
            // Accepted sockets inherit both. A reply must not wait for the client's delayed ACK, and a client that
            // does not read must not hold a worker.
            rustix::net::sockopt::set_tcp_nodelay(&listener, true).map_err(|error| failed(error.into()))?;
            let timeout = Some(Duration::from_secs(10));
            rustix::net::sockopt::set_socket_timeout(&listener, rustix::net::sockopt::Timeout::Send, timeout)
                .map_err(|error| failed(error.into()))?;
            let url = format!("http://{}", listener.local_addr().map_err(failed)?);
            Ok((Listener::Tcp(listener), url, None))
        }
        Bind::Unix(path) => {
            let failed =
                |error: std::io::Error| Error::new(Kind::Io, format!("cannot bind unix:{}: {error}", path.display()));
            remove_stale_socket(path)?;
            let listener = UnixListener::bind(path).map_err(failed)?;
            let mode = std::fs::Permissions::from_mode(config.socket_mode);
            std::fs::set_permissions(path, mode).map_err(failed)?;
            let absolute = std::path::absolute(path).map_err(failed)?;
            Ok((Listener::Unix(listener), format!("unix:{}", absolute.display()), Some(absolute)))
        }
    }
}

/// Removes a socket file that no server listens on any more. No other file is ever removed.
fn remove_stale_socket(path: &Path) -> Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let in_the_way = |what: &str| Error::new(Kind::Io, format!("cannot bind unix:{}: {what}", path.display()));
    if !metadata.file_type().is_socket() {
        return Err(in_the_way("a file that is no socket stands there"));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(in_the_way("another server listens there"));
    }
    std::fs::remove_file(path).map_err(|error| in_the_way(&error.to_string()))
}

/// The accept thread: hands requests to the pool. tiny_http ends its own accept loop on the first error (out of
/// descriptors, say); a new one is then put on the same listener.
fn accept(shared: &Shared, listener: &Listener, first: tiny_http::Server, queue: &Sender<Request>) {
    let mut next = Some(first);
    while !shared.stopping.load(Ordering::Acquire) {
        let http = match next.take().map_or_else(|| listener.serve(), Ok) {
            Ok(http) => Arc::new(http),
            Err(error) => {
                log::error!("cannot accept connections, trying again: {error}");
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        *shared.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&http));
        while !shared.stopping.load(Ordering::Acquire) {
            match http.recv() {
                Ok(request) => dispatch(shared, queue, request),
                Err(error) if shared.stopping.load(Ordering::Acquire) => log::debug!("stopping: {error}"),
                Err(error) => {
                    log::error!("accepting connections failed, trying again: {error}");
                    thread::sleep(Duration::from_millis(100));
                    break;
                }
            }
        }
        *shared.http.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // What was read before the stop is in flight, and is answered.
        while let Ok(Some(request)) = http.try_recv() {
            dispatch(shared, queue, request);
        }
    }
}

fn dispatch(shared: &Shared, queue: &Sender<Request>, request: Request) {
    if let Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) = queue.try_send(request) {
        // Health is answered here too: it needs neither the disk nor a worker.
        let head = Head::of(&request);
        let reply = match authorise(shared, &head) {
            Ok(()) if head.method == "GET" && head.url == "/v1/health" => routes::health(&shared.limiter),
            Ok(()) => Reply::error(&Error::new(Kind::Overloaded, "too many requests at once; try again in a second")),
            Err(error) => Reply::error(&error),
        };
        send(request, &reply, head.close, head.method == "HEAD");
    }
}

fn work(shared: &Shared, requests: &Receiver<Request>) {
    let mut body = Vec::new();
    while let Ok(request) = requests.recv() {
        let handled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle(shared, request, &mut body)));
        if handled.is_err() {
            // tiny_http answers a request that is dropped with 500.
            log::error!("a request's handler panicked; that request alone was answered 500");
        }
        body.clear();
        body.shrink_to(64 * 1024);
    }
}

/// What is looked at of a request's head.
struct Head {
    method: String,
    url: String,
    authorization: Option<String>,
    host: Option<String>,
    origin: bool,
    /// Length of the body as announced; `None` for a chunked body or none.
    content_length: Option<u64>,
    /// Whether it can't be told where the body ends, or who asks.
    ambiguous: bool,
    close: bool,
}

impl Head {
    fn of(request: &Request) -> Head {
        let mut head = Head {
            method: request.method().to_string(),
            url: request.url().to_owned(),
            authorization: None,
            host: None,
            origin: false,
            content_length: None,
            ambiguous: false,
            close: *request.http_version() < tiny_http::HTTPVersion(1, 1),
        };
        let mut chunked = false;
        for header in request.headers() {
            let value = header.value.as_str();
            let is = |name: &'static str| header.field.equiv(name);
            if is("Authorization") {
                head.ambiguous |= head.authorization.replace(value.to_owned()).is_some();
            } else if is("Host") {
                head.ambiguous |= head.host.replace(value.to_owned()).is_some();
            } else if is("Origin") {
                head.origin = true;
            } else if is("Content-Length") {
                // `+5` would be read as 5 here, and as something else elsewhere.
                let length = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
                head.ambiguous |= length.is_none() || head.content_length.is_some();
                head.content_length = length.max(head.content_length);
            } else if is("Transfer-Encoding") {
                head.ambiguous |= chunked || !value.eq_ignore_ascii_case("chunked");
                chunked = true;
            } else if is("Connection") {
                let value = value.to_ascii_lowercase();
                head.close = value.contains("close") || (head.close && !value.contains("keep-alive"));
            }
        }
        head.ambiguous |= chunked && head.content_length.is_some();
        head
    }
}

fn authorise(shared: &Shared, head: &Head) -> Result<()> {
    if !shared.tokens.is_empty() && !shared.tokens.accept(head.authorization.as_deref()) {
        return Err(Error::new(Kind::Unauthorized, "a bearer token is needed: Authorization: Bearer TOKEN"));
    }
    if head.origin {
        return Err(Error::new(Kind::ForbiddenOrigin, "requests of web pages (with an Origin header) are refused"));
    }
    match &head.host {
        Some(host) if !shared.any_host && !access::is_own_host(host, &shared.hosts) => Err(Error::new(
            Kind::ForbiddenOrigin,
            format!(
                "host `{}` is not a name of this server; use its address, or start it with --allow-host",
                crate::limit::excerpt(host)
            ),
        )),
        _ => Ok(()),
    }
}

fn handle(shared: &Shared, mut request: Request, body: &mut Vec<u8>) {
    let head = Head::of(&request);
    let too_large =
        || Error::new(Kind::BodyTooLarge, format!("the body is larger than {MAX_BODY_BYTES} bytes; send less at once"));
    let refused = if head.ambiguous {
        Some(Error::invalid(
            "headers Content-Length, Transfer-Encoding, Host and Authorization must stand once, the first as a number of \
             bytes and not together with the second, which must be chunked",
        ))
    } else {
        authorise(shared, &head).err()
    };
    let over = head.content_length.is_some_and(|length| length > MAX_BODY_BYTES as u64);
    match refused {
        Some(error) if over => return refuse_body(request, &Reply::error(&error)),
        Some(error) => {
            return send(request, &Reply::error(&error), head.close || head.ambiguous, head.method == "HEAD");
        }
        None if over => return refuse_body(request, &Reply::error(&too_large())),
        None => {}
    }
    body.clear();
    let reply = match request.as_reader().take(MAX_BODY_BYTES as u64 + 1).read_to_end(body) {
        Ok(length) if length > MAX_BODY_BYTES => Reply::error(&too_large()),
        Ok(_) => routes::answer(&shared.limiter, &head.method, &head.url, body),
        Err(error) => {
            log::debug!("a body could not be read: {error}");
            Reply::error(&Error::new(Kind::InvalidJson, "the body could not be read to its end"))
        }
    };
    send(request, &reply, head.close, head.method == "HEAD");
}

fn send(request: Request, reply: &Reply, close: bool, head_only: bool) {
    let bytes = reply.encode(close, head_only);
    let mut writer = request.into_writer();
    if let Err(error) = writer.write_all(&bytes).and_then(|()| writer.flush()) {
        log::debug!("a reply could not be sent: {error}");
    }
}

/// Answers without reading the body, and without running tiny_http's destructor of its reader, which would allocate
/// as many bytes as were announced. The connection is never read from again.
fn refuse_body(request: Request, reply: &Reply) {
    let interim = tiny_http::Response::empty(100);
    let mut stream = request.upgrade("close", interim);
    if let Err(error) = stream.write_all(&reply.encode(true, false)).and_then(|()| stream.flush()) {
        log::debug!("a reply could not be sent: {error}");
    }
    std::mem::forget(stream);
}
