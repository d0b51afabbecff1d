//! What threads wait for that have asked a lane: one call of the system wakes all whose operations a round answered.
//!
//! To wake a thread costs more than to decide what it asked: some microseconds each, for which the lane would do
//! nothing else.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// A bell. A thread that waits looks for its outcome after each time that it is rung.
#[derive(Debug, Default)]
pub struct Bell {
    /// How often it was rung: what the threads sleep on.
    rung: AtomicU32,
    waiting: AtomicU32,
}

impl Bell {
    /// Waits until there is what `look` looks for. Whoever brings that rings afterwards.
    pub fn wait_for<T>(&self, look: impl Fn() -> Option<T>) -> T {
        // Before the bell is read for the first time: it is rung before this is read there.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            let rung = self.rung.load(Ordering::SeqCst);
            if let Some(found) = look() {
                break found;
            }
            // Returns at once where it was rung meanwhile. Whatever else ends it, such as a signal, is looked into.
            let _ = futex::wait(&self.rung, futex::Flags::PRIVATE, rung, None);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// Wakes all that wait.
    pub fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _ = futex::wake(&self.rung, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::OnceLock;
    use std::thread;

    use super::*;

    #[test]
    fn every_ring_wakes_all_that_wait() {
        let bell = Arc::new(Bell::default());
        for round in 0..200_u32 {
            let cells: [Arc<OnceLock<u32>>; 4] = Default::default();
            thread::scope(|scope| {
                for cell in &cells {
                    let bell = &bell;
                    scope.spawn(move || assert_eq!(bell.wait_for(|| cell.get().copied()), round));
                }
                for cell in &cells {
                    cell.set(round).unwrap();
                    // Some wait already, others do not yet, and find it.
                    bell.ring();
                }
            });
        }
        assert_eq!(bell.waiting.load(Ordering::Relaxed), 0);
    }
}
