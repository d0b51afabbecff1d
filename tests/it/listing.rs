//! Long lists of limits: sent in parts, so that they take little memory however long they are.

use std::time::{Duration, Instant};

use flint::{Algorithm, Limit, Limiter, Options, SyncMode};

use crate::over_store;
use crate::util::{Client, PATIENCE, Server, command, get, run};

const LIMITS: usize = 20_000;
const CLIENTS: usize = 8;

/// Lists that are sent at once.
const AT_ONCE: usize = flint::bounds::MAX_LONG_LISTS;

/// Most memory that the lists take together, in KiB: 16 MiB of keys each, however long they are (`BATCH_BYTES` in the
/// limiter's list.rs). Made as a whole, each of these would be nearly as long, and take as much again as statuses.
const MOST: u64 = CLIENTS as u64 * 16 * 1024;

/// Over a store: each list has a connection, and copies of a thousand records.
const MOST_OF_STORE: u64 = CLIENTS as u64 * 24 * 1024;

/// The keys of all limits, in their order.
fn keys() -> Vec<String> {
    let mut keys: Vec<String> =
        (0..LIMITS).map(|number| format!("{}/{}/{number}", number % 7, "k".repeat(480))).collect();
    keys.sort_unstable();
    keys
}

/// A server with many limits of long keys. Their state holds still: each was spent from, and its year goes on.
fn many() -> (tempfile::TempDir, Server, Vec<String>) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let limiter = Limiter::open(&dir, Options::default().with_sync(SyncMode::Relaxed)).unwrap();
    let limit = Limit::new(5, Duration::from_secs(366 * 24 * 3600), Algorithm::FixedWindowCounter, None).unwrap();
    let keys = keys();
    for key in &keys {
        limiter.configure(key, limit.clone()).unwrap();
        assert!(limiter.check(key, 1).unwrap().allowed);
    }
    limiter.close().unwrap();
    drop(limiter);
    if over_store::is_on() {
        let moved = run(command().args(["store", "import"]).arg(&dir).args(["--store", &over_store::url(&dir)]));
        assert_eq!(moved.code, Some(0), "{moved:?}");
    }
    let server = Server::start(&dir, &["--sync", "batch"]);
    (parent, server, keys)
}

/// The keys of a reply that must be 200.
fn listed(reply: &crate::util::Reply) -> Vec<String> {
    let listing = reply.ok();
    listing.as_array().unwrap().iter().map(|limit| limit["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn long_lists_are_whole_and_take_little_memory() {
    let (_parent, server, keys) = many();
    let mut client = server.client();
    // Once, so that what is kept for the next time is not counted.
    client.get("/v1/limits?limit=10").ok();
    let process = server.process();
    let before = process.resident();
    process.forget_peak();
    std::thread::scope(|scope| {
        let list = || {
            let reply = server.client().get("/v1/limits");
            assert_eq!((reply.header("Transfer-Encoding"), reply.header("Content-Length")), (Some("chunked"), None));
            assert!(reply.body.len() > 14_000_000, "{}", reply.body.len());
            assert!(listed(&reply) == keys, "not all, or not in their order");
        };
        (0..CLIENTS).for_each(|_| drop(scope.spawn(list)));
    });
    let taken = process.peak().saturating_sub(before);
    println!("{CLIENTS} lists at once took {taken} KiB");
    assert!(taken < if over_store::is_on() { MOST_OF_STORE } else { MOST }, "{taken} KiB");

    // Without chunks, for clients that do not know them: up to the connection's end. A client that keeps its connection
    // is told so. Time goes on, and so does what depends on it.
    let still = |text: &str| -> String {
        let mut parts = text.split("\"next_ms\":");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |whole, part| whole + part.trim_start_matches(|c: char| c.is_ascii_digit()))
    };
    let whole = still(&client.get("/v1/limits").body);
    for more in ["", "Connection: keep-alive\r\n"] {
        let request = format!("GET /v1/limits HTTP/1.0\r\nHost: 127.0.0.1\r\n{more}\r\n");
        let reply = client.raw(&request, false).unwrap();
        assert_eq!((reply.header("Transfer-Encoding"), reply.header("Content-Length")), (None, None));
        assert!(reply.closes() && still(&reply.body) == whole, "other bytes");
    }

    // A part of the list is what it was.
    let of = |query: &str| listed(&server.client().get(&format!("/v1/limits?{query}")));
    let with = |prefix: &str| -> Vec<String> { keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect() };
    assert!(of("limit=12345") == keys[..12_345] && of("limit=3") == keys[..3]);
    assert!(of("prefix=5/") == with("5/") && of("prefix=9").is_empty());
    let after = |index: usize| format!("after={}", keys[index]);
    assert!(of(&after(9_999)) == keys[10_000..] && of(&format!("limit=500&{}", after(9_999))) == keys[10_000..10_500]);
    assert!(of(&format!("prefix=6/&limit=9&{}", after(0))) == with("6/")[..9]);
    server.terminate();
}

#[test]
fn too_many_long_lists_are_refused_and_one_that_is_let_go_makes_room() {
    let (_parent, server, keys) = many();
    let process = server.process();
    let before = process.descriptors();
    // Each has had its head, and does not read on.
    let begin = || {
        let mut client = server.client();
        client.send(get("/v1/limits", None)).unwrap();
        let head = client.receive_head().unwrap();
        (client, head)
    };
    for _ in 0..2 {
        let begun = Instant::now();
        let mut clients: Vec<Client> = (0..AT_ONCE)
            .map(|number| {
                let (client, head) = begin();
                assert_eq!(head.status, 200, "{number} after {:?}", begun.elapsed());
                client
            })
            .collect();
        let mut client = server.client();
        let reply = client.get("/v1/limits");
        assert!(reply.error(503, "overloaded").contains("limit="), "{reply:?}");
        assert_eq!(reply.header("Retry-After"), Some("1"));
        // Short lists and all else go on.
        assert!(listed(&client.get("/v1/limits?limit=50")) == keys[..50]);
        assert_eq!(client.get("/v1/health").ok()["ok"], true);
        // One goes away in the middle.
        drop(clients.pop());
        until("there is room for another", || begin().1.status == 200);
        drop(clients);
        until("nothing of them is left", || process.descriptors() <= before + 4);
    }
    server.terminate();
}

fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
