//! Random operations, power cuts, compactions and restarts, against a plain map.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::crash_disk::{Chance, CrashDisk, Image, open};
use crate::bounds::{MAX_PERIOD_MS, MIN_SEGMENT_BYTES};
use crate::limit::{Live, Standing};
use crate::limiter::tests::*;

const KEYS: [&str; 5] = ["a", "b", "ключ", "route:/v1/chat", "e"];

/// A limit as the map has it.
#[derive(Clone)]
struct Plain {
    limit: Limit,
    standing: Standing,
    totals: Totals,
    /// Last allowed, last denied, last reset.
    times: [Option<u64>; 3],
}

/// What of a status the map knows too.
#[derive(Debug, Clone, PartialEq)]
struct Brief {
    key: String,
    limit: Limit,
    remaining: Option<u64>,
    reset_at: Option<u64>,
    totals: Totals,
    times: [Option<u64>; 3],
}

fn brief(statuses: &[Status]) -> Vec<Brief> {
    let brief = |status: &Status| Brief {
        key: status.key.clone(),
        limit: Limit::clone(&status.limit),
        remaining: status.remaining,
        reset_at: status.reset_at,
        totals: status.totals,
        times: [status.last_allowed_at, status.last_denied_at, status.last_reset_at],
    };
    statuses.iter().map(brief).collect()
}

#[derive(Clone, Default)]
struct Model(BTreeMap<String, Plain>);

impl Model {
    fn configure(&mut self, key: &str, limit: Limit, now: u64) {
        match self.0.get_mut(key) {
            Some(plain) if plain.limit == limit => {}
            Some(plain) => {
                plain.standing.reconfigure(&plain.limit, &limit, now, &mut Live::default());
                plain.limit = limit;
            }
            None => {
                let standing = Standing::new(&limit);
                let plain = Plain { limit, standing, totals: Totals::default(), times: [None; 3] };
                self.0.insert(key.to_owned(), plain);
            }
        }
    }

    /// Spends of all keys or of none. `None` when that is an error.
    fn check_all(&mut self, items: &[(&str, u64)], now: u64) -> Option<bool> {
        let fits = |limit: &Limit, cost| limit.windows().iter().all(|window| cost <= window.capacity());
        if items.iter().any(|(key, cost)| self.0.get(*key).is_none_or(|plain| !fits(&plain.limit, *cost))) {
            return None;
        }
        for (key, cost) in items {
            let plain = self.0.get_mut(*key)?;
            plain.standing.advance(&plain.limit, now);
            if !plain.standing.quote(&plain.limit, now, *cost, &mut Live::default()).allowed {
                plain.totals.denied += 1;
                plain.totals.denied_cost += cost;
                plain.times[1] = Some(now);
                return Some(false);
            }
        }
        for (key, cost) in items {
            let plain = self.0.get_mut(*key)?;
            plain.standing.spend(&plain.limit, now, *cost, &mut Live::default());
            plain.totals.allowed += 1;
            plain.totals.allowed_cost += cost;
            plain.times[0] = Some(now);
        }
        Some(true)
    }

    fn reset(&mut self, key: &str, now: u64) -> bool {
        let Some(plain) = self.0.get_mut(key) else { return false };
        plain.standing = Standing::new(&plain.limit);
        plain.times[2] = Some(now);
        true
    }

    fn statuses(&self, now: u64) -> Vec<Brief> {
        let status = |(key, plain): (&String, &Plain)| {
            let mut standing = plain.standing.clone();
            standing.advance(&plain.limit, now);
            let verdict = standing.glance(&plain.limit, now, &mut Live::default());
            let [quote] = verdict.windows.as_slice() else { panic!("one window") };
            Brief {
                key: key.clone(),
                limit: plain.limit.clone(),
                remaining: Some(quote.remaining),
                reset_at: Some(quote.reset_at),
                totals: plain.totals,
                times: plain.times,
            }
        };
        self.0.iter().map(status).collect()
    }
}

/// Without what may lag in the log.
fn without_denials(mut statuses: Vec<Brief>) -> Vec<Brief> {
    for status in &mut statuses {
        (status.totals.denied, status.totals.denied_cost, status.times[1]) = (0, 0, None);
    }
    statuses
}

#[derive(Debug, Clone)]
enum Op {
    Configure(usize, Limit),
    Check(usize, u64),
    CheckAll(Vec<(usize, u64)>),
    Reset(usize),
    Remove(usize),
    Advance(u64),
    Flush,
    Compact,
    /// Compacts in another thread, during the operations that follow.
    CompactBeside,
    /// Closes and opens, with a clock that is behind by this much.
    Reopen(u64),
    /// Cuts the power after this many more calls of the disk, with a seed for what is lost.
    Cut(u64, u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || 0..KEYS.len();
    let period = prop_oneof![Just(60_000), Just(1), Just(MAX_PERIOD_MS), 1000..100_000u64];
    let limit = (1..20u64, period, 0..4usize, prop::option::of(1..30u64)).prop_map(|(rate, period, code, burst)| {
        let algorithm = Algorithm::ALL[code];
        let burst = burst.filter(|_| algorithm == Algorithm::TokenBucket);
        Limit::of_millis(rate, period, algorithm, burst).unwrap()
    });
    let op = prop_oneof![
        4 => (key(), limit).prop_map(|(key, limit)| Op::Configure(key, limit)),
        12 => (key(), 1..12u64).prop_map(|(key, cost)| Op::Check(key, cost)),
        5 => prop::collection::btree_map(key(), 1..6u64, 1..4).prop_map(|items| Op::CheckAll(items.into_iter().collect())),
        1 => key().prop_map(Op::Reset),
        1 => key().prop_map(Op::Remove),
        3 => (0..70_000u64).prop_map(Op::Advance),
        1 => Just(Op::Flush),
        1 => Just(Op::Compact),
        1 => Just(Op::CompactBeside),
        1 => prop_oneof![Just(0), 0..1_000_000_000u64].prop_map(Op::Reopen),
        3 => (prop_oneof![0..6u64, 0..60u64], any::<u64>()).prop_map(|(calls, seed)| Op::Cut(calls, seed)),
    ];
    prop::collection::vec(op, 1..80)
}

/// The limiter under test next to its map.
struct Pair {
    parent: tempfile::TempDir,
    dir: PathBuf,
    sync: SyncMode,
    clock: Clock,
    disk: Arc<CrashDisk>,
    limiter: Limiter,
    /// The map after each operation since all was known to be on disk; the last one is the map of now.
    maps: Vec<Model>,
    /// Set while the power is about to be cut: the seed for what is lost then.
    cut: Option<u64>,
    cuts: u32,
    /// A compaction in another thread, which may fail when its limiter is closed.
    beside: Option<thread::JoinHandle<Result<Compaction>>>,
}

impl Pair {
    fn new(sync: SyncMode) -> Pair {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("0");
        let clock = Clock::manual(START);
        let disk = Arc::new(CrashDisk::new(&dir));
        let limiter = open(&dir, sync, &clock, &disk);
        let maps = vec![Model::default()];
        Pair { parent, dir, sync, clock, disk, limiter, maps, cut: None, cuts: 0, beside: None }
    }

    fn model(&mut self) -> &mut Model {
        let at = self.maps.len() - 1;
        &mut self.maps[at]
    }

    fn run(&mut self, op: Op) -> std::result::Result<(), TestCaseError> {
        let now = self.clock.now();
        self.maps.push(self.maps[self.maps.len() - 1].clone());
        // Whether all that was done is on disk when the operation is done.
        let mut durable = self.sync == SyncMode::Always;
        match op {
            Op::Configure(key, limit) => {
                let is_new = !self.model().0.contains_key(KEYS[key]);
                prop_assert_eq!(self.limiter.configure(KEYS[key], limit.clone()).unwrap(), is_new);
                self.model().configure(KEYS[key], limit, now);
            }
            Op::Check(key, cost) => {
                let answer = self.limiter.check(KEYS[key], cost).ok().map(|decision| decision.allowed);
                prop_assert_eq!(answer, self.model().check_all(&[(KEYS[key], cost)], now));
            }
            Op::CheckAll(items) => {
                let items: Vec<(&str, u64)> = items.iter().map(|(key, cost)| (KEYS[*key], *cost)).collect();
                let asked: Vec<Item<'_>> = items.iter().map(|item| Item::from(*item)).collect();
                let answer = self.limiter.check_all(&asked).ok().map(|answer| answer.allowed);
                prop_assert_eq!(answer, self.model().check_all(&items, now));
            }
            Op::Reset(key) => {
                let there = self.limiter.reset(KEYS[key]).is_ok();
                prop_assert_eq!(there, self.model().reset(KEYS[key], now));
            }
            Op::Remove(key) => {
                let there = self.limiter.remove(KEYS[key]).is_ok();
                prop_assert_eq!(there, self.model().0.remove(KEYS[key]).is_some());
            }
            Op::Advance(by) => self.clock.advance_ms(by),
            Op::Flush => {
                self.limiter.flush().unwrap();
                durable = true;
            }
            Op::Compact => {
                self.limiter.compact().unwrap();
                durable = true;
            }
            Op::CompactBeside => {
                self.join_compaction();
                let core = Arc::clone(&self.limiter.core);
                self.beside = Some(thread::spawn(move || core.compact()));
            }
            Op::Reopen(back) => {
                self.limiter.close().unwrap();
                self.reopen(back)?;
                durable = true;
            }
            Op::Cut(calls, seed) => {
                self.disk.cut_after(calls);
                self.cut = Some(seed);
            }
        }
        if let Some(seed) = self.cut
            && let Some(image) = self.disk.take_cut()
        {
            self.cut = None;
            return self.power_is_back(&image, seed);
        }
        if durable {
            self.maps.drain(..self.maps.len() - 1);
        }
        prop_assert_eq!(brief(&all(&self.limiter)), self.maps[self.maps.len() - 1].statuses(self.clock.now()));
        Ok(())
    }

    /// Waits for the compaction in another thread: it holds the lock of the directory.
    fn join_compaction(&mut self) {
        if let Some(compaction) = self.beside.take() {
            let _ = compaction.join().unwrap();
        }
    }

    fn reopen(&mut self, back: u64) -> std::result::Result<(), TestCaseError> {
        let spent_at = self.maps[self.maps.len() - 1].0.values().filter_map(|plain| plain.times[0]).max();
        self.clock = self.clock.rebooted(self.clock.now() - back);
        self.join_compaction();
        // The old one holds the lock until it is dropped.
        let other = tempfile::tempdir().unwrap();
        let disk = Arc::new(CrashDisk::new(other.path()));
        drop(std::mem::replace(&mut self.limiter, open(other.path(), self.sync, &self.clock, &disk)));
        let left = self.disk.take_cut();
        prop_assert!(left.is_none() || self.cut.is_some());
        self.disk = Arc::new(CrashDisk::new(&self.dir));
        self.cut = None;
        self.limiter = open(&self.dir, self.sync, &self.clock, &self.disk);
        prop_assert!(spent_at.is_none_or(|spent| self.clock.now() >= spent), "time runs backwards");
        Ok(())
    }

    /// Opens what is left after the power cut. It must be one of the maps since all was known to be on disk; from there
    /// it goes on.
    fn power_is_back(&mut self, image: &Image, seed: u64) -> std::result::Result<(), TestCaseError> {
        self.join_compaction();
        self.cuts += 1;
        self.dir = self.parent.path().join(self.cuts.to_string());
        image.restore(&self.dir, &mut Chance(seed));
        self.disk = Arc::new(CrashDisk::new(&self.dir));
        self.clock = self.clock.rebooted(self.clock.wall());
        self.limiter = open(&self.dir, self.sync, &self.clock, &self.disk);
        let was = self.clock.now();
        let found = brief(&all(&self.limiter));
        let like = |map: &&Model| without_denials(map.statuses(was)) == without_denials(found.clone());
        let Some(map) = self.maps.iter().rev().find(like) else {
            return Err(TestCaseError::fail(format!(
                "found {found:#?}, which is none of the {} states there were; the last: {:#?}",
                self.maps.len(),
                self.maps[self.maps.len() - 1].statuses(was)
            )));
        };
        let mut map = map.clone();
        for status in &found {
            let plain = map.0.get_mut(&status.key).unwrap();
            prop_assert!(status.totals.denied <= plain.totals.denied, "more denials than there were");
            (plain.totals, plain.times[1]) = (status.totals, status.times[1]);
        }
        self.maps = vec![map];
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is done, and whenever the power is cut: what is found is what there was at a moment not earlier than
    /// the last answer (the last sync, in batch and relaxed), and never more than was sent.
    #[test]
    fn what_was_answered_survives_a_power_cut(ops in ops(), sync in prop::sample::select(&SyncMode::ALL[..])) {
        let mut pair = Pair::new(sync);
        for op in ops {
            pair.run(op)?;
        }
        let image = pair.disk.now();
        pair.power_is_back(&image, 7)?;
    }
}

/// `kill -9` leaves what is written: in batch everything that was answered, in relaxed what came before a change of a
/// limit.
#[test]
fn what_was_answered_in_batch_survives_the_end_of_the_process() {
    let never = Duration::from_secs(3600);
    let policy = Policy { flush_every_events: 1_000_000, flush_every: never, ..Policy::default() };
    for sync in SyncMode::ALL {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let clock = Clock::manual(START);
        let limiter = Limiter::open(&dir, Options { sync, policy: policy.clone(), ..options(&clock) }).unwrap();
        let (one, other) = (Limit::of_millis(100, 60_000, Algorithm::SlidingWindowLog, None).unwrap(), "100/2m");
        let steps: [(&str, &dyn Fn()); 8] = [
            ("create", &|| assert!(limiter.configure("a", one.clone()).unwrap())),
            ("create another", &|| assert!(limiter.configure("b", one.clone()).unwrap())),
            ("check", &|| assert!(limiter.check("a", 7).unwrap().allowed)),
            ("check all", &|| assert!(limiter.check_all(&[("a", 1), ("b", 2)]).unwrap().allowed)),
            ("check many", &|| {
                let results = limiter.check_many(&[("a", 3), ("unknown", 1), ("b", 4), ("a", 5)]).unwrap();
                assert_eq!(results.iter().flatten().filter(|decision| decision.allowed).count(), 3);
            }),
            ("reconfigure", &|| assert!(!limiter.configure("a", other.parse().unwrap()).unwrap())),
            ("reset", &|| limiter.reset("b").unwrap()),
            ("remove", &|| limiter.remove("a").unwrap()),
        ];
        let synced = limiter.report().syncs();
        for (what, act) in steps {
            act();
            if sync != SyncMode::Relaxed || !what.starts_with("check") {
                assert_eq!(recovered(&dir, &clock).unwrap(), all(&limiter), "{what} in {}", sync.name());
            }
        }
        let syncs = limiter.report().syncs() - synced;
        assert_eq!(syncs, if sync == SyncMode::Always { 8 } else { 0 }, "in {}", sync.name());
        limiter.flush().unwrap();
        assert!(limiter.report().syncs() > synced);
    }
}

/// A mark is not synced when it is written. When a segment is closed after it, it must not be left torn: a bad frame
/// in an older segment is corruption.
#[test]
fn a_mark_before_a_rotation_is_not_left_torn() {
    for checks in 1..24 {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let clock = Clock::manual(START);
        let disk = Arc::new(CrashDisk::new(&dir));
        let limiter = Limiter::open(&dir, Options { disk: disk.clone(), ..options(&clock) }).unwrap();
        limiter.configure("k", Limit::of_millis(100, 60_000, Algorithm::FixedWindowCounter, None).unwrap()).unwrap();
        for _ in 0..checks {
            limiter.check("k", 1).unwrap();
        }
        let before = limiter.report().log_bytes;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while limiter.report().log_bytes == before {
            assert!(std::time::Instant::now() < deadline, "an idle log should write its mark");
            thread::sleep(Duration::from_millis(1));
        }
        // The new segment has its name, and the old one was not cut yet.
        disk.cut_after(6);
        limiter.compact().unwrap();
        let image = disk.take_cut().unwrap();
        for seed in 0..8 {
            let found = parent.path().join(seed.to_string());
            image.restore(&found, &mut Chance(seed));
            let limiter = Limiter::open(&found, options(&clock));
            let limiter = limiter.unwrap_or_else(|error| panic!("{checks} checks, seed {seed}: {error}"));
            assert_eq!(limiter.status("k").unwrap().unwrap().totals.allowed, checks);
        }
    }
}

/// Limits in several shards, of which the last check is not synced, in a log of several segments.
fn some_limits(dir: &Path, disk: &Arc<CrashDisk>, clock: &Clock) -> Limiter {
    let never = Duration::from_secs(3600);
    let policy = Policy {
        flush_every_events: 1_000_000,
        flush_every: never,
        segment_bytes: MIN_SEGMENT_BYTES,
        ..Policy::default()
    };
    let options = Options { sync: SyncMode::Batch, policy, disk: disk.clone(), ..options(clock) };
    let limiter = Limiter::open(dir, options).unwrap();
    for rate in 10..14 {
        for (key, algorithm) in KEYS.iter().zip(Algorithm::ALL.iter().cycle()) {
            limiter.configure(key, Limit::of_millis(rate, 60_000, *algorithm, None).unwrap()).unwrap();
            limiter.check(key, 2).unwrap();
        }
    }
    // The log thread rotates after it has answered the first.
    limiter.flush().unwrap();
    limiter.flush().unwrap();
    assert!(dir.join("0000000002.aof").exists());
    limiter
}

/// Whatever is left of `image`, these limits are found.
fn assert_found(image: &Image, parent: &Path, expected: &[Status], calls: u64) {
    for seed in 0..12 {
        let found = parent.join(seed.to_string());
        image.restore(&found, &mut Chance(seed));
        let limiter = Limiter::open(&found, options(&Clock::manual(START)));
        let limiter = limiter.unwrap_or_else(|error| panic!("cut at call {calls}, seed {seed}: {error}"));
        assert_eq!(all(&limiter), expected, "cut at call {calls}, seed {seed}");
    }
}

/// Cuts the power before each call of the disk that `act` makes, one after the other. What was there before must be
/// found.
fn cut_at_every_call(act: impl Fn(Limiter)) {
    for calls in 0.. {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let clock = Clock::manual(START);
        let disk = Arc::new(CrashDisk::new(&dir));
        let limiter = some_limits(&dir, &disk, &clock);
        let before = all(&limiter);
        disk.cut_after(calls);
        act(limiter);
        let Some(image) = disk.take_cut() else {
            assert!(calls >= 3, "only {calls} calls");
            return;
        };
        assert_found(&image, parent.path(), &before, calls);
    }
}

#[test]
fn a_power_cut_at_any_call_of_a_compaction_loses_nothing() {
    cut_at_every_call(|limiter| assert!(limiter.compact().is_ok()));
}

#[test]
fn a_power_cut_at_any_call_of_a_stop_loses_nothing() {
    cut_at_every_call(|limiter| limiter.close().unwrap());
}

/// Recovery of what a crash left, on a disk that has all of it.
#[test]
fn a_power_cut_at_any_call_of_recovery_loses_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let (live, crashed) = (parent.path().join("live"), parent.path().join("crashed"));
    let clock = Clock::manual(START);
    let limiter = some_limits(&live, &Arc::new(CrashDisk::new(&live)), &clock);
    copy(&live, &crashed);
    let before = all(&limiter);
    for calls in 0.. {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        copy(&crashed, &dir);
        let disk = Arc::new(CrashDisk::new(&dir));
        disk.cut_after(calls);
        drop(Limiter::open(&dir, Options { disk: disk.clone(), ..options(&clock) }).unwrap());
        let Some(image) = disk.take_cut() else {
            assert!(calls > 10, "only {calls} calls");
            return;
        };
        assert_found(&image, parent.path(), &before, calls);
    }
}
