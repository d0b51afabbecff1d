//! Tests of which limit a key has: exact, by pattern, brought, none; and of keys that come and go.

use crate::limiter::tests::*;

/// A limiter at a clock that stands.
fn open(dir: &Path, clock: &Clock) -> Limiter {
    Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(clock) }).unwrap()
}

fn parse(limit: &str) -> Limit {
    limit.parse().unwrap()
}

fn brought(limiter: &Limiter, key: &str, limit: &str) -> Result<Decision> {
    limiter.check_item(Item::new(key).with_limit(&parse(limit)))
}

fn entries(limiter: &Limiter) -> usize {
    limiter.core.shards.iter().map(|shard| shard.lock().len()).sum()
}

fn sweep(limiter: &Limiter) {
    for shard in &limiter.core.shards {
        let mut table = shard.lock();
        while !limiter.core.sweep(&mut table, 16, limiter.core.clock.now()).ended {}
    }
}

/// What the log has grown by.
fn grown(limiter: &Limiter, act: impl FnOnce()) -> u64 {
    limiter.flush().unwrap();
    let before = limiter.report().events;
    act();
    limiter.flush().unwrap();
    limiter.report().events - before
}

#[test]
fn exact_comes_before_pattern_before_what_is_brought() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    assert_eq!(limiter.check("user:1", 1).unwrap_err().kind(), Kind::LimitNotConfigured);
    let decision = brought(&limiter, "user:1", "5/1h").unwrap();
    assert_eq!((decision.remaining, decision.pattern), (Some(4), None));
    assert_eq!(limiter.check("user:1", 1).unwrap_err().kind(), Kind::LimitNotConfigured, "an earlier request");

    // What an operator configures wins at once, also over a key that lives, and takes over what was spent.
    limiter.configure("user:*", parse("10/1h")).unwrap();
    let decision = brought(&limiter, "user:1", "5/1h").unwrap();
    assert_eq!((decision.remaining, decision.pattern.as_deref()), (Some(8), Some("user:*")));
    limiter.configure("user:1*", parse("20/1h")).unwrap();
    let decision = limiter.check("user:1x", 1).unwrap();
    assert_eq!((decision.remaining, decision.pattern.as_deref()), (Some(19), Some("user:1*")));
    // `user:1*` needs one more character.
    assert_eq!(limiter.check("user:1", 1).unwrap().pattern.as_deref(), Some("user:*"));
    assert!(limiter.configure("user:1", parse("100/1h")).unwrap(), "new for the operator");
    let decision = brought(&limiter, "user:1", "5/1h").unwrap();
    assert_eq!((decision.limit.windows()[0].rate(), decision.pattern), (100, None));
    assert_eq!(decision.remaining, Some(96), "what was spent stays spent");
    assert!(!limiter.configure("user:1", parse("100/1h")).unwrap());

    // A key is literal, even if it looks like a pattern.
    let decision = limiter.check("user:*", 1).unwrap();
    assert_eq!((decision.remaining, decision.pattern.as_deref()), (Some(9), Some("user:*")));
    let before = all(&limiter);
    drop(limiter);
    assert_eq!(all(&open(dir.path(), &clock)), before);
}

#[test]
fn the_seeds_check_needs_no_configuration() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    assert_eq!(brought(&limiter, "backup", "1/1d").unwrap().remaining, Some(0));
    assert!(!brought(&limiter, "backup", "1/1d").unwrap().allowed);
    drop(limiter);
    let limiter = open(dir.path(), &clock);
    let denied = brought(&limiter, "backup", "1/1d").unwrap();
    assert_eq!((denied.allowed, denied.retry_after), (false, Some(Duration::from_secs(86_400))));
    let status = limiter.status("backup").unwrap().unwrap();
    assert_eq!((status.source, status.remaining, status.totals.allowed), (Origin::Request, Some(0), 1));
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(limiter.status("backup").unwrap(), None, "untouched is the same as never seen");
    assert!(brought(&limiter, "backup", "1/1d").unwrap().allowed);
}

#[test]
fn nothing_is_written_until_something_is_spent_and_then_one_record() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("2/1m")).unwrap();
    limiter.configure("ban:*", parse("0/1m")).unwrap();
    let limits = entries(&limiter);
    assert_eq!(grown(&limiter, || assert_eq!(limiter.status("user:1").unwrap().unwrap().remaining, Some(2))), 0);
    assert_eq!(grown(&limiter, || assert!(limiter.check("user:1", 2).unwrap().allowed)), 1);
    assert_eq!(grown(&limiter, || assert!(brought(&limiter, "other", "1/1m").unwrap().allowed)), 1);
    let both: [Item<'_>; 2] = ["user:2".into(), "user:3".into()];
    assert_eq!(grown(&limiter, || assert!(limiter.check_all(&both).unwrap().allowed)), 1);
    assert_eq!(entries(&limiter), limits + 4);
    // Denials of keys that are not there: the pattern counts them, once for all in an interval.
    let denials = || (0..100).for_each(|key| assert!(!limiter.check(&format!("ban:{key}"), 1).unwrap().allowed));
    assert_eq!(grown(&limiter, denials), 1);
    assert_eq!(entries(&limiter), limits + 4);
    let totals = |pattern| limiter.status(pattern).unwrap().unwrap().totals;
    assert_eq!((totals("ban:*").denied, totals("user:*").allowed, totals("user:*").allowed_cost), (100, 3, 4));
    let live = |pattern| limiter.status(pattern).unwrap().unwrap().live;
    assert_eq!((live("ban:*"), live("user:*")), (Some(0), Some(3)));
    drop(limiter);
    let limiter = open(dir.path(), &clock);
    let totals = |pattern| limiter.status(pattern).unwrap().unwrap().totals;
    assert_eq!((totals("ban:*").denied, totals("user:*").allowed, totals("user:*").allowed_cost), (100, 3, 4));
}

#[test]
fn the_sweep_takes_what_is_untouched_and_is_not_seen() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1m")).unwrap();
    for key in 0..300 {
        assert!(limiter.check(&format!("user:{key}"), 1 + key % 9).unwrap().allowed);
    }
    assert!(brought(&limiter, "other", "5/1h").unwrap().allowed);
    // While none may go: the thread that sweeps by itself may be at work at any time.
    let entries_before = entries(&limiter);
    // Two units come back in twelve seconds.
    clock.advance_ms(12_000);
    let look = || -> Vec<_> { (0..300).map(|key| limiter.status(&format!("user:{key}")).unwrap()).collect() };
    let before = look();
    sweep(&limiter);
    assert_eq!(look(), before);
    let gone = (0..300).filter(|key| key % 9 < 2).count();
    assert_eq!(entries(&limiter), entries_before - gone);
    assert_eq!(limiter.status("user:*").unwrap().unwrap().live, Some(300 - gone as u64));
    // A key that is there and untouched has the totals of a key that is not there.
    clock.advance_ms(60_000);
    assert_eq!(limiter.status("user:8").unwrap().unwrap().totals, Totals::default());
    assert!(limiter.check("user:8", 1).unwrap().allowed);
    assert_eq!(limiter.status("user:8").unwrap().unwrap().totals.allowed, 1);
    sweep(&limiter);
    assert_eq!(entries(&limiter), 1 + 2, "the pattern, a key that lives, and what a request brought");
    assert_eq!(limiter.status("user:*").unwrap().unwrap().totals.allowed, 301, "vanished keys stay counted");
    let before = limiter.status("user:*").unwrap();
    drop(limiter);
    assert_eq!(open(dir.path(), &clock).status("user:*").unwrap(), before);
}

#[test]
fn live_keys_of_an_edited_pattern_move_as_of_the_edit() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("60/1m")).unwrap();
    assert!(limiter.check("user:1", 60).unwrap().allowed);
    clock.advance_ms(10_000);
    // Ten have come back; from now on one comes in ten seconds.
    limiter.configure("user:*", parse("6/1m burst=60")).unwrap();
    clock.advance_ms(20_000);
    // A look moves nothing.
    assert_eq!(limiter.status("user:1").unwrap().unwrap().remaining, Some(12));
    assert!(!limiter.check("user:1", 13).unwrap().allowed);
    assert!(limiter.check("user:1", 11).unwrap().allowed);
    clock.advance_ms(10_000);
    assert_eq!(limiter.check("user:1", 1).unwrap().remaining, Some(1));
    let before = limiter.status("user:1").unwrap();
    drop(limiter);
    assert_eq!(open(dir.path(), &clock).status("user:1").unwrap(), before);
}

#[test]
fn brought_values_decide_the_check_and_stay_if_it_spends() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    assert_eq!(brought(&limiter, "k", "10/1h").unwrap().remaining, Some(9));
    let rate = || limiter.status("k").unwrap().unwrap().limit.windows()[0].rate();
    assert_eq!(brought(&limiter, "k", "2/1h").unwrap().remaining, Some(0), "one unit was left of two");
    assert_eq!(rate(), 2);
    // Denied under other values: nothing changes.
    let denied = brought(&limiter, "k", "1/1h").unwrap();
    assert_eq!((denied.allowed, denied.debt, denied.limit.windows()[0].rate()), (false, 1, 1));
    assert_eq!(rate(), 2);
    // Back to more: not more than if it had stayed.
    assert_eq!(brought(&limiter, "k", "10/1h").unwrap().remaining, Some(7));
    assert_eq!(rate(), 10);
    let before = limiter.status("k").unwrap();
    drop(limiter);
    assert_eq!(open(dir.path(), &clock).status("k").unwrap(), before);
}

#[test]
fn costs_are_held_against_the_values_that_serve() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1m")).unwrap();
    let kind = |result: Result<Decision>| result.unwrap_err().kind();
    assert_eq!(kind(limiter.check("user:1", 11)), Kind::CostExceedsCapacity);
    assert_eq!(kind(brought(&limiter, "user:1", "100/1m").and(limiter.check("user:1", 11))), Kind::CostExceedsCapacity);
    let limit = parse("100/1m");
    assert!(limiter.check_item(Item::new("other").with_cost(100).with_limit(&limit)).unwrap().allowed);
    let too_much = Item::new("other").with_cost(101).with_limit(&limit);
    assert_eq!(kind(limiter.check_item(too_much)), Kind::CostExceedsCapacity);
    let all = limiter.check_all(&[Item::new("user:1"), too_much]);
    assert_eq!(all.unwrap_err().kind(), Kind::CostExceedsCapacity);
}

#[test]
fn keys_that_are_born_in_one_check_are_born_together_or_not() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1m")).unwrap();
    limiter.configure("org", parse("5/1m")).unwrap();
    let limit = parse("3/1m");
    let items = |cost| [("user:1", 4).into(), Item::new("ip").with_cost(2).with_limit(&limit), ("org", cost).into()];
    assert!(limiter.check("org", 4).unwrap().allowed);
    let denied = limiter.check_all(&items(2)).unwrap();
    assert_eq!((denied.allowed, denied.denied), (false, Some(2)));
    // They are reported unchanged.
    assert_eq!(denied.results.iter().map(|result| result.remaining).collect::<Vec<_>>(), [10, 3, 1].map(Some));
    assert_eq!(denied.results[0].pattern.as_deref(), Some("user:*"));
    assert_eq!(entries(&limiter), 2);
    assert_eq!(limiter.status("user:*").unwrap().unwrap().live, Some(0));
    let allowed = limiter.check_all(&items(1)).unwrap();
    assert_eq!(allowed.results.iter().map(|result| result.remaining).collect::<Vec<_>>(), [6, 1, 0].map(Some));
    assert_eq!(limiter.status("user:*").unwrap().unwrap().live, Some(1));
    let look = |limiter: &Limiter| ["user:1", "ip", "org", "user:*"].map(|key| limiter.status(key).unwrap());
    let before = look(&limiter);
    drop(limiter);
    assert_eq!(look(&open(dir.path(), &clock)), before);
}

/// A thousand keys of the greatest length are more than one record may hold.
#[test]
fn many_new_keys_of_any_length_are_spent_in_one_check() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("k*", parse("5/1h")).unwrap();
    limiter.configure("kk-last", parse("1/1h")).unwrap();
    let limit = parse("7/1h, 6/1d");
    let keys: Vec<String> =
        (0..999).map(|key| format!("{}{key:04}-{}", if key < 600 { "k" } else { "other" }, "x".repeat(500))).collect();
    let mut items: Vec<Item<'_>> = keys.iter().map(|key| Item::new(key).with_limit(&limit)).collect();
    items.push("kk-last".into());
    let all = limiter.check_all(&items).unwrap();
    assert!(all.allowed && all.results.iter().all(|result| result.is_spent()));
    assert!(!limiter.check_all(&items).unwrap().allowed);
    let look = |limiter: &Limiter| {
        let status =
            |item: &Item<'_>| limiter.status(item.key).unwrap().map(|status| (status.remaining, status.totals));
        items.iter().map(status).collect::<Vec<_>>()
    };
    let before = look(&limiter);
    assert_eq!((before[0].unwrap().0, before[700].unwrap().0), (Some(4), Some(5)));
    let totals = limiter.status("k*").unwrap().unwrap().totals;
    assert_eq!((totals.allowed, limiter.status("k*").unwrap().unwrap().live), (600, Some(600)));
    drop(limiter);
    let limiter = open(dir.path(), &clock);
    assert_eq!(look(&limiter), before);
    assert_eq!(limiter.status("k*").unwrap().unwrap().totals, totals);
}

#[test]
fn many_checks_decide_each_by_itself_whoever_may_wait() {
    let clock = Clock::manual(START);
    let results = [false, true].map(|waits| {
        let dir = tempfile::tempdir().unwrap();
        let limiter = open(dir.path(), &clock);
        limiter.configure("user:*", parse("3/1m, 100/1d")).unwrap();
        limiter.configure("month:*", parse("5/month tz=Europe/Berlin")).unwrap();
        let limits = ["2/1m", "7/1m", "2/1m sliding_window_log"].map(parse);
        let items: Vec<Item<'_>> = (0..60)
            .map(|round| match round % 5 {
                0 => Item::new("user:1"),
                1 => Item::new("month:1").with_cost(2),
                2 | 3 => Item::new("ip").with_limit(&limits[round % 3]),
                _ => Item::new("none"),
            })
            .collect();
        let results = match waits {
            true => limiter.check_many(&items).unwrap(),
            false => {
                let completion: Arc<dyn store::Completion> = Arc::new(crate::limiter::tests::check::Nobody);
                limiter.check_many_for(&items, Some(&NonBlocking::new(&completion, 1))).unwrap()
            }
        };
        let told: Vec<_> = results
            .into_iter()
            .map(|result| result.map(|decision| (decision.allowed, decision.remaining, decision.retry_after)))
            .map(|result| result.map_err(|error| error.message().to_owned()))
            .collect();
        (told, ["user:1", "month:1", "ip"].map(|key| limiter.status(key).unwrap()))
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0].0.iter().filter(|result| result.is_err()).count(), 12);
}
