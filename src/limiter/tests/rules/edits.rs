//! Tests of limits that are configured together, applied from a list, removed and reset.

use super::values::{lay_over, open, parse, reopened};
use crate::limiter::tests::*;
use crate::store::record::{Event, Intent};

fn keys(limiter: &Limiter) -> Vec<String> {
    let mut keys: Vec<String> = limiter.core.configured("").into_iter().map(String::from).collect();
    keys.sort_unstable();
    keys
}

fn remaining(limiter: &Limiter, key: &str) -> Option<u64> {
    limiter.status(key).unwrap().unwrap().remaining
}

#[test]
fn the_same_values_change_nothing_at_all() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    let settings = || {
        [
            Setting::new("k", parse("10/1h")),
            Setting::new("user:*", parse("10/1h, 2/1s")).with_max_keys(5),
            Setting::new("all:*", parse("3/1m")),
        ]
    };
    assert_eq!(limiter.configure_all(&settings()).unwrap(), [true; 3]);
    assert!(limiter.check("user:1", 2).unwrap().allowed);
    limiter.flush().unwrap();
    let events = limiter.report().events;
    for setting in settings() {
        assert!(!limiter.configure_setting(&setting).unwrap());
    }
    assert_eq!(limiter.configure_all(&settings()).unwrap(), [false; 3]);
    // The default may be said or not.
    assert!(!limiter.configure_setting(&Setting::new("all:*", parse("3/1m")).with_max_keys(1_000_000)).unwrap());
    limiter.flush().unwrap();
    assert_eq!(limiter.report().events, events);
    limiter.configure_setting(&Setting::new("user:*", parse("2/1s, 10/1h")).with_max_keys(6)).unwrap();
    assert_eq!(limiter.status("user:*").unwrap().unwrap().max_keys, Some(6));
    assert_eq!(remaining(&limiter, "user:1"), Some(0), "no quota is given back");
    reopened(limiter, dir.path(), &clock, &["k", "user:1", "user:*", "all:*"]);
}

#[test]
fn all_or_none_is_configured() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    let names: Vec<String> = (0..3000).map(|key| format!("{}-{key}", "key".repeat(20))).collect();
    let settings: Vec<Setting<'_>> = names.iter().map(|key| Setting::new(key, parse("10/1h"))).collect();
    let twice = [&settings[..], &settings[7..8]].concat();
    assert!(limiter.configure_all(&twice).unwrap_err().message().contains("-7` is given twice"));
    let bad = [&settings[..], &[Setting::new("", parse("1/1m"))]].concat();
    assert_eq!(limiter.configure_all(&bad).unwrap_err().kind(), Kind::InvalidArgument);
    let rootless = [&settings[..], &[Setting::new("a*", parse("1/1m")).with_lasts(Duration::from_secs(1))]].concat();
    assert_eq!(limiter.configure_all(&rootless).unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(keys(&limiter), [""; 0]);
    assert_eq!(limiter.configure_all(&settings).unwrap(), vec![true; 3000]);
    let looked: Vec<&str> = names.iter().map(String::as_str).collect();
    let limiter = reopened(limiter, dir.path(), &clock, &looked);
    assert_eq!(keys(&limiter).len(), 3000);
}

#[test]
fn a_list_makes_the_limits_what_it_says() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    for key in ["a", "b", "c", "user:*"] {
        limiter.configure(key, parse("10/1h")).unwrap();
    }
    assert!(limiter.check("user:1", 4).unwrap().allowed && limiter.check("a", 4).unwrap().allowed);
    let list =
        [Setting::new("a", parse("10/1h")), Setting::new("b", parse("20/1h")), Setting::new("d", parse("10/1h"))];
    let told = |applied: Applied| (applied.added, applied.changed, applied.removed);
    assert_eq!(told(limiter.apply(&list, true, true).unwrap()), (1, 1, 2));
    assert_eq!(keys(&limiter), ["a", "b", "c", "user:*"]);
    assert_eq!(told(limiter.apply(&list, false, false).unwrap()), (1, 1, 0));
    assert_eq!(keys(&limiter), ["a", "b", "c", "d", "user:*"]);
    assert_eq!(told(limiter.apply(&list, true, false).unwrap()), (0, 0, 2));
    assert_eq!(keys(&limiter), ["a", "b", "d"]);
    assert_eq!(told(limiter.apply(&list, true, false).unwrap()), (0, 0, 0));
    assert_eq!((remaining(&limiter, "a"), limiter.status("user:1").unwrap()), (Some(6), None));
    reopened(limiter, dir.path(), &clock, &["a", "b", "c", "d", "user:1", "user:*"]);
}

/// What a crash at each record of a group leaves: nothing of it before it is decided, all of it from then on.
#[test]
fn a_crash_in_a_group_leaves_all_or_nothing() {
    let clock = Clock::manual(START);
    let limit = |values: &str| Arc::new(parse(values));
    // What the group does, as records in their order, by hand: a process that ends after any of them.
    for records in 0..=5 {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let limiter = open(&dir, &clock);
        for key in ["old", "user:*", "user:1*"] {
            limiter.configure(key, parse("10/1h")).unwrap();
        }
        for key in ["old", "user:2", "user:11"] {
            assert!(limiter.check(key, 4).unwrap().allowed);
        }
        let id = limiter.core.next_id.load(Ordering::Relaxed);
        let intent = |key, limit: Option<Arc<Limit>>| Intent { limit, max_keys: None, until: None, key };
        let ban = Intent { until: Some(START + 60_000_000), ..intent("ban", Some(limit("0/1s"))) };
        let events = [
            Event::Intended {
                group: id,
                last: false,
                at: START,
                items: vec![intent("user:1*", None), intent("new", Some(limit("7/1h")))],
            },
            Event::Intended {
                group: id,
                last: true,
                at: START,
                items: vec![intent("old", Some(limit("20/1h"))), ban, intent("new:*", Some(limit("5/1h")))],
            },
            Event::Created { id: id + 1, shard: 0, at: START, limit: limit("7/1h"), max_keys: None, key: "new" },
            Event::Created { id: id + 2, shard: 0, at: START, limit: limit("5/1h"), max_keys: None, key: "\u{1}new:*" },
            Event::Done { group: id },
        ];
        let log = limiter.core.log().unwrap();
        for event in &events[..records] {
            let mut reservation = log.reserve(1, crate::store::encode::encoded_len(event)).unwrap();
            log.append(&mut reservation, event, None);
        }
        log.sync().unwrap();
        let crashed = parent.path().join("crashed");
        copy(&dir, &crashed);
        drop(limiter);
        let limiter = open(&crashed, &Clock::manual(START));
        let before = ["old", "user:*", "user:1*"];
        match records {
            0 | 1 => assert_eq!(keys(&limiter), before, "{records}"),
            // Its end says that all was done, and here it was not.
            5 => assert_eq!(keys(&limiter), ["new", "new:*", "old", "user:*", "user:1*"]),
            _ => {
                assert_eq!(keys(&limiter), ["ban", "new", "new:*", "old", "user:*"], "{records}");
                assert_eq!((remaining(&limiter, "old"), remaining(&limiter, "new:1")), (Some(16), Some(5)));
                assert_eq!((remaining(&limiter, "user:11"), remaining(&limiter, "user:2")), (Some(6), Some(6)));
                assert!(!limiter.check("ban", 1).unwrap().allowed);
            }
        }
        // It is done once, even if the log goes on.
        limiter.configure("old", parse("30/1h")).unwrap();
        let limiter = reopened(limiter, &crashed, &clock, &["old", "new", "user:11", "user:2", "ban"]);
        assert_eq!(limiter.status("old").unwrap().unwrap().limit.windows()[0].rate(), 30);
    }
}

#[test]
fn keys_fall_to_the_pattern_that_serves_them_then_or_go() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1h")).unwrap();
    limiter.configure("user:1*", parse("20/1h")).unwrap();
    limiter.configure("user:x", parse("5/1h")).unwrap();
    limiter.configure("user:idle", parse("5/1h")).unwrap();
    for key in ["user:1", "user:11", "user:12", "user:x"] {
        assert!(limiter.check(key, 4).unwrap().allowed);
    }
    assert!(limiter.check("user:12", 12).unwrap().allowed);
    let looked = ["user:1", "user:11", "user:12", "user:x", "user:idle", "user:*", "user:1*"];
    // From exact to pattern, with what was spent; an untouched one vanishes.
    limiter.remove("user:x").unwrap();
    limiter.remove("user:idle").unwrap();
    assert_eq!((remaining(&limiter, "user:x"), remaining(&limiter, "user:idle")), (Some(6), Some(10)));
    let limiter = reopened(limiter, dir.path(), &clock, &looked);
    // From a pattern to another.
    limiter.remove("user:1*").unwrap();
    let status = limiter.status("user:12").unwrap().unwrap();
    assert_eq!((status.remaining, status.debt, status.pattern.as_deref()), (Some(0), 6, Some("user:*")));
    assert_eq!(remaining(&limiter, "user:11"), Some(6));
    assert_eq!(limiter.status("user:*").unwrap().unwrap().live, Some(4));
    assert_eq!(limiter.status("user:1*").unwrap().unwrap().source, Origin::Pattern, "it is a key now");
    let limiter = reopened(limiter, dir.path(), &clock, &looked);
    // And to none.
    lay_over(&limiter, "user:11", "0/1s", 60);
    limiter.remove("user:*").unwrap();
    for key in ["user:1", "user:12", "user:x", "user:*"] {
        assert_eq!(limiter.status(key).unwrap(), None, "{key}");
    }
    assert!(!limiter.check("user:11", 1).unwrap().allowed, "what lies over a key stays");
    assert_eq!(limiter.remove("user:*").unwrap_err().kind(), Kind::LimitNotConfigured);
    let limiter = reopened(limiter, dir.path(), &clock, &looked);
    // A pattern of the same text serves new keys.
    limiter.configure("user:*", parse("10/1h")).unwrap();
    assert_eq!(limiter.check("user:12", 1).unwrap().remaining, Some(9));
    let totals = limiter.status("user:*").unwrap().unwrap().totals;
    assert_eq!(totals.allowed, 1);
    reopened(limiter, dir.path(), &clock, &looked);
}

#[test]
fn all_limits_of_a_prefix_are_removed_or_reset() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    for key in ["api:a", "api:b", "api:*", "api:x:*", "web:a"] {
        limiter.configure(key, parse("10/1h")).unwrap();
    }
    let looked = ["api:a", "api:b", "api:c", "api:x:1", "api:*", "web:a"];
    for key in &looked[..4] {
        assert!(limiter.check(key, 3).unwrap().allowed);
    }
    assert!(limiter.check("web:a", 3).unwrap().allowed);
    for refused in [limiter.reset_prefix("").map(|_| ()), limiter.remove_prefix("").map(|_| ())] {
        assert!(refused.unwrap_err().message().starts_with("prefix must not be empty"));
    }
    assert_eq!(limiter.reset_prefix("api:").unwrap(), 4);
    assert_eq!(looked[..4].iter().map(|key| remaining(&limiter, key)).collect::<Vec<_>>(), [Some(10); 4]);
    assert_eq!((remaining(&limiter, "web:a"), limiter.reset_prefix("nothing").unwrap()), (Some(7), 0));
    let limiter = reopened(limiter, dir.path(), &clock, &looked);
    assert!(limiter.check("api:c", 3).unwrap().allowed);
    assert_eq!(limiter.remove_prefix("api:").unwrap(), 4);
    assert_eq!(keys(&limiter), ["web:a"]);
    assert!(limiter.status("api:c").unwrap().is_none() && limiter.status("api:a").unwrap().is_none());
    assert_eq!(limiter.remove_prefix("api:").unwrap(), 0);
    reopened(limiter, dir.path(), &clock, &looked);
}

#[test]
fn a_reset_of_a_key_without_an_entry_is_no_error_where_a_pattern_serves_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("10/1h")).unwrap();
    limiter.reset("user:1").unwrap();
    assert_eq!(limiter.reset("other").unwrap_err().kind(), Kind::LimitNotConfigured);
    assert!(limiter.check("user:1", 5).unwrap().allowed);
    limiter.configure("user:*", parse("20/1h")).unwrap();
    limiter.reset("user:1").unwrap();
    assert_eq!(remaining(&limiter, "user:1"), Some(20));
    let limiter = reopened(limiter, dir.path(), &clock, &["user:1", "user:*"]);
    assert_eq!(limiter.check("user:1", 5).unwrap().remaining, Some(15));
}

/// Checks go on while patterns come, change and go.
#[test]
fn checks_that_meet_an_edit_are_decided_before_or_after_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let limiter = open(dir.path(), &clock);
    limiter.configure("user:*", parse("1000000/1d fixed_window_counter")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (limiter, stop) = (&limiter, &stop);
            scope.spawn(move || {
                let limit = parse("999999/1d fixed_window_counter");
                let mut round = worker;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let (one, two) = (format!("user:{}", round % 50), format!("user:x{}", round % 20));
                    let items = [Item::new(&one).with_limit(&limit), Item::new(&two).with_limit(&limit)];
                    assert!(limiter.check_item(items[0]).unwrap().allowed);
                    assert!(limiter.check_all(&items).unwrap().allowed);
                }
            });
        }
        for round in 0..60 {
            limiter.configure("user:x*", parse(&format!("{}/1d fixed_window_counter", 500_000 + round))).unwrap();
            limiter.configure("user:7", parse("800000/1d fixed_window_counter")).unwrap();
            if round % 3 == 0 {
                limiter.compact().unwrap();
            }
            limiter.remove("user:x*").unwrap();
            limiter.remove("user:7").unwrap();
            if round % 20 == 19 {
                limiter.remove("user:*").unwrap();
                limiter.configure("user:*", parse("1000000/1d fixed_window_counter")).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    limiter.flush().unwrap();
    let look = |limiter: &Limiter| {
        let names = (0..50).map(|key| format!("user:{key}")).chain((0..20).map(|key| format!("user:x{key}")));
        let status = names.map(|key| limiter.status(&key).unwrap().map(|status| (status.used, status.totals)));
        status.collect::<Vec<_>>()
    };
    let before = look(&limiter);
    drop(limiter);
    let after = look(&open(dir.path(), &clock));
    // Not all were asked for again since their pattern was removed last.
    assert!(before.iter().flatten().any(|(used, totals)| *used > Some(0) && totals.allowed > 0), "{before:?}");
    assert_eq!(after, before);
}
