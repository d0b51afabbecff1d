//! Rounds: what is told is what is spent, whatever the store does.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::lanes::job::{Answer, Job};
use super::super::lanes::state::{Mode, Round};
use super::super::names;
use super::fake::{Fake, Fault};
use crate::clock::Clock;
use crate::engine::interface::Operation;
use crate::error::{Error, Kind, Result};
use crate::limiter::scratch::Scratch;
use crate::limiter::{Decision, Item, Limiter, Status};

/// A server: a round over the store.
struct Node {
    round: Round<Fake>,
    left: Vec<Job>,
}

type Cell<T> = Arc<Mutex<Option<T>>>;

impl Node {
    fn new(store: &Fake, clock: &Clock) -> Node {
        let scratch = Scratch::new(clock.clone(), &[7; 16], 1000, 1000);
        Node { round: Round::new(scratch, store.clone(), Mode::All), left: Vec::new() }
    }

    /// Queues an operation. Returns where its result and its outcome will be.
    fn ask<T: Send + 'static>(
        &mut self,
        mut operation: impl FnMut(&Limiter) -> T + Send + 'static,
    ) -> (Cell<T>, Cell<Result<()>>) {
        let (result, outcome): (Cell<T>, Cell<Result<()>>) = Default::default();
        let (into, told) = (Arc::clone(&result), Arc::clone(&outcome));
        let operation: Operation = Box::new(move |limiter| *into.lock().unwrap() = Some(operation(limiter)));
        let done = Box::new(move |done| assert!(told.lock().unwrap().replace(done).is_none(), "told twice"));
        let deadline = Instant::now() + Duration::from_secs(2);
        self.left.push(Job { operation, answer: Answer::new(done), deadline, losses: 0, slot: None });
        (result, outcome)
    }

    /// One round.
    fn round(&mut self) {
        let jobs = std::mem::take(&mut self.left);
        self.left = self.round.run(jobs);
    }

    /// As many rounds as it takes for one operation.
    fn run<T: Send + 'static>(&mut self, operation: impl FnMut(&Limiter) -> T + Send + 'static) -> Result<T> {
        let (result, outcome) = self.ask(operation);
        while !self.left.is_empty() {
            self.round();
        }
        let outcome = outcome.lock().unwrap().take().unwrap();
        outcome.map(|()| result.lock().unwrap().take().unwrap())
    }

    fn configure(&mut self, key: &'static str, limit: &'static str) -> bool {
        self.run(move |limiter| limiter.configure(key, limit.parse()?)).unwrap().unwrap()
    }

    fn check(&mut self, key: &'static str) -> Result<Decision> {
        self.run(move |limiter| limiter.check(key, 1)).and_then(|decided| decided)
    }

    fn status(&mut self, key: &'static str) -> Option<Status> {
        self.run(move |limiter| limiter.status(key)).unwrap().unwrap()
    }
}

fn nodes<const N: usize>() -> (Fake, Clock, [Node; N]) {
    let (store, clock) = (Fake::default(), Clock::manual(1_700_000_000_000_000));
    let nodes = std::array::from_fn(|_| Node::new(&store, &clock));
    (store, clock, nodes)
}

#[test]
fn one_check_goes_through() {
    let (store, _, [mut node]) = nodes();
    assert_eq!(node.check("a").unwrap_err().kind(), Kind::LimitNotConfigured);
    assert!(node.configure("a", "3/1h"));
    assert!(!node.configure("a", "3/1h"));
    for left in [2, 1, 0] {
        let decision = node.check("a").unwrap();
        assert_eq!((decision.allowed, decision.remaining), (true, Some(left)));
    }
    assert!(!node.check("a").unwrap().allowed);
    assert!(store.shelf().records.contains_key(&b"flint:a"[..]));
    assert_eq!(store.shelf().lists[&names::CONFIGURED].len(), 1);
}

#[test]
fn two_servers_spend_from_one_limit() {
    let (store, _, [mut one, mut two]) = nodes();
    one.configure("a", "5/1h fixed_window_counter");
    let mut allowed = 0;
    for _ in 0..5 {
        allowed += u64::from(one.check("a").unwrap().allowed) + u64::from(two.check("a").unwrap().allowed);
    }
    assert_eq!(allowed, 5);
    assert_eq!([one.status("a"), two.status("a")].map(|status| status.unwrap().used), [Some(5); 2]);
    // What was known already takes one exchange, and no fetch.
    let [fetches, exchanges] = store.calls();
    two.check("a").unwrap();
    assert_eq!(store.calls(), [fetches, exchanges + 1]);
}

/// What another server has changed since is fetched first, once that was found to be so often: an attempt that loses
/// costs more.
#[test]
fn servers_in_turn_at_many_keys_fetch_what_they_check() {
    const KEYS: usize = 24;
    let (store, _, [mut one, mut two]) = nodes();
    let keys: [&'static str; KEYS] = std::array::from_fn(|n| &*format!("key:{n}").leak());
    keys.iter().for_each(|key| assert!(one.configure(key, "100/1h fixed_window_counter")));
    let round = |node: &mut Node| {
        let [fetches, exchanges] = store.calls();
        keys.iter().for_each(|key| assert!(node.check(key).unwrap().allowed));
        let now = store.calls();
        [now[0] - fetches, now[1] - exchanges]
    };
    for _ in 0..4 {
        round(&mut one);
        round(&mut two);
    }
    // Some are not fetched, to see whether that is still so.
    let [fetches, exchanges] = round(&mut one);
    assert!(fetches >= KEYS - 4 && exchanges <= KEYS + 4, "{fetches} fetches, {exchanges} attempts");
    for _ in 0..40 {
        round(&mut two);
    }
    assert_eq!(round(&mut two), [0, KEYS], "nobody else writes any more");
    assert!(keys.iter().all(|key| one.status(key).unwrap().used == Some(50)));
}

#[test]
fn operations_of_a_round_share_an_exchange() {
    let (store, _, [mut node]) = nodes();
    node.configure("a", "10/1h");
    node.configure("b", "10/1h");
    let asked: Vec<_> =
        (0..30).map(|n| node.ask(move |limiter| limiter.check(if n % 3 == 0 { "b" } else { "a" }, 1))).collect();
    let [_, before] = store.calls();
    node.round();
    assert_eq!((store.calls()[1], node.left.len()), (before + 1, 0));
    let allowed = asked.iter().filter(|(result, outcome)| {
        assert!(outcome.lock().unwrap().as_ref().unwrap().is_ok());
        result.lock().unwrap().as_ref().unwrap().as_ref().unwrap().allowed
    });
    assert_eq!(allowed.count(), 20);
}

#[test]
fn what_lost_runs_again_and_what_won_is_answered() {
    let (_, _, [mut one, mut two]) = nodes();
    one.configure("a", "2/1h");
    one.configure("b", "2/1h");
    one.check("a").unwrap();
    two.check("a").unwrap();
    // `one` knows a version of `a` that is not the store's.
    let (a, _) = one.ask(|limiter| limiter.check("a", 1));
    let (b, told) = one.ask(|limiter| limiter.check("b", 1));
    one.round();
    assert_eq!(one.left.len(), 1);
    assert!(told.lock().unwrap().is_some() && b.lock().unwrap().as_ref().unwrap().as_ref().unwrap().allowed);
    one.round();
    assert!(one.left.is_empty());
    assert!(!a.lock().unwrap().as_ref().unwrap().as_ref().unwrap().allowed);
}

#[test]
fn several_keys_are_spent_together_or_not_at_all() {
    let (_, _, [mut one, mut two]) = nodes();
    for key in ["a", "b", "c"] {
        one.configure(key, "3/1h");
    }
    // `two` has a copy of one of them only, and then an old one.
    two.check("a").unwrap();
    one.check("b").unwrap();
    let all = |limiter: &Limiter| limiter.check_all(&[("a", 1), ("b", 1), ("c", 1)]);
    assert!(two.run(all).unwrap().unwrap().allowed);
    assert!(one.run(all).unwrap().unwrap().allowed);
    assert!(!two.run(all).unwrap().unwrap().allowed);
    for (key, used) in [("a", 3), ("b", 3), ("c", 2)] {
        assert_eq!(one.status(key).unwrap().used, Some(used), "{key}");
        assert_eq!(two.status(key).unwrap().used, Some(used), "{key}");
    }
}

#[test]
fn what_is_not_loaded_is_fetched_at_once() {
    let (store, _, [mut one, mut two]) = nodes();
    let keys: Vec<String> = (0..50).map(|key| format!("key:{key}")).collect();
    for key in &keys {
        let key = key.clone();
        one.run(move |limiter| limiter.configure(&key, "3/1h".parse()?)).unwrap().unwrap();
    }
    let [before, _] = store.calls();
    let all = two.run(move |limiter| limiter.check_all(&keys.iter().map(|key| (&**key, 1)).collect::<Vec<_>>()));
    assert!(all.unwrap().unwrap().allowed);
    // The patterns come first.
    let [fetches, _] = store.calls();
    assert!(fetches <= before + 2, "{}", fetches - before);
}

#[test]
fn errors_say_whether_anything_may_be_spent() {
    let (store, _, [mut node]) = nodes();
    node.configure("a", "5/1h");
    node.check("a").unwrap();
    for (fault, kind) in [
        (Fault::Away, Kind::StoreUnavailable),
        (Fault::Unsaid, Kind::OutcomeUnknown),
        (Fault::Unheard, Kind::OutcomeUnknown),
    ] {
        store.shelf().faults.push_back(fault);
        assert_eq!(node.check("a").unwrap_err().kind(), kind);
    }
    // Only the one that was done and not heard was spent.
    assert_eq!(node.status("a").unwrap().used, Some(2));
    for _ in 0..3 {
        node.check("a").unwrap();
    }
    // A denial spends nothing, so that nobody can say whether it was made does not matter.
    store.shelf().faults.push_back(Fault::Unsaid);
    assert_eq!(node.check("a").unwrap_err().kind(), Kind::StoreUnavailable);
}

#[test]
fn denials_are_written_later_and_counted_once() {
    let (_, _, [mut one, mut two]) = nodes();
    one.configure("a", "1/1h");
    one.check("a").unwrap();
    for _ in 0..3 {
        assert!(!one.check("a").unwrap().allowed);
    }
    two.check("a").unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    one.round.write_denials(deadline).unwrap();
    two.round.write_denials(deadline).unwrap();
    one.round.write_denials(deadline).unwrap();
    two.round.write_denials(deadline).unwrap();
    for node in [&mut one, &mut two] {
        let totals = node.status("a").unwrap().totals;
        assert_eq!((totals.allowed, totals.denied), (1, 4));
    }
    // One that lost the race and was denied in the end is one denial.
    one.run(|limiter| limiter.reset("a")).unwrap().unwrap();
    assert!(two.check("a").unwrap().allowed);
    assert!(!one.check("a").unwrap().allowed);
    one.round.write_denials(deadline).unwrap();
    assert!(!two.run(|limiter| limiter.peek(Item::from(("a", 1)))).unwrap().unwrap().allowed);
    assert_eq!(two.status("a").unwrap().totals.denied, 5);
}

#[test]
fn a_panic_ends_one_operation_only() {
    let (_, _, [mut node]) = nodes();
    node.configure("a", "5/1h");
    let (bad, outcome) = node.ask(|limiter| {
        limiter.check("a", 2).unwrap();
        assert!(limiter.status("a").unwrap().is_none(), "a defect");
    });
    let (good, _) = node.ask(|limiter| limiter.check("a", 1));
    node.round();
    assert_eq!(outcome.lock().unwrap().take().unwrap().unwrap_err().kind(), Kind::Internal);
    assert!(bad.lock().unwrap().is_none());
    assert_eq!(good.lock().unwrap().take().unwrap().unwrap().remaining, Some(4));
    assert_eq!(node.status("a").unwrap().used, Some(1));
}

#[test]
fn patterns_are_the_same_everywhere_at_once() {
    let (store, _, [mut one, mut two]) = nodes();
    assert!(one.configure("user:*", "2/1h"));
    assert!(two.check("user:1").unwrap().allowed);
    assert!(one.check("user:1").unwrap().allowed);
    assert!(!two.check("user:1").unwrap().allowed);
    // A key that was looked at and not spent has no record.
    assert_eq!(two.status("user:9").unwrap().remaining, Some(2));
    assert!(!store.shelf().records.contains_key(&b"flint:user:9"[..]));
    assert!(!one.configure("user:*", "3/1h"));
    assert!(two.check("user:1").unwrap().allowed);
    assert!(!two.check("user:1").unwrap().allowed);
    // Keys by a pattern do not tie each other to one attempt.
    let asked: Vec<_> = (2..6).map(|n| one.ask(move |limiter| limiter.check(&format!("user:{n}"), 1))).collect();
    one.round();
    assert!(one.left.is_empty() && asked.len() == 4);
    assert_eq!(store.shelf().lists[&names::LIVE].len(), 5);
    two.run(|limiter| limiter.remove("user:*")).unwrap().unwrap();
    assert_eq!(one.check("user:1").unwrap_err().kind(), Kind::LimitNotConfigured);
    // A pattern of the same text is another one: nothing is left of what was spent.
    assert!(two.configure("user:*", "2/1h"));
    assert_eq!(one.check("user:1").unwrap().remaining, Some(1));
}

/// An operation of a round that finds newer patterns has them loaded, and with that others of the round lose what they
/// were decided on.
#[test]
fn patterns_that_are_loaded_within_a_round_cost_no_check_of_it() {
    let (_, _, [mut one, mut two]) = nodes();
    one.configure("user:*", "9/1h");
    one.configure("a", "9/1h");
    for key in ["user:1", "a"] {
        two.check(key).unwrap();
    }
    // `two` has copies of these keys and of the patterns, which are not those of now.
    one.run(|limiter| limiter.remove("user:*")).unwrap().unwrap();
    one.configure("*", "7/1h");
    one.check("user:2").unwrap();
    let asked: Vec<_> = ["a", "user:1", "user:2", "user:1", "a"]
        .map(|key| two.ask(move |limiter| limiter.check(key, 1)))
        .into_iter()
        .collect();
    while !two.left.is_empty() {
        two.round();
    }
    let left = asked.iter().map(|(result, outcome)| {
        outcome.lock().unwrap().take().unwrap().unwrap();
        result.lock().unwrap().take().unwrap().unwrap().remaining.unwrap()
    });
    assert_eq!(left.collect::<Vec<_>>(), [7, 6, 5, 5, 6]);
    for (key, used) in [("a", 3), ("user:1", 2), ("user:2", 2)] {
        assert_eq!([one.status(key), two.status(key)].map(|status| status.unwrap().used), [Some(used); 2], "{key}");
    }
}

#[test]
fn holds_are_settled_by_any_server() {
    let (store, clock, [mut one, mut two]) = nodes();
    one.configure("tokens", "100/1h fixed_window_counter");
    one.run(|limiter| limiter.configure("gpu", "slots=2".parse()?)).unwrap().unwrap();
    let hold = |limiter: &Limiter| {
        let items = [Item::from(("tokens", 40)), Item::from(("gpu", 1))];
        limiter.hold_all(&items, Duration::from_secs(60))
    };
    let first = one.run(hold).unwrap().unwrap();
    let second = two.run(hold).unwrap().unwrap();
    let id = first.hold.unwrap().id;
    assert_ne!(id, second.hold.as_ref().unwrap().id);
    // No slot is left, and a hold that was denied spends nothing.
    assert!(one.run(hold).unwrap().unwrap().hold.is_none());
    assert_eq!(one.status("tokens").unwrap().used, Some(80));
    assert_eq!(store.shelf().lists[&names::HOLDS].len(), 2);
    assert_eq!(store.shelf().lists[&names::OPEN].len(), 2);
    let settle = id.clone();
    let settled = two.run(move |limiter| limiter.settle(&settle, crate::Cost::Units(10))).unwrap().unwrap();
    assert_eq!((settled.late, settled.results.len()), (false, 2));
    assert_eq!([names::OPEN, names::HOLDS].map(|list| store.shelf().lists[&list].len()), [1, 2]);
    assert_eq!(one.status("tokens").unwrap().used, Some(50));
    assert_eq!(one.status("gpu").unwrap().remaining, Some(1));
    let again = id.clone();
    let kind = one.run(move |limiter| limiter.settle(&again, crate::Cost::Units(11))).unwrap().unwrap_err().kind();
    assert_eq!(kind, Kind::HoldSettled);
    // The other one runs out for all.
    clock.advance(Duration::from_secs(61));
    assert_eq!(one.status("gpu").unwrap().remaining, Some(2));
    let other = second.hold.unwrap().id;
    let kind = one.run(move |limiter| limiter.renew(&other, None)).unwrap().unwrap_err().kind();
    assert_eq!(kind, Kind::HoldExpired);
    let kind = one.run(|limiter| limiter.renew("0", None)).unwrap().unwrap_err().kind();
    assert_eq!(kind, Kind::HoldNotFound);
}

#[test]
fn a_damaged_record_fails_only_its_own_operations() {
    let (store, _, [mut one, mut two]) = nodes();
    one.configure("a", "5/1h");
    one.configure("b", "5/1h");
    if let Some((_, record)) = store.shelf().records.get_mut(&b"flint:a"[..]) {
        record.truncate(3);
    }
    let (a, outcome) = two.ask(|limiter| limiter.check("a", 1));
    let (b, _) = two.ask(|limiter| limiter.check("b", 1));
    two.round();
    let error: Error = outcome.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains('a'), "{error}");
    drop(a);
    assert!(b.lock().unwrap().as_ref().unwrap().as_ref().unwrap().allowed);
}
