//! Random histories: whatever is done, and whatever happens to the process, what is decided is what the model decides.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::plain::{Decided, Lasting, Look, Model, Refused, rank};
use crate::clock::Micros;
use crate::limit::{Mode, Window};
use crate::limiter::tests::disk::crash_disk::{Chance, CrashDisk, Image, open};
use crate::limiter::tests::*;

const KEYS: [&str; 8] = ["user:1", "user:12", "user:2", "org:a", "org:ab:x", "job", "user:*", "1"];
const PATTERNS: [&str; 6] = ["user:*", "user:1*", "*:a*", "org:*", "*1*", "*"];

/// A key or a pattern that an operator names.
fn name(index: usize) -> &'static str {
    PATTERNS.get(index).copied().unwrap_or_else(|| ["user:1", "user:12", "org:a", "job"][index - PATTERNS.len()])
}

const NAMES: usize = PATTERNS.len() + 4;

#[derive(Debug, Clone)]
struct Asked {
    key: usize,
    cost: u64,
    brought: Option<Limit>,
}

#[derive(Debug, Clone)]
enum Op {
    Configure(usize, Limit, Option<u64>),
    ConfigureAll(Vec<(usize, Limit, Option<u64>)>),
    Check(Asked),
    CheckAll(Vec<Asked>),
    CheckMany(Vec<Asked>),
    Reset(usize),
    ResetPrefix(&'static str),
    Remove(usize),
    RemovePrefix(&'static str),
    /// In microseconds.
    Advance(u64),
    Sweep,
    Flush,
    Compact,
    /// Compacts in another thread, during the operations that follow.
    CompactBeside,
    /// Closes and opens, after a reboot with a clock that is behind by this much.
    Reopen(u64),
    /// The process ends at once, and what it has written is found.
    Kill,
    /// Cuts the power after this many more calls of the disk, with a seed for what is lost.
    Cut(u64, u64),
}

fn window() -> impl Strategy<Value = Window> {
    let texts = prop::sample::select(vec![
        "3/1s",
        "7/10s",
        "20/1m",
        "2/1m burst=5",
        "40/1h burst=8",
        "5/1m burst=2",
        "1/10s burst=3",
        "4/10s sliding_window_log",
        "9/1m sliding_window_log",
        "30/1h sliding_window_log",
        "4/10s fixed_window_counter",
        "8/1m fixed_window_counter",
        "30/1h fixed_window_counter",
        "5/10s sliding_window_counter",
        "12/1m sliding_window_counter",
        "25/day",
        "60/month",
        "40/week",
    ]);
    texts.prop_map(|text| text.parse().unwrap())
}

fn limits() -> impl Strategy<Value = Limit> {
    prop_oneof![
        10 => window().prop_map(Limit::from),
        5 => prop::collection::vec(window(), 2..4).prop_map(|windows| {
            let first = Limit::from(windows[0]);
            Limit::of(windows).unwrap_or(first)
        }),
        1 => Just(Limit::unlimited()),
        1 => Just("0/1s".parse().unwrap()),
        1 => window().prop_map(|window| Limit::from(window).with_mode(Mode::Shadow)),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let brought = prop::option::weighted(0.4, limits());
    (0..KEYS.len(), 1..6u64, brought).prop_map(|(key, cost, brought)| Asked { key, cost, brought })
}

fn setting() -> impl Strategy<Value = (usize, Limit, Option<u64>)> {
    (0..NAMES, limits(), prop::option::weighted(0.3, 1..90_000u64))
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let prefix = || prop::sample::select(vec!["user:", "user:1", "org:", "*"]);
    let distinct = prop::collection::vec(asked(), 1..5).prop_map(|mut items| {
        items.sort_by_key(|asked| asked.key);
        items.dedup_by_key(|asked| asked.key);
        items
    });
    let span = prop_oneof![3 => 0..20_000_000u64, 2 => 0..100_000_000u64, 1 => 0..100_000_000_000u64, 1 => Just(0)];
    let op = prop_oneof![
        6 => setting().prop_map(|(name, limit, lasts)| Op::Configure(name, limit, lasts)),
        1 => prop::collection::vec(setting(), 1..5).prop_map(|mut settings| {
            settings.sort_by_key(|(name, ..)| *name);
            settings.dedup_by_key(|(name, ..)| *name);
            Op::ConfigureAll(settings)
        }),
        20 => asked().prop_map(Op::Check),
        4 => distinct.prop_map(Op::CheckAll),
        2 => prop::collection::vec(asked(), 1..5).prop_map(Op::CheckMany),
        2 => (0..NAMES + 2).prop_map(Op::Reset),
        1 => prefix().prop_map(Op::ResetPrefix),
        4 => (0..NAMES).prop_map(Op::Remove),
        1 => prefix().prop_map(Op::RemovePrefix),
        8 => span.prop_map(Op::Advance),
        6 => Just(Op::Sweep),
        1 => Just(Op::Flush),
        2 => Just(Op::Compact),
        1 => Just(Op::CompactBeside),
        2 => prop_oneof![Just(0), 0..1_000_000_000u64].prop_map(Op::Reopen),
        2 => Just(Op::Kill),
        2 => (prop_oneof![0..6u64, 0..60u64], any::<u64>()).prop_map(|(calls, seed)| Op::Cut(calls, seed)),
    ];
    prop::collection::vec(op, 1..80)
}

type Tested = std::result::Result<(), TestCaseError>;

/// All that can be seen: the state of each key, and what a list with live keys shows.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    keys: Vec<Option<Look>>,
    listed: Vec<(String, Look)>,
    patterns: Vec<(String, Limit, Lasting)>,
}

fn lasting(status: &Status) -> Lasting {
    let lasting = status.lasting.as_ref()?;
    Some((lasting.until, lasting.below.as_ref().map(|limit| Limit::clone(limit))))
}

fn look(status: &Status) -> Look {
    let (limit, windows) = (Limit::clone(&status.limit), status.windows.as_slice().to_vec());
    Look { limit, windows, lasting: lasting(status) }
}

fn seen(limiter: &Limiter) -> Seen {
    let pattern = |status: &Status| (status.key.clone(), Limit::clone(&status.limit), lasting(status));
    // Only a list shows a key that is spelled like a pattern.
    let status = |key: &&str| limiter.status(key).unwrap().filter(|_| !key.contains('*'));
    let all = limiter.list(Page::default().with_live(true)).unwrap();
    let (patterns, keys): (Vec<&Status>, Vec<&Status>) = all.iter().partition(|status| status.live.is_some());
    Seen {
        keys: KEYS.iter().map(|key| status(key).as_ref().map(look)).collect(),
        listed: keys.into_iter().map(|status| (status.key.clone(), look(status))).collect(),
        patterns: patterns.into_iter().map(pattern).collect(),
    }
}

impl Model {
    fn seen(&self, now: Micros) -> Seen {
        let look = |key: &&str| self.look(key, now).filter(|_| !key.contains('*'));
        let listed = self.keys.keys().filter(|key| self.is_listed(key, now));
        let patterns = self.patterns.iter();
        Seen {
            keys: KEYS.iter().map(look).collect(),
            listed: listed.filter_map(|key| Some((key.clone(), self.look(key, now)?))).collect(),
            patterns: patterns
                .map(|(text, one)| (text.clone(), one.in_force(now).0.clone(), one.lasting(now)))
                .collect(),
        }
    }
}

pub fn decided(decision: &Decision) -> Decided {
    Decided {
        allowed: decision.allowed,
        would_deny: decision.would_deny,
        limit: Limit::clone(&decision.limit),
        windows: decision.windows.as_slice().to_vec(),
        pattern: decision.pattern.as_ref().map(|text| text.to_string()),
    }
}

/// An answer as the model gives it.
pub fn answered<T>(answer: Result<T>) -> std::result::Result<T, Refused> {
    answer.map_err(|error| match error.kind() {
        Kind::LimitNotConfigured => Refused::NotConfigured,
        Kind::CostExceedsCapacity => Refused::TooMuch,
        _ => panic!("{error}"),
    })
}

/// The limiter under test next to its model.
struct Pair {
    parent: tempfile::TempDir,
    dir: PathBuf,
    sync: SyncMode,
    clock: Clock,
    disk: Arc<CrashDisk>,
    limiter: Limiter,
    /// The model after each operation since all was known to be on disk; the last one is that of now.
    models: Vec<Model>,
    /// Set while the power is about to be cut: the seed for what is lost then.
    cut: Option<u64>,
    deaths: u32,
    /// Whether there were checks that nothing waits for.
    unwritten: bool,
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
        let models = vec![Model::default()];
        Pair { parent, dir, sync, clock, disk, limiter, models, cut: None, deaths: 0, unwritten: false, beside: None }
    }

    fn model(&mut self) -> &mut Model {
        let at = self.models.len() - 1;
        &mut self.models[at]
    }

    /// What was done so far of an operation of several steps may be found without the rest.
    fn step(&mut self) {
        self.models.push(self.models[self.models.len() - 1].clone());
    }

    fn run(&mut self, op: Op) -> Tested {
        let now = self.clock.now();
        self.step();
        // Whether all that was done is on disk when the operation is done.
        let mut durable = self.sync == SyncMode::Always;
        match op {
            Op::Kill => return self.kill(),
            Op::Reopen(back) => {
                self.reopen(back)?;
                (durable, self.unwritten) = (true, false);
            }
            Op::Cut(calls, seed) => {
                self.disk.cut_after(calls);
                self.cut = Some(seed);
            }
            Op::Flush => {
                self.limiter.flush().unwrap();
                (durable, self.unwritten) = (true, false);
            }
            Op::Compact => {
                self.limiter.compact().unwrap();
                (durable, self.unwritten) = (true, false);
            }
            Op::CompactBeside => {
                self.join_compaction();
                let core = Arc::clone(&self.limiter.core);
                self.beside = Some(thread::spawn(move || core.compact()));
            }
            Op::Sweep => drop(self.limiter.core.sweep_round()),
            Op::Advance(by) => self.clock.advance(Duration::from_micros(by)),
            // Under `unlimited` nothing is waited for.
            Op::Check(_) | Op::CheckAll(_) | Op::CheckMany(_) => {
                let waited_for = self.ask(op, now)?;
                self.unwritten |= !waited_for;
            }
            // Of these a power cut may leave a part, or what is done of it at the next start.
            Op::ConfigureAll(_) | Op::Remove(_) | Op::RemovePrefix(_) | Op::Reset(_) | Op::ResetPrefix(_) => {
                if self.cut.is_none() {
                    self.edit(op, now)?;
                    self.limiter.flush().unwrap();
                    (durable, self.unwritten) = (true, false);
                }
            }
            Op::Configure(..) => self.edit(op, now)?,
        }
        if let Some(seed) = self.cut
            && let Some(image) = self.disk.take_cut()
        {
            self.cut = None;
            return self.power_is_back(&image, seed);
        }
        // What nothing waited for may be missing until something else is waited for.
        if durable && !self.unwritten {
            self.models.drain(..self.models.len() - 1);
        }
        prop_assert_eq!(seen(&self.limiter), self.models[self.models.len() - 1].seen(self.clock.now()));
        Ok(())
    }

    /// Whether all that is allowed is under a limit.
    fn ask(&mut self, op: Op, now: Micros) -> std::result::Result<bool, TestCaseError> {
        let mut limited = true;
        let item = |asked: &Asked| (KEYS[asked.key], asked.cost, asked.brought.clone());
        match op {
            Op::Check(asked) => {
                let (key, cost, brought) = item(&asked);
                let expected = self.model().check(key, cost, brought.as_ref(), now);
                limited &= expected.as_ref().is_ok_and(|decided| !decided.limit.is_unlimited());
                let item = Item { limit: brought.as_ref(), ..Item::new(key).with_cost(cost) };
                let decision = self.limiter.check_item(item).map(|decision| decided(&decision));
                prop_assert_eq!(answered(decision), expected);
            }
            Op::CheckAll(asked) => {
                let items: Vec<_> =
                    asked.iter().map(|asked| (KEYS[asked.key], asked.cost, asked.brought.as_ref())).collect();
                let expected = self.model().check_all(&items, now);
                limited &= expected.as_ref().is_ok_and(|(_, all)| all.iter().all(|one| !one.limit.is_unlimited()));
                let items: Vec<Item<'_>> = items
                    .iter()
                    .map(|(key, cost, limit)| Item { limit: *limit, ..Item::new(key).with_cost(*cost) })
                    .collect();
                let answer = self.limiter.check_all(&items).map(|all| {
                    let results: Vec<Decided> = all.results.iter().map(decided).collect();
                    (all.allowed, results)
                });
                match (answered(answer), expected) {
                    // What was not spent in the end is reported unchanged.
                    (Ok((false, answer)), Ok((false, expected))) => {
                        prop_assert_eq!((answer.len(), answer.last()), (expected.len(), expected.last()));
                    }
                    (answer, expected) => prop_assert_eq!(answer, expected),
                }
            }
            Op::CheckMany(asked) => {
                let items: Vec<_> = asked.iter().map(item).collect();
                let mut expected = Vec::new();
                for (key, cost, brought) in &items {
                    let decided = self.model().check(key, *cost, brought.as_ref(), now);
                    limited &= decided.as_ref().is_ok_and(|decided| !decided.limit.is_unlimited());
                    expected.push(decided);
                    self.step();
                }
                let items: Vec<Item<'_>> = items
                    .iter()
                    .map(|(key, cost, limit)| Item { limit: limit.as_ref(), ..Item::new(key).with_cost(*cost) })
                    .collect();
                let results = self.limiter.check_many(&items).unwrap();
                let results = results.into_iter().map(|result| answered(result.map(|decision| decided(&decision))));
                prop_assert_eq!(results.collect::<Vec<_>>(), expected);
            }
            _ => unreachable!("it asks for nothing"),
        }
        Ok(limited)
    }

    fn edit(&mut self, op: Op, now: Micros) -> Tested {
        let until = |lasts: Option<u64>| lasts.map(|millis| now + millis * 1000);
        match op {
            Op::Configure(index, limit, lasts) => {
                let expected = self.model().configure(name(index), &limit, until(lasts), now);
                let setting = Setting { lasts: lasts.map(Duration::from_millis), ..Setting::new(name(index), limit) };
                let created = self.limiter.configure_setting(&setting);
                prop_assert_eq!(created.map_err(|error| assert_eq!(error.kind(), Kind::InvalidArgument)), expected);
            }
            Op::ConfigureAll(settings) => {
                let before = self.model().clone();
                let expected: std::result::Result<Vec<bool>, ()> = settings
                    .iter()
                    .map(|(index, limit, lasts)| self.model().configure(name(*index), limit, until(*lasts), now))
                    .collect();
                if expected.is_err() {
                    *self.model() = before;
                }
                let settings: Vec<Setting<'_>> = settings
                    .into_iter()
                    .map(|(index, limit, lasts)| Setting {
                        lasts: lasts.map(Duration::from_millis),
                        ..Setting::new(name(index), limit)
                    })
                    .collect();
                let created = self.limiter.configure_all(&settings);
                prop_assert_eq!(created.map_err(|error| assert_eq!(error.kind(), Kind::InvalidArgument)), expected);
            }
            Op::Reset(index) => {
                let name = if index < NAMES { name(index) } else { KEYS[index - NAMES + 1] };
                let there = self.limiter.reset(name).is_ok();
                prop_assert_eq!(there, self.model().reset(name, now));
            }
            Op::ResetPrefix(prefix) => {
                let model = self.model();
                let keys: Vec<String> = model.keys.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                let keys: Vec<String> = keys.into_iter().filter(|key| model.is_listed(key, now)).collect();
                keys.iter().for_each(|key| self.model().reset_key(key, now));
                prop_assert_eq!(self.limiter.reset_prefix(prefix).unwrap(), keys.len() as u64);
            }
            Op::Remove(index) => {
                let there = self.limiter.remove(name(index)).is_ok();
                prop_assert_eq!(there, self.model().remove(name(index), now));
            }
            Op::RemovePrefix(prefix) => {
                // Patterns before exact limits, and the less preferred first: no key is moved to a pattern that is to
                // go.
                let mut names: Vec<&str> = (0..NAMES).map(name).filter(|name| name.starts_with(prefix)).collect();
                names.sort_by_key(|name| (!name.contains('*'), rank(name)));
                let mut removed = 0;
                for name in names {
                    removed += u64::from(self.model().remove(name, now));
                }
                prop_assert_eq!(self.limiter.remove_prefix(prefix).unwrap(), removed);
            }
            _ => unreachable!("it edits nothing"),
        }
        Ok(())
    }

    /// Waits for the compaction in another thread: it holds the lock of the directory.
    fn join_compaction(&mut self) {
        if let Some(compaction) = self.beside.take() {
            let _ = compaction.join().unwrap();
        }
    }

    fn reopen(&mut self, back: u64) -> Tested {
        self.limiter.close().unwrap();
        self.join_compaction();
        let before = self.clock.now();
        self.clock = self.clock.rebooted(before - back);
        // The old one holds the lock until it is dropped.
        let other = tempfile::tempdir().unwrap();
        let disk = Arc::new(CrashDisk::new(other.path()));
        drop(std::mem::replace(&mut self.limiter, open(other.path(), self.sync, &self.clock.restarted(), &disk)));
        let left = self.disk.take_cut();
        prop_assert!(left.is_none() || self.cut.is_some());
        self.disk = Arc::new(CrashDisk::new(&self.dir));
        self.cut = None;
        self.limiter = open(&self.dir, self.sync, &self.clock, &self.disk);
        prop_assert!(self.last_instant() <= self.clock.now(), "time runs backwards");
        Ok(())
    }

    fn last_instant(&self) -> Micros {
        self.models[self.models.len() - 1].keys.values().map(|kept| kept.last).max().unwrap_or(0)
    }

    /// Goes on with a copy of the directory. Where changes wait for it the copy has all of it.
    fn kill(&mut self) -> Tested {
        if self.sync == SyncMode::Relaxed || std::mem::take(&mut self.unwritten) {
            self.limiter.flush().unwrap();
        }
        self.join_compaction();
        self.deaths += 1;
        let dir = self.parent.path().join(self.deaths.to_string());
        copy(&self.dir, &dir);
        (self.dir, self.cut) = (dir, None);
        self.disk = Arc::new(CrashDisk::new(&self.dir));
        self.clock = self.clock.restarted();
        self.limiter = open(&self.dir, self.sync, &self.clock, &self.disk);
        self.models.drain(..self.models.len() - 1);
        prop_assert_eq!(seen(&self.limiter), self.models[0].seen(self.clock.now()));
        Ok(())
    }

    /// Opens what is left after the power cut. It must be one of the models since all was known to be on disk; from
    /// there it goes on.
    fn power_is_back(&mut self, image: &Image, seed: u64) -> Tested {
        self.join_compaction();
        self.deaths += 1;
        self.dir = self.parent.path().join(self.deaths.to_string());
        image.restore(&self.dir, &mut Chance(seed));
        self.disk = Arc::new(CrashDisk::new(&self.dir));
        self.clock = self.clock.rebooted(self.clock.wall());
        self.limiter = open(&self.dir, self.sync, &self.clock, &self.disk);
        let now = self.clock.now();
        let found = seen(&self.limiter);
        let Some(model) = self.models.iter().rev().find(|model| model.seen(now) == found) else {
            return Err(TestCaseError::fail(format!(
                "found {found:#?}, which is none of the {} states there were; the last: {:#?}",
                self.models.len(),
                self.models[self.models.len() - 1].seen(now)
            )));
        };
        self.models = vec![model.clone()];
        self.unwritten = false;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_decided_otherwise_than_if_every_key_were_kept(
        ops in ops(),
        sync in prop::sample::select(SyncMode::ALL.to_vec()),
    ) {
        let mut pair = Pair::new(sync);
        for op in ops {
            pair.run(op)?;
        }
        let image = pair.disk.now();
        pair.power_is_back(&image, 7)?;
    }
}
