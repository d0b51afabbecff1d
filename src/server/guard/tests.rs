//! The rule, the table and the observation of connections, without sockets.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::super::net::names::Name;
use super::connection::{BODY_COST, Connection, FORGOTTEN_AFTER, HEAD_COST, Peer, Sample, serves};
use super::table::{Flow, Table, WAYS};
use super::verdict::{ASKING_SEND_TIMEOUT, DEAD_GRACE, Facts, OVER_BOUND_FACTOR, STREAM_SIGHTINGS, verdict};
use super::*;
use crate::bounds::MIN_DRAIN_BYTES;

const MS: Duration = Duration::from_millis(1);

struct Case {
    start: Instant,
    config: GuardConfig,
    facts: Facts,
}

impl Case {
    fn new() -> Case {
        let start = Instant::now();
        Case { start, config: GuardConfig::default(), facts: Facts::new(start, true) }
    }

    fn at(&self, after: Duration) -> Option<CutReason> {
        verdict(&self.facts, self.start + after, &self.config)
    }

    /// Within the bound nothing happens, one past it the reason.
    fn bound(&self, limit: Duration, reason: CutReason) {
        assert_eq!(self.at(limit), None, "{reason} within its bound");
        assert_eq!(self.at(limit + MS), Some(reason), "{reason} past its bound");
    }
}

#[test]
fn fresh_or_kept_alive_connections_may_be_silent_for_the_idle_timeout() {
    let case = Case::new();
    case.bound(case.config.idle_timeout, CutReason::Idle);
}

#[test]
fn a_begun_request_has_the_head_timeout() {
    let mut case = Case::new();
    case.facts.pending_since = Some(case.start);
    case.facts.pending_bytes = 1;
    case.bound(case.config.head_timeout, CutReason::Head);
}

#[test]
fn a_request_in_progress_is_not_cut_for_time() {
    let mut case = Case::new();
    case.facts.in_progress = 1;
    assert_eq!(case.at(Duration::from_secs(3600)), None);
    case.facts.pending_since = Some(case.start);
    assert_eq!(case.at(Duration::from_secs(3600)), None);
}

#[test]
fn a_body_has_its_timeout_although_in_progress() {
    let mut case = Case::new();
    case.facts.in_progress = 1;
    case.facts.body_unread = true;
    case.facts.pending_bytes = case.config.max_body_bytes;
    assert_eq!(case.at(Duration::from_secs(3600)), None, "within the bound");
    case.facts.pending_bytes += 1;
    assert_eq!(case.at(MS), Some(CutReason::Bytes), "more than any body and its chunks are");
    case.facts.body_large = true;
    assert_eq!(case.at(MS), None, "a large body is bounded by its length");
    case.facts.body_since = Some(case.start);
    case.bound(case.config.body_timeout, CutReason::Body);
}

#[test]
fn the_byte_bound_needs_two_sightings_or_a_lot() {
    let mut case = Case::new();
    case.facts.pending_since = Some(case.start);
    let bound = case.config.max_head_bytes;
    for in_progress in [0, 1] {
        case.facts.in_progress = in_progress;
        for (bytes, sightings, cut) in [
            (bound, 9, false),
            (bound + 1, 1, false),
            (bound + 1, 2, true),
            (bound * OVER_BOUND_FACTOR, 1, false),
            (bound * OVER_BOUND_FACTOR + 1, 1, true),
        ] {
            case.facts.pending_bytes = bytes;
            case.facts.sightings = sightings;
            assert_eq!(case.at(MS), cut.then_some(CutReason::Bytes), "{bytes}");
        }
    }
}

#[test]
fn unread_replies_have_the_send_timeout() {
    let mut case = Case::new();
    case.facts.in_progress = 1;
    case.facts.send_since = Some(case.start);
    case.bound(case.config.send_timeout, CutReason::Send);
    // A client that goes on asking has less time.
    case.facts.in_progress = 2;
    case.bound(ASKING_SEND_TIMEOUT, CutReason::Send);
    case.facts.attributed = false;
    case.bound(case.config.send_timeout, CutReason::Send);
}

#[test]
fn abandoned_and_dead_connections_have_their_grace() {
    let mut case = Case::new();
    case.facts.abandoned_since = Some(case.start);
    case.bound(case.config.abandon_grace, CutReason::Abandoned);
    case.facts.dead_since = Some(case.start);
    case.bound(DEAD_GRACE, CutReason::Dead);
    case.facts.in_progress = 1;
    assert_eq!(case.at(Duration::from_secs(3600)), None);
    case.facts.attributed = false;
    case.bound(case.config.idle_timeout, CutReason::Dead);
}

#[test]
fn unattributed_connections_stream_at_most_a_few_samples() {
    let mut case = Case::new();
    case.facts.attributed = false;
    case.facts.pending_bytes = u64::MAX;
    case.facts.sightings = STREAM_SIGHTINGS - 1;
    assert_eq!(case.at(MS), None);
    case.facts.sightings = STREAM_SIGHTINGS;
    assert_eq!(case.at(MS), Some(CutReason::Bytes));
}

#[test]
fn time_that_goes_back_cuts_nobody() {
    let case = Case::new();
    let early = case.start.checked_sub(Duration::from_secs(1)).unwrap();
    assert_eq!(verdict(&case.facts, early, &case.config), None);
}

#[test]
fn the_system_bounds_connections_and_leaks() {
    let bounds = |descriptors, threads| {
        let config = GuardConfig::default().within(descriptors, threads);
        (config.leaked_limit, config.max_connections)
    };
    assert_eq!(bounds(u64::MAX, u64::MAX), (4096, 1024));
    assert_eq!(bounds(4096 * 8, u64::MAX), (4096, 1024));
    assert_eq!(bounds(4096 * 8 - 1, u64::MAX), (4095, 1024));
    assert_eq!(bounds(u64::MAX, 4000), (500, 1024));
    assert_eq!(bounds(1024, u64::MAX), (128, 242));
    assert_eq!(bounds(128, u64::MAX), (16, 18));
    assert_eq!(bounds(0, 0), (16, 1));
}

fn handed(handed: u32, in_progress: u32) -> Flow {
    Flow { handed, in_progress, attributed: true, ..Flow::default() }
}

fn received(received: u64) -> Sample {
    Sample { received, ..Sample::default() }
}

fn connection(now: Instant) -> Connection {
    Connection::new(1, Peer::Tcp(None), -1, now)
}

#[test]
fn dripping_does_not_extend_the_head_and_a_request_ends_it() {
    let start = Instant::now();
    let mut c = connection(start);
    c.observe(handed(0, 0), received(0), start, 100);
    assert_eq!(c.facts.pending_since, None);
    for step in 1..5 {
        c.observe(handed(0, 0), received(u64::from(step)), start + MS * step, 100);
        assert_eq!(c.facts.pending_since, Some(start + MS), "first byte counts");
    }
    // The request is handed over and answered between two walks, and the next has begun.
    c.observe(handed(1, 0), received(50), start + MS * 9, 100);
    assert_eq!(c.facts.pending_since, None);
    assert_eq!(c.facts.last_progress, start + MS * 9);
    c.observe(handed(1, 0), received(51), start + MS * 10, 100);
    assert_eq!(c.facts.pending_since, Some(start + MS * 10));
    assert_eq!(c.facts.pending_bytes, 1);
}

#[test]
fn bytes_that_tiny_http_has_not_read_take_no_memory() {
    let now = Instant::now();
    let mut c = connection(now);
    let sample = Sample { unread: 950, ..received(1000) };
    assert!(c.untouched);
    c.observe(handed(0, 0), sample, now, 100);
    assert_eq!((c.facts.pending_bytes, c.facts.sightings), (50, 0));
    c.observe(handed(0, 0), received(1000), now, 100);
    assert_eq!((c.facts.pending_bytes, c.facts.sightings), (1000, 1));
}

#[test]
fn a_connection_of_which_nothing_was_read_is_forgotten_and_not_late() {
    let now = Instant::now();
    let mut c = connection(now);
    let waiting = |unread| Sample { unread, waiting: MS, ..received(40) };
    c.observe(handed(0, 0), received(0), now, 100);
    assert!(c.forgotten.is_none());
    c.observe(handed(0, 0), waiting(40), now, 100);
    assert!(!c.wake_is_due(now + FORGOTTEN_AFTER - MS * 2));
    assert!(c.wake_is_due(now + FORGOTTEN_AFTER - MS));
    assert!(!c.wake_is_due(now + FORGOTTEN_AFTER));
    c.observe(handed(0, 0), waiting(40), now + MS * 50, 100);
    assert_eq!(c.facts.pending_since, Some(now + MS * 50));
    assert!(c.wake_is_due(now + MS * 50));
    c.observe(handed(0, 0), waiting(0), now + MS * 60, 100);
    assert!(c.forgotten.is_none());
    // A later request whose bytes wait is not a forgotten connection.
    c.observe(handed(0, 0), waiting(40), now + MS * 70, 100);
    assert!(c.forgotten.is_none());
    assert_eq!(c.facts.pending_since, Some(now + MS * 50));
}

#[test]
fn reading_a_trickle_of_replies_is_not_progress() {
    let now = Instant::now();
    let mut c = connection(now);
    let sample = |acked| Sample { acked, unsent: 1, ..Sample::default() };
    c.observe(handed(1, 1), sample(0), now, 100);
    c.observe(handed(1, 1), sample(MIN_DRAIN_BYTES - 1), now + MS, 100);
    assert_eq!(c.facts.send_since, Some(now));
    c.observe(handed(1, 1), sample(MIN_DRAIN_BYTES), now + MS * 2, 100);
    assert_eq!(c.facts.send_since, Some(now + MS * 2));
    c.observe(handed(1, 1), received(0), now + MS * 3, 100);
    assert_eq!(c.facts.send_since, None);
}

#[test]
fn each_body_has_its_own_clock() {
    let now = Instant::now();
    let mut c = connection(now);
    let reading = |body_events| Flow { body_events, body_unread: 1, ..handed(1, 1) };
    c.observe(reading(2), received(9), now, 100);
    c.observe(reading(2), received(10), now + MS, 100);
    assert_eq!(c.facts.body_since, Some(now));
    c.observe(reading(5), received(11), now + MS * 2, 100);
    assert_eq!(c.facts.body_since, Some(now + MS * 2));
    c.observe(handed(2, 0), received(12), now + MS * 3, 100);
    assert_eq!(c.facts.body_since, None);
}

fn guard_handle(max_connections: usize) -> GuardHandle {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let shared = Box::leak(Box::new(Shared::new(max_connections, wake)));
    GuardHandle { shared }
}

fn peer(n: u32) -> SocketAddr {
    let ip = std::net::Ipv4Addr::from_bits(n >> 12);
    SocketAddr::from((ip, (n & 0xFFF) as u16))
}

#[test]
fn request_guards_count_what_is_in_progress() {
    let guard_handle = guard_handle(64);
    let table = &guard_handle.shared.table;
    let flow = || table.flow(table.key(peer(1)), 1);
    let first = guard_handle.note_request(Some(peer(1)), Body::Read);
    let mut second = guard_handle.note_request(Some(peer(1)), Body::Unread);
    assert_eq!((flow().handed, flow().in_progress), (2, 2));
    assert_eq!(flow().body_unread, 1);
    assert!(!flow().body_large);
    second.expect_large_body();
    second.expect_large_body();
    assert_eq!((flow().body_unread, flow().body_large), (1, true));
    second.body_done();
    assert_eq!((flow().body_unread, flow().body_large), (0, false));
    let mut gone = guard_handle.note_request(Some(peer(1)), Body::Unread);
    gone.expect_large_body();
    drop(gone);
    assert_eq!((flow().handed, flow().body_unread, flow().body_large), (3, 0, false));
    drop(first);
    second.abandon();
    assert_eq!((flow().handed, flow().in_progress), (3, 0));
    assert!(flow().abandoned);
    table.settle(table.key(peer(1)));
    assert!(!flow().abandoned);
    let mut unix = guard_handle.note_request(None, Body::Read);
    unix.give_up();
    assert!(!unix.is_given_up());
}

#[test]
fn mapped_addresses_are_their_ipv4_ones() {
    let table = Table::new(64);
    let mapped = "[::ffff:0.0.0.1]:5".parse().unwrap();
    assert_eq!(table.key(mapped), table.key("0.0.0.1:5".parse().unwrap()));
    let v6: SocketAddr = "[::1]:5".parse().unwrap();
    assert_ne!(table.key(v6), table.key("[::1]:6".parse().unwrap()));
}

#[test]
fn a_full_table_loses_attribution_and_never_a_change() {
    let guard_handle = guard_handle(1);
    let table = &guard_handle.shared.table;
    let guards: Vec<RequestGuard> = (1..20_000).map(|n| guard_handle.note_request(Some(peer(n)), Body::Read)).collect();
    let lost = guards.iter().filter(|t| !t.attributed).count();
    assert!(lost >= 20_000 - 1 - 1024 * WAYS, "{lost}");
    let key = table.key(peer(19_999));
    assert!(!table.flow(key, 1).attributed);
    let before = table.flow(key, 1);
    assert!(before.in_progress > 0);
    drop(guard_handle.note_request(Some(peer(19_999)), Body::Read));
    assert_ne!(table.flow(key, 1).handed, before.handed);
    drop(guards);
    // The guard frees what no walk sees, and what it saw stays for two.
    for walk in 2..5 {
        table.free_unseen(walk);
    }
    let used = table.slots.iter().filter(|s| s.key.load(SeqCst) != 0);
    assert_eq!(used.count(), 0);
    // The request that was lost still shows, as a change, when the buckets have room again.
    assert!(table.flow(key, 5).attributed);
    assert_ne!(table.flow(key, 5).handed, 0);
}

#[test]
fn freeing_races_lose_no_count_of_an_open_connection() {
    let guard_handle = guard_handle(64);
    let table = &guard_handle.shared.table;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|thread| {
                scope.spawn(move || {
                    for n in 0..100_000_u32 {
                        let peer = Some(peer(thread * 40 + n % 40 + 1));
                        let guard = guard_handle.note_request(peer, Body::Read);
                        drop(guard);
                    }
                })
            })
            .collect();
        let done = &done;
        let freer = scope.spawn(move || {
            let mut walk = 1;
            while !done.load(SeqCst) {
                walk += 1;
                table.free_unseen(walk);
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        done.store(true, SeqCst);
        freer.join().unwrap();
    });
    // Every count came back, wherever it went.
    for slot in table.slots.iter().chain([&table.overflow]) {
        assert_eq!(slot.flow.load(SeqCst) as u32, 0);
    }
}

#[test]
fn local_names_match_their_listener() {
    let tcp = |s: &str| Name::Tcp(s.parse().unwrap());
    assert!(serves(&tcp("0.0.0.0:80"), &tcp("10.0.0.1:80")));
    assert!(serves(&tcp("[::]:80"), &tcp("[::ffff:10.0.0.1]:80")));
    assert!(serves(&tcp("127.0.0.1:80"), &tcp("127.0.0.1:80")));
    assert!(!serves(&tcp("127.0.0.1:80"), &tcp("127.0.0.2:80")));
    assert!(!serves(&tcp("0.0.0.0:80"), &tcp("10.0.0.1:81")));
    let unix = |s: &[u8]| Name::Unix(s.to_vec());
    assert!(serves(&unix(b"/run/a"), &unix(b"/run/a")));
    assert!(!serves(&unix(b"/run/a"), &unix(b"")));
    assert!(!serves(&unix(b""), &unix(b"")));
    assert!(!serves(&tcp("0.0.0.0:80"), &unix(b"/run/a")));
}

#[test]
fn unfinished_heads_and_bodies_cost_memory_and_cut_ones_do_not() {
    let now = Instant::now();
    let mut c = connection(now);
    c.observe(handed(0, 0), received(0), now, 100);
    c.observe(handed(0, 0), received(1000), now, 100);
    assert_eq!(c.unfinished(), 1000 * HEAD_COST);
    let body = Flow { body_unread: 1, ..handed(1, 1) };
    c.observe(body, received(1000), now, 100);
    assert_eq!(c.unfinished(), 0);
    c.observe(body, received(3000), now, 100);
    assert_eq!(c.unfinished(), 2000 * BODY_COST);
    c.facts.body_large = true;
    assert_eq!(c.unfinished(), 0, "large bodies are bounded by their number");
    c.facts.body_large = false;
    c.cut = Some(now);
    assert_eq!(c.unfinished(), 0);
}
