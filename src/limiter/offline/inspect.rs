//! Looking at a data directory without changing it: `log dump`, `log verify`, `limit history`. A writer is
//! not kept waiting: beside it the files are read as they stand.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::clock::{Millis, rfc3339};
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, format_period};
use crate::store::record::{self, Event};
use crate::store::{Access, DirectoryLock, ReadOnlyView, Recovered, Replay, recover};

use crate::limiter::recovery::replay::Replayed;

/// Hands each record of snapshot and log to `each`, as a JSON object, in the order of the log.
///
/// # Errors
/// As for opening the directory to look at it.
pub fn dump(dir: &Path, each: &mut dyn FnMut(&Value)) -> Result<()> {
    let mut dumper = Dumper { keys: HashMap::new(), each };
    look(dir, &mut dumper).map(|_| ())
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

/// Hands the events of one limit to `each`, as JSON objects. Events before the last compaction are not known any more:
/// the snapshot has their sum.
///
/// # Errors
/// As for opening the directory to look at it.
pub fn history(dir: &Path, key: &str, each: &mut dyn FnMut(&Value)) -> Result<()> {
    dump(dir, &mut |record| {
        if record["key"] == key {
            each(record);
        }
    })
}

/// Reads all of snapshot and log, and checks that a limiter could be opened on them.
///
/// # Errors
/// `corrupt` and `unsupported`, naming file and offset.
pub fn verify(dir: &Path) -> Result<Recovered> {
    look(dir, &mut Replayed::new())
}

struct Dumper<'a> {
    keys: HashMap<u64, String>,
    each: &'a mut dyn FnMut(&Value),
}

impl Dumper<'_> {
    /// What all events of a limit have.
    fn line(&self, event: &str, at: Option<Millis>, id: u64) -> Value {
        json!({"event": event, "at": at.map(|at| rfc3339(at).to_string()), "id": id, "key": self.keys.get(&id)})
    }
}

impl Replay for Dumper<'_> {
    fn snapshot(&mut self, number: u64, complete: bool, limits: u64) {
        (self.each)(&json!({"event": "snapshot", "number": number, "complete": complete, "limits": limits}));
    }

    fn entry(&mut self, entry: record::Entry<'_>) -> std::result::Result<(), String> {
        self.keys.insert(entry.id, entry.key.to_owned());
        let [allowed, denied, allowed_cost, denied_cost] = entry.totals;
        let line = json!({"event": "entry", "id": entry.id, "key": entry.key, "total_allowed": allowed,
            "total_denied": denied, "total_allowed_cost": allowed_cost, "total_denied_cost": denied_cost});
        let line = with_limit(line, &entry.limit);
        (self.each)(&line);
        Ok(())
    }

    fn event(&mut self, event: Event<'_>) -> std::result::Result<(), String> {
        let line = match event {
            Event::Created { id, at, limit, key, .. } => {
                self.keys.insert(id, key.to_owned());
                with_limit(self.line("created", Some(at), id), &limit)
            }
            Event::Reconfigured { id, at, limit } => with_limit(self.line("reconfigured", Some(at), id), &limit),
            Event::Removed { id, at } => self.line("removed", Some(at), id),
            Event::Spent { id, cost, at } => with(self.line("spent", Some(at), id), "cost", cost),
            Event::SpentAll { at, items } => {
                for (id, cost) in items {
                    let line = with(self.line("spent", Some(at), id), "cost", cost);
                    (self.each)(&with(line, "check_all", true));
                }
                return Ok(());
            }
            Event::Denied { id, total, cost, last } => {
                with(with(self.line("denied", last, id), "total_denied", total), "total_denied_cost", cost)
            }
            Event::Reset { id, at } => self.line("reset", Some(at), id),
            Event::Marker { snapshot, shard } => json!({"event": "marker", "snapshot": snapshot, "shard": shard}),
        };
        (self.each)(&line);
        Ok(())
    }
}

fn with(mut line: Value, name: &str, value: impl Into<Value>) -> Value {
    line[name] = value.into();
    line
}

fn with_limit(line: Value, limit: &Limit) -> Value {
    let line = with(with(line, "rate", limit.rate()), "per", format_period(limit.period_ms()));
    with(with(line, "algorithm", limit.algorithm().name()), "capacity", limit.capacity())
}
