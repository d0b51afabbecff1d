//! What is reported as spent is what is spent, to the unit, and never more than the limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flint::engine::remote::{Remote, Settings};
use flint::{Error, Kind};

use super::engines::{Told, ask, configure, open, status, stores, storm};
use super::proxy::Proxy;
use super::servers::Server;

const ALGORITHMS: [&str; 6] = [
    "2000/365d",
    "2000/365d sliding_window_log",
    "2000/365d fixed_window_counter",
    "2000/365d sliding_window_counter",
    "2000/year",
    "2000/365d, 3000/365d fixed_window_counter, 2500/365d sliding_window_counter",
];

/// Each algorithm on its own key, under which four servers check until it is spent.
#[test]
fn four_servers_spend_what_they_tell() {
    for store in stores() {
        let engines = open(&store.address(), 4);
        for limit in ALGORITHMS {
            let key = format!("one:{limit}");
            configure(&engines[0], &key, limit);
            let told = [Told::default()];
            let over = || told[0].denied.load(Ordering::Relaxed) > 50;
            storm(&engines, 4, std::slice::from_ref(&key), &told, &over);
            let [allowed, denied, ..] = told[0].load();
            assert_eq!(told[0].load(), [2000, denied, 0, 0], "{limit}");
            for engine in &engines {
                assert_eq!(status(engine, &key).used, Some(allowed), "{limit}");
            }
        }
    }
}

/// The same of many keys at once, by a pattern, with a few units each.
#[test]
fn many_keys_are_exact_too() {
    for store in stores() {
        let engines = open(&store.address(), 4);
        configure(&engines[0], "user:*", "3/365d, 5/year");
        let keys: Vec<String> = (0..300).map(|number| format!("user:{number}")).collect();
        let told: Vec<Told> = keys.iter().map(|_| Told::default()).collect();
        let over = || told.iter().all(|told| told.denied.load(Ordering::Relaxed) > 0);
        storm(&engines, 4, &keys, &told, &over);
        for (key, told) in keys.iter().zip(&told) {
            let [_, denied, ..] = told.load();
            assert_eq!(told.load(), [3, denied, 0, 0], "{key}");
            assert_eq!(status(&engines[1], key).used, Some(3), "{key}");
        }
    }
}

/// What happens to a store while servers check: told is spent, unless it was said that nobody knows.
fn disturbed(store: &mut Server, name: &str, mut disturb: impl FnMut(&mut Server, &Proxy) + Send) {
    let proxy = Proxy::start(store.port);
    let engines = open(&proxy.address(), 4);
    let key = "one".to_owned();
    configure(&engines[0], &key, "1000000/365d fixed_window_counter");
    let (told, over) = ([Told::default()], AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            disturb(store, &proxy);
            thread::sleep(Duration::from_millis(300));
            over.store(true, Ordering::Relaxed);
        });
        storm(&engines, 4, std::slice::from_ref(&key), &told, &|| over.load(Ordering::Relaxed));
    });
    let [allowed, denied, unavailable, unknown] = told[0].load();
    let used = status(&engines[0], &key).used.unwrap();
    let slowest = Duration::from_micros(told[0].slowest_us.load(Ordering::Relaxed));
    eprintln!(
        "{name}: told {allowed}, spent {used}, unavailable {unavailable}, unknown {unknown}, {} cuts, slowest {slowest:?}",
        proxy.cuts()
    );
    assert!(allowed > 100 && denied == 0, "{name}: {:?}", told[0].load());
    assert!(allowed <= used && used <= allowed + unknown, "{name}: told {allowed}, unknown {unknown}, spent {used}");
    assert!(slowest < Duration::from_millis(2500), "{name}: {slowest:?}");
}

#[test]
fn told_is_spent_through_cut_connections() {
    for mut store in stores() {
        disturbed(&mut store, "cuts", |_, proxy| {
            proxy.cut(400, 2000);
            while proxy.cuts() < 400 {
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
}

#[test]
fn told_is_spent_through_a_flush_of_scripts() {
    for mut store in stores() {
        disturbed(&mut store, "script flush", |store, _| {
            for _ in 0..10 {
                store.ask(&["SCRIPT", "FLUSH"]);
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
}

#[test]
fn told_is_spent_through_a_restart_and_a_stop() {
    for mut store in stores() {
        disturbed(&mut store, "restart", |store, _| {
            store.kill();
            thread::sleep(Duration::from_millis(300));
            store.start_again();
            thread::sleep(Duration::from_millis(1500));
        });
        store.ask(&["FLUSHALL"]);
        disturbed(&mut store, "stop", |store, _| {
            store.stop();
            thread::sleep(Duration::from_secs(5));
            store.go_on();
            thread::sleep(Duration::from_millis(1500));
        });
    }
}

/// A store that has forgotten everything closes, and lets nothing through.
#[test]
fn a_store_that_was_flushed_denies_by_error() {
    for store in stores() {
        let engine = Remote::open(Settings::new(&store.address())).unwrap();
        configure(&engine, "a", "10/1h");
        assert!(ask(&engine, |limiter| limiter.check("a", 1)).unwrap().allowed);
        store.ask(&["FLUSHALL"]);
        let error: Error = ask(&engine, |limiter| limiter.check("a", 1)).unwrap_err();
        assert_eq!(error.kind(), Kind::LimitNotConfigured);
    }
}
