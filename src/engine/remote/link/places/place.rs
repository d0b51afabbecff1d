//! What is known of one server.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::address::Endpoint;
use super::super::error::LinkError;

const HERE: u8 = 0;
const AWAY: u8 = 1;
const SHORT: u8 = 2;

/// Whether a server has WAITAOF.
const UNTRIED: u8 = 0;
const HAS_IT: u8 = 1;
const LACKS_IT: u8 = 2;

/// A server, and whether it is known to be away. The state is read before each request without a lock; the lock of its
/// reason is a leaf.
pub struct Place {
    endpoint: Endpoint,
    state: AtomicU8,
    reason: Mutex<Option<LinkError>>,
    waitaof: AtomicU8,
}

impl Place {
    /// One of which nothing is known yet. Where replicas have to confirm what is written, nothing is until these are
    /// counted.
    pub fn new(endpoint: Endpoint, replicas: u32) -> Place {
        let (state, waitaof) = (AtomicU8::new(if replicas == 0 { HERE } else { SHORT }), AtomicU8::new(UNTRIED));
        Place { endpoint, state, reason: Mutex::new(None), waitaof }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Why nobody need ask it, if so.
    pub fn away(&self) -> Option<LinkError> {
        self.is(AWAY).then(|| self.why())
    }

    /// Why nobody need write to it, if so: away, or with too few replicas.
    pub fn unwritable(&self) -> Option<LinkError> {
        (!self.is(HERE)).then(|| self.why())
    }

    pub fn is_short(&self) -> bool {
        self.is(SHORT)
    }

    pub fn is_here(&self) -> bool {
        self.is(HERE)
    }

    /// Notes that nobody need ask it.
    pub fn set_away(&self, reason: LinkError) {
        self.set(AWAY, Some(reason));
    }

    /// Notes that it has too few replicas, where it is not away.
    pub fn set_short(&self, reason: LinkError) {
        if !self.is(AWAY) {
            self.set(SHORT, Some(reason));
        }
    }

    /// Notes that it is there again, and its replicas are to be counted.
    pub fn set_uncounted(&self) {
        self.set(SHORT, None);
    }

    /// Notes that it is there, with all of its replicas.
    pub fn set_here(&self) {
        self.set(HERE, None);
    }

    /// Whether WAITAOF is worth asking for.
    pub fn may_have_waitaof(&self) -> bool {
        self.waitaof.load(Ordering::Relaxed) != LACKS_IT
    }

    /// Whether it has WAITAOF, where that is known.
    pub fn waitaof(&self) -> Option<bool> {
        match self.waitaof.load(Ordering::Relaxed) {
            UNTRIED => None,
            state => Some(state == HAS_IT),
        }
    }

    /// Notes whether it has WAITAOF, and an append-only file for it. A restart may change that: a place that was away
    /// is asked anew.
    pub fn set_waitaof(&self, has: bool) {
        let state = if has { HAS_IT } else { LACKS_IT };
        if self.waitaof.load(Ordering::Relaxed) != state {
            self.waitaof.store(state, Ordering::Relaxed);
        }
    }

    fn set(&self, state: u8, reason: Option<LinkError>) {
        let mut kept = self.lock();
        let was = self.state.swap(state, Ordering::Relaxed);
        if was == AWAY && state != AWAY {
            self.waitaof.store(UNTRIED, Ordering::Relaxed);
        }
        match &reason {
            Some(reason) if kept.is_none() => log::warn!("{reason}"),
            None if kept.is_some() && state == HERE => log::warn!("the store {} is back", self.endpoint),
            _ => {}
        }
        if state == HERE || reason.is_some() {
            *kept = reason;
        }
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }

    fn why(&self) -> LinkError {
        let uncounted =
            || LinkError::unavailable(format!("the replicas of the store {} are not counted yet", self.endpoint));
        self.lock().clone().unwrap_or_else(uncounted)
    }

    fn lock(&self) -> MutexGuard<'_, Option<LinkError>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_why_nobody_need_ask_it() {
        let place = Place::new(Endpoint { host: "h".to_owned(), port: 1 }, 0);
        let reason = |text: &str| LinkError::unavailable(text);
        assert!(place.is_here() && place.away().is_none() && place.unwritable().is_none());
        place.set_short(reason("short"));
        assert_eq!((place.away(), place.unwritable()), (None, Some(reason("short"))));
        place.set_away(reason("away"));
        place.set_short(reason("short"));
        assert_eq!((place.away(), place.unwritable()), (Some(reason("away")), Some(reason("away"))));
        place.set_waitaof(false);
        assert!(!place.may_have_waitaof());
        place.set_uncounted();
        assert!(place.is_short() && place.may_have_waitaof());
        place.set_here();
        assert!(place.is_here() && place.unwritable().is_none());
        let place = Place::new(place.endpoint().clone(), 1);
        assert!(place.away().is_none());
        assert_eq!(place.unwritable(), Some(reason("the replicas of the store h:1 are not counted yet")));
    }
}
