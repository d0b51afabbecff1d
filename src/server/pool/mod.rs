//! The pool: which thread handles which request, and when.
//!
//! `--max-blocking` threads of two kinds. *Deciders* do not block: they take requests from tiny_http into turns, decide
//! those that are ready, and send replies that are on disk. *Workers* do everything that may block: administration,
//! checks of more than 8 KiB, and checks that found no reserved space in the log or a shard that is held for long
//! (copied or listed). No other thread handles requests. tiny_http's queue has no bound, so a thread that never waits
//! must always take from it: hence two kinds.
//!
//! One function handles every request ([`handle::handle`]). A reply that must wait for the disk waits in `pending`,
//! without a thread. Over TCP, `flint-slow` takes over a client that is slow to send its body or to read its reply; a
//! body in chunks gets a thread `flint-body`.
//!
//! On a Unix socket tiny_http gives requests no address, so connections can't be told apart, nor found. There is one
//! decider then; replies leave in the order of their requests, and while a request is with a thread that may wait, all
//! replies are sent by workers: a reply to a request that was sent ahead waits for the one before it.
//!
//! Must never happen: that a decider waits for a worker or the disk, or for a client longer than one write's
//! `SEND_PATIENCE_MS`. (On a Unix socket a write that began before the guard saw the connection lasts until the guard
//! cuts it: see `guard/cuts.rs`.)

mod asked;
pub mod decider;
pub mod handle;
mod passing;
pub mod slow;
mod worker;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::Receiver;

use self::decider::Decider;
use self::slow::Loop;
use super::context::Context;
use super::http::instances::{Instances, MOST_DECIDERS};
use super::work::{Job, Task};

/// How many of this many threads are deciders, and how many workers; at least one each.
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
            start(format!("flint-work-{index}"), Box::new(move || worker::work(&context, &jobs)))
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
