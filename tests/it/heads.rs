//! HTTP/1.x as it is on the wire: what is refused by its head, and what the HTTP library answers by itself.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use crate::util::{Client, PATIENCE, Server};

const TOKEN: &str = "dev-secret";
const CHECK: &str = r#"{"key":"k","limit":"1000/1d"}"#;

fn start() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    (dir, server)
}

/// All that a client gets that sends these bytes, and no more than its own end after them if it `ends`.
fn all(server: &Server, bytes: &[u8], ends: bool) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    if ends {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut got = Vec::new();
    // A reset has the same meaning as an end here.
    let _ = stream.read_to_end(&mut got);
    String::from_utf8(got).unwrap()
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /v1/check HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}")
}

fn spent(server: &Server) -> u64 {
    server.client().get("/v1/limits/k").json()["used"].as_u64().unwrap_or(0)
}

#[test]
fn each_fault_of_a_head_is_named() {
    let (_dir, server) = start();
    let length = format!("Content-Length: {}\r\n", CHECK.len());
    let cases = [
        ("GET /v1/health HTTP/1.1\r\n\r\n".to_owned(), "Host is missing"),
        ("GET http://localhost/v1/health HTTP/1.1\r\n\r\n".to_owned(), "Host is missing"),
        (post("Host: localhost\r\n", ""), "Host was sent twice"),
        (post("Authorization: a\r\nAuthorization: a\r\n", ""), "Authorization was sent twice"),
        (post("Content-Length: +5\r\n", "12345"), "Content-Length must be a number"),
        (post("Content-Length: 5\r\nContent-Length: 5\r\n", "12345"), "Content-Length was sent twice"),
        (post(&format!("{length}Transfer-Encoding: chunked\r\n"), CHECK), "don't go together"),
        (post("Transfer-Encoding: gzip\r\n", ""), "Transfer-Encoding must be chunked"),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""), "Transfer-Encoding was sent twice"),
        (post("Connection: upgrade\r\nTransfer-Encoding: chunked\r\n", ""), "Connection: upgrade"),
        (post("X: a\nContent-Length: 5\r\n", "12345"), "CR LF"),
        (post("X: a\x7f\r\n", ""), "control characters"),
        ("GET /v1/health\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "percent-encode"),
        ("POST /v1/check HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "HTTP/1.0"),
        (format!("POST /v1/check HTTP/1.0\r\nExpect: 100-continue\r\n{length}\r\n{CHECK}"), "Expect"),
    ];
    for (request, word) in cases {
        let mut client = server.client();
        let reply = client.raw(&request, false).unwrap();
        let message = reply.error(400, "invalid_argument");
        assert!(message.contains(word) && reply.closes() && reply.interim.is_empty(), "{request}\n{reply:?}");
        assert_eq!(client.rest().unwrap(), "", "{request}");
    }
    assert_eq!(spent(&server), 0);
    server.terminate();
}

#[test]
fn http_1_0_is_told_that_its_connection_is_kept() {
    let (_dir, server) = start();
    let mut client = server.client();
    let length = CHECK.len();
    for _ in 0..3 {
        let head = "POST /v1/check HTTP/1.0\r\nConnection: Keep-Alive\r\n";
        let reply = client.raw(&format!("{head}Content-Length: {length}\r\n\r\n{CHECK}"), false).unwrap();
        assert_eq!((reply.status, reply.header("Connection")), (200, Some("keep-alive")), "{reply:?}");
    }
    let reply = client.raw("GET /v1/health HTTP/1.0\r\n\r\n", false).unwrap();
    assert!(reply.closes(), "{reply:?}");
    assert_eq!(client.rest().unwrap(), "");
    assert_eq!(spent(&server), 3);
    // What closes by a header that tiny_http does not look at is closed as well.
    let twice = "GET /v1/health HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n\r\n";
    let got = all(&server, twice.replace("Host: a", "Host: localhost").as_bytes(), false);
    assert_eq!(got.matches("HTTP/1.1 200").count(), 1, "{got}");
    server.terminate();
}

#[test]
fn what_answers_get_answers_head() {
    let (_dir, server) = start();
    let mut client = server.client();
    client.post("/v1/limits", r#"{"key":"k","rate":10,"per":"1d"}"#).ok();
    for path in ["/v1/health", "/v1/limits", "/v1/limits/k", "/v1/doctor", "/v1/top", "/v1/metrics"] {
        let (get, head) = (client.get(path), client.ask("HEAD", path, ""));
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        assert_eq!(get.header("Content-Type"), head.header("Content-Type"), "{path}");
        if ["/v1/health", "/v1/top"].contains(&path) {
            assert_eq!(get.header("Content-Length"), head.header("Content-Length"), "{path}");
        }
    }
    assert_eq!(client.ask("HEAD", "/v1/limits/none", "").status, 404);
    let reply = client.ask("PATCH", "/v1/limits", "");
    assert_eq!((reply.status, reply.header("Allow")), (405, Some("GET, HEAD, POST, PUT, DELETE")));
    server.terminate();
}

#[test]
fn a_body_that_is_expected_is_asked_for_once() {
    let (_dir, server) = start();
    let ask = |headers: &str, body: &str| server.client().raw(&post(headers, body), false).unwrap();
    let expects = |length: usize| format!("Expect: 100-continue\r\nContent-Length: {length}\r\n");
    let reply = ask(&expects(CHECK.len()), CHECK);
    assert_eq!((reply.status, &reply.interim[..]), (200, &[100][..]), "{reply:?}");
    // Nothing is asked for if there is no body, or if it is refused.
    for (headers, status) in
        [(expects(0), 400), ("Expect: 100-continue\r\n".to_owned(), 400), (expects(2_000_000), 413)]
    {
        let reply = ask(&headers, "");
        assert_eq!((reply.status, reply.interim.len()), (status, 0), "{reply:?}");
    }
    server.terminate();
}

/// tiny_http's decoder (`read_chunk_size` in chunked_transfer's decoder.rs) takes sizes that RFC 9112 forbids, and its
/// interface shows only the data. So no connection is used further after a body in chunks: nothing that follows it can
/// be taken for a request, whatever another program before Flint makes of the sizes.
#[test]
fn nothing_follows_a_body_in_chunks() {
    let (_dir, server) = start();
    let size = format!("{:x}", CHECK.len());
    let next = "POST /v1/take/k?cost=100 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let whole =
        |size: &str, end: &str| post("Transfer-Encoding: chunked\r\n", &format!("{size}\r\n{CHECK}\r\n{end}")) + next;
    for (request, status) in [
        (whole(&size, "0\r\n\r\n"), 200),
        (whole(&format!("{size};name=value"), "0\r\n\r\n"), 200),
        (whole(&format!("+{size}"), "0\r\n\r\n"), 200),
        (whole(&format!(" {size}"), "0\r\n\r\n"), 200),
        (whole(&format!("{size};a\nb"), "0\r\n\r\n"), 200),
        // A trailer is not taken, and does not become a request.
        (whole(&size, "0\r\nX-Trailer: 1\r\n\r\n"), 400),
        (whole(&size, "0\r\nPOST /v1/take/k?cost=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        (whole(&format!("{size}x"), "0\r\n\r\n"), 400),
        (whole(&size, "x\r\n\r\n"), 400),
    ] {
        let got = all(&server, request.as_bytes(), false);
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{request}\n{got}");
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")) && got.contains("Connection: close"), "{got}");
        assert_eq!(got.contains("hexadecimal"), status == 400, "{got}");
    }
    assert_eq!(spent(&server), 5);
    server.terminate();
}

/// What tiny_http answers, or ends, before Flint sees it; and what it hands over in another form than it came. No part
/// of its interface, and no descriptor of ours, shows the bytes of a head: they are read by its own thread at once.
#[test]
fn what_the_http_library_decides() {
    let (_dir, server) = start();
    let get = "GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let cases: [(&[u8], &str); 9] = [
        (b"\r\nGET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 400"),
        (b"GET /v1/health\r\nHost: localhost\r\n\r\n", "HTTP/1.1 400"),
        (b"GET /v1/health HTTP/1.1\r\nHost localhost\r\n\r\n", "HTTP/1.1 400"),
        (b"GET /v1/health HTTP/1.1\r\nHost : localhost\r\n\r\n", "HTTP/1.1 400"),
        (b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 417"),
        // Ended without a reply.
        (b"GET /v1/limits?prefix=\xd0\xba HTTP/1.1\r\nHost: localhost\r\n\r\n", ""),
        (b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nX-User: J\xfcrgen\r\n\r\n", ""),
        // Nothing until the client ends, or the time for a head is over: see `dripping_heads`.
        (b"GET /v1/health HTTP/1.1\nHost: localhost\n\n", ""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ""),
    ];
    for (request, beginning) in cases {
        let got = all(&server, request, true);
        let shown = String::from_utf8_lossy(request);
        assert!(got.starts_with(beginning) && (got.is_empty() == beginning.is_empty()), "{shown}: {got}");
    }
    // A line that begins with a blank is a separate line, and blanks of any kind around a value are cut off.
    let length = CHECK.len();
    for headers in [
        format!("X: y\r\n Content-Length: {length}\r\n"),
        format!("Content-Length: \x0c{length}\x0b\r\n"),
        format!("Content-Length:{length}\r\n"),
    ] {
        assert_eq!(
            all(&server, post(&headers, CHECK).as_bytes(), true).matches("HTTP/1.1 200").count(),
            1,
            "{headers}"
        );
    }
    let chunks = format!("{length:x}\r\n{CHECK}\r\n0\r\n\r\n");
    let got = all(&server, post("Transfer-Encoding: \x0bchunked\r\n", &chunks).as_bytes(), true);
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    assert!(all(&server, get.as_bytes(), true).starts_with("HTTP/1.1 200"));
    server.terminate();
}

/// nginx takes an interim reply that it has not asked for to be the reply.
#[test]
fn a_refusal_on_a_unix_socket_is_the_first_thing_said() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("flint.sock");
    let server = Server::start_on(&dir.path().join("data"), &format!("unix:{}", socket.display()), &["--token", TOKEN]);
    let ask = |headers: &str, body: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        stream.write_all(post(&format!("{bearer}{headers}"), "").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let (mut got, mut buffer) = (String::new(), [0; 4096]);
        while !got.contains("\"code\"") {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "{got}");
            got.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        got
    };
    let long = vec![b' '; 2_000_000];
    for (headers, body, status) in [
        ("Content-Length: 2000000\r\n", &long[..], 413),
        ("Content-Length: 200000000\r\n", b"{}", 413),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", b"123456", 400),
        ("Host: twice\r\n", b"", 400),
        ("Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", 400),
    ] {
        let got = ask(headers, body);
        let (head, body) = got.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
        assert!(head.contains("Connection: close"), "{got}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{got}");
        assert!(body.starts_with("{\"error\":"), "{got}");
    }
    assert_eq!(Client::new(&server.url, Some(TOKEN)).get("/v1/health").status, 200);
    server.terminate();
}
