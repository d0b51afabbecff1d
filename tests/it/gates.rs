//! Gates, as a reverse proxy asks them.

use std::os::unix::net::UnixStream;

use crate::util::{Client, Reply, Server, run, server_command};

const TOKEN: &str = "gate-secret";

fn start(args: &[&str]) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[&["--token", TOKEN], args].concat());
    (dir, server)
}

/// Asks with these header lines, each ended.
fn ask(client: &mut Client, line: &str, headers: &str) -> Reply {
    let request = format!("{line} HTTP/1.1\r\nHost: flint\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n");
    client.raw(&request, line.starts_with("HEAD ")).unwrap()
}

fn keys(client: &mut Client) -> Vec<String> {
    let listing = client.get("/v1/limits?live=true").ok();
    listing.as_array().unwrap().iter().map(|status| status["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_key_that_the_proxy_has_made() {
    let (_dir, server) = start(&[]);
    let mut client = Client::new(&server.url, Some(TOKEN));
    let target = "/v1/gate/ip%3A203.0.113.7?limit=3/1m";
    // Any method, a body, and whatever the proxy's client sent in its own name.
    let foreign = "Origin: https://shop.example\r\nSec-Fetch-Site: cross-site\r\n";
    for (method, more) in [("GET", ""), ("HEAD", foreign), ("PROPFIND", "Content-Length: 3\r\n")] {
        let body = if more.starts_with("Content") { "{[}" } else { "" };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Bearer {TOKEN}\r\n{more}\r\n{body}"
        );
        let reply = client.raw(&request, true).unwrap();
        assert_eq!((reply.status, reply.header("Content-Length")), (204, None), "{reply:?}");
        assert_eq!(reply.header("Cache-Control"), Some("no-store"));
        assert!(reply.header("RateLimit").unwrap().starts_with("\"3/1m\";r="), "{reply:?}");
        assert!(reply.header("Retry-After").is_none());
    }
    for (deny, status) in [("", 429), ("&deny=429", 429), ("&deny=403", 403)] {
        let reply = ask(&mut client, &format!("GET {target}{deny}"), "");
        assert_eq!(reply.status, status, "{reply:?}");
        let wait: u64 = reply.header("Retry-After").unwrap().parse().unwrap();
        assert_eq!(reply.body, format!("too many requests; try again in {wait} s\n"));
        assert!((1..=20).contains(&wait) && reply.header("RateLimit").unwrap().contains(";r=0;"), "{reply:?}");
    }
    for (line, status, code, word) in [
        ("GET /v1/gate/k", 404, "limit_not_configured", "k"),
        ("GET /v1/gate/k?deny=401&limit=1/1s", 400, "invalid_argument", "deny"),
        ("GET /v1/gate/k?on_error=x&limit=1/1s", 400, "invalid_argument", "on_error"),
        ("GET /v1/gate/k?limit=1/1s&cost=2", 400, "cost_exceeds_capacity", "2"),
        ("GET /v1/gate/k?colour=red", 400, "invalid_argument", "colour"),
        ("GET /v1/gates/web/path?colour=red", 404, "not_found", "--gate web=by=ip"),
    ] {
        let message = ask(&mut client, line, "").error(status, code);
        assert!(message.contains(word), "{line}: {message}");
    }
    // The token is asked for all the same.
    let without = client.raw("GET /v1/gate/k?limit=1/1s HTTP/1.1\r\nHost: a\r\n\r\n", false).unwrap();
    without.error(401, "unauthorized");
    server.terminate();
}

#[test]
fn gates_that_the_operator_has_named() {
    let args = [
        ["--gate", "web=by=ip,path&limit=2/1d&deny=403"],
        ["--gate", "user=by=header:X-User"],
        ["--trusted-proxies", "loopback,10.0.0.0/8"],
    ];
    let (_dir, server) = start(&args.concat());
    let mut client = Client::new(&server.url, Some(TOKEN));
    client.post("/v1/limits", r#"{"key":"user:*","rate":1,"per":"1d"}"#).ok();
    // What follows the name is another server's path and query.
    let line = "GET /v1/gates/web/cart?cost=7&x=%zz";
    let from = |forwarded: &str, uri: &str| format!("X-Forwarded-For: {forwarded}\r\nX-Original-URI: {uri}\r\n");
    for (headers, status) in [
        (from("203.0.113.7", "/cart?id=1"), 204),
        (from("6.6.6.6, 203.0.113.7, 10.1.1.1", "/cart?id=2"), 204),
        (from("203.0.113.7", "/cart"), 403),
        (from("203.0.113.7", "/search"), 204),
        (from("203.0.113.8", "/cart"), 204),
        // One network is one client.
        (from("2001:db8:1:2:3::1", "/cart"), 204),
        (from("2001:db8:1:2:4::1", "/cart"), 204),
        (from("2001:db8:1:2:5::1", "/cart"), 403),
        (from("2001:db8:1:3::1", "/cart"), 204),
    ] {
        let reply = ask(&mut client, line, &headers);
        assert_eq!(reply.status, status, "{headers}: {reply:?}");
        assert_eq!(reply.header("Retry-After").is_some(), status == 403, "{reply:?}");
    }
    // Without what a proxy adds, the path is what follows the name.
    assert_eq!(ask(&mut client, "POST /v1/gates/web/a/b?c", "Content-Length: 0\r\n").status, 204);
    // A gate without its own limit goes by what is configured; one user after the other.
    for (user, status) in [("a", 204), ("a", 429), ("b", 204)] {
        assert_eq!(ask(&mut client, "GET /v1/gates/user", &format!("x-user: {user}\r\n")).status, status, "{user}");
    }
    assert_eq!(
        keys(&mut client),
        [
            "user:*",
            "user:a",
            "user:b",
            "web:127.0.0.1:/a/b",
            "web:2001:db8:1:2::/64:/cart",
            "web:2001:db8:1:3::/64:/cart",
            "web:203.0.113.7:/cart",
            "web:203.0.113.7:/search",
            "web:203.0.113.8:/cart"
        ]
    );
    server.terminate();
}

#[test]
fn a_gate_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("flint.sock");
    let gate = ["--gate", "web=by=ip&limit=1/1d", "--token", TOKEN];
    let server = Server::start_on(&dir.path().join("data"), &format!("unix:{}", socket.display()), &gate);
    assert!(UnixStream::connect(&socket).is_ok());
    let mut client = Client::new(&server.url, Some(TOKEN));
    for (forwarded, status) in [("203.0.113.7", 204), ("203.0.113.7", 429), ("203.0.113.8", 204)] {
        let reply = ask(&mut client, "GET /v1/gates/web", &format!("X-Forwarded-For: {forwarded}\r\n"));
        assert_eq!(reply.status, status, "{reply:?}");
    }
    assert_eq!(ask(&mut client, "GET /v1/gates/web", "").status, 204);
    assert_eq!(keys(&mut client), ["web:203.0.113.7", "web:203.0.113.8", "web:unix"]);
    server.terminate();
}

/// While no decision is available a gate is closed, or open where its operator says so.
#[test]
fn a_gate_without_decisions() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_small_disk(&dir.path().join("data"), 300);
    let mut client = server.client();
    // Until the log is full.
    let mut number = 0;
    let (mut closed, mut open) = (false, false);
    while !(closed && open) && number < 20_000 {
        number += 1;
        let key = format!("{number}-{}", "x".repeat(300));
        let reply = client.get(&format!("/v1/gate/{key}?limit=1/1d&on_error=deny"));
        match reply.status {
            204 => continue,
            503 => closed = true,
            _ => panic!("{reply:?}"),
        }
        let reply = client.get(&format!("/v1/gate/{key}?limit=1/1d&on_error=allow"));
        assert_eq!(reply.status, 204, "{reply:?}");
        open = reply.header("Flint-Degraded") == Some("log_failed");
    }
    assert!(closed && open, "the disk did not fill up");
    // A question that is wrong stays wrong.
    assert_eq!(client.get("/v1/gate/k?on_error=allow").status, 404);
    server.kill();
}

#[test]
fn a_gate_that_is_none_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for (args, word) in [
        (["--gate", "web"], "by must name"),
        (["--gate", "web=by=ip&limit=fast"], "`fast`"),
        (["--trusted-proxies", "example.org"], "`example.org`"),
        (["--ipv6-prefix", "129"], "1 to 128"),
    ] {
        let done = run(&mut server_command(&dir.path().join("data"), "127.0.0.1:0", &args));
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.err.contains(args[0]) && done.err.contains(word), "{done:?}");
    }
    assert!(!dir.path().join("data").exists());
}
