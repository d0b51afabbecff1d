//! What links say and do when something is wrong with the store.

use std::thread;

use super::proxy::Proxy;
use super::servers::{Replicated, Server, Software, free_port, long, wait_until};
use super::*;
use crate::engine::remote::link::ErrorKind;

const KEY: &[u8] = b"flint:a";

fn failed(outcome: Result<Outcome, LinkError>) -> (ErrorKind, String) {
    let error = outcome.unwrap_err();
    (error.kind(), error.to_string())
}

/// How long something takes, and what it returns.
fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = act();
    (result, begun.elapsed())
}

/// What a call returns that waits for nobody. The machine may hold up a call of five, but not each of them.
fn at_once<T>(mut call: impl FnMut() -> T) -> T {
    let mut times = Vec::new();
    for _ in 0..5 {
        let (result, took) = timed(&mut call);
        if took < Duration::from_millis(20) {
            return result;
        }
        times.push(took);
    }
    panic!("not at once: {times:?}")
}

#[test]
fn what_cannot_be_opened_says_why() {
    let closed = try_open(&format!("redis://127.0.0.1:{}", free_port()), 0).map(drop).unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Unavailable);
    assert!(closed.to_string().ends_with("cannot be reached: nothing listens there"), "{closed}");
    let Some(server) = Server::start(Software::Redis, &["--requirepass", "s3cret"]) else { return };
    let host = format!("127.0.0.1:{}", server.port);
    let said = |address: &str| {
        let error = try_open(address, 0).map(drop).unwrap_err();
        assert!(!error.to_string().contains("s3cret") && error.to_string().contains(&host), "{error}");
        (error.kind(), error.to_string())
    };
    let (kind, text) = said(&format!("redis://{host}"));
    assert!(kind == ErrorKind::Refused && text.contains("needs a password"), "{text}");
    for login in [":wrongs3cret", "user:s3cret"] {
        let (kind, text) = said(&format!("redis://{login}@{host}"));
        assert!(kind == ErrorKind::Refused && text.contains("does not accept this user and password"), "{text}");
    }
    let (kind, text) = said(&format!("redis://:s3cret@{host}/16"));
    assert!(kind == ErrorKind::Refused && text.contains("no such database"), "{text}");
    let (kind, text) = said(&format!("redis+cluster://:s3cret@{host}"));
    assert!(kind == ErrorKind::Refused && text.contains("is no Cluster"), "{text}");
    let mut link = open(&format!("redis://:s3cret@{host}/3")).link();
    won(one(&mut link, put(KEY, Known::Absent, b"1")));
    // A user of its own, with no more rights than the page says.
    server.ask(&[
        "ACL",
        "SETUSER",
        "flint",
        "on",
        ">s3cret",
        "~flint*",
        "+@read",
        "+@write",
        "+@scripting",
        "+time",
        "+ping",
    ]);
    let mut link = open(&format!("redis://flint:s3cret@{host}")).link();
    won(one(&mut link, put(KEY, Known::Absent, b"1")));
    let facts = link.facts(soon()).unwrap().remove(0);
    assert_eq!((facts.software, facts.appendfsync), (None, None));
    server.ask(&["ACL", "SETUSER", "flint", "-set"]);
    let known = fetched(&mut link, KEY).0;
    let (kind, text) = failed(one(&mut link, put(KEY, known, b"2")));
    assert!(kind == ErrorKind::Refused && text.contains("may not do what Flint needs"), "{kind:?} {text}");
}

#[test]
fn a_store_that_is_full_still_answers_what_only_compares() {
    let Some(server) = Server::start(Software::Redis, &[]) else { return };
    let mut link = open(&server.address()).link();
    let version = won(one(&mut link, put(KEY, Known::Absent, b"1")));
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let (kind, text) = failed(one(&mut link, put(KEY, Known::Version(version), b"2")));
    assert!(kind == ErrorKind::Unavailable && text.contains("out of memory (maxmemory)"), "{text}");
    won(one(&mut link, keep(KEY, Known::Version(version))));
    // Removing is what helps.
    won(one(&mut link, delete(KEY, Known::Version(version))));
    assert_eq!(server.text(&["EXISTS", "flint:a"]), "0");
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    won(one(&mut link, put(KEY, Known::Absent, b"3")));
}

#[test]
fn servers_that_take_no_writes_are_told_in_users_words() {
    let Some(server) = Server::start(Software::Redis, &[]) else { return };
    let store = open(&server.address());
    let mut link = store.link();
    let version = won(one(&mut link, put(KEY, Known::Absent, b"1")));
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let (kind, text) = failed(one(&mut link, put(KEY, Known::Version(version), b"2")));
    assert!(kind == ErrorKind::Unavailable && text.contains("min-replicas-to-write"), "{text}");
    server.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    // A demoted master.
    server.ask(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let (kind, text) = failed(one(&mut link, put(KEY, Known::Version(version), b"2")));
    assert!(kind == ErrorKind::Unavailable && text.contains("is a replica"), "{text}");
    // Known by now: nobody asks it, not even what only compares.
    let (_, text) = failed(at_once(|| one(&mut link, keep(KEY, Known::Version(version)))));
    assert!(text.contains("is a replica"), "{text}");
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    wait_until("it should be found to be back", || store.away().is_none());
    won(one(&mut link, put(KEY, Known::Version(version), b"2")));
    // A script of somebody else's that does not end.
    let busy = thread::scope(|scope| {
        server.ask(&["CONFIG", "SET", "lua-time-limit", "10"]);
        scope.spawn(|| server.try_ask(&["EVAL", "while true do end", "0"]));
        thread::sleep(Duration::from_millis(100));
        let outcome = one(&mut link, keep(KEY, Known::Absent));
        server.ask(&["SCRIPT", "KILL"]);
        failed(outcome)
    });
    assert!(busy.0 == ErrorKind::Unavailable && busy.1.contains("is running a script"), "{busy:?}");
    wait_until("it should be found to be back", || store.away().is_none());
}

#[test]
fn scripts_that_are_forgotten_are_loaded_again() {
    let Some(mut server) = Server::start(Software::Redis, &[]) else { return };
    let store = open(&server.address());
    let mut link = store.link();
    let mut known = Known::Version(won(one(&mut link, put(KEY, Known::Absent, b"1"))));
    for _ in 0..5 {
        server.ask(&["SCRIPT", "FLUSH"]);
        let attempts = [put(KEY, known, b"2"), keep(b"flint:other", Known::Absent)];
        let mut outcomes = link.exchange(&attempts, soon());
        won(outcomes.pop().unwrap());
        known = Known::Version(won(outcomes.pop().unwrap()));
    }
    server.ask(&["SCRIPT", "FLUSH"]);
    link.prune(1, &[(b"a", KEY)], soon()).unwrap();
    // A restart with what is on disk: nothing is lost.
    server.start_again();
    wait_until("it should be found to be back", || one(&mut link, keep(KEY, known)).is_ok());
    won(one(&mut link, put(KEY, known, b"3")));
    // All is gone: the store has forgotten, and so does Flint.
    server.ask(&["FLUSHALL"]);
    let (now, _) = state(lost(one(&mut link, put(KEY, known, b"4"))).remove(0));
    assert_eq!(now, Known::Absent);
}

#[test]
fn a_store_that_is_away_is_told_of_at_once_until_it_is_back() {
    if !long() {
        return;
    }
    let Some(mut server) = Server::start(Software::Redis, &[]) else { return };
    let store = open(&server.address());
    let mut link = store.link();
    let version = won(one(&mut link, put(KEY, Known::Absent, b"1")));
    server.kill();
    // A reply was on its way when the connection broke, for all that the link knows: it asks until the deadline.
    let (_, took) = timed(|| failed(one(&mut link, put(KEY, Known::Version(version), b"2"))));
    assert!(took < Duration::from_millis(2500), "{took:?}");
    let (kind, text) = failed(at_once(|| one(&mut link, put(KEY, Known::Version(version), b"2"))));
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    assert!(text.contains("nothing listens there") && store.away().is_some(), "{text}");
    assert_eq!(link.fetch(&[KEY], soon()).unwrap_err().kind(), ErrorKind::Unavailable);
    server.start_again();
    wait_until("it should be found to be back", || store.away().is_none());
    let (known, _) = fetched(&mut link, KEY);
    assert_eq!(known, Known::Version(version));
    won(one(&mut link, put(KEY, known, b"2")));
}

#[test]
fn a_store_that_is_stopped_does_nothing_late() {
    if !long() {
        return;
    }
    let Some(server) = Server::start(Software::Redis, &[]) else { return };
    let store = open(&server.address());
    let (mut link, mut other) = (store.link(), store.link());
    let version = won(one(&mut link, put(KEY, Known::Absent, b"1")));
    won(one(&mut other, keep(KEY, Known::Version(version))));
    server.stop();
    let ((kind, text), took) = timed(|| failed(one(&mut link, put(KEY, Known::Version(version), b"2"))));
    assert_eq!(kind, ErrorKind::OutcomeUnknown, "{text}");
    assert!(took > Duration::from_millis(1500) && took < Duration::from_millis(2600), "{took:?}");
    // What only compares has no outcome that matters; by now it is known to be away.
    let (kind, text) = failed(at_once(|| one(&mut other, keep(KEY, Known::Version(version)))));
    assert_eq!(kind, ErrorKind::Unavailable, "{text}");
    thread::sleep(Duration::from_millis(1500));
    server.go_on();
    wait_until("it should be found to be back", || store.away().is_none());
    // The attempt lay in the store's buffers, and came too late.
    assert_eq!(fetched(&mut link, KEY), (Known::Version(version), b"1".to_vec()));
    won(one(&mut link, put(KEY, Known::Version(version), b"3")));
}

#[test]
fn a_lost_reply_is_asked_for_again() {
    if !long() {
        return;
    }
    let Some(server) = Server::start(Software::Redis, &[]) else { return };
    let proxy = Proxy::start(server.port);
    let store = open(&proxy.address());
    let (mut link, mut other) = (store.link(), open(&server.address()).link());
    let mut known = Known::Version(won(one(&mut link, put(KEY, Known::Absent, b"0"))));
    for number in 1..20_u32 {
        // The connection that is there is cut before the reply: the attempt is done, and found to be.
        proxy.cut(1, 1);
        let record = number.to_string();
        known = Known::Version(won(one(&mut link, put(KEY, known, record.as_bytes()))));
        assert_eq!(fetched(&mut other, KEY), (known, record.into_bytes()));
    }
    assert!(proxy.cuts() >= 19);
    proxy.cut(1, 1);
    won(one(&mut link, delete(KEY, known)));
    assert_eq!(fetched(&mut other, KEY).0, Known::Absent);
    // Replies are kept back to the end: nobody can tell.
    proxy.mute(true);
    let (kind, text) = failed(one(&mut link, put(KEY, Known::Absent, b"x")));
    assert_eq!(kind, ErrorKind::OutcomeUnknown, "{text}");
    assert_eq!(fetched(&mut other, KEY).1, b"x");
    proxy.mute(false);
    wait_until("it should be found to be back", || store.away().is_none());
    assert_eq!(fetched(&mut link, KEY).1, b"x");
}

#[test]
fn too_few_replicas_are_told_and_nothing_more_is_written() {
    if !long() {
        return;
    }
    // Valkey has WAITAOF too.
    [Software::Redis, Software::Valkey].into_iter().for_each(a_replica_dies);
}

fn a_replica_dies(software: Software) {
    let Some(mut replicated) = Replicated::start(software, 2, &[]) else { return };
    let store = open_with(&replicated.servers[0].address(), 2);
    let mut link = store.link();
    wait_until("the replicas should be counted", || store.unwritable().is_none());
    let version = won(one(&mut link, put(KEY, Known::Absent, b"1")));
    replicated.servers[2].kill();
    // Of those that share a script only what is written is told so.
    let attempts = [put(KEY, Known::Version(version), b"2"), keep(b"flint:c", Known::Absent)];
    let (mut outcomes, took) = timed(|| link.exchange(&attempts, soon()));
    won(outcomes.remove(1));
    let (kind, text) = failed(outcomes.remove(0));
    assert_eq!(kind, ErrorKind::TooFewReplicas, "{text}");
    assert!(text.contains("only 1 of 2 replicas") && text.contains("counts again"), "{text}");
    assert!(took < Duration::from_millis(1900), "{took:?}");
    // It is written, and from now on nothing is; what only compares goes on.
    let (known, record) = fetched(&mut link, KEY);
    assert_eq!(record, b"2");
    let (kind, text) = failed(at_once(|| one(&mut link, put(KEY, known, b"3"))));
    assert!(
        kind == ErrorKind::Unavailable && text.contains("1 of 2") && text.contains("nothing was written"),
        "{text}"
    );
    won(one(&mut link, keep(KEY, known)));
    assert_eq!(fetched(&mut link, KEY), (known, b"2".to_vec()));
    assert!(store.away().is_none() && store.unwritable().is_some());
    replicated.servers[2].start_again();
    wait_until("the replica should be found to be back", || store.unwritable().is_none());
    // With WAITAOF it confirms nothing before it has made an append-only file of all that it was sent.
    let mut known = known;
    wait_until("the replica should confirm again", || match one(&mut link, put(KEY, known, b"3")) {
        Ok(outcome) => {
            won(Ok(outcome));
            true
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::TooFewReplicas | ErrorKind::Unavailable), "{error:?}");
            known = fetched(&mut link, KEY).0;
            false
        }
    });
    let facts = link.facts(soon()).unwrap().remove(0);
    assert_eq!((facts.waitaof, facts.replicas), (Some(software == Software::Valkey), Some(2)));
    // A start with a replica that is stopped: it is open, and writes nothing.
    replicated.servers[1].stop();
    let store = open_with(&replicated.servers[0].address(), 2);
    let (kind, text) = failed(one(&mut store.link(), put(b"flint:b", Known::Absent, b"3")));
    assert!(kind == ErrorKind::Unavailable && text.contains("1 of 2"), "{text}");
    replicated.servers[1].go_on();
    assert_eq!(fetched(&mut link, b"flint:b").0, Known::Absent);
}
