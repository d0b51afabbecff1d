//! The pool: who handles which request when.
//!
//! `--max-blocking` threads of two kinds. *Deciders* never wait: they take requests from tiny_http into turns, decide those
//! that are ready, and send replies that are on disk. *Workers* do what may wait: administration, and checks that found a
//! full log or a shard that is being copied. No other thread decides anything. tiny_http's queue has no bound, so a thread
//! that never waits must always take from it: hence two kinds.
//!
//! One function handles every request ([`handle::handle`]). A reply that must wait for the disk waits in `pending`, without
//! a thread. A client that is slow to send its body or to take its reply is left to the thread `flint-slow`.
//!
//! On a Unix socket tiny_http gives requests no address, so connections can't be told apart, nor found. There is one
//! decider then; replies leave in the order of their requests, and while a request is with a thread that may wait, all
//! replies are sent by workers: a reply to a request that was sent ahead waits for the one before it.
//!
//! Must never happen: that a decider waits for a client, a worker or the disk.

pub mod decider;
pub mod handle;
pub mod jobs;
#[cfg(all(loom, test))]
mod model;
pub mod pending;
pub mod slow;
mod sync;
pub mod turns;
pub mod wake;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::Receiver;

use self::decider::Decider;
use self::handle::{Handled, Role};
use self::jobs::Job;
use self::slow::{Loop, Task};
use super::accept::Instances;
use super::context::Context;
use super::http::exchange::Exchange;
use crate::bounds::{MAX_WAITING_BODIES, STACK_BYTES};

/// Most deciders: half of the processors, so that tiny_http's threads have the other half.
pub const MOST_DECIDERS: usize = 4;

/// Pause between two looks at whether all connections of a Unix socket are ended.
const PAUSE: Duration = Duration::from_millis(10);

/// How many of so many threads are deciders, and how many workers; at least one each.
pub fn share(threads: usize, unix: bool) -> (usize, usize) {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let most = if unix { 1 } else { MOST_DECIDERS };
    let deciders = (processors / 2).min(most).min(threads / 2).max(1);
    (deciders, threads.saturating_sub(deciders).max(1))
}

/// The threads of the pool.
pub struct Pool {
    context: Arc<Context>,
    deciders: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    slow: JoinHandle<()>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        context: &Arc<Context>,
        instances: &Arc<Instances>,
        (deciders, workers): (usize, usize),
        jobs: &Receiver<Job>,
        slow: Loop,
    ) -> std::io::Result<Pool> {
        let start = |name: String, work: Box<dyn FnMut() + Send>| context.vitals.start(name, work);
        let workers = (0..workers).map(|index| {
            let (context, jobs) = (Arc::clone(context), jobs.clone());
            start(format!("flint-work-{index}"), Box::new(move || work(&context, &jobs)))
        });
        let workers = workers.collect::<std::io::Result<_>>()?;
        let deciders = (0..deciders).map(|index| {
            let mut decider = Decider::new(Arc::clone(context), Arc::clone(instances));
            start(format!("flint-http-{index}"), Box::new(move || decider.run()))
        });
        let deciders = deciders.collect::<std::io::Result<_>>()?;
        Ok(Pool { context: Arc::clone(context), deciders, workers, slow: slow.start(context)? })
    }

    /// Waits until all that was taken is answered. The instances must have been told that deciders end.
    pub fn finish(self) {
        for decider in self.deciders {
            let _ = decider.join();
        }
        for _ in &self.workers {
            self.context.jobs.add(Job::End);
        }
        for worker in self.workers {
            let _ = worker.join();
        }
        self.context.slow.add(Task::End);
        let _ = self.slow.join();
    }
}

/// A worker's thread.
fn work(context: &Arc<Context>, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        if matches!(job, Job::End) {
            return;
        }
        contain(|| match job {
            Job::Request(exchange) => pass_on(context, handle::handle(context, exchange, Role::Worker)),
            Job::More(mut sending) => {
                sending.make_more();
                pass_on(context, handle::send(sending));
            }
            Job::Finish(sending) => sending.finish(),
            Job::End => {}
        });
    }
}

/// Gives a request or a reply that is not done to the thread that goes on with it. Never waits.
pub fn pass_on(context: &Arc<Context>, handled: Handled) {
    match handled {
        Handled::Done => {}
        Handled::WouldBlock(mut exchange) => {
            if context.unix {
                exchange.go_away(&context.away);
            }
            if let Some(exchange) = context.jobs.offer(exchange) {
                pass_on(context, handle::refuse(context, exchange, &handle::overloaded()));
            }
        }
        Handled::More(sending) => context.jobs.add(Job::More(sending)),
        Handled::Slow(mut sending) if context.unix => {
            sending.go_away(&context.away);
            context.jobs.add(Job::Finish(sending));
        }
        Handled::Slow(sending) => context.slow.add(Task::Send(sending)),
        Handled::Body(exchange) if context.unix || exchange.head.chunked => read_aside(context, exchange),
        Handled::Body(exchange) => context.slow.add(Task::Body(exchange)),
        Handled::Refused(exchange, bytes) if context.unix || !exchange.is_attributed() => {
            end_aside(context, exchange, bytes);
        }
        Handled::Refused(exchange, bytes) => context.slow.add(Task::Refuse(exchange, bytes)),
    }
}

/// Reads a body in a thread of its own: on a Unix socket, where the connection can't be found by its peer's address; and one
/// in chunks, whose decoder (chunked_transfer's `read_chunk_size`) loses what it has read of a line when the socket does
/// not wait.
fn read_aside(context: &Arc<Context>, mut exchange: Exchange) {
    if context.unix {
        exchange.go_away(&context.away);
    }
    let refuse = |exchange| pass_on(context, handle::refuse(context, exchange, &handle::overloaded()));
    let read = |context: &Arc<Context>, mut exchange: Exchange| match exchange.read_body() {
        Ok(_) => context.turns.resume(exchange),
        Err(error) => pass_on(context, handle::refuse(context, exchange, &error)),
    };
    if let Some(exchange) = aside(context, exchange, read) {
        refuse(exchange);
    }
}

/// Ends a connection that can't be told from others, or lets go of a request on it, in a thread that may wait.
fn end_aside(context: &Arc<Context>, mut exchange: Exchange, bytes: Vec<u8>) {
    if context.unix {
        exchange.go_away(&context.away);
    }
    let end = move |_: &Arc<Context>, mut exchange: Exchange| {
        if bytes.is_empty() {
            exchange.discard_with_all(|guard, request| {
                while !guard.is_done(request) {
                    thread::sleep(PAUSE);
                }
            });
        } else if exchange.head.ambiguous || exchange.head.chunked || exchange.read_body().is_err() {
            exchange.send_and_keep(bytes);
        } else if let Some(sending) = exchange.into_sending(bytes) {
            sending.finish();
        }
    };
    if let Some(exchange) = aside(context, exchange, end) {
        exchange.send_and_keep(Vec::new());
    }
}

/// Runs this in a thread of its own, unless there are too many; then the request comes back.
fn aside(
    context: &Arc<Context>,
    exchange: Exchange,
    run: impl FnOnce(&Arc<Context>, Exchange) + Send + 'static,
) -> Option<Exchange> {
    if context.bodies.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING_BODIES {
        context.bodies.fetch_sub(1, Ordering::Relaxed);
        return Some(exchange);
    }
    let (hand, take) = crossbeam_channel::bounded::<Exchange>(1);
    let started = {
        let context = Arc::clone(context);
        thread::Builder::new().name("flint-body".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            if let Ok(exchange) = take.recv() {
                contain(|| run(&context, exchange));
            }
            context.bodies.fetch_sub(1, Ordering::Relaxed);
        })
    };
    match started {
        // A thread that was started takes what is handed to it.
        Ok(_) => hand.send(exchange).err().map(|unsent| unsent.0),
        Err(error) => {
            log::warn!("a body cannot be read: no thread could be started: {error}");
            context.bodies.fetch_sub(1, Ordering::Relaxed);
            Some(exchange)
        }
    }
}

/// A panic in a handler costs one request.
fn contain<T>(handler: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(handler));
    if done.is_err() {
        log::error!("a request's handler panicked; that request alone was answered 500");
    }
    done.ok()
}
