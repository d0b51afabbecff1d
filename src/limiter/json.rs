//! Answers as JSON: one form for the HTTP API and for `--json`.

use std::cell::Cell;

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
        let begin: &[u8] = if self.allowed { b"{\"allowed\":true" } else { b"{\"allowed\":false" };
        out.extend_from_slice(begin);
        text(out, "denied_key", self.denied.and_then(|index| keys.get(index)).map(|(key, _)| *key));
        name(out, "results");
        array(out, self.results.iter().zip(keys), |(result, (key, _)), out| result.write_json(key, out));
        out.push(b'}');
    }
}

/// Appends the answers on items with these keys as a JSON object: in the place of an item that had an error stand its
/// key and the error.
pub fn write_many(results: &[crate::Result<Decision>], keys: &[(&str, u64)], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"results\":");
    array(out, results.iter().zip(keys), |(result, (key, _)), out| match result {
        Ok(decision) => decision.write_json(key, out),
        Err(error) => {
            out.extend_from_slice(b"{\"key\":");
            write_text(out, key);
            text(out, "error", Some(error.message()));
            text(out, "code", Some(error.kind().code()));
            out.push(b'}');
        }
    });
    out.push(b'}');
}

impl Status {
    /// Appends the status as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let (limit, totals) = (&self.limit, &self.totals);
        out.extend_from_slice(b"{\"key\":");
        write_text(out, &self.key);
        number(out, "rate", Some(limit.rate()));
        text(out, "per", Some(&format_period(limit.period_ms())));
        number(out, "per_millis", Some(limit.period_ms()));
        number(out, "burst", limit.burst());
        text(out, "algorithm", Some(limit.algorithm().name()));
        number(out, "remaining", Some(self.remaining));
        instant(out, "reset_at", Some(self.reset_at));
        number(out, "total_allowed", Some(totals.allowed));
        number(out, "total_denied", Some(totals.denied));
        number(out, "total_allowed_cost", Some(totals.allowed_cost));
        number(out, "total_denied_cost", Some(totals.denied_cost));
        instant(out, "last_allowed_at", self.last_allowed_at);
        instant(out, "last_denied_at", self.last_denied_at);
        instant(out, "last_reset_at", self.last_reset_at);
        out.push(b'}');
    }
}

/// Appends the statuses as a JSON array.
pub fn write_statuses(statuses: &[Status], out: &mut Vec<u8>) {
    array(out, statuses, Status::write_json);
}

impl Compaction {
    /// Appends it as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ok\":true");
        number(out, "log_bytes_before", Some(self.log_bytes_before));
        number(out, "log_bytes_after", Some(self.log_bytes_after));
        number(out, "snapshot_bytes", Some(self.snapshot_bytes));
        out.push(b'}');
    }
}

fn array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// Begins a field that is not the first of its object.
fn name(out: &mut Vec<u8>, name: &str) {
    [",\"", name, "\":"].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

fn field<T>(out: &mut Vec<u8>, field: &str, value: Option<T>, write: impl Fn(&mut Vec<u8>, T)) {
    name(out, field);
    match value {
        Some(value) => write(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    field(out, name, value, write_text);
}

fn number(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    field(out, name, value, write_number);
}

fn instant(out: &mut Vec<u8>, name: &str, value: Option<Millis>) {
    field(out, name, value, |out, at| {
        out.push(b'"');
        write_instant(out, at);
        out.push(b'"');
    });
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
