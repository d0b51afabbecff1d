//! What is looked at of a request's head, scanned once.

use std::ops::Range;

use tiny_http::{HTTPVersion, Header, Request};

use crate::bounds::{MAX_BODY_BYTES, MAX_HEADERS};

/// Bodies up to this length are read by tiny_http's thread of the connection (`new_request` in its request.rs).
const READ_BY_TINY_HTTP: u64 = 1024;

/// A request of this size, in bytes, is not decided among checks: those that follow it take memory faster than they can
/// be released.
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
    /// It is a gate: a proxy sends what its own client sent, so `Origin` and `Host` say nothing about the proxy.
    pub gate: bool,
    /// It is health, which the operator may have opened.
    pub health: bool,
    /// Largest body that it takes, in bytes.
    pub max_body: usize,
}

/// Finds the endpoint of a target (path and query).
pub type Find = fn(&str) -> Option<Found>;

/// Where the name is that the client uses for this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Missing,
    Header(usize),
    /// The authority of an absolute URI, which stands for the Host header (RFC 9112, 3.2.2).
    Authority,
}

/// What is wrong with a head, so that it is refused: an intermediary before Flint may have read it in another way, and
/// would take the wrong bytes for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Target,
    Line,
    NoHost,
    SecondHost,
    SecondAuthorization,
    Length,
    SecondLength,
    Coding,
    SecondCoding,
    LengthAndCoding,
    CodingAndUpgrade,
    OldCoding,
    OldExpect,
}

impl Fault {
    /// Whether the end of the request is ambiguous.
    pub fn hides_end(self) -> bool {
        !matches!(self, Fault::Target | Fault::NoHost | Fault::SecondHost | Fault::SecondAuthorization)
    }

    /// One sentence that says what would be right.
    pub fn message(self) -> &'static str {
        match self {
            Fault::Target => "the target must not contain blanks or control characters; percent-encode them",
            Fault::Line => {
                "a header must have a name and no control characters, and CR LF must only come at the end of its line"
            }
            Fault::NoHost => "header Host is missing: every HTTP/1.1 request must have it",
            Fault::SecondHost => "header Host was sent twice; send it once",
            Fault::SecondAuthorization => "header Authorization was sent twice; send it once",
            Fault::Length => "header Content-Length must be a number of bytes, in digits",
            Fault::SecondLength => "header Content-Length was sent twice; send it once",
            Fault::Coding => "header Transfer-Encoding must be chunked, or left out if there is a Content-Length",
            Fault::SecondCoding => "header Transfer-Encoding was sent twice; send it once",
            Fault::LengthAndCoding => "headers Content-Length and Transfer-Encoding don't go together; leave one out",
            Fault::CodingAndUpgrade => "a body with Transfer-Encoding can't be combined with Connection: upgrade",
            Fault::OldCoding => "header Transfer-Encoding is not allowed in HTTP/1.0; send a Content-Length",
            Fault::OldExpect => "header Expect is not allowed in HTTP/1.0; leave it out",
        }
    }
}

/// A request's head, as places in what tiny_http holds of it.
#[derive(Debug, Clone)]
pub struct Head {
    pub class: Class,
    /// The endpoint, if there is one for the path.
    pub found: Option<Found>,
    /// Where path and query are in the URL.
    target: Range<usize>,
    authorization: Option<usize>,
    host: Host,
    /// A web page sent it: with an `Origin`, or to another site (`Sec-Fetch-Site`).
    pub origin: bool,
    /// Length of the body as announced, in bytes; `None` for a chunked body or none.
    pub length: Option<u64>,
    pub chunked: bool,
    /// Why it is refused, if it is: the end of its body is ambiguous, say, or its token.
    pub fault: Option<Fault>,
    /// The connection ends with this request.
    pub close: bool,
    /// It does so by what tiny_http does not look at: the server must end it.
    pub must_end: bool,
    /// An HTTP/1.0 client waits to be told that the connection is kept.
    pub tell_kept: bool,
    pub head_only: bool,
    /// The client understands a body in chunks.
    pub chunks_known: bool,
    /// Bytes of the body may still be on the socket.
    pub unread: bool,
    /// Memory that the request takes while it waits, in bytes, about.
    pub weight: usize,
}

/// What the headers that were looked at say, as far as only all of them together show.
#[derive(Default)]
struct Seen {
    host: bool,
    expects: bool,
    connection: bool,
    upgrade: bool,
    keep_alive: bool,
    /// tiny_http ends the connection.
    ended: bool,
}

impl Head {
    pub fn of(request: &Request, find: Find) -> Head {
        Head::scan(find, request.method().as_str(), request.url(), request.http_version(), request.headers())
    }

    /// The head with these parts. Only tests call it elsewhere.
    pub fn scan(find: Find, method: &str, url: &str, version: &HTTPVersion, headers: &[Header]) -> Head {
        let target = target_of(url);
        let found = find(&url[target.clone()]);
        let recent = *version >= HTTPVersion(1, 1);
        let mut head = Head {
            class: Class::Work,
            found,
            host: if target.start > 0 { Host::Authority } else { Host::Missing },
            target,
            authorization: None,
            origin: false,
            length: None,
            chunked: false,
            fault: url.bytes().any(|byte| byte <= b' ' || byte == 0x7f).then_some(Fault::Target),
            close: false,
            must_end: false,
            tell_kept: false,
            chunks_known: recent,
            head_only: method == "HEAD",
            unread: false,
            weight: 512 + url.len(),
        };
        let mut seen = Seen { keep_alive: recent, ..Seen::default() };
        for (index, header) in headers.iter().enumerate() {
            head.look_at(index, header, &mut seen);
        }
        head.judge(&seen, recent);
        let length = head.length.unwrap_or(0);
        head.unread = head.chunked
            || length > READ_BY_TINY_HTTP
            || (length > 0 && (seen.expects || seen.upgrade))
            || head.fault.is_some();
        if !head.unread {
            head.weight += length as usize;
        }
        head.class = head.classify(headers.len());
        head
    }

    /// Takes what one header says.
    fn look_at(&mut self, index: usize, header: &Header, seen: &mut Seen) {
        let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
        // tiny_http keeps two strings of each line.
        self.weight += 128 + name.len() + value.len();
        // tiny_http ends a line at CR LF only (`read_next_line` in its client.rs). A proxy in front of it may have
        // ended the line at a bare LF, and read a header after it that is not seen here.
        self.note_if(name.is_empty() || name.bytes().chain(value.bytes()).any(is_control), Fault::Line);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("Host") => {
                self.note_if(std::mem::replace(&mut seen.host, true), Fault::SecondHost);
                if self.host == Host::Missing {
                    self.host = Host::Header(index);
                }
            }
            6 if is("Origin") => self.origin = true,
            6 if is("Expect") => seen.expects = true,
            10 if is("Connection") => {
                let value = value.to_ascii_lowercase();
                let (upgrade, close) = (value.contains("upgrade"), value.contains("close"));
                let keep_alive = value.contains("keep-alive");
                // tiny_http looks at the first of these headers only (`next` in its client.rs).
                if !std::mem::replace(&mut seen.connection, true) {
                    seen.ended = upgrade || close || !(seen.keep_alive || keep_alive);
                }
                seen.upgrade |= upgrade;
                self.close |= close;
                seen.keep_alive |= keep_alive;
            }
            13 if is("Authorization") => {
                let former = self.authorization.replace(index);
                self.note_if(former.is_some(), Fault::SecondAuthorization);
            }
            14 if is("Content-Length") => {
                // `+5` would be read as 5 here, and as something else elsewhere.
                let length = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
                self.note_if(length.is_none(), Fault::Length);
                self.note_if(self.length.is_some(), Fault::SecondLength);
                self.length = length.max(self.length);
            }
            14 if is("Sec-Fetch-Site") => {
                self.origin |= ["cross-site", "same-site"].iter().any(|site| value.eq_ignore_ascii_case(site));
            }
            17 if is("Transfer-Encoding") => {
                self.note_if(self.chunked, Fault::SecondCoding);
                self.note_if(!value.eq_ignore_ascii_case("chunked"), Fault::Coding);
                self.chunked = true;
            }
            _ => {}
        }
    }

    /// Takes what all headers together say.
    fn judge(&mut self, seen: &Seen, recent: bool) {
        self.note_if(self.chunked && self.length.is_some(), Fault::LengthAndCoding);
        self.note_if(self.chunked && seen.upgrade, Fault::CodingAndUpgrade);
        self.note_if(self.chunked && !recent, Fault::OldCoding);
        // tiny_http would send `100 Continue`, which HTTP/1.0 does not know (`as_reader` in its request.rs).
        self.note_if(!recent && seen.expects && self.length.is_some_and(|length| length > 0), Fault::OldExpect);
        self.note_if(recent && !seen.host, Fault::NoHost);
        self.close |= seen.upgrade || !seen.keep_alive;
        self.must_end = self.close && !if seen.connection { seen.ended } else { !recent };
        self.tell_kept = !recent && !self.close;
        if seen.upgrade {
            // What tiny_http offers as the body has no end but the connection's.
            self.length = self.length.or(Some(0));
        }
    }

    /// Notes what is wrong if it is so, unless something was found before.
    fn note_if(&mut self, wrong: bool, fault: Fault) {
        if wrong {
            self.fault.get_or_insert(fault);
        }
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

/// Where path and query are in a URL.
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
