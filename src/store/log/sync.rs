//! What the log thread and its waiters are built on: atomics and threads of std and channels of crossbeam, or, with
//! `--cfg loom`, those of loom, under which the tests of `model.rs` run this very code in every order of its steps.

#[cfg(not(all(loom, test)))]
pub use self::real::*;

#[cfg(all(loom, test))]
pub use self::modelled::*;

#[cfg(not(all(loom, test)))]
mod real {
    pub use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
    pub use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    pub use std::thread::{Builder, JoinHandle, Thread, current, park_timeout, sleep, yield_now};
    pub use std::thread_local;
    pub use std::time::Instant;

    use std::time::Duration;

    /// Looks until there is something or the time is over, and lets others run in between.
    pub fn look_for<T>(mut look: impl FnMut() -> Option<T>, at_most: Duration) -> Option<T> {
        let begun = Instant::now();
        while begun.elapsed() < at_most {
            yield_now();
            if let Some(found) = look() {
                return Some(found);
            }
        }
        None
    }
}

/// Time does not pass here: a wait with a deadline never ends by itself, so that a lost wake-up is a deadlock, which
/// loom reports.
#[cfg(all(loom, test))]
mod modelled {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    pub use crossbeam_channel::RecvTimeoutError;
    pub use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    use loom::sync::{Condvar, Mutex};
    pub use loom::thread::{Builder, JoinHandle, Thread, current, yield_now};
    pub use loom::thread_local;

    /// With the machine's time, one run would differ from the next.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Instant(Duration);

    impl Instant {
        pub fn now() -> Instant {
            Instant(Duration::ZERO)
        }

        pub fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        pub fn saturating_duration_since(&self, earlier: Instant) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    impl std::ops::Add<Duration> for Instant {
        type Output = Instant;

        fn add(self, more: Duration) -> Instant {
            Instant(self.0 + more)
        }
    }

    pub fn park_timeout(_: Duration) {
        loom::thread::park();
    }

    pub fn sleep(_: Duration) {
        loom::thread::yield_now();
    }

    /// Looks once: time that does not pass would never be over.
    pub fn look_for<T>(mut look: impl FnMut() -> Option<T>, _: Duration) -> Option<T> {
        loom::thread::yield_now();
        look()
    }

    struct Channel<T> {
        state: Mutex<State<T>>,
        ready: Condvar,
    }

    struct State<T> {
        queue: VecDeque<T>,
        senders: usize,
        receiver: bool,
    }

    pub struct Sender<T>(Arc<Channel<T>>);
    pub struct Receiver<T>(Arc<Channel<T>>);

    pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let state = State { queue: VecDeque::new(), senders: 1, receiver: true };
        let channel = Arc::new(Channel { state: Mutex::new(state), ready: Condvar::new() });
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    pub fn bounded<T>(_: usize) -> (Sender<T>, Receiver<T>) {
        unbounded()
    }

    impl<T> Sender<T> {
        pub fn send(&self, message: T) -> Result<(), T> {
            let mut state = self.0.state.lock().unwrap();
            if !state.receiver {
                drop(state);
                return Err(message);
            }
            state.queue.push_back(message);
            self.0.ready.notify_one();
            Ok(())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.state.lock().unwrap().senders -= 1;
            self.0.ready.notify_one();
        }
    }

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvTimeoutError> {
            let mut state = self.0.state.lock().unwrap();
            loop {
                if let Some(message) = state.queue.pop_front() {
                    return Ok(message);
                }
                if state.senders == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                state = self.0.ready.wait(state).unwrap();
            }
        }

        pub fn recv_deadline(&self, _: Instant) -> Result<T, RecvTimeoutError> {
            self.recv()
        }

        pub fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            self.recv()
        }

        pub fn len(&self) -> usize {
            self.0.state.lock().unwrap().queue.len()
        }

        pub fn try_recv(&self) -> Result<T, RecvTimeoutError> {
            self.0.state.lock().unwrap().queue.pop_front().ok_or(RecvTimeoutError::Timeout)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let left = {
                let mut state = self.0.state.lock().unwrap();
                state.receiver = false;
                std::mem::take(&mut state.queue)
            };
            drop(left);
        }
    }
}
