//! Looking at a data directory without changing it: `log dump`, `log verify`, `limit history`. A writer is
//! not delayed: meanwhile the files are read as they are.

use std::collections::HashMap;
use std::hash::RandomState;
use std::path::Path;

use serde_json::{Value, json};

use crate::clock::{Micros, Reading, rfc3339};
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, Mode, Window};
use crate::limiter::recovery::replay::Replayed;
use crate::limiter::registry::{OVERFLOW_MARK, PATTERN_MARK, Registry};
use crate::store::record::{
    self, Answer, Back, Born, Event, HeldItem, HoldEntry, Intent, PatternTotals, Source, Spend,
};
use crate::store::{Access, DirectoryLock, ReadOnlyView, Recovered, Replay, recover};

/// What a step of reading gives.
type Read = std::result::Result<(), String>;

/// Hands each record of snapshot and log to `each`, as a JSON object, in the order of the log.
///
/// # Errors
/// As for opening the directory to look at it.
pub fn dump(dir: &Path, each: &mut dyn FnMut(&Value)) -> Result<()> {
    // A key may stand in a snapshot before the pattern that it lives under.
    let mut patterns = Patterns(HashMap::new());
    look(dir, &mut patterns)?;
    let mut dumper = Dumper { keys: patterns.0, holds: HashMap::new(), kept: false, each };
    look(dir, &mut dumper).map(|_| ())
}

/// The patterns of a snapshot, as the map has their keys, by their ids.
struct Patterns(HashMap<u64, String>);

impl Replay for Patterns {
    fn snapshot(&mut self, _: u64, _: bool, _: u64) {}

    fn entry(&mut self, entry: record::Entry<'_>) -> Read {
        if entry.key.starts_with(PATTERN_MARK) {
            self.0.insert(entry.id, entry.key.to_owned());
        }
        Ok(())
    }

    fn pattern_totals(&mut self, _: PatternTotals) -> Read {
        Ok(())
    }

    fn hold(&mut self, _: HoldEntry<'_>) -> Read {
        Ok(())
    }

    fn answer(&mut self, _: Answer<'_>) -> Read {
        Ok(())
    }

    fn event(&mut self, _: Event<'_>) -> Read {
        Ok(())
    }
}

/// Reads the directory; next to its writer, if it has one. No lock is held meanwhile: a dump may be read with a pager,
/// and that must not keep a server from its start.
fn look(dir: &Path, replay: &mut dyn Replay) -> Result<Recovered> {
    match DirectoryLock::acquire(dir, Access::Read) {
        Err(error) if error.kind() != Kind::Locked => return Err(error),
        _ => {}
    }
    let disk = ReadOnlyView::open(dir).map_err(|error| Error::io("read", dir, &error))?;
    let found = recover(dir, &disk, replay)?;
    // What follows the last whole frame may be what a writer is writing.
    let torn = found.torn.clone().filter(|_| crate::store::writer(dir).is_none());
    Ok(Recovered { torn, ..found })
}

/// Hands the events of one key to `each`, as JSON objects; also of a key that lives under a pattern or request, of a
/// pattern by its text, and of holds with an item of the key. Events before the last compaction are not known any more:
/// the snapshot has their sum.
///
/// # Errors
/// As for opening the directory to look at it.
pub fn history(dir: &Path, key: &str, each: &mut dyn FnMut(&Value)) -> Result<()> {
    dump(dir, &mut |record| {
        let of_item = |item: &Value| item["key"] == key;
        if of_item(record) || record["items"].as_array().is_some_and(|items| items.iter().any(of_item)) {
            each(record);
        }
    })
}

/// Reads all of snapshot and log, and checks that a limiter could be opened on them.
///
/// # Errors
/// `corrupt` and `unsupported`, naming file and offset.
pub fn verify(dir: &Path) -> Result<Recovered> {
    look(dir, &mut Replayed::new(&Registry::new(0), &RandomState::new()))
}

struct Dumper<'a> {
    /// Keys as the map has them.
    keys: HashMap<u64, String>,
    /// The ids and keys of the items of each hold that was not settled yet.
    holds: HashMap<u64, Vec<(u64, String)>>,
    /// Set within a record that keeps an answer.
    kept: bool,
    each: &'a mut dyn FnMut(&Value),
}

impl Dumper<'_> {
    fn tell(&mut self, line: &Value) -> Read {
        match self.kept {
            true => (self.each)(&with(line.clone(), "kept", true)),
            false => (self.each)(line),
        }
        Ok(())
    }

    /// What all events of a key have.
    fn line(&self, event: &str, at: Option<Micros>, id: u64) -> Value {
        let key = self.keys.get(&id).map(String::as_str);
        with_key(json!({"event": event, "at": at.map(instant), "id": id}), key)
    }

    fn with_source(&self, line: Value, source: Source) -> Value {
        match source {
            // Of most limits.
            Source::Exact => line,
            Source::Request => with(line, "source", "request"),
            Source::Overflow => with(line, "source", "overflow"),
            Source::Pattern(id) => {
                let pattern = self.keys.get(&id).map(|key| shown(key).0);
                with(with(line, "source", "pattern"), "pattern", pattern)
            }
        }
    }

    fn born(&mut self, id: u64, at: Micros, born: &Born<'_>) -> Read {
        self.keys.insert(id, born.key.to_owned());
        let line = self.with_source(self.line("born", Some(at), id), born.source);
        self.tell(&with_limit(line, &born.limit))
    }

    /// The birth of a spend's key and the changes of its values before it.
    fn before_spend(&mut self, at: Micros, spend: &Spend<'_>) -> Read {
        if let Some(born) = &spend.born {
            self.born(spend.id, at, born)?;
        }
        for made in &spend.moves {
            let line = match made.source {
                Source::Exact => with(self.line("moved", Some(made.at), spend.id), "source", "exact"),
                other => self.with_source(self.line("moved", Some(made.at), spend.id), other),
            };
            let line = if made.lifts { with(line, "lifts", true) } else { line };
            self.tell(&with_limit(line, &made.limit))?;
        }
        Ok(())
    }

    /// A spend, with what comes before it.
    fn spent(&mut self, at: Micros, spend: &Spend<'_>, several: bool) -> Read {
        self.before_spend(at, spend)?;
        if spend.cost == 0 {
            return Ok(());
        }
        let line = with(self.line("spent", Some(at), spend.id), "cost", spend.cost);
        let line = with_ends(if several { with(line, "check_all", true) } else { line }, &spend.ends);
        self.tell(&line)
    }

    fn held(&mut self, hold: u64, at: Micros, until: Micros, items: &[HeldItem<'_>]) -> Read {
        items.iter().try_for_each(|item| self.before_spend(at, &item.spend))?;
        let told = items
            .iter()
            .map(|HeldItem { spend, slots, key }| with_ends(hold_item(spend.id, spend.cost, *slots, key), &spend.ends));
        let line = json!({"event": "held", "at": instant(at), "hold": hold, "until": instant(until),
            "items": told.collect::<Vec<_>>()});
        self.holds.insert(hold, items.iter().map(|item| (item.spend.id, item.key.to_owned())).collect());
        self.tell(&line)
    }

    /// Without items where the beginning of the hold is not there.
    fn settled(&mut self, hold: u64, at: Micros, costs: &[u64], back: &[Back], more: &[Spend<'_>]) -> Read {
        more.iter().try_for_each(|spend| self.before_spend(at, spend))?;
        let items = self.holds.remove(&hold).unwrap_or_default();
        let items = items.iter().zip(costs).map(|((id, key), cost)| hold_item(*id, *cost, false, key));
        let line = json!({"event": "settled", "at": instant(at), "hold": hold, "items": items.collect::<Vec<_>>()});
        let key = |id: u64| with_key(json!({"id": id}), self.keys.get(&id).map(String::as_str));
        let back = back
            .iter()
            .map(|Back { id, units, held_at }| with(with(key(*id), "units", *units), "held_at", instant(*held_at)));
        let line = with_some(line, "back", back.collect());
        let more = more.iter().map(|spend| with_ends(with(key(spend.id), "cost", spend.cost), &spend.ends));
        let line = with_some(line, "more", more.collect());
        self.tell(&line)
    }

    fn intended(&mut self, at: Micros, (group, last): (u64, bool), item: &Intent<'_>) -> Read {
        let line = json!({"event": "intended", "at": instant(at), "group": group, "last": last});
        let line = with_until(with_max_keys(with_key(line, Some(item.key)), item.max_keys), item.until);
        let line = match &item.limit {
            Some(limit) => with_limit(line, limit),
            None => with(line, "removes", true),
        };
        self.tell(&line)
    }
}

impl Replay for Dumper<'_> {
    fn snapshot(&mut self, number: u64, complete: bool, limits: u64) {
        (self.each)(&json!({"event": "snapshot", "number": number, "complete": complete, "limits": limits}));
    }

    fn entry(&mut self, entry: record::Entry<'_>) -> Read {
        self.keys.insert(entry.id, entry.key.to_owned());
        let line = with_totals(with_key(json!({"event": "entry", "id": entry.id}), Some(entry.key)), &entry.totals);
        let line = with_max_keys(self.with_source(line, entry.source), entry.max_keys);
        let line = match &entry.overlay {
            Some(overlay) => {
                let over = with_until(with_limit(json!({}), &overlay.limit), Some(overlay.until));
                with(line, "overlay", over)
            }
            None => line,
        };
        self.tell(&with_limit(line, &entry.limit))
    }

    fn pattern_totals(&mut self, totals: PatternTotals) -> Read {
        let key = self.keys.get(&totals.id).map(String::as_str);
        let line = with_key(json!({"event": "pattern_totals", "id": totals.id}), key);
        self.tell(&with_totals(line, &totals.totals))
    }

    fn hold(&mut self, entry: HoldEntry<'_>) -> Read {
        let HoldEntry { hold, at, until, ended, costs, items, .. } = entry;
        let told = items.iter().enumerate().map(|(place, (id, cost, slots, key))| {
            let item = hold_item(*id, *cost, *slots, key);
            if let Some(settled) = costs.get(place) { with(item, "settled", *settled) } else { item }
        });
        let line = json!({"event": "hold", "at": instant(at), "hold": hold, "until": instant(until),
            "items": told.collect::<Vec<_>>()});
        let line = if ended.is_some() { with(line, "ended", ended.map(instant)) } else { line };
        self.holds.insert(hold, items.iter().map(|(id, _, _, key)| (*id, (*key).to_owned())).collect());
        self.tell(&line)
    }

    /// What it says, and the request that it is for, are private.
    fn answer(&mut self, answer: Answer<'_>) -> Read {
        self.tell(&json!({"event": "answer", "at": instant(answer.at)}))
    }

    fn event(&mut self, event: Event<'_>) -> Read {
        let line = match event {
            Event::Created { id, at, limit, max_keys, key, .. } => {
                self.keys.insert(id, key.to_owned());
                with_max_keys(with_limit(self.line("created", Some(at), id), &limit), max_keys)
            }
            Event::Reconfigured { id, at, limit, max_keys, ends } => {
                let line = with_limit(self.line("reconfigured", Some(at), id), &limit);
                with_ends(with_max_keys(line, max_keys), &ends)
            }
            Event::Overlaid { id, at, limit, until, born, ends } => {
                if let Some(born) = &born {
                    self.born(id, at, born)?;
                }
                let line = with_until(with_limit(self.line("overlaid", Some(at), id), &limit), Some(until));
                with_ends(line, &ends)
            }
            Event::Removed { id, at } => self.line("removed", Some(at), id),
            Event::Became { id, at, source, limit, ends } => {
                let line = self.line("became", Some(at), id);
                let line = match source {
                    Source::Exact => with(line, "source", "exact"),
                    other => self.with_source(line, other),
                };
                with_ends(with_limit(line, &limit), &ends)
            }
            Event::Spent { id, cost, at } => with(self.line("spent", Some(at), id), "cost", cost),
            Event::SpentAll { at, items } => {
                return items.into_iter().try_for_each(|(id, cost)| {
                    let line = with(self.line("spent", Some(at), id), "cost", cost);
                    self.tell(&with(line, "check_all", true))
                });
            }
            Event::SpentMore { at, items } => {
                return items.iter().try_for_each(|spend| self.spent(at, spend, items.len() > 1));
            }
            Event::Denied { id, total, cost, last } => {
                with(with(self.line("denied", last, id), "total_denied", total), "total_denied_cost", cost)
            }
            Event::Reset { id, at } => self.line("reset", Some(at), id),
            Event::Marker { snapshot, shard } => json!({"event": "marker", "snapshot": snapshot, "shard": shard}),
            Event::Clock(Reading { at, wall, boot, boot_clock }) => json!({"event": "clock", "at": instant(at),
                "wall": instant(wall), "boot": uuid(&boot), "boot_clock_us": boot_clock}),
            Event::Intended { group, last, at, items } => {
                return items.iter().try_for_each(|item| self.intended(at, (group, last), item));
            }
            Event::Done { group } => json!({"event": "done", "group": group}),
            Event::Held { hold, at, until, items } => return self.held(hold, at, until, &items),
            Event::Settled { hold, at, costs, back, more } => return self.settled(hold, at, &costs, &back, &more),
            Event::Renewed { hold, until } => {
                let line = json!({"event": "renewed", "hold": hold, "until": instant(until)});
                let items = self.holds.get(&hold).into_iter().flatten();
                with_some(line, "items", items.map(|(id, key)| json!({"id": id, "key": key})).collect())
            }
            Event::Refunded { id, at, units } => with(self.line("refunded", Some(at), id), "units", units),
            Event::Kept { event, .. } => {
                self.kept = true;
                let told = self.event(*event);
                self.kept = false;
                return told;
            }
            Event::TablesMarker { snapshot } => json!({"event": "tables_marker", "snapshot": snapshot}),
        };
        self.tell(&line)
    }
}

fn instant(at: Micros) -> String {
    rfc3339(at).to_string()
}

/// `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`
fn uuid(bytes: &[u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(*bytes));
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// What users see of a key in the map, and what it is if it is none.
fn shown(key: &str) -> (&str, Option<&'static str>) {
    match (key.strip_prefix(PATTERN_MARK), key.strip_prefix(OVERFLOW_MARK)) {
        (Some(text), _) => (text, Some("pattern")),
        (None, Some(text)) => (text, Some("overflow")),
        (None, None) => (key, None),
    }
}

fn with(mut line: Value, name: &str, value: impl Into<Value>) -> Value {
    line[name] = value.into();
    line
}

fn with_key(line: Value, key: Option<&str>) -> Value {
    match key.map(shown) {
        Some((text, Some(kind))) => with(with(line, "key", text), "kind", kind),
        other => with(line, "key", other.map(|(text, _)| text)),
    }
}

fn with_max_keys(line: Value, max_keys: Option<u64>) -> Value {
    if max_keys.is_some() { with(line, "max_keys", max_keys) } else { line }
}

fn with_until(line: Value, until: Option<Micros>) -> Value {
    if until.is_some() { with(line, "until", until.map(instant)) } else { line }
}

/// One item of a hold.
fn hold_item(id: u64, cost: u64, slots: bool, key: &str) -> Value {
    let item = with(with_key(json!({"id": id}), Some(key)), "cost", cost);
    if slots { with(item, "slots", true) } else { item }
}

fn with_some(line: Value, name: &str, values: Vec<Value>) -> Value {
    if values.is_empty() { line } else { with(line, name, values) }
}

/// The ends of the calendar windows that open, in their order.
fn with_ends(line: Value, ends: &[Micros]) -> Value {
    match ends.is_empty() {
        true => line,
        false => with(line, "ends", ends.iter().map(|end| instant(*end)).collect::<Vec<_>>()),
    }
}

fn with_totals(line: Value, [allowed, denied, allowed_cost, denied_cost]: &[u64; 4]) -> Value {
    let line = with(with(line, "total_allowed", *allowed), "total_denied", *denied);
    with(with(line, "total_allowed_cost", *allowed_cost), "total_denied_cost", *denied_cost)
}

fn with_window(line: Value, window: &Window) -> Value {
    let line = with(with(line, "rate", window.rate()), "per", window.period().to_string());
    let line = with(with(line, "algorithm", window.algorithm().name()), "capacity", window.capacity());
    let line = match window.period().zone() {
        Some(zone) => with(line, "tz", zone.name()),
        None => line,
    };
    match window.period().anchor() {
        Some(anchor) => with(line, "anchor", anchor),
        None => line,
    }
}

fn with_limit(line: Value, limit: &Limit) -> Value {
    let line = match limit.windows() {
        [] if limit.slots().is_some() => with(line, "slots", limit.slots()),
        [] => with(line, "unlimited", true),
        [only] => with_window(line, only),
        several => {
            let windows = several.iter().map(|window| with_window(json!({}), window));
            with(line, "windows", windows.collect::<Vec<_>>())
        }
    };
    match limit.mode() {
        Mode::Shadow => with(line, "mode", Mode::Shadow.name()),
        Mode::Enforce => line,
    }
}
