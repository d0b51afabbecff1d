//! Replies: one buffer, one write.

use std::io::Write;

use serde_json::Value;

use super::more::{More, begin_chunk, end_chunk};
use crate::clock::Micros;
use crate::error::{Error, Kind};
use crate::limit::{Window, bounds_of};
use crate::limiter::{Decision, write_number, write_text, write_window_name};

/// Room for the headers of a decision on one window, in bytes: numbers of usual length, and the rest.
const DECISION_HEADERS: usize = 192;

/// Room for the items of one more window.
const WINDOW_HEADERS: usize = 96;

const SECOND: Micros = 1_000_000;

/// The status of a reply without a body.
pub const NO_CONTENT: u16 = 204;

/// What becomes of the connection after a reply, as far as the client learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It stays open, as HTTP/1.1 has it.
    Open,
    /// It stays open, as an HTTP/1.0 client has asked for: it waits for the header.
    Kept,
    Closed,
}

/// Whether replies with decisions bear the headers `X-RateLimit-…` besides, and how these tell a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LegacyHeaders {
    #[default]
    None,
    /// In seconds since 1970.
    Epoch,
    /// In seconds from now.
    Delta,
}

impl LegacyHeaders {
    /// The one with this name.
    pub fn named(name: &str) -> Option<LegacyHeaders> {
        match name {
            "epoch" => Some(LegacyHeaders::Epoch),
            "delta" => Some(LegacyHeaders::Delta),
            _ => None,
        }
    }
}

/// A reply before it is written.
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header lines, each ended by CR LF.
    pub headers: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
    /// What follows that body, where it is long: made when the client has taken what was there.
    pub more: Option<Box<dyn More>>,
    /// Its type.
    pub content_type: &'static str,
    /// A gate that lets requests through where no decision is available: even if that is found only later.
    pub open_gate: bool,
}

impl Reply {
    /// A JSON reply, with a line break at the end, for readers on a terminal.
    pub fn json(mut body: Vec<u8>) -> Reply {
        body.push(b'\n');
        Reply::json_part(body)
    }

    /// The beginning of a JSON reply.
    pub fn json_part(body: Vec<u8>) -> Reply {
        Reply::new(200, "application/json", body)
    }

    /// A reply with this body.
    pub fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Reply {
        Reply { status, headers: Vec::new(), body, more: None, content_type, open_gate: false }
    }

    /// A JSON object whose first field is `ok`: serde_json sorts the names.
    pub fn ok(ok: bool, rest: &Value) -> Reply {
        let rest = rest.to_string();
        let comma = if rest == "{}" { "" } else { "," };
        Reply::json(format!("{{\"ok\":{ok}{comma}{}", rest.trim_start_matches('{')).into_bytes())
    }

    /// The reply that reports an error.
    pub fn error(error: &Error) -> Reply {
        let mut body = b"{\"error\":".to_vec();
        write_text(&mut body, error.message());
        let _ = write!(body, ",\"code\":\"{}\"}}", error.kind().code());
        let mut reply = Reply::json(body);
        reply.status = error.kind().http_status();
        match error.kind() {
            Kind::Unauthorized => reply.header("WWW-Authenticate", "Bearer"),
            Kind::Overloaded | Kind::TooManyHolds => reply.header("Retry-After", "1"),
            _ => {}
        }
        reply
    }

    /// The reply of a gate that lets a request through without a decision.
    pub fn degraded(error: &Error) -> Reply {
        let mut reply = Reply::new(NO_CONTENT, "", Vec::new());
        reply.header("Flint-Degraded", error.kind().code());
        reply.header("Cache-Control", "no-store");
        reply
    }

    /// The reply in place of this one, which can't be given.
    pub fn instead(&self, error: &Error) -> Reply {
        if self.open_gate { Reply::degraded(error) } else { Reply::error(error) }
    }

    /// Adds a header.
    pub fn header(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.headers, "{name}: {value}\r\n");
    }

    /// Adds the headers of a decision (draft-ietf-httpapi-ratelimit-headers-11): an item for each window, or one for
    /// slots.
    pub fn decision(&mut self, decision: &Decision, legacy: LegacyHeaders) {
        let limit = &*decision.limit;
        let windows = limit.windows().iter().zip(decision.windows.as_slice()).enumerate();
        let wait = decision.retry_after.filter(|_| !decision.allowed);
        let wait =
            wait.map(|wait| u64::try_from(wait.as_micros()).map_or(u64::MAX, |wait| wait.div_ceil(SECOND).max(1)));
        // One allocation, and no formatting machinery: every check has these.
        self.headers.reserve(DECISION_HEADERS + WINDOW_HEADERS * limit.windows().len().saturating_sub(1));
        let out = &mut self.headers;
        for (index, (window, _)) in windows.clone() {
            out.extend_from_slice(if index == 0 { b"RateLimit-Policy: " } else { b", " });
            write_window_name(out, limit, index);
            out.extend_from_slice(b";q=");
            write_number(out, window.capacity());
            let length = length_of(window, decision.now);
            if length >= SECOND {
                out.extend_from_slice(b";w=");
                write_number(out, length.div_ceil(SECOND));
            }
        }
        for (index, (_, quote)) in windows {
            out.extend_from_slice(if index == 0 { b"\r\nRateLimit: " } else { b", " });
            write_window_name(out, limit, index);
            out.extend_from_slice(b";r=");
            write_number(out, quote.remaining);
            let next = if decision.allowed || quote.allowed { quote.next } else { quote.retry };
            if let Some(next) = next {
                // Nothing may tell a client to come back later than another header does.
                let seconds = next.div_ceil(SECOND);
                out.extend_from_slice(b";t=");
                write_number(out, wait.map_or(seconds, |wait| seconds.min(wait)));
            }
        }
        if !limit.windows().is_empty() {
            out.extend_from_slice(b"\r\n");
        }
        if let Some(slots) = limit.slots() {
            let next = if decision.allowed { decision.next } else { decision.retry_after };
            let remaining = decision.remaining.unwrap_or(0);
            let _ = write!(out, "RateLimit-Policy: \"slots\";q={slots}\r\nRateLimit: \"slots\";r={remaining}");
            if let Some(next) = next {
                let _ = write!(out, ";t={}", next.as_micros().div_ceil(u128::from(SECOND)));
            }
            out.extend_from_slice(b"\r\n");
        }
        if legacy != LegacyHeaders::None {
            write_legacy(out, decision, legacy);
        }
        out.extend_from_slice(b"Cache-Control: no-store\r\n");
        // Gates may deny by 403.
        if matches!(self.status, 429 | 403)
            && let Some(wait) = wait
        {
            self.header("Retry-After", wait);
        }
    }

    /// Adds the headers of one of several decisions: of the first that denied, else of the one with the least left.
    pub fn with_tightest<'a>(
        mut self,
        decisions: impl Iterator<Item = &'a Decision> + Clone,
        legacy: LegacyHeaders,
    ) -> Reply {
        let denied = decisions.clone().find(|decision| !decision.allowed);
        let least = || decisions.min_by_key(|decision| decision.remaining.unwrap_or(u64::MAX));
        match denied.or_else(least) {
            Some(decision) => self.decision(decision, legacy),
            None => self.header("Cache-Control", "no-store"),
        }
        self
    }

    /// The bytes on the wire; of a long reply those that there are, in `chunked` form or up to the connection's end.
    pub fn encode(&self, then: Then, head_only: bool, chunked: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.headers.len() + self.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        write_number(&mut out, u64::from(self.status));
        for part in [" ", reason(self.status), "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        let empty = self.status == NO_CONTENT;
        if !empty {
            for part in ["Content-Type: ", self.content_type, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        match self.more {
            // It has no body, and must not tell a length (RFC 9110, 8.6).
            _ if empty => {}
            None => {
                out.extend_from_slice(b"Content-Length: ");
                write_number(&mut out, self.body.len() as u64);
                out.extend_from_slice(b"\r\n");
            }
            Some(_) if chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Some(_) => {}
        }
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(match then {
            Then::Open => b"",
            Then::Kept => b"Connection: keep-alive\r\n",
            Then::Closed => b"Connection: close\r\n",
        });
        out.extend_from_slice(b"\r\n");
        if !head_only && !empty {
            let begun = begin_chunk(&mut out, chunked && self.more.is_some());
            out.extend_from_slice(&self.body);
            end_chunk(&mut out, begun, false);
        }
        out
    }
}

/// The headers that APIs had before there was a draft for them: of the window that binds.
fn write_legacy(out: &mut Vec<u8>, decision: &Decision, legacy: LegacyHeaders) {
    let (Some(window), Some(remaining)) = (decision.limit.windows().get(decision.binding), decision.remaining) else {
        return;
    };
    out.extend_from_slice(b"X-RateLimit-Limit: ");
    write_number(out, window.capacity());
    out.extend_from_slice(b"\r\nX-RateLimit-Remaining: ");
    write_number(out, remaining);
    out.extend_from_slice(b"\r\n");
    // On a denial a client that waits until then may ask again; nothing is sent if that is never.
    let reset = match decision.retry_after {
        _ if decision.allowed => decision.reset_at,
        Some(wait) => u64::try_from(wait.as_micros()).ok().map(|wait| decision.now.saturating_add(wait)),
        None => None,
    };
    if let Some(reset) = reset {
        let from = if legacy == LegacyHeaders::Delta { decision.now } else { 0 };
        out.extend_from_slice(b"X-RateLimit-Reset: ");
        write_number(out, reset.saturating_sub(from).div_ceil(SECOND));
        out.extend_from_slice(b"\r\n");
    }
}

/// How long a window is; of the calendar's the one at that time.
fn length_of(window: &Window, now: Micros) -> Micros {
    let (begin, end) = bounds_of(window, now);
    end - begin
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        NO_CONTENT => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::limiter::{Item, Limiter, Options};

    /// 2026-03-29T00:30:00Z, on a day of 23 hours in Berlin.
    const NOW: Micros = 1_774_744_200_000_000;

    struct Fixture {
        limiter: Limiter,
        clock: Clock,
        _dir: tempfile::TempDir,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let limiter = Limiter::open(dir.path(), Options::default().with_clock(clock.clone())).unwrap();
        Fixture { limiter, clock, _dir: dir }
    }

    /// The headers of a check, in their order.
    fn headers(fixture: &Fixture, key: &str, limit: &str, cost: u64, denied: u16) -> String {
        let limit = limit.parse().unwrap();
        let decision = fixture.limiter.check_item(Item::new(key).with_cost(cost).with_limit(&limit)).unwrap();
        let mut reply = Reply::json(Vec::new());
        if !decision.allowed {
            reply.status = denied;
        }
        reply.decision(&decision, LegacyHeaders::None);
        String::from_utf8(reply.headers).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn each_window_has_its_item() {
        let fixture = fixture();
        let several = "10/1s, 10/1s sliding_window_log, 30/day tz=Europe/Berlin";
        let expected = "RateLimit-Policy: \"10/1s\";q=10;w=1, \"10/1s#2\";q=10;w=1, \"30/day\";q=30;w=82800\n\
            RateLimit: \"10/1s\";r=2;t=1, \"10/1s#2\";r=2;t=1, \"30/day\";r=22;t=77400\n\
            Cache-Control: no-store\n";
        assert_eq!(headers(&fixture, "a", several, 8, 429), expected);
        // A denial: when this cost could be allowed; and where that is sooner than more quota in a window, no later.
        let expected = "RateLimit-Policy: \"10/1s\";q=10;w=1, \"10/1s#2\";q=10;w=1, \"30/day\";q=30;w=82800\n\
            RateLimit: \"10/1s\";r=2;t=1, \"10/1s#2\";r=2;t=1, \"30/day\";r=22;t=1\n\
            Cache-Control: no-store\nRetry-After: 1\n";
        assert_eq!(headers(&fixture, "a", several, 3, 429), expected);
        assert!(!headers(&fixture, "a", several, 3, 200).contains("Retry-After"));
        // Two zones: the names are told apart as well.
        let zones = headers(&fixture, "b", "5/day, 5/day tz=Europe/Berlin", 1, 429);
        assert!(zones.contains("\"5/day\";q=5;w=82800, \"5/day#2\";q=5;w=86400\n"), "{zones}");
    }

    #[test]
    fn more_quota_is_told_and_not_when_all_is_back() {
        let fixture = fixture();
        let bucket = |cost| headers(&fixture, "a", "100/1m", cost, 429);
        assert!(bucket(100).contains("RateLimit: \"100/1m\";r=0;t=1\n"));
        // 50 units take 30 seconds.
        let denied = bucket(50);
        assert!(denied.contains("r=0;t=30\n") && denied.ends_with("Retry-After: 30\n"), "{denied}");
        fixture.clock.advance(Duration::from_millis(29_999));
        assert!(bucket(50).ends_with("t=1\nCache-Control: no-store\nRetry-After: 1\n"));
        // Nothing is missing under a window that nothing was spent of; `w` is rounded up, and left out below a second.
        fixture.clock.advance(Duration::from_secs(100));
        let looked = headers(&fixture, "b", "1000/1500ms, 5/999ms shadow", 5, 429);
        assert!(looked.starts_with("RateLimit-Policy: \"5/999ms\";q=5, \"1000/1500ms\";q=1000;w=2\n"), "{looked}");
    }

    #[test]
    fn headers_of_old() {
        let fixture = fixture();
        let told = |key: &str, limit: &str, cost, legacy| {
            let limit = limit.parse().unwrap();
            let decision = fixture.limiter.check_item(Item::new(key).with_cost(cost).with_limit(&limit)).unwrap();
            let mut reply = Reply::json(Vec::new());
            reply.decision(&decision, legacy);
            let headers = String::from_utf8(reply.headers).unwrap();
            headers.lines().filter(|line| line.starts_with("X-")).collect::<Vec<_>>().join("\n")
        };
        let (several, delta, epoch) = ("10/1s, 30/1m", LegacyHeaders::Delta, LegacyHeaders::Epoch);
        let expected = "X-RateLimit-Limit: 10\nX-RateLimit-Remaining: 2\nX-RateLimit-Reset: ";
        // All is back after 16 s: 8 units at 30 a minute.
        assert_eq!(told("a", several, 8, delta), format!("{expected}16"));
        // A denial: 3 units need one more at 10 a second.
        assert_eq!(told("a", several, 3, delta), format!("{expected}1"));
        assert_eq!(told("a", several, 3, epoch), format!("{expected}{}", NOW / SECOND + 1));
        assert_eq!(told("b", "0/1s", 1, epoch), "X-RateLimit-Limit: 0\nX-RateLimit-Remaining: 0");
        assert_eq!(told("c", "unlimited", 1, epoch), "");
        assert_eq!(told("d", several, 8, LegacyHeaders::None), "");
    }

    #[test]
    fn what_never_comes_has_no_time() {
        let fixture = fixture();
        let expected = "RateLimit-Policy: \"0/1s\";q=0;w=1, \"5/1m\";q=5;w=60\n\
            RateLimit: \"0/1s\";r=0, \"5/1m\";r=5;t=0\nCache-Control: no-store\n";
        assert_eq!(headers(&fixture, "a", "0/1s, 5/1m", 1, 429), expected);
        assert_eq!(headers(&fixture, "b", "unlimited", 1, 429), "Cache-Control: no-store\n");
    }

    #[test]
    fn one_of_several_decisions_is_told() {
        let fixture = fixture();
        let check = |key: &str, limit: &str, cost| {
            let limit = limit.parse().unwrap();
            fixture.limiter.check_item(Item::new(key).with_cost(cost).with_limit(&limit)).unwrap()
        };
        let policy = |decisions: &[Decision]| {
            let reply = Reply::json(Vec::new()).with_tightest(decisions.iter(), LegacyHeaders::None);
            String::from_utf8(reply.headers).unwrap().lines().next().unwrap_or_default().to_owned()
        };
        let (much, little, none) = (check("a", "9/1m", 1), check("b", "5/1m", 1), check("c", "unlimited", 1));
        let denied = [check("d", "7/1m", 7), check("d", "7/1m", 7), check("e", "0/1s", 1)];
        assert_eq!(policy(&[much.clone(), little.clone(), none.clone()]), "RateLimit-Policy: \"5/1m\";q=5;w=60");
        assert_eq!(policy(std::slice::from_ref(&none)), "Cache-Control: no-store");
        assert_eq!(policy(&[]), "Cache-Control: no-store");
        let [_, first, second] = denied;
        assert_eq!(policy(&[little, first, second, none]), "RateLimit-Policy: \"7/1m\";q=7;w=60");
    }
}
