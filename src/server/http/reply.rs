//! Replies: one buffer, one write.

use std::io::Write;

use serde_json::Value;

use super::more::{More, begin_chunk, end_chunk};
use crate::clock::Millis;
use crate::error::{Error, Kind};
use crate::limiter::{Decision, write_number, write_text};

/// Room for the headers of a decision, in bytes: four numbers of 20 digits at most, and the rest.
const DECISION_HEADERS: usize = 192;

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
}

impl Reply {
    /// A JSON reply, with the line ended for those who read it on a terminal.
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
        Reply { status, headers: Vec::new(), body, more: None, content_type }
    }

    /// A JSON object whose first field is `ok`: serde_json sorts the names.
    pub fn ok(ok: bool, rest: &Value) -> Reply {
        let rest = rest.to_string();
        let comma = if rest == "{}" { "" } else { "," };
        Reply::json(format!("{{\"ok\":{ok}{comma}{}", rest.trim_start_matches('{')).into_bytes())
    }

    /// Tells caches to keep no copy.
    pub fn not_to_be_stored(mut self) -> Reply {
        self.header("Cache-Control", "no-store");
        self
    }

    /// The reply that tells of an error.
    pub fn error(error: &Error) -> Reply {
        let mut body = b"{\"error\":".to_vec();
        write_text(&mut body, error.message());
        let _ = write!(body, ",\"code\":\"{}\"}}", error.kind().code());
        let mut reply = Reply::json(body);
        reply.status = error.kind().http_status();
        match error.kind() {
            Kind::Unauthorized => reply.header("WWW-Authenticate", "Bearer"),
            Kind::Overloaded => reply.header("Retry-After", "1"),
            _ => {}
        }
        reply
    }

    /// Adds a header.
    pub fn header(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = write!(self.headers, "{name}: {value}\r\n");
    }

    /// Adds the headers of a decision (draft-ietf-httpapi-ratelimit-headers-11).
    pub fn decision(&mut self, decision: &Decision) {
        let period = decision.limit.period_ms();
        let until = seconds_up(decision.reset_at.saturating_sub(decision.now));
        // One allocation, and no formatting machinery: every check has these.
        self.headers.reserve(DECISION_HEADERS);
        let out = &mut self.headers;
        out.extend_from_slice(b"RateLimit-Policy: \"default\";q=");
        write_number(out, decision.limit.capacity());
        if period >= 1000 {
            out.extend_from_slice(b";w=");
            write_number(out, period / 1000);
        }
        out.extend_from_slice(b"\r\nRateLimit: \"default\";r=");
        write_number(out, decision.remaining);
        out.extend_from_slice(b";t=");
        write_number(out, until);
        out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
        if self.status == 429 {
            self.header("Retry-After", seconds_up(decision.retry_after.as_millis() as u64).max(1));
        }
    }

    /// The bytes on the wire; of a long reply those that there are, in `chunked` form or up to the connection's end.
    pub fn encode(&self, close: bool, head_only: bool, chunked: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.headers.len() + self.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        write_number(&mut out, u64::from(self.status));
        for part in [" ", reason(self.status), "\r\nContent-Type: ", self.content_type, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        match self.more {
            None => {
                out.extend_from_slice(b"Content-Length: ");
                write_number(&mut out, self.body.len() as u64);
                out.extend_from_slice(b"\r\n");
            }
            Some(_) if chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Some(_) => {}
        }
        out.extend_from_slice(&self.headers);
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !head_only {
            let begun = begin_chunk(&mut out, chunked && self.more.is_some());
            out.extend_from_slice(&self.body);
            end_chunk(&mut out, begun, false);
        }
        out
    }
}

fn seconds_up(ms: Millis) -> u64 {
    ms.div_ceil(1000)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
