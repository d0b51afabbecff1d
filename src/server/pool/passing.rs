//! Which thread goes on with a request or a reply that is not done.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::super::context::Context;
use super::super::http::exchange::Exchange;
use super::super::http::head::Fault;
use super::super::http::sending::Sending;
use super::super::vitals::contain;
use super::super::work::{Job, Task};
use super::handle::{self, Handled};
use crate::bounds::{MAX_WAITING_BODIES, STACK_BYTES};

/// Pause between two looks at whether all connections of a Unix socket are ended.
const PAUSE: Duration = Duration::from_millis(10);

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

/// Reads a body in a separate thread: on a Unix socket, where the connection can't be found by its peer's address;
/// and one in chunks, whose decoder (chunked_transfer's `read_chunk_size`) loses what it has read of a line when the
/// socket does not wait.
fn read_aside(context: &Arc<Context>, mut exchange: Exchange) {
    if context.unix {
        exchange.go_away(&context.away);
    }
    let read = |context: &Arc<Context>, mut exchange: Exchange| match exchange.read_body() {
        Ok(_) => context.turns.resume(exchange),
        Err(error) => pass_on(context, handle::refuse(context, exchange, &error)),
    };
    if let Some(exchange) = aside(context, exchange, read) {
        pass_on(context, handle::refuse(context, exchange, &handle::overloaded()));
    }
}

/// Ends a connection that can't be distinguished from others, or releases a request on it, in a thread that may wait.
fn end_aside(context: &Arc<Context>, mut exchange: Exchange, bytes: Vec<u8>) {
    if context.unix {
        exchange.go_away(&context.away);
        if bytes.is_empty() {
            return let_go_together(context, exchange);
        }
    }
    let bytes = Arc::new(bytes);
    let to_send = Arc::clone(&bytes);
    let end = move |_: &Arc<Context>, mut exchange: Exchange| {
        if to_send.is_empty() {
            exchange.discard_after_cut();
        } else if exchange.head.fault.is_some_and(Fault::hides_end) || exchange.head.chunked || !exchange.drain_body() {
            exchange.send_and_keep(&to_send);
        } else if let Some(sending) = Sending::new(exchange, to_send.to_vec()) {
            sending.finish();
        }
    };
    if let Some(exchange) = aside(context, exchange, end) {
        // A decider may have come here, and the reply may have to wait for its client, or for a reply before it.
        context.jobs.add(Job::Refuse(exchange, bytes.to_vec()));
    }
}

/// On a Unix socket: has all connections ended, and releases the request then, in one thread for all of them. None
/// may be kept: the replies to those after it on its connection wait until it is gone.
fn let_go_together(context: &Arc<Context>, exchange: Exchange) {
    let mut leaving = context.leaving.lock().unwrap_or_else(PoisonError::into_inner);
    leaving.requests.push(exchange);
    if std::mem::replace(&mut leaving.is_attended, true) {
        return;
    }
    drop(leaving);
    let shared = Arc::clone(context);
    let thread = thread::Builder::new().name("flint-body".to_owned()).stack_size(STACK_BYTES);
    if let Err(error) = thread.spawn(move || let_go_of_all(&shared)) {
        log::warn!("no thread could be started to release requests: {error}");
        context.jobs.add(Job::LetGo);
    }
}

/// Until none is left.
pub fn let_go_of_all(context: &Context) {
    loop {
        let mut leaving = context.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if leaving.requests.is_empty() {
            leaving.is_attended = false;
            return;
        }
        let requests = std::mem::take(&mut leaving.requests);
        drop(leaving);
        let cut = context.guard.cut_all_unix();
        while !context.guard.is_done(cut) {
            thread::sleep(PAUSE);
        }
        for exchange in requests {
            contain(|| exchange.discard_after_cut());
        }
    }
}

/// Runs this in a separate thread, unless there are too many; then the request comes back.
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
