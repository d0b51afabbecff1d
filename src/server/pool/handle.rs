//! The one way of a request through the server.
//!
//! Owns: the order in which a request is admitted, its body read, the answer made, counted and sent, and its connection
//! kept or ended. Called by deciders and workers ([`handle`]), and to refuse what they have no room for ([`refuse`]). A
//! request that will be refused is refused before its body is read.

use std::sync::Arc;

use super::super::context::Context;
use super::super::http::auth;
use super::super::http::exchange::Exchange;
use super::super::http::head::Class;
use super::super::http::reply::{Reply, Then};
use super::super::http::sending::{Sending, Sent};
use super::super::routes;
use super::super::routes::call::Sources;
use super::super::routes::metrics::Measure;
use super::super::waiting::pending::Outcome;
use super::super::work::{Prepared, Waiting};
use super::asked;
use crate::error::{Error, Kind, Result, too_large};
use crate::limiter::NonBlocking;
use crate::store;

/// Which thread handles a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Must not wait.
    Decider,
    /// May wait for the disk.
    Worker,
}

/// How far a request came.
pub enum Handled {
    /// It was answered or released, or its reply waits for the disk.
    Done,
    /// Its client is slow to take the reply.
    Slow(Sending),
    /// The next part of its reply must be made by a worker.
    More(Sending),
    /// Its body must be read first.
    Body(Exchange),
    /// A thread that may wait must handle it; nothing was done.
    WouldBlock(Exchange),
    /// It is refused with these bytes, or released if there are none, with its body unread.
    Refused(Exchange, Vec<u8>),
}

/// Handles one request.
pub fn handle(context: &Arc<Context>, mut exchange: Exchange, role: Role) -> Handled {
    if exchange.is_given_up() || exchange.head.class == Class::Bloated {
        return let_go(exchange);
    }
    let measure = context.metrics.measure(exchange.head.endpoint(), exchange.arrived);
    if let Err(error) = admit(context, &mut exchange) {
        let reply = refusal(context, &exchange, &error);
        return answer_at_once(context, exchange, measure, reply, role);
    }
    if exchange.head.unread {
        if let Err(error) = exchange.admit_large(&context.large) {
            return answer_at_once(context, exchange, measure, Reply::error(&error), role);
        }
        measure.suspend();
        return Handled::Body(exchange);
    }
    if role == Role::Decider && exchange.head.class != Class::Quick {
        measure.suspend();
        return Handled::WouldBlock(exchange);
    }
    if let Err(error) = exchange.read_body() {
        return answer_at_once(context, exchange, measure, Reply::error(&error), role);
    }
    if is_to_panic(exchange.target()) {
        panic!("asked to by FLINT_TEST_PANIC");
    }
    if asked::is_elsewhere(context, &exchange) {
        return ask_elsewhere(context, exchange, measure, role);
    }
    if role == Role::Worker {
        let reply = routes::answer(context.sources(), &ask(&exchange));
        return answer(context, exchange, measure, reply);
    }
    let slot = context.engine.waits().then(|| context.pending.reserve());
    let non_blocking = NonBlocking::new(&context.completion, slot.as_ref().map_or(0, |slot| slot.number()));
    let reply = routes::answer(Sources { non_blocking: Some(&non_blocking), ..context.sources() }, &ask(&exchange));
    if non_blocking.would_block() {
        measure.suspend();
        return Handled::WouldBlock(exchange);
    }
    match slot {
        Some(slot) if non_blocking.is_pending() => {
            let waiting = Waiting { exchange, reply: Prepared::Made(reply), measure: measure.suspend() };
            slot.fill(waiting).map_or(Handled::Done, |(waiting, outcome)| complete(context, waiting, outcome))
        }
        slot => {
            // Given back before the reply takes its place among those that wait.
            drop(slot);
            answer_at_once(context, exchange, measure, reply, role)
        }
    }
}

/// Has a request answered by an operation elsewhere. A worker waits for it.
fn ask_elsewhere(context: &Arc<Context>, exchange: Exchange, measure: Measure<'_>, role: Role) -> Handled {
    let (operation, cell) = asked::operation(context, &exchange);
    if role == Role::Worker {
        let reply = match context.engine.run(operation) {
            Ok(()) => asked::take(&cell),
            Err(error) => refusal(context, &exchange, &error),
        };
        return answer(context, exchange, measure, reply);
    }
    let slot = context.pending.reserve();
    let (number, completion) = (slot.number(), Arc::clone(&context.completion));
    let (found, target) = (exchange.head.found, exchange.target().to_owned());
    let (shared, left) = (Arc::clone(context), Arc::clone(&cell));
    let waiting = Waiting { exchange, reply: Prepared::Elsewhere(cell), measure: measure.suspend() };
    let done = move |outcome: Result<()>| {
        if let Err(error) = outcome {
            asked::leave_refusal(&shared, found, &target, &left, &error);
        }
        completion.complete(number, true);
    };
    context.engine.submit(operation, Box::new(done));
    slot.fill(waiting).map_or(Handled::Done, |(waiting, outcome)| complete(context, waiting, outcome))
}

/// The error of an operation that was given up: the store may have done it.
fn late() -> Error {
    Error::new(
        Kind::OutcomeUnknown,
        "the store did not answer in time; the units may have been spent; look at the limit before you repeat the \
         request",
    )
}

fn refusal(context: &Context, exchange: &Exchange, error: &Error) -> Reply {
    routes::refusal(error, exchange.head.found, exchange.target(), context.sources().gates)
}

/// Sends a reply that waits for nothing but, on a Unix socket, for the replies before it.
fn answer_at_once(context: &Context, exchange: Exchange, measure: Measure<'_>, reply: Reply, role: Role) -> Handled {
    if !context.unix || role == Role::Worker || exchange.head.unread {
        return answer(context, exchange, measure, reply);
    }
    let waiting = Waiting { exchange, reply: Prepared::Made(reply), measure: measure.suspend() };
    let ready = context.pending.follow(waiting);
    ready.map_or(Handled::Done, |waiting| complete(context, waiting, Outcome::Done))
}

/// Sends what there is of a reply.
pub fn send(sending: Sending) -> Handled {
    match sending.go_on() {
        Sent::All => Handled::Done,
        Sent::Waiting(sending) => Handled::Slow(sending),
        Sent::More(sending) => Handled::More(sending),
    }
}

/// Sends a reply that waited for the log.
pub fn complete(context: &Context, waiting: Waiting, outcome: Outcome) -> Handled {
    let Waiting { exchange, reply, measure } = waiting;
    let reply = match (reply, outcome) {
        (Prepared::Made(reply), Outcome::Done) => reply,
        (Prepared::Made(reply), Outcome::Failed) => reply.instead(&context.engine.failure()),
        (Prepared::Made(reply), Outcome::Late) => reply.instead(&store::overloaded()),
        (Prepared::Elsewhere(cell), Outcome::Done) => asked::take(&cell),
        (Prepared::Elsewhere(_), Outcome::Failed | Outcome::Late) => refusal(context, &exchange, &late()),
    };
    if is_to_panic_late(exchange.target()) {
        panic!("asked to by FLINT_TEST_PANIC_LATE");
    }
    let measure = match measure {
        Some(suspended) => context.metrics.go_on(suspended),
        None => context.metrics.measure(exchange.head.endpoint(), exchange.arrived),
    };
    answer(context, exchange, measure, reply)
}

/// Answers a request with an error, whether its body was read or not.
pub fn refuse(context: &Context, exchange: Exchange, error: &Error) -> Handled {
    let measure = context.metrics.measure(exchange.head.endpoint(), exchange.arrived);
    let reply = refusal(context, &exchange, error);
    answer(context, exchange, measure, reply)
}

/// The error for a request that there is no room for.
pub fn overloaded() -> Error {
    Error::new(Kind::Overloaded, "too many requests at once; try again in a second")
}

fn ask(exchange: &Exchange) -> routes::Ask<'_> {
    routes::Ask {
        found: exchange.head.found,
        method: exchange.method(),
        target: exchange.target(),
        body: exchange.body(),
        peer: exchange.peer.map(|peer| peer.ip()),
        headers: exchange.headers(),
        grant: exchange.grant.as_deref(),
    }
}

/// Refuses what can be refused by the head.
fn admit(context: &Context, exchange: &mut Exchange) -> Result<()> {
    let head = &exchange.head;
    if head.class == Class::Shed {
        return Err(overloaded());
    }
    if let Some(fault) = head.fault {
        return Err(Error::invalid(fault.message()));
    }
    let open = context.open_health && head.found.is_some_and(|found| found.health);
    let grant = if open { None } else { auth::require_token(exchange, &context.tokens())? };
    auth::refuse_pages(exchange, &context.hosts, context.unix)?;
    if let Some(grant) = &grant {
        routes::check_grant(grant, head.found, exchange.method(), exchange.target())?;
    }
    if head.chunked && context.unix {
        // The line with a chunk's length may have no end, and here the guard can't see how much of it there is.
        return Err(Error::invalid(
            "header Content-Length must give the length of a body on a Unix socket, not Transfer-Encoding",
        ));
    }
    if exchange.is_over_bound() {
        return Err(too_large(exchange.head.max_body()));
    }
    if head.unread {
        routes::check_method(head.found, exchange.method(), exchange.target())?;
    }
    exchange.grant = grant;
    Ok(())
}

/// Sends the reply, and keeps or ends the connection.
fn answer(context: &Context, exchange: Exchange, mut measure: Measure<'_>, reply: Reply) -> Handled {
    measure.status = reply.status;
    let head = &exchange.head;
    let draining = context.is_draining();
    let (head_only, chunked) = (head.head_only, head.chunks_known);
    let until_end = reply.more.is_some() && !chunked;
    // tiny_http takes sizes of chunks that no front would, so what follows such a body may be another request there.
    let (unread, in_chunks) = (head.unread, head.chunked && reply.more.is_none());
    let last = unread || head.chunked || head.must_end || draining || until_end;
    let then = match head.close || last {
        true => Then::Closed,
        false if head.tell_kept => Then::Kept,
        false => Then::Open,
    };
    let bytes = reply.encode(then, head_only, chunked);
    if unread || in_chunks {
        return Handled::Refused(exchange, bytes);
    }
    let more = reply.more.filter(|_| !head_only);
    // A reply to a request that was sent ahead would wait for those that are elsewhere.
    let wait = exchange.is_slow() || (context.unix && exchange.waits_for_others(&context.away));
    let Some(sending) = Sending::new(exchange, bytes) else { return Handled::Done };
    let sending = sending.followed_by(more, chunked).then_end(last);
    if wait {
        return Handled::Slow(sending);
    }
    send(sending)
}

/// Lets go of a request whose connection is given up.
pub fn let_go(exchange: Exchange) -> Handled {
    if exchange.head.unread || exchange.peer.is_none() {
        return Handled::Refused(exchange, Vec::new());
    }
    exchange.discard();
    Handled::Done
}

/// Hooks for the tests that a panic costs one request; never in a release build.
fn is_to_panic(target: &str) -> bool {
    cfg!(debug_assertions) && std::env::var("FLINT_TEST_PANIC").is_ok_and(|panics_at| panics_at == target)
}

fn is_to_panic_late(target: &str) -> bool {
    cfg!(debug_assertions) && std::env::var("FLINT_TEST_PANIC_LATE").is_ok_and(|panics_at| panics_at == target)
}
