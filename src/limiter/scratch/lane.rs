//! Operations: what each has looked at and changed, and how it is undone.

use std::collections::HashSet;
use std::sync::Arc;

use super::record::{MAX_REMOVED, Removed};
use super::state::Scratch;
use crate::clock::Micros;
use crate::limiter::answers::Totals;
use crate::limiter::entry::{Entry, Look};
use crate::limiter::held::book::{Item, Pledge};
use crate::limiter::held::outside::HoldLook;
use crate::limiter::notes::name::{Live, Name};
use crate::limiter::notes::noted::Noted;
use crate::limiter::registry::PATTERN_MARK;

/// What an operation looked at and changed, or all operations of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Looked at, and not loaded: what was decided means nothing, and everything is as it was before. The patterns come
    /// first, which are to be loaded first.
    pub missing: Vec<Name>,
    /// All that could have made a difference to what was decided, each once, in no order.
    pub touched: Vec<Name>,
    /// What has another record than before, or none any more. All of them are touched too.
    pub changed: Vec<Name>,
    /// What was counted for patterns by id: allowed, denied, allowed cost, denied cost. To be added to what the store
    /// has counted for these, once the group is written.
    pub counted: Vec<(u64, [u64; 4])>,
    /// Keys that were born, less those that went, by what they live under.
    pub births: Vec<(Live, i64)>,
    /// Whether a hold found no number: the operation failed for that, and everything is as it was before. To run it
    /// again after [`Scratch::set_hold_numbers`].
    pub wants_numbers: bool,
    /// Denials that were reported: of which key, and how many.
    pub denied: Vec<Denied>,
    /// Checks that were allowed, and denied.
    pub decisions: (u64, u64),
}

/// Denials of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub key: Arc<str>,
    /// Id and generation of its entry.
    pub entry: (u64, u64),
    pub checks: u64,
    pub units: u64,
    /// When the last of them was.
    pub last: Micros,
}

impl Looked {
    /// Whether what was decided means something: nothing is missing, and no number for a hold was lacking.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && !self.wants_numbers
    }

    /// Whether anything is to be written.
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// One group of two.
    pub fn join(&mut self, other: Looked) {
        let names = |own: &mut Vec<Name>, more: Vec<Name>| {
            if own.is_empty() {
                *own = more;
                return;
            }
            let known: HashSet<Name> = own.iter().cloned().collect();
            own.extend(more.into_iter().filter(|name| !known.contains(name)));
        };
        names(&mut self.missing, other.missing);
        names(&mut self.touched, other.touched);
        names(&mut self.changed, other.changed);
        for (pattern, totals) in other.counted {
            add_counted(&mut self.counted, pattern, Totals::from_numbers(totals));
        }
        for (live, births) in other.births {
            add_births(&mut self.births, live, births);
        }
        for denied in other.denied {
            self.add_denied(denied);
        }
        self.wants_numbers |= other.wants_numbers;
        self.decisions.0 += other.decisions.0;
        self.decisions.1 += other.decisions.1;
    }

    fn add_denied(&mut self, more: Denied) {
        match self.denied.iter_mut().find(|known| known.key == more.key) {
            Some(known) => {
                known.checks += more.checks;
                known.units = known.units.saturating_add(more.units);
                (known.last, known.entry) = (known.last.max(more.last), more.entry);
            }
            None => self.denied.push(more),
        }
    }
}

fn add_counted(counted: &mut Vec<(u64, [u64; 4])>, pattern: u64, more: Totals) {
    match counted.iter_mut().find(|(known, _)| *known == pattern) {
        Some((_, totals)) => {
            let mut sum = Totals::from_numbers(*totals);
            sum.add(more);
            *totals = sum.to_numbers();
        }
        None => counted.push((pattern, more.to_numbers())),
    }
}

fn add_births(births: &mut Vec<(Live, i64)>, live: Live, more: i64) {
    match births.iter_mut().find(|(known, _)| *known == live) {
        Some((_, sum)) => *sum += more,
        None => births.push((live, more)),
    }
    births.retain(|(_, sum)| *sum != 0);
}

/// What was noted of one operation.
struct Notebook {
    noted: Noted,
    looks: Vec<Look>,
    holds: Vec<HoldLook>,
    answers: Vec<[u8; 16]>,
    patterns: bool,
    wants_numbers: bool,
    counted: Vec<(u64, [u64; 4])>,
    decisions: (u64, u64),
}

impl Scratch {
    /// Begins an operation.
    pub fn begin(&mut self) {
        self.notes.begin();
        self.core().registry.edit().take();
    }

    /// What the operation since [`Scratch::begin`] looked at and changed. Where it is not complete, all that it did is
    /// put back.
    pub fn end(&mut self) -> Looked {
        let mut notebook = self.take_notes();
        let mut looked = Looked { wants_numbers: notebook.wants_numbers, ..Looked::default() };
        self.note_touched(&notebook, &mut looked);
        // A hold that was made is nowhere yet.
        let is_new = |name: &Name| match name {
            Name::Hold(number) => {
                notebook.noted.holds.contains(number)
                    && notebook.holds.iter().any(|(known, before)| known == number && before.is_none())
            }
            _ => false,
        };
        let is_missing = |name: &&Name| !self.is_loaded(name) && !is_new(name);
        looked.missing = looked.touched.iter().filter(is_missing).cloned().collect();
        // No key can be loaded without them.
        let needs_patterns = !self.patterns && looked.missing.iter().any(|name| matches!(name, Name::Key(_)));
        if needs_patterns && !looked.missing.contains(&Name::Patterns) {
            looked.missing.push(Name::Patterns);
        }
        looked.missing.sort_by_key(|name| *name != Name::Patterns);
        if !looked.is_complete() {
            self.undo(notebook);
            return looked;
        }
        self.note_changed(&notebook, &mut looked);
        looked.counted = std::mem::take(&mut notebook.counted);
        looked.decisions = notebook.decisions;
        for (hash, cost, at) in &notebook.noted.denied {
            let look = notebook.looks.iter().find(|look| look.hash == *hash);
            if let Some(look) = look.filter(|look| !is_of_pattern(look)) {
                let key = self.name(&look.key);
                let entry = self.table(*hash).get(*hash, &key).map(|entry| (entry.id(), entry.generation()));
                let entry = entry.unwrap_or_default();
                looked.add_denied(Denied { key, entry, checks: 1, units: *cost, last: *at });
            }
        }
        self.settle(notebook);
        looked
    }

    fn take_notes(&mut self) -> Notebook {
        let (noted, patterns) = self.notes.end();
        let core = self.core();
        let (mut looks, mut counted, mut decisions) = (Vec::new(), Vec::new(), (0, 0));
        for shard in &noted.shards {
            let mut table = core.shards[usize::from(*shard)].lock();
            looks.extend(table.journal.as_mut().map(|journal| journal.take()).unwrap_or_default());
            table.counts.shares.take(|pattern, totals| add_counted(&mut counted, pattern, totals));
            table.counts.pending_denials.clear();
            let (allowed, denied) = std::mem::take(&mut table.counts.decisions);
            decisions = (decisions.0 + allowed, decisions.1 + denied);
        }
        for (pattern, totals) in &noted.asides {
            add_counted(&mut counted, *pattern, Totals::from_numbers(*totals));
        }
        let (holds, wants_numbers) = core.holds.lock().end_noting();
        let answers = core.answers.lock().looks.as_mut().map(std::mem::take).unwrap_or_default();
        Notebook { noted, looks, holds, answers, patterns, wants_numbers, counted, decisions }
    }

    fn note_touched(&self, notebook: &Notebook, looked: &mut Looked) {
        let mut patterns = notebook.patterns;
        for look in notebook.looks.iter().filter(|look| !look.is_silent) {
            // The patterns may serve a key that has no limit of its own.
            patterns |= is_of_pattern(look) || !look.before.as_ref().is_some_and(Entry::is_plain_exact);
            if !is_of_pattern(look) {
                looked.touched.push(Name::Key(self.name(&look.key)));
            }
        }
        for (number, before) in &notebook.holds {
            looked.touched.push(Name::Hold(*number));
            let items = self.items(*number, before);
            let places = items.iter().enumerate().map(|(index, item)| self.place(*number, index, item));
            looked.touched.extend(places.map(Name::Key));
        }
        looked.touched.extend(notebook.answers.iter().copied().map(Name::Answer));
        if patterns {
            looked.touched.push(Name::Patterns);
        }
        leave_each_once(&mut looked.touched);
    }

    /// The items of a hold, before an operation or after it.
    fn items(&self, number: u64, before: &Option<Pledge>) -> Arc<[Item]> {
        let book = self.core().holds.lock();
        let pledge = before.as_ref().or_else(|| book.get(number));
        pledge.map(|pledge| Arc::clone(&pledge.items)).unwrap_or_default()
    }

    /// The key on which an item of a hold was decided.
    fn place(&self, number: u64, index: usize, item: &Item) -> Arc<str> {
        let known = self.holds.get(&number).and_then(|places| places.get(index)).and_then(Option::as_ref);
        if let Some(place) = known {
            return Arc::clone(place);
        }
        if self.core().hash(&item.key) != item.hash
            && let Some(entry) = self.table(item.hash).get_id(item.hash, item.id)
        {
            return self.name(&entry.key.clone());
        }
        self.name(&item.key)
    }

    fn note_changed(&mut self, notebook: &Notebook, looked: &mut Looked) {
        let mut ids = notebook.noted.ids.clone();
        ids.sort_unstable();
        let mut changed: Vec<Name> = Vec::new();
        for look in notebook.looks.iter().filter(|look| !look.is_silent) {
            let now = self.table(look.hash).get(look.hash, &look.key).map(|entry| (entry.id(), self.lives_by(entry)));
            let before = look.before.as_ref();
            let is_changed = [before.map(Entry::id), now.map(|(id, _)| id)]
                .into_iter()
                .flatten()
                .any(|id| ids.binary_search(&id).is_ok());
            if !is_changed {
                continue;
            }
            if is_of_pattern(look) {
                changed.push(Name::Patterns);
                let removed =
                    notebook.noted.removed.iter().find(|(id, _)| before.is_some_and(|entry| entry.id() == *id));
                if let (Some((id, at)), Some(text)) = (removed, before.and_then(Entry::pattern_text)) {
                    let removed = Removed { at: *at, id: *id, last_id: self.notes.last_pattern(), text: text.into() };
                    self.note_removed(removed);
                }
                continue;
            }
            let births = [(before.and_then(|entry| self.lives_by(entry)), -1), (now.and_then(|(_, live)| live), 1)];
            for (live, more) in births {
                if let Some(live) = live {
                    add_births(&mut looked.births, live, more);
                }
            }
            changed.push(Name::Key(self.name(&look.key)));
        }
        for (number, before) in notebook.holds.iter().filter(|(number, _)| notebook.noted.holds.contains(number)) {
            let items = self.items(*number, before);
            let places: Vec<Arc<str>> =
                items.iter().enumerate().map(|(index, item)| self.place(*number, index, item)).collect();
            let other = |(place, item): (&Arc<str>, &Item)| (**place != *item.key).then(|| Arc::clone(place));
            let others: Vec<Option<Arc<str>>> = places.iter().zip(&*items).map(other).collect();
            let others = if others.iter().all(Option::is_none) { Vec::new() } else { others };
            self.holds.insert(*number, others);
            changed.extend(places.into_iter().map(Name::Key));
            changed.push(Name::Hold(*number));
        }
        changed.extend(notebook.noted.answers.iter().copied().map(Name::Answer));
        leave_each_once(&mut changed);
        looked.changed = changed;
    }

    fn note_removed(&mut self, removed: Removed) {
        self.removals += 1;
        self.totals.remove(&removed.id);
        self.removed.push(removed);
        let many = self.removed.len().saturating_sub(MAX_REMOVED);
        self.removed.drain(..many);
    }

    /// Lets stay what an operation did.
    fn settle(&mut self, notebook: Notebook) {
        let silent = notebook.looks.iter().filter(|look| look.is_silent && look.before.is_some());
        self.led.extend(silent.map(|look| Arc::from(&*look.key)));
        let core = self.core();
        core.holds.lock().undo(None);
        if !notebook.noted.retired.is_empty() {
            core.registry.publish(|known| notebook.noted.retired.iter().for_each(|slot| known.forget(*slot)));
        }
    }

    /// Puts back all that an operation did.
    fn undo(&mut self, notebook: Notebook) {
        let core = self.core();
        core.holds.lock().undo(Some(notebook.holds));
        {
            let mut shelf = core.answers.lock();
            notebook.noted.answers.iter().for_each(|key| shelf.remove(key));
        }
        let (patterns, keys): (Vec<Look>, Vec<Look>) = notebook.looks.into_iter().partition(is_of_pattern);
        core.registry.publish(|known| {
            // Those that came go before those that went come back.
            for look in &patterns {
                let text = look.key.strip_prefix(PATTERN_MARK).unwrap_or_default();
                let now = known.get(text).map(|row| (row.pattern.slot, row.pattern.id));
                if let Some((slot, id)) = now
                    && look.before.as_ref().is_none_or(|before| before.id() != id)
                {
                    known.retire(text, 0);
                    known.forget(slot);
                }
            }
            notebook.noted.retired.iter().for_each(|slot| known.reinstate(*slot));
        });
        for look in patterns {
            match look.before {
                Some(entry) => self.put_pattern(entry),
                None => self.take_out(look.hash, &look.key, false),
            }
        }
        for look in keys {
            self.take_out(look.hash, &look.key, true);
            if let Some(entry) = look.before {
                self.insert(look.hash, entry, true);
            }
        }
    }

    /// Notes that a group was written, or that what it touched was found to be as it was: what it told is so.
    pub fn won(&mut self, group: &Looked) {
        for denied in &group.denied {
            let unsaved = self.unsaved.entry(Arc::clone(&denied.key)).or_default();
            unsaved.entry = denied.entry;
            unsaved.checks += denied.checks;
            unsaved.units = unsaved.units.saturating_add(denied.units);
            unsaved.last = unsaved.last.max(denied.last);
        }
        for name in &group.changed {
            let Name::Key(key) = name else { continue };
            self.unsaved.remove(key);
            let hash = self.core().hash(key);
            if let Some(entry) = self.table(hash).get(hash, key) {
                entry.set_pending_denials(false);
            }
        }
    }

    /// Names of keys with denials that were reported and are not written yet. To write them: a group with these names
    /// in [`Looked::touched`] and [`Looked::changed`], of which those that are not loaded are loaded first.
    pub fn unsaved_denials(&self) -> Vec<Name> {
        self.unsaved.keys().map(|key| Name::Key(Arc::clone(key))).collect()
    }

    /// Forgets a key, unless it has denials that are not written yet. Whether it is not loaded then. Between groups
    /// only.
    pub fn forget(&mut self, key: &str) -> bool {
        if self.unsaved.contains_key(key) {
            return false;
        }
        self.forget_key(key, false);
        true
    }

    /// Forgets all keys. Denials that are not written yet are added when these are loaded again.
    pub(super) fn forget_keys(&mut self) {
        let keys: Vec<Arc<str>> = self.keys.iter().cloned().collect();
        for key in &keys {
            self.forget_key(key, false);
        }
    }

    /// Forgets all but patterns and what has denials that are not written yet. Between groups only.
    pub fn forget_all(&mut self) {
        let keys: Vec<Arc<str>> = self.keys.iter().cloned().collect();
        for key in &keys {
            self.forget(key);
        }
        for number in std::mem::take(&mut self.holds).into_keys() {
            self.core().holds.lock().load_hold(number, None);
        }
        for key in std::mem::take(&mut self.answers) {
            self.core().answers.lock().remove(&key);
        }
        let core = self.core();
        for shard in &core.shards {
            shard.lock().shrink(|key| core.hash(key));
        }
    }
}

fn leave_each_once(names: &mut Vec<Name>) {
    if names.len() > 1 {
        names.sort_unstable();
        names.dedup();
    }
}

fn is_of_pattern(look: &Look) -> bool {
    look.key.starts_with(PATTERN_MARK)
}

/// A lane may be made in one thread and run in another.
const _: () = {
    const fn is_sent<T: Send>() {}
    is_sent::<Scratch>();
};
