//! How a sleeping decider is woken: the flag in which it and the threads that have work for it meet.
//!
//! A decider sleeps in tiny_http's `recv`, which a new request ends. Work of other kinds (a record that is durable, a
//! request whose turn has come) is queued elsewhere; so whatever queues it ends the sleep by tiny_http's `unblock`.
//!
//! Why no wake-up is lost: the decider sets the flag, passes a full fence, and then looks at the queues once more; the
//! other side queues, passes a full fence, and then looks at the flag. Of two such fences one comes first. If it is the
//! decider's, the other side sees the flag; if it is the other side's, the decider sees the work. A wake-up itself waits
//! in tiny_http's queue until a `recv` or `try_recv` takes it, and a decider that has taken one looks at the queues before
//! it sleeps again. The tests in `model.rs` run this in every order of its steps.
//!
//! Several deciders share the flag. Where it is down, a decider is awake, or a wake-up is on its way to one.

use super::sync::{AtomicBool, Ordering, fence};

/// Up while a decider sleeps, or is about to.
#[derive(Debug)]
pub struct Asleep(AtomicBool);

impl Asleep {
    pub fn new() -> Asleep {
        Asleep(AtomicBool::new(false))
    }

    /// Called by a decider that will sleep unless it finds work now.
    pub fn raise(&self) {
        // A swap, so that this and the swap of a waker stand in one order.
        self.0.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Called by a decider that is awake.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Called after work was queued: whether the caller must wake a decider.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel)
    }
}
