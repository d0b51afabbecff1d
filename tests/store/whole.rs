//! What is asked of the whole store: lists, changes of many limits, bounds, and moving all of it.

use std::time::Duration;

use flint::engine::remote::{Remote, Settings, port};
use flint::engine::{Engine, EngineReport};
use flint::{By, Clock, Item, Limiter, Options, Page, Setting};
use serde_json::Value;

use super::engines::{ask, configure, list, open, status, stores};

/// A status without what moves with the time, and how many keys live: those that are untouched leave a directory later.
fn standing(mut status: Value) -> Value {
    for field in ["reset_at", "next_ms", "last_allowed_at", "last_denied_at", "last_reset_at", "oldest_at", "live"] {
        status[field] = Value::Null;
    }
    if let Some(windows) = status["windows"].as_array_mut() {
        windows.iter_mut().for_each(|window| *window = standing(window.take()));
    }
    status
}

fn standings(engine: &dyn Engine, page: Page<'_>) -> Vec<Value> {
    list(engine, page).into_iter().map(standing).collect()
}

const LIMITS: [(&str, &str); 6] = [
    ("a", "5/365d"),
    ("a:*", "2/365d, 3/year"),
    ("b:*", "4/365d fixed_window_counter"),
    ("b:1", "9/365d sliding_window_log"),
    ("log", "7/365d sliding_window_log"),
    ("slots", "slots=3"),
];

/// The same history on any engine.
fn history(engine: &dyn Engine) {
    let settings: Vec<Setting<'_>> =
        LIMITS.iter().map(|(key, limit)| Setting::new(key, limit.parse().unwrap())).collect();
    assert_eq!(engine.configure_all(&settings).unwrap(), [true; 6]);
    engine
        .run(Box::new(|limiter| {
            for round in 0..4 {
                for key in ["a", "a:1", "a:2", "b:1", "b:2", "log", "a:10"] {
                    let _ = limiter.check(key, 1 + round % 2);
                }
                let limit = "3/365d".parse().unwrap();
                let _ = limiter.check_item(Item::from("brought").with_limit(&limit));
            }
            let _ = limiter.hold("slots", 2, Duration::from_secs(3600));
            let _ = limiter.hold("log", 1, Duration::from_secs(3600));
        }))
        .unwrap();
    engine.flush().unwrap();
}

#[test]
fn lists_are_those_of_a_directory() {
    for store in stores() {
        let dir = tempfile::tempdir().unwrap();
        let local = Limiter::open(dir.path(), Options::default()).unwrap();
        let remote = Remote::open(Settings::new(&store.address())).unwrap();
        history(&local);
        history(&remote);
        let pages = [
            Page::default(),
            Page::default().with_live(true),
            Page::default().with_live(true).with_prefix("a"),
            Page::default().with_live(true).with_after("a:1"),
            Page::default().with_live(true).with_limit(3),
            Page::default().with_pattern("a:*"),
            Page::default().with_pattern("a:*").with_after("a:1").with_limit(1),
        ];
        for page in pages {
            assert_eq!(standings(&remote, page), standings(&local, page), "{page:?}");
        }
        assert_eq!(
            Engine::listing(&remote, Page::default().with_pattern("no:*")).map(drop).unwrap_err().kind(),
            flint::Kind::LimitNotConfigured
        );
        for by in [By::Allowed, By::Denied] {
            let top = |engine: &dyn Engine| {
                engine
                    .top(by, 5)
                    .unwrap()
                    .into_iter()
                    .map(|status| (status.totals.allowed, status.totals.denied))
                    .collect::<Vec<_>>()
            };
            assert_eq!(top(&remote), top(&local));
        }
        for engine in [&remote as &dyn Engine, &local] {
            engine.reset("a:*").unwrap();
        }
        let page = Page::default().with_live(true);
        assert_eq!(standings(&remote, page), standings(&local, page));
        assert_eq!(Engine::reset_prefix(&remote, "b").unwrap(), Engine::reset_prefix(&local, "b").unwrap());
        assert_eq!(standings(&remote, page), standings(&local, page));
        assert_eq!(Engine::remove_prefix(&remote, "a").unwrap(), 2);
        assert_eq!(Engine::remove_prefix(&local, "a").unwrap(), 2);
        assert_eq!(standings(&remote, page), standings(&local, page));
        let settings = [Setting::new("b:*", "8/365d".parse().unwrap()), Setting::new("new", "1/1d".parse().unwrap())];
        for dry in [true, false] {
            assert_eq!(
                Engine::apply(&remote, &settings, true, dry).unwrap(),
                Engine::apply(&local, &settings, true, dry).unwrap()
            );
        }
        assert_eq!(standings(&remote, page), standings(&local, page));
    }
}

#[test]
fn limits_move_into_a_store_and_back() {
    for store in stores() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let settings = Settings::new(&store.address());
        let page = Page::default().with_live(true);
        let (before, hold) = {
            let local = Limiter::open(from.path(), Options::default()).unwrap();
            history(&local);
            let hold = local.hold("b:9", 1, Duration::from_secs(3600)).unwrap().hold.unwrap();
            (standings(&local, page), hold.id)
        };
        let moved = port::import(from.path(), &settings).unwrap();
        assert_eq!((moved.patterns, moved.holds, moved.keys), (2, 3, before.len() as u64 - 2));
        assert!(port::import(from.path(), &settings).unwrap_err().message().contains("has limits already"));
        let there = {
            let remote = Remote::open(settings.clone()).unwrap();
            assert_eq!(standings(&remote, page), before);
            // A hold of the directory is settled in the store, and what goes on there comes back.
            let settle = hold.clone();
            ask(&remote, move |limiter| limiter.settle(&settle, flint::Cost::Units(2))).unwrap();
            ask(&remote, |limiter| limiter.check("b:7", 1)).unwrap();
            let made = ask(&remote, |limiter| limiter.hold("b:1", 1, Duration::from_secs(60))).unwrap();
            assert_ne!(made.hold.map(|hold| hold.id), Some(hold));
            Engine::flush(&remote).unwrap();
            standings(&remote, page)
        };
        let target = to.path().join("data");
        let moved = port::export(&settings, &target).unwrap();
        assert_eq!((moved.patterns, moved.holds), (2, 4));
        assert!(port::export(&settings, &target).unwrap_err().message().contains("is not empty"));
        let local = Limiter::open(&target, Options::default()).unwrap();
        assert_eq!(standings(&local, page), there);
    }
}

/// Keys beyond the bound share one limit; the bound is kept within a hundred keys for each server.
#[test]
fn max_keys_is_kept_within_a_hundred_for_each_server() {
    const MOST: u64 = 1000;
    for store in stores() {
        let engines = open(&store.address(), 2);
        let setting = Setting::new("user:*", "2/365d".parse().unwrap()).with_max_keys(MOST);
        Engine::configure(&engines[0], &setting).unwrap();
        let (mut overflows, mut checks) = (0, 0_u64);
        for round in 0..150 {
            for (index, engine) in engines.iter().enumerate() {
                let first = (round * 2 + index) * 10;
                overflows += ask(engine, move |limiter| {
                    let keys = first..first + 10;
                    let mut overflows = 0;
                    for key in keys {
                        overflows += u64::from(limiter.check(&format!("user:{key}"), 1)?.overflow);
                    }
                    Ok(overflows)
                })
                .unwrap();
                checks += 10;
            }
        }
        let EngineReport::Store(report) = Engine::report(&engines[0]) else { panic!("a store") };
        let live = report.live.unwrap();
        assert!((MOST..=MOST + 200).contains(&live), "{live}");
        assert_eq!(live + overflows, checks);
        assert!(report.problems.iter().any(|problem| problem.contains("max_keys")), "{:?}", report.problems);
        store.wait_until("each server should know it", |_| status(&engines[1], "user:*").live == Some(live));
    }
}

/// What nothing counts for vanishes by itself, and so does its name.
#[test]
fn untouched_keys_vanish() {
    for store in stores() {
        let engine = Remote::open(Settings::new(&store.address())).unwrap();
        configure(&engine, "user:*", "2/50ms");
        ask(&engine, |limiter| limiter.check("user:1", 1)).unwrap();
        let left: i64 = store.text(&["PTTL", "flint:user:1"]).parse().unwrap();
        assert!((60_000..180_000).contains(&left), "{left}");
        store.ask(&["DEL", "flint:user:1"]);
        store.wait_until("the name should leave the lists", |_| {
            let EngineReport::Store(report) = Engine::report(&engine) else { panic!("a store") };
            report.live == Some(0)
        });
        drop(Clock::system());
    }
}
