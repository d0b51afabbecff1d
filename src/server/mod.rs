//! Shared mode: sockets and HTTP around one limiter.
//!
//! Owns: the listener, the thread that takes requests, the pool of workers and the queue between them. tiny_http reads
//! heads and small bodies in a thread per connection; of what it hands over checks are decided at once, the rest is
//! queued for the pool, and answered `overloaded` at once when the queue is full. Nothing here decides anything about
//! quotas.

mod access;
mod body;
mod exchange;
mod generation;
mod guard;
mod head;
mod lanes;
mod listen;
mod metrics;
mod parking;
mod pool;
#[cfg(test)]
mod properties;
mod reply;
mod routes;
#[allow(unsafe_code)]
mod sockets;
mod undertaker;

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

pub use self::access::{Bind, Tokens, read_token_file};
pub use self::routes::{ENDPOINTS, Endpoint, Sources, answer};

use self::exchange::{Exchange, Sending};
use self::generation::Generations;
use self::guard::{Alarm, ConnectionGuard, GuardConfig, Notes};
use self::listen::Listener;
use self::metrics::Metrics;
use self::parking::{Number, Outcome, Parked, Parking};
use self::pool::Pool;
use self::reply::Reply;
use crate::bounds::{
    BODY_TIMEOUT_MS, HEAD_TIMEOUT_MS, MAX_BODY_WIRE_BYTES, MAX_HEAD_BYTES, MAX_LEAKED, MAX_UNFINISHED_BYTES, RETIRE_MS,
    SEND_TIMEOUT_MS,
};
use crate::error::{Error, Kind, Result};
use crate::limiter::{Later, Limiter, SyncMode};
use crate::store::{self, Completion};

/// Descriptors that are kept for files and the server itself when connections are bounded by what the system allows.
const SPARE_DESCRIPTORS: u64 = 40;

/// How a server is started.
pub struct Config {
    /// Who may ask; everybody, if empty.
    pub tokens: Tokens,
    /// Worker threads.
    pub workers: usize,
    /// Names by which it may be called in a `Host` header, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// How long a connection may be silent between two requests.
    pub idle_timeout: Duration,
    /// Connections at once; more of them end the longest idle.
    pub max_connections: usize,
    /// Called, from any thread, when the process should be replaced by [`Server::replace`].
    pub on_worn: Box<dyn Fn() + Send + Sync>,
}

/// Refuses to serve other machines without a token. To be called before any file is touched.
///
/// # Errors
/// `usage`, with the address as it was given.
pub fn refuse_open_bind(bind: &Bind, given: &str, tokens: &Tokens) -> Result<()> {
    if tokens.is_empty() && !bind.is_local() {
        return Err(open_bind(given));
    }
    Ok(())
}

fn open_bind(address: &str) -> Error {
    Error::new(
        Kind::Usage,
        format!("refusing to bind shared mode to a non-loopback address without --token: {address}"),
    )
}

/// A listening socket that nobody accepts from yet.
pub struct Bound(Listener);

/// The socket that was passed to this process by a service manager or by its former image, if any. To be called
/// before any file is touched.
///
/// # Errors
/// `io` when what was passed is no listening stream socket; `usage` when it is open to others and there is no token.
pub fn passed_socket(tokens: &Tokens) -> Result<Option<Bound>> {
    let Some(listener) = Listener::passed()? else { return Ok(None) };
    if tokens.is_empty() && !listener.is_local() {
        return Err(open_bind(listener.url()));
    }
    Ok(Some(Bound(listener)))
}

/// Binds a socket.
///
/// # Errors
/// `io` when that can't be done.
pub fn bind(bind: &Bind, socket_mode: u32) -> Result<Bound> {
    Listener::bind(bind, socket_mode).map(Bound)
}

impl Bound {
    /// Whether a former image of this process had the socket.
    pub fn taken_over(&self) -> bool {
        self.0.taken_over()
    }
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    generations: Option<Generations>,
    pool: Option<Pool>,
    guard: ConnectionGuard,
}

/// What the threads of a server share.
pub(crate) struct Shared {
    limiter: Arc<Limiter>,
    /// Replaced when the token file is read again.
    tokens: RwLock<Tokens>,
    hosts: Vec<String>,
    /// Only this machine's users reach a Unix socket; no browser does.
    unix: bool,
    /// Connections are told to close: a new image of this program is about to take over.
    retiring: AtomicBool,
    notes: Notes,
    metrics: Metrics,
}

impl Server {
    /// Serves on a bound socket. When this returns, requests are answered.
    ///
    /// # Errors
    /// `io` when a thread can't be started.
    pub fn start(bound: Bound, config: Config, limiter: Arc<Limiter>) -> Result<Server> {
        let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot start the server: {error}"));
        let listener = Arc::new(bound.0);
        let descriptors = sockets::raise_nofile_limit().map_or(1024, |(_, after)| after);
        // tiny_http has two descriptors of each connection.
        let affordable = usize::try_from(descriptors.saturating_sub(SPARE_DESCRIPTORS) / 2).unwrap_or(usize::MAX);
        let guard_config = GuardConfig {
            idle_timeout: config.idle_timeout,
            head_timeout: Duration::from_millis(HEAD_TIMEOUT_MS),
            body_timeout: Duration::from_millis(BODY_TIMEOUT_MS),
            send_timeout: Duration::from_millis(SEND_TIMEOUT_MS),
            max_head_bytes: MAX_HEAD_BYTES,
            max_body_bytes: MAX_BODY_WIRE_BYTES,
            max_unfinished_bytes: MAX_UNFINISHED_BYTES,
            max_connections: config.max_connections.min(affordable.max(1)),
            max_clogged: config.workers.div_ceil(2),
            leaked_limit: MAX_LEAKED,
            ..GuardConfig::default()
        };
        let on_worn: Arc<dyn Fn() + Send + Sync> = Arc::from(config.on_worn);
        let (events, news) = generation::events();
        let (parking, news_of_parked) = Parking::new();
        let guard = {
            let parking = Arc::clone(&parking);
            let on_worn = Arc::clone(&on_worn);
            ConnectionGuard::start(
                &[listener.as_fd()],
                guard_config,
                Box::new(move |alarm| match alarm {
                    Alarm::Leaked(_) => on_worn(),
                    Alarm::Deaf => events.deaf(),
                }),
                Box::new(move |now| parking.expire(now)),
            )
            .map_err(failed)?
        };
        let shared = Arc::new(Shared {
            limiter,
            tokens: RwLock::new(config.tokens),
            hosts: config.hosts,
            unix: listener.is_unix(),
            retiring: AtomicBool::new(false),
            notes: guard.notes(),
            metrics: Metrics::default(),
        });
        let (intake, pool) = pool::start(&shared, config.workers, (parking, news_of_parked)).map_err(failed)?;
        let generations = Generations::start(&shared, &listener, intake, news, on_worn)?;
        shared.limiter.announce(listener.url())?;
        Ok(Server { shared, listener, generations: Some(generations), pool: Some(pool), guard })
    }

    /// The server's URL, with the real port.
    pub fn url(&self) -> &str {
        self.listener.url()
    }

    /// Replaces the set of tokens. Requests that come later need one of these.
    pub fn set_tokens(&self, tokens: Tokens) {
        *self.shared.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Stops listening, answers what is in flight, and ends the threads.
    pub fn stop(mut self) {
        if let Some(generations) = &self.generations {
            generations.retire();
        }
        self.listener.close();
        self.finish();
    }

    /// Answers what is in flight, and ends the threads, while new connections wait in the kernel. From here on SIGTERM,
    /// SIGINT and SIGHUP wait for the next image of the process.
    pub fn replace(mut self) -> Retired {
        self.shared.retiring.store(true, Ordering::Release);
        // Nobody is answered until the last body has come and the last reply is read.
        self.guard.notes().hurry();
        if let Some(generations) = &self.generations {
            generations.retire();
        }
        self.listener.pause();
        thread::sleep(Duration::from_millis(RETIRE_MS));
        self.finish();
        sockets::hold_signals();
        Retired(Arc::clone(&self.listener))
    }

    fn finish(&mut self) {
        if let Some(generations) = self.generations.take() {
            generations.stop();
        }
        // The generations held the intake: the workers end when all is answered.
        if let Some(pool) = self.pool.take() {
            pool.finish();
        }
        log::debug!("connections ended by the guard, by reason: {:?}", self.guard.notes().cut_total());
    }
}

/// A server that answers nobody any more, on whose socket new connections wait.
pub struct Retired(Arc<Listener>);

impl Retired {
    /// Replaces the process by `command` on the same socket. Returns only when that fails.
    pub fn replace_process(self, command: &mut Command) -> std::io::Error {
        self.0.hand_over(command)
    }

    /// Stops listening after all.
    pub fn stop(self) {
        self.0.close();
    }
}

/// Lets the signals come that waited for this image of the process, once it catches them.
pub fn release_signals() {
    sockets::release_signals();
}

/// Answers one request. What its client is slow to take comes back.
fn handle(shared: &Shared, mut exchange: Exchange, body: &mut Vec<u8>) -> Option<Sending> {
    let head = exchange.head()?;
    let head_only = head.method == "HEAD";
    let mut measure = shared.metrics.measure(head.target, exchange.arrived);
    if head.ambiguous {
        measure.status = 400;
        let error = Error::invalid(
            "headers Content-Length, Transfer-Encoding, Host and Authorization must stand once, the first as a number of \
             bytes and not together with the second, which must be chunked, with no Upgrade; and neither the target nor a \
             header may hold control characters",
        );
        exchange.reply_and_cut(&Reply::error(&error), head_only);
        return None;
    }
    let refused = head.authorise(&shared.tokens(), &shared.hosts, shared.unix).err();
    if head.chunked && shared.unix {
        // The line that tells a chunk's length may have no end, and here the guard can't see how much of it there is.
        let error = refused.unwrap_or_else(|| {
            Error::invalid(
                "header Content-Length must give the length of a body on a Unix socket, not Transfer-Encoding",
            )
        });
        let reply = Reply::error(&error);
        measure.status = reply.status;
        exchange.reply_and_cut(&reply, head_only);
        return None;
    }
    let (method, target) = (head.method.to_owned(), head.target.to_owned());
    let (length, close) = (head.length, head.close || shared.retiring.load(Ordering::Acquire));
    // A body that is refused is read nonetheless, within its bound: what follows it is the next request.
    if let Err(error) = exchange.read_body(length, body) {
        let reply = Reply::error(&refused.unwrap_or(error));
        measure.status = reply.status;
        exchange.reply_and_cut(&reply, head_only);
        return None;
    }
    let reply = match refused {
        Some(error) => Reply::error(&error),
        None if is_to_panic(&target) => panic!("asked to by FLINT_TEST_PANIC"),
        None => routes::answer(shared.sources(), &method, &target, body),
    };
    measure.status = reply.status;
    if shared.retiring.load(Ordering::Acquire) {
        exchange.reply_and_cut(&reply, head_only);
        return None;
    }
    exchange.reply(&reply, close, head_only)
}

/// How far a quick request came.
enum Quick {
    Answered,
    /// Its reply waits for the disk.
    Parked,
    /// The client is slow to take its reply.
    Slow(Sending),
    /// It has to wait for room in the log or for a shard; nothing was done.
    MustWait(Box<Exchange>),
}

/// Answers a check without waiting for anything.
fn handle_quick(
    shared: &Shared,
    (parking, whom): (&Arc<Parking>, &Arc<dyn Completion>),
    mut exchange: Exchange,
    body: &mut Vec<u8>,
) -> Quick {
    // It is in memory; also that of a request that is refused is read, to be done with it.
    let read = exchange.read_body(exchange.length, body);
    let Some(head) = exchange.head() else { return Quick::Answered };
    let head_only = head.method == "HEAD";
    let mut measure = shared.metrics.measure(head.target, exchange.arrived);
    let refused = head.authorise(&shared.tokens(), &shared.hosts, shared.unix).err();
    let close = head.close || shared.retiring.load(Ordering::Acquire);
    if let Err(error) = read {
        let reply = Reply::error(&refused.unwrap_or(error));
        measure.status = reply.status;
        exchange.reply_and_cut(&reply, head_only);
        return Quick::Answered;
    }
    // In a batch nothing is told later.
    let number = (shared.limiter.sync() == SyncMode::Always).then(|| parking.number());
    let later = Later::new(whom, number.as_ref().map_or(0, Number::value));
    let reply = match refused {
        Some(error) => Reply::error(&error),
        None if is_to_panic(head.target) => panic!("asked to by FLINT_TEST_PANIC"),
        None => routes::answer(Sources { later: Some(&later), ..shared.sources() }, head.method, head.target, body),
    };
    if later.is_refused() {
        measure.suspend();
        exchange.keep_body(body);
        return Quick::MustWait(Box::new(exchange));
    }
    let parked = Parked { exchange, reply, head_only, close, measure: measure.suspend() };
    let ready = match number {
        Some(number) if later.is_unsettled() => number.park(parked),
        _ => Some((parked, Outcome::Durable)),
    };
    match ready.map(|(parked, outcome)| send_parked(shared, parked, outcome)) {
        None => Quick::Parked,
        Some(None) => Quick::Answered,
        Some(Some(sending)) => Quick::Slow(sending),
    }
}

/// Sends a reply that waited for the disk, or has no need to; what the client is slow to take comes back.
fn send_parked(shared: &Shared, parked: Parked, outcome: Outcome) -> Option<Sending> {
    let Parked { exchange, reply, head_only, close, measure } = parked;
    let reply = match outcome {
        Outcome::Durable => reply,
        Outcome::Failed => Reply::error(&shared.limiter.failure()),
        Outcome::Late => Reply::error(&store::overloaded()),
    };
    // Counted when the reply is sent.
    let mut measure = measure.map(|suspended| shared.metrics.go_on(suspended));
    if let Some(measure) = &mut measure {
        measure.status = reply.status;
    }
    if shared.retiring.load(Ordering::Acquire) {
        exchange.reply_and_cut(&reply, head_only);
        return None;
    }
    exchange.begin(reply.encode(close, head_only))
}

/// A hook for the test that a panic costs one request alone; never in a release build.
fn is_to_panic(target: &str) -> bool {
    cfg!(debug_assertions) && std::env::var("FLINT_TEST_PANIC").is_ok_and(|panics_at| panics_at == target)
}

/// Answers health, and refuses what the pool has no room for. No body is read here, and nothing waits for the disk.
fn handle_at_desk(shared: &Shared, exchange: Exchange) {
    let Some(head) = exchange.head() else { return };
    let head_only = head.method == "HEAD";
    let mut measure = shared.metrics.measure(head.target, exchange.arrived);
    let reply = match head.authorise(&shared.tokens(), &shared.hosts, shared.unix) {
        Err(error) => Reply::error(&error),
        Ok(()) if exchange.shed => {
            Reply::error(&Error::new(Kind::Overloaded, "too many requests at once; try again in a second"))
        }
        Ok(()) => routes::health(&shared.limiter),
    };
    measure.status = reply.status;
    let close = head.close || shared.retiring.load(Ordering::Acquire);
    if exchange.unread || close {
        exchange.reply_and_cut(&reply, head_only);
    } else if let Some(sending) = exchange.reply(&reply, close, head_only) {
        sending.finish();
    }
}

impl Shared {
    fn sources(&self) -> Sources<'_> {
        Sources { limiter: &self.limiter, later: None, notes: Some(self.notes), metrics: Some(&self.metrics) }
    }

    fn tokens(&self) -> std::sync::RwLockReadGuard<'_, Tokens> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }
}
