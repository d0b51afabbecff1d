//! The threads of the HTTP instances, which keep the server accepting.
//!
//! tiny_http ends its accept loop at the first error (out of descriptors, say), and its accept thread panics when a
//! descriptor or a thread is not available (`Server::from_listener` in its lib.rs): the process would live on and
//! accept nothing. So when an instance is exhausted, or the guard finds that nothing accepts, the next one is put on
//! the same socket. Each instance has a thread, `flint-accept-N`: it waits for the end of its instance, starts the
//! next, and from then on hands over what the connections of the old one still send.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::context::Context;
use super::http::exchange::Exchange;
use super::http::instances::{Event, Instance, Instances, Taken};
use super::net::pressure;
use super::pool::decider::enter;
use super::routes::table::find;
use crate::error::{Error, Kind, Result};

/// Instances after which the process is replaced: each that is exhausted keeps a thread.
const MAX_INSTANCES: usize = 32;

/// Pause before the next instance, and between two looks for free descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that must be free before the next instance is started.
const FREE_DESCRIPTORS: usize = 16;

/// Starts the first instance and its thread. `on_exhausted` is called when there were too many.
///
/// # Errors
/// `io` when it can't be started.
pub fn start(
    instances: &Arc<Instances>,
    context: &Arc<Context>,
    events: Receiver<Event>,
    on_exhausted: Arc<dyn Fn() + Send + Sync>,
) -> Result<()> {
    let accept = Accept { instances: Arc::clone(instances), context: Arc::clone(context), events, on_exhausted };
    accept.start_next(0).map_err(|error| Error::new(Kind::Io, format!("cannot serve: {error}")))
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
            // The instance is made in its own thread: if there is no thread available, nothing accepts that nobody
            // serves.
            let Some(accept) = accept.take() else { return };
            match accept.instances.make(number) {
                Ok(instance) => {
                    let _ = report.send(Ok(()));
                    accept.attend(&instance);
                }
                Err(error) => drop(report.send(Err(error))),
            }
        };
        let thread = self.context.vitals.start(format!("{}{number}", pressure::THREADS), run);
        self.instances.add_thread(thread.map_err(|error| error.to_string())?);
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
            if self.instances.are_closed() {
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
        instance.empty();
        while !self.instances.are_ending() {
            if let Taken::Request(request) = instance.take() {
                enter(&self.context, Exchange::new(request, self.context.guard, find));
                self.instances.wake();
            }
        }
    }
}

/// Whether a new instance would not fail at once for lack of descriptors.
fn descriptors_are_free() -> bool {
    let probes: Vec<_> = (0..FREE_DESCRIPTORS).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    probes.len() == FREE_DESCRIPTORS
}
