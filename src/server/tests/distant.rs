//! An engine whose operations run when the test says so.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::PATIENCE;
use crate::engine::{Done, Engine, EngineReport, Operation, Parts};
use crate::error::{Error, Kind, Result};
use crate::limiter::{Applied, By, Compaction, Limiter, Page, Setting, Status};
use crate::store::Health;

/// Keeps the limits in a limiter that the server does not know of.
pub struct Distant {
    limiter: Limiter,
    /// What a lane may have in mind that has not heard of the others: a run on it counts for nothing.
    stale: Limiter,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    asked: VecDeque<Asked>,
    ended: bool,
}

/// An operation that waits.
pub struct Asked {
    operation: Operation,
    done: Done,
}

impl Asked {
    pub fn run_in_vain(&mut self, engine: &Distant) {
        (self.operation)(&engine.stale);
    }

    pub fn answer(mut self, engine: &Distant) {
        (self.operation)(&engine.limiter);
        (self.done)(Ok(()));
    }

    pub fn fail(self, error: Error) {
        (self.done)(Err(error));
    }
}

impl Distant {
    pub fn new(limiter: Limiter, stale: Limiter) -> Distant {
        Distant { limiter, stale, queue: Mutex::default(), changed: Condvar::new() }
    }

    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// The next operation, once there is one.
    pub fn next(&self) -> Asked {
        let queue = self.queue.lock().unwrap();
        let none = |queue: &mut Queue| queue.asked.is_empty();
        let (mut queue, _) = self.changed.wait_timeout_while(queue, PATIENCE, none).unwrap();
        queue.asked.pop_front().expect("no operation in time")
    }

    pub fn is_idle(&self) -> bool {
        self.queue.lock().unwrap().asked.is_empty()
    }

    /// Lets [`Distant::drive`] end.
    pub fn end(&self) {
        self.queue.lock().unwrap().ended = true;
        self.changed.notify_all();
    }

    /// Starts a thread that runs operations until the end: all that wait after each pause, the last ones first, some
    /// of them without success before. `failure` says how the n-th operation fails, if it does; one whose outcome is
    /// unknown was done.
    pub fn drive(self: &Arc<Self>, pause: Duration, failure: fn(u64) -> Option<Error>) -> JoinHandle<()> {
        let engine = Arc::clone(self);
        thread::spawn(move || {
            let mut number = 0;
            while !engine.queue.lock().unwrap().ended {
                let mut asked = engine.wait_for_all(pause);
                while let Some(mut asked) = asked.pop() {
                    number += 1;
                    if number % 4 == 0 {
                        asked.run_in_vain(&engine);
                    }
                    match failure(number) {
                        None => asked.answer(&engine),
                        Some(error) => {
                            if error.kind() == Kind::OutcomeUnknown {
                                (asked.operation)(&engine.limiter);
                            }
                            asked.fail(error);
                        }
                    }
                }
            }
        })
    }

    fn wait_for_all(&self, pause: Duration) -> Vec<Asked> {
        let queue = self.queue.lock().unwrap();
        let none = |queue: &mut Queue| queue.asked.is_empty() && !queue.ended;
        drop(self.changed.wait_while(queue, none).unwrap());
        // More of them come meanwhile, as they do while a store answers.
        thread::sleep(pause);
        self.queue.lock().unwrap().asked.drain(..).collect()
    }
}

impl Engine for Distant {
    fn local(&self) -> Option<&Limiter> {
        None
    }

    fn run(&self, operation: Operation) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        self.submit(operation, Box::new(move |outcome| drop(sender.send(outcome))));
        receiver.recv_timeout(PATIENCE).expect("no outcome in time")
    }

    fn submit(&self, operation: Operation, done: Done) {
        self.queue.lock().unwrap().asked.push_back(Asked { operation, done });
        self.changed.notify_all();
    }

    fn configure(&self, setting: &Setting<'_>) -> Result<bool> {
        self.limiter.configure_setting(setting)
    }

    fn configure_all(&self, settings: &[Setting<'_>]) -> Result<Vec<bool>> {
        self.limiter.configure_all(settings)
    }

    fn apply(&self, settings: &[Setting<'_>], prune: bool, dry_run: bool) -> Result<Applied> {
        self.limiter.apply(settings, prune, dry_run)
    }

    fn remove_prefix(&self, prefix: &str) -> Result<u64> {
        self.limiter.remove_prefix(prefix)
    }

    fn reset(&self, key: &str) -> Result<()> {
        self.limiter.reset(key)
    }

    fn reset_prefix(&self, prefix: &str) -> Result<u64> {
        self.limiter.reset_prefix(prefix)
    }

    fn listing(&self, page: Page<'_>) -> Result<Box<dyn Parts>> {
        Engine::listing(&self.limiter, page)
    }

    fn top(&self, by: By, limit: usize) -> Result<Vec<Status>> {
        self.limiter.top(by, limit)
    }

    fn health(&self) -> (Health, Option<String>) {
        self.limiter.health()
    }

    fn report(&self) -> EngineReport {
        Engine::report(&self.limiter)
    }

    fn flush(&self) -> Result<()> {
        self.limiter.flush()
    }

    fn compact(&self) -> Result<Compaction> {
        self.limiter.compact()
    }

    fn waits(&self) -> bool {
        true
    }

    fn failure(&self) -> Error {
        self.limiter.failure()
    }

    fn announce(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.limiter.close()
    }
}
