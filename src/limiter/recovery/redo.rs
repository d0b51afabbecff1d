//! What is left of limits that were configured together when the process ended: all or none of them.
//!
//! What is done here is in no record. So a snapshot must follow before the log goes on, as it does after every crash.

use std::collections::HashMap;
use std::sync::Arc;

use super::replay::Found;
use crate::clock::Micros;
use crate::limit::{Limit, Live, PatternSet, is_pattern};
use crate::limiter::entry::{Change, Entry, Source};
use crate::limiter::registry::{Group, Intended, PATTERN_MARK};

/// Does at `now`, the instant at which the log goes on, what is left of a group.
pub fn redo(found: &mut Found, group: Group, now: Micros) {
    let (mut ids, mut patterns) = (HashMap::new(), PatternSet::new());
    for entry in found.keys.iter() {
        let id: &mut u64 = ids.entry(Box::from(&*entry.key)).or_default();
        *id = entry.id().max(*id);
        if let Some(text) = entry.pattern_text() {
            patterns.insert(text, ());
        }
    }
    found.highest_id = found.highest_id.max(group.number);
    let mut redo = Redo { found, ids, patterns, now };
    for item in group.left.into_iter().rev() {
        match &item.limit {
            Some(limit) => redo.configure(&item, limit),
            None if is_pattern(&item.key) => redo.remove_pattern(&item.key),
            None => redo.remove(&item.key),
        }
    }
}

struct Redo<'f> {
    found: &'f mut Found,
    /// The last id of each key: a key that came and went may be there several times.
    ids: HashMap<Box<str>, u64>,
    patterns: PatternSet<()>,
    now: Micros,
}

impl Redo<'_> {
    fn configure(&mut self, item: &Intended, limit: &Arc<Limit>) {
        let key = place_of(&item.key);
        let (limit, now) = (Arc::clone(limit), self.now);
        let Some(entry) = self.ids.get(&key).and_then(|id| self.found.keys.get(*id)) else {
            return self.create(item, key, limit);
        };
        lift_ended(entry, now);
        let ends = &mut Live::default();
        match item.until {
            Some(until) => {
                if item.max_keys.is_some() {
                    entry.reconfigure(Arc::clone(&entry.limit), item.max_keys, now, ends);
                }
                entry.lay_over(limit, until, now, ends);
            }
            None if entry.source() == Source::Exact && entry.limit == limit && entry.max_keys() == item.max_keys => {}
            None => entry.reconfigure(limit, item.max_keys, now, ends),
        }
    }

    fn create(&mut self, item: &Intended, key: Box<str>, limit: Arc<Limit>) {
        self.found.highest_id += 1;
        // If its values last for a time, those of a pattern or request come back.
        let source = if item.until.is_some() { Source::Request } else { Source::Exact };
        let mut entry = Entry::new(&key, self.found.highest_id, 0, source, Arc::clone(&limit));
        if is_pattern(&item.key) {
            entry.set_source(Source::Exact);
            entry.set_pattern(self.now, item.max_keys);
            self.patterns.insert(&item.key, ());
        }
        if let Some(until) = item.until {
            entry.lay_over(limit, until, self.now, &mut Live::default());
        }
        self.ids.insert(key, entry.id());
        // Its id is a new one.
        let _ = self.found.keys.insert(entry);
    }

    fn remove(&mut self, key: &str) {
        let Some(id) = self.ids.get(key).copied() else { return };
        if self.patterns.find(key).is_none() {
            self.ids.remove(key);
            return self.found.keys.remove(id);
        }
        let Some(entry) = self.found.keys.get(id) else { return };
        // The pattern's values come at the next look.
        let now = self.now;
        lift_ended(entry, now);
        let limit = Arc::clone(&entry.limit);
        entry.change(&Change { at: now, source: Source::Request, lifts: true, limit }, &mut Live::default());
    }

    fn remove_pattern(&mut self, text: &str) {
        let Some(id) = self.ids.remove(&place_of(text)) else { return };
        self.patterns.remove(text);
        self.found.keys.remove(id);
        let slot = self.found.shares.slot(id);
        self.found.shares.remove(id, text);
        for entry in self.found.keys.iter_mut().filter(|entry| entry.source() == Source::Pattern(slot)) {
            // Another pattern's values come at the next look. What is led to none goes, as keys of no pattern do.
            if entry.overlay().is_some() || self.patterns.find(&entry.key).is_some() {
                entry.set_source(Source::Request);
            }
        }
    }
}

fn place_of(key: &str) -> Box<str> {
    if is_pattern(key) { format!("{PATTERN_MARK}{key}").into() } else { key.into() }
}

/// Lifts what has ended, as of then.
fn lift_ended(entry: &mut Entry, now: Micros) {
    if let Some(until) = entry.overlay().map(|overlay| overlay.until).filter(|until| *until <= now)
        && entry.pattern_text().is_none()
    {
        let (source, limit) = (entry.source(), Arc::clone(&entry.limit));
        entry.change(&Change { at: until, source, lifts: true, limit }, &mut Live::default());
    }
}
