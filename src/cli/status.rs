//! What is printed for people of a status object: of a limit, of a pattern, of a key that lives under one.

use serde_json::Value;

use super::answer::not_understood;
use super::columns::{Column, Rows, Table};
use super::output::{counted, length, printable};
use crate::error::Result;

/// The columns of a list of limits.
pub const LIST: &[Column] = &[
    Column::Text("LIMIT"),
    Column::Text("ALGORITHM"),
    Column::Number("REMAINING"),
    Column::Number("ALLOWED"),
    Column::Number("DENIED"),
    Column::Text("RESET AT"),
    Column::Text("KEY"),
];

/// The columns of the windows of one limit.
const WINDOWS: &[Column] =
    &[Column::Text("LIMIT"), Column::Text("ALGORITHM"), Column::Number("REMAINING"), Column::Text("RESET AT")];

/// The columns of the holds of a limit of slots.
const HOLDS: &[Column] =
    &[Column::Number("SLOTS"), Column::Number("SINCE"), Column::Number("TIME LEFT"), Column::Text("HOLD")];

/// The rows of a status object in a list: one for each window. What counts for all of them is in the first.
pub fn rows(status: &Value) -> Result<Rows> {
    let mut rows = Vec::new();
    for window in windows(status) {
        let (limit, algorithm) = (in_short(window)?, cell(window, "algorithm")?);
        rows.push(vec![limit, algorithm, cell(window, "remaining")?, String::new(), String::new(), reset_at(window)?]);
    }
    if rows.is_empty() {
        let (limit, left) = (whole(status)?, cell(status, "remaining")?);
        rows.push(vec![limit, "-".into(), left, String::new(), String::new(), reset_at(status)?]);
    }
    let [first, ..] = rows.as_mut_slice() else { return Err(not_understood()) };
    first[0] += &additions(status)?;
    if !status["live"].is_null() {
        first[2] = format!("{} live", text(status, "live")?);
    }
    (first[3], first[4]) = (text(status, "total_allowed")?, text(status, "total_denied")?);
    first.push(text(status, "key")?);
    for row in &mut rows {
        row.resize(LIST.len(), String::new());
    }
    Ok(rows)
}

/// Everything about one limit.
pub fn describe(status: &Value) -> Result<String> {
    let windows = windows(status);
    let has_slots = status["slots"].is_u64();
    let limits = windows.iter().map(|window| in_short(window)).collect::<Result<Vec<_>>>()?;
    let limit = if limits.is_empty() { whole(status)? } else { limits.join(", ") };
    let mut lines = vec![("key", text(status, "key")?), ("limit", limit)];
    let origin = match (&status["pattern"], status["source"].as_str()) {
        (Value::String(pattern), _) => Some(format!("the pattern {}", printable(pattern))),
        (_, Some("request")) => Some("a check that brought it".to_owned()),
        _ => None,
    };
    // What lasts for a time only was configured for the key itself.
    let lasts = !status["for_until"].is_null();
    lines.extend(origin.clone().filter(|_| !lasts).map(|origin| ("from", origin)));
    if status["mode"] == "shadow" {
        lines.push(("mode", "shadow: decides and counts, and answers that it is allowed".to_owned()));
    }
    if lasts {
        lines.push(("for", format!("{}, until {}", time_left(status)?, text(status, "for_until")?)));
        lines.push(("then", below(&status["below"], origin)?));
    }
    if status["overflow"] == true {
        lines.push(("shared", "with all keys beyond max_keys".to_owned()));
    }
    if let [only] = windows.as_slice() {
        lines.push(("algorithm", text(only, "algorithm")?));
        lines.push(("burst", cell(only, "burst")?));
    }
    if !status["live"].is_null() {
        lines.push(("live keys", format!("{} of at most {}", text(status, "live")?, text(status, "max_keys")?)));
    } else if let Some(only) = windows.first().copied().filter(|_| windows.len() == 1).or(has_slots.then_some(status)) {
        lines.push(("remaining", cell(only, "remaining")?));
        lines.push(("reset at", cell(only, "reset_at")?));
    }
    let count = |checks, units| {
        let (checks, units) = (text(status, checks)?, text(status, units)?);
        Ok::<_, crate::error::Error>(format!("{}, {}", counted(checks, "check"), counted(units, "unit")))
    };
    lines.push(("allowed", count("total_allowed", "total_allowed_cost")?));
    lines.push(("denied", count("total_denied", "total_denied_cost")?));
    for (name, field) in
        [("last allowed", "last_allowed_at"), ("last denied", "last_denied_at"), ("last reset", "last_reset_at")]
    {
        let never = || Ok("never".to_owned());
        lines.push((name, if status[field].is_null() { never() } else { text(status, field) }?));
    }
    let mut all: String = lines.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect();
    if let Some(holds @ [_, ..]) = status["holds"].as_array().map(Vec::as_slice) {
        let time = |hold: &Value, name: &str| hold[name].as_u64().map(length).ok_or_else(not_understood);
        let row = |hold: &Value| {
            Ok(vec![text(hold, "cost")?, time(hold, "age_ms")?, time(hold, "left_ms")?, text(hold, "hold")?])
        };
        let rows = holds.iter().map(row).collect::<Result<Rows>>()?;
        all += &format!("\n{}", Table::new(HOLDS).page(rows));
    }
    if windows.len() > 1 {
        let row = |window: &&Value| {
            Ok(vec![
                in_short(window)?,
                cell(window, "algorithm")?,
                cell(window, "remaining")?,
                cell(window, "reset_at")?,
            ])
        };
        let rows = windows.iter().map(row).collect::<Result<Rows>>()?;
        all += &format!("\n{}", Table::new(WINDOWS).page(rows));
    }
    Ok(all)
}

/// The windows of a status object, or of values: one is the object itself; slots and `unlimited` have none.
fn windows(values: &Value) -> Vec<&Value> {
    match &values["windows"] {
        Value::Array(several) => several.iter().collect(),
        _ if values["unlimited"] == true || values["slots"].is_u64() => Vec::new(),
        _ => vec![values],
    }
}

/// Values without windows as `limit add` takes them.
fn whole(values: &Value) -> Result<String> {
    if values["slots"].is_null() { Ok("unlimited".to_owned()) } else { Ok(format!("slots={}", text(values, "slots")?)) }
}

/// A window as `limit add` takes it, but for its algorithm, which has its own place.
fn in_short(window: &Value) -> Result<String> {
    let (rate, per) = (text(window, "rate")?, text(window, "per")?);
    let mut short = format!("{rate}/{per}");
    for (field, usual) in [("burst", rate.as_str()), ("tz", "UTC"), ("anchor", "1")] {
        match cell(window, field)? {
            value if value == "-" || value == usual => {}
            value => short += &format!(" {field}={value}"),
        }
    }
    Ok(short)
}

/// What else a list says of a limit: its mode, and how long its values last.
fn additions(status: &Value) -> Result<String> {
    let mode = if status["mode"] == "shadow" { " shadow" } else { "" };
    let lasting = if status["for_until"].is_null() { String::new() } else { format!(" for {}", time_left(status)?) };
    Ok(format!("{mode}{lasting}"))
}

/// How long values last that lie over others.
fn time_left(status: &Value) -> Result<String> {
    status["for_ms"].as_u64().map(length).ok_or_else(not_understood)
}

/// The values that come back: those of the key, or what `origin` gives.
fn below(values: &Value, origin: Option<String>) -> Result<String> {
    if values.is_null() {
        return Ok(origin.map_or_else(|| "none".to_owned(), |origin| format!("from {origin}")));
    }
    let limits = windows(values).into_iter().map(in_short).collect::<Result<Vec<_>>>()?;
    let limit = if limits.is_empty() { whole(values)? } else { limits.join(", ") };
    Ok(format!("{limit}{}", additions(values)?))
}

/// The instant of a row, without its milliseconds, for which it has no room.
fn reset_at(window: &Value) -> Result<String> {
    let instant = cell(window, "reset_at")?;
    Ok(match instant.split_once('.') {
        Some((seconds, rest)) if rest.ends_with('Z') => format!("{seconds}Z"),
        _ => instant,
    })
}

/// A field that may be missing.
fn cell(object: &Value, name: &str) -> Result<String> {
    if object[name].is_null() { Ok("-".to_owned()) } else { text(object, name) }
}

/// A field for people: a number or a text.
fn text(object: &Value, name: &str) -> Result<String> {
    match &object[name] {
        Value::String(text) => Ok(printable(text)),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(not_understood()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(values: Value, more: Value) -> Value {
        let mut status = json!({"key": "k", "mode": "enforce", "source": "exact", "total_allowed": 3,
            "total_denied": 1, "total_allowed_cost": 3, "total_denied_cost": 1, "last_allowed_at": null,
            "last_denied_at": null, "last_reset_at": null});
        for (name, value) in [values, more].iter().filter_map(Value::as_object).flatten() {
            status[name] = value.clone();
        }
        status
    }

    fn window(rate: u64, per: &str, more: Value) -> Value {
        let mut window = json!({"rate": rate, "per": per, "algorithm": "token_bucket", "burst": rate,
            "remaining": 2, "used": 1, "reset_at": "2026-01-31T23:59:59.999Z"});
        for (name, value) in more.as_object().into_iter().flatten() {
            window[name] = value.clone();
        }
        window
    }

    fn month() -> Value {
        let calendar = json!({"algorithm": "fixed_window_counter", "burst": null, "tz": "Europe/Berlin", "anchor": 15});
        window(5000, "month", calendar)
    }

    fn row(cells: [&str; 7]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn rows_of_each_kind_of_limit() {
        let (bucket, at) = ("token_bucket", "2026-01-31T23:59:59Z");
        let one = status(window(10, "1s", json!({"burst": 20})), json!({"mode": "shadow"}));
        assert_eq!(rows(&one).unwrap(), [row(["10/1s burst=20 shadow", bucket, "2", "3", "1", at, "k"])]);
        let several = json!({"windows": [window(10, "1s", Value::Null), month()]});
        let expected = [
            row(["10/1s for 1h", bucket, "2", "3", "1", at, "k"]),
            row(["5000/month tz=Europe/Berlin anchor=15", "fixed_window_counter", "2", "", "", at, ""]),
        ];
        let lasting = json!({"for_until": "2026-01-31T23:59:59.999Z", "for_ms": 3_600_000});
        assert_eq!(rows(&status(several, lasting)).unwrap(), expected);
        let figures = json!({"remaining": null, "reset_at": null, "live": 7, "max_keys": 100});
        let pattern = status(window(10, "1s", figures), json!({"key": "user:*"}));
        assert_eq!(rows(&pattern).unwrap(), [row(["10/1s", bucket, "7 live", "3", "1", "-", "user:*"])]);
        let unlimited = status(json!({"unlimited": true}), Value::Null);
        assert_eq!(rows(&unlimited).unwrap(), [row(["unlimited", "-", "-", "3", "1", "-", "k"])]);
        let slots = json!({"slots": 4, "remaining": 1, "used": 3, "reset_at": "2026-01-31T23:59:59.999Z"});
        assert_eq!(rows(&status(slots, Value::Null)).unwrap(), [row(["slots=4", "-", "1", "3", "1", at, "k"])]);
        assert!(rows(&json!({"key": "k"})).is_err(), "another program may listen there");
    }

    #[test]
    fn descriptions_of_each_kind_of_limit() {
        let lasting = json!({"for_until": "2026-01-31T23:59:59.999Z", "for_ms": 5_000, "below": month(),
            "source": "exact"});
        let text = describe(&status(json!({"windows": [window(10, "1s", Value::Null), month()]}), lasting)).unwrap();
        for line in [
            "limit         10/1s, 5000/month tz=Europe/Berlin anchor=15",
            "for           5s, until 2026-01-31T23:59:59.999Z",
            "then          5000/month tz=Europe/Berlin anchor=15",
            "allowed       3 checks, 3 units",
            "denied        1 check, 1 unit",
            "last reset    never",
            "10/1s                                  token_bucket                  2  2026-01-31T23:59:59.999Z",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let ban = json!({"for_until": "2026-01-31T23:59:59.999Z", "for_ms": 5_000, "below": null, "pattern": "k*"});
        let text = describe(&status(window(0, "1s", Value::Null), ban)).unwrap();
        assert!(text.contains("then          from the pattern k*\n") && !text.contains("\nfrom"), "{text}");
        let pattern = json!({"live": 7, "max_keys": 100, "remaining": null, "reset_at": null});
        let text = describe(&status(window(10, "1s", pattern), Value::Null)).unwrap();
        assert!(text.contains("live keys     7 of at most 100\n") && !text.contains("remaining"), "{text}");
        let text = describe(&status(json!({"unlimited": true}), json!({"source": "request"}))).unwrap();
        assert!(text.contains("limit         unlimited\nfrom          a check that brought it\n"), "{text}");
        let hold = |id: &str, cost: u64| json!({"hold": id, "cost": cost, "age_ms": 61_000, "left_ms": 900});
        let slots = json!({"slots": 4, "remaining": 1, "used": 3, "reset_at": "2026-01-31T23:59:59.999Z",
            "holds": [hold("1abc", 1), hold("2abc", 2)]});
        let text = describe(&status(slots, Value::Null)).unwrap();
        assert!(text.contains("limit         slots=4\nremaining     1\nreset at      2026-01-31T23"), "{text}");
        let table = "\nSLOTS  SINCE  TIME LEFT  HOLD\n    1  1m 1s      900ms  1abc\n    2  1m 1s      900ms  2abc\n";
        assert!(text.ends_with(table), "{text}");
        assert!(describe(&json!([])).is_err());
    }
}
