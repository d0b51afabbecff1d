//! Requests that are answered by operations elsewhere: on a lane's limiter, by copies of records of a store.
//!
//! An operation outlives the handling of its request, and may run several times: it has a copy of all that the request
//! says, and makes the whole reply by the endpoint's ordinary function. Only the reply of its last run counts.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use tiny_http::Header;

use super::super::context::Context;
use super::super::http::exchange::Exchange;
use super::super::http::head::Found;
use super::super::http::reply::Reply;
use super::super::routes;
use super::super::routes::call::Sources;
use super::super::tokens::Grant;
use super::super::work::Cell;
use crate::engine::Operation;
use crate::error::{Error, Kind};

/// What a request says.
struct Asked {
    found: Option<Found>,
    method: String,
    target: String,
    body: Vec<u8>,
    peer: Option<IpAddr>,
    headers: Vec<Header>,
    grant: Option<Arc<Grant>>,
}

impl Asked {
    fn of(exchange: &Exchange) -> Asked {
        Asked {
            found: exchange.head.found,
            method: exchange.method().to_owned(),
            target: exchange.target().to_owned(),
            body: exchange.body().to_vec(),
            peer: exchange.peer.map(|peer| peer.ip()),
            headers: exchange.headers().to_vec(),
            grant: exchange.grant.clone(),
        }
    }

    fn ask(&self) -> routes::Ask<'_> {
        routes::Ask {
            found: self.found,
            method: &self.method,
            target: &self.target,
            body: &self.body,
            peer: self.peer,
            headers: &self.headers,
            grant: self.grant.as_deref(),
        }
    }
}

/// Whether a request is answered on a limiter that is not open here.
pub fn is_elsewhere(context: &Context, exchange: &Exchange) -> bool {
    context.engine.local().is_none() && routes::is_on_limiter(exchange.head.found, exchange.method())
}

/// The operation that answers a request, and where it leaves the reply.
pub fn operation(context: &Arc<Context>, exchange: &Exchange) -> (Operation, Cell) {
    let cell = Cell::default();
    let (asked, context, kept) = (Asked::of(exchange), Arc::clone(context), Arc::clone(&cell));
    let operation = move |limiter: &crate::limiter::Limiter| {
        let reply = routes::answer(Sources { limiter: Some(limiter), ..context.sources() }, &asked.ask());
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    };
    (Box::new(operation), cell)
}

/// Leaves the reply that says why there is none.
pub fn leave_refusal(context: &Context, found: Option<Found>, target: &str, cell: &Cell, error: &Error) {
    let reply = routes::refusal(error, found, target, context.sources().gates);
    *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
}

/// What an operation has left.
pub fn take(cell: &Cell) -> Reply {
    let left = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
    left.unwrap_or_else(|| {
        Reply::error(&Error::new(Kind::Internal, "an operation left no reply, which is a defect of Flint"))
    })
}
