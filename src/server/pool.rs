//! The worker pool: who handles which request when.
//!
//! Owns: the queues between the threads that take requests from tiny_http and the workers.
//!
//! **Quick requests.** A check whose body is at hand needs no worker: the thread that takes it from tiny_http decides it
//! and sends the reply, and where the reply must wait for the disk it is parked, and sent by `flint-reply` when the log
//! thread says so. So a check costs no more hand-overs than it must: on the way in one, on the way out one per batch. No
//! such thread ever waits: a request that would have to, for room in the log or for a shard that is being copied, goes to a
//! worker, and so does a reply that the client's socket has no room for. Machines with more than two processors have some of the checks decided by workers when several wait.
//! When all workers are busy quick requests queue like the others: what keeps the workers may be what they wait for too.
//! Parked replies are bounded by the number of connections.
//!
//! Of each connection one request at most is under way, the others wait in its lane ([`Lanes`]). Bodies that are still on
//! the socket are read by half of the workers alone, so that slow ones leave the other half to others. Health, and refusals
//! when the queue is full, are answered by two threads of their own, the desk.
//!
//! Must never happen: that a thread which hands requests out, or sends parked replies, waits for a client, a worker or the
//! disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::exchange::{Exchange, Sending};
use super::lanes::Lanes;
use super::parking::{News, Outcome, Parked, Parking};
use super::{Quick, Shared, handle, handle_at_desk, handle_quick, send_parked};
use crate::bounds::{MIN_QUEUED, QUEUED_PER_WORKER, STACK_BYTES};
use crate::store::Completion;

/// Threads that answer health and refuse what the pool has no room for.
const DESKS: usize = 2;

/// Requests that wait for the desk; what finds no room there has its connection ended.
const DESK_QUEUE: usize = 256;

/// The same on a Unix socket, where it can't be told whose connection is to be ended, so that all are: more than there
/// are clients that send one request at a time.
const UNIX_DESK_QUEUE: usize = 4096;

/// Processors that the threads of tiny_http and the taking thread keep busy by themselves.
const OTHERS_PROCESSORS: usize = 2;

/// Requests of one connection that a thread which serves all of them handles in a row; a worker has those behind them.
const MAX_TURNS: usize = 16;

/// How long the thread that sends parked replies stays awake for a single one: a sync of a fast disk.
const LISTEN: Duration = Duration::from_micros(250);

/// Largest body that is kept between two requests of one thread, in bytes.
const KEPT_BODY_BYTES: usize = 64 * 1024;

/// What a worker does.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
enum Job {
    Request(Exchange),
    /// The rest of a reply, whose client is slow to take it.
    Send(Sending),
}

impl Job {
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Job::Request(exchange) => exchange.peer,
            Job::Send(sending) => sending.peer,
        }
    }
}

/// Where requests are handed in. When the last one is gone, the workers end once all is answered.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    pool: Queues,
    desk: Sender<Exchange>,
    lanes: Arc<Lanes>,
    parking: Arc<Parking>,
    /// The same, as the log knows it.
    whom: Arc<dyn Completion>,
    /// Requests that are handled, by workers or other threads.
    under_way: Arc<AtomicUsize>,
    /// As many are taken without a queue.
    most_under_way: usize,
    processors: usize,
    /// Quick requests that are with workers, and how many may be.
    shared_out: Arc<AtomicUsize>,
    most_shared_out: usize,
}

/// The way to the workers.
#[derive(Clone)]
struct Queues {
    jobs: Sender<Job>,
    bodies: Sender<Exchange>,
}

impl Queues {
    /// Queues a request; gives it back, to be refused, if there is no room.
    fn offer(&self, exchange: Exchange) -> Option<Exchange> {
        let full = if exchange.unread {
            self.bodies.try_send(exchange).err().map(TrySendError::into_inner)
        } else {
            self.try_job(exchange)
        };
        full.map(|mut exchange| {
            exchange.shed = true;
            exchange
        })
    }

    /// Queues a request for any worker; gives it back if there is no room.
    fn try_job(&self, exchange: Exchange) -> Option<Exchange> {
        match self.jobs.try_send(Job::Request(exchange)).err()?.into_inner() {
            Job::Request(exchange) => Some(exchange),
            Job::Send(_) => None,
        }
    }
}

/// The threads of the pool.
pub struct Pool {
    workers: Vec<JoinHandle<()>>,
    replier: JoinHandle<()>,
    parking: Arc<Parking>,
}

impl Pool {
    /// Waits until all is answered. Nobody must hold an [`Intake`] any more.
    pub fn finish(self) {
        self.parking.end();
        let _ = self.replier.join();
        for worker in self.workers {
            let _ = worker.join();
        }
    }
}

/// Starts the workers, the desk and the thread that sends parked replies.
///
/// # Errors
/// A thread could not be started.
pub fn start(
    shared: &Arc<Shared>,
    workers: usize,
    (parking, news): (Arc<Parking>, Receiver<News>),
) -> std::io::Result<(Intake, Pool)> {
    let most_queued = (workers * QUEUED_PER_WORKER).max(MIN_QUEUED);
    let (jobs, job_queue) = bounded(most_queued);
    let (bodies, body_queue) = bounded(most_queued);
    let (desk, desk_queue) = bounded(if shared.unix { UNIX_DESK_QUEUE } else { DESK_QUEUE });
    let processors = processors();
    let inner = Arc::new(Inner {
        shared: Arc::clone(shared),
        pool: Queues { jobs, bodies },
        desk,
        lanes: Arc::new(Lanes::default()),
        whom: Arc::clone(&parking) as Arc<dyn Completion>,
        parking: Arc::clone(&parking),
        under_way: Arc::new(AtomicUsize::new(0)),
        most_under_way: workers,
        processors,
        shared_out: Arc::new(AtomicUsize::new(0)),
        most_shared_out: processors.saturating_sub(OTHERS_PROCESSORS).min(workers),
    });
    let named = |name: String| thread::Builder::new().name(name).stack_size(STACK_BYTES);
    let mut threads = Vec::with_capacity(workers + DESKS);
    for index in 0..workers {
        let worker = Worker::of(&inner);
        let jobs = job_queue.clone();
        // One of two, the first among them.
        let bodies = index.is_multiple_of(2).then(|| body_queue.clone());
        threads.push(named(format!("flint-http-{index}")).spawn(move || worker.run(&jobs, bodies.as_ref()))?);
    }
    for index in 0..DESKS {
        let (shared, lanes, pool) = (Arc::clone(shared), Arc::clone(&inner.lanes), inner.pool.clone());
        let queue = desk_queue.clone();
        threads.push(named(format!("flint-desk-{index}")).spawn(move || {
            while let Ok(exchange) = queue.recv() {
                work_at_desk(&shared, &lanes, exchange, &pool);
            }
        })?);
    }
    let intake = Intake(inner);
    let replier = {
        let intake = intake.clone();
        named("flint-reply".to_owned()).spawn(move || intake.0.reply_loop(&news))?
    };
    Ok((intake, Pool { workers: threads, replier, parking }))
}

/// How many processors there are; a test of a debug build may pretend.
fn processors() -> usize {
    let pretended = || std::env::var("FLINT_TEST_PROCESSORS").ok()?.parse().ok();
    let pretended = if cfg!(debug_assertions) { pretended() } else { None };
    pretended.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Waits for news for a moment without sleeping. Where checks come one by one, to wake this thread from its sleep would
/// take as long again as a tenth of the sync that it waits for; others that have work get the processor at once.
fn listen(news: &Receiver<News>) -> Option<News> {
    let begun = Instant::now();
    while begun.elapsed() < LISTEN {
        if let Ok(heard) = news.try_recv() {
            return Some(heard);
        }
        thread::yield_now();
    }
    None
}

/// What a worker has.
struct Worker {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
    under_way: Arc<AtomicUsize>,
    shared_out: Arc<AtomicUsize>,
}

impl Worker {
    fn of(inner: &Inner) -> Worker {
        Worker {
            shared: Arc::clone(&inner.shared),
            lanes: Arc::clone(&inner.lanes),
            under_way: Arc::clone(&inner.under_way),
            shared_out: Arc::clone(&inner.shared_out),
        }
    }

    fn run(&self, jobs: &Receiver<Job>, bodies: Option<&Receiver<Exchange>>) {
        let mut body = Vec::new();
        while let Some(job) = next(jobs, bodies) {
            self.work(job, &mut body);
        }
    }

    /// Does a job, and then the requests of the same connection that have come to wait for it.
    fn work(&self, job: Job, body: &mut Vec<u8>) {
        let peer = job.peer();
        let leave = || peer.and_then(|peer| self.lanes.leave(peer));
        let mut next = match job {
            Job::Request(exchange) => Some(exchange),
            Job::Send(sending) => {
                sending.finish();
                leave()
            }
        };
        while let Some(mut exchange) = next {
            let counted = Counted::one(&self.under_way);
            let shared_out = std::mem::take(&mut exchange.shared_out).then(|| Counted(&self.shared_out));
            let slow = contain(exchange, |exchange| handle(&self.shared, exchange, body)).flatten();
            drop((counted, shared_out));
            body.clear();
            body.shrink_to(KEPT_BODY_BYTES);
            // Whoever waits for a slow client keeps no check from being decided elsewhere.
            if let Some(sending) = slow {
                sending.finish();
            }
            next = leave();
        }
    }
}

/// One that is counted, until this is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one(count: &'a AtomicUsize) -> Counted<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }

    /// One more, if there are fewer than `most`.
    fn one_of(count: &'a AtomicUsize, most: usize) -> Option<Counted<'a>> {
        let counted = count.fetch_add(1, Ordering::Relaxed) < most;
        let one = Counted(count);
        counted.then_some(one)
    }

    /// It goes on being counted.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The next job; `None` when there will be none any more.
fn next(jobs: &Receiver<Job>, bodies: Option<&Receiver<Exchange>>) -> Option<Job> {
    let Some(bodies) = bodies else { return jobs.recv().ok() };
    select! {
        recv(jobs) -> job => job.or_else(|_| bodies.recv().map(Job::Request)).ok(),
        recv(bodies) -> exchange => exchange.map(Job::Request).or_else(|_| jobs.recv()).ok(),
    }
}

/// Answers health or refuses, and sends the connection's next request to where it belongs.
fn work_at_desk(shared: &Shared, lanes: &Lanes, first: Exchange, pool: &Queues) {
    let peer = first.peer;
    let mut next = Some(first);
    while let Some(exchange) = next {
        contain(exchange, |exchange| handle_at_desk(shared, exchange));
        next = peer.and_then(|peer| lanes.leave(peer));
        if let Some(exchange) = next.take_if(|exchange| !exchange.is_health()) {
            next = pool.offer(exchange);
        }
    }
}

/// A panic in a handler costs one request. Those of a connection that was given up are let go unanswered.
fn contain<T>(exchange: Exchange, handler: impl FnOnce(Exchange) -> T) -> Option<T> {
    if exchange.is_doomed() {
        exchange.discard(true);
        return None;
    }
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(exchange)));
    if done.is_err() {
        log::error!("a request's handler panicked; that request alone was answered 500");
    }
    done.ok()
}

/// What became of a quick request.
enum Decided {
    /// It is answered, and its lane free.
    Answered,
    /// Somebody else goes on with it.
    Elsewhere,
    /// The same, since its client was slow to take the reply.
    Slowly,
}

impl Intake {
    /// Takes a request into its connection's lane. Gives it back if its turn has come.
    pub fn enter(&self, exchange: Exchange) -> Option<Exchange> {
        self.0.lanes.enter(exchange)
    }

    /// Brings a request whose turn has come to where it belongs. Never waits, but for a moment for a slow client; returns
    /// whether it has. `more` says that others wait behind it; `body` is the calling thread's buffer.
    pub fn forward(&self, exchange: Exchange, more: bool, body: &mut Vec<u8>) -> bool {
        self.0.forward(exchange, more, body)
    }
}

impl Inner {
    /// Brings a request whose turn it is to where it belongs, and after it those of its lane. Returns whether a slow client
    /// was waited for.
    fn forward(&self, exchange: Exchange, mut more: bool, body: &mut Vec<u8>) -> bool {
        let mut next = Some(exchange);
        let mut turns = 0;
        while let Some(exchange) = next {
            let peer = exchange.peer;
            turns += 1;
            // The disk may be what is asked about: health must not wait for workers that wait for it.
            if exchange.is_health() {
                self.to_desk(exchange);
                return false;
            }
            if !exchange.quick || turns > MAX_TURNS {
                self.to_pool(exchange);
                return false;
            }
            let exchange = if more { self.share_out(exchange) } else { Some(exchange) };
            let Some(exchange) = exchange else { return false };
            more = false;
            match self.decide(exchange, body) {
                Decided::Answered => {}
                Decided::Elsewhere => return false,
                Decided::Slowly => return true,
            }
            next = peer.and_then(|peer| self.lanes.leave(peer));
        }
        false
    }

    /// Gives a quick request to a worker, if there are processors enough and another will be decided here meanwhile.
    fn share_out(&self, mut exchange: Exchange) -> Option<Exchange> {
        let Some(counted) = Counted::one_of(&self.shared_out, self.most_shared_out) else { return Some(exchange) };
        exchange.shared_out = true;
        let Some(mut exchange) = self.pool.try_job(exchange) else {
            counted.keep();
            return None;
        };
        exchange.shared_out = false;
        Some(exchange)
    }

    /// Handles a quick request in this thread.
    fn decide(&self, exchange: Exchange, body: &mut Vec<u8>) -> Decided {
        let Some(counted) = Counted::one_of(&self.under_way, self.most_under_way) else {
            self.to_pool(exchange);
            return Decided::Elsewhere;
        };
        let told = (&self.parking, &self.whom);
        let quick = contain(exchange, |exchange| handle_quick(&self.shared, told, exchange, body));
        body.clear();
        body.shrink_to(KEPT_BODY_BYTES);
        match quick {
            None | Some(Quick::Answered) => Decided::Answered,
            Some(Quick::Parked) => Decided::Elsewhere,
            Some(Quick::Slow(sending)) => {
                self.send_slowly(sending);
                Decided::Slowly
            }
            Some(Quick::MustWait(exchange)) => {
                drop(counted);
                self.to_pool(*exchange);
                Decided::Elsewhere
            }
        }
    }

    fn to_pool(&self, exchange: Exchange) {
        if let Some(exchange) = self.pool.offer(exchange) {
            self.to_desk(exchange);
        }
    }

    fn to_desk(&self, exchange: Exchange) {
        if let Err(full) = self.desk.try_send(exchange) {
            self.drop_out(full.into_inner());
        }
    }

    /// Has a worker send the rest of a reply. Where there is none, the connection has to end.
    fn send_slowly(&self, sending: Sending) {
        let peer = sending.peer;
        if let Err(full) = self.pool.jobs.try_send(Job::Send(sending)) {
            drop(full);
            self.empty_lane(peer);
        }
    }

    fn drop_out(&self, exchange: Exchange) {
        let peer = exchange.peer;
        exchange.discard(false);
        self.empty_lane(peer);
    }

    /// Lets go of all that waits behind a request of a connection that was given up.
    fn empty_lane(&self, peer: Option<SocketAddr>) {
        while let Some(exchange) = peer.and_then(|peer| self.lanes.leave(peer)) {
            exchange.discard(false);
        }
    }

    /// The thread `flint-reply`: sends what was parked, and handles quick requests of the same connections behind it.
    fn reply_loop(&self, news: &Receiver<News>) {
        let mut body = Vec::new();
        let mut ending = false;
        while !(ending && self.parking.is_empty()) {
            let Ok(mut heard) = news.recv() else { return };
            if matches!(heard, News::Soon) && self.processors > 1 {
                let Some(next) = listen(news) else { continue };
                heard = next;
            }
            match heard {
                News::Settled(number, outcome) => {
                    if let Some(parked) = self.parking.take(number, outcome) {
                        self.unpark(parked, outcome, &mut body);
                    }
                }
                News::Soon => {}
                News::End => ending = true,
            }
        }
    }

    fn unpark(&self, parked: Parked, outcome: Outcome, body: &mut Vec<u8>) {
        let peer = parked.exchange.peer;
        match send_parked(&self.shared, parked, outcome) {
            Some(sending) => self.send_slowly(sending),
            None => {
                if let Some(exchange) = peer.and_then(|peer| self.lanes.leave(peer)) {
                    self.forward(exchange, false, body);
                }
            }
        }
    }
}
