//! A server whose limits are elsewhere: with an engine that the test drives, over real sockets.

mod client;
mod distant;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::client::{Client, Reply};
use self::distant::Distant;
use super::*;
use crate::bounds::LOG_WAIT_MS;
use crate::clock::Clock;
use crate::limiter::{Limiter, Options, SyncMode};

/// Longest wait for anything, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

const TOKEN: &str = "of-the-test";

fn limiter(clock: &Clock) -> (tempfile::TempDir, Limiter) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default().with_sync(SyncMode::Relaxed).with_clock(clock.clone());
    let limiter = Limiter::open(dir.path().join("data"), options).unwrap();
    (dir, limiter)
}

fn serve(address: &str, engine: Arc<dyn Engine>) -> Server {
    let config = Config {
        tokens: Tokens::new(vec![Token::new(TOKEN, "the test").unwrap()]),
        workers: 4,
        hosts: Vec::new(),
        gates: Gates::parse(&["web=by=ip&limit=2/1h"], DEFAULT_TRUSTED, 64).unwrap(),
        open_health: false,
        legacy: LegacyHeaders::named("delta").unwrap(),
        idle_timeout: Duration::from_secs(60),
        max_connections: 1024,
        on_exhausted: Box::new(|| {}),
    };
    Server::start(bind(&Bind::parse(address).unwrap(), 0o600).unwrap(), config, engine).unwrap()
}

/// A server, the engine that it asks, and what both of them need.
struct Far {
    server: Server,
    engine: Arc<Distant>,
    _dirs: [tempfile::TempDir; 2],
}

impl Far {
    fn start_on(address: &str, clock: &Clock) -> Far {
        let ((dir, true_one), (stale_dir, stale)) = (limiter(clock), limiter(clock));
        let engine = Arc::new(Distant::new(true_one, stale));
        let server = serve(address, engine.clone());
        Far { server, engine, _dirs: [dir, stale_dir] }
    }

    fn start() -> Far {
        Far::start_on("127.0.0.1:0", &Clock::manual(1_700_000_000_000_000))
    }

    fn client(&self) -> Client {
        Client::new(self.server.url(), TOKEN)
    }

    /// Sends a request whose operation then waits.
    fn send(&self, method: &str, target: &str, body: &str) -> Client {
        let mut client = self.client();
        client.send(method, target, &[], body);
        client
    }

    /// Waits until all requests are answered or gone, and nothing is kept of them.
    fn settle(&self) {
        wait_for(|| self.server.context.pending.len() == 0 && self.server.context.turns.is_idle());
    }
}

fn wait_for(what: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "not in time");
        thread::sleep(Duration::from_millis(1));
    }
}

const CHECK: &str = r#"{"key":"k","limit":"10/1h"}"#;

#[test]
fn each_request_gets_the_reply_of_its_operation_in_whatever_order_these_end() {
    let far = Far::start();
    let mut waiting: Vec<_> = (0..5_u32)
        .map(|number| {
            let client = far.send("POST", &format!("/v1/take/k{number}?limit={}/1h", number + 10), "");
            (number, client, far.engine.next())
        })
        .collect();
    // From the last to the first, some of them after runs that count for nothing.
    waiting.reverse();
    for (number, mut client, mut asked) in waiting {
        for _ in 0..number % 3 {
            asked.run_in_vain(&far.engine);
        }
        asked.answer(&far.engine);
        let reply = client.receive();
        assert_eq!((reply.status, reply.body), (200, format!("ok {}\n", number + 9)));
    }
    far.settle();
    assert!(far.engine.is_idle());
    far.server.stop();
}

#[test]
fn requests_of_one_connection_are_asked_one_after_the_other() {
    let far = Far::start();
    let mut client = far.client();
    for cost in 1..=3 {
        client.send("POST", &format!("/v1/take/k?limit=10/1h&cost={cost}"), &[], "");
    }
    for left in [9, 7, 4] {
        let asked = far.engine.next();
        assert!(far.engine.is_idle(), "the next one was asked before this one was answered");
        asked.answer(&far.engine);
        assert_eq!(client.receive().body, format!("ok {left}\n"));
    }
    far.server.stop();
}

#[test]
fn on_a_unix_socket_replies_wait_for_those_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let far = Far::start_on(&format!("unix:{}", path.display()), &Clock::manual(1_700_000_000_000_000));
    let mut first = far.send("POST", "/v1/check", CHECK);
    let asked = far.engine.next();
    let mut second = far.send("POST", "/v1/take/other?limit=10/1h", "");
    far.engine.next().answer(&far.engine);
    // Its reply is made at once, and leaves after the two others.
    let mut third = far.send("GET", "/v1/health", "");
    wait_for(|| far.server.context.pending.len() >= 3);
    asked.answer(&far.engine);
    assert_eq!(first.receive().status, 200);
    assert_eq!(second.receive().body, "ok 9\n");
    assert_eq!(third.receive().status, 200);
    far.settle();
    far.server.stop();
}

#[test]
fn errors_of_the_engine_are_replies_and_gates_let_through_what_was_not_decided() {
    let far = Far::start();
    let fail = |method: &str, target: &str, body: &str, kind: Kind| {
        let mut client = far.send(method, target, body);
        let mut asked = far.engine.next();
        // It had decided, but what it said then does not count.
        asked.run_in_vain(&far.engine);
        asked.fail(Error::new(kind, "of the test"));
        client.receive()
    };
    for kind in [Kind::StoreUnavailable, Kind::OutcomeUnknown, Kind::CrossSlot, Kind::Overloaded] {
        let reply = fail("POST", "/v1/check", CHECK, kind);
        assert_eq!((reply.status, &reply.json()["code"]), (kind.http_status(), &kind.code().into()), "{kind:?}");
        assert_eq!(reply.json()["error"], "of the test");
        assert_eq!(reply.header("Retry-After"), (kind == Kind::Overloaded).then_some("1"), "{kind:?}");
    }
    for kind in [Kind::StoreUnavailable, Kind::OutcomeUnknown, Kind::Overloaded] {
        assert_eq!(fail("GET", "/v1/gate/k?limit=10/1h", "", kind).status, 503);
        let open = fail("GET", "/v1/gate/k?limit=10/1h&on_error=allow", "", kind);
        assert_eq!(open.status, 204, "{kind:?}");
        assert!(open.header("Flint-Degraded").is_some_and(|why| why.contains(kind.code())), "{open:?}");
    }
    // A wrong question is not an outage.
    assert_eq!(fail("GET", "/v1/gate/k?on_error=allow", "", Kind::CrossSlot).status, 400);
    // A worker that waits for the answer says the same.
    let many = r#"{"items":["#.to_owned() + &vec![r#"{"key":"k","limit":"1/1h"}"#; 400].join(",") + "]}";
    assert!(many.len() > 8 * 1024);
    let reply = fail("POST", "/v1/check-many", &many, Kind::StoreUnavailable);
    assert_eq!((reply.status, &reply.json()["code"]), (503, &"store_unavailable".into()));
    far.settle();
    far.server.stop();
}

#[test]
fn a_request_that_waits_too_long_is_told_that_its_outcome_is_unknown() {
    let far = Far::start();
    let past = || Instant::now() + Duration::from_millis(LOG_WAIT_MS);
    let ask = |target: &str| {
        let mut client = far.send("POST", target, r#"{"key":"k","limit":"10/1h"}"#);
        let asked = far.engine.next();
        wait_for(|| far.server.context.pending.len() == 1);
        // A slot is filled a moment after its operation was handed over.
        wait_for(|| {
            far.server.context.pending.expire(past());
            far.server.context.pending.len() == 0
        });
        (client.receive(), asked)
    };
    let (reply, late) = ask("/v1/check");
    assert_eq!((reply.status, &reply.json()["code"]), (503, &"outcome_unknown".into()), "{reply:?}");
    let (open, _) = ask("/v1/gate/k?limit=10/1h&on_error=allow");
    assert_eq!(open.status, 204);
    assert!(open.header("Flint-Degraded").is_some_and(|why| why.contains("outcome_unknown")), "{open:?}");
    // What still comes is not a reply to anything.
    late.answer(&far.engine);
    let mut client = far.send("POST", "/v1/take/other?limit=10/1h", "");
    far.engine.next().answer(&far.engine);
    assert_eq!(client.receive().body, "ok 9\n");
    far.settle();
    far.server.stop();
}

#[test]
fn nothing_is_kept_of_requests_whose_connections_end() {
    let far = Far::start();
    let before = Arc::strong_count(&far.server.context);
    let mut asked = Vec::new();
    for number in 0..20 {
        let client = far.send("POST", "/v1/check", CHECK);
        asked.push(far.engine.next());
        client.end(number % 2 == 0);
    }
    assert_eq!(far.server.context.pending.len(), 20);
    for (number, asked) in asked.into_iter().enumerate() {
        match number % 3 {
            0 => asked.fail(Error::new(Kind::StoreUnavailable, "of the test")),
            _ => asked.answer(&far.engine),
        }
    }
    far.settle();
    wait_for(|| Arc::strong_count(&far.server.context) == before);
    far.server.stop();
}

#[test]
fn a_server_that_stops_answers_what_is_in_flight() {
    let far = Far::start();
    let mut waiting: Vec<_> = (0..3).map(|_| (far.send("POST", "/v1/check", CHECK), far.engine.next())).collect();
    let (context, engine) = (Arc::clone(&far.server.context), Arc::clone(&far.engine));
    let stopping = thread::spawn(move || far.server.stop());
    wait_for(|| context.is_draining());
    let (_, last) = waiting.pop().map(|(client, asked)| (client.end(false), asked)).unwrap();
    for (mut client, asked) in waiting {
        asked.answer(&engine);
        let reply = client.receive();
        assert_eq!((reply.status, reply.header("Connection")), (200, Some("close")), "{reply:?}");
    }
    assert!(!stopping.is_finished(), "a request is in flight");
    last.answer(&engine);
    stopping.join().unwrap();
    assert_eq!((context.pending.len(), Arc::strong_count(&context)), (0, 1));
}

/// Requests that show what replies bear, one after the other; `HOLD` is the id that the last hold was given.
const REQUESTS: &[(&str, &str, &[&str], &str)] = &[
    ("POST", "/v1/limits", &[], r#"{"key":"login","windows":["5/1s","8/1d"]}"#),
    ("POST", "/v1/limits", &[], r#"{"key":"user:*","rate":3,"per":"1m"}"#),
    ("POST", "/v1/limits", &[], r#"{"key":"gpu","slots":2}"#),
    ("POST", "/v1/check", &[], r#"{"key":"login","cost":4}"#),
    ("POST", "/v1/check", &[], r#"{"key":"login","cost":4}"#),
    ("POST", "/v1/check?status=429", &[], r#"{"key":"login","cost":4}"#),
    ("POST", "/v1/check", &[], r#"{"key":"login","cost":9}"#),
    ("POST", "/v1/check", &[], r#"{"key":"nobody"}"#),
    ("POST", "/v1/check", &[], r#"{"key":"login","kost":1}"#),
    ("POST", "/v1/check", &[], "{"),
    ("POST", "/v1/check-all", &[], r#"{"items":["login",["user:a",2],{"key":"b","limit":"1/1h"}]}"#),
    ("POST", "/v1/check-all", &[], r#"{"items":["user:a",["user:b",3],"user:a"]}"#),
    ("POST", "/v1/check-many", &[], r#"{"items":["user:a","user:a","nobody"]}"#),
    ("POST", "/v1/check", &["Idempotency-Key: one"], r#"{"key":"user:c"}"#),
    ("POST", "/v1/check", &["Idempotency-Key: one"], r#"{"key":"user:c"}"#),
    ("POST", "/v1/check", &["Idempotency-Key: one"], r#"{"key":"user:d"}"#),
    ("POST", "/v1/peek", &[], r#"{"key":"user:c","cost":3}"#),
    ("POST", "/v1/charge", &[], r#"{"key":"user:c","cost":7}"#),
    ("POST", "/v1/refund", &[], r#"{"key":"user:c","cost":2}"#),
    ("POST", "/v1/hold", &[], r#"{"items":["gpu",["user:e",2]],"ttl":"30s"}"#),
    ("POST", "/v1/renew", &[], r#"{"hold":"HOLD","ttl":"40s"}"#),
    ("GET", "/v1/limits/gpu", &[], ""),
    ("POST", "/v1/settle", &[], r#"{"hold":"HOLD","cost":1}"#),
    ("POST", "/v1/settle", &[], r#"{"hold":"HOLD","cost":1}"#),
    ("POST", "/v1/settle", &[], r#"{"hold":"HOLD","cost":2}"#),
    ("POST", "/v1/settle", &[], r#"{"hold":"HOLD0"}"#),
    ("POST", "/v1/take/user%3Af?cost=2", &[], ""),
    ("POST", "/v1/take/user%3Af?cost=2", &[], ""),
    ("GET", "/v1/gate/user%3Af?cost=2", &["Origin: http://page.example"], ""),
    ("GET", "/v1/gates/web/what/ever?it=is", &["X-Forwarded-For: 203.0.113.9"], ""),
    ("PATCH", "/v1/gates/web", &["X-Forwarded-For: 203.0.113.9"], "left alone"),
    ("GET", "/v1/gates/web?x=1", &["X-Forwarded-For: 203.0.113.9"], ""),
    ("GET", "/v1/limits/user%3Af", &[], ""),
    ("HEAD", "/v1/limits/user%3Af", &[], ""),
    ("GET", "/v1/limits/nobody", &[], ""),
    ("PATCH", "/v1/limits/nobody", &[], ""),
    ("GET", "/v1/check", &[], ""),
    ("POST", "/v1/check", &["Origin: http://page.example"], r#"{"key":"login"}"#),
    ("POST", "/v1/reset", &[], r#"{"key":"login"}"#),
    ("GET", "/v1/limits?live=true", &[], ""),
    ("DELETE", "/v1/limits/login", &[], ""),
    ("DELETE", "/v1/limits/login", &[], ""),
    ("GET", "/v1/top?by=denied&limit=1", &[], ""),
    ("POST", "/v1/log/flush", &[], ""),
    ("DELETE", "/v1/limits?prefix=", &[], ""),
];

/// All replies to [`REQUESTS`], with the ids of holds left out, which differ from limiter to limiter.
fn replies(mut client: Client) -> Vec<Reply> {
    let mut hold = "none".to_owned();
    let ask = |(method, target, headers, body): &(&str, &str, &[&str], &str)| {
        client.send(method, target, headers, &body.replace("HOLD", &hold));
        let mut reply = client.receive();
        if let Some(id) = serde_json::from_str(&reply.body)
            .ok()
            .and_then(|body: serde_json::Value| body.get("hold").and_then(|id| id.as_str().map(str::to_owned)))
        {
            hold = id;
        }
        reply.body = reply.body.replace(&hold, "HOLD");
        reply
    };
    REQUESTS.iter().map(ask).collect()
}

#[test]
fn replies_are_those_of_a_limiter_in_this_process() {
    let clock = Clock::manual(1_700_000_000_000_000);
    let far = Far::start_on("127.0.0.1:0", &clock);
    let driver = far.engine.drive(Duration::ZERO, |_| None);
    let told = replies(far.client());
    let (_dir, limiter) = limiter(&clock);
    let near = serve("127.0.0.1:0", Arc::new(limiter));
    let known = replies(Client::new(near.url(), TOKEN));
    for ((told, known), request) in told.iter().zip(&known).zip(REQUESTS) {
        assert_eq!(told, known, "{request:?}");
    }
    let statuses: Vec<u16> = known.iter().map(|reply| reply.status).collect();
    assert!(
        [200, 204, 400, 403, 404, 405, 409, 422, 429].iter().all(|status| statuses.contains(status)),
        "{statuses:?}"
    );
    far.engine.end();
    driver.join().unwrap();
    far.server.stop();
    near.stop();
}

#[test]
fn what_many_connections_are_told_is_what_was_spent() {
    const CONNECTIONS: usize = 128;
    const REQUESTS_EACH: usize = 12;
    let far = Far::start();
    // Every fifth operation fails, every other of these after it was done.
    let driver = far.engine.drive(Duration::from_micros(200), |number| match number % 10 {
        3 => Some(Error::new(Kind::StoreUnavailable, "of the test")),
        8 => Some(Error::new(Kind::OutcomeUnknown, "of the test")),
        _ => None,
    });
    let (told, unknown) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (mut client, told, unknown) = (far.client(), &told, &unknown);
            scope.spawn(move || {
                let mut own = 0;
                for turn in 0..REQUESTS_EACH {
                    let hot = turn % 2 == 0;
                    let (key, target) = match hot {
                        true => ("hot".to_owned(), "/v1/check"),
                        false => (format!("own{number}"), "/v1/hold"),
                    };
                    client.send("POST", target, &[], &format!(r#"{{"key":"{key}","limit":"600/1d"}}"#));
                    let reply = client.receive();
                    let body = reply.json();
                    match (reply.status, hot) {
                        (200, true) => {
                            told.fetch_add(usize::from(body["allowed"] == true), Ordering::Relaxed);
                        }
                        // Nobody else has this key, so that it shows whose reply this is.
                        (200, false) => {
                            assert_eq!((&body["key"], &body["allowed"]), (&key.as_str().into(), &true.into()));
                            assert!(body["used"].as_u64().is_some_and(|used| used > own), "{body}");
                            own = body["used"].as_u64().unwrap();
                        }
                        (503, hot) => {
                            let done = body["code"] == "outcome_unknown";
                            assert!(done || body["code"] == "store_unavailable", "{body}");
                            unknown.fetch_add(usize::from(done && hot), Ordering::Relaxed);
                        }
                        _ => panic!("{reply:?}"),
                    }
                }
            });
        }
    });
    let used = far.engine.limiter().status("hot").unwrap().unwrap().used.unwrap();
    let (told, unknown) = (told.into_inner() as u64, unknown.into_inner() as u64);
    assert!(told <= used && used <= 600 && used <= told + unknown, "{told} <= {used} <= {told} + {unknown}");
    far.settle();
    far.engine.end();
    driver.join().unwrap();
    far.server.stop();
}
