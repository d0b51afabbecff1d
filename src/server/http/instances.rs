//! HTTP instances: tiny_http servers on one listening socket, of which the newest accepts connections.
//!
//! Owns: what deciders take requests from and sleep in. Who starts an instance is `accept`.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tiny_http::Request;

use super::super::net::listener::Listener;
use super::super::net::pressure;
use super::super::waiting::wake::Asleep;

/// Most deciders: half of the processors, so that tiny_http's threads have the other half.
pub const MOST_DECIDERS: usize = 4;

/// Pause between two tries to wake the deciders that sleep in an old instance.
const MOVE: Duration = Duration::from_millis(1);

/// What is sent to the thread of the newest instance.
pub enum Event {
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
    pub number: usize,
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

    /// Waits until it has something.
    pub fn take(&self) -> Taken {
        self.http.recv().map_or_else(|error| Instance::failed(&error), Taken::Request)
    }

    /// Wakes the deciders that sleep in it, until there are none.
    pub fn empty(&self) {
        while self.sleepers.load(Ordering::SeqCst) > 0 {
            self.http.unblock();
            thread::sleep(MOVE);
        }
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

impl Instances {
    /// None yet.
    pub fn new(listener: &Arc<Listener>) -> (Arc<Instances>, Receiver<Event>) {
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
        (Arc::new(instances), receiver)
    }

    /// A tiny_http server on the socket, the newest from now on. It must be made by a thread with a name of
    /// [`pressure::THREADS`].
    ///
    /// # Errors
    /// What kept it from being made, in words.
    pub fn make(&self, number: usize) -> Result<Arc<Instance>, String> {
        let http = pressure::note_accepting_thread(|| self.listener.serve())?;
        let instance = Arc::new(Instance { http: ManuallyDrop::new(http), number, sleepers: AtomicUsize::new(0) });
        self.all.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&instance));
        Ok(instance)
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
            // A connection that stays asleep in an older instance is moved by that instance's thread.
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

    /// Makes the deciders end once all is answered.
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

    /// Keeps the thread of an instance, for [`Instances::join`].
    pub fn add_thread(&self, thread: JoinHandle<()>) {
        self.threads().push(thread);
    }

    /// Whether no instance is started any more.
    pub fn are_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
