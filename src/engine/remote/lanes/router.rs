//! Which lane of a Cluster an operation belongs to: that of the shard that has its keys.
//!
//! An operation does not say its keys before it runs. So it runs once on a scratch limiter that knows nothing: what it
//! looked at there is where it belongs, and its result means nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use super::super::names;
use crate::engine::interface::Operation;
use crate::limiter::scratch::{Name, Scratch};

/// Where an operation belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the lane that has this record, in this slot.
    Keys(Vec<u8>, u16),
    /// To the lane for patterns.
    Patterns,
}

/// The scratch limiter that knows nothing.
pub struct Router(Mutex<Scratch>);

impl Router {
    pub fn new(scratch: Scratch) -> Router {
        Router(Mutex::new(scratch))
    }

    /// Where an operation belongs. One that panics does so again in its lane.
    pub fn route(&self, operation: &mut Operation) -> Route {
        let mut scratch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.begin();
        let ran = catch_unwind(AssertUnwindSafe(|| operation(scratch.limiter())));
        let looked = scratch.end();
        drop(ran);
        for name in &looked.changed {
            // There is no record to be damaged.
            let _ = scratch.load(name, None);
        }
        scratch.forget_all();
        if looked.changed.contains(&Name::Patterns) {
            return Route::Patterns;
        }
        let place = |name: &Name| Some((name.clone(), names::slot_of_name(name)?));
        match looked.touched.iter().find_map(place) {
            Some((name, slot)) => Route::Keys(names::key(&name, Some(slot)), slot),
            None => Route::Patterns,
        }
    }
}
