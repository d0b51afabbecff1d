//! How records become what is known.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::record::{Fault, HoldRecord, KeyRecord, PatternsRecord, decode_kept};
use super::state::{Scratch, Unsaved};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, is_pattern, is_preferred, matches};
use crate::limiter::answers::Totals;
use crate::limiter::core::Core;
use crate::limiter::entry::{Entry, Source, Table};
use crate::limiter::held::book::Pledge;
use crate::limiter::limits::led;
use crate::limiter::notes::name::Name;
use crate::limiter::registry::{OVERFLOW_MARK, PATTERN_MARK, Pattern, Row};
use crate::store::record::{self, Overlay};

impl Scratch {
    /// Replaces what is known of a name by its record in the store; `None`: there is none. Denials of it that were told
    /// and are not written yet are added. The clock is raised to the instant at which the record was made.
    ///
    /// Patterns are to be loaded before keys. A key whose record knows more of the patterns than is loaded is not
    /// loaded, nor are they any more: both are missing then.
    ///
    /// # Errors
    /// `corrupt` for a record that is damaged, `unsupported` for one of a newer Flint, each with the name; nothing is
    /// known of it then.
    pub fn load(&mut self, name: &Name, record: Option<&[u8]>) -> Result<()> {
        let loaded = match name {
            Name::Key(key) => self.load_key(key, record),
            Name::Patterns => self.load_patterns(record),
            Name::Hold(number) => self.load_hold(*number, record),
            Name::Answer(key) => self.load_answer(key, record),
        };
        loaded.map_err(|fault| match fault {
            Fault::Newer => Error::new(
                Kind::Unsupported,
                format!("the record of {} was written by a newer Flint; upgrade this one", told(name)),
            ),
            Fault::Damaged(what) => Error::new(
                Kind::Corrupt,
                format!("the record of {} is damaged: {what}; delete it in the store, or restore it", told(name)),
            ),
        })
    }

    fn load_key(&mut self, key: &str, record: Option<&[u8]>) -> std::result::Result<(), Fault> {
        let was_loaded = self.forget_key(key, true);
        if !self.patterns {
            return Ok(());
        }
        let hash = self.core().hash(key);
        let name: Arc<str> = self.unsaved.get_key_value(key).map_or_else(|| key.into(), |(name, _)| Arc::clone(name));
        let Some(record) = record else {
            self.unsaved.remove(key);
            self.keys.insert(name);
            return Ok(());
        };
        let (record, made) = KeyRecord::decode(record)?;
        if let Some(entry) = &record.entry {
            let (is_overflow, source) = (key.starts_with(OVERFLOW_MARK), entry.source);
            if entry.key != key || key.starts_with(PATTERN_MARK) || is_overflow != (source == record::Source::Overflow)
            {
                return Err(Fault::Damaged("it is that of another key"));
            }
            if matches!(source, record::Source::Pattern(id) if id > self.notes.last_pattern()) {
                self.patterns = false;
            }
        }
        if record.removals > self.removals {
            self.patterns = false;
        }
        if !self.patterns {
            return Ok(());
        }
        self.core().clock.raise(made);
        self.core().holds.lock().load_rows(hash, &record.open);
        let entry = record.entry.as_ref().and_then(|entry| self.entry(entry, &record));
        if let Some(mut entry) = entry {
            match self.unsaved.get(key) {
                Some(unsaved) if is_of(unsaved, &entry) => add_denials(&mut entry, unsaved),
                // They were of another key of this name, or of a key that has forgotten them.
                Some(_) => drop(self.unsaved.remove(key)),
                None => {}
            }
            self.insert(hash, entry, was_loaded);
        } else {
            self.unsaved.remove(key);
        }
        self.keys.insert(name);
        Ok(())
    }

    /// The entry of a record, led to where it belongs; `None` if it went with its pattern.
    fn entry(&self, record: &record::Entry<'_>, of: &KeyRecord<'_>) -> Option<Entry> {
        let core = self.core();
        let limit = core.registry.intern(&record.limit);
        let overlay = record.overlay.as_ref();
        let overlay = overlay.map(|over| Overlay { limit: core.registry.intern(&over.limit), until: over.until });
        let by_id = |id: u64| core.registry.known().rows().find(|row| row.pattern.id == id).map(|row| row.pattern.slot);
        let mut lives_by = match record.source {
            record::Source::Pattern(id) => Some(id),
            _ => None,
        };
        let source = match record.source {
            record::Source::Exact => Source::Exact,
            record::Source::Request => Source::Request,
            record::Source::Overflow => Source::Overflow,
            // A pattern that is not there any more is left below.
            record::Source::Pattern(id) => by_id(id).map_or(Source::Request, Source::Pattern),
        };
        let mut entry = Entry::from_record(record, source, limit, overlay);
        entry.set_held_until(of.held_until);
        entry.set_generation(of.generation);
        let missed = usize::try_from(self.removals - of.removals).unwrap_or(usize::MAX).min(self.removed.len());
        let missed = &self.removed[self.removed.len() - missed..];
        if let Some(text) = entry.overflow_text().filter(|text| is_pattern(text)) {
            let row = core.registry.known().get(text).cloned();
            let row = row.filter(|_| missed.iter().all(|removed| *removed.text != *text))?;
            entry.set_overflow_of(row.pattern.slot);
            return Some(entry);
        }
        if source == Source::Exact || source == Source::Overflow {
            return Some(entry);
        }
        for (index, removed) in missed.iter().enumerate() {
            // What served it then: a pattern that is there, or a pattern that was removed later.
            let row = self.row_of(record.key, removed.last_id);
            let later = missed[index + 1..].iter().filter(|later| later.id <= removed.last_id);
            let later = later.filter(|later| matches(&later.text, record.key));
            let text = row.as_ref().map(|row| &*row.pattern.text);
            let (text, id) = later.fold((text, row.as_ref().map(|row| row.pattern.id)), |(text, id), later| {
                let is_better = text.is_none_or(|text| is_preferred(&later.text, text));
                if is_better { (Some(&later.text), Some(later.id)) } else { (text, id) }
            });
            let was_of = lives_by == Some(removed.id);
            let was_served =
                matches(&removed.text, record.key) && text.is_some_and(|text| is_preferred(&removed.text, text));
            if !was_of && !was_served {
                continue;
            }
            // Which values one had that is gone is known no more: the key keeps its own until it is led away from that.
            if id == row.as_ref().map(|row| row.pattern.id) {
                entry = led(&entry, row.as_ref(), removed.at)?.entry;
            }
            lives_by = id;
        }
        match lives_by {
            // It is not known when that was removed.
            Some(id) if by_id(id).is_none() => {
                let row = self.row_of(record.key, u64::MAX);
                led(&entry, row.as_ref(), entry.last_change()).map(|led| led.entry)
            }
            _ => Some(entry),
        }
    }

    /// The pattern that serves a key among those up to this id.
    fn row_of(&self, key: &str, last_id: u64) -> Option<Row> {
        let known = self.core().registry.known();
        if let Some(best) = known.find(key).filter(|row| row.pattern.id <= last_id) {
            return Some(best.clone());
        }
        let rows = known.rows().filter(|row| row.pattern.id <= last_id && matches(&row.pattern.text, key));
        let better = |one: &Row, other: &Row| is_preferred(&one.pattern.text, &other.pattern.text);
        rows.reduce(|best, row| if better(row, best) { row } else { best }).cloned()
    }

    /// Puts an entry in. An entry whose name was loaded before is counted in, as it was counted out.
    pub(super) fn insert(&self, hash: u64, entry: Entry, counts_in: bool) {
        let core = self.core();
        let mut table = self.table(hash);
        let pattern = entry.share_slot().and_then(|slot| core.registry.known().row(slot).cloned());
        if let Some(row) = &pattern {
            table.counts.shares.of(&row.pattern);
        }
        if counts_in {
            count_in(core, &entry, pattern.as_ref().map(|row| &*row.pattern));
        }
        table.insert(hash, entry, |key| core.hash(key));
    }

    /// Takes a key out, and what open holds take of it. Whether it was loaded.
    pub(super) fn forget_key(&mut self, key: &str, counts_out: bool) -> bool {
        let hash = self.core().hash(key);
        self.take_out(hash, key, counts_out);
        self.core().holds.lock().load_rows(hash, &[]);
        self.keys.remove(key)
    }

    /// Takes an entry out.
    pub(super) fn take_out(&self, hash: u64, key: &str, counts_out: bool) {
        let core = self.core();
        let mut table = self.table(hash);
        take_out(core, &mut table, hash, key, counts_out);
    }

    fn load_patterns(&mut self, record: Option<&[u8]>) -> std::result::Result<(), Fault> {
        self.patterns = false;
        let (record, made) = match record {
            Some(record) => PatternsRecord::decode(record)?,
            None => (PatternsRecord::default(), 0),
        };
        let mut texts: HashMap<&str, u64> = HashMap::new();
        for entry in &record.patterns {
            let text = entry.key.strip_prefix(PATTERN_MARK).filter(|text| is_pattern(text));
            let text = text.ok_or("a pattern that is none")?;
            let fits = entry.source == record::Source::Exact && (1..=record.last_id).contains(&entry.id);
            if !fits || texts.insert(text, entry.id).is_some() {
                return Err(Fault::Damaged("a pattern that cannot be"));
            }
        }
        if texts.values().collect::<std::collections::HashSet<_>>().len() != texts.len() {
            return Err(Fault::Damaged("two patterns with one id"));
        }
        self.core().clock.raise(made);
        for key in std::mem::take(&mut self.led) {
            self.forget_key(&key, true);
        }
        let before = self.shown();
        self.drop_patterns(&texts);
        self.totals = record.patterns.iter().map(|entry| (entry.id, entry.totals)).collect();
        for entry in &record.patterns {
            self.load_pattern(entry);
        }
        if self.shown() != before {
            // What is loaded was brought to later instants, or swept, under the patterns as they were.
            self.forget_keys();
        }
        self.notes.set_last_pattern(record.last_id);
        (self.removals, self.removed, self.patterns) = (record.removals, record.removed, true);
        Ok(())
    }

    /// What the patterns give to keys, and since when, by id.
    fn shown(&self) -> Vec<(u64, Arc<Limit>, Option<Overlay>, Micros)> {
        let known = self.core().registry.known();
        let shown = |row: &Row| (row.pattern.id, Arc::clone(&row.limit), row.overlay.clone(), row.edited_at);
        let mut shown: Vec<_> = known.rows().map(shown).collect();
        shown.sort_by_key(|(id, ..)| *id);
        shown
    }

    /// Drops the patterns that are none of these any more, and forgets their keys, which are led away when they are
    /// loaded again.
    fn drop_patterns(&mut self, texts: &HashMap<&str, u64>) {
        let core = self.core();
        let rows: Vec<Arc<Pattern>> = core.registry.known().rows().map(|row| Arc::clone(&row.pattern)).collect();
        let gone: Vec<Arc<Pattern>> =
            rows.into_iter().filter(|pattern| texts.get(&*pattern.text) != Some(&pattern.id)).collect();
        if gone.is_empty() {
            return;
        }
        let mut left: Vec<String> = Vec::new();
        for shard in &core.shards {
            let mut table = shard.lock();
            let is_left = |entry: &&Entry| {
                let lives_by = entry.share_slot().is_some_and(|slot| gone.iter().any(|pattern| pattern.slot == slot));
                lives_by || entry.source() != Source::Exact && gone.iter().any(|gone| matches(&gone.text, &entry.key))
            };
            left.extend(table.iter().filter(is_left).map(|entry| entry.key.to_string()));
            gone.iter().for_each(|pattern| table.counts.shares.remove(pattern.slot));
        }
        for key in left {
            self.forget_key(&key, true);
        }
        for pattern in gone {
            self.drop_pattern(&pattern);
        }
    }

    /// Takes a pattern out of the registry, and its entry.
    pub(super) fn drop_pattern(&self, pattern: &Pattern) {
        let core = self.core();
        let (hash, key) = core.place(&pattern.text);
        self.take_out(hash, &key, false);
        core.registry.publish(|known| {
            known.retire(&pattern.text, 0);
            known.forget(pattern.slot);
        });
    }

    fn load_pattern(&self, record: &record::Entry<'_>) {
        let core = self.core();
        let limit = core.registry.intern(&record.limit);
        let overlay = record.overlay.as_ref();
        let overlay = overlay.map(|over| Overlay { limit: core.registry.intern(&over.limit), until: over.until });
        self.put_pattern(Entry::from_record(record, Source::Exact, limit, overlay));
    }

    /// Puts the entry of a pattern in, and shows the registry what the pattern is to be.
    pub(super) fn put_pattern(&self, entry: Entry) {
        let core = self.core();
        let hash = core.hash(&entry.key);
        let text = entry.pattern_text().unwrap_or_default().to_owned();
        let now = core.clock.now();
        core.registry.publish(|known| match known.get(&text).map(|row| row.pattern.slot) {
            Some(slot) => known.edit(slot, |row| entry.show(row, now)),
            None => {
                let limit = Arc::clone(&entry.limit);
                let pattern = known.add(&text, entry.id(), limit, None, 0, entry.max_keys());
                known.edit(pattern.slot, |row| entry.show(row, now));
            }
        });
        self.take_out(hash, &entry.key.clone(), false);
        self.insert(hash, entry, false);
    }

    fn load_hold(&mut self, number: u64, record: Option<&[u8]>) -> std::result::Result<(), Fault> {
        self.holds.remove(&number);
        self.core().holds.lock().load_hold(number, None);
        let Some(record) = record else {
            self.holds.insert(number, Vec::new());
            return Ok(());
        };
        let (HoldRecord { hold, places }, made) = HoldRecord::decode(record)?;
        if hold.hold != number {
            return Err(Fault::Damaged("it is that of another hold"));
        }
        let core = self.core();
        core.clock.raise(made);
        let mut at = places.iter();
        // Items come in their order.
        let hash = |_, key: &str| core.hash(at.next().filter(|place| !place.is_empty()).copied().unwrap_or(key));
        let pledge = Pledge::from_record(&hold, hash);
        let place = |place: &&str| Some(*place).filter(|place| !place.is_empty()).map(Arc::from);
        let places =
            if places.iter().all(|place| place.is_empty()) { Vec::new() } else { places.iter().map(place).collect() };
        core.holds.lock().load_hold(number, Some(pledge));
        self.holds.insert(number, places);
        Ok(())
    }

    fn load_answer(&mut self, key: &[u8; 16], record: Option<&[u8]>) -> std::result::Result<(), Fault> {
        self.answers.remove(key);
        self.core().answers.lock().remove(key);
        if let Some(record) = record {
            let (answer, made) = decode_kept(record)?;
            if answer.key != *key {
                return Err(Fault::Damaged("it is that of another request"));
            }
            self.core().clock.raise(made);
            self.core().answers.lock().keep_record(&answer);
        }
        self.answers.insert(*key);
        Ok(())
    }

    /// Sets what was counted for a pattern in the whole store since its record was written
    /// ([`Looked::counted`](super::Looked::counted)), for its status: allowed, denied, allowed cost, denied cost.
    pub fn set_counted(&mut self, pattern: u64, totals: [u64; 4]) {
        let core = self.core();
        let text =
            core.registry.known().rows().find(|row| row.pattern.id == pattern).map(|row| Arc::clone(&row.pattern.text));
        let Some(text) = text else { return };
        let (hash, key) = core.place(&text);
        let mut sum = Totals::from_numbers(self.totals.get(&pattern).copied().unwrap_or_default());
        sum.add(Totals::from_numbers(totals));
        if let Some(entry) = self.table(hash).get(hash, &key) {
            entry.set_totals(sum);
        }
    }
}

/// Counts a key in where it takes room.
fn count_in(core: &Core, entry: &Entry, pattern: Option<&Pattern>) {
    let room = match (entry.source(), pattern) {
        (Source::Pattern(_), Some(pattern)) => &pattern.live,
        (Source::Request, _) => &core.registry.requested,
        (Source::Overflow, None) => &core.registry.overflows,
        _ => return,
    };
    room.fetch_add(1, Ordering::Relaxed);
}

fn take_out(core: &Core, table: &mut Table, hash: u64, key: &str, counts_out: bool) {
    if let (Some(entry), counts) = table.get_with_counts(hash, key) {
        if counts_out {
            core.leave(entry, counts);
        }
        table.remove(hash, key, |key| core.hash(key));
    }
}

/// Whether denials are of this entry, which has not forgotten its totals since.
fn is_of(unsaved: &Unsaved, entry: &Entry) -> bool {
    unsaved.entry == (entry.id(), entry.generation())
}

fn add_denials(entry: &mut Entry, unsaved: &Unsaved) {
    let Totals { denied, denied_cost, .. } = entry.totals();
    let [_, last, _] = entry.times();
    let last: Option<Micros> = last.max(Some(unsaved.last));
    entry.set_denied(denied.saturating_add(unsaved.checks), denied_cost.saturating_add(unsaved.units), last);
    entry.set_pending_denials(true);
}

/// A name as people know it.
fn told(name: &Name) -> String {
    match name {
        Name::Key(key) => format!("the key `{}`", key.escape_debug()),
        Name::Patterns => "the patterns".to_owned(),
        Name::Hold(number) => format!("hold {number}"),
        Name::Answer(_) => "an answer that is kept".to_owned(),
    }
}
