//! Long lists of limits, made in parts as their clients take them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::http::more::More;
use super::super::http::reply::Reply;
use crate::bounds::{MAX_LONG_LISTS, REPLY_PART_BYTES};
use crate::engine::Parts;
use crate::error::{Error, Kind, Result};

/// Long lists that are under way.
static LISTS: AtomicUsize = AtomicUsize::new(0);

/// Counts one of them, until it is dropped.
struct Permit;

impl Permit {
    fn take() -> Result<Permit> {
        let others = LISTS.fetch_add(1, Ordering::Relaxed);
        let permit = Permit;
        if others < MAX_LONG_LISTS {
            return Ok(permit);
        }
        Err(Error::new(
            Kind::Overloaded,
            format!(
                "{MAX_LONG_LISTS} long lists are already being sent; try again in a second, or ask for pages with \
                 limit="
            ),
        ))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        LISTS.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Rest {
    listing: Box<dyn Parts>,
    _permit: Permit,
}

impl More for Rest {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let more = self.listing.next_part(out, REPLY_PART_BYTES);
        match &more {
            Ok(true) => {}
            Ok(false) => out.push(b'\n'),
            // What was sent is no JSON then, and the client sees that.
            Err(error) => log::warn!("a list was cut short: {error}"),
        }
        more.unwrap_or(false)
    }
}

/// The reply with a list: whole if it is short.
///
/// # Errors
/// `overloaded` when too many long lists are under way; `store_unavailable`, `corrupt`.
pub fn reply(mut listing: Box<dyn Parts>) -> Result<Reply> {
    let mut out = Vec::new();
    if !listing.next_part(&mut out, REPLY_PART_BYTES)? {
        return Ok(Reply::json(out));
    }
    let rest = Rest { listing, _permit: Permit::take()? };
    Ok(Reply { more: Some(Box::new(rest)), ..Reply::json_part(out) })
}
