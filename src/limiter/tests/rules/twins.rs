//! Two limiters get the same history. One of them is swept, compacted, closed and opened again, and crashes; the other
//! keeps all it ever saw in memory. Nothing that they answer may differ.

use std::cell::Cell;

use proptest::prelude::*;

use crate::limiter::tests::*;

#[derive(Debug, Clone)]
enum Op {
    Check(usize, u64, Option<usize>),
    All(Vec<(usize, u64, Option<usize>)>),
    Many(Vec<(usize, u64, Option<usize>)>),
    Configure(usize, usize, Option<u64>),
    Several(Vec<(usize, usize)>),
    Remove(usize),
    RemovePrefix(usize),
    Reset(usize),
    ResetPrefix(usize),
    Advance(u64),
    Sweep,
    Compact,
    Reopen,
    Crash,
}

const PREFIXES: &[&str] = &["user:", "user:1", "o", "ip:"];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let limit = || 0..RATES.len();
    let item = move || (0..LITERAL, 1..4u64, prop::option::weighted(0.5, limit()));
    let op = prop_oneof![
        12 => item().prop_map(|(key, cost, brought)| Op::Check(key, cost, brought)),
        3 => prop::collection::vec(item(), 1..4).prop_map(Op::All),
        2 => prop::collection::vec(item(), 1..5).prop_map(Op::Many),
        4 => (0..KEYS.len(), limit()).prop_map(|(key, limit)| Op::Configure(key, limit, None)),
        2 => (0..KEYS.len(), limit(), 1..120_000u64).prop_map(|(key, limit, ms)| Op::Configure(key, limit, Some(ms))),
        1 => prop::collection::vec((0..KEYS.len(), limit()), 1..4).prop_map(Op::Several),
        2 => (0..KEYS.len()).prop_map(Op::Remove),
        1 => (0..PREFIXES.len()).prop_map(Op::RemovePrefix),
        1 => (0..KEYS.len()).prop_map(Op::Reset),
        1 => (0..PREFIXES.len()).prop_map(Op::ResetPrefix),
        6 => prop_oneof![4 => 0..20_000_000u64, 1 => 0..90_000_000_000u64].prop_map(Op::Advance),
        4 => Just(Op::Sweep),
        1 => Just(Op::Compact),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..80)
}

fn parse(index: usize) -> Limit {
    RATES[index].parse().unwrap()
}

/// What an operation answers, in a form that can be compared.
#[derive(Debug, PartialEq)]
enum Answer {
    One(std::result::Result<Decision, String>),
    All(std::result::Result<AllDecision, String>),
    Many(Vec<std::result::Result<Decision, String>>),
    Done(std::result::Result<String, String>),
}

fn told<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| error.message().to_owned())
}

fn act(limiter: &Limiter, op: &Op) -> Answer {
    let limits: Vec<Limit> = (0..RATES.len()).map(parse).collect();
    let item = |(key, cost, brought): (usize, u64, Option<usize>)| match brought {
        Some(limit) => Item::new(KEYS[key]).with_cost(cost).with_limit(&limits[limit]),
        None => Item::new(KEYS[key]).with_cost(cost),
    };
    let items = |items: &[(usize, u64, Option<usize>)]| items.iter().copied().map(item).collect::<Vec<_>>();
    match op {
        Op::Check(key, cost, brought) => Answer::One(told(limiter.check_item(item((*key, *cost, *brought))))),
        Op::All(all) => Answer::All(told(limiter.check_all(&items(all)))),
        Op::Many(many) => Answer::Many(limiter.check_many(&items(many)).unwrap().into_iter().map(told).collect()),
        Op::Configure(key, limit, lasts) => {
            let setting = Setting::new(KEYS[*key], parse(*limit));
            let setting = match lasts {
                Some(ms) => setting.with_lasts(Duration::from_millis(*ms)),
                None => setting,
            };
            // Whether it is new is not the same where a key lives that could be swept.
            Answer::Done(told(limiter.configure_setting(&setting)).map(|created| created.to_string()))
        }
        Op::Several(several) => {
            let settings: Vec<Setting<'_>> =
                several.iter().map(|(key, limit)| Setting::new(KEYS[*key], parse(*limit))).collect();
            Answer::Done(told(limiter.configure_all(&settings)).map(|created| format!("{created:?}")))
        }
        Op::Remove(key) => Answer::Done(told(limiter.remove(KEYS[*key])).map(|()| String::new())),
        Op::RemovePrefix(prefix) => {
            Answer::Done(told(limiter.remove_prefix(PREFIXES[*prefix])).map(|removed| removed.to_string()))
        }
        Op::Reset(key) => Answer::Done(told(limiter.reset(KEYS[*key])).map(|()| String::new())),
        Op::ResetPrefix(prefix) => {
            Answer::Done(told(limiter.reset_prefix(PREFIXES[*prefix])).map(|reset| reset.to_string()))
        }
        _ => Answer::Done(Ok(String::new())),
    }
}

fn look(limiter: &Limiter) -> Vec<Option<Status>> {
    let status = |key: &&str| limiter.status(key).unwrap().map(|status| Status { live: None, ..status });
    KEYS.iter().map(status).collect()
}

fn sweep(limiter: &Limiter) {
    for shard in &limiter.core.shards {
        let mut table = shard.lock();
        while !limiter.core.sweep(&mut table, 7, limiter.core.clock.now()).ended {}
    }
}

/// Without the thread that sweeps by itself, which a test can't see.
fn open(dir: &Path, clock: &Clock) -> Limiter {
    Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(clock) }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sweeps_compactions_restarts_and_crashes_are_not_seen(ops in ops()) {
        let parent = tempfile::tempdir().unwrap();
        let (keeps, clock) = (parent.path().join("keeps"), Clock::manual(START));
        let copies = Cell::new(0);
        let mut dir = parent.path().join("moves");
        let (keeper, mut mover) = (open(&keeps, &clock), open(&dir, &clock));
        for (index, op) in ops.iter().enumerate() {
            match op {
                Op::Advance(by) => clock.advance(Duration::from_micros(*by)),
                Op::Sweep => sweep(&mover),
                Op::Compact => drop(mover.compact().unwrap()),
                Op::Reopen => {
                    drop(mover);
                    mover = open(&dir, &clock);
                }
                Op::Crash => {
                    // Denials may lag; everything else is there at once.
                    mover.flush().unwrap();
                    copies.set(copies.get() + 1);
                    let crashed = parent.path().join(copies.get().to_string());
                    copy(&dir, &crashed);
                    drop(mover);
                    dir = crashed;
                    mover = open(&dir, &clock);
                }
                _ => prop_assert_eq!(act(&mover, op), act(&keeper, op), "{}: {:?}", index, op),
            }
            prop_assert_eq!(look(&mover), look(&keeper), "after {}: {:?}", index, op);
        }
    }
}
