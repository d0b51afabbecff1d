//! What is left of limits that were configured together when the process ended: all or none of them.
//!
//! What is done here is in no record. So a snapshot must follow before the log goes on, as it does after every crash.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::replay::Found;
use crate::clock::Micros;
use crate::limit::{Limit, Live, PatternSet, is_pattern};
use crate::limiter::entry::{Change, Entry, Source};
use crate::limiter::registry::{Group, Intended, PATTERN_MARK};

/// Does at `now`, the instant at which the log goes on, what is left of a group.
pub fn redo(found: &mut Found, group: Group, now: Micros) {
    let places = found.entries.iter().enumerate().map(|(place, entry)| (Box::from(&*entry.key), place)).collect();
    let mut patterns = PatternSet::new();
    found.entries.iter().filter_map(|entry| entry.pattern_text()).for_each(|text| {
        patterns.insert(text, ());
    });
    found.highest_id = found.highest_id.max(group.number);
    let mut redo = Redo { found, places, patterns, gone: HashSet::new(), now };
    for item in group.left.into_iter().rev() {
        match &item.limit {
            Some(limit) => redo.configure(&item, limit),
            None if is_pattern(&item.key) => redo.remove_pattern(&item.key),
            None => redo.remove(&item.key),
        }
    }
    let Redo { found, gone, .. } = redo;
    let mut place = 0;
    found.entries.retain(|_| {
        place += 1;
        !gone.contains(&(place - 1))
    });
}

struct Redo<'f> {
    found: &'f mut Found,
    /// The last place of each key: one that came and went may be there several times.
    places: HashMap<Box<str>, usize>,
    patterns: PatternSet<()>,
    /// Places of what is removed.
    gone: HashSet<usize>,
    now: Micros,
}

impl Redo<'_> {
    fn configure(&mut self, item: &Intended, limit: &Arc<Limit>) {
        let key = place_of(&item.key);
        let (limit, now) = (Arc::clone(limit), self.now);
        let Some(place) = self.places.get(&key).copied() else { return self.create(item, key, limit) };
        let entry = &mut self.found.entries[place];
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
        // Where its values last for a time, those of a pattern or request come back.
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
        self.places.insert(key, self.found.entries.len());
        self.found.entries.push(entry);
    }

    fn remove(&mut self, key: &str) {
        let Some(place) = self.places.get(key).copied() else { return };
        if self.patterns.find(key).is_none() {
            self.places.remove(key);
            self.gone.insert(place);
            return;
        }
        // The pattern's values come at the next look.
        let (entry, now) = (&mut self.found.entries[place], self.now);
        lift_ended(entry, now);
        let limit = Arc::clone(&entry.limit);
        entry.change(&Change { at: now, source: Source::Request, lifts: true, limit }, &mut Live::default());
    }

    fn remove_pattern(&mut self, text: &str) {
        let Some(place) = self.places.remove(&place_of(text)) else { return };
        self.patterns.remove(text);
        self.gone.insert(place);
        let id = self.found.entries[place].id();
        let slot = self.found.shares.slot(id);
        self.found.shares.remove(id, text);
        for entry in self.found.entries.iter_mut().filter(|entry| entry.source() == Source::Pattern(slot)) {
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
