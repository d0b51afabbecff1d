//! Many links on one key: what is told is what is there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::proxy::Proxy;
use super::servers::{Server, Software, long};
use super::*;
use crate::engine::remote::link::ErrorKind;

const KEY: &[u8] = b"flint:counted";

/// What was told.
#[derive(Default, Debug)]
pub struct Told {
    pub done: AtomicU64,
    pub lost: AtomicU64,
    pub unknown: AtomicU64,
    pub unavailable: AtomicU64,
}

/// Counts up under a key until told to stop, each step an attempt.
pub fn count_up(store: &Store, key: &[u8], told: &Told, stop: &AtomicBool) {
    let mut link = store.link();
    let mut state_now = None;
    while !stop.load(Ordering::Relaxed) {
        let (known, number) = match state_now.take() {
            Some(known) => known,
            None => match link.fetch(&[key], soon()) {
                Ok(mut found) => read(found.remove(0)),
                Err(_) => {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
            },
        };
        let record = (number + 1).to_string();
        match one(&mut link, put(key, known, record.as_bytes())) {
            Ok(Outcome::Won(version)) => {
                told.done.fetch_add(1, Ordering::Relaxed);
                state_now = Some((Known::Version(version), number + 1));
            }
            Ok(Outcome::Lost(mut found)) => {
                told.lost.fetch_add(1, Ordering::Relaxed);
                state_now = match found.remove(0) {
                    Found::Same => None,
                    found => Some(read(found)),
                };
            }
            Err(error) => {
                let counted = match error.kind() {
                    ErrorKind::OutcomeUnknown | ErrorKind::TooFewReplicas => &told.unknown,
                    ErrorKind::Unavailable => &told.unavailable,
                    _ => panic!("{error}"),
                };
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn read(found: Found) -> (Known, u64) {
    let (known, record) = state(found);
    (known, String::from_utf8(record).unwrap().parse().unwrap_or(0))
}

/// What the key has counted to.
pub fn counted(link: &mut Link, key: &[u8]) -> u64 {
    read(link.fetch(&[key], soon()).unwrap().remove(0)).1
}

/// Runs so many links on one key while `meanwhile` runs, and compares.
fn run(stores: &[Store], links: usize, meanwhile: impl FnOnce(&Told)) -> Told {
    let (told, stop) = (Told::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for at in 0..links {
            let (told, stop) = (&told, &stop);
            let store = &stores[at % stores.len()];
            scope.spawn(move || count_up(store, KEY, told, stop));
        }
        meanwhile(&told);
        stop.store(true, Ordering::Relaxed);
    });
    told
}

#[test]
fn what_is_told_is_what_is_there() {
    for software in [Software::Redis, Software::Valkey] {
        let Some(server) = Server::start(software, &[]) else { continue };
        let stores = [open(&server.address()), open(&server.address())];
        let told = run(&stores, 4, |told| {
            super::servers::wait_until("there should be attempts", || told.done.load(Ordering::Relaxed) > 2000);
        });
        assert_eq!(counted(&mut stores[0].link(), KEY), told.done.load(Ordering::Relaxed), "{told:?}");
        assert!(told.lost.load(Ordering::Relaxed) > 0, "{told:?}");
        assert_eq!((told.unknown.into_inner(), told.unavailable.into_inner()), (0, 0));
    }
}

/// 400 connections are cut, each somewhere in its replies; scripts are forgotten; the server restarts.
#[test]
fn what_is_told_is_what_is_there_whatever_is_cut() {
    let cuts = if long() { 400 } else { 20 };
    let Some(mut server) = Server::start(Software::Redis, &[]) else { return };
    let proxy = Proxy::start(server.port);
    let stores = [open(&proxy.address()), open(&proxy.address()), open(&server.address())];
    let told = run(&stores, 6, |told| {
        proxy.cut(cuts, 5000);
        super::servers::wait_until("connections should be cut", || {
            server.ask(&["SCRIPT", "FLUSH"]);
            thread::sleep(Duration::from_millis(10));
            proxy.cuts() == cuts
        });
        server.start_again();
        let done = told.done.load(Ordering::Relaxed);
        super::servers::wait_until("it should go on", || told.done.load(Ordering::Relaxed) > done + 200);
    });
    let (done, unknown) = (told.done.load(Ordering::Relaxed), told.unknown.load(Ordering::Relaxed));
    let there = counted(&mut stores[2].link(), KEY);
    assert!(done <= there && there <= done + unknown, "{there} {told:?}");
    eprintln!("{cuts} cut connections and a restart: {there} there, {told:?}");
}
