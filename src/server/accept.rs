//! HTTP instances: tiny_http servers on one listening socket.
//!
//! tiny_http ends its accept loop at the first error (out of descriptors, say), and its accept thread panics when a
//! descriptor or a thread can't be had (`Server::from_listener` in its lib.rs): the process would live on and accept
//! nothing. So when an instance is exhausted, or the guard finds that nothing accepts, the next one is put on the same
//! socket. Each instance has a thread, `flint-accept-N`: it waits for the end of its instance, starts the next, and from
//! then on hands over what the connections of the old one still send.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tiny_http::Request;

use super::context::Context;
use super::http::exchange::Exchange;
use super::net::listener::Listener;
use super::net::pressure;
use super::pool::MOST_DECIDERS;
use super::pool::decider::enter;
use super::pool::wake::Asleep;
use crate::error::{Error, Kind, Result};

/// Instances after which the process is replaced: each that is exhausted keeps a thread.
const MAX_INSTANCES: usize = 32;

/// Pause before the next instance, and between two looks for free descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Pause between two tries to wake the deciders that sleep in an old instance.
const MOVE: Duration = Duration::from_millis(1);

/// Descriptors that must be free before the next instance is started.
const FREE_DESCRIPTORS: usize = 16;

/// What the thread of the newest instance is told.
enum Event {
    /// This instance accepts no more.
    Exhausted(usize),
    /// Connections wait and nothing accepts them.
    NotAccepting,
    End,
}

/// One tiny_http server.
pub struct Instance {
    /// Its destructor would remove the socket's file, whatever made it, and drop requests with their bodies.
    http: ManuallyDrop<tiny_http::Server>,
    number: usize,
    /// Deciders that sleep in it, or are about to.
    sleepers: AtomicUsize,
}

/// What was taken from an instance.
pub enum Taken {
    Request(Request),
    Nothing,
    /// By `unblock`.
    Woken,
    /// It accepts no more, for a reason that was logged.
    Exhausted,
}

impl Instance {
    /// What it has, if anything.
    pub fn try_take(&self) -> Taken {
        match self.http.try_recv() {
            Ok(Some(request)) => Taken::Request(request),
            Ok(None) => Taken::Nothing,
            Err(error) => Instance::failed(&error),
        }
    }

    fn take(&self) -> Taken {
        self.http.recv().map_or_else(|error| Instance::failed(&error), Taken::Request)
    }

    fn failed(error: &io::Error) -> Taken {
        // `unblock` gives an error of no system call (`recv` in tiny_http's lib.rs).
        if error.raw_os_error().is_none() {
            return Taken::Woken;
        }
        log::debug!("accepting connections failed: {error}");
        Taken::Exhausted
    }
}

/// All instances.
pub struct Instances {
    listener: Arc<Listener>,
    /// The newest last. Locked for a moment, holding nothing else.
    all: RwLock<Vec<Arc<Instance>>>,
    asleep: Asleep,
    events: Sender<Event>,
    /// Deciders are to end once all is answered.
    ending: AtomicBool,
    /// No new instance: the server stops, or the process is about to be replaced.
    closed: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the thread of the newest instance listens to.
pub struct Events(Receiver<Event>);

impl Instances {
    /// None yet.
    pub fn new(listener: &Arc<Listener>) -> (Arc<Instances>, Events) {
        let (events, receiver) = unbounded();
        let instances = Instances {
            listener: Arc::clone(listener),
            all: RwLock::default(),
            asleep: Asleep::new(),
            events,
            ending: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            threads: Mutex::default(),
        };
        (Arc::new(instances), Events(receiver))
    }

    /// Starts the first instance and its thread. `on_exhausted` is called when there were too many.
    ///
    /// # Errors
    /// `io` when it can't be started.
    pub fn start(
        self: &Arc<Self>,
        context: &Arc<Context>,
        events: Events,
        on_exhausted: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<()> {
        let accept =
            Accept { instances: Arc::clone(self), context: Arc::clone(context), events: events.0, on_exhausted };
        accept.start_next(0).map_err(|error| Error::new(Kind::Io, format!("cannot serve: {error}")))
    }

    /// The instance that accepts.
    pub fn newest(&self) -> Arc<Instance> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.last().expect("deciders are started after the first instance"))
    }

    pub fn asleep(&self) -> &Asleep {
        &self.asleep
    }

    /// Wakes a decider, if one sleeps or is about to. Called after work was queued for it.
    pub fn wake(&self) {
        if self.asleep.must_wake() {
            // One that goes on sleeping in an older instance is moved by that one's thread.
            if let Some(newest) = self.all.read().unwrap_or_else(PoisonError::into_inner).last() {
                newest.http.unblock();
            }
        }
    }

    /// Sleeps in an instance until it has something, unless it is not the newest any more.
    pub fn sleep_in(&self, instance: &Arc<Instance>) -> Taken {
        instance.sleepers.fetch_add(1, Ordering::SeqCst);
        let taken = if Arc::ptr_eq(&self.newest(), instance) { instance.take() } else { Taken::Nothing };
        instance.sleepers.fetch_sub(1, Ordering::SeqCst);
        taken
    }

    /// Notes that an instance accepts no more.
    pub fn note_exhausted(&self, instance: &Instance) {
        if !self.closed.load(Ordering::Acquire) {
            log::warn!("accepting connections failed; starting anew");
        }
        let _ = self.events.send(Event::Exhausted(instance.number));
    }

    /// Notes that connections wait and nothing accepts them.
    pub fn note_not_accepting(&self) {
        let _ = self.events.send(Event::NotAccepting);
    }

    /// Starts no instance any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether deciders are to end once all is answered.
    pub fn are_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Has the deciders end once all is answered.
    pub fn end(&self) {
        self.close();
        self.ending.store(true, Ordering::SeqCst);
        let _ = self.events.send(Event::End);
        for instance in &*self.all.read().unwrap_or_else(PoisonError::into_inner) {
            // Each thread that sleeps in it takes one.
            (0..=MOST_DECIDERS).for_each(|_| instance.http.unblock());
        }
    }

    /// Waits for the instances' threads.
    pub fn join(&self) {
        for thread in std::mem::take(&mut *self.threads()) {
            let _ = thread.join();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread of an instance has.
#[derive(Clone)]
struct Accept {
    instances: Arc<Instances>,
    context: Arc<Context>,
    events: Receiver<Event>,
    on_exhausted: Arc<dyn Fn() + Send + Sync>,
}

impl Accept {
    /// Starts the thread of the next instance, and waits until that accepts.
    fn start_next(&self, number: usize) -> std::result::Result<(), String> {
        let (report, started) = bounded(1);
        let mut accept = Some(self.clone());
        let run = move || {
            // The instance is made in its own thread: if there is no thread to be had, nothing accepts that nobody serves.
            let Some(accept) = accept.take() else { return };
            match pressure::note_accepting_thread(|| accept.instances.listener.serve()) {
                Ok(http) => {
                    let http = ManuallyDrop::new(http);
                    let instance = Arc::new(Instance { http, number, sleepers: AtomicUsize::new(0) });
                    let all = &accept.instances.all;
                    all.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&instance));
                    let _ = report.send(Ok(()));
                    accept.attend(&instance);
                }
                Err(error) => drop(report.send(Err(error))),
            }
        };
        let thread = self.context.vitals.start(format!("{}{number}", pressure::THREADS), run);
        self.instances.threads().push(thread.map_err(|error| error.to_string())?);
        started.recv().unwrap_or_else(|_| Err("a thread has ended".to_owned()))
    }

    /// Waits for the instance's end, and has the next one follow; then hands over what its connections send.
    fn attend(&self, instance: &Instance) {
        loop {
            match self.events.recv() {
                Ok(Event::Exhausted(number)) if number != instance.number => {}
                Ok(Event::Exhausted(_)) => break,
                Ok(Event::NotAccepting) => {
                    log::warn!("connections wait and nothing accepts them; starting anew");
                    break;
                }
                Ok(Event::End) | Err(_) => return,
            }
        }
        if self.replace(instance) {
            self.hand_over(instance);
        }
    }

    /// Starts the next instance as soon as that can be. Returns whether there is one.
    fn replace(&self, instance: &Instance) -> bool {
        let number = instance.number + 1;
        let mut said = false;
        loop {
            thread::sleep(PAUSE);
            if self.instances.closed.load(Ordering::Acquire) {
                return false;
            }
            if !descriptors_are_free() {
                continue;
            }
            // What was reported until now is about this instance.
            while self.events.try_recv().is_ok_and(|event| !matches!(event, Event::End)) {}
            match self.start_next(number) {
                Ok(()) => break,
                Err(error) if said => log::debug!("cannot accept connections: {error}"),
                Err(error) => {
                    log::error!("cannot accept connections, trying again: {error}");
                    said = true;
                }
            }
        }
        if number + 1 >= MAX_INSTANCES {
            (self.on_exhausted)();
        }
        true
    }

    /// Hands over the requests of connections that an instance has which accepts no more.
    fn hand_over(&self, instance: &Instance) {
        // The deciders that sleep in it go on in the newest one. Another took the place before this looks.
        while instance.sleepers.load(Ordering::SeqCst) > 0 {
            instance.http.unblock();
            thread::sleep(MOVE);
        }
        while !self.instances.are_ending() {
            if let Taken::Request(request) = instance.take() {
                enter(&self.context, Exchange::new(request, self.context.notes));
                self.instances.wake();
            }
        }
    }
}

/// Whether a new instance would not fail at once for want of descriptors.
fn descriptors_are_free() -> bool {
    let probes: Vec<_> = (0..FREE_DESCRIPTORS).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    probes.len() == FREE_DESCRIPTORS
}
