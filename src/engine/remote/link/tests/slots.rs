//! Keys in a Cluster: their slots, and slots that move.

use super::servers::{Cluster, SHARES, Software, long, wait_until};
use super::*;
use crate::engine::remote::link::{ErrorKind, Mark, slot_of, tag_of};

/// Begins to move a slot from one node to another.
fn begin_move(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let id = |at: usize| cluster.nodes[at].text(&["CLUSTER", "MYID"]);
    cluster.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "IMPORTING", &id(from)]);
    cluster.nodes[from].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &id(to)]);
}

fn move_key(cluster: &Cluster, key: &str, from: usize, to: usize) {
    let port = cluster.nodes[to].port.to_string();
    cluster.nodes[from].ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
}

fn end_move(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let id = cluster.nodes[to].text(&["CLUSTER", "MYID"]);
    for at in [to, from] {
        cluster.nodes[at].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
    }
}

fn marked<'a>(key: &'a [u8], known: Known, record: &'a [u8], member: &'a [u8]) -> Attempt<'a> {
    let mut attempt = put(key, known, record);
    attempt.marks = vec![Mark { list: 1, member, present: true }];
    attempt
}

#[test]
fn keys_go_to_the_masters_of_their_slots() {
    if !long() {
        return;
    }
    for software in [Software::Redis, Software::Valkey] {
        let Some(cluster) = Cluster::start(software, 0, &[]) else { continue };
        let store = open(&cluster.address());
        assert!(store.is_cluster());
        assert_eq!(store.shards(), 3);
        let mut link = store.link();
        let names: Vec<String> = (0..300).map(|number| format!("user:{number:03}")).collect();
        let keys: Vec<Vec<u8>> = names.iter().map(|name| format!("flint:{name}").into_bytes()).collect();
        let pairs = keys.iter().zip(&names);
        let attempts: Vec<Attempt> =
            pairs.map(|(key, name)| marked(key, Known::Absent, name.as_bytes(), name.as_bytes())).collect();
        all_won(link.exchange(&attempts, soon()));
        let all: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let found = link.fetch(&all, soon()).unwrap();
        assert!(found.into_iter().zip(&names).all(|(found, name)| state(found).1 == name.as_bytes()));
        // Each key lies where it should.
        for key in &all {
            let slot = slot_of(key);
            let shard = SHARES.iter().skip(1).position(|end| slot < *end).unwrap();
            assert_eq!(
                cluster.nodes[shard].text(&["CLUSTER", "KEYSLOT", std::str::from_utf8(key).unwrap()]),
                slot.to_string()
            );
            assert_eq!(cluster.nodes[shard].text(&["EXISTS", std::str::from_utf8(key).unwrap()]), "1");
        }
        // The list is one, over all of its parts.
        let bytes: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        assert_eq!(link.names(1, b"", None, 1000, soon()).unwrap(), bytes);
        assert_eq!(link.names(1, b"user:1", None, 1000, soon()).unwrap(), bytes[100..200]);
        let mut paged: Vec<Vec<u8>> = Vec::new();
        loop {
            let page = link.names(1, b"user:", paged.last().map(Vec::as_slice), 70, soon()).unwrap();
            let end = page.len() < 70;
            paged.extend(page);
            if end {
                break;
            }
        }
        assert_eq!(paged, bytes);
        assert_eq!(link.counts(&[(1, b"")], soon()), Ok(vec![300]));
        // A list of which one slot has nearly all.
        let attempts: Vec<Vec<u8>> = (0..50).map(|number| format!("flint:{{t}}{number:02}").into_bytes()).collect();
        let attempts: Vec<Attempt> = attempts
            .iter()
            .map(|key| {
                let mut attempt = marked(key, Known::Absent, b"1", &key[6..]);
                attempt.marks[0].list = 2;
                attempt
            })
            .collect();
        all_won(link.exchange(&attempts, soon()));
        let names = link.names(2, b"", None, 40, soon()).unwrap();
        assert_eq!(names, (0..40).map(|number| format!("{{t}}{number:02}").into_bytes()).collect::<Vec<_>>());
        // Keys of one attempt share a slot, or it is refused by name.
        let part = |key| Part { key, known: Known::Absent, write: Write::Keep };
        let error =
            one(&mut link, Attempt { parts: vec![part(b"flint:x"), part(b"flint:y")], marks: Vec::new() }).unwrap_err();
        assert!(
            error.kind() == ErrorKind::CrossSlot && error.to_string().contains("`flint:x` and `flint:y`"),
            "{error}"
        );
        let tag = tag_of(slot_of(b"flint:x"));
        let tagged = format!("flint\x01hold:{{{tag}}}7").into_bytes();
        won(one(&mut link, Attempt { parts: vec![part(b"flint:x"), part(&tagged)], marks: Vec::new() }));
        // A server of a Cluster is not taken for one by itself.
        let plain = open(&cluster.nodes[0].address());
        let key = keys.iter().find(|key| slot_of(key) > SHARES[1]).unwrap();
        let error = one(&mut plain.link(), keep(key, Known::Absent)).unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("write redis+cluster://"), "{error}");
        assert_eq!(link.facts(soon()).unwrap().len(), 3);
    }
}

#[test]
fn slots_may_move_meanwhile() {
    if !long() {
        return;
    }
    let Some(cluster) = Cluster::start(Software::Redis, 0, &[]) else { return };
    let store = open(&cluster.address());
    let mut link = store.link();
    let keys: [&[u8]; 3] = [b"flint:{m}1", b"flint:{m}2", b"flint:{m}3"];
    let slot = slot_of(keys[0]);
    let from = cluster.master_of(slot).unwrap();
    let to = (from + 1) % 3;
    let one_known = Known::Version(won(one(&mut link, marked(keys[0], Known::Absent, b"1", b"{m}1"))));
    let two = Known::Version(won(one(&mut link, put(keys[1], Known::Absent, b"2"))));
    begin_move(&cluster, slot, from, to);
    move_key(&cluster, "flint:{m}1", from, to);
    // One key is there and the other here; the list is here.
    let one_known = Known::Version(won(one(&mut link, put(keys[0], one_known, b"11"))));
    let two = Known::Version(won(one(&mut link, put(keys[1], two, b"22"))));
    assert_eq!(fetched(&mut link, keys[0]), (one_known, b"11".to_vec()));
    // A new key goes to where the slot goes to, its mark to where the list is.
    let three = Known::Version(won(one(&mut link, marked(keys[2], Known::Absent, b"3", b"{m}3"))));
    assert_eq!(cluster.nodes[to].text(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]), "2");
    assert_eq!(link.names(1, b"", None, 10, soon()).unwrap(), [b"{m}1".to_vec(), b"{m}3".to_vec()]);
    // What needs both is told why it has to wait.
    let part = |key, known| Part { key, known, write: Write::Keep };
    let both = || Attempt { parts: vec![part(keys[0], one_known), part(keys[1], two)], marks: Vec::new() };
    let error = one(&mut link, both()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("two nodes"), "{error}");
    move_key(&cluster, "flint:{m}2", from, to);
    let list = cluster.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "10"]);
    assert!(format!("{list:?}").contains("index"), "{list:?}");
    let tag = tag_of(slot);
    move_key(&cluster, &format!("flint\x01index:1{{{tag}}}"), from, to);
    won(one(&mut link, both()));
    end_move(&cluster, slot, from, to);
    let others = [store.clone(), open(&cluster.address())];
    for store in others {
        let mut link = store.link();
        assert_eq!(fetched(&mut link, keys[0]), (one_known, b"11".to_vec()));
        won(one(&mut link, keep(keys[2], three)));
        wait_until("the map should be known", || store.shard_of(keys[0]) == store.shard_of(keys[2]));
    }
    won(one(&mut link, delete(keys[2], three)));
}
