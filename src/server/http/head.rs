//! What is looked at of a request's head, scanned once.

use std::ops::Range;

use tiny_http::{HTTPVersion, Header, Request};

use crate::bounds::{MAX_BODY_BYTES, MAX_HEADERS};

/// Bodies up to this length are read by tiny_http's thread of the connection (`new_request` in its request.rs).
const READ_BY_TINY_HTTP: u64 = 1024;

/// A request of this size, in bytes, is not decided among checks: those that follow it take memory faster than they can
/// be let go.
const LARGE_BYTES: usize = 8 * 1024;

/// What kind of thread a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// For a decider: a check of up to 8 KiB, health, or a path that has no endpoint.
    Quick,
    /// Everything else.
    Work,
    /// There is no room for it: it is refused.
    Shed,
    /// More header lines than anything needs: its connection is ended.
    Bloated,
}

/// The endpoint that was found for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its place in the table of endpoints.
    pub index: usize,
    /// Where the key begins in the path, still encoded.
    pub key_at: usize,
    /// It runs on a decider: a check of any kind, or health. Its reply may wait for the disk, without a thread.
    pub quick: bool,
    /// Largest body that it takes, in bytes.
    pub max_body: usize,
}

/// Finds the endpoint of a target (path and query).
pub type Find = fn(&str) -> Option<Found>;

/// Where the name stands by which the client has called this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Missing,
    Header(usize),
    /// The authority of an absolute URI, which stands for the Host header (RFC 9112, 3.2.2).
    Authority,
}

/// A request's head, as places in what tiny_http holds of it.
#[derive(Debug, Clone)]
pub struct Head {
    pub class: Class,
    /// The endpoint, if there is one for the path.
    pub found: Option<Found>,
    /// Where path and query stand in the URL.
    target: Range<usize>,
    authorization: Option<usize>,
    host: Host,
    /// A web page sent it.
    pub origin: bool,
    /// Length of the body as announced, in bytes; `None` for a chunked body or none.
    pub length: Option<u64>,
    pub chunked: bool,
    /// It can't be told where the body ends, or which token it bears.
    pub ambiguous: bool,
    /// The connection ends with this request.
    pub close: bool,
    pub head_only: bool,
    /// The client understands a body in chunks.
    pub chunks_known: bool,
    /// Bytes of the body may still be on the socket.
    pub unread: bool,
    /// Memory that the request takes while it waits, in bytes, about.
    pub weight: usize,
}

impl Head {
    pub fn of(request: &Request, find: Find) -> Head {
        Head::scan(find, request.method().as_str(), request.url(), request.http_version(), request.headers())
    }

    /// The head with these parts. Only tests call it elsewhere.
    pub fn scan(find: Find, method: &str, url: &str, version: &HTTPVersion, headers: &[Header]) -> Head {
        let target = target_of(url);
        let found = find(&url[target.clone()]);
        let mut head = Head {
            class: Class::Work,
            found,
            host: if target.start > 0 { Host::Authority } else { Host::Missing },
            target,
            authorization: None,
            origin: false,
            length: None,
            chunked: false,
            ambiguous: url.bytes().any(|byte| byte <= b' ' || byte == 0x7f),
            close: false,
            chunks_known: *version >= HTTPVersion(1, 1),
            head_only: method == "HEAD",
            unread: false,
            weight: 512 + url.len(),
        };
        let (mut expects, mut upgrade, mut keep_alive, mut hosts) = (false, false, *version >= HTTPVersion(1, 1), 0);
        for (index, header) in headers.iter().enumerate() {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            // tiny_http keeps two strings of each line.
            head.weight += 128 + name.len() + value.len();
            // tiny_http ends a line at CR LF only (`read_next_line` in its client.rs). A proxy in front of it may have
            // ended the line at a bare LF, and read a header after it that is not seen here.
            head.ambiguous |= name.is_empty() || name.bytes().chain(value.bytes()).any(is_control);
            let is = |name: &'static str| header.field.equiv(name);
            if is("Authorization") {
                head.ambiguous |= head.authorization.replace(index).is_some();
            } else if is("Host") {
                hosts += 1;
                if head.host == Host::Missing {
                    head.host = Host::Header(index);
                }
            } else if is("Origin") {
                head.origin = true;
            } else if is("Expect") {
                expects = true;
            } else if is("Content-Length") {
                // `+5` would be read as 5 here, and as something else elsewhere.
                let length = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
                head.ambiguous |= length.is_none() || head.length.is_some();
                head.length = length.max(head.length);
            } else if is("Transfer-Encoding") {
                head.ambiguous |= head.chunked || !value.eq_ignore_ascii_case("chunked");
                head.chunked = true;
            } else if is("Connection") {
                let value = value.to_ascii_lowercase();
                upgrade |= value.contains("upgrade");
                head.close |= value.contains("close");
                keep_alive |= value.contains("keep-alive");
            }
        }
        head.ambiguous |= hosts > 1 || (head.chunked && (head.length.is_some() || upgrade));
        head.close |= upgrade || !keep_alive;
        if upgrade {
            // What tiny_http offers as the body has no end but the connection's.
            head.length = head.length.or(Some(0));
        }
        let length = head.length.unwrap_or(0);
        head.unread =
            head.chunked || length > READ_BY_TINY_HTTP || (length > 0 && (expects || upgrade)) || head.ambiguous;
        if !head.unread {
            head.weight += length as usize;
        }
        head.class = head.classify(headers.len());
        head
    }

    fn classify(&self, headers: usize) -> Class {
        match self.found {
            _ if headers > MAX_HEADERS => Class::Bloated,
            // What has no endpoint is refused by any thread.
            None => Class::Quick,
            Some(found) if found.quick && self.weight <= LARGE_BYTES => Class::Quick,
            Some(_) => Class::Work,
        }
    }

    /// Largest body that it may have, in bytes. One in chunks does not tell its length before: it has the usual bound.
    pub fn max_body(&self) -> usize {
        self.found.filter(|_| self.length.is_some()).map_or(MAX_BODY_BYTES, |found| found.max_body)
    }

    /// The place of its endpoint in the table, if it has one.
    pub fn endpoint(&self) -> Option<usize> {
        self.found.map(|found| found.index)
    }

    /// Whether it takes much memory while it waits.
    pub fn is_large(&self) -> bool {
        self.weight > LARGE_BYTES
    }

    /// Path and query; of an absolute URI what follows the authority.
    pub fn target<'a>(&self, url: &'a str) -> &'a str {
        let target = &url[self.target.clone()];
        if target.is_empty() { "/" } else { target }
    }

    pub fn authorization<'a>(&self, headers: &'a [Header]) -> Option<&'a str> {
        self.authorization.and_then(|index| value(headers, index))
    }

    pub fn host<'a>(&self, url: &'a str, headers: &'a [Header]) -> Option<&'a str> {
        match self.host {
            Host::Missing => None,
            Host::Header(index) => value(headers, index),
            Host::Authority => Some(&url[SCHEME.len()..self.target.start]),
        }
    }
}

fn value(headers: &[Header], index: usize) -> Option<&str> {
    headers.get(index).map(|header| header.value.as_str())
}

/// A character that no header may hold. A blank in a name is refused by tiny_http.
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

const SCHEME: &str = "http://";

/// Where path and query stand in a URL.
fn target_of(url: &str) -> Range<usize> {
    match url.strip_prefix(SCHEME) {
        None => 0..url.len(),
        Some(rest) => SCHEME.len() + rest.find(['/', '?']).unwrap_or(rest.len())..url.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::target_of;

    #[test]
    fn absolute_targets() {
        for (url, target) in [
            ("/v1/check?status=429", "/v1/check?status=429"),
            ("http://127.0.0.1:1/v1/check", "/v1/check"),
            ("http://evil.example", ""),
            ("http://a?b", "?b"),
            ("*", "*"),
        ] {
            assert_eq!(&url[target_of(url)], target);
        }
    }
}
