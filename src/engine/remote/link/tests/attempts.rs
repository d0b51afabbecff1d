//! What an attempt does, on every kind of server there is here.

use super::servers::{Server, Software};
use super::*;
use crate::engine::remote::link::{ErrorKind, Mark, limit_key};

const KEY: &[u8] = b"flint:a";

/// Runs a test on each server that is there.
fn on_each(test: impl Fn(&Server, Software)) {
    for software in [Software::Redis, Software::Valkey] {
        if let Some(server) = Server::start(software, &[]) {
            test(&server, software);
        }
    }
}

#[test]
fn the_first_of_two_links_wins() {
    on_each(|server, _| {
        let store = open(&server.address());
        let (mut one_link, mut other) = (store.link(), store.link());
        let first = won(one(&mut one_link, put(KEY, Known::Absent, b"first")));
        // The other learns what is there, and nothing is written.
        let (known, record) = state(lost(one(&mut other, put(KEY, Known::Absent, b"other"))).remove(0));
        assert_eq!((known, record.as_slice()), (Known::Version(first), &b"first"[..]));
        let second = won(one(&mut other, put(KEY, known, b"second")));
        let (known, record) = state(lost(one(&mut one_link, put(KEY, Known::Version(first), b"x"))).remove(0));
        assert_eq!((known, record.as_slice()), (Known::Version(second), &b"second"[..]));
        // Both are named as writers, each once.
        let Found::Present(value) = one_link.fetch(&[KEY], soon()).unwrap().remove(0) else { panic!() };
        assert!(value.is_by(first) && value.is_by(second));
        let third = won(one(&mut other, put(KEY, known, b"third")));
        let Found::Present(value) = one_link.fetch(&[KEY], soon()).unwrap().remove(0) else { panic!() };
        assert!(value.is_by(first) && !value.is_by(second) && value.version() == third);
    });
}

#[test]
fn a_value_names_the_last_sixteen_links() {
    on_each(|server, _| {
        let store = open(&server.address());
        let mut versions = Vec::new();
        let mut known = Known::Absent;
        for _ in 0..20 {
            let version = won(one(&mut store.link(), put(KEY, known, b"1")));
            versions.push(version);
            known = Known::Version(version);
        }
        let Found::Present(value) = store.link().fetch(&[KEY], soon()).unwrap().remove(0) else { panic!() };
        let named: Vec<bool> = versions.iter().map(|version| value.is_by(*version)).collect();
        assert_eq!(named, [vec![false; 4], vec![true; 16]].concat());
        assert_eq!(value.record(), b"1");
    });
}

#[test]
fn a_group_is_written_as_one_or_not_at_all() {
    on_each(|server, _| {
        let mut link = open(&server.address()).link();
        let keys: [&[u8]; 4] = [b"flint:1", b"flint:2", b"flint:3", b"flint:4"];
        let two = won(one(&mut link, put(keys[1], Known::Absent, b"2")));
        let four = won(one(&mut link, put(keys[3], Known::Absent, b"4")));
        let part = |at: usize, known, write| Part { key: keys[at], known, write };
        let write = |record| Write::Put { record, expire_at_ms: None };
        let group = |two: Known| Attempt {
            parts: vec![
                part(0, Known::Absent, write(b"one")),
                part(1, two, write(b"two")),
                part(2, Known::Absent, Write::Keep),
                part(3, Known::Version(four), Write::Delete),
            ],
            marks: Vec::new(),
        };
        let found = lost(one(&mut link, group(Known::Absent)));
        assert_eq!([&found[0], &found[2], &found[3]], [&Found::Same; 3]);
        assert_eq!(state(found[1].clone()), (Known::Version(two), b"2".to_vec()));
        assert_eq!(fetched(&mut link, keys[0]).0, Known::Absent);
        let all = won(one(&mut link, group(Known::Version(two))));
        let now: Vec<_> = link.fetch(&keys, soon()).unwrap().into_iter().map(state).collect();
        let written = Known::Version(all);
        assert_eq!(now[..2], [(written, b"one".to_vec()), (written, b"two".to_vec())]);
        assert_eq!(now[2..], [(Known::Absent, Vec::new()), (Known::Absent, Vec::new())]);
        // What only compares has no version of its own to leave.
        let group = Attempt {
            parts: vec![part(0, written, Write::Keep), part(3, Known::Absent, Write::Keep)],
            marks: Vec::new(),
        };
        won(one(&mut link, group));
        let stale = lost(one(&mut link, keep(keys[0], Known::Absent)));
        assert_eq!(state(stale[0].clone()), (written, b"one".to_vec()));
        assert_eq!(state(lost(one(&mut link, keep(keys[2], written)))[0].clone()).0, Known::Absent);
    });
}

#[test]
fn many_groups_share_a_round_trip_and_fail_each_for_itself() {
    on_each(|server, _| {
        let mut link = open(&server.address()).link();
        server.ask(&["LPUSH", "flint:list", "foreign"]);
        server.ask(&["SET", "flint:text", "foreign"]);
        // One without a key goes into no script with others, and then none does.
        for empty in [0, 1] {
            let keys: Vec<Vec<u8>> = (0..600).map(|number| limit_key(&format!("{empty}-{number}"))).collect();
            let other = won(one(&mut open(&server.address()).link(), put(&keys[300], Known::Absent, b"other")));
            let mut attempts: Vec<Attempt> = keys.iter().map(|key| put(key, Known::Absent, key)).collect();
            attempts.insert(100, put(b"flint:list", Known::Absent, b"x"));
            attempts.insert(101, put(b"flint:text", Known::Absent, b"x"));
            attempts.extend((0..empty).map(|_| Attempt::default()));
            let outcomes = link.exchange(&attempts, soon());
            for (at, outcome) in outcomes.into_iter().enumerate() {
                match at {
                    100 | 101 => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt),
                    302 => assert_eq!(state(lost(outcome).remove(0)), (Known::Version(other), b"other".to_vec())),
                    602 => assert!(outcome.is_err()),
                    _ => drop(won(outcome)),
                }
            }
            assert_eq!(server.text(&["GET", "flint:text"]), "foreign");
            let all: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let found = link.fetch(&all, soon()).unwrap();
            let right = |(at, record): (usize, Vec<u8>)| record == if at == 300 { &b"other"[..] } else { all[at] };
            assert!(found.into_iter().map(|found| state(found).1).enumerate().all(right));
        }
        assert!(link.fetch(&[b"flint:text"], soon()).unwrap_err().to_string().contains("flint:text"));
    });
}

#[test]
fn removed_and_expired_keys_are_absent() {
    on_each(|server, _| {
        let store = open(&server.address());
        let mut link = store.link();
        let version = won(one(&mut link, put(KEY, Known::Absent, b"1")));
        won(one(&mut link, delete(KEY, Known::Version(version))));
        assert_eq!(fetched(&mut link, KEY).0, Known::Absent);
        // What stands in its place vanishes, and is in nobody's way.
        let left: i64 = server.text(&["PTTL", "flint:a"]).parse().unwrap();
        assert!((50_000..=60_000).contains(&left), "{left}");
        won(one(&mut link, keep(KEY, Known::Absent)));
        won(one(&mut link, put(KEY, Known::Absent, b"2")));
        assert_eq!(server.text(&["PTTL", "flint:a"]), "-1");
        // What may expire stays for a minute at least.
        let now_ms = store.clock().now() / 1000;
        for (at, least, most) in [(now_ms, 50_000, 60_000), (now_ms + 100_000, 90_000, 100_000), (0, 50_000, 60_000)] {
            let known = fetched(&mut link, KEY).0;
            let write = Write::Put { record: b"3", expire_at_ms: Some(at) };
            won(one(&mut link, Attempt { parts: vec![Part { key: KEY, known, write }], marks: Vec::new() }));
            let left: i64 = server.text(&["PTTL", "flint:a"]).parse().unwrap();
            assert!((least..=most).contains(&left), "{left}");
        }
    });
}

#[test]
fn the_clock_is_raised_to_the_stores() {
    on_each(|server, _| {
        let clock = Clock::manual(1);
        let options = Options { replicas: 0, clock: clock.clone() };
        let store = Store::open(Address::parse(&server.address()).unwrap(), options).unwrap();
        let wall = Clock::system().now();
        let near = |at: u64| at.abs_diff(wall) < 10_000_000;
        assert!(near(clock.now()), "{clock:?}");
        let mut link = store.link();
        won(one(&mut link, put(KEY, Known::Absent, b"1")));
        let (before, later) = (clock.now(), Clock::system().now() + 3600 * 1_000_000);
        assert!(near(before));
        // It never runs back, and what is ahead does not hinder anybody.
        clock.raise(later);
        let known = fetched(&mut link, KEY).0;
        won(one(&mut link, put(KEY, known, b"2")));
        assert_eq!(clock.now(), later);
    });
}

#[test]
fn an_attempt_that_comes_too_late_does_nothing() {
    on_each(|server, _| {
        // This clock stands an hour behind: the store takes the attempt for an old one that lay about. The time in the
        // reply puts the clock right.
        let store = open(&server.address());
        let mut link = store.link();
        let slow = Clock::manual(1_000_000);
        let mut late = Link::new(late_directory(&server.address(), slow.clone()), link.scripts.clone(), [9; 8]);
        assert_eq!(lost(one(&mut late, put(KEY, Known::Absent, b"1"))), [Found::Same]);
        assert_eq!(fetched(&mut link, KEY).0, Known::Absent);
        won(one(&mut late, put(KEY, Known::Absent, b"1")));
    });
}

/// A directory whose clock has not met the store's yet: its link is there before the first reply.
fn late_directory(address: &str, clock: Clock) -> std::sync::Arc<super::super::places::directory::Directory> {
    use super::super::places::{directory::Directory, map::Map};
    let address = Address::parse(address).unwrap();
    let server = address.endpoints()[0].clone();
    let directory = Directory::new(address, Options { replicas: 0, clock });
    directory.set_map(Map::of_one(directory.place(&server)));
    std::sync::Arc::new(directory)
}

#[test]
fn lists_are_read_in_pages() {
    on_each(|server, _| {
        let mut link = open(&server.address()).link();
        let members = ["a", "ab", "ab1", "ab2", "ac", "b", "ключ"];
        for member in members {
            let key = limit_key(member);
            let mut attempt = put(&key, Known::Absent, b"1");
            attempt.marks = vec![Mark { list: 1, member: member.as_bytes(), present: true }];
            won(one(&mut link, attempt));
        }
        let mut page = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
            let names = link.names(1, prefix.as_bytes(), after.map(str::as_bytes), limit, soon()).unwrap();
            names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
        };
        assert_eq!(page("", None, 100), members);
        assert_eq!(page("", Some("ab1"), 2), ["ab2", "ac"]);
        assert_eq!(page("ab", None, 2), ["ab", "ab1"]);
        assert_eq!(page("ab", Some("ab1"), 2), ["ab2"]);
        assert!(page("x", None, 2).is_empty());
        assert_eq!(link.counts(&[(1, b""), (2, b"")], soon()), Ok(vec![7, 0]));
        // One is removed together with its mark, one moves to another list, one vanishes by itself.
        let (ab, b) = (fetched(&mut link, b"flint:ab").0, fetched(&mut link, b"flint:b").0);
        let mut attempt = delete(b"flint:ab", ab);
        attempt.marks = vec![Mark { list: 1, member: b"ab", present: false }];
        won(one(&mut link, attempt));
        let mut attempt = put(b"flint:b", b, b"2");
        attempt.marks = [(1, false), (2, true)].map(|(list, present)| Mark { list, member: b"b", present }).to_vec();
        won(one(&mut link, attempt));
        server.ask(&["DEL", "flint:ac"]);
        link.prune(1, &[(b"ac", b"flint:ac"), (b"a", b"flint:a")], soon()).unwrap();
        let names = link.names(1, b"", None, 100, soon()).unwrap();
        assert_eq!(names, ["a", "ab1", "ab2", "ключ"].map(|name| name.as_bytes().to_vec()));
        assert_eq!(link.names(2, b"", None, 100, soon()).unwrap(), [b"b".to_vec()]);
        // A loser leaves no mark.
        let mut attempt = put(b"flint:b", Known::Absent, b"2");
        attempt.marks = vec![Mark { list: 2, member: b"x", present: true }];
        lost(one(&mut link, attempt));
        assert_eq!(link.counts(&[(2, b"")], soon()), Ok(vec![1]));
    });
}

#[test]
fn counters_and_the_identity_are_shared() {
    on_each(|server, software| {
        let store = open(&server.address());
        let (mut one_link, mut other) = (store.link(), store.link());
        assert_eq!(one_link.add(&[(b"flint\x01a", 100), (b"flint\x01b", 1)], soon()), Ok(vec![100, 1]));
        assert_eq!(other.add(&[(b"flint\x01a", 100), (b"flint\x01b", -1)], soon()), Ok(vec![200, 0]));
        let drawn = one_link.identity(b"flint\x01identity", None, soon()).unwrap();
        assert_eq!(other.identity(b"flint\x01identity", None, soon()), Ok(drawn));
        assert_ne!(drawn, [0; 16]);
        let facts = one_link.facts(soon()).unwrap().remove(0);
        let named = if software == Software::Redis { "redis" } else { "valkey" };
        assert_eq!(facts.software.as_ref().unwrap().0, named);
        assert_eq!(facts.server, format!("127.0.0.1:{}", server.port));
        assert_eq!((facts.maxmemory_policy.as_deref(), facts.maxmemory), (Some("noeviction"), Some(0)));
        assert_eq!((facts.appendonly, facts.appendfsync.as_deref()), (Some(true), Some("always")));
        assert_eq!((facts.master, facts.replicas), (Some(true), Some(0)));
        assert!(facts.used_memory > Some(100_000) && facts.round_trip > Duration::ZERO);
    });
}
