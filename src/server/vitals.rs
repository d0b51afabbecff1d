//! Which threads of the server live.
//!
//! Owns: the start of each thread, and the report of those that have ended without being asked to. A thread whose
//! work panics starts it again; a thread that panics again and again ends, and health tells of it, since others may
//! wait for what it never does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::bounds::STACK_BYTES;

/// Panics of one thread after which it ends.
const MOST_PANICS: u32 = 1000;

/// Pause after a panic, which doubles as a bound on how often the log reports one.
const PAUSE: Duration = Duration::from_millis(10);

/// What is known of the server's threads.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    /// Names of those that are gone. Locked for a moment, holding nothing else.
    gone: Arc<Mutex<Vec<String>>>,
}

impl Vitals {
    /// Starts a thread. Its work is started again when it panics, and is done when it returns.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(&self, name: String, mut work: impl FnMut() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let (gone, own_name) = (Arc::clone(&self.gone), name.clone());
        thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || {
            for _ in 0..MOST_PANICS {
                if catch_unwind(AssertUnwindSafe(&mut work)).is_ok() {
                    return;
                }
                log::error!("thread {own_name} starts again after an error inside the server");
                thread::sleep(PAUSE);
            }
            gone.lock().unwrap_or_else(PoisonError::into_inner).push(own_name.clone());
        })
    }

    /// What is wrong, in words.
    pub fn complaint(&self) -> Option<String> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        (!gone.is_empty()).then(|| format!("thread {} of the server has ended; restart flint", gone.join(", ")))
    }
}

/// A panic in a handler costs one request.
pub fn contain<T>(handler: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(handler));
    if done.is_err() {
        log::error!("a request's handler panicked; only that request was answered 500");
    }
    done.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_begins_anew_until_it_is_gone() {
        let vitals = Vitals::default();
        let mut left = 3;
        let thread = vitals.start("worker".to_owned(), move || {
            left -= 1;
            assert!(left == 0, "not yet");
        });
        thread.unwrap().join().unwrap();
        assert_eq!(vitals.complaint(), None);
        let gone = Vitals { gone: Arc::new(Mutex::new(vec!["flint-http-0".to_owned()])) };
        assert!(gone.complaint().unwrap().contains("flint-http-0"));
    }
}
