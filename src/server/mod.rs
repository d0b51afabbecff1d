//! Shared mode: sockets and HTTP around one limiter, or around a store that several servers share.
//!
//! Owns: the start, the end and the replacement of a server. The rules of quotas are in `limit` and `limiter`; the
//! server only calls them.
//!
//! # Architecture
//!
//! Where to look (paths from `src/`). To add an endpoint: `server/routes/table.rs`. To add a command-line option:
//! `cli/options/table.rs`. A request is handled by one function, `handle` in `server/pool/handle.rs`, unless there is
//! no room for it. What reverse proxies ask is in `gate/`. Bounds are constants in `bounds.rs`. The format of the
//! records on disk is in `store/format/`.
//!
//! A *room* is a directory of `src/` with its `mod.rs`. Its modules have an order, which `tests/it/ladder.rs` holds:
//! each module may use only those after it.
//!
//! ## Threads
//!
//! | thread | code | does | may block on |
//! |---|---|---|---|
//! | main | `cli/serve/` | waits for signals: stop, read the tokens again, replace the process | signals; at start and end the disk and other threads |
//! | tiny_http's (`ps` shows `flint-accept-N`) | tiny_http | accept; read heads, and bodies of up to 1024 bytes | clients |
//! | `flint-accept-N` | `accept.rs` | starts a tiny_http instance, and the next when it stops accepting; hands over what the old one still receives | the instance |
//! | `flint-http-N`, the deciders | `pool/decider.rs` | take requests, decide checks, send replies | see below |
//! | `flint-work-N`, the workers | `pool/worker.rs` | administration, large checks, checks that would block, parts of long replies and backups | disk, locks; on a Unix socket a client |
//! | `flint-slow` | `pool/slow.rs` | one epoll loop for slow bodies and slow readers over TCP | any client, never just one |
//! | `flint-body`, up to 16 | `pool/passing.rs` | reads one body (in chunks, or on a Unix socket), or ends one connection that was refused | one client |
//! | `flint-guard` | `guard/` | shuts down connections that break a bound; ends waits in slots after `LOG_WAIT_MS` | its timer |
//! | `flint-log` | `store/log/writer.rs` | writes and syncs records | the disk |
//! | `flint-denials`, `flint-compact` | `limiter/background/` | write totals of denials; look after the log, compact it | disk, locks |
//! | `flint-sweep` | `limiter/background/sweep.rs` | removes keys by pattern or request that are untouched again | locks |
//! | `flint-zone`, for moments | `limit/zone.rs` | reads the data of a time zone when it is first named | a file |
//!
//! tiny_http's threads inherit the name of the `flint-accept-N` thread that started them. While a directory is opened,
//! an unnamed thread may write the new snapshot (`limiter/recovery/build.rs`).
//!
//! `--max-blocking` is the number of deciders and workers together; no other thread handles requests. A decider never
//! waits for the disk, for a worker, or for a shard that is held for long. A client can delay it only by a full socket.
//! A write that makes no progress for `SEND_PATIENCE_MS` (4 ms) fails, and `flint-slow` then sends the rest. On a Unix
//! socket a worker sends it, and may wait for its client; a write that began there before the guard had seen the
//! connection lasts until the guard cuts the connection.
//!
//! Without a server (a command on its own directory, or a program that embeds the limiter) the calling thread decides
//! and waits for the disk; of the threads above only `flint-log`, `flint-denials`, `flint-compact`, `flint-sweep` and
//! `flint-zone` run.
//!
//! ## The life of a check
//!
//! 1. tiny_http's thread of the connection reads the request and queues it.
//! 2. A decider takes it off the queue. Over TCP one request of a connection is handled at a time; a later one is put
//!    aside, without a thread, until its *turn* comes.
//! 3. `handle` validates head, token and host. A body that is not read yet is read by `flint-slow` (over TCP, with a
//!    Content-Length) or `flint-body`; then the request is ready again, and this step starts over. A request of more
//!    than 8 KiB, or for an endpoint that is not `quick`, goes to a worker. Otherwise `handle` calls the endpoint's
//!    function, which asks the limiter.
//! 4. The limiter reserves space in the log, locks the key's shard, reads the clock, decides, queues a record if the
//!    check is allowed, and unlocks. If there is no space, or another thread holds the shard for long, nothing has been
//!    changed yet: the check *would block*. A worker then repeats it, and waits.
//! 5. On a decider with `--sync always` or `batch`, the reply of an allowed check is put into a *slot* of
//!    `waiting/pending.rs`. (A worker uses no slot: it waits itself and sends the reply.) The log thread writes the
//!    batch, with `always` syncs it too, *completes* the slot, and wakes a decider if none is awake. With
//!    `--sync relaxed`, and for every denial, the reply is ready at once.
//! 6. Any decider sends the reply of a completed slot. Once it is sent, the connection's next request becomes ready.
//!
//! ## When the disk fails
//!
//! The log fills space ahead of itself with zeros, and checks reserve from that space.
//!
//! - **Disk full:** no further space can be filled. Health answers 503 at once, but checks go on while filled space is
//!   left. Then workers answer every check and every change with 503 `log_failed`, even a check that would be denied;
//!   nothing is spent or changed. Reads are still answered. A used-up disk quota counts as a full disk. The log tries
//!   again every `NO_SPACE_RETRY_MS` (100 ms); service resumes by itself.
//! - **Disk full, on a file system that copies on write:** overwriting filled space takes room too. A batch that found
//!   no room is written again at its place every `NO_SPACE_RETRY_MS`, and no space is reserved meanwhile, so further
//!   checks are refused as above. The batch's replies become 503 `log_failed` at the second attempt; their units stay
//!   spent in memory, and their records follow when there is room.
//! - **A sync fails (even for lack of space), or a write fails for another reason than lack of space:** final until a
//!   restart. Replies that wait become 503 `log_failed`; their units stay
//!   spent in memory and may be on disk. Every later check and change gets 503 `log_failed` and changes nothing. Health
//!   answers 503; the process goes on and still answers `doctor`. With `--sync batch` and `relaxed`, checks
//!   that were answered after the last sync may be lost.
//! - **A file of the log is removed, renamed or replaced while the process runs:** `flint-compact` looks every
//!   `LOOK_AFTER_FILES_MS` (1 s), and at the end, whether the files that a start would need have their names, and
//!   compacts at once if not (`limiter/background/heal.rs`). Doctor reports it from then on; health answers 503 while
//!   no snapshot can be written. If the directory itself is gone: final, as above.
//! - **The disk hangs:** once a call has taken `STALL_MS` (1 s), new checks, and workers that wait for space, get 503
//!   `overloaded` at once, and nothing is spent. A check that waits for its sync gets it after `LOG_WAIT_MS` (10 s):
//!   the guard ends the waits in slots. Its units stay spent in memory, and its record may still reach the disk.
//!
//! ## Locks, by rank
//!
//! A thread that holds a lock may only take one with a larger number: 0, the check of files; 1, the compaction; 2,
//! the writing of denials; 3, the shards, in the order of their index. Never block while holding a shard's lock. The
//! server's own locks (turns, pending, tokens, instances) are held briefly, and no other lock is taken under them.
//!
//! ## Words
//!
//! | word | is |
//! |---|---|
//! | exchange | one request on its way to its reply |
//! | turn | the right of one request of a connection to be under way |
//! | ready | it is a request's turn, and a decider may handle it |
//! | pending, slot | a reply that waits for the log, and its place |
//! | stage | how far a record has come: written, or durable |
//! | completion | the log thread's report that a record has come to its stage, or never will |
//! | would block | the check would have to wait, so the decider changes nothing and passes it to a worker |
//! | given up | no further request is read from this connection |
//! | cut | the guard has shut the connection down |
//! | leaked | a connection that was cut but that tiny_http never releases |
//! | linger | keep reading and discarding what a refused client sends, so that it can read the reply |
//! | instance | one tiny_http server; exhausted, it accepts no more |
//! | drain | tell clients to close, before the server stops or is replaced |
//! | pressure | tiny_http's threads are ahead of the deciders, so the allocator puts them to sleep (`net/pressure.rs`) |
//! | batch | the records that the log thread writes in one frame; also the mode `--sync batch` |
//! | shard | one of 256 parts of the map of limits, with a lock |
//! | segment, frame, record | a file of the log, a batch in it, an event in that |

mod accept;
mod context;
mod digest;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod guard;
mod http;
mod net;
mod pool;
#[cfg(test)]
mod properties;
mod routes;
#[cfg(test)]
mod tests;
mod tokens;
mod vitals;
mod waiting;
mod work;

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

pub use self::gate::named::Gates;
pub use self::gate::proxies::DEFAULT_TRUSTED;
pub use self::http::reply::LegacyHeaders;
pub use self::net::bind::Bind;
pub use self::net::pressure::Allocator;
pub use self::net::process::trim_memory;
pub use self::routes::answer_locally;
pub use self::routes::body::{Settings, parse_listed};
pub use self::routes::table::{ENDPOINTS, Endpoint, Method};
pub use self::tokens::{Role, Token, TokenFile, Tokens};

use self::context::Context;
use self::guard::{Alarm, ConnectionGuard, GuardConfig};
use self::http::instances::Instances;
use self::net::listener::Listener;
use self::net::process;
use self::pool::{Pool, slow};
use self::routes::metrics::Metrics;
use self::vitals::Vitals;
use self::waiting::pending::Pending;
use self::waiting::turns::Turns;
use self::work::Jobs;
use crate::bounds::{DRAIN_MS, RETIRE_MS};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::store::Completion;

/// Pause between two looks at whether connections are open, while clients are told to close.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);

/// How a server is started.
pub struct Config {
    /// Who may ask; everybody, if empty.
    pub tokens: Tokens,
    /// Threads of the pool, deciders and workers together.
    pub workers: usize,
    /// Names by which it may be called in a `Host` header, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// What reverse proxies may ask.
    pub gates: Gates,
    /// Whether `/v1/health` needs no token.
    pub open_health: bool,
    /// What replies with decisions bear besides the headers of the draft.
    pub legacy: LegacyHeaders,
    /// How long a connection may be silent between two requests.
    pub idle_timeout: Duration,
    /// Connections at once; more of them end the longest idle.
    pub max_connections: usize,
    /// Called, from any thread, when the process should be replaced by [`Server::replace`].
    pub on_exhausted: Box<dyn Fn() + Send + Sync>,
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

/// A listening socket from which nothing accepts yet.
pub struct Bound(Listener);

/// The socket that was passed to this process by a service manager or by its former image, if any. To be called
/// before any file is touched.
///
/// # Errors
/// `io` when what was passed is not a listening stream socket; `usage` when it is open to others and there is no token.
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
    context: Arc<Context>,
    listener: Arc<Listener>,
    instances: Arc<Instances>,
    pool: Pool,
    guard: ConnectionGuard,
}

impl Server {
    /// Serves on a bound socket. When this returns, requests are answered.
    ///
    /// # Errors
    /// `io` when a thread can't be started.
    pub fn start(bound: Bound, config: Config, engine: Arc<dyn Engine>) -> Result<Server> {
        process::bound_free_memory();
        let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot start the server: {error}"));
        let listener = Arc::new(bound.0);
        let unix = listener.is_unix();
        let (instances, events) = Instances::new(&listener);
        let waker = || {
            let instances = Arc::clone(&instances);
            Box::new(move || instances.wake())
        };
        let pending = Arc::new(Pending::new(unix, waker()));
        let on_exhausted: Arc<dyn Fn() + Send + Sync> = Arc::from(config.on_exhausted);
        let guard = {
            let (pending, instances, on_exhausted) =
                (Arc::clone(&pending), Arc::clone(&instances), Arc::clone(&on_exhausted));
            ConnectionGuard::start(
                &[listener.as_fd()],
                guard_config(config.idle_timeout, config.max_connections),
                Box::new(move |alarm| match alarm {
                    Alarm::Leaked(_) => on_exhausted(),
                    Alarm::NotAccepting => instances.note_not_accepting(),
                }),
                Box::new(move |now| pending.expire(now)),
            )
            .map_err(failed)?
        };
        let (deciders, workers) = pool::share(config.workers, unix);
        let (jobs, queue) = Jobs::new(workers);
        let (slow, slow_loop) = slow::make().map_err(failed)?;
        let context = Arc::new(Context {
            engine,
            tokens: RwLock::new(config.tokens),
            hosts: config.hosts,
            gates: config.gates,
            open_health: config.open_health,
            legacy: config.legacy,
            unix,
            draining: AtomicBool::new(false),
            guard: guard.handle(),
            metrics: Metrics::new(ENDPOINTS.iter().map(|endpoint| endpoint.path)),
            vitals: Vitals::default(),
            turns: Turns::new(waker()),
            completion: Arc::clone(&pending) as Arc<dyn Completion>,
            pending,
            jobs,
            slow,
            away: Arc::new(AtomicUsize::new(0)),
            bodies: AtomicUsize::new(0),
            leaving: Mutex::default(),
            large: Arc::default(),
        });
        accept::start(&instances, &context, events, on_exhausted)?;
        let pool = Pool::start(&context, &instances, (deciders, workers), &queue, slow_loop).map_err(failed)?;
        context.engine.announce(listener.url())?;
        Ok(Server { context, listener, instances, pool, guard })
    }

    /// The server's URL, with the real port.
    pub fn url(&self) -> &str {
        self.listener.url()
    }

    /// Replaces the set of tokens. Requests that come later need one of these.
    pub fn set_tokens(&self, tokens: Tokens) {
        *self.context.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Stops listening, tells clients to close, answers what is in flight, and ends the threads.
    pub fn stop(self) {
        self.instances.close();
        self.listener.close();
        self.drain(Duration::from_millis(DRAIN_MS));
        self.finish();
    }

    /// Answers what is in flight, and ends the threads, while new connections wait in the kernel. From here on SIGTERM,
    /// SIGINT and SIGHUP wait for the next image of the process.
    pub fn replace(self) -> Paused {
        self.instances.close();
        self.listener.pause();
        self.drain(Duration::from_millis(RETIRE_MS));
        let listener = Arc::clone(&self.listener);
        self.finish();
        process::hold_signals();
        Paused(listener)
    }

    /// Tells the clients of kept connections to close, as they ask, for at most this long.
    fn drain(&self, most: Duration) {
        self.context.draining.store(true, Ordering::Release);
        // Nothing is answered until the last body has come and the last reply is read.
        self.guard.handle().drain();
        let begun = Instant::now();
        while begun.elapsed() < most && !self.guard.handle().is_drained() {
            thread::sleep(DRAIN_PAUSE);
        }
    }

    fn finish(self) {
        self.instances.end();
        self.pool.finish();
        self.instances.join();
        log::debug!("connections ended by the guard, by reason: {:?}", self.guard.handle().cut_total());
    }
}

/// The bounds of connections, by the options and by what the system allows.
fn guard_config(idle_timeout: Duration, max_connections: usize) -> GuardConfig {
    let descriptors = process::raise_nofile_limit().map_or(1024, |(_, after)| after);
    GuardConfig { idle_timeout, max_connections, ..GuardConfig::default() }.within(descriptors, process::thread_limit())
}

/// A server that no longer answers, on whose socket new connections wait.
pub struct Paused(Arc<Listener>);

impl Paused {
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
    process::release_signals();
}
