//! Tests of holds, slots, charges and refunds.

mod bounds;
mod once;
mod restart;
mod rules;
mod slots;

use super::*;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);

/// A limiter at [`START`], and its clock.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub clock: Clock,
    pub limiter: Limiter,
}

impl Bench {
    pub fn new(limits: &[(&str, &str)]) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let options = Options { sync: SyncMode::Batch, ..options(&clock) };
        let limiter = Limiter::open(dir.path(), options).unwrap();
        let bench = Bench { dir, clock, limiter };
        limits.iter().for_each(|(key, limit)| bench.configure(key, limit));
        bench
    }

    pub fn configure(&self, key: &str, limit: &str) {
        self.limiter.configure(key, limit_of(limit)).unwrap();
    }

    pub fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    /// Holds one key for a minute.
    pub fn hold(&self, key: &str, cost: u64) -> Hold {
        self.limiter.hold(key, cost, MINUTE).unwrap().hold.unwrap()
    }

    pub fn is_held(&self, key: &str, cost: u64) -> bool {
        self.limiter.hold(key, cost, MINUTE).unwrap().hold.is_some()
    }

    pub fn status(&self, key: &str) -> Status {
        self.limiter.status(key).unwrap().unwrap()
    }

    /// Units used of a key, beyond its capacity too.
    pub fn used(&self, key: &str) -> u64 {
        self.status(key).used.unwrap()
    }

    pub fn settle(&self, hold: &Hold, cost: u64) -> Settled {
        self.limiter.settle(&hold.id, Cost::Units(cost)).unwrap()
    }

    /// Goes on with what a process that ended at once would have left.
    pub fn kill(self) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::remove_dir(dir.path()).unwrap();
        copy(self.dir.path(), dir.path());
        let clock = self.clock.restarted();
        let options = Options { sync: SyncMode::Batch, ..options(&clock) };
        let limiter = Limiter::open(dir.path(), options).unwrap();
        Bench { dir, clock, limiter }
    }

    /// Closes it and opens it again.
    pub fn reopen(self) -> Bench {
        let Bench { dir, clock, limiter } = self;
        drop(limiter);
        let clock = clock.restarted();
        let options = Options { sync: SyncMode::Batch, ..options(&clock) };
        let limiter = Limiter::open(dir.path(), options).unwrap();
        Bench { dir, clock, limiter }
    }
}

pub fn limit_of(text: &str) -> Limit {
    text.parse().unwrap()
}

pub fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}
