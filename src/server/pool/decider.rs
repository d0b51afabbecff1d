//! The threads `flint-http-N`: they take requests, decide checks, and send replies, and never wait.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::context::Context;
use super::super::http::exchange::Exchange;
use super::super::http::instances::{Instance, Instances, Taken};
use super::super::net::pressure;
use super::super::routes::table::find;
use super::super::vitals::contain;
use super::super::waiting::turns::Entered;
use super::handle::{self, Handled, Role};
use super::passing::pass_on;

/// Requests that are taken before some are decided.
const MOST_TAKEN: usize = 1024;

/// Requests that wait for a decider or for their turns, below which tiny_http's threads are not held back.
const CALM: usize = 1024;

/// Replies that are sent, and requests that are decided, before more are taken.
const MOST_SENT: usize = 16;
const MOST_DECIDED: usize = 16;

/// Looks at what tiny_http has before a decider goes to sleep. Under load others are about to hand something over; to
/// let them run is cheaper than to sleep and be woken.
const POLLS: u32 = 2;

/// How long a decider stays awake for a single reply: a sync of a fast disk. To be woken would take as long again as a
/// tenth of that; others that have work get the processor at once.
const STAY_AWAKE: Duration = Duration::from_micros(250);

/// The same for the next request of a client that has just been answered.
const STAY_AWAKE_FOR_NEXT: Duration = Duration::from_micros(50);

/// Time between two looks while the server ends.
const ENDING: Duration = Duration::from_millis(2);

pub struct Decider {
    context: Arc<Context>,
    instances: Arc<Instances>,
    processors: usize,
}

impl Decider {
    pub fn new(context: Arc<Context>, instances: Arc<Instances>) -> Decider {
        Decider { context, instances, processors: thread::available_parallelism().map_or(1, usize::from) }
    }

    /// Until the instances are told to end and everything that was taken is answered.
    pub fn run(&mut self) {
        loop {
            let instance = self.instances.newest();
            let sent = self.send();
            let taken = self.take(&instance);
            self.let_read(taken);
            let decided = self.decide();
            if sent + taken + decided > 0 || self.poll(&instance) || pressure::is_on() {
                continue;
            }
            if self.instances.are_ending() {
                if self.context.turns.is_idle() && self.context.pending.len() == 0 {
                    return;
                }
                thread::sleep(ENDING);
                continue;
            }
            self.sleep(&instance);
        }
    }

    /// Sends some of the replies that may be sent. Returns how many.
    fn send(&self) -> usize {
        for sent in 0..MOST_SENT {
            let Some((waiting, outcome)) = self.context.pending.next() else { return sent };
            let done = contain(|| handle::complete(&self.context, waiting, outcome));
            pass_on(&self.context, done.unwrap_or(Handled::Done));
        }
        MOST_SENT
    }

    /// Takes what tiny_http has read: it queues without a bound. Returns how many requests there were.
    fn take(&self, instance: &Instance) -> usize {
        for taken in 0..MOST_TAKEN {
            if !self.keep(instance, instance.try_take()) {
                return taken;
            }
        }
        MOST_TAKEN
    }

    /// Lets tiny_http's threads read on if what they have read is as good as decided.
    fn let_read(&self, taken: usize) {
        if taken < MOST_TAKEN && (!pressure::is_on() || self.context.turns.waiting() < CALM) {
            pressure::caught_up();
        }
    }

    /// Keeps what was taken from an instance. Returns whether it was a request.
    fn keep(&self, instance: &Instance, taken: Taken) -> bool {
        match taken {
            Taken::Request(request) => {
                enter(&self.context, Exchange::new(request, self.context.guard, find));
                return true;
            }
            Taken::Exhausted => self.instances.note_exhausted(instance),
            Taken::Nothing | Taken::Woken => {}
        }
        false
    }

    /// Decides some of the requests that are ready. Returns how many.
    fn decide(&self) -> usize {
        for decided in 0..MOST_DECIDED {
            let Some(exchange) = self.context.turns.next_ready() else { return decided };
            let done = contain(|| handle::handle(&self.context, exchange, Role::Decider));
            pass_on(&self.context, done.unwrap_or(Handled::Done));
        }
        MOST_DECIDED
    }

    /// Lets others run that are about to have work for this thread. Returns whether there is any.
    fn poll(&self, instance: &Instance) -> bool {
        for _ in 0..POLLS {
            thread::yield_now();
            if self.has_work(instance) {
                return true;
            }
        }
        let longest = match self.context.pending.len() {
            _ if self.processors == 1 => return false,
            // Its client is about to ask again.
            0 => STAY_AWAKE_FOR_NEXT,
            1 => STAY_AWAKE,
            _ => return false,
        };
        let begun = Instant::now();
        while begun.elapsed() < longest {
            if self.has_work(instance) {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    fn has_work(&self, instance: &Instance) -> bool {
        self.keep(instance, instance.try_take())
            || self.context.pending.has_completions()
            || self.context.turns.is_ready()
    }

    /// Sleeps until there is work.
    fn sleep(&self, instance: &Arc<Instance>) {
        let context = &self.context;
        let asleep = self.instances.asleep();
        asleep.raise();
        if !context.pending.has_completions() && !context.turns.is_ready() && !self.instances.are_ending() {
            self.keep(instance, self.instances.sleep_in(instance));
        }
        asleep.lower();
    }
}

/// Takes a request into its connection's turns; called also for the requests of HTTP instances that accept no more.
pub fn enter(context: &Arc<Context>, exchange: Exchange) {
    match context.turns.enter(exchange) {
        Entered::Kept => {}
        Entered::Refused(requests) => {
            for request in requests {
                let done = contain(|| handle::let_go(request));
                pass_on(context, done.unwrap_or(Handled::Done));
            }
        }
    }
}
