//! Bodies that never come, come slowly, or come although nothing reads them; and a queue of workers that is full.

use super::*;
use crate::util::{Process, request};

/// As many as are read in chunks at once.
const IN_CHUNKS: usize = flint::bounds::MAX_WAITING_BODIES;

/// How soon a reply comes that waits for nothing.
fn at_once() -> Duration {
    if soak() { Duration::from_millis(500) } else { Duration::from_secs(4) }
}

/// A request that announces such a body, and is refused by its head.
struct Refused {
    head: String,
    announced: usize,
    status: u16,
    code: &'static str,
}

fn refused() -> Vec<Refused> {
    let head = |path: &str, token: &str, more: &str, announced: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n{more}\
             Content-Length: {announced}\r\n\r\n"
        )
    };
    let expects = "Expect: 100-continue\r\n";
    let case = |path, token, more, announced, status, code| Refused {
        head: head(path, token, more, announced),
        announced,
        status,
        code,
    };
    vec![
        case("/v1/check", "wrong", "", 5000, 401, "unauthorized"),
        case("/v1/check", "wrong", expects, 5000, 401, "unauthorized"),
        case("/v1/check", "wrong", expects, 500, 401, "unauthorized"),
        case("/v1/check", TOKEN, "Origin: https://evil.example\r\n", 5000, 403, "forbidden_origin"),
        case("/v1/check", TOKEN, "", 2 * 1024 * 1024, 413, "body_too_large"),
        case("/v1/check", TOKEN, expects, 2 * 1024 * 1024, 413, "body_too_large"),
        case("/v1/health", TOKEN, "", 5000, 405, "method_not_allowed"),
        case("/v1/nothing", TOKEN, "", 5000, 404, "not_found"),
    ]
}

#[test]
fn what_is_refused_by_its_head_is_refused_before_its_body() {
    let victim = Victim::new(&["--max-blocking", "1"]);
    for Refused { head, status, code, .. } in refused() {
        let mut client = Client::on(victim.connect());
        let begun = Instant::now();
        let reply = client.raw(&head, false).unwrap();
        assert!(begun.elapsed() < at_once(), "after {:?}: {head}", begun.elapsed());
        reply.error(status, code);
        // It does not ask for the body, and takes no further request for one.
        assert!(reply.interim.is_empty() && reply.closes(), "{head}{reply:?}");
        let patience = Duration::from_secs(if soak() { 1 } else { 8 });
        assert!(client.has_ended(patience), "{head}");
    }
    victim.survived().terminate();
}

#[test]
fn what_is_refused_by_its_head_may_send_its_body_first() {
    let victim = Victim::new(&["--max-blocking", "1"]);
    for Refused { head, announced, status, code } in refused() {
        // Far less than a second's worth, or the client would have to read meanwhile.
        for _ in 0..if announced > 10_000 { 0 } else { size(50, 10) } {
            let mut client = Client::on(victim.connect());
            let reply = client.raw(&(head.clone() + &" ".repeat(announced)), false).unwrap();
            reply.error(status, code);
            assert!(reply.closes(), "{head}{reply:?}");
            // No second reply, and no reset that would take the first one away from a slower reader.
            assert_eq!(client.rest().unwrap(), "", "{head}");
        }
    }
    victim.survived().terminate();
}

#[test]
fn bodies_in_chunks_byte_by_byte() {
    let victim = Victim::new(&["--max-blocking", "1"]);
    victim.client().post("/v1/limits", r#"{"key":"few","rate":100,"per":"366d"}"#).ok();
    let check = [
        "16\r\n{\"key\":\"few\",\"cost\":2}\r\n0\r\n\r\n",
        "1\r\n{\r\n6\r\n\"key\":\r\n5\r\n\"few\"\r\n9\r\n,\"cost\":2\r\n01\r\n}\r\n0\r\n\r\n",
        "16;name=value\r\n{\"key\":\"few\",\"cost\":2}\r\n0\r\n\r\n",
    ];
    let threads: Vec<_> = (0..2 * check.len())
        .map(|index| {
            let (mut stream, body) = (victim.connect(), check[index % check.len()]);
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                stream.write_all(&post("/v1/check", "Transfer-Encoding: chunked\r\n", "")).unwrap();
                for byte in body.bytes() {
                    stream.write_all(&[byte]).unwrap();
                    // So that each is read by itself.
                    std::thread::sleep(Duration::from_millis(2));
                }
                let mut client = Client::on(stream);
                let remaining = client.receive().unwrap().ok()["remaining"].as_u64().unwrap();
                // tiny_http is not strict about chunks, so the connection ends after such a body.
                assert_eq!(client.rest().unwrap(), "");
                remaining
            })
        })
        .collect();
    let mut remaining: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, [88, 90, 92, 94, 96, 98]);
    victim.survived().terminate();
}

fn reading(process: &Process) -> usize {
    process.thread_names().iter().filter(|name| *name == "flint-body").count()
}

#[test]
fn slow_bodies_in_chunks() {
    let victim = Victim::new(&["--max-blocking", "1"]);
    let process = victim.server.process();
    let begin = post("/v1/check", "Transfer-Encoding: chunked\r\n", "b\r\n{\"key\"");
    let slow = || {
        let mut client = Client::on(victim.connect());
        client.send(&begin).unwrap();
        client
    };
    let mut clients: Vec<_> = (0..IN_CHUNKS).map(|_| slow()).collect();
    victim.until("each has a thread", PATIENCE, || reading(&process) == IN_CHUNKS);
    let reply = slow().receive().unwrap();
    assert!(reply.error(503, "overloaded").contains("try again"), "{reply:?}");
    assert_eq!(reply.header("Retry-After"), Some("1"));
    // Bodies of a length go on being read.
    let long = format!("{}{}", r#"{"key":"k"}"#, " ".repeat(2000));
    assert_eq!(victim.client().post("/v1/check", &long).ok()["allowed"], true);
    for client in &mut clients {
        client.send(":\"k\"}\r\n0\r\n\r\n").unwrap();
        assert_eq!(client.receive().unwrap().ok()["allowed"], true);
    }
    victim.until("no thread is left", PATIENCE, || reading(&process) == 0);
    drop(clients);
    victim.survived().terminate();
}

#[test]
fn a_full_queue_refuses_at_once() {
    const CLIENTS: usize = 256;
    const THREADS: usize = 8;
    let victim = Victim::new(&["--max-blocking", "1"]);
    let health = Good::asking(&victim.server.url, "GET", "/v1/health", "");
    let compact = request("POST", "/v1/log/compact", Some(TOKEN), "");
    let reset = request("POST", "/v1/reset", Some(TOKEN), r#"{"key":"k"}"#);
    let (stop, url) = (AtomicBool::new(false), victim.server.url.as_str());
    let (refused, answered) = std::thread::scope(|scope| {
        let work = || {
            let mut clients: Vec<_> = (0..CLIENTS / THREADS).map(|_| Client::new(url, Some(TOKEN))).collect();
            let (mut refused, mut answered) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                // Each has one on its way: more than the worker and its queue have room for.
                let requests = [&compact, &reset].into_iter().cycle();
                clients.iter_mut().zip(requests).for_each(|(client, request)| client.send(request).unwrap());
                for reply in clients.iter_mut().map(|client| client.receive().unwrap()) {
                    match reply.status {
                        200 => answered += 1,
                        _ => {
                            reply.error(503, "overloaded");
                            assert_eq!((reply.header("Retry-After"), reply.closes()), (Some("1"), false));
                            refused += 1;
                        }
                    }
                }
            }
            (refused, answered)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let (mut client, deadline) = (victim.client(), Instant::now() + PATIENCE);
        let took = loop {
            let begun = Instant::now();
            if client.post("/v1/reset", r#"{"key":"k"}"#).status == 503 {
                break Some(begun.elapsed());
            }
            if Instant::now() > deadline {
                break None;
            }
        };
        stop.store(true, Ordering::Relaxed);
        let counts: Vec<(usize, usize)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(took.is_some_and(|took| took < at_once()), "{took:?} {counts:?}");
        counts.iter().fold((0, 0), |sums, counts| (sums.0 + counts.0, sums.1 + counts.1))
    });
    println!("{refused} refused, {answered} answered");
    assert!(refused > 0 && answered > 0, "{refused} refused, {answered} answered");
    health.finish();
    victim.survived().terminate();
}
