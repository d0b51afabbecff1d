//! Tests of checks by a thread that must not wait.

use proptest::prelude::*;

use super::*;
use crate::store::Completion;

#[derive(Debug)]
pub struct Nobody;

impl Completion for Nobody {
    fn complete(&self, _: u64, _: bool) {}
}

fn no_completion() -> Arc<dyn Completion> {
    Arc::new(Nobody)
}

fn open(dir: &Path, keys: &[String]) -> Limiter {
    let limiter = Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(&Clock::manual(START)) }).unwrap();
    for key in keys {
        limiter.configure(key, limit(5, Algorithm::FixedWindowCounter)).unwrap();
    }
    limiter
}

/// What was decided can't be taken back, so a caller that must not wait has all shards before the first decision.
/// Checks allowed and denied.
fn decisions(limiter: &Limiter) -> (u64, u64) {
    let report = limiter.report();
    (report.allowed, report.denied)
}

#[test]
fn many_checks_are_refused_with_nothing_spent_whichever_shard_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    let limiter = open(dir.path(), &keys);
    let completion = no_completion();
    // One key is given twice, one is unknown, and one is not a key at all.
    let mut items: Vec<Item<'_>> = keys.iter().map(|key| Item::new(key).with_cost(2)).collect();
    items.extend(["key-3", "unknown", ""].map(Item::from));
    let before = all(&limiter);
    for key in &keys {
        let held = limiter.core.shards[shard_of(limiter.core.hash(key))].lock();
        let non_blocking = NonBlocking::new(&completion, 1);
        assert_eq!(limiter.check_many_for(&items, Some(&non_blocking)).unwrap_err().kind(), Kind::Overloaded);
        assert!(non_blocking.would_block() && !non_blocking.is_pending());
        drop(held);
        assert!(limiter.core.shards.iter().all(|shard| shard.0.try_lock().is_ok()), "no lock is kept");
    }
    assert_eq!(all(&limiter), before);
    assert_eq!(decisions(&limiter), (0, 0));
    let non_blocking = NonBlocking::new(&completion, 2);
    let results = limiter.check_many_for(&items, Some(&non_blocking)).unwrap();
    assert!(!non_blocking.would_block());
    let left: Vec<_> = results.iter().flatten().map(|decision| decision.remaining).collect();
    assert_eq!(left, [vec![Some(3); 20], vec![Some(2)]].concat());
    let errors: Vec<_> = results[21..].iter().map(|result| result.as_ref().unwrap_err().kind()).collect();
    assert_eq!(errors, [Kind::LimitNotConfigured, Kind::InvalidArgument]);
    limiter.flush().unwrap();
    assert_eq!(limiter.core.log().unwrap().queued_bytes(), 0, "all room is given back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whether a thread may wait makes no difference to what is decided.
    #[test]
    fn many_checks_are_decided_alike_by_whoever_may_wait_and_may_not(
        items in prop::collection::vec((0..9usize, 1..7u64), 1..150),
    ) {
        let keys: Vec<String> = (0..7).map(|key| format!("key-{key}")).collect();
        let named = |key: usize| ["", "unknown"].get(key).copied().unwrap_or_else(|| &keys[key - 2]);
        let items: Vec<Item<'_>> = items.into_iter().map(|(key, cost)| Item::new(named(key)).with_cost(cost)).collect();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [waits, does_not] = dirs.each_ref().map(|dir| open(dir.path(), &keys));
        let completion = no_completion();
        let results = does_not.check_many_for(&items, Some(&NonBlocking::new(&completion, 1))).unwrap();
        let expected = waits.check_many(&items).unwrap();
        for (result, expected) in results.iter().zip(&expected) {
            match (result, expected) {
                (Ok(result), Ok(expected)) => prop_assert_eq!(result, expected),
                (Err(result), Err(expected)) => prop_assert_eq!(result.message(), expected.message()),
                different => prop_assert!(false, "{:?}", different),
            }
        }
        prop_assert_eq!(results.len(), items.len());
        prop_assert_eq!(all(&does_not), all(&waits));
        prop_assert_eq!(decisions(&does_not), decisions(&waits));
    }
}
