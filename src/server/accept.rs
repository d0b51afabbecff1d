//! Generations of tiny_http servers on one listening socket.
//!
//! tiny_http ends its accept loop at the first error (out of descriptors, say), and its accept thread panics when a
//! descriptor or a thread is not to be had: the process would live on, deaf. So when a generation has ended, or the
//! guard finds that nobody accepts, the next one is put on the same socket. The old ones go on handing out the requests
//! of the connections that they have.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tiny_http::Request;

use super::Shared;
use super::http::exchange::Exchange;
use super::net::listener::Listener;
use super::pool::Intake;
use crate::bounds::STACK_BYTES;
use crate::error::{Error, Kind, Result};

/// Generations after which the process is replaced: each that has ended keeps a thread.
const MAX_GENERATIONS: usize = 32;

/// Pause before the next generation, and between two looks for free descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Requests that are taken before some are decided, and that are decided before more are taken.
const MOST_TAKEN: usize = 1024;
const MOST_DECIDED: usize = 16;

/// Looks at what tiny_http has before the thread that takes it goes to sleep.
const POLLS: u32 = 2;

/// Descriptors that must be free before the next generation is started.
const FREE_DESCRIPTORS: usize = 16;

/// What the supervisor is told.
enum Event {
    /// This generation has ended with an error.
    Ended(usize),
    /// Connections wait and nobody accepts them.
    Deaf,
    Stop,
}

/// Where the supervisor is told of what happened.
#[derive(Clone)]
pub struct Events(Sender<Event>);

/// What the supervisor listens to.
pub struct News(Events, Receiver<Event>);

/// Makes the channel to the supervisor.
pub fn events() -> (Events, News) {
    let (sender, receiver) = unbounded();
    (Events(sender.clone()), News(Events(sender), receiver))
}

impl Events {
    /// Connections wait and nobody accepts them.
    pub fn deaf(&self) {
        let _ = self.0.send(Event::Deaf);
    }
}

/// All generations and their supervisor.
pub struct Generations {
    common: Arc<Common>,
    supervisor: JoinHandle<()>,
}

struct Common {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    events: Events,
    stopping: AtomicBool,
    /// No new generation: the process is about to be replaced.
    retiring: AtomicBool,
    /// Locked for a moment by whoever starts or stops one, holding nothing else.
    running: Mutex<Vec<Generation>>,
}

struct Generation {
    http: Arc<tiny_http::Server>,
    thread: JoinHandle<()>,
}

impl Generations {
    /// Starts the first generation and the supervisor. `on_worn` is called when there were too many.
    pub fn start(
        shared: &Arc<Shared>,
        listener: &Arc<Listener>,
        intake: Intake,
        news: News,
        on_worn: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Generations> {
        let News(events, news) = news;
        let common = Arc::new(Common {
            shared: Arc::clone(shared),
            listener: Arc::clone(listener),
            events,
            stopping: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            running: Mutex::new(Vec::new()),
        });
        let failed = |error: String| Error::new(Kind::Io, format!("cannot serve: {error}"));
        start_one(&common, &intake).map_err(failed)?;
        let supervisor = {
            let common = Arc::clone(&common);
            thread::Builder::new()
                .name("flint-accept".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || supervise(&common, &intake, &news, &*on_worn))
                .map_err(|error| failed(error.to_string()))?
        };
        Ok(Generations { common, supervisor })
    }

    /// Starts no generation any more.
    pub fn retire(&self) {
        self.common.retiring.store(true, Ordering::Release);
    }

    /// Hands out what was read before, and ends all threads but tiny_http's own.
    pub fn stop(self) {
        self.common.stopping.store(true, Ordering::Release);
        let _ = self.common.events.0.send(Event::Stop);
        let _ = self.supervisor.join();
        let running = std::mem::take(&mut *self.common.running.lock().unwrap_or_else(PoisonError::into_inner));
        for generation in &running {
            generation.http.unblock();
        }
        for generation in running {
            let _ = generation.thread.join();
            // Its destructor would remove the socket's file, whoever made it, and drop requests with their bodies.
            std::mem::forget(generation.http);
        }
    }
}

fn start_one(common: &Arc<Common>, intake: &Intake) -> std::result::Result<(), String> {
    let mut running = common.running.lock().unwrap_or_else(PoisonError::into_inner);
    let number = running.len();
    // The thread first: a tiny_http server that nobody takes requests from must not accept any, and can't be undone.
    let (give, take) = bounded::<Arc<tiny_http::Server>>(1);
    let thread = {
        let (common, intake) = (Arc::clone(common), intake.clone());
        thread::Builder::new()
            .name(format!("flint-accept-{number}"))
            .stack_size(STACK_BYTES)
            .spawn(move || take.recv().map_or((), |http| hand_out(&common, &http, &intake, number)))
            .map_err(|error| error.to_string())?
    };
    let http = Arc::new(common.listener.serve()?);
    let _ = give.send(Arc::clone(&http));
    running.push(Generation { http, thread });
    Ok(())
}

/// A generation's thread: takes requests from tiny_http, and decides the quick ones. What tiny_http has read it queues
/// without a bound; so requests are taken into the lanes, which have bounds, before any is decided.
fn hand_out(common: &Common, http: &tiny_http::Server, intake: &Intake, number: usize) {
    let mut body = Vec::new();
    // Large ones have come, of which not many must gather: who gives way then is back too late.
    let large = Cell::new(false);
    // One of each connection at most: their turn has come.
    let mut ready = VecDeque::new();
    let take = |next: io::Result<Request>, ready: &mut VecDeque<Exchange>| match next {
        Ok(request) => {
            let exchange = Exchange::new(request, common.shared.notes);
            if exchange.is_doomed() || exchange.bloated {
                return exchange.discard(false);
            }
            large.set(large.get() || exchange.is_large());
            ready.extend(intake.enter(exchange));
        }
        // The word to stop.
        Err(_) if common.stopping.load(Ordering::Acquire) => {}
        Err(error) => {
            if !common.retiring.load(Ordering::Acquire) {
                log::warn!("accepting connections failed, starting anew: {error}");
            }
            let _ = common.events.0.send(Event::Ended(number));
        }
    };
    loop {
        let mut next = if ready.is_empty() && !large.take() { poll(http) } else { None };
        // Looked at behind each poll: that may have taken the word to stop out of the queue.
        if common.stopping.load(Ordering::Acquire) {
            next.into_iter().for_each(|next| take(next, &mut ready));
            break;
        }
        if ready.is_empty() && next.is_none() {
            next = Some(http.recv());
        }
        let others = iter::from_fn(|| http.try_recv().transpose());
        next.into_iter().chain(others).take(MOST_TAKEN).for_each(|next| take(next, &mut ready));
        for _ in 0..MOST_DECIDED {
            let Some(exchange) = ready.pop_front() else { break };
            // Whom a slow client has held up for a moment takes what has come meanwhile.
            if intake.forward(exchange, !ready.is_empty(), &mut body) {
                break;
            }
        }
    }
    // What was read before the stop is in flight, and is answered.
    while let Some(next) = http.try_recv().transpose() {
        take(next, &mut ready);
    }
    while let Some(exchange) = ready.pop_front() {
        intake.forward(exchange, false, &mut body);
    }
}

/// What tiny_http has next, if it comes in a moment. Under load others are about to hand something over; to let them run is
/// cheaper than to sleep and be woken.
fn poll(http: &tiny_http::Server) -> Option<io::Result<Request>> {
    (0..POLLS).find_map(|_| {
        let next = http.try_recv().transpose();
        if next.is_none() {
            thread::yield_now();
        }
        next
    })
}

/// The supervisor's thread: starts the next generation when the newest has ended.
fn supervise(common: &Arc<Common>, intake: &Intake, news: &Receiver<Event>, on_worn: &dyn Fn()) {
    let mut newest = 0;
    while let Ok(event) = news.recv() {
        match event {
            Event::Stop => return,
            Event::Ended(number) if number != newest => continue,
            Event::Deaf => log::warn!("connections wait and nobody accepts them, starting anew"),
            Event::Ended(_) => {}
        }
        let mut said = false;
        loop {
            thread::sleep(PAUSE);
            if common.stopping.load(Ordering::Acquire) || common.retiring.load(Ordering::Acquire) {
                break;
            }
            if !descriptors_are_free() {
                continue;
            }
            match start_one(common, intake) {
                Ok(()) => {
                    newest += 1;
                    break;
                }
                Err(error) if said => log::debug!("cannot accept connections: {error}"),
                Err(error) => {
                    log::error!("cannot accept connections, trying again: {error}");
                    said = true;
                }
            }
        }
        // Alarms of before are answered.
        while let Ok(event) = news.try_recv() {
            match event {
                Event::Stop => return,
                Event::Ended(number) if number == newest => {
                    let _ = common.events.0.send(event);
                    break;
                }
                _ => {}
            }
        }
        if newest + 1 >= MAX_GENERATIONS {
            on_worn();
        }
    }
}

/// Whether a new generation would not fail at once for want of descriptors.
fn descriptors_are_free() -> bool {
    let probes: Vec<_> = (0..FREE_DESCRIPTORS).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    probes.len() == FREE_DESCRIPTORS
}
