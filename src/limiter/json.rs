//! Answers as JSON: one form for the HTTP API and for `--json`.

use std::cell::Cell;
use std::io::Write;

use super::answers::{AllDecision, Compaction, Decision, Status};
use crate::clock::{LAST_INSTANT, Millis, rfc3339};
use crate::limit::format_period;

impl Decision {
    /// Appends the decision on `key` as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, key: &str, out: &mut Vec<u8>) {
        // By hand rather than by `format_args`: this is half of what a check costs in a batch of them.
        out.extend_from_slice(b"{\"key\":");
        write_text(out, key);
        out.extend_from_slice(if self.allowed {
            b",\"allowed\":true,\"cost\":"
        } else {
            b",\"allowed\":false,\"cost\":"
        });
        write_number(out, self.cost);
        out.extend_from_slice(b",\"limit\":");
        write_number(out, self.limit.capacity());
        out.extend_from_slice(b",\"remaining\":");
        write_number(out, self.remaining);
        out.extend_from_slice(b",\"reset_at\":\"");
        write_instant(out, self.reset_at);
        out.extend_from_slice(b"\",\"retry_after_ms\":");
        write_number(out, self.retry_after.as_millis() as u64);
        out.extend_from_slice(b",\"algorithm\":\"");
        out.extend_from_slice(self.limit.algorithm().name().as_bytes());
        out.extend_from_slice(b"\"}");
    }
}

impl AllDecision {
    /// Appends the answer on items with these keys as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, keys: &[(&str, u64)], out: &mut Vec<u8>) {
        push(out, format_args!("{{\"allowed\":{},\"denied_key\":", self.allowed));
        match self.denied.and_then(|index| keys.get(index)) {
            Some((key, _)) => write_text(out, key),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"results\":[");
        for (index, (result, (key, _))) in self.results.iter().zip(keys).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            result.write_json(key, out);
        }
        out.extend_from_slice(b"]}");
    }
}

/// Appends the answers on items with these keys as a JSON object: in the place of an item that had an error stand its
/// key and the error.
pub fn write_many(results: &[crate::Result<Decision>], keys: &[(&str, u64)], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"results\":[");
    for (index, (result, (key, _))) in results.iter().zip(keys).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match result {
            Ok(decision) => decision.write_json(key, out),
            Err(error) => {
                out.extend_from_slice(b"{\"key\":");
                write_text(out, key);
                out.extend_from_slice(b",\"error\":");
                write_text(out, error.message());
                push(out, format_args!(",\"code\":\"{}\"}}", error.kind().code()));
            }
        }
    }
    out.extend_from_slice(b"]}");
}

impl Status {
    /// Appends the status as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":");
        write_text(out, &self.key);
        push(
            out,
            format_args!(
                ",\"rate\":{},\"per\":\"{}\",\"per_millis\":{},\"burst\":",
                self.limit.rate(),
                format_period(self.limit.period_ms()),
                self.limit.period_ms(),
            ),
        );
        match self.limit.burst() {
            Some(burst) => push(out, format_args!("{burst}")),
            None => out.extend_from_slice(b"null"),
        }
        push(
            out,
            format_args!(
                ",\"algorithm\":\"{}\",\"remaining\":{},\"reset_at\":\"{}\",\"total_allowed\":{},\"total_denied\":{},\
                 \"total_allowed_cost\":{},\"total_denied_cost\":{}",
                self.limit.algorithm().name(),
                self.remaining,
                rfc3339(self.reset_at),
                self.totals.allowed,
                self.totals.denied,
                self.totals.allowed_cost,
                self.totals.denied_cost,
            ),
        );
        let times = [
            ("last_allowed_at", self.last_allowed_at),
            ("last_denied_at", self.last_denied_at),
            ("last_reset_at", self.last_reset_at),
        ];
        for (name, time) in times {
            match time {
                Some(time) => push(out, format_args!(",\"{name}\":\"{}\"", rfc3339(time))),
                None => push(out, format_args!(",\"{name}\":null")),
            }
        }
        out.push(b'}');
    }
}

/// Appends the statuses as a JSON array.
pub fn write_statuses(statuses: &[Status], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, status) in statuses.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        status.write_json(out);
    }
    out.push(b']');
}

impl Compaction {
    /// Appends it as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        push(
            out,
            format_args!(
                "{{\"ok\":true,\"log_bytes_before\":{},\"log_bytes_after\":{},\"snapshot_bytes\":{}}}",
                self.log_bytes_before, self.log_bytes_after, self.snapshot_bytes
            ),
        );
    }
}

/// Appends text as a JSON string.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    // Most keys need no escape.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // A Vec takes every write.
        let _ = serde_json::to_writer(out, text);
    }
}

/// Appends a number in decimal.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends an instant as RFC 3339. The text of the last second is kept: decisions made together end together.
fn write_instant(out: &mut Vec<u8>, at: Millis) {
    const TO_SECONDS: usize = "2026-01-31T23:59:59".len();
    thread_local! {
        static LAST: Cell<(u64, [u8; TO_SECONDS])> = const { Cell::new((u64::MAX, [0; TO_SECONDS])) };
    }
    let (mut second, mut text) = LAST.get();
    if second != at / 1000 {
        let whole = rfc3339(at).to_string();
        let Some(prefix) = whole.as_bytes().first_chunk::<TO_SECONDS>().filter(|_| at <= LAST_INSTANT) else {
            return out.extend_from_slice(whole.as_bytes());
        };
        (second, text) = (at / 1000, *prefix);
        LAST.set((second, text));
    }
    let ms = at % 1000;
    out.extend_from_slice(&text);
    out.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
}

fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes every write.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Limit, Quote};
    use serde_json::{Value, json};

    #[test]
    fn instants_are_written_as_the_clock_writes_them() {
        for at in
            [0, 1, 999, 1000, 1001, 1_767_225_599_999, 1_767_225_599_998, LAST_INSTANT, LAST_INSTANT + 5, u64::MAX, 7]
        {
            let mut out = Vec::new();
            write_instant(&mut out, at);
            assert_eq!(String::from_utf8(out).unwrap(), rfc3339(at).to_string());
        }
    }

    #[test]
    fn json_is_as_the_contract_says() {
        let limit = Limit::of_millis(100, 60_000, Algorithm::TokenBucket, None).unwrap();
        let quote = Quote { allowed: true, remaining: 41, reset_at: 36_000, retry_after_ms: 0 };
        let decision = Decision::new(quote, limit, 5, 0);
        let key = "a\"b\\ключ";
        let mut out = Vec::new();
        decision.write_json(key, &mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        let expected = json!({"key": key, "allowed": true, "cost": 5, "limit": 100, "remaining": 41,
            "reset_at": "1970-01-01T00:00:36.000Z", "retry_after_ms": 0, "algorithm": "token_bucket"});
        assert_eq!(value, expected);
        let all = AllDecision { allowed: false, denied: Some(0), results: vec![decision] };
        out.clear();
        all.write_json(&[(key, 5), ("other", 1)], &mut out);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, json!({"allowed": false, "denied_key": key, "results": [expected]}));
    }
}
