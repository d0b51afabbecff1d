//! A small bound on live keys: keys that find no room share one limit, which lives like a key. Which keys meet the
//! bound may depend on the sweep; nothing else may.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::history::{answered, decided};
use super::plain::{Home, Kept, Model};
use crate::clock::Micros;
use crate::limiter::tests::*;

const PATTERN: &str = "ip:*";
/// Most keys by the pattern, and by requests.
const MOST: [u64; 2] = [3, 2];
const LIMITS: [&str; 4] = ["4/1m", "6/10s burst=3", "5/1m fixed_window_counter", "3/10s, 9/1h sliding_window_log"];

#[derive(Debug, Clone)]
enum Op {
    /// Of a key that the pattern serves.
    Check(usize, u64),
    /// Of another key, with these values.
    Bring(usize, u64, usize),
    Edit(usize),
    Reset,
    /// In milliseconds.
    Advance(u64),
    Sweep,
    Compact,
    Reopen,
    Kill,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let limit = || 0..LIMITS.len();
    let op = prop_oneof![
        12 => (0..7usize, 1..4u64).prop_map(|(key, cost)| Op::Check(key, cost)),
        8 => (0..5usize, 1..4u64, 0..2usize).prop_map(|(key, cost, limit)| Op::Bring(key, cost, limit)),
        2 => limit().prop_map(Op::Edit),
        1 => Just(Op::Reset),
        4 => prop_oneof![0..15_000u64, 0..70_000u64].prop_map(Op::Advance),
        3 => Just(Op::Sweep),
        1 => Just(Op::Compact),
        1 => Just(Op::Reopen),
        1 => Just(Op::Kill),
    ];
    prop::collection::vec(op, 1..100)
}

fn limit_of(index: usize) -> Limit {
    LIMITS[index].parse().unwrap()
}

type Tested = std::result::Result<(), TestCaseError>;

struct Pair {
    parent: tempfile::TempDir,
    dir: PathBuf,
    clock: Clock,
    limiter: Option<Limiter>,
    model: Model,
    /// The shared limits, by the pattern or the values.
    shared: BTreeMap<String, Kept>,
    /// Keys that may be in memory, by what they live under: pattern or request.
    held: [BTreeSet<String>; 2],
    deaths: u32,
}

fn open(dir: &Path, clock: &Clock) -> Limiter {
    let options = Options { sync: SyncMode::Batch, ..options(clock) }.with_max_keys(MOST[1]);
    Limiter::open(dir, options).unwrap()
}

impl Pair {
    fn new() -> Pair {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("0");
        let clock = Clock::manual(START);
        let limiter = open(&dir, &clock);
        limiter.configure_setting(&Setting::new(PATTERN, limit_of(0)).with_max_keys(MOST[0])).unwrap();
        let mut model = Model::default();
        model.configure(PATTERN, &limit_of(0), None, START).unwrap();
        let (shared, held) = (BTreeMap::new(), <[BTreeSet<String>; 2]>::default());
        Pair { parent, dir, clock, limiter: Some(limiter), model, shared, held, deaths: 0 }
    }

    fn limiter(&self) -> &Limiter {
        self.limiter.as_ref().unwrap()
    }

    fn run(&mut self, op: Op) -> Tested {
        let now = self.clock.now();
        match op {
            Op::Check(key, cost) => self.check(&format!("ip:{key}"), cost, None)?,
            Op::Bring(key, cost, limit) => self.check(&format!("job-{key}"), cost, Some(&limit_of(limit)))?,
            Op::Edit(limit) => {
                self.model.configure(PATTERN, &limit_of(limit), None, now).unwrap();
                let setting = Setting::new(PATTERN, limit_of(limit)).with_max_keys(MOST[0]);
                self.limiter().configure_setting(&setting).unwrap();
            }
            Op::Reset => {
                self.model.reset(PATTERN, now);
                if let Some(kept) = self.shared.get_mut(PATTERN) {
                    kept.reset(now);
                }
                self.limiter().reset(PATTERN).unwrap();
            }
            Op::Advance(by) => self.clock.advance(Duration::from_millis(by)),
            Op::Sweep => {
                // A key whose denials are missing in the log stays until they are there.
                self.limiter().flush().unwrap();
                self.limiter().core.sweep_round();
                self.swept();
            }
            Op::Compact => {
                self.limiter().flush().unwrap();
                self.limiter().compact().unwrap();
                self.swept();
            }
            Op::Reopen => {
                self.limiter = None;
                self.clock = self.clock.restarted();
                self.limiter = Some(open(&self.dir, &self.clock));
                self.swept();
            }
            Op::Kill => {
                self.deaths += 1;
                let dir = self.parent.path().join(self.deaths.to_string());
                copy(&self.dir, &dir);
                self.dir = dir;
                self.clock = self.clock.restarted();
                self.limiter = Some(open(&self.dir, &self.clock));
                self.swept();
            }
        }
        Ok(())
    }

    /// All of which nothing counts are out of memory.
    fn swept(&mut self) {
        let now = self.clock.now();
        for held in &mut self.held {
            held.retain(|key| !self.model.is_gone(key, now));
        }
    }

    fn check(&mut self, key: &str, cost: u64, brought: Option<&Limit>) -> Tested {
        let now = self.clock.now();
        let item = Item { limit: brought, ..Item::new(key).with_cost(cost) };
        let answer = self.limiter().check_item(item);
        let by_request = usize::from(brought.is_some());
        let is_new = self.model.is_gone(key, now);
        if answer.as_ref().is_ok_and(|decision| decision.overflow) {
            prop_assert!(is_new, "a live key is never sent away");
            let held = self.held[by_request].iter().filter(|held| *held != key).count() as u64;
            prop_assert!(held >= MOST[by_request], "{} of {} keys", held, MOST[by_request]);
            let (expected, spent) = self.decide_shared(cost, brought, now);
            prop_assert_eq!(answered(answer.map(|decision| decided(&decision))), expected);
            self.shared.extend(spent);
            return Ok(());
        }
        let expected = self.model.check(key, cost, brought, now);
        let born = expected.as_ref().is_ok_and(|decided| decided.allowed);
        prop_assert_eq!(answered(answer.map(|decision| decided(&decision))), expected);
        if born && is_new {
            let others = self.held[by_request].iter().filter(|other| *other != key);
            let live = others.filter(|other| !self.model.is_gone(other, now)).count() as u64;
            prop_assert!(live < MOST[by_request], "{} of {} keys", live, MOST[by_request]);
        }
        if born {
            self.held[by_request].insert(key.to_owned());
        }
        Ok(())
    }

    /// What the shared limit decides, and what becomes of it.
    fn decide_shared(
        &self,
        cost: u64,
        brought: Option<&Limit>,
        now: Micros,
    ) -> (std::result::Result<super::plain::Decided, super::plain::Refused>, Option<(String, Kept)>) {
        let (text, limit, since) = match brought {
            Some(limit) => (limit.to_string(), limit.clone(), 0),
            None => {
                let (limit, since) = self.model.patterns[PATTERN].in_force(now);
                (PATTERN.to_owned(), limit.clone(), since)
            }
        };
        let home = if brought.is_some() { Home::Request } else { Home::Pattern(PATTERN.to_owned()) };
        let mut kept = self.shared.get(&text).cloned().unwrap_or_else(|| Kept::new(home.clone(), limit.clone()));
        if kept.limit != limit {
            let at = since.max(kept.last);
            kept.become_of(home, &limit, at);
        }
        // It is decided like a separate key.
        match kept.decide(cost, now) {
            Err(refused) => (Err(refused), None),
            Ok((decided, spent)) => (Ok(decided), spent.map(|kept| (text, kept))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn keys_beyond_the_bound_share_a_limit_that_lives_on(ops in ops()) {
        let mut pair = Pair::new();
        for op in ops {
            pair.run(op)?;
        }
    }
}

/// When in use it is reported, with the pattern and its bound.
#[test]
fn an_overflow_limit_in_use_is_a_problem_until_nothing_of_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let limiter = open(dir.path(), &clock);
    limiter.configure_setting(&Setting::new(PATTERN, limit_of(0)).with_max_keys(MOST[0])).unwrap();
    let brought = limit_of(2);
    for key in 0..MOST[0] {
        assert!(!limiter.check(&format!("ip:{key}"), 1).unwrap().overflow);
    }
    let report = limiter.report();
    assert_eq!((report.limits, report.patterns, report.live), (0, 1, MOST[0]));
    assert!(report.overflows.is_empty() && report.problems().is_empty(), "{report:?}");
    assert!(limiter.check("ip:more", 1).unwrap().overflow);
    for key in ["a", "b", "c"] {
        assert_eq!(limiter.check_item(Item::new(key).with_limit(&brought)).unwrap().overflow, key == "c");
    }
    let report = limiter.report();
    assert_eq!((report.limits, report.patterns, report.live), (0, 1, MOST[0] + MOST[1]));
    let problems = report.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("`ip:*`") && problem.contains("more than 3 live keys")));
    assert!(problems.iter().any(|problem| problem.contains("--max-keys") && problem.contains("more than 2 live keys")));
    // Neither is in a list.
    let listed: Vec<String> =
        limiter.list(Page::default().with_live(true)).unwrap().into_iter().map(|one| one.key).collect();
    assert_eq!(listed, ["a", "b", "ip:*", "ip:0", "ip:1", "ip:2"]);
    clock.advance(Duration::from_secs(60));
    limiter.flush().unwrap();
    limiter.core.sweep_round();
    let report = limiter.report();
    assert_eq!((report.live, report.problems()), (0, Vec::new()));
}
