//! What workers and the thread `flint-slow` are asked to do, and the ways to them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::http::exchange::Exchange;
use super::http::reply::Reply;
use super::http::sending::Sending;
use super::routes::metrics::Suspended;
use crate::bounds::{MIN_QUEUED, QUEUED_PER_WORKER};

/// What a worker does.
pub enum Job {
    Request(Exchange),
    /// Make the next part of a long reply, and send it.
    More(Sending),
    /// Send the rest of a reply on a Unix socket, where the worker waits for the client.
    Finish(Sending),
    /// Answer a request whose body is not read, where no thread was free to end its connection: the worker waits for
    /// the client.
    Refuse(Exchange, Vec<u8>),
    /// Let go of the requests of a Unix socket that are to leave, where no thread could be started for it.
    LetGo,
    /// End the thread.
    End,
}

/// The queue of the workers. Requests are bounded; the rest belongs to requests that were taken, and is bounded by
/// them.
pub struct Jobs {
    sender: Sender<Job>,
    most: usize,
}

impl Jobs {
    /// The queue for this many workers, and its end.
    pub fn new(workers: usize) -> (Jobs, Receiver<Job>) {
        let (sender, receiver) = unbounded();
        (Jobs { sender, most: (workers * QUEUED_PER_WORKER).max(MIN_QUEUED) }, receiver)
    }

    /// Queues a request; gives it back if there are too many.
    pub fn offer(&self, exchange: Exchange) -> Option<Exchange> {
        if self.sender.len() >= self.most {
            return Some(exchange);
        }
        self.add(Job::Request(exchange));
        None
    }

    pub fn add(&self, job: Job) {
        let _ = self.sender.send(job);
    }
}

/// Where an operation leaves its reply before it is said to be done.
pub type Cell = Arc<Mutex<Option<Reply>>>;

/// A reply that waits.
pub enum Prepared {
    /// Made, and to be sent once the disk has its record.
    Made(Reply),
    /// To be found here once its slot is completed.
    Elsewhere(Cell),
}

/// A request with its reply, which waits for the disk or for a store.
pub struct Waiting {
    pub exchange: Exchange,
    /// What is answered if all goes well.
    pub reply: Prepared,
    pub measure: Option<Suspended>,
}

/// What the thread `flint-slow` is asked to do.
pub enum Task {
    /// Read the body, and make the request ready.
    Body(Exchange),
    /// Send these bytes and end the connection, whose body was not read.
    Refuse(Exchange, Vec<u8>),
    /// Send the rest of a reply.
    Send(Sending),
    /// End once nothing is left.
    End,
}

/// The way to the thread `flint-slow`.
pub struct Slow {
    tasks: Sender<Task>,
    wake: OwnedFd,
}

impl Slow {
    /// `wake` counts the tasks.
    pub fn new(tasks: Sender<Task>, wake: OwnedFd) -> Slow {
        Slow { tasks, wake }
    }

    pub fn add(&self, task: Task) {
        let _ = self.tasks.send(task);
        // The counter can't overflow, and a failure would have no remedy.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}
