//! What is counted at an instant, and what has changed between two.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bounds::MAX_STATUS_BYTES;
use crate::cli::answer::not_understood;
use crate::cli::options::Global;
use crate::cli::output::printable;
use crate::cli::remote::{Request, Session};
use crate::error::Result;
use crate::limiter::Access;

/// Keys that a sample has: those with the most checks ever, of which the busiest just now are found.
const SAMPLED: usize = 1000;

/// A request for the keys with the most checks.
pub fn request(by: &str, count: usize) -> Request {
    Request { most: count * MAX_STATUS_BYTES, ..Request::new("GET", format!("/v1/top?by={by}&limit={count}")) }
}

/// Checks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    allowed: u64,
    denied: u64,
}

impl Count {
    /// What was counted since. A count that has started again is all since.
    fn since(self, before: Count) -> Count {
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Count { allowed: since(self.allowed, before.allowed), denied: since(self.denied, before.denied) }
    }
}

/// One key.
#[derive(Clone, Debug)]
struct Key {
    name: String,
    count: Count,
    /// `None` if it is unlimited.
    left: Option<u64>,
}

/// What is counted at an instant.
#[derive(Clone, Debug)]
pub struct Sample {
    at: Instant,
    place: String,
    /// Of all keys, as a server counts; a directory that no server owns counts only by key.
    all: Option<Count>,
    /// Those with the most checks first.
    keys: Vec<Key>,
    limits: u64,
    patterns: u64,
    live: u64,
    holds: u64,
    problem: Option<String>,
}

impl Sample {
    /// Asks the server, or looks into the directory.
    ///
    /// # Errors
    /// As for opening the directory and as the answers say; `unreachable`.
    pub fn take(global: &Global, by: &str) -> Result<Sample> {
        let mut session = Session::open(global, Access::Read)?;
        let place = match &session {
            Session::Served { address, .. } => address.to_string(),
            Session::Embedded(..) => format!("{}, which no server owns", global.dir.display()),
        };
        let doctor = session.ask(&Request::new("GET", "/v1/doctor"))?;
        let top = session.last(&request(by, SAMPLED))?;
        Sample::of(place, &doctor.value, &top.value)
    }

    fn of(place: String, doctor: &Value, top: &Value) -> Result<Sample> {
        let number = |object: &Value, name: &str| object[name].as_u64().ok_or_else(not_understood);
        let key = |status: &Value| {
            let name = printable(status["key"].as_str().ok_or_else(not_understood)?);
            let count = Count { allowed: number(status, "total_allowed")?, denied: number(status, "total_denied")? };
            // With several windows, the one with the least.
            let windows = status["windows"].as_array().into_iter().flatten();
            let least = windows.filter_map(|window| window["remaining"].as_u64()).min();
            Ok(Key { name, count, left: status["remaining"].as_u64().or(least) })
        };
        let served = doctor["connections"].is_object();
        let all = Count { allowed: number(doctor, "allowed")?, denied: number(doctor, "denied")? };
        Ok(Sample {
            at: Instant::now(),
            place: printable(&place),
            all: served.then_some(all),
            keys: top.as_array().ok_or_else(not_understood)?.iter().map(key).collect::<Result<_>>()?,
            limits: number(doctor, "limits")?,
            patterns: number(doctor, "patterns")?,
            live: number(doctor, "live")?,
            holds: number(doctor, "holds")?,
            problem: doctor["problems"][0].as_str().map(|problem| format!("problem: {}", printable(problem))),
        })
    }
}

/// Checks a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub allowed: f64,
    pub denied: f64,
}

impl Rate {
    fn of(count: Count, time: Duration) -> Rate {
        let a_second = |count: u64| count as f64 / time.as_secs_f64().max(1e-3);
        Rate { allowed: a_second(count.allowed), denied: a_second(count.denied) }
    }

    pub fn by(self, by: &str) -> f64 {
        if by == "denied" { self.denied } else { self.allowed }
    }
}

/// One key that is shown.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub rate: Rate,
    pub left: Option<u64>,
}

/// What is shown.
#[derive(Clone, Debug)]
pub struct View {
    pub place: String,
    pub by: String,
    /// `None` before the second sample.
    pub all: Option<Rate>,
    pub limits: u64,
    pub patterns: u64,
    pub live: u64,
    pub holds: u64,
    /// What is wrong.
    pub note: Option<String>,
    /// The busiest first.
    pub rows: Vec<Row>,
}

impl View {
    /// What the first sample has to show: no rates yet.
    pub fn of(sample: &Sample, count: usize) -> View {
        View { all: None, ..View::between(sample, sample, "allowed", count) }
    }

    /// What has changed from one sample to the next.
    pub fn between(before: &Sample, now: &Sample, by: &str, count: usize) -> View {
        let time = now.at.saturating_duration_since(before.at);
        let known: HashMap<&str, Count> = before.keys.iter().map(|key| (key.name.as_str(), key.count)).collect();
        // Of a key that was not among the first ones it is not known what it had.
        let all_known = before.keys.len() < SAMPLED;
        let since = |key: &Key| match known.get(key.name.as_str()) {
            Some(count) => key.count.since(*count),
            None if all_known => key.count,
            None => Count::default(),
        };
        let mut sum = Count::default();
        let mut rows: Vec<Row> = Vec::with_capacity(now.keys.len());
        for key in &now.keys {
            let counted = since(key);
            (sum.allowed, sum.denied) = (sum.allowed + counted.allowed, sum.denied + counted.denied);
            rows.push(Row { name: key.name.clone(), rate: Rate::of(counted, time), left: key.left });
        }
        // Those that are equal stay in their order: by all that was ever counted.
        rows.sort_by(|one, other| other.rate.by(by).total_cmp(&one.rate.by(by)));
        rows.truncate(count);
        let all = match (before.all, now.all) {
            (Some(before), Some(now)) => now.since(before),
            _ => sum,
        };
        View {
            place: now.place.clone(),
            by: by.to_owned(),
            all: Some(Rate::of(all, time)),
            limits: now.limits,
            patterns: now.patterns,
            live: now.live,
            holds: now.holds,
            note: now.problem.clone(),
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn doctor(allowed: u64, denied: u64) -> Value {
        json!({"allowed": allowed, "denied": denied, "limits": 2, "patterns": 1, "live": 3, "holds": 4,
            "problems": [], "connections": {}})
    }

    fn key(name: &str, allowed: u64, denied: u64) -> Value {
        json!({"key": name, "total_allowed": allowed, "total_denied": denied, "remaining": 7})
    }

    fn sample(begun: Instant, second: u64, doctor: &Value, keys: &[Value]) -> Sample {
        let sample = Sample::of("here".to_owned(), doctor, &json!(keys)).unwrap();
        Sample { at: begun + Duration::from_secs(second), ..sample }
    }

    #[test]
    fn rates_are_what_was_counted_between_two_samples() {
        let begun = Instant::now();
        let before = sample(begun, 0, &doctor(100, 10), &[key("a", 90, 0), key("b", 10, 10)]);
        let after = [key("a", 90, 2), key("b", 14, 10), key("new", 6, 0)];
        let now = sample(begun, 2, &doctor(110, 12), &after);
        let view = View::between(&before, &now, "allowed", 10);
        assert_eq!(view.all, Some(Rate { allowed: 5.0, denied: 1.0 }));
        let rows: Vec<_> = view.rows.iter().map(|row| (&*row.name, row.rate.allowed, row.rate.denied)).collect();
        assert_eq!(rows, [("new", 3.0, 0.0), ("b", 2.0, 0.0), ("a", 0.0, 1.0)]);
        let view = View::between(&before, &now, "denied", 1);
        assert_eq!(view.rows.iter().map(|row| &*row.name).collect::<Vec<_>>(), ["a"]);
        assert_eq!((view.limits, view.patterns, view.live, view.holds, view.note), (2, 1, 3, 4, None));
        // Before the second sample there is nothing to tell of the last second.
        assert_eq!(View::of(&before, 10).all, None);
    }

    #[test]
    fn counts_that_begin_anew_and_keys_that_come_among_the_first() {
        let begun = Instant::now();
        let before = sample(begun, 0, &doctor(100, 10), &[key("a", 90, 9)]);
        // The server was started again, and `a` was swept meanwhile.
        let view = View::between(&before, &sample(begun, 1, &doctor(4, 0), &[key("a", 3, 0)]), "allowed", 10);
        assert_eq!((view.all.unwrap().allowed, view.rows[0].rate.allowed), (4.0, 3.0));
        let full: Vec<Value> = (0..SAMPLED).map(|number| key(&number.to_string(), 9, 0)).collect();
        let before = sample(begun, 0, &doctor(0, 0), &full);
        let view = View::between(&before, &sample(begun, 1, &doctor(0, 0), &[key("new", 10, 0)]), "allowed", 10);
        assert_eq!(view.rows[0].rate.allowed, 0.0, "it had 9 or fewer, nobody knows how many");
        // Without a server the keys are all there is.
        let mut alone = doctor(0, 0);
        alone["connections"] = Value::Null;
        let before = sample(begun, 0, &alone, &[key("a", 1, 0)]);
        let view = View::between(&before, &sample(begun, 1, &alone, &[key("a", 4, 2)]), "allowed", 10);
        assert_eq!(view.all, Some(Rate { allowed: 3.0, denied: 2.0 }));
        assert!(Sample::of(String::new(), &json!({}), &json!([])).is_err(), "another program may listen there");
    }
}
