//! Answers as JSON: one form for the HTTP API and for `--json`.

use std::cell::Cell;
use std::time::Duration;

use super::answers::{
    AllDecision, Compaction, Decision, Hold, Item, OpenHold, Settled, SettledItem, SlotsInUse, Status,
};
use crate::clock::{LAST_INSTANT, Micros, rfc3339};
use crate::limit::{Detail, Limit, Period, Quote, Window};

impl Decision {
    /// Appends the decision on `key` as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, key: &str, out: &mut Vec<u8>) {
        self.write_open(key, out);
        out.push(b'}');
    }

    /// The object without its end.
    fn write_open(&self, key: &str, out: &mut Vec<u8>) {
        // By hand rather than by `format_args`: this is half of what a check costs in a batch of them.
        out.extend_from_slice(b"{\"key\":");
        write_text(out, key);
        out.extend_from_slice(if self.allowed {
            b",\"allowed\":true,\"cost\":"
        } else {
            b",\"allowed\":false,\"cost\":"
        });
        write_number(out, self.cost);
        let window = self.binding_window().map(|(window, _)| window);
        number(out, "limit", window.map(Window::capacity).or(self.limit.slots()));
        number(out, "remaining", self.remaining);
        number(out, "used", self.used);
        if self.debt > 0 {
            number(out, "debt", Some(self.debt));
        }
        instant(out, "reset_at", self.reset_at);
        // Under `unlimited` every number is null; when this cost could be allowed is known there too.
        number(out, "retry_after_ms", self.retry_after.map(millis_up));
        number(out, "next_ms", self.next.map(millis_up).filter(|_| !self.limit.is_unlimited()));
        text(out, "algorithm", window.map(|window| window.algorithm().name()));
        if self.windows.as_slice().len() > 1 {
            name(out, "window");
            write_window_name(out, &self.limit, self.binding);
            name(out, "windows");
            let windows = self.limit.windows().iter().zip(self.windows.as_slice()).enumerate();
            array(out, windows, |(index, (window, quote)), out| {
                begin_window(&self.limit, index, out);
                number(out, "limit", Some(window.capacity()));
                write_figures(quote, out);
                number(out, "retry_after_ms", quote.retry.map(|retry| retry.div_ceil(1000)));
                text(out, "algorithm", Some(window.algorithm().name()));
                text(out, "per", Some(&window.period().to_string()));
                out.push(b'}');
            });
        }
        if let Some(pattern) = &self.pattern {
            text(out, "pattern", Some(pattern));
        }
        if self.overflow {
            flag(out, "overflow", true);
        }
        if let Some(would_deny) = self.would_deny {
            flag(out, "shadow", true);
            flag(out, "would_deny", would_deny);
        }
    }
}

/// Milliseconds, rounded up.
pub fn millis_up(time: Duration) -> u64 {
    time.as_micros().div_ceil(1000) as u64
}

fn begin_window(limit: &Limit, index: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"name\":");
    write_window_name(out, limit, index);
}

/// What a decision and a status tell of a window alike.
fn write_figures(quote: &Quote, out: &mut Vec<u8>) {
    number(out, "remaining", Some(quote.remaining));
    number(out, "used", Some(quote.used));
    number(out, "debt", Some(quote.debt));
    instant(out, "reset_at", Some(quote.reset_at));
    number(out, "next_ms", quote.next.map(|next| next.div_ceil(1000)));
}

/// What only some algorithms tell.
fn write_detail(detail: Detail, out: &mut Vec<u8>) {
    match detail {
        Detail::None => {}
        Detail::Log { oldest_at } => instant(out, "oldest_at", oldest_at),
        Detail::Pair { previous, current, started_at } => {
            number(out, "previous", Some(previous));
            number(out, "current", Some(current));
            instant(out, "window_started_at", started_at);
        }
    }
}

/// The values of a window, as they are given to configure one; and `per_millis`.
fn write_values(window: &Window, out: &mut Vec<u8>) {
    let fields = window.fields();
    number(out, "rate", fields.rate);
    text(out, "per", fields.per.as_deref());
    let millis = match window.period() {
        Period::Fixed(length) => Some(length / 1000),
        Period::Calendar { .. } => None,
    };
    number(out, "per_millis", millis);
    number(out, "burst", fields.burst);
    text(out, "algorithm", fields.algorithm.as_deref());
    if window.period().is_calendar() {
        text(out, "tz", fields.tz.as_deref());
    }
    if fields.anchor.is_some() {
        number(out, "anchor", fields.anchor);
    }
}

/// The values of a limit: those of its one window, or all of them in `windows`, or `slots`, or `unlimited`; and its
/// mode. What `window` appends is added for each of several windows.
fn write_limit(limit: &Limit, out: &mut Vec<u8>, window: impl Fn(usize, &mut Vec<u8>)) {
    match limit.windows() {
        [] if limit.slots().is_some() => number(out, "slots", limit.slots()),
        [] => flag(out, "unlimited", true),
        [only] => write_values(only, out),
        several => {
            name(out, "windows");
            array(out, several.iter().enumerate(), |(index, values), out| {
                begin_window(limit, index, out);
                write_values(values, out);
                window(index, out);
                out.push(b'}');
            });
        }
    }
    text(out, "mode", Some(limit.mode().name()));
}

impl AllDecision {
    /// Appends the answer on these items as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, items: &[Item<'_>], out: &mut Vec<u8>) {
        self.write_open(items, out);
        out.push(b'}');
    }

    /// The object without its end.
    fn write_open(&self, items: &[Item<'_>], out: &mut Vec<u8>) {
        let begin: &[u8] = if self.allowed { b"{\"allowed\":true" } else { b"{\"allowed\":false" };
        out.extend_from_slice(begin);
        text(out, "denied_key", self.denied.and_then(|index| items.get(index)).map(|item| item.key));
        name(out, "results");
        array(out, self.results.iter().zip(items), |(result, item), out| result.write_json(item.key, out));
    }
}

/// Appends the answer to a hold of several items as a JSON object: that to a check of them, and the hold if it was
/// allowed.
pub fn write_hold(all: &AllDecision, hold: Option<&Hold>, items: &[Item<'_>], out: &mut Vec<u8>) {
    all.write_open(items, out);
    end_hold(hold, out);
}

/// Appends the answer to a hold of one key as a JSON object: the decision, and the hold if it was allowed.
pub fn write_hold_of_one(all: &AllDecision, hold: Option<&Hold>, key: &str, out: &mut Vec<u8>) {
    match all.results.first() {
        Some(decision) => decision.write_open(key, out),
        None => all.write_open(&[], out),
    }
    end_hold(hold, out);
}

fn end_hold(hold: Option<&Hold>, out: &mut Vec<u8>) {
    if let Some(hold) = hold {
        text(out, "hold", Some(&hold.id));
        hold.write_times(out);
    }
    out.push(b'}');
}

impl Hold {
    fn write_times(&self, out: &mut Vec<u8>) {
        instant(out, "expires_at", Some(self.expires_at));
        number(out, "ttl_ms", Some(millis_up(self.ttl)));
    }

    /// Appends the answer for a renewed hold as a JSON object.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ok\":true");
        self.write_times(out);
        out.push(b'}');
    }
}

impl Settled {
    /// Appends it as a JSON object. An item has `configured` only if its key no longer has a limit.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ok\":true");
        flag(out, "late", self.late);
        name(out, "results");
        array(out, &self.results, SettledItem::write_json);
        out.push(b'}');
    }
}

impl SettledItem {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":");
        write_text(out, &self.key);
        number(out, "held", Some(self.held));
        number(out, "cost", Some(self.cost));
        number(out, "remaining", self.remaining);
        number(out, "debt", Some(self.debt));
        if !self.configured {
            flag(out, "configured", false);
        }
        out.push(b'}');
    }
}

impl SlotsInUse {
    /// Appends the open holds as a JSON array, with their age and the time that they have left.
    fn write_holds(&self, out: &mut Vec<u8>) {
        array(out, self.holds.iter(), |OpenHold { id, cost, at, until }, out| {
            let millis = |time: Micros| Some(time.div_ceil(1000));
            out.extend_from_slice(b"{\"hold\":");
            write_text(out, id);
            number(out, "cost", Some(*cost));
            instant(out, "held_at", Some(*at));
            instant(out, "expires_at", Some(*until));
            number(out, "age_ms", millis(self.now.saturating_sub(*at)));
            number(out, "left_ms", millis(until.saturating_sub(self.now)));
            out.push(b'}');
        });
    }
}

/// Appends the answers on these items as a JSON object: in the place of an item that had an error stand its
/// key and the error.
pub fn write_many(results: &[crate::Result<Decision>], items: &[Item<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"results\":");
    array(out, results.iter().zip(items), |(result, item), out| match result {
        Ok(decision) => decision.write_json(item.key, out),
        Err(error) => {
            out.extend_from_slice(b"{\"key\":");
            write_text(out, item.key);
            text(out, "error", Some(error.message()));
            text(out, "code", Some(error.kind().code()));
            out.push(b'}');
        }
    });
    out.push(b'}');
}

impl Status {
    /// Appends the status as a JSON object. Its value fields (`key`, `rate`, `per`, `burst`, `algorithm`, `tz`,
    /// `anchor`, or `windows` with them, or `slots`, or `unlimited`; `mode`, `max_keys`) are those of a request that
    /// configures it. While values last for a time only, `for_until` and `for_ms` tell how long, and `below` what comes
    /// back.
    #[doc(hidden)]
    pub fn write_json(&self, out: &mut Vec<u8>) {
        self.write_open(out);
        out.push(b'}');
    }

    /// As [`Status::write_json`], with the open holds of a limit of slots: too long for a list of many.
    #[doc(hidden)]
    pub fn write_json_with_holds(&self, out: &mut Vec<u8>) {
        self.write_open(out);
        if let Some(slots) = &self.slots {
            name(out, "holds");
            slots.write_holds(out);
        }
        out.push(b'}');
    }

    /// The object without its end.
    fn write_open(&self, out: &mut Vec<u8>) {
        let totals = &self.totals;
        out.extend_from_slice(b"{\"key\":");
        write_text(out, &self.key);
        let detail = |index: usize| self.details.get(index).copied().unwrap_or(Detail::None);
        write_limit(&self.limit, out, |index, out| {
            if let Some(quote) = self.windows.as_slice().get(index) {
                write_figures(quote, out);
            }
            write_detail(detail(index), out);
        });
        if let Some(lasting) = &self.lasting {
            instant(out, "for_until", Some(lasting.until));
            number(out, "for_ms", Some(millis_up(lasting.left)));
            field(out, "below", lasting.below.as_deref(), |out, below| {
                // Without the comma that comes before each field.
                let begin = out.len();
                write_limit(below, out, |_, _| ());
                out[begin] = b'{';
                out.push(b'}');
            });
        }
        if self.max_keys.is_some() {
            number(out, "max_keys", self.max_keys);
        }
        if self.live.is_some() {
            number(out, "live", self.live);
        }
        text(out, "source", Some(self.source.name()));
        if let Some(pattern) = &self.pattern {
            text(out, "pattern", Some(pattern));
        }
        if self.overflow {
            flag(out, "overflow", true);
        }
        number(out, "remaining", self.remaining);
        number(out, "used", self.used);
        if self.debt > 0 {
            number(out, "debt", Some(self.debt));
        }
        instant(out, "reset_at", self.reset_at);
        number(out, "next_ms", self.next.map(millis_up));
        if self.limit.windows().len() == 1 {
            write_detail(detail(0), out);
        }
        number(out, "total_allowed", Some(totals.allowed));
        number(out, "total_denied", Some(totals.denied));
        number(out, "total_allowed_cost", Some(totals.allowed_cost));
        number(out, "total_denied_cost", Some(totals.denied_cost));
        instant(out, "last_allowed_at", self.last_allowed_at);
        instant(out, "last_denied_at", self.last_denied_at);
        instant(out, "last_reset_at", self.last_reset_at);
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

fn flag(out: &mut Vec<u8>, field: &str, value: bool) {
    name(out, field);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn instant(out: &mut Vec<u8>, name: &str, value: Option<Micros>) {
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

/// Appends the name of a window in quotes: its rate and period, and `#2` for the second of that name in its limit.
pub fn write_window_name(out: &mut Vec<u8>, limit: &Limit, index: usize) {
    let name = |window: &Window| (window.rate(), window.period().words());
    let Some(own) = limit.windows().get(index).map(name) else { return out.extend_from_slice(b"\"\"") };
    let (rate, (number, unit)) = own;
    out.push(b'"');
    write_number(out, rate);
    out.push(b'/');
    if let Some(number) = number {
        write_number(out, number);
    }
    out.extend_from_slice(unit.as_bytes());
    let before = limit.windows()[..index].iter().filter(|other| name(other) == own).count();
    if before > 0 {
        out.push(b'#');
        write_number(out, before as u64 + 1);
    }
    out.push(b'"');
}

/// Appends a number in decimal.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends an instant as RFC 3339. The text of the last second is kept: decisions made together end together.
fn write_instant(out: &mut Vec<u8>, at: Micros) {
    const TO_SECONDS: usize = "2026-01-31T23:59:59".len();
    thread_local! {
        static LAST: Cell<(u64, [u8; TO_SECONDS])> = const { Cell::new((u64::MAX, [0; TO_SECONDS])) };
    }
    let at = at.min(LAST_INSTANT).div_ceil(1000);
    let (mut second, mut text) = LAST.get();
    if second != at / 1000 {
        let whole = rfc3339(at * 1000).to_string();
        let Some(prefix) = whole.as_bytes().first_chunk::<TO_SECONDS>() else {
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
    use std::sync::Arc;

    use super::*;
    use crate::limiter::answers::{Figures, Lasting, Origin, Totals};

    use crate::limit::{Quote, Quotes, Verdict};
    use serde_json::{Value, json};

    #[test]
    fn instants_are_written_as_the_clock_writes_them() {
        for at in
            [0, 1, 999, 1000, 1001, 999_001, 1_767_225_599_999_000, 1_767_225_599_998_001, LAST_INSTANT, u64::MAX, 7]
        {
            let mut out = Vec::new();
            write_instant(&mut out, at);
            assert_eq!(String::from_utf8(out).unwrap(), rfc3339(at).to_string());
        }
    }

    fn decision(limit: &str, cost: u64, windows: Vec<Quote>, allowed: bool, binding: usize) -> Decision {
        let windows = match <[Quote; 1]>::try_from(windows) {
            Ok(one) => Quotes::One(one),
            Err(many) => Quotes::Many(many),
        };
        Decision::new(Verdict { allowed, binding, windows }, Arc::new(limit.parse().unwrap()), cost, 0)
    }

    fn quote(allowed: bool, remaining: u64, retry: Option<u64>) -> Quote {
        let next = retry.map(|retry| retry / 2 + 1);
        Quote { allowed, remaining, used: 100 - remaining, debt: 0, reset_at: 36_000_001, retry, next }
    }

    fn value(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn json_is_as_the_contract_says() {
        let decision = decision("100/1m", 5, vec![quote(true, 41, Some(0))], true, 0);
        let key = "a\"b\\ключ";
        // Instants and waits are rounded up.
        let expected = json!({"key": key, "allowed": true, "cost": 5, "limit": 100, "remaining": 41, "used": 59,
            "reset_at": "1970-01-01T00:00:36.001Z", "retry_after_ms": 0, "next_ms": 1, "algorithm": "token_bucket"});
        assert_eq!(value(|out| decision.write_json(key, out)), expected);
        let all = AllDecision { allowed: false, denied: Some(0), results: vec![decision] };
        let items = [(key, 5).into(), "other".into()];
        let value = value(|out| all.write_json(&items, out));
        assert_eq!(value, json!({"allowed": false, "denied_key": key, "results": [expected]}));
    }

    #[test]
    fn several_windows_are_told_with_the_one_that_binds() {
        let limit = "10/1s, 10/1s sliding_window_log, 100/1d";
        let quotes = vec![quote(true, 9, Some(0)), quote(false, 8, Some(1_500_001)), quote(false, 0, None)];
        let mut decision = decision(limit, 3, quotes, false, 2);
        decision.pattern = Some("user:*".into());
        decision.overflow = true;
        decision.debt = 7;
        let value = value(|out| decision.write_json("k", out));
        let window = |name: &str, limit, remaining, retry: Value, next: Value, algorithm: &str, per: &str| {
            json!({"name": name, "limit": limit, "remaining": remaining, "used": 100 - remaining, "debt": 0,
                "reset_at": "1970-01-01T00:00:36.001Z", "next_ms": next, "retry_after_ms": retry,
                "algorithm": algorithm, "per": per})
        };
        let expected = json!({"key": "k", "allowed": false, "cost": 3, "limit": 100, "remaining": 0, "used": 100,
            "debt": 7, "reset_at": "1970-01-01T00:00:36.001Z", "retry_after_ms": null, "next_ms": null,
            "algorithm": "token_bucket", "window": "100/1d", "windows": [
                window("10/1s", 10, 9, json!(0), json!(1), "token_bucket", "1s"),
                window("10/1s#2", 10, 8, json!(1501), json!(751), "sliding_window_log", "1s"),
                window("100/1d", 100, 0, json!(null), json!(null), "token_bucket", "1d"),
            ], "pattern": "user:*", "overflow": true});
        assert_eq!(value, expected);
    }

    #[test]
    fn what_is_not_enforced_is_told_as_allowed() {
        let shadow = decision("100/1m shadow", 5, vec![quote(false, 0, Some(700))], false, 0);
        let told = value(|out| shadow.write_json("k", out));
        assert_eq!(
            (&told["allowed"], &told["shadow"], &told["would_deny"]),
            (&json!(true), &json!(true), &json!(true))
        );
        assert_eq!((&told["retry_after_ms"], &told["remaining"]), (&json!(0), &json!(0)));
        let unlimited = decision("unlimited", 5, Vec::new(), true, 0);
        let expected = json!({"key": "k", "allowed": true, "cost": 5, "limit": null, "remaining": null, "used": null,
            "reset_at": null, "retry_after_ms": 0, "next_ms": null, "algorithm": null});
        assert_eq!(value(|out| unlimited.write_json("k", out)), expected);
    }

    fn status(key: &str, limit: &str, windows: Vec<Quote>, details: Vec<Detail>) -> Status {
        let windows = match <[Quote; 1]>::try_from(windows) {
            Ok(one) => Quotes::One(one),
            Err(many) => Quotes::Many(many),
        };
        let limit: Arc<Limit> = Arc::new(limit.parse().unwrap());
        let verdict = Verdict { allowed: true, binding: 0, windows };
        let figures = Figures::of(&verdict);
        Status {
            key: key.to_owned(),
            limit,
            source: Origin::Exact,
            pattern: None,
            windows: verdict.windows,
            details,
            binding: 0,
            remaining: figures.remaining,
            used: figures.used,
            debt: figures.debt,
            reset_at: figures.reset_at,
            next: figures.next,
            lasting: None,
            overflow: false,
            slots: None,
            max_keys: None,
            live: None,
            totals: Totals { allowed: 1, denied: 2, allowed_cost: 3, denied_cost: 4 },
            last_allowed_at: Some(1_000_000),
            last_denied_at: None,
            last_reset_at: None,
        }
    }

    /// What every status ends with, here.
    fn with_counts(mut value: Value) -> Value {
        let counts = json!({"total_allowed": 1, "total_denied": 2, "total_allowed_cost": 3, "total_denied_cost": 4,
            "last_allowed_at": "1970-01-01T00:00:01.000Z", "last_denied_at": null, "last_reset_at": null});
        let fields = value.as_object_mut().unwrap();
        counts.as_object().unwrap().iter().for_each(|(name, count)| drop(fields.insert(name.clone(), count.clone())));
        value
    }

    #[test]
    fn a_status_tells_values_and_figures_of_one_window() {
        let detail = vec![Detail::Log { oldest_at: Some(1_001) }];
        let log = status("k", "100/1m sliding_window_log", vec![quote(true, 41, Some(0))], detail);
        let expected = json!({"key": "k", "rate": 100, "per": "1m", "per_millis": 60_000, "burst": null,
            "algorithm": "sliding_window_log", "mode": "enforce", "source": "exact", "remaining": 41, "used": 59,
            "reset_at": "1970-01-01T00:00:36.001Z", "next_ms": 1, "oldest_at": "1970-01-01T00:00:00.002Z"});
        assert_eq!(value(|out| log.write_json(out)), with_counts(expected));

        let mut month = status("k", "5/month tz=Europe/Berlin anchor=31", vec![quote(true, 4, Some(0))], Vec::new());
        (month.source, month.pattern, month.overflow, month.debt) = (Origin::Pattern, Some("k*".into()), true, 6);
        let expected = json!({"key": "k", "rate": 5, "per": "month", "per_millis": null, "burst": null,
            "algorithm": "fixed_window_counter", "tz": "Europe/Berlin", "anchor": 31, "mode": "enforce",
            "source": "pattern", "pattern": "k*", "overflow": true, "remaining": 4, "used": 96, "debt": 6,
            "reset_at": "1970-01-01T00:00:36.001Z", "next_ms": 1});
        assert_eq!(value(|out| month.write_json(out)), with_counts(expected));
    }

    #[test]
    fn a_status_tells_several_windows_each_by_itself() {
        let pair = Detail::Pair { previous: 7, current: 8, started_at: Some(2_000_000) };
        let quotes = vec![quote(true, 9, Some(0)), quote(true, 8, Some(0))];
        let limit = "10/1s burst=20, 10/1s sliding_window_counter shadow";
        let several = status("k", limit, quotes, vec![Detail::None, pair]);
        let window = |name: &str, remaining, more: Value| {
            let mut window = json!({"name": name, "rate": 10, "per": "1s", "per_millis": 1000, "remaining": remaining,
                "used": 100 - remaining, "debt": 0, "reset_at": "1970-01-01T00:00:36.001Z", "next_ms": 1});
            let fields = window.as_object_mut().unwrap();
            more.as_object().unwrap().iter().for_each(|(name, field)| drop(fields.insert(name.clone(), field.clone())));
            window
        };
        let expected = json!({"key": "k", "windows": [
            window("10/1s", 9, json!({"burst": 20, "algorithm": "token_bucket"})),
            window("10/1s#2", 8, json!({"burst": null, "algorithm": "sliding_window_counter", "previous": 7,
                "current": 8, "window_started_at": "1970-01-01T00:00:02.000Z"})),
        ], "mode": "shadow", "source": "exact", "remaining": 9, "used": 91, "reset_at": "1970-01-01T00:00:36.001Z",
            "next_ms": 1});
        assert_eq!(value(|out| several.write_json(out)), with_counts(expected));
    }

    #[test]
    fn a_status_tells_what_comes_back_and_how_many_live() {
        let mut pattern = status("user:*", "unlimited", Vec::new(), Vec::new());
        (pattern.max_keys, pattern.live, pattern.next) = (Some(50), Some(7), None);
        let below = Some(Arc::new("5/1s, 9/1m".parse().unwrap()));
        pattern.lasting = Some(Lasting { until: 1_000_000, left: Duration::from_micros(500_001), below });
        let below = |name: &str, rate, per, millis| {
            json!({"name": name, "rate": rate, "per": per, "per_millis": millis, "burst": rate,
                "algorithm": "token_bucket"})
        };
        let expected = json!({"key": "user:*", "unlimited": true, "mode": "enforce",
            "for_until": "1970-01-01T00:00:01.000Z", "for_ms": 501,
            "below": {"windows": [below("5/1s", 5, "1s", 1000), below("9/1m", 9, "1m", 60_000)], "mode": "enforce"},
            "max_keys": 50, "live": 7, "source": "exact", "remaining": null, "used": null, "reset_at": null,
            "next_ms": null});
        assert_eq!(value(|out| pattern.write_json(out)), with_counts(expected));

        let mut ban = status("k", "0/1s", vec![quote(true, 0, None)], Vec::new());
        ban.lasting = Some(Lasting { until: 1_000_000, left: Duration::ZERO, below: None });
        let told = value(|out| ban.write_json(out));
        assert_eq!((&told["below"], &told["source"], &told["next_ms"]), (&json!(null), &json!("exact"), &json!(null)));
    }

    #[test]
    fn slots_are_told_with_their_holds_where_a_key_is_asked_for() {
        let mut slots = status("gpu", "slots=4", Vec::new(), Vec::new());
        (slots.remaining, slots.used, slots.reset_at) = (Some(1), Some(3), Some(2_000_001));
        slots.next = Some(Duration::from_micros(999_001));
        let hold = OpenHold { id: "1abc".to_owned(), cost: 3, at: 500_000, until: 2_000_001 };
        slots.slots = Some(SlotsInUse { slots: 4, used: 3, now: 1_001_000, holds: Arc::new([hold]) });
        let mut expected = with_counts(json!({"key": "gpu", "slots": 4, "mode": "enforce", "source": "exact",
            "remaining": 1, "used": 3, "reset_at": "1970-01-01T00:00:02.001Z", "next_ms": 1000}));
        assert_eq!(value(|out| slots.write_json(out)), expected);
        expected["holds"] = json!([{"hold": "1abc", "cost": 3, "held_at": "1970-01-01T00:00:00.500Z",
            "expires_at": "1970-01-01T00:00:02.001Z", "age_ms": 501, "left_ms": 1000}]);
        assert_eq!(value(|out| slots.write_json_with_holds(out)), expected);
    }

    #[test]
    fn a_hold_is_a_decision_and_its_id() {
        let one = || decision("100/1m", 5, vec![quote(true, 41, Some(0))], true, 0);
        let mut expected = value(|out| one().write_json("k", out));
        let all = AllDecision { allowed: true, denied: None, results: vec![one()] };
        let hold = Hold { id: "1abc".to_owned(), expires_at: 60_000_001, ttl: Duration::from_secs(60) };
        let mut all = all;
        let items = [("k", 5).into()];
        let with_hold = |mut value: Value| {
            value["hold"] = json!("1abc");
            value["expires_at"] = json!("1970-01-01T00:01:00.001Z");
            value["ttl_ms"] = json!(60_000);
            value
        };
        assert_eq!(value(|out| write_hold_of_one(&all, Some(&hold), "k", out)), with_hold(expected.clone()));
        let several = json!({"allowed": true, "denied_key": null, "results": [expected.clone()]});
        assert_eq!(value(|out| write_hold(&all, Some(&hold), &items, out)), with_hold(several));
        let renewed = json!({"ok": true, "expires_at": "1970-01-01T00:01:00.001Z", "ttl_ms": 60_000});
        assert_eq!(value(|out| hold.write_json(out)), renewed);
        // Without one it is a denial, as a check has it.
        all.results[0].allowed = false;
        expected["allowed"] = json!(false);
        assert_eq!(value(|out| write_hold_of_one(&all, None, "k", out)), expected);
    }

    #[test]
    fn a_settlement_tells_what_has_no_limit_any_more() {
        let item = |key: &str, remaining, configured| SettledItem {
            key: key.to_owned(),
            held: 10,
            cost: 12,
            remaining,
            debt: 2,
            configured,
        };
        let settled = Settled { late: true, results: vec![item("a", Some(3), true), item("b", None, false)] };
        let expected = json!({"ok": true, "late": true, "results": [
            {"key": "a", "held": 10, "cost": 12, "remaining": 3, "debt": 2},
            {"key": "b", "held": 10, "cost": 12, "remaining": null, "debt": 2, "configured": false}]});
        assert_eq!(value(|out| settled.write_json(out)), expected);
    }
}
