//! What an ordinary limiter answers, and what several scratch limiters answer in turn that share their records: never
//! anything else.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::{Clock, Micros};
use crate::error::Result;
use crate::limit::Limit;
use crate::limiter::scratch::*;
use crate::limiter::tests::{KEYS, LITERAL, RATES, START, options};
use crate::limiter::{Begin, Hold};
use crate::limiter::{Cost, HoldDecision, Item, Limiter, Once, OpenHold, Origin, Setting, SettledItem, Status};

/// Those of the other models, and slots.
static LIMITS: LazyLock<Vec<&str>> = LazyLock::new(|| [RATES, &["slots=3", "slots=5"]].concat());

type Asked = (usize, u64, Option<usize>);

#[derive(Debug, Clone)]
enum Op {
    Check(Asked),
    All(Vec<Asked>),
    Many(Vec<Asked>),
    Peek(Vec<Asked>),
    Charge(Asked),
    Refund(Asked),
    Configure(usize, usize, Option<u64>),
    Several(Vec<(usize, usize)>),
    Apply(Vec<(usize, usize)>),
    Remove(usize),
    Reset(usize),
    Hold(Vec<Asked>, u64),
    /// Which hold, and to what cost; as held without one.
    Settle(usize, Option<u64>),
    Renew(usize, Option<u64>),
    /// With which idempotency key, and what: as a check of all, of many, a hold, a charge, a refund.
    Once(u8, u8, Vec<Asked>),
    Status(usize),
}

#[derive(Debug, Clone)]
enum Step {
    /// Operations that one of the lanes does as one group; and another lane does its operations before that is written.
    Run(usize, Vec<Op>, Option<(usize, Op)>),
    Advance(Micros),
    Flush,
    Sweep,
    /// A lane forgets what it can.
    Forget(usize),
}

fn asked() -> impl Strategy<Value = Asked> {
    (0..LITERAL, 1..4u64, prop::option::weighted(0.5, 0..LIMITS.len()))
}

fn distinct() -> impl Strategy<Value = Vec<Asked>> {
    prop::collection::vec(asked(), 1..4).prop_map(|mut items| {
        items.sort_by_key(|(key, ..)| *key);
        items.dedup_by_key(|(key, ..)| *key);
        items
    })
}

/// What a key or pattern is configured to.
fn setting() -> impl Strategy<Value = (usize, usize)> {
    (0..KEYS.len(), 0..LIMITS.len())
}

fn settings() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec(setting(), 1..4).prop_map(|mut settings| {
        settings.sort_unstable();
        settings.dedup_by_key(|(key, _)| *key);
        settings
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => asked().prop_map(Op::Check),
        3 => distinct().prop_map(Op::All),
        2 => prop::collection::vec(asked(), 1..5).prop_map(Op::Many),
        1 => distinct().prop_map(Op::Peek),
        2 => asked().prop_map(Op::Charge),
        2 => asked().prop_map(Op::Refund),
        4 => setting().prop_map(|(key, limit)| Op::Configure(key, limit, None)),
        2 => (setting(), 1..120_000u64).prop_map(|((key, limit), ms)| Op::Configure(key, limit, Some(ms))),
        1 => settings().prop_map(Op::Several),
        1 => settings().prop_map(Op::Apply),
        2 => (0..KEYS.len()).prop_map(Op::Remove),
        1 => (0..LITERAL).prop_map(Op::Reset),
        6 => (distinct(), 1..200u64).prop_map(|(items, ttl)| Op::Hold(items, ttl)),
        4 => (0..6usize, prop::option::of(0..5u64)).prop_map(|(hold, cost)| Op::Settle(hold, cost)),
        2 => (0..6usize, prop::option::of(1..300u64)).prop_map(|(hold, ttl)| Op::Renew(hold, ttl)),
        2 => (0..4u8, 0..5u8, distinct()).prop_map(|(once, kind, items)| Op::Once(once, kind, items)),
        1 => (0..KEYS.len()).prop_map(Op::Status),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        24 => (0..LANES, prop::collection::vec(op(), 1..4), prop::option::weighted(0.3, (0..LANES, op())))
            .prop_map(|(lane, ops, race)| Step::Run(lane, ops, race)),
        6 => prop_oneof![4 => 0..20_000_000u64, 1 => 0..90_000_000_000u64, 1 => Just(0)].prop_map(Step::Advance),
        2 => Just(Step::Flush),
        2 => Just(Step::Sweep),
        1 => (0..LANES).prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 1..60)
}

const LANES: usize = 3;

const IDENTITY: [u8; 16] = [9; 16];

fn parse(index: usize) -> Limit {
    LIMITS[index].parse().unwrap()
}

/// A client: a limiter, and the ids of the holds that it has made.
#[derive(Default, Clone)]
struct Asker {
    holds: Vec<String>,
}

impl Asker {
    /// What an operation answers, with no ids in it.
    fn ask(&mut self, limiter: &Limiter, op: &Op) -> String {
        let limits: Vec<Limit> = (0..LIMITS.len()).map(parse).collect();
        let item = |(key, cost, brought): Asked| match brought {
            Some(limit) => Item::new(KEYS[key]).with_cost(cost).with_limit(&limits[limit]),
            None => Item::new(KEYS[key]).with_cost(cost),
        };
        let items = |items: &[Asked]| items.iter().copied().map(item).collect::<Vec<_>>();
        let id = |holds: &[String], hold: usize| match holds.len() {
            0 => "none".to_owned(),
            count => holds[count - 1 - hold % count].clone(),
        };
        match op {
            Op::Check(asked) => told(limiter.check_item(item(*asked))),
            Op::All(all) => told(limiter.check_all(&items(all))),
            Op::Many(many) => {
                told(limiter.check_many(&items(many)).map(|many| many.into_iter().map(told).collect::<Vec<_>>()))
            }
            Op::Peek(all) => told(limiter.peek_all(&items(all))),
            Op::Charge(asked) => told(limiter.charge(item(*asked)).map(seen)),
            Op::Refund(asked) => told(limiter.refund(item(*asked)).map(seen)),
            Op::Configure(key, limit, lasts) => {
                let setting = Setting::new(KEYS[*key], parse(*limit));
                let setting = match lasts {
                    Some(ms) => setting.with_lasts(Duration::from_millis(*ms)),
                    None => setting,
                };
                told(limiter.configure_setting(&setting))
            }
            Op::Several(several) => {
                let settings: Vec<Setting<'_>> =
                    several.iter().map(|(key, limit)| Setting::new(KEYS[*key], parse(*limit))).collect();
                told(limiter.configure_all(&settings))
            }
            Op::Apply(several) => {
                let settings: Vec<Setting<'_>> =
                    several.iter().map(|(key, limit)| Setting::new(KEYS[*key], parse(*limit))).collect();
                told(limiter.apply(&settings, false, false))
            }
            Op::Remove(key) => told(limiter.remove(KEYS[*key])),
            Op::Reset(key) => told(limiter.reset(KEYS[*key])),
            Op::Hold(all, ttl) => {
                let held = limiter.hold_all(&items(all), Duration::from_secs(*ttl));
                told(held.map(|held| self.held(held)))
            }
            Op::Settle(hold, cost) => {
                let cost = cost.map_or(Cost::AsHeld, Cost::Units);
                // What is reported of a key of which nothing counts depends on whether it was swept.
                let bare = |item: SettledItem| (item.key, item.held, item.cost, item.debt);
                let settled = limiter.settle(&id(&self.holds, *hold), cost);
                told(settled.map(|settled| (settled.late, settled.results.into_iter().map(bare).collect::<Vec<_>>())))
            }
            Op::Renew(hold, ttl) => {
                let renewed = limiter.renew(&id(&self.holds, *hold), ttl.map(Duration::from_secs));
                told(renewed.map(|hold| (hold.expires_at, hold.ttl)))
            }
            Op::Once(key, kind, all) => self.once(limiter, (*key, *kind), &items(all)),
            Op::Status(key) => told(limiter.status(KEYS[*key]).map(|status| status.map(seen))),
        }
    }

    fn held(&mut self, held: HoldDecision) -> String {
        let hold = held.hold.map(|Hold { id, expires_at, ttl, .. }| {
            self.holds.push(id);
            (expires_at, ttl)
        });
        format!("{:?} {hold:?}", held.all)
    }

    fn once(&mut self, limiter: &Limiter, (key, kind): (u8, u8), items: &[Item<'_>]) -> String {
        let request = format!("{kind} {items:?}");
        let hash = request.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let once = Once { key: [key; 16], request: std::array::from_fn(|index| hash.to_le_bytes()[index % 8]) };
        let guard = match limiter.once(once, None) {
            Ok(Begin::Before(answer)) => return format!("before: {answer}"),
            Ok(Begin::Fresh(guard)) => guard,
            Err(error) => return error.message().to_owned(),
        };
        let answer = match kind {
            0 => told(limiter.check_all_once(items, &guard, &mut |all| format!("{all:?}"), None)),
            1 => told(
                limiter
                    .check_many_once(items, &guard, &mut |many| format!("{many:?}"), None)
                    .map(|many| many.into_iter().map(told).collect::<Vec<_>>()),
            ),
            2 => {
                let mut write =
                    |all: &_, hold: Option<&Hold>| format!("{all:?} {:?}", hold.map(|hold| hold.expires_at));
                let held = limiter.hold_all_once(items, Duration::from_secs(60), &guard, &mut write, None);
                told(held.map(|held| self.held(held)))
            }
            3 => told(
                limiter
                    .charge_once(&items[0], &guard, &mut |status| format!("{:?}", seen(status.clone())), None)
                    .map(seen),
            ),
            _ => told(
                limiter
                    .refund_once(&items[0], &guard, &mut |status| format!("{:?}", seen(status.clone())), None)
                    .map(seen),
            ),
        };
        let kept = guard.kept();
        format!("{answer} {kept:?}")
    }
}

fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.map_or_else(|error| error.message().to_owned(), |answer| format!("{answer:?}"))
}

/// A status without what may lag, and without ids.
fn seen(mut status: Status) -> Status {
    (status.totals.denied, status.totals.denied_cost, status.last_denied_at) = (0, 0, None);
    if status.max_keys.is_some() {
        // The counts of a pattern's keys are reported once their group is written.
        status.totals = crate::limiter::Totals::default();
    }
    with_denials(status)
}

fn with_denials(mut status: Status) -> Status {
    status.live = None;
    if let Some(slots) = &mut status.slots {
        let bare = |hold: &OpenHold| OpenHold { id: String::new(), ..hold.clone() };
        let mut holds: Vec<OpenHold> = slots.holds.iter().map(bare).collect();
        // Numbers tell of the order only within one lane.
        holds.sort_by_key(|hold| (hold.at, hold.until, hold.cost));
        slots.holds = holds.into();
    }
    status
}

/// A status without what is told of a key only until it is swept: an open hold of an earlier key of its name may keep
/// it, but not in a snapshot.
fn counting(status: Option<Status>) -> Option<Status> {
    let mut status = status?;
    if status.source == Origin::Exact {
        return Some(with_denials(status));
    }
    if status.used == Some(0) || status.slots.is_some() {
        (status.totals, status.last_allowed_at, status.last_reset_at) = Default::default();
    }
    let is_kept = status.source != Origin::Request || status.used != Some(0);
    is_kept.then(|| seen(status))
}

fn edits_patterns(op: &Op) -> bool {
    match op {
        Op::Configure(key, ..) | Op::Remove(key) => *key >= LITERAL,
        Op::Several(several) | Op::Apply(several) => several.iter().any(|(key, _)| *key >= LITERAL),
        _ => false,
    }
}

/// What the records are kept in.
#[derive(Default)]
struct Records {
    records: HashMap<Name, (u64, Saved)>,
    versions: u64,
    numbers: u64,
    counted: HashMap<u64, [u64; 4]>,
    /// Whether what may vanish does.
    vanishes: bool,
}

impl Records {
    fn get(&mut self, name: &Name, now: Micros) -> Option<(u64, Saved)> {
        let gone = |(_, saved): &(u64, Saved)| saved.until.is_some_and(|until| until <= now);
        if self.vanishes && self.records.get(name).is_some_and(gone) {
            self.records.remove(name);
        }
        self.records.get(name).cloned()
    }
}

struct Lane {
    scratch: Scratch,
    known: HashMap<Name, Option<u64>>,
    asker: Asker,
    clock: Clock,
}

impl Lane {
    fn new(clock: &Clock) -> Lane {
        let scratch = Scratch::new(clock.clone(), &IDENTITY, 1_000_000, 1_000_000);
        Lane { scratch, known: HashMap::new(), asker: Asker::default(), clock: clock.clone() }
    }

    fn load(&mut self, records: &mut Records, name: &Name) {
        let found = records.get(name, self.clock.now());
        self.scratch.load(name, found.as_ref().map(|(_, saved)| &*saved.record)).unwrap();
        self.known.insert(name.clone(), found.map(|(version, _)| version));
        for (id, totals) in &records.counted {
            self.scratch.set_counted(*id, *totals);
        }
    }

    /// Runs operations until nothing is missing. What an incomplete operation did is undone. Where patterns are missing
    /// all are run again, as the copies of what they were decided on go.
    fn decide(&mut self, records: &mut Records, holds: &[String], ops: &[Op]) -> (Vec<String>, Looked, Vec<String>) {
        let mut tries = 0;
        loop {
            if let Some(decided) = self.try_decide(records, holds, ops) {
                return decided;
            }
            tries += 1;
            assert!(tries < 10, "{ops:?} find newer patterns again and again");
        }
    }

    fn try_decide(
        &mut self,
        records: &mut Records,
        holds: &[String],
        ops: &[Op],
    ) -> Option<(Vec<String>, Looked, Vec<String>)> {
        let mut group = Looked::default();
        let mut answers = Vec::new();
        self.asker.holds = holds.to_vec();
        for op in ops {
            let before = self.asker.clone();
            let mut tries = 0;
            loop {
                for (id, totals) in &records.counted {
                    self.scratch.set_counted(*id, *totals);
                }
                // Under `unlimited` a hold counts on a key that is there, if only because it was not swept.
                self.scratch.core().sweep_round();
                self.scratch.begin();
                let answer = self.asker.ask(self.scratch.limiter(), op);
                let looked = self.scratch.end();
                if looked.is_complete() {
                    group.join(looked);
                    answers.push(answer);
                    break;
                }
                tries += 1;
                assert!(tries < 10, "{op:?} is never complete: {looked:?}");
                self.asker = before.clone();
                let is_led_away = looked.missing.contains(&Name::Patterns) && !group.touched.is_empty();
                if is_led_away {
                    group.touched.extend(looked.missing);
                    self.load_all(records, &group);
                    return None;
                }
                for name in &looked.missing {
                    self.load(records, name);
                }
                if looked.wants_numbers {
                    self.scratch.set_hold_numbers(records.numbers..records.numbers + 3);
                    records.numbers += 3;
                }
            }
        }
        Some((answers, group, self.asker.holds.clone()))
    }

    /// Loads all that a group has touched.
    fn load_all(&mut self, records: &mut Records, group: &Looked) {
        let mut names = group.touched.clone();
        names.sort_by_key(|name| *name != Name::Patterns);
        names.iter().for_each(|name| self.load(records, name));
    }

    /// Compares and writes a group. Whether nobody was faster.
    fn write(&mut self, records: &mut Records, group: &Looked) -> bool {
        let now = self.clock.now();
        let save = |name: &Name| self.scratch.save(name).map(|saved| (name.clone(), saved));
        let saved = group.changed.iter().map(save).collect::<Result<Vec<_>>>().unwrap();
        let is_known = |name: &Name| {
            let known = self.known.get(name).copied().flatten();
            known == records.get(name, now).map(|(version, _)| version)
        };
        let mut names = group.touched.iter();
        if !names.all(is_known) {
            self.load_all(records, group);
            return false;
        }
        for (name, saved) in saved {
            records.versions += 1;
            let version = saved.as_ref().map(|_| records.versions);
            self.known.insert(name.clone(), version);
            match saved {
                Some(saved) => records.records.insert(name, (records.versions, saved)),
                None => records.records.remove(&name),
            };
        }
        for (id, more) in &group.counted {
            let counted = records.counted.entry(*id).or_default();
            counted.iter_mut().zip(more).for_each(|(counted, more)| *counted += more);
        }
        self.scratch.won(group);
        true
    }
}

struct World {
    _dir: tempfile::TempDir,
    clock: Clock,
    local: Limiter,
    asker: Asker,
    records: Records,
    lanes: Vec<Lane>,
    /// Ids of the holds of the lanes, as those of the local limiter.
    holds: Vec<String>,
}

type Tested = std::result::Result<(), TestCaseError>;

impl World {
    fn new(vanishes: bool) -> World {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let local = Limiter::open(
            dir.path(),
            crate::limiter::Options { sync: crate::limiter::SyncMode::Relaxed, ..options(&clock) },
        )
        .unwrap();
        let records = Records { vanishes, numbers: 1, ..Records::default() };
        let lanes = (0..LANES).map(|_| Lane::new(&clock)).collect();
        World { _dir: dir, clock, local, asker: Asker::default(), records, lanes, holds: Vec::new() }
    }

    /// A lane runs a group; with another lane next to it, if there is one.
    fn run(&mut self, lane: usize, ops: &[Op], race: Option<&(usize, Op)>) -> Tested {
        let before = self.holds.clone();
        let mut decided = self.lanes[lane].decide(&mut self.records, &self.holds, ops);
        if let Some((other, op)) = race.filter(|(other, _)| *other != lane) {
            self.run(*other, std::slice::from_ref(op), None)?;
        }
        let mut tries = 0;
        let mut is_stale = self.holds != before;
        while is_stale || !self.lanes[lane].write(&mut self.records, &decided.1) {
            if std::mem::take(&mut is_stale) {
                // The other has made a hold, which this may mean now.
                self.lanes[lane].load_all(&mut self.records, &decided.1);
            }
            tries += 1;
            prop_assert!(tries < 6, "with nobody beside it the group is not written");
            decided = self.lanes[lane].decide(&mut self.records, &self.holds, ops);
        }
        let (answers, group, holds) = decided;
        self.holds = holds;
        for (op, answer) in ops.iter().zip(answers) {
            self.local.core.sweep_round();
            prop_assert_eq!(&answer, &self.asker.ask(&self.local, op), "lane {} {:?}", lane, op);
        }
        prop_assert_eq!(self.asker.holds.len(), self.holds.len());
        if group.changed.contains(&Name::Patterns) {
            self.walk(lane)?;
        }
        Ok(())
    }

    /// What the owner does after an edit of patterns: each key that one of them may serve is written again.
    fn walk(&mut self, lane: usize) -> Tested {
        let names: Vec<Name> =
            self.records.records.keys().filter(|name| matches!(name, Name::Key(_))).cloned().collect();
        for name in names {
            self.write_again(lane, name)?;
        }
        Ok(())
    }

    fn write_again(&mut self, lane: usize, name: Name) -> Tested {
        let lane = &mut self.lanes[lane];
        for _ in 0..3 {
            // The first time the record may know of newer patterns.
            for missing in [&name, &Name::Patterns, &name] {
                if !lane.scratch.is_loaded(missing) {
                    lane.load(&mut self.records, missing);
                }
            }
            let changed = vec![name.clone()];
            let group = Looked { touched: vec![name.clone(), Name::Patterns], changed, ..Looked::default() };
            if lane.write(&mut self.records, &group) {
                return Ok(());
            }
        }
        prop_assert!(false, "{:?} can't be written", name);
        Ok(())
    }

    fn flush(&mut self) -> Tested {
        self.sweep();
        for lane in 0..LANES {
            for name in self.lanes[lane].scratch.unsaved_denials() {
                self.write_again(lane, name)?;
            }
            prop_assert_eq!(self.lanes[lane].scratch.unsaved_denials(), Vec::new());
        }
        for key in KEYS {
            let is_kept = |status: &Status| status.source == Origin::Exact;
            let told = |status: Status| if is_kept(&status) { with_denials(status) } else { seen(status) };
            let expected = self.local.status(key).unwrap().map(told);
            for lane in 0..LANES {
                let found = self.look(lane, key)?.map(told);
                prop_assert_eq!(&found, &expected, "lane {} {}", lane, key);
            }
        }
        Ok(())
    }

    /// The state of a key, by a lane.
    fn look(&mut self, lane: usize, key: &str) -> std::result::Result<Option<Status>, TestCaseError> {
        let lane = &mut self.lanes[lane];
        for _ in 0..8 {
            for (id, totals) in &self.records.counted {
                lane.scratch.set_counted(*id, *totals);
            }
            lane.scratch.begin();
            let status = lane.scratch.limiter().status(key).unwrap();
            let looked = lane.scratch.end();
            prop_assert!(looked.changed.is_empty());
            if !looked.is_complete() {
                looked.missing.iter().for_each(|name| lane.load(&mut self.records, name));
            } else if lane.write(&mut self.records, &looked) {
                return Ok(status);
            }
        }
        prop_assert!(false, "{} can't be looked at", key);
        Ok(None)
    }

    /// What all records of a limiter say: the state of each key by a new lane.
    fn records_of(&self, limiter: &Limiter) -> std::result::Result<(Lane, Records), TestCaseError> {
        let mut records = Records { numbers: 1 << 40, ..Records::default() };
        read_records(limiter, &mut |name, saved| {
            records.versions += 1;
            let version = records.versions;
            assert!(records.records.insert(name, (version, saved)).is_none());
            Ok(())
        })
        .unwrap();
        Ok((Lane::new(&self.clock), records))
    }

    /// The records of the local limiter are what a lane knows, those of the lanes are a data directory, and that is
    /// records again.
    fn export(&mut self) -> Tested {
        prop_assert_eq!(identity(&self.local), self.local.core.directory);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exported");
        let mut names: Vec<Name> = self.records.records.keys().cloned().collect();
        names.sort_by_key(|name| (*name != Name::Patterns, matches!(name, Name::Key(_)), name.clone()));
        let counted: Vec<(u64, [u64; 4])> = self.records.counted.iter().map(|(id, totals)| (*id, *totals)).collect();
        let mut records = names.into_iter().map(|name| {
            let (_, saved) = &self.records.records[&name];
            let record = saved.record.clone();
            let record = if name == Name::Patterns { with_counted(&record, &counted)? } else { record };
            Ok((name, record))
        });
        write_directory(&path, &self.clock, &IDENTITY, &mut records).unwrap();
        let again = write_directory(&path, &self.clock, &IDENTITY, &mut std::iter::empty());
        prop_assert_eq!(again.unwrap_err().kind(), crate::error::Kind::InvalidArgument);
        let exported = Limiter::open(&path, options(&self.clock)).unwrap();
        prop_assert_eq!(identity(&exported), IDENTITY);
        for limiter in [&self.local, &exported] {
            let (mut lane, mut records) = self.records_of(limiter)?;
            for key in KEYS {
                let expected = counting(self.local.status(key).unwrap());
                prop_assert_eq!(&counting(limiter.status(key).unwrap()), &expected, "{}", key);
                let ops = [Op::Status(KEYS.iter().position(|known| known == key).unwrap())];
                let (answers, ..) = lane.decide(&mut records, &[], &ops);
                let seen = limiter.status(key).unwrap().map(seen);
                prop_assert_eq!(&answers[0], &format!("{seen:?}"), "{}", key);
            }
        }
        // Holds go on, by the ids that they have.
        for (ours, theirs) in self.asker.holds.iter().zip(&self.holds) {
            let [ours, theirs] = [(&self.local, ours), (&exported, theirs)].map(|(limiter, id)| {
                limiter
                    .settle(id, Cost::Units(1))
                    .map(|settled| (settled.late, settled.results.len()))
                    .map_err(|error| error.kind())
            });
            prop_assert_eq!(ours, theirs);
        }
        for key in KEYS {
            let [ours, theirs] = [&self.local, &exported].map(|limiter| counting(limiter.status(key).unwrap()));
            prop_assert_eq!(ours, theirs, "{} after its holds were settled", key);
        }
        Ok(())
    }

    /// What counts no more goes everywhere at once.
    fn sweep(&mut self) {
        self.local.core.sweep_round();
        for lane in &self.lanes {
            lane.scratch.core().sweep_round();
        }
    }

    fn compare(&mut self) -> Tested {
        self.sweep();
        for key in KEYS {
            let expected = self.local.status(key).unwrap().map(seen);
            let found = self.look(0, key)?.map(seen);
            prop_assert_eq!(&found, &expected, "{}", key);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Tested {
        match step {
            // An edit of patterns is a group by itself: what is edited before its keys were gone through is as one
            // edit.
            Step::Run(lane, ops, race) if ops.iter().any(edits_patterns) => {
                ops.chunks(1).try_for_each(|op| self.run(*lane, op, race.as_ref()))?;
            }
            Step::Run(lane, ops, race) => self.run(*lane, ops, race.as_ref())?,
            Step::Advance(by) => self.clock.advance(Duration::from_micros(*by)),
            Step::Flush => self.flush()?,
            Step::Sweep => self.sweep(),
            Step::Forget(lane) => {
                let Lane { scratch, known, .. } = &mut self.lanes[*lane];
                scratch.forget_all();
                known.retain(|name, _| scratch.is_loaded(name));
            }
        }
        self.compare()
    }
}

/// How many histories; more with PROPTEST_CASES.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn scratch_limiters_in_turn_answer_as_one_limiter(steps in steps(), vanishes in any::<bool>()) {
        let mut world = World::new(vanishes);
        for step in &steps {
            world.step(step)?;
        }
        world.flush()?;
        world.export()?;
    }
}
