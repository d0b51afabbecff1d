//! flint.5 and the program say the same.

use std::collections::BTreeMap;
use std::path::Path;

use flint::clock::rfc3339;
use flint::store::{frame, record};
use flint::{Algorithm, Period, bounds};
use serde_json::{Value, json};

use crate::format::{File, Page, Table, read, write};
use crate::util::{flint, log_files, segments};

/// What `flint log dump` says of a record, by the page.
struct Dumper<'a> {
    page: &'a Page,
    /// Keys by their ids, as the records have them.
    keys: BTreeMap<u64, String>,
}

fn instant(at: &Value) -> Value {
    at.as_u64().map(|at| rfc3339(at).to_string()).into()
}

/// Adds fields to a line.
fn with(mut line: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        line[name] = value.clone();
    }
    line
}

impl Dumper<'_> {
    fn key(&self, id: &Value) -> Value {
        let Some(key) = self.keys.get(&id.as_u64().unwrap()) else { return json!({"key": null}) };
        match (key.strip_prefix('\u{1}'), key.strip_prefix('\u{2}')) {
            (Some(text), _) => json!({"key": text, "kind": "pattern"}),
            (_, Some(text)) => json!({"key": text, "kind": "overflow"}),
            _ => json!({"key": key}),
        }
    }

    /// What all events of a key have, and what many have.
    fn line(&self, event: &str, at: &Value, record: &Value) -> Value {
        let line = with(json!({"event": event, "at": instant(at), "id": record["id"]}), self.key(&record["id"]));
        self.values(line, record)
    }

    /// The values of a record, as far as it has any.
    fn values(&self, mut line: Value, record: &Value) -> Value {
        if record["limit"].is_object() {
            line = with(line, self.limit(&record["limit"]));
        }
        if record["max-keys"].is_u64() {
            line["max_keys"] = record["max-keys"].clone();
        }
        if record["until"].is_u64() {
            line["until"] = instant(&record["until"]);
        }
        if record["ends"].as_array().is_some_and(|ends| !ends.is_empty()) {
            line["ends"] = record["ends"].as_array().unwrap().iter().map(instant).collect();
        }
        line
    }

    fn limit(&self, limit: &Value) -> Value {
        let flags = limit["flags"].as_u64().unwrap();
        if let Some(slots) = limit["slots"].as_u64() {
            let line = json!({"slots": slots});
            return if flags & 1 != 0 { with(line, json!({"mode": "shadow"})) } else { line };
        }
        let windows: Vec<Value> = limit["windows"].as_array().unwrap().iter().map(|one| self.window(one)).collect();
        let line = match windows.as_slice() {
            [] => json!({"unlimited": true}),
            [only] => only.clone(),
            several => json!({"windows": several}),
        };
        assert_eq!(flags & 2 != 0, windows.is_empty());
        if flags & 1 != 0 { with(line, json!({"mode": "shadow"})) } else { line }
    }

    fn window(&self, window: &Value) -> Value {
        let algorithm = self.page.state(window["algorithm"].as_u64().unwrap()).0;
        let line = json!({"rate": window["rate"], "capacity": window["capacity"], "algorithm": algorithm});
        let period = &window["period"];
        if let Some(ms) = period.as_u64() {
            return with(line, json!({"per": Period::of_millis(ms).unwrap().to_string()}));
        }
        let unit = flint::CalendarUnit::ALL[period["unit"].as_u64().unwrap() as usize].name();
        let line = with(line, json!({"per": unit, "tz": period["zone"]}));
        if ["day", "week"].contains(&unit) { line } else { with(line, json!({"anchor": period["anchor"]})) }
    }

    /// Where the values of a key are from; for a configured key, only if they could be from elsewhere.
    fn source(&self, source: &Value, tells_exact: bool) -> Value {
        match source.as_u64().unwrap() {
            0 if tells_exact => json!({"source": "exact"}),
            0 => json!({}),
            1 => json!({"source": "request"}),
            2 => json!({"source": "overflow"}),
            id => json!({"source": "pattern", "pattern": self.key(&(id - 3).into())["key"]}),
        }
    }

    fn born(&mut self, id: &Value, at: &Value, born: &Value) -> Option<Value> {
        let key = born["key"].as_str()?.to_owned();
        self.keys.insert(id.as_u64().unwrap(), key);
        let line = self.line("born", at, &json!({"id": id, "limit": born["limit"]}));
        Some(with(line, self.source(&born["source"], false)))
    }

    fn spent(&mut self, at: &Value, item: &Value, several: bool) -> Vec<Value> {
        let mut lines: Vec<Value> = self.born(&item["id"], at, &item["born"]).into_iter().collect();
        for made in item["moves"].as_array().into_iter().flatten() {
            let line = self.line("moved", &made["at"], &json!({"id": item["id"], "limit": made["limit"]}));
            let line = with(line, self.source(&made["source"], true));
            lines.push(if made["lifts"] == 1 { with(line, json!({"lifts": true})) } else { line });
        }
        let line = with(self.line("spent", at, item), json!({"cost": item["cost"]}));
        lines.push(if several { with(line, json!({"check_all": true})) } else { line });
        lines
    }

    fn record(&mut self, name: &str, record: &Value) -> Vec<Value> {
        if let (Some(id), Some(key)) = (record["id"].as_u64(), record["key"].as_str()) {
            self.keys.insert(id, key.to_owned());
        }
        let totals = || {
            let field = |name: &str| record[name].clone();
            json!({"total_allowed": field("allowed"), "total_denied": field("denied"),
                "total_allowed_cost": field("allowed-cost"), "total_denied_cost": field("denied-cost")})
        };
        let items = || record["items"].as_array().unwrap();
        let line = match name {
            "spent" => return self.spent(&record["at"], record, false),
            "spent-all" => return items().iter().flat_map(|item| self.spent(&record["at"], item, true)).collect(),
            "spent-more" => {
                let several = items().len() > 1;
                return items().iter().flat_map(|item| self.spent(&record["at"], item, several)).collect();
            }
            "overlaid" => {
                let born = self.born(&record["id"], &record["at"], &record["born"]);
                return born.into_iter().chain([self.line(name, &record["at"], record)]).collect();
            }
            "became" => with(self.line(name, &record["at"], record), self.source(&record["source"], true)),
            "denied" => {
                let line = self.line(name, &record["last"], &json!({"id": record["id"]}));
                with(line, json!({"total_denied": record["total"], "total_denied_cost": record["cost"]}))
            }
            "clock" => {
                let boot = record["boot"].as_array().unwrap().iter();
                let boot: Vec<u8> = boot.map(|byte| byte.as_u64().unwrap() as u8).collect();
                let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let parts = [&boot[..4], &boot[4..6], &boot[6..8], &boot[8..10], &boot[10..]].map(hex);
                json!({"event": name, "at": instant(&record["at"]), "wall": instant(&record["wall"]),
                    "boot": parts.join("-"), "boot_clock_us": record["boot-clock"]})
            }
            "tables-marker" => json!({"event": "tables_marker", "snapshot": record["snapshot"]}),
            "marker" => json!({"event": name, "snapshot": record["snapshot"], "shard": record["shard"]}),
            "entry" => {
                let line = with(json!({"event": name, "id": record["id"]}), self.key(&record["id"]));
                let line = with(with(line, totals()), self.source(&record["source"], false));
                let line = self.values(line, &json!({"limit": record["limit"], "max-keys": record["max-keys"]}));
                match record["overlay"].is_object() {
                    true => with(line, json!({"overlay": self.values(json!({}), &record["overlay"])})),
                    false => line,
                }
            }
            "pattern-totals" => {
                let line = json!({"event": "pattern_totals", "id": record["id"]});
                with(with(line, self.key(&record["id"])), totals())
            }
            "intended" => {
                let of_item = |item: &Value| {
                    let line = json!({"event": name, "at": instant(&record["at"]), "group": record["group"],
                        "last": record["last"] == 1});
                    let id = u64::MAX;
                    let named = Dumper { page: self.page, keys: [(id, item["key"].as_str().unwrap().into())].into() };
                    let line = self.values(with(line, named.key(&id.into())), item);
                    if item["limit"].is_null() { with(line, json!({"removes": true})) } else { line }
                };
                return items().iter().map(of_item).collect();
            }
            "done" => json!({"event": name, "group": record["group"]}),
            "end" => return Vec::new(),
            _ => self.line(name, &record["at"], record),
        };
        vec![line]
    }
}

fn dump_by_the_page(page: &Page, files: &[&File]) -> Vec<Value> {
    let records = || files.iter().flat_map(|file| file.frames.iter().flat_map(|(_, records)| records));
    // A key may stand in a snapshot before the pattern that it lives under.
    let entries = records().filter(|(name, _)| name == "entry");
    let texts = entries.map(|(_, record)| (record["id"].as_u64().unwrap(), record["key"].as_str().unwrap().to_owned()));
    let mut dumper = Dumper { page, keys: texts.filter(|(_, text)| text.starts_with('\u{1}')).collect() };
    records().flat_map(|(name, record)| dumper.record(name, record)).collect()
}

fn dump(dir: &Path) -> Vec<Value> {
    let run = flint(dir, &["log", "dump"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const ALGORITHMS: [&str; 4] = ["token_bucket", "sliding_window_log", "fixed_window_counter", "sliding_window_counter"];

/// Every kind of event, of every algorithm.
fn make_history(dir: &Path) {
    let ok = |args: &[&str]| {
        let run = flint(dir, args);
        assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
    };
    for algorithm in ALGORITHMS {
        ok(&["limit", "add", algorithm, "--rate", "9", "--per", "1d", "--algorithm", algorithm]);
        ok(&["limit", "check", algorithm, "--cost", "2"]);
    }
    ok(&["limit", "add", "token_bucket", "--rate", "300", "--per", "250ms", "--burst", "1000"]);
    ok(&["limit", "check-all", "sliding_window_log", "fixed_window_counter", "--cost", "fixed_window_counter=7"]);
    ok(&["limit", "check", "fixed_window_counter", "--cost", "3"]);
    ok(&["limit", "reset", "sliding_window_counter"]);
    ok(&["limit", "add", "ключ", "--rate", "1000000000000", "--per", "366d"]);
    ok(&["limit", "remove", "ключ"]);
    // Keys by a pattern and by request, values for a time and without a limit, and a limit that falls to its pattern.
    ok(&["limit", "add", "user:*", "10/1d", "100/month", "--tz", "Europe/Berlin", "--max-keys", "1"]);
    ok(&["limit", "check", "user:1"]);
    ok(&["limit", "check", "user:2"]);
    ok(&["limit", "add", "user:*", "20/1d", "50/week shadow", "--max-keys", "5"]);
    ok(&["limit", "check", "user:1", "--cost", "2"]);
    ok(&["limit", "add", "user:1", "5/1h", "--for", "1h"]);
    ok(&["limit", "check", "user:1"]);
    ok(&["limit", "remove", "user:1"]);
    ok(&["limit", "add", "user:3", "--unlimited"]);
    ok(&["limit", "check-all", "user:3", "user:1"]);
    ok(&["limit", "check", "visitor", "--limit", "3/quarter"]);
    ok(&["limit", "add", "token_bucket", "0/1s", "--for", "366d"]);
    // The command line configures one limit at a time.
    let limiter = flint::Limiter::open(dir, flint::Options::default()).unwrap();
    let group = ["a", "b*"].map(|key| flint::Setting::new(key, "1/1h".parse().unwrap()));
    assert_eq!(limiter.configure_all(&group).unwrap(), [true, true]);
    limiter.close().unwrap();
}

#[test]
fn what_the_program_writes_is_what_the_page_says() {
    let page = Page::read();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    make_history(&dir);
    let (layout, frame) = (page.header(), page.frame());
    let segment = std::fs::read(segments(&dir).pop().unwrap()).unwrap();
    let file = read(&page, &segment, b"FLINTAOF");
    assert_eq!((layout.get(&file.header, "number"), layout.get(&file.header, "first")), (1, 1));
    assert_eq!(dump_by_the_page(&page, &[&file]), dump(&dir));
    // Sequence numbers, durable marks, and the mark with its copy.
    let (mut next, mut durable, mut closed) = (1, 0, 0);
    for (index, (head, records)) in file.frames.iter().enumerate() {
        assert_eq!(frame.get(head, "first"), next);
        let said = frame.get(head, "durable");
        assert!((durable..next).contains(&said), "{said}: not from {durable} to {next}");
        durable = said;
        let clean = frame.get(head, "records") >> 31 == 1;
        // The mark of a closed log is the last frame of its command, and all is durable then; that of an idle log may
        // stand anywhere.
        let next_begins = file.frames.get(index + 1).is_none_or(|(_, records)| !records.is_empty());
        assert!(!clean || (records.is_empty() && next_begins && durable == next - 1), "a closed log goes on");
        closed += usize::from(clean);
        next += records.len() as u64;
    }
    assert!(closed > 5, "each command leaves the mark of a log that was closed, and there are {closed}");
    let mark = &file.frames.last().unwrap().0;
    assert_eq!(segment.len(), file.end.next_multiple_of(4096) + mark.len());
    assert_eq!(&segment[segment.len() - mark.len()..], mark);
    assert!(segment[file.end..segment.len() - mark.len()].iter().all(|byte| *byte == 0));

    assert_eq!(flint(&dir, &["log", "compact"]).code, Some(0));
    assert_eq!(flint(&dir, &["limit", "check", "sliding_window_log"]).code, Some(0));
    let snapshot = std::fs::read(dir.join("0000000002.snapshot")).unwrap();
    let snapshot = read(&page, &snapshot, b"FLINTSNP");
    assert_eq!(layout.get(&snapshot.header, "flags"), 0, "markers follow");
    let is_entry = |record: &&(String, Value)| record.0 == "entry";
    let limits = snapshot.frames.iter().flat_map(|(_, records)| records).filter(is_entry).count() as u64;
    assert_eq!(layout.get(&snapshot.header, "first"), limits);
    assert!(limits > 8, "{limits}");
    assert_eq!(layout.bytes(&snapshot.header, "directory"), layout.bytes(&file.header, "directory"));
    assert_ne!(layout.bytes(&snapshot.header, "salt"), layout.bytes(&file.header, "salt"));
    let segment = std::fs::read(dir.join("0000000002.aof")).unwrap();
    let segment = read(&page, &segment, b"FLINTAOF");
    assert_eq!(layout.get(&segment.header, "first"), next);
    let said = dump(&dir);
    assert_eq!(said[0], json!({"event": "snapshot", "number": 2, "complete": false, "limits": limits}));
    assert_eq!(dump_by_the_page(&page, &[&snapshot, &segment]), said[1..]);
    let names: Vec<&str> = [&file, &snapshot, &segment]
        .iter()
        .flat_map(|file| file.frames.iter().flat_map(|(_, records)| records.iter().map(|(name, _)| name.as_str())))
        .collect();
    // The program has no command for holds yet: the page's are read in another test.
    let of_holds =
        ["held", "settled", "renewed", "refunded", "kept", "tables-marker", "hold", "answer"].map(String::from);
    for row in page.tables[2].iter().filter(|row| !of_holds.contains(&row[1])) {
        assert!(names.contains(&row[1].as_str()), "no {} was written", row[1]);
    }
}

#[test]
fn the_program_reads_what_the_page_says() {
    let page = Page::read();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path();
    // In the future, so that the clock, which never runs backwards, stands at these instants.
    let now = 4_000_000_000_000_000_u64;
    let year = 31_622_400_000_u64;
    let states = [
        json!({"whole": 3, "part": 5, "at": now, "full": 7, "fast": null}),
        json!({"events": [{"after": now - 9000, "units": 2}, {"after": 9000, "units": 1}]}),
        json!({"start": now - 10, "end": now - 10 + year * 1000, "used": 8}),
        json!({"start": now, "previous": 0, "current": 6}),
    ];
    let entries: Vec<(&str, Value)> = (0..4)
        .map(|code| {
            let entry = json!({"id": code + 1, "shard": 255 - code, "source": 0, "states": [states[code]],
                "limit": limit(code as u64, 20, year, 20), "max-keys": null, "overlay": null, "resting": [], "ceiling": null,
                "configured": now, "key": ALGORITHMS[code], "allowed": 11, "denied": 12, "allowed-cost": 13, "denied-cost": 300,
                "last-allowed": now, "last-denied": null, "last-reset": 0, "barrier": null});
            ("entry", entry)
        })
        .collect();
    let end = ("end", json!({"limits": 4, "now": now}));
    let (first, second) = entries.split_at(2);
    let snapshot = write(&page, b"FLINTSNP", 7, 1, 4, &[first.to_vec(), [second, &[end]].concat()]);
    std::fs::write(dir.join("0000000007.snapshot"), snapshot).unwrap();
    let log = [
        vec![
            ("spent", json!({"id": 1, "cost": 2, "at": now})),
            ("spent-all", json!({"at": now, "items": [{"id": 3, "cost": 4}, {"id": 4, "cost": 5}]})),
            ("denied", json!({"id": 2, "total": 99, "cost": 1000, "last": now})),
        ],
        vec![
            (
                "created",
                json!({"id": 300, "shard": 3, "at": now, "key": "ключ", "max-keys": null,
                "limit": limit(0, 1, 60_000, 70)}),
            ),
            (
                "reconfigured",
                json!({"id": 2, "at": now, "limit": limit(1, 30, year, 30), "max-keys": null, "ends": []}),
            ),
            ("reset", json!({"id": 4, "at": now})),
            ("marker", json!({"snapshot": 8, "shard": 9})),
            ("removed", json!({"id": 3, "at": now})),
        ],
    ];
    std::fs::write(dir.join("0000000007.aof"), write(&page, b"FLINTAOF", 7, 0, 1000, &log)).unwrap();
    let list = flint(dir, &["limit", "list", "--json"]);
    assert_eq!(list.code, Some(0), "{list:?}");
    let list = list.json();
    let found: Vec<Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|status| {
            json!([
                status["key"],
                status["rate"],
                status["remaining"],
                status["total_allowed"],
                status["total_denied"],
                status["total_allowed_cost"],
                status["total_denied_cost"]
            ])
        })
        .collect();
    let expected = [
        json!(["sliding_window_counter", 20, 20, 12, 12, 18, 300]),
        json!(["sliding_window_log", 30, 27, 11, 99, 13, 1000]),
        json!(["token_bucket", 20, 1, 12, 12, 15, 300]),
        json!(["ключ", 1, 70, 0, 0, 0, 0]),
    ];
    assert_eq!(found, expected, "{list}");
    assert_eq!(list[1]["last_denied_at"], rfc3339(now).to_string());
    assert_eq!(list[2]["last_allowed_at"], rfc3339(now).to_string());
    assert_eq!(list[2]["last_denied_at"], Value::Null);
    assert_eq!(list[2]["last_reset_at"], rfc3339(0).to_string());
    let verify = flint(dir, &["log", "verify", "--json"]).json();
    assert_eq!((&verify["events"], &verify["torn"]), (&8.into(), &Value::Null), "{verify}");
    // The events come back as they were sent, and the windows as the snapshot has them.
    let status = flint(dir, &["limit", "status", "sliding_window_log", "--json"]).json();
    assert_eq!(status["reset_at"], rfc3339(now + year * 1000).to_string());
}

#[test]
fn the_program_reads_the_holds_that_the_page_says() {
    let page = Page::read();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path();
    let now = 4_000_000_000_000_000_u64;
    let later = now + 60_000_000;
    let entry = |id: u64, key: &str| {
        let state = json!({"whole": 20, "part": 0, "at": now, "full": 0, "fast": null});
        json!({"id": id, "shard": id, "source": 0, "states": [state], "limit": limit(0, 20, 60_000, 20), "max-keys": null,
            "overlay": null, "resting": [], "ceiling": null, "configured": now, "key": key, "allowed": 0, "denied": 0,
            "allowed-cost": 0, "denied-cost": 0, "last-allowed": null, "last-denied": null, "last-reset": null, "barrier": null})
    };
    let item = |cost: u64| json!({"id": 1, "cost": cost, "slots": 0, "key": "a"});
    let uuid = |byte: u8| Value::from(vec![byte; 16]);
    let frame = vec![
        (
            "hold",
            json!({"hold": 3, "at": now, "until": later, "ttl": 60_000_000, "ended": null, "costs": [], "items": [item(4)]}),
        ),
        (
            "hold",
            json!({"hold": 4, "at": now, "until": later, "ttl": 60_000_000, "ended": now, "costs": [5], "items": [item(6)]}),
        ),
        ("answer", json!({"key": uuid(1), "request": uuid(2), "at": now, "answer": "secret"})),
        ("entry", entry(1, "a")),
        ("entry", entry(2, "b")),
        ("end", json!({"limits": 2, "now": now})),
    ];
    std::fs::write(dir.join("0000000007.snapshot"), write(&page, b"FLINTSNP", 7, 1, 2, &[frame])).unwrap();
    let spend = |id: u64, cost: u64| json!({"id": id, "cost": cost, "born": null, "moves": [], "ends": []});
    let held = json!({"hold": 5, "at": now, "until": later, "items": [
        {"spend": spend(1, 7), "slots": 0, "key": "a"}, {"spend": spend(2, 1), "slots": 1, "key": "b"}]});
    let kept = json!({"key": uuid(3), "request": uuid(4), "at": now, "answer": "secret", "event": ["held", held]});
    let log = vec![
        ("kept", kept),
        ("renewed", json!({"hold": 5, "until": later + 1_000_000})),
        (
            "settled",
            json!({"hold": 5, "at": now, "costs": [2, 1], "back": [{"id": 1, "units": 5, "held-at": now}], "more": []}),
        ),
        ("settled", json!({"hold": 3, "at": now, "costs": [9], "back": [], "more": [spend(1, 5)]})),
        ("refunded", json!({"id": 1, "at": now, "units": 1})),
        ("tables-marker", json!({"snapshot": 6})),
    ];
    std::fs::write(dir.join("0000000007.aof"), write(&page, b"FLINTAOF", 7, 0, 1000, &[log])).unwrap();
    let verify = flint(dir, &["log", "verify", "--json"]).json();
    assert_eq!((&verify["events"], &verify["torn"]), (&6.into(), &Value::Null), "{verify}");
    let dump = flint(dir, &["log", "dump"]);
    assert!(!dump.out.contains("secret"), "{}", dump.out);
    let lines: Vec<Value> = dump.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (at, until, renewed) =
        (rfc3339(now).to_string(), rfc3339(later).to_string(), rfc3339(later + 1_000_000).to_string());
    let item = |id: u64, key: &str, cost: u64| json!({"id": id, "key": key, "cost": cost});
    let slots = json!({"id": 2, "key": "b", "cost": 1, "slots": true});
    let expected = [
        json!({"event": "hold", "hold": 3, "at": at, "until": until, "items": [item(1, "a", 4)]}),
        json!({"event": "hold", "hold": 4, "at": at, "until": until, "ended": at,
            "items": [{"id": 1, "key": "a", "cost": 6, "settled": 5}]}),
        json!({"event": "answer", "at": at}),
        json!({"event": "held", "hold": 5, "at": at, "until": until, "kept": true, "items": [item(1, "a", 7), slots]}),
        json!({"event": "renewed", "hold": 5, "until": renewed, "items": [{"id": 1, "key": "a"}, {"id": 2, "key": "b"}]}),
        json!({"event": "settled", "hold": 5, "at": at, "items": [item(1, "a", 2), item(2, "b", 1)],
            "back": [{"id": 1, "key": "a", "units": 5, "held_at": at}]}),
        json!({"event": "settled", "hold": 3, "at": at, "items": [item(1, "a", 9)], "more": [item(1, "a", 5)]}),
        json!({"event": "refunded", "id": 1, "key": "a", "at": at, "units": 1}),
        json!({"event": "tables_marker", "snapshot": 6}),
    ];
    let others = ["snapshot", "entry", "clock"];
    let told: Vec<&Value> = lines.iter().filter(|line| !others.iter().any(|other| line["event"] == *other)).collect();
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
    let history = flint(dir, &["limit", "history", "b", "--json"]);
    for event in ["held", "renewed", "settled"] {
        assert!(history.out.contains(&format!("\"event\":\"{event}\"")), "{}", history.out);
    }
    assert!(!history.out.contains("refunded"), "{}", history.out);
}

/// A limit of one window.
fn limit(algorithm: u64, rate: u64, period: u64, capacity: u64) -> Value {
    json!({"flags": 0, "slots": null, "windows": [{"algorithm": algorithm, "rate": rate, "capacity": capacity, "period": period}]})
}

/// The bytes of the hexdump in the page.
fn example(page: &Page) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let is_dump = |line: &&str| line.len() >= 8 && line.bytes().take(8).all(|byte| byte.is_ascii_hexdigit());
    for line in page.text.lines().filter(is_dump) {
        let offset = usize::from_str_radix(&line[..8], 16).unwrap();
        assert!(offset >= bytes.len() && offset < 1 << 20, "{line}");
        // A star stands for lines like the one before it, of zeros.
        bytes.resize(offset, 0);
        let columns = line[8..].split('|').next().unwrap().split_whitespace();
        bytes.extend(columns.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_example_is_real() {
    let page = Page::read();
    let bytes = example(&page);
    let file = read(&page, &bytes, b"FLINTAOF");
    let names: Vec<Vec<&str>> =
        file.frames.iter().map(|(_, records)| records.iter().map(|(name, _)| name.as_str()).collect()).collect();
    assert_eq!(names, [vec!["clock"], vec!["created"], vec![], vec!["spent"], vec![]]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("0000000001.aof"), bytes).unwrap();
    let run = flint(dir.path(), &["log", "dump"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in run.out.lines() {
        assert!(page.text.lines().any(|other| other == line), "the page lacks {line}");
    }
    assert_eq!(run.out.lines().count(), 3);
    let status = flint(dir.path(), &["limit", "status", "login", "--json"]).json();
    assert_eq!((&status["rate"], &status["total_allowed"]), (&5.into(), &1.into()));
}

/// The rows of the tables in a source file's own documentation.
fn documented(file: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/format").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    rows.filter(|row| row[0].parse::<u64>().is_ok()).collect()
}

#[test]
fn the_page_has_the_codes_tables_numbers_and_bounds() {
    let page = Page::read();
    let places = |table: &Table| table.iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>();
    let (header, frame_table) = (places(&page.tables[0]), places(&page.tables[1]));
    let mut of_code = places(&documented("frame.rs"));
    assert_eq!(of_code.pop(), Some(vec!["40".to_owned(), "length".to_owned()]), "the payload");
    assert_eq!([header, frame_table].concat(), of_code);
    assert_eq!([page.tables[2].clone(), page.tables[4].clone()].concat(), documented("record.rs"));
    for (code, algorithm) in Algorithm::ALL.iter().enumerate() {
        assert_eq!(algorithm.name(), page.state(code as u64).0);
    }
    assert_eq!((page.header().size(), page.frame().size()), (frame::FILE_HEADER, frame::FRAME_HEADER));
    // Filled text, so that no line break hides a number.
    let text = page.text.replace("\n", " ");
    for (what, value) in [
        ("begin with {} bytes", frame::FILE_HEADER as u64),
        ("format version {}", frame::VERSION.into()),
        ("This is version {}.", frame::VERSION.into()),
        ("bytes of payload, at most {} in a segment", frame::MAX_PAYLOAD as u64),
        ("at offset {}.", frame::FRAME_HEADER as u64),
        ("same {} bytes", frame::FRAME_HEADER as u64),
        ("next multiple of {}", frame::MARK_PAGE),
        ("one page of {} bytes", frame::MARK_PAGE),
        ("for {} milliseconds after a sync", bounds::IDLE_MARK_MS),
        ("idle for {} milliseconds", bounds::IDLE_MARK_MS),
        ("begun at {} bytes", bounds::SEGMENT_BYTES),
        ("A key is at most {} bytes long", bounds::MAX_KEY_BYTES as u64),
        ("or the values) is at most {}.", record::MAX_TEXT as u64),
        ("any other has 1 to {},", bounds::MAX_WINDOWS as u64),
        ("a day of the month from 1 to {},", bounds::MAX_ANCHOR.into()),
        ("from 0 to {} units", bounds::MAX_UNITS),
        ("from 1 to {} milliseconds", bounds::MAX_PERIOD_MS),
        ("at most {} items", bounds::MAX_ITEMS as u64),
        ("An id is at most {};", record::MAX_ID),
        ("the numbers of a file and of a hold are at most {}.", record::MAX_COUNTER),
        ("its items, at most {},", bounds::MAX_ITEMS as u64),
        ("idempotency key, at most {} bytes long", bounds::MAX_RECORD_BYTES as u64),
        ("0 to {}, is the part", bounds::SHARDS as u64 - 1),
        ("All {} markers", bounds::SHARDS as u64),
    ] {
        let sentence = what.replace("{}", &value.to_string());
        assert!(text.contains(&sentence), "the page lacks `{sentence}`");
    }
    for magic in ["FLINTAOF", "FLINTSNP", "FLfr"] {
        assert!(text.contains(&format!("Li {magic}")), "{magic}");
    }
}

#[test]
fn the_first_byte_past_a_bound_of_the_page_is_refused() {
    let page = Page::read();
    let created = |id: u64, at: u64, key: &str, rate: u64, period: u64| {
        let limit = limit(0, rate, period, rate);
        vec![("created", json!({"id": id, "shard": 0, "at": at, "limit": limit, "max-keys": null, "key": key}))]
    };
    let record = |key: &str, rate: u64, period: u64| created(1, 1_700_000_000_000_000, key, rate, period);
    let (longest, longer) = ("x".repeat(512), "x".repeat(513));
    for (good, records) in [
        (true, record(&longest, 1_000_000_000_000, 31_622_400_000)),
        (false, record(&longer, 1, 1)),
        (false, record("k", 1_000_000_000_001, 1)),
        (false, record("k", 1, 31_622_400_001)),
        (true, record("k", 0, 1)),
        (true, created(281_474_976_710_655, 4_611_686_018_427_387_904, "k", 1, 1)),
        (false, created(281_474_976_710_656, 1_700_000_000_000_000, "k", 1, 1)),
        (false, created(1, 4_611_686_018_427_387_905, "k", 1, 1)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let bytes = write(&page, b"FLINTAOF", 1, 0, 1, &[records]);
        std::fs::write(dir.path().join("0000000001.aof"), bytes).unwrap();
        let run = flint(dir.path(), &["log", "verify"]);
        assert_eq!(run.code, Some(if good { 0 } else { 1 }), "{run:?}");
        assert!(good || run.out.contains("damaged at offset 104"), "{run:?}");
    }
}

#[test]
fn a_key_that_stands_there_twice_is_refused_and_nothing_is_changed() {
    let page = Page::read();
    let dir = tempfile::tempdir().unwrap();
    let created = |id: u64| {
        let limit = limit(0, 1, 1, 1);
        let at = 1_700_000_000_000_000_u64;
        ("created", json!({"id": id, "shard": 0, "at": at, "limit": limit, "max-keys": null, "key": "same"}))
    };
    let bytes = write(&page, b"FLINTAOF", 1, 0, 1, &[vec![created(1), created(2)]]);
    std::fs::write(dir.path().join("0000000001.aof"), bytes).unwrap();
    let before = log_files(dir.path());
    let run = flint(dir.path(), &["limit", "check", "same"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.err.contains("has the key `same` twice; nothing was changed"), "{run:?}");
    assert!(log_files(dir.path()) == before);
}

/// The title line of groff's mdoc cuts a title that has no room until it has, and never ends where that can't be.
#[test]
fn pages_end_on_a_narrow_terminal() {
    let pages = std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("man")).unwrap();
    for page in pages.map(|page| page.unwrap().path()) {
        let text = std::fs::read_to_string(&page).unwrap();
        let title = text.lines().find(|line| line.starts_with(".Dt ")).unwrap();
        assert!(title.ends_with(" LOCAL"), "{}: the usual volumes have long names", page.display());
        if std::process::Command::new("man").arg("--version").output().is_err() {
            eprintln!("SKIPPED: man is not installed");
            continue;
        }
        for width in ["36", "44"] {
            let mut man = std::process::Command::new("timeout");
            let shown = crate::util::run(man.args(["20", "man", "-l"]).arg(&page).env("MANWIDTH", width));
            assert_eq!(shown.code, Some(0), "{} at {width} columns", page.display());
        }
    }
}
