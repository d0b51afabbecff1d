//! The hand-shake of a sleeping decider with the threads that have work for it, in every order of its steps.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --lib server::pool::model`

use std::collections::VecDeque;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::wake::Asleep;

/// tiny_http's queue of requests and wake-ups.
#[derive(Default)]
struct Http {
    queue: Mutex<VecDeque<()>>,
    arrived: Condvar,
}

impl Http {
    fn unblock(&self) {
        self.queue.lock().unwrap().push_back(());
        self.arrived.notify_one();
    }

    fn recv(&self) {
        let mut queue = self.queue.lock().unwrap();
        while queue.pop_front().is_none() {
            queue = self.arrived.wait(queue).unwrap();
        }
    }
}

struct Room {
    asleep: Asleep,
    http: Http,
    /// A queue that takes no lock: only the fences order it and the flag.
    completions: AtomicUsize,
    taken: Mutex<usize>,
}

impl Room {
    /// What the log thread does.
    fn complete(&self) {
        self.completions.fetch_add(1, Ordering::Release);
        if self.asleep.must_wake() {
            self.http.unblock();
        }
    }

    /// What a decider does until `all` completions are taken. A wake-up that is lost is a deadlock, which loom reports.
    fn decide(&self, all: usize) {
        loop {
            let found = self.completions.swap(0, Ordering::AcqRel);
            *self.taken.lock().unwrap() += found;
            if *self.taken.lock().unwrap() == all {
                // The next decider that sleeps ends too.
                return self.http.unblock();
            }
            self.asleep.raise();
            if self.completions.load(Ordering::Acquire) == 0 {
                self.http.recv();
            }
            self.asleep.lower();
        }
    }
}

fn check(deciders: usize, loggers: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let room = Arc::new(Room {
            asleep: Asleep::new(),
            http: Http::default(),
            completions: AtomicUsize::new(0),
            taken: Mutex::new(0),
        });
        let mut threads = Vec::new();
        for _ in 0..loggers {
            let room = Arc::clone(&room);
            threads.push(thread::spawn(move || room.complete()));
        }
        for _ in 1..deciders {
            let room = Arc::clone(&room);
            threads.push(thread::spawn(move || room.decide(loggers)));
        }
        room.decide(loggers);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_decider_that_sleeps_is_woken() {
    check(1, 2);
}

#[test]
fn two_deciders_leave_nothing_undone() {
    check(2, 1);
}
