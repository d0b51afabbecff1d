//! Servers' engines over a store, and threads that ask them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flint::engine::remote::{Remote, Settings};
use flint::engine::{Engine, ask as ask_engine};
use flint::{Kind, Limiter, Result, Status};

use super::servers::{PATIENCE, Server, Software};

/// One server of each kind that is installed.
pub fn stores() -> impl Iterator<Item = Server> {
    [Software::Redis, Software::Valkey].into_iter().filter_map(|software| Server::start(software, &[]))
}

/// Runs an operation, and returns what it returned.
pub fn ask<T: Send + 'static>(
    engine: &Remote,
    operation: impl FnMut(&Limiter) -> Result<T> + Send + 'static,
) -> Result<T> {
    ask_engine(engine, operation)
}

/// The same, and again as long as the store is away: a machine that is busy may stop it for a while.
pub fn ask_again<T: Send + 'static>(
    engine: &Remote,
    operation: impl FnMut(&Limiter) -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    again(|| ask(engine, operation.clone()))
}

/// Does something, and again as long as the store is away.
pub fn again<T>(done: impl Fn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match done() {
            Err(error) if error.kind() == Kind::StoreUnavailable && begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

pub fn status(engine: &Remote, key: &str) -> Status {
    let key = key.to_owned();
    ask_again(engine, move |limiter| limiter.status(&key)).unwrap().unwrap()
}

pub fn configure(engine: &Remote, key: &str, limit: &str) {
    let (key, limit) = (key.to_owned(), limit.to_owned());
    ask_again(engine, move |limiter| limiter.configure(&key, limit.parse()?)).unwrap();
}

pub fn open(url: &str, count: usize) -> Vec<Remote> {
    open_with(url, count, 0)
}

/// With this many replicas that have to confirm each write.
pub fn open_with(url: &str, count: usize, replicas: u32) -> Vec<Remote> {
    let mut settings = Settings::new(url);
    settings.replicas = replicas;
    (0..count).map(|_| Remote::open(settings.clone()).unwrap()).collect()
}

/// A list as the server would send it, without what changes with the time.
pub fn list(engine: &dyn Engine, page: flint::Page<'_>) -> Vec<serde_json::Value> {
    let whole = again(|| {
        let (mut listing, mut out) = (engine.listing(page)?, Vec::new());
        while listing.next_part(&mut out, 1000)? {}
        Ok(out)
    });
    serde_json::from_slice(&whole.unwrap()).unwrap()
}

/// The answers to checks.
#[derive(Default)]
pub struct Told {
    pub allowed: AtomicU64,
    pub denied: AtomicU64,
    /// Not done.
    pub unavailable: AtomicU64,
    /// Nobody knows.
    pub unknown: AtomicU64,
    pub slowest_us: AtomicU64,
}

impl Told {
    pub fn note(&self, decided: &Result<bool>, took: Duration) {
        self.slowest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        let count = match decided {
            Ok(true) => &self.allowed,
            Ok(false) => &self.denied,
            Err(error) if error.kind() == Kind::StoreUnavailable => &self.unavailable,
            Err(error) if error.kind() == Kind::OutcomeUnknown => &self.unknown,
            Err(error) => panic!("{error}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn load(&self) -> [u64; 4] {
        [&self.allowed, &self.denied, &self.unavailable, &self.unknown].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Checks keys in turn from several threads of each engine, until `is_over`.
pub fn storm(engines: &[Remote], threads: usize, keys: &[String], told: &[Told], is_over: &(dyn Fn() -> bool + Sync)) {
    thread::scope(|scope| {
        for (index, engine) in engines.iter().enumerate() {
            for thread in 0..threads {
                scope.spawn(move || {
                    let mut place = index * 7919 + thread * 104_729;
                    while !is_over() {
                        place += 1;
                        let number = place % keys.len();
                        let key = keys[number].clone();
                        let begun = Instant::now();
                        let decided = ask(engine, move |limiter| Ok(limiter.check(&key, 1)?.allowed));
                        told[number].note(&decided, begun.elapsed());
                    }
                });
            }
        }
    });
}
