//! What workers do, and the queue of it.

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::http::exchange::Exchange;
use super::super::http::sending::Sending;
use crate::bounds::{MIN_QUEUED, QUEUED_PER_WORKER};

/// What a worker does.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
pub enum Job {
    Request(Exchange),
    /// Make the next part of a long reply, and send it.
    More(Sending),
    /// Send the rest of a reply on a Unix socket, where the worker waits for the client.
    Finish(Sending),
    /// End the thread.
    End,
}

/// The queue of the workers. Requests are bounded; the rest belongs to requests that were taken, and is bounded by them.
pub struct Jobs {
    sender: Sender<Job>,
    most: usize,
}

impl Jobs {
    /// The queue for so many workers, and its end.
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
