//! Tests of listings: the same page whatever its parts, in bounded memory, while limits come and go.

use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limiter::Listing;

fn open(dir: &Path, clock: &Clock) -> Limiter {
    Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(clock) }).unwrap()
}

/// All of a listing as JSON, from parts of about these sizes in turn.
fn in_parts(mut listing: Listing, sizes: &[usize]) -> Vec<u8> {
    let (mut out, mut more, mut sizes) = (Vec::new(), true, sizes.iter().cycle());
    while more {
        let before = out.len();
        let about = *sizes.next().unwrap();
        more = listing.next_chunk(&mut out, about);
        assert!(out.len() > before, "every part has something in it");
        assert!(out.len() - before < about + 1024, "{} bytes instead of {about}", out.len() - before);
    }
    let whole = out.clone();
    assert!(!listing.next_chunk(&mut out, 100) && out == whole, "nothing comes after the end");
    out
}

#[derive(Debug, Clone)]
enum Op {
    Configure(String, u64),
    Check(String, u64),
    /// With its own limit.
    Bring(String, u64),
    Remove(String),
    Advance(u64),
}

/// All that a list can show, one after the other.
fn everything(limiter: &Limiter) -> Vec<Status> {
    limiter.list(Page::default().with_live(true)).unwrap()
}

fn key() -> impl Strategy<Value = String> {
    // Few letters, so that keys meet and one begins with another.
    "[aö:\"]{1,4}"
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (key(), 1..20u64).prop_map(|(key, rate)| Op::Configure(key, rate)),
        2 => ("[aö*]{1,3}", 1..20u64).prop_map(|(key, rate)| Op::Configure(key, rate)),
        4 => (key(), 1..12u64).prop_map(|(key, cost)| Op::Check(key, cost)),
        // Also of keys that are spelled like a pattern.
        4 => ("[aö*]{1,4}", 1..12u64).prop_map(|(key, cost)| Op::Bring(key, cost)),
        1 => key().prop_map(Op::Remove),
        1 => (0..40_000u64).prop_map(Op::Advance),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_page_is_the_same_in_parts_of_any_size(
        ops in prop::collection::vec(op(), 0..120),
        prefix in "[aö:\"]{0,2}",
        after in prop::option::of("[aö:\"]{0,4}"),
        most in prop::option::of(1..20usize),
        batch in (2..30usize, 1..100usize),
        sizes in prop::collection::vec(0..3000usize, 1..4),
        live in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let limiter = open(dir.path(), &clock);
        for op in ops {
            match op {
                Op::Configure(key, rate) => drop(limiter.configure(&key, limit(rate, Algorithm::TokenBucket)).unwrap()),
                Op::Check(key, cost) => drop(limiter.check(&key, cost)),
                Op::Bring(key, cost) => {
                    let brought = limit(9, Algorithm::FixedWindowCounter);
                    drop(limiter.check_item(Item::new(&key).with_cost(cost).with_limit(&brought)));
                }
                Op::Remove(key) => drop(limiter.remove(&key)),
                Op::Advance(by) => clock.advance_ms(by),
            }
        }
        // How many keys live under a pattern is reported as of the last sweep.
        limiter.flush().unwrap();
        limiter.core.sweep_round();
        let mut expected = everything(&limiter);
        // A pattern comes before the key that is spelled like it.
        prop_assert!(expected.is_sorted_by(|a, b| (&a.key, a.live.is_none()) < (&b.key, b.live.is_none())));
        let keys: Vec<Status> = expected.iter().filter(|status| status.live.is_none()).cloned().collect();
        for pattern in expected.iter().filter(|status| status.live.is_some()) {
            let of_pattern = keys.iter().filter(|key| key.pattern.as_deref() == Some(&pattern.key));
            let of_pattern: Vec<Status> = of_pattern.cloned().collect();
            prop_assert_eq!(limiter.list(Page::default().with_pattern(&pattern.key)).unwrap(), of_pattern);
        }
        for by in [By::Allowed, By::Denied] {
            let mut top = keys.clone();
            let count = |status: &Status| if by == By::Allowed { status.totals.allowed } else { status.totals.denied };
            top.sort_by_key(|status| std::cmp::Reverse(count(status)));
            top.truncate(batch.0);
            prop_assert_eq!(limiter.top(by, batch.0).unwrap(), top);
        }
        if !live {
            expected.retain(|status| status.source == Origin::Exact);
        }
        expected.retain(|status| status.key.starts_with(&prefix) && after.as_ref().is_none_or(|after| status.key > *after));
        let most_or_all = most.unwrap_or(usize::MAX);
        // Pattern and key of one spelling are not torn apart.
        let torn = most_or_all < expected.len() && expected[most_or_all - 1].key == expected[most_or_all].key;
        expected.truncate(most_or_all.saturating_add(usize::from(torn)));
        let page = Page { prefix: &prefix, after: after.as_deref(), limit: most, live, ..Page::default() };
        prop_assert_eq!(&limiter.list(page).unwrap(), &expected);
        let mut json = Vec::new();
        write_statuses(&expected, &mut json);
        for batch in [batch, (usize::MAX, batch.1), (batch.0, usize::MAX)] {
            let listing = Listing::with_batch(&limiter, page, batch).unwrap();
            prop_assert_eq!(String::from_utf8(in_parts(listing, &sizes)), String::from_utf8(json.clone()));
        }
        prop_assert_eq!(in_parts(limiter.listing(page).unwrap(), &sizes), json);
    }
}

fn with_keys(dir: &Path, count: usize) -> Limiter {
    let limiter = open(dir, &Clock::manual(START));
    thread::scope(|scope| {
        for worker in 0..8 {
            let limiter = &limiter;
            scope.spawn(move || {
                for key in (worker..count).step_by(8) {
                    limiter.configure(&format!("key-{key:04}"), limit(10, Algorithm::FixedWindowCounter)).unwrap();
                }
            });
        }
    });
    limiter
}

#[test]
fn a_listing_keeps_few_keys_in_memory_and_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let limiter = with_keys(dir.path(), 1000);
    let mut listing = Listing::with_batch(&limiter, Page::default(), (32, usize::MAX)).unwrap();
    for key in 0..1000 {
        assert_eq!(listing.next().unwrap().key, format!("key-{key:04}"));
        assert!(listing.held() < 32, "{} keys", listing.held());
        assert!(limiter.core.shards.iter().all(|shard| shard.0.try_lock().is_ok()));
    }
    assert_eq!(listing.next(), None);
}

#[test]
fn a_limit_that_is_removed_meanwhile_is_left_out_and_the_page_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let limiter = with_keys(dir.path(), 100);
    let page = Page { limit: Some(10), after: Some("key-0004"), ..Page::default() };
    let mut listing = limiter.listing(page).unwrap();
    let mut out = Vec::new();
    assert!(listing.next_chunk(&mut out, 0));
    // All that follow were gathered by now. Of these one goes, and one comes back with other values.
    limiter.remove("key-0007").unwrap();
    limiter.remove("key-0008").unwrap();
    limiter.configure("key-0008", limit(99, Algorithm::FixedWindowCounter)).unwrap();
    // The rest is written by another thread, as a server does.
    let out = thread::spawn(move || {
        while listing.next_chunk(&mut out, 700) {}
        out
    });
    let statuses: serde_json::Value = serde_json::from_slice(&out.join().unwrap()).unwrap();
    let listed: Vec<(&str, u64)> = statuses
        .as_array()
        .unwrap()
        .iter()
        .map(|status| (status["key"].as_str().unwrap(), status["rate"].as_u64().unwrap()))
        .collect();
    let expected: Vec<String> = [5, 6].into_iter().chain(8..16).map(|key| format!("key-{key:04}")).collect();
    assert!(listed.iter().map(|(key, _)| key).eq(&expected), "{listed:?}");
    assert_eq!(listed[2], ("key-0008", 99));
}

/// A caller that asks for a page of no size is refused at once, not after all limits were looked at.
#[test]
fn a_page_size_out_of_range_is_refused_without_a_look_at_any_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limiter = with_keys(dir.path(), 3);
    for size in [0, crate::bounds::MAX_PAGE + 1] {
        let table = limiter.core.shards[shard_of(limiter.core.hash("key-0001"))].lock();
        thread::scope(|scope| {
            let (sender, refused) = std::sync::mpsc::channel();
            let limiter = &limiter;
            scope.spawn(move || {
                let page = Page { limit: Some(size), ..Page::default() };
                let errors = [
                    limiter.top(By::Denied, size).map(drop),
                    limiter.list(page).map(drop),
                    limiter.listing(page).map(drop),
                ];
                sender.send(errors.map(|error| error.unwrap_err().kind())).unwrap();
            });
            let refused = refused.recv_timeout(Duration::from_secs(60));
            drop(table);
            assert_eq!(refused, Ok([Kind::InvalidArgument; 3]));
        });
    }
    for size in [1, crate::bounds::MAX_PAGE] {
        assert_eq!(limiter.top(By::Allowed, size).unwrap().len(), size.min(3));
    }
}
