//! Which lane an operation belongs to: in a Cluster that of the shard that has its keys, else one by the hash of its
//! first key, so that two lanes seldom want the same key.
//!
//! An operation does not say its keys before it runs. So it runs once on a scratch limiter that knows nothing: what it
//! looked at there is where it belongs. Its result means nothing, and all that it did is put back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::names;
use crate::engine::interface::Operation;
use crate::limiter::scratch::{Looked, Name, Scratch};

/// Where an operation belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the lane that has the record of this name in the store, in this slot of a Cluster.
    Keys(Vec<u8>, u16),
    /// To the lane for patterns, or any: it looked at no key.
    Patterns,
}

/// Scratch limiters that know nothing: several, so that threads seldom wait for each other.
pub struct Router {
    scratches: Vec<Mutex<Scratch>>,
    next: AtomicUsize,
}

impl Router {
    /// With this many scratch limiters.
    pub fn new(count: usize, scratch: impl Fn() -> Scratch) -> Router {
        Router { scratches: (0..count).map(|_| Mutex::new(scratch())).collect(), next: AtomicUsize::new(0) }
    }

    /// Where an operation belongs. One that panics does so again in its lane.
    pub fn route(&self, operation: &mut Operation) -> Route {
        let looked = self.look(operation);
        let place = |name: &Name| Some((names::key(name, None), names::slot_of_name(name)?));
        match looked.touched.iter().find_map(place) {
            Some((key, slot)) => Route::Keys(key, slot),
            None => Route::Patterns,
        }
    }

    fn look(&self, operation: &mut Operation) -> Looked {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.scratches.len();
        let mut scratch = self.scratches[next].lock().unwrap_or_else(PoisonError::into_inner);
        scratch.begin();
        let ran = catch_unwind(AssertUnwindSafe(|| operation(scratch.limiter())));
        let looked = scratch.end();
        drop(ran);
        looked
    }
}
