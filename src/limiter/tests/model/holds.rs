//! Random histories of holds over windows and slots: at every instant each window has what was settled or held and
//! still counts, to the unit, and the slots in use are those of the open holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;

use proptest::prelude::*;

use crate::bounds::REMEMBER_MS;
use crate::clock::Micros;
use crate::limit::{Live, Standing};
use crate::limiter::tests::disk::crash_disk::{Chance, CrashDisk, open};
use crate::limiter::tests::*;

const SECOND: Micros = 1_000_000;
const REMEMBER: Micros = REMEMBER_MS * 1000;

/// Keys with windows, and what each is served by: those from the fourth on by a pattern.
const RATES: [(&str, &str); 6] = [
    ("fix", "50/10m fixed_window_counter"),
    ("log", "50/10m sliding_window_log"),
    ("bucket", "60/5m"),
    ("both", "40/2m, 100/1h sliding_window_counter"),
    ("p:1", "30/5m fixed_window_counter"),
    ("p:2", "30/5m fixed_window_counter"),
];

const SLOTS: [&str; 3] = ["gpu", "pool:1", "pool:2"];

const POOL: u64 = 3;

fn key(index: usize) -> &'static str {
    RATES.get(index).map_or_else(|| SLOTS[index - RATES.len()], |(key, _)| key)
}

const KEYS: usize = RATES.len() + SLOTS.len();

#[derive(Debug, Clone)]
enum Op {
    /// Keys with their costs, and for how many seconds.
    Hold(Vec<(usize, u64)>, u64),
    /// Which hold, and to what cost of each item.
    Settle(usize, Vec<u64>),
    /// As it was settled before, or held.
    SettleAgain(usize),
    Renew(usize, Option<u64>),
    Check(usize, u64),
    Charge(usize, u64),
    Refund(usize, u64),
    Slots(u64),
    Advance(Micros),
    Sweep,
    Compact,
    CompactBeside,
    Reopen,
    Kill,
    Cut(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let items = prop::collection::btree_map(0..KEYS, 1..9u64, 1..4).prop_map(|items| {
        let cost = |(key, cost): (usize, u64)| (key, if key < RATES.len() { cost * 3 } else { 1 + cost % 2 });
        items.into_iter().map(cost).collect::<Vec<_>>()
    });
    let span = prop_oneof![3 => 0..30 * SECOND, 2 => 0..300 * SECOND, 1 => 0..3600 * SECOND, 1 => Just(0)];
    let costs = || prop::collection::vec(prop_oneof![Just(0), 0..30u64, 20..90u64], 3);
    let op = prop_oneof![
        14 => (items, prop_oneof![1..60u64, 60..900u64]).prop_map(|(items, ttl)| Op::Hold(items, ttl)),
        10 => (0..6usize, costs()).prop_map(|(hold, costs)| Op::Settle(hold, costs)),
        3 => (0..6usize).prop_map(Op::SettleAgain),
        3 => (0..6usize, prop::option::of(1..600u64)).prop_map(|(hold, ttl)| Op::Renew(hold, ttl)),
        4 => (0..RATES.len(), 1..20u64).prop_map(|(key, cost)| Op::Check(key, cost)),
        1 => (0..RATES.len(), 1..90u64).prop_map(|(key, cost)| Op::Charge(key, cost)),
        1 => (0..RATES.len(), 1..90u64).prop_map(|(key, cost)| Op::Refund(key, cost)),
        1 => (1..6u64).prop_map(Op::Slots),
        8 => span.prop_map(Op::Advance),
        2 => Just(Op::Sweep),
        1 => Just(Op::Compact),
        1 => Just(Op::CompactBeside),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(Op::Cut),
    ];
    prop::collection::vec(op, 1..70)
}

/// What a key has counted.
#[derive(Debug, Clone)]
enum Counted {
    /// A fixed window of ten or five minutes: when it began, and what was spent in it.
    Fixed { length: Micros, rate: u64, start: Micros, used: u64 },
    /// What was spent in each millisecond.
    Log { length: Micros, rate: u64, spent: BTreeMap<Micros, u64> },
    /// As the pure functions have it.
    Pure(Limit, Standing),
}

impl Counted {
    fn new(text: &str) -> Counted {
        match text {
            "50/10m fixed_window_counter" => Counted::Fixed { length: 600 * SECOND, rate: 50, start: 0, used: 0 },
            "30/5m fixed_window_counter" => Counted::Fixed { length: 300 * SECOND, rate: 30, start: 0, used: 0 },
            "50/10m sliding_window_log" => Counted::Log { length: 600 * SECOND, rate: 50, spent: BTreeMap::new() },
            _ => {
                let limit: Limit = text.parse().unwrap();
                let standing = Standing::new(&limit);
                Counted::Pure(limit, standing)
            }
        }
    }

    fn advance(&mut self, now: Micros) {
        match self {
            Counted::Fixed { length, start, used, .. } if *start + *length <= now => *used = 0,
            Counted::Fixed { .. } => {}
            Counted::Log { length, spent, .. } => spent.retain(|at, _| at + *length > now),
            Counted::Pure(limit, standing) => standing.advance(limit, now),
        }
    }

    fn used(&mut self, now: Micros) -> Vec<u64> {
        self.advance(now);
        match self {
            Counted::Fixed { used, .. } => vec![*used],
            Counted::Log { spent, .. } => vec![spent.values().sum()],
            Counted::Pure(limit, standing) => {
                let verdict = standing.glance(limit, now, &mut Live::default());
                verdict.windows.as_slice().iter().map(|quote| quote.used).collect()
            }
        }
    }

    fn allows(&mut self, now: Micros, cost: u64) -> bool {
        let used = self.used(now);
        match self {
            Counted::Fixed { rate, .. } | Counted::Log { rate, .. } => used[0] + cost <= *rate,
            Counted::Pure(limit, standing) => standing.quote(limit, now, cost, &mut Live::default()).allowed,
        }
    }

    fn spend(&mut self, now: Micros, cost: u64) {
        self.advance(now);
        match self {
            _ if cost == 0 => {}
            Counted::Fixed { start, used, .. } => {
                if *used == 0 {
                    *start = now;
                }
                *used += cost;
            }
            Counted::Log { spent, .. } => *spent.entry(now.next_multiple_of(1000)).or_default() += cost,
            Counted::Pure(limit, standing) => standing.spend(limit, now, cost, &mut Live::default()),
        }
    }

    fn give_back(&mut self, held_at: Micros, now: Micros, units: u64) {
        self.advance(now);
        match self {
            Counted::Fixed { start, used, .. } if held_at >= *start => *used = used.saturating_sub(units),
            Counted::Fixed { .. } => {}
            Counted::Log { spent, .. } => {
                let at = held_at.next_multiple_of(1000);
                spent.entry(at).and_modify(|spent| *spent = spent.saturating_sub(units));
                spent.retain(|_, spent| *spent > 0);
            }
            Counted::Pure(limit, standing) => standing.give_back(limit, held_at, now, units),
        }
    }

    fn refund(&mut self, now: Micros, units: u64) {
        self.advance(now);
        match self {
            Counted::Fixed { used, .. } => *used = used.saturating_sub(units),
            Counted::Log { spent, .. } => {
                let mut left = units;
                for spent in spent.values_mut().rev() {
                    let back = left.min(*spent);
                    (*spent, left) = (*spent - back, left - back);
                }
                spent.retain(|_, spent| *spent > 0);
            }
            Counted::Pure(limit, standing) => standing.refund(limit, now, units),
        }
    }
}

#[derive(Debug, Clone)]
struct Held {
    id: String,
    at: Micros,
    until: Micros,
    ttl: Micros,
    items: Vec<(usize, u64)>,
    settled: Option<(Micros, Vec<u64>)>,
}

impl Held {
    fn is_open(&self, now: Micros) -> bool {
        self.settled.is_none() && self.until > now
    }

    fn is_forgotten(&self, now: Micros) -> bool {
        self.settled.as_ref().map_or(self.until, |(at, _)| *at) + REMEMBER <= now
    }
}

/// The limiter under test next to its model.
struct Pair {
    parent: tempfile::TempDir,
    dir: PathBuf,
    sync: SyncMode,
    clock: Clock,
    disk: Arc<CrashDisk>,
    limiter: Limiter,
    beside: Option<thread::JoinHandle<Result<Compaction>>>,
    deaths: u32,
    counted: Vec<Counted>,
    holds: Vec<Held>,
    gpu: u64,
}

type Tested = std::result::Result<(), TestCaseError>;

impl Pair {
    fn new(sync: SyncMode) -> Pair {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("0");
        let clock = Clock::manual(START);
        let disk = Arc::new(CrashDisk::new(&dir));
        let limiter = open(&dir, sync, &clock, &disk);
        for (key, limit) in &RATES[..4] {
            limiter.configure(key, limit.parse().unwrap()).unwrap();
        }
        limiter.configure("p:*", RATES[4].1.parse().unwrap()).unwrap();
        limiter.configure("pool:*", Limit::of_slots(POOL).unwrap()).unwrap();
        limiter.configure("gpu", Limit::of_slots(4).unwrap()).unwrap();
        let counted = RATES.iter().map(|(_, limit)| Counted::new(limit)).collect();
        let (beside, deaths, holds, gpu) = (None, 0, Vec::new(), 4);
        Pair { parent, dir, sync, clock, disk, limiter, beside, deaths, counted, holds, gpu }
    }

    fn slots(&self, index: usize) -> u64 {
        if key(index) == "gpu" { self.gpu } else { POOL }
    }

    fn in_use(&self, index: usize, now: Micros) -> u64 {
        let open = self.holds.iter().filter(|hold| hold.is_open(now));
        open.flat_map(|hold| &hold.items).filter(|(key, _)| *key == index).map(|(_, cost)| cost).sum()
    }

    fn hold(&mut self, items: Vec<(usize, u64)>, ttl: u64, now: Micros) -> Tested {
        let asked: Vec<Item<'_>> = items.iter().map(|(index, cost)| Item::new(key(*index)).with_cost(*cost)).collect();
        let held = self.limiter.hold_all(&asked, Duration::from_secs(ttl));
        if items.iter().any(|(index, cost)| *index >= RATES.len() && *cost > self.slots(*index)) {
            prop_assert_eq!(held.map_err(|error| error.kind()).err(), Some(Kind::CostExceedsCapacity));
            return Ok(());
        }
        let held = held.unwrap();
        let denied = items.iter().position(|(index, cost)| match self.counted.get_mut(*index) {
            Some(counted) => !counted.allows(now, *cost),
            None => self.in_use(*index, now) + cost > self.slots(*index),
        });
        prop_assert_eq!((held.all.denied, held.hold.is_some()), (denied, denied.is_none()));
        let Some(hold) = held.hold else { return Ok(()) };
        for (index, cost) in items.iter().filter(|(index, _)| *index < RATES.len()) {
            self.counted[*index].spend(now, *cost);
        }
        let ttl = ttl * SECOND;
        prop_assert_eq!(hold.expires_at, now + ttl);
        self.holds.push(Held { id: hold.id, at: now, until: now + ttl, ttl, items, settled: None });
        Ok(())
    }

    /// One of the last holds.
    fn last(&self, back: usize) -> Option<usize> {
        self.holds.len().checked_sub(back + 1)
    }

    fn settle(&mut self, which: usize, costs: Option<Vec<u64>>, now: Micros) -> Tested {
        let Some(at) = self.last(which) else { return Ok(()) };
        let hold = self.holds[at].clone();
        let costs: Vec<u64> = match (costs, &hold.settled) {
            (Some(costs), _) => hold
                .items
                .iter()
                .zip(costs)
                .map(|((index, held), cost)| if *index < RATES.len() { cost } else { *held })
                .collect(),
            (None, Some((_, costs))) => costs.clone(),
            (None, None) => hold.items.iter().map(|(_, held)| *held).collect(),
        };
        let each: Vec<(&str, u64)> =
            hold.items.iter().zip(&costs).map(|((index, _), cost)| (key(*index), *cost)).collect();
        let settled = self.limiter.settle(&hold.id, Cost::Each(&each)).map_err(|error| error.kind());
        if hold.is_forgotten(now) {
            prop_assert_eq!(settled.err(), Some(Kind::HoldNotFound));
            return Ok(());
        }
        if let Some((at, before)) = &hold.settled {
            match *before == costs {
                true => prop_assert_eq!(settled.map(|settled| settled.late), Ok(hold.until <= *at)),
                false => prop_assert_eq!(settled.err(), Some(Kind::HoldSettled)),
            }
            return Ok(());
        }
        let settled = settled.unwrap();
        prop_assert_eq!(settled.late, hold.until <= now);
        for (((index, held), cost), told) in hold.items.iter().zip(&costs).zip(&settled.results) {
            prop_assert_eq!((&*told.key, told.held, told.cost, told.configured), (key(*index), *held, *cost, true));
            let Some(counted) = self.counted.get_mut(*index) else { continue };
            match cost.checked_sub(*held) {
                Some(more) => counted.spend(now, more),
                None => counted.give_back(hold.at, now, held - cost),
            }
        }
        self.holds[at].settled = Some((now, costs));
        Ok(())
    }

    fn renew(&mut self, which: usize, ttl: Option<u64>, now: Micros) -> Tested {
        let Some(at) = self.last(which) else { return Ok(()) };
        let hold = &mut self.holds[at];
        let renewed = self.limiter.renew(&hold.id, ttl.map(Duration::from_secs)).map_err(|error| error.kind());
        let until = now + ttl.map_or(hold.ttl, |ttl| ttl * SECOND);
        let expected = match () {
            () if hold.is_forgotten(now) => Err(Kind::HoldNotFound),
            () if hold.settled.is_some() => Err(Kind::HoldSettled),
            () if hold.until <= now => Err(Kind::HoldExpired),
            () => Ok(until),
        };
        prop_assert_eq!(renewed.map(|hold| hold.expires_at), expected);
        if expected.is_ok() {
            hold.until = until;
        }
        Ok(())
    }

    fn run(&mut self, op: Op) -> Tested {
        let now = self.clock.now();
        match op {
            Op::Hold(items, ttl) => self.hold(items, ttl, now)?,
            Op::Settle(which, costs) => self.settle(which, Some(costs), now)?,
            Op::SettleAgain(which) => self.settle(which, None, now)?,
            Op::Renew(which, ttl) => self.renew(which, ttl, now)?,
            Op::Check(index, cost) => {
                let allowed = self.limiter.check(key(index), cost).unwrap().allowed;
                prop_assert_eq!(allowed, self.counted[index].allows(now, cost));
                if allowed {
                    self.counted[index].spend(now, cost);
                }
            }
            Op::Charge(index, cost) => {
                self.limiter.charge(Item::new(key(index)).with_cost(cost)).unwrap();
                self.counted[index].spend(now, cost);
            }
            Op::Refund(index, cost) => {
                self.limiter.refund(Item::new(key(index)).with_cost(cost)).unwrap();
                self.counted[index].refund(now, cost);
            }
            Op::Slots(slots) => {
                self.limiter.configure("gpu", Limit::of_slots(slots).unwrap()).unwrap();
                self.gpu = slots;
            }
            Op::Advance(by) => self.clock.advance(Duration::from_micros(by)),
            Op::Sweep => drop(self.limiter.core.sweep_round()),
            Op::Compact => drop(self.limiter.compact().unwrap()),
            Op::CompactBeside => {
                self.join();
                let core = Arc::clone(&self.limiter.core);
                self.beside = Some(thread::spawn(move || core.compact()));
            }
            Op::Reopen => {
                self.limiter.close().unwrap();
                self.go_on(self.clock.rebooted(self.clock.wall()), copy);
            }
            Op::Kill => self.go_on(self.clock.restarted(), copy),
            // What was answered is on disk in this mode only.
            Op::Cut(seed) if self.sync == SyncMode::Always => {
                let image = self.disk.now();
                self.go_on(self.clock.rebooted(self.clock.wall()), |_, to| image.restore(to, &mut Chance(seed)));
            }
            Op::Cut(_) => {}
        }
        self.look()
    }

    fn join(&mut self) {
        if let Some(beside) = self.beside.take() {
            let _ = beside.join().unwrap();
        }
    }

    /// Goes on in another directory.
    fn go_on(&mut self, clock: Clock, found: impl FnOnce(&Path, &Path)) {
        self.join();
        self.deaths += 1;
        let dir = self.parent.path().join(self.deaths.to_string());
        found(&self.dir, &dir);
        (self.dir, self.clock, self.disk) = (dir.clone(), clock, Arc::new(CrashDisk::new(&dir)));
        self.limiter = open(&self.dir, self.sync, &self.clock, &self.disk);
    }

    /// All is as the model has it.
    fn look(&mut self) -> Tested {
        let now = self.clock.now();
        for (index, counted) in self.counted.iter_mut().enumerate() {
            let status = self.limiter.status(key(index)).unwrap().unwrap();
            let used: Vec<u64> = status.windows.as_slice().iter().map(|quote| quote.used).collect();
            prop_assert_eq!(used, counted.used(now), "{}", key(index));
        }
        for index in RATES.len()..KEYS {
            let status = self.limiter.status(key(index)).unwrap().unwrap();
            let used = self.in_use(index, now);
            prop_assert_eq!(status.used, Some(used), "{}", key(index));
            prop_assert_eq!(status.remaining, Some(self.slots(index).saturating_sub(used)));
            let listed: Vec<String> = status.slots.unwrap().holds.iter().map(|hold| hold.id.clone()).collect();
            let open = self.holds.iter().filter(|hold| hold.is_open(now));
            let open = open.filter(|hold| hold.items.iter().any(|(key, _)| *key == index));
            prop_assert_eq!(listed, open.map(|hold| hold.id.clone()).collect::<Vec<_>>());
        }
        let open = self.holds.iter().filter(|hold| hold.is_open(now)).count() as u64;
        prop_assert_eq!(self.limiter.report().holds, open);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn windows_have_what_was_settled_or_held_and_slots_are_those_of_open_holds(
        ops in ops(),
        sync in prop::sample::select(vec![SyncMode::Always, SyncMode::Batch]),
    ) {
        let mut pair = Pair::new(sync);
        for op in ops {
            pair.run(op)?;
        }
        pair.run(Op::Cut(7))?;
        pair.run(Op::Kill)?;
    }
}
