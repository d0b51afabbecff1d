//! Recovery: from the records of a data directory to keys in memory.
//!
//! A snapshot that was written while checks went on holds each shard as it was at a marker record in the log. An event
//! is therefore applied if and only if the marker of its key's shard came before it; the snapshot has it otherwise.
//! An event of a missing key belongs to a key that was removed, or swept, before its shard's marker. The table of holds
//! has its own marker, before those of the shards.
//!
//! Keys that came and went are still there: no record says that a key was swept. Nothing of these counts any more, so
//! `settle` drops them.

use std::hash::RandomState;
use std::sync::Arc;

use super::by_id::ById;
use super::shares::Shares;
use crate::bounds::SHARDS;
use crate::clock::Micros;
use crate::limit::{Limit, Recorded};
use crate::limiter::answers::Totals;
use crate::limiter::entry::{Change, Entry};
use crate::limiter::held::book::{Book, Item, Pledge};
use crate::limiter::kept::shelf::Shelf;
use crate::limiter::registry::{Group, Intended, Registry};
use crate::store::Replay;
use crate::store::record::{self, Back, Born, Event, HeldItem, Intent, Move, Overlay, PatternTotals, Spend};

/// Keys by their id in the log, and what those of each pattern have counted.
pub struct Replayed<'r> {
    keys: ById,
    shares: Shares,
    interner: Interner<'r>,
    /// Number of the snapshot whose markers count.
    snapshot: u64,
    /// Shards whose marker has come; all of them where there is nothing to wait for.
    marked: Vec<bool>,
    unmarked: usize,
    highest_id: u64,
    holds: Book,
    answers: Shelf,
    /// Holds of the snapshot, until all of its keys are there.
    unplaced: Vec<Pledge>,
    /// Whether the marker of the tables has come, or there is none to wait for.
    tables_marked: bool,
    /// Limits that are configured together and not done yet, and whether that is decided.
    group: Option<(Group, bool)>,
    /// Set to pass over records about keys that are not there.
    lenient: bool,
}

/// What a replay comes to.
pub struct Found {
    /// A key that came and went may be there several times.
    pub keys: ById,
    pub shares: Shares,
    /// The highest id in use.
    pub highest_id: u64,
    pub holds: Book,
    pub answers: Shelf,
    /// What is left to do of limits that are configured together.
    pub group: Option<Group>,
}

impl<'r> Replayed<'r> {
    /// Nothing replayed yet. Equal values become one copy in `registry`, which learns of no pattern here. Keys go to
    /// shards by `hasher`.
    pub fn new(registry: &'r Registry, hasher: &RandomState) -> Replayed<'r> {
        Replayed {
            keys: ById::new(hasher),
            shares: Shares::default(),
            interner: Interner { registry, last: None },
            snapshot: 0,
            marked: vec![true; SHARDS],
            unmarked: 0,
            highest_id: 0,
            holds: Book::default(),
            answers: Shelf::default(),
            unplaced: Vec::new(),
            tables_marked: true,
            group: None,
            lenient: false,
        }
    }

    /// Nothing replayed yet, of a directory from which keys may be missing.
    pub fn lenient(registry: &'r Registry, hasher: &RandomState) -> Replayed<'r> {
        Replayed { lenient: true, ..Replayed::new(registry, hasher) }
    }

    /// What there is. Of a log that ends before its last marker, the keys of a shard without one are as the snapshot
    /// has them.
    pub fn finish(mut self) -> Found {
        self.place_holds();
        let group = self.group.filter(|(_, decided)| *decided).map(|(mut group, _)| {
            group.left.reverse();
            group
        });
        Found {
            keys: self.keys,
            shares: self.shares,
            highest_id: self.highest_id,
            holds: self.holds,
            answers: self.answers,
            group,
        }
    }

    /// The entry of `id`, if an event of now is for it.
    fn entry(&mut self, id: u64) -> Result<Option<&mut Entry>, String> {
        self.highest_id = self.highest_id.max(id);
        match self.keys.get(id) {
            Some(entry) => Ok(self.marked[usize::from(entry.shard())].then_some(entry)),
            None if self.unmarked == 0 && !self.lenient => {
                Err(format!("a record is about key {id}, which is not there"))
            }
            None => Ok(None),
        }
    }

    /// The entry of a key that is there from this record on, if the record counts.
    fn born(&mut self, id: u64, born: &Born<'_>) -> Option<Entry> {
        self.highest_id = self.highest_id.max(id);
        if !self.marked[usize::from(born.shard)] {
            return None;
        }
        let source = self.shares.source(born.source);
        let mut entry = Entry::new(born.key, id, born.shard, source, self.interner.intern(&born.limit));
        self.shares.note(&mut entry);
        Some(entry)
    }

    fn bear(&mut self, id: u64, born: &Born<'_>) -> Result<(), String> {
        self.born(id, born).map_or(Ok(()), |entry| self.keys.insert(entry))
    }

    fn created(&mut self, id: u64, born: &Born<'_>, at: Micros, max_keys: Option<u64>) -> Result<(), String> {
        let Some(mut entry) = self.born(id, born) else { return Ok(()) };
        if entry.pattern_text().is_some() {
            entry.set_pattern(at, max_keys);
        }
        self.keys.insert(entry)
    }

    fn spent(&mut self, id: u64, cost: u64, at: Micros) -> Result<(), String> {
        let Some(entry) = self.entry(id)? else { return Ok(()) };
        entry.spend(at, cost, &mut Recorded([].iter()));
        if let Some(slot) = entry.share_slot().filter(|_| cost > 0) {
            self.shares.add(slot, Totals::of_allowed(cost));
        }
        Ok(())
    }

    fn spent_more(&mut self, at: Micros, Spend { id, cost, born, moves, ends }: Spend<'_>) -> Result<(), String> {
        if let Some(born) = &born {
            self.bear(id, born)?;
        }
        if moves.is_empty() && ends.is_empty() {
            return self.spent(id, cost, at);
        }
        let changes: Vec<Change> = moves.iter().map(|made| self.change(made)).collect();
        let Some(entry) = self.entry(id)? else { return Ok(()) };
        let mut ends = Recorded(ends.iter());
        changes.iter().for_each(|change| entry.change(change, &mut ends));
        entry.spend(at, cost, &mut ends);
        if let Some(slot) = entry.share_slot().filter(|_| cost > 0) {
            self.shares.add(slot, Totals::of_allowed(cost));
        }
        Ok(())
    }

    /// Puts the holds of the snapshot into their table, now that its keys are there.
    fn place_holds(&mut self) {
        for mut pledge in std::mem::take(&mut self.unplaced) {
            for item in Arc::get_mut(&mut pledge.items).into_iter().flatten() {
                item.hash = self.hash_of(item.id, &item.key);
            }
            let items = Arc::clone(&pledge.items);
            self.holds.insert(pledge);
            self.note_held(&items);
        }
    }

    /// The hash by which the table of holds knows a key: that of the limit on which it was decided.
    fn hash_of(&mut self, id: u64, key: &str) -> u64 {
        let hash = self.keys.get(id).filter(|entry| entry.overflow_text().is_some()).map(|entry| entry.key.clone());
        self.keys.hash(hash.as_deref().unwrap_or(key))
    }

    /// Notes in the entries of a hold when the last of their holds expires.
    fn note_held(&mut self, items: &[Item]) {
        for item in items.iter().filter(|item| item.id != 0) {
            if let Some(entry) = self.keys.get(item.id) {
                entry.set_held_until(self.holds.held_until(item.hash));
            }
        }
    }

    fn held(&mut self, number: u64, at: Micros, until: Micros, items: Vec<HeldItem<'_>>) -> Result<(), String> {
        let mut held = Vec::with_capacity(items.len());
        for HeldItem { spend, slots, key } in items {
            let Spend { id, cost, .. } = spend;
            if id != 0 {
                self.spent_more(at, spend)?;
            }
            held.push(Item { id, hash: self.hash_of(id, key), cost, slots, key: key.into() });
        }
        if self.tables_marked {
            let items: Arc<[Item]> = held.into();
            self.holds.tidy(at);
            let ttl = until.saturating_sub(at);
            self.holds.insert(Pledge { number, at, until, ttl, settlement: None, items: Arc::clone(&items) });
            self.note_held(&items);
        }
        Ok(())
    }

    fn settled(
        &mut self,
        hold: u64,
        at: Micros,
        costs: Vec<u64>,
        back: &[Back],
        more: Vec<Spend<'_>>,
    ) -> Result<(), String> {
        // A key whose changes were due has them from its spend, before anything is given back.
        more.into_iter().try_for_each(|spend| self.spent_more(at, spend))?;
        for Back { id, units, held_at } in back {
            if let Some(entry) = self.entry(*id)? {
                entry.give_back(*held_at, at, *units);
            }
        }
        if self.tables_marked {
            self.holds.tidy(at);
            self.holds.settle(hold, at, costs);
            self.note_settled(hold);
        }
        Ok(())
    }

    fn note_held_of(&mut self, hold: u64) {
        if let Some(items) = self.holds.get(hold).map(|pledge| Arc::clone(&pledge.items)) {
            self.note_held(&items);
        }
    }

    /// Notes in the entries of a hold that it is settled. This never makes an entry held for longer.
    ///
    /// A late settlement may come after its key was swept and born again. The replay still has the swept entry, and the
    /// open holds of the key belong to the new entry: if they counted for the old one, both would be kept.
    fn note_settled(&mut self, hold: u64) {
        let Some(items) = self.holds.get(hold).map(|pledge| Arc::clone(&pledge.items)) else { return };
        for item in items.iter().filter(|item| item.id != 0) {
            if let Some(entry) = self.keys.get(item.id) {
                entry.set_held_until(entry.held_until().min(self.holds.held_until(item.hash)));
            }
        }
    }

    fn change(&mut self, made: &Move) -> Change {
        let source = self.shares.source(made.source);
        Change { at: made.at, source, lifts: made.lifts, limit: self.interner.intern(&made.limit) }
    }

    fn intended(&mut self, group: u64, last: bool, items: Vec<Intent<'_>>) {
        self.highest_id = self.highest_id.max(group);
        // A group that was not decided before another began never will be.
        let known = self.group.take().filter(|(known, _)| known.number == group);
        let (mut known, _) = known.unwrap_or((Group { number: group, left: Vec::new() }, false));
        known.left.extend(items.into_iter().map(|item| Intended {
            key: item.key.into(),
            limit: item.limit.map(|limit| self.interner.intern(&limit)),
            max_keys: item.max_keys,
            until: item.until,
        }));
        self.group = Some((known, last));
    }

    fn removed(&mut self, id: u64) -> Result<(), String> {
        // It may be a key that is only in the log: a key that was removed before its shard's marker. Its id is used up
        // all the same.
        if let Some(text) = self.entry(id)?.map(|entry| entry.pattern_text().map(str::to_owned)) {
            self.keys.remove(id);
            if let Some(text) = text {
                self.shares.remove(id, &text);
            }
        }
        Ok(())
    }
}

impl Replay for Replayed<'_> {
    fn snapshot(&mut self, number: u64, complete: bool, limits: u64) {
        self.snapshot = number;
        if !complete {
            self.marked = vec![false; SHARDS];
            self.unmarked = SHARDS;
            self.tables_marked = false;
        }
        self.keys.expect(limits as usize);
    }

    fn entry(&mut self, record: record::Entry<'_>) -> Result<(), String> {
        self.highest_id = self.highest_id.max(record.id);
        let limit = self.interner.intern(&record.limit);
        let overlay = record.overlay.as_ref();
        let overlay = overlay.map(|over| Overlay { limit: self.interner.intern(&over.limit), until: over.until });
        let source = self.shares.source(record.source);
        let mut entry = Entry::from_record(&record, source, limit, overlay);
        self.shares.note(&mut entry);
        self.keys.insert(entry)
    }

    fn pattern_totals(&mut self, totals: PatternTotals) -> Result<(), String> {
        let slot = self.shares.slot(totals.id);
        self.shares.add(slot, Totals::from_numbers(totals.totals));
        Ok(())
    }

    fn spent(&mut self, id: u64, cost: u64, at: Micros) -> Result<(), String> {
        if !self.unplaced.is_empty() {
            self.place_holds();
        }
        Replayed::spent(self, id, cost, at)
    }

    fn hold(&mut self, record: record::HoldEntry<'_>) -> Result<(), String> {
        self.unplaced.push(Pledge::from_record(&record, |_, _| 0));
        Ok(())
    }

    fn answer(&mut self, record: record::Answer<'_>) -> Result<(), String> {
        self.answers.keep_record(&record);
        Ok(())
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        if !self.unplaced.is_empty() {
            self.place_holds();
        }
        match event {
            Event::Created { id, shard, at, limit, max_keys, key } => {
                self.created(id, &Born { shard, source: record::Source::Exact, limit, key }, at, max_keys)?;
            }
            Event::Reconfigured { id, at, limit, max_keys, ends } => {
                let limit = self.interner.intern(&limit);
                if let Some(entry) = self.entry(id)? {
                    entry.reconfigure(limit, max_keys, at, &mut Recorded(ends.iter()));
                }
            }
            Event::Overlaid { id, at, limit, until, born, ends } => {
                if let Some(born) = &born {
                    self.bear(id, born)?;
                }
                let limit = self.interner.intern(&limit);
                if let Some(entry) = self.entry(id)? {
                    entry.lay_over(limit, until, at, &mut Recorded(ends.iter()));
                }
            }
            Event::Removed { id, .. } => self.removed(id)?,
            Event::Became { id, at, source, limit, ends } => {
                let (source, limit) = (self.shares.source(source), self.interner.intern(&limit));
                if let Some(entry) = self.entry(id)? {
                    entry.become_of(source, limit, at, &mut Recorded(ends.iter()));
                }
            }
            Event::Spent { id, cost, at } => self.spent(id, cost, at)?,
            Event::SpentAll { at, items } => items.into_iter().try_for_each(|(id, cost)| self.spent(id, cost, at))?,
            Event::SpentMore { at, items } => items.into_iter().try_for_each(|spend| self.spent_more(at, spend))?,
            Event::Denied { id, total, cost, last } => {
                if let Some(entry) = self.entry(id)? {
                    let (denied, denied_cost) = entry.set_denied(total, cost, last);
                    if let Some(slot) = entry.share_slot() {
                        self.shares.add(slot, Totals { denied, denied_cost, ..Totals::default() });
                    }
                }
            }
            Event::Reset { id, at } => {
                if let Some(entry) = self.entry(id)? {
                    entry.reset(at);
                }
            }
            Event::Marker { snapshot, shard } => {
                if snapshot == self.snapshot && !std::mem::replace(&mut self.marked[usize::from(shard)], true) {
                    self.unmarked -= 1;
                }
            }
            Event::Clock(_) => {}
            Event::Intended { group, last, items, .. } => self.intended(group, last, items),
            Event::Done { .. } => self.group = None,
            Event::Held { hold, at, until, items } => self.held(hold, at, until, items)?,
            Event::Settled { hold, at, costs, back, more } => self.settled(hold, at, costs, &back, more)?,
            Event::Renewed { hold, until } => {
                if self.tables_marked {
                    self.holds.renew(hold, until);
                    self.note_held_of(hold);
                }
            }
            Event::Refunded { id, at, units } => {
                if let Some(entry) = self.entry(id)? {
                    entry.refund(at, units);
                }
            }
            Event::Kept { answer, event } => {
                if self.tables_marked {
                    self.answers.tidy(answer.at);
                    self.answers.keep_record(&answer);
                }
                self.event(*event)?;
            }
            Event::TablesMarker { snapshot } => self.tables_marked |= snapshot == self.snapshot,
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.unmarked {
            0 if self.tables_marked => Ok(()),
            0 => Err("the log ends before the snapshot's marker of its tables".to_owned()),
            missing => Err(format!("the log ends before {missing} of the snapshot's markers")),
        }
    }
}

/// Makes one copy of equal values.
struct Interner<'r> {
    registry: &'r Registry,
    /// The last values as they were read, and their one copy. The decoder hands out the same for many keys.
    last: Option<(Arc<Limit>, Arc<Limit>)>,
}

impl Interner<'_> {
    fn intern(&mut self, limit: &Arc<Limit>) -> Arc<Limit> {
        match &self.last {
            Some((read, copy)) if Arc::ptr_eq(read, limit) => Arc::clone(copy),
            _ => {
                let copy = self.registry.intern(limit);
                self.last = Some((Arc::clone(limit), Arc::clone(&copy)));
                copy
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_keys_that_were_removed_before_their_marker_are_used_up() {
        let registry = Registry::new(1);
        let mut replayed = Replayed::new(&registry, &RandomState::new());
        replayed.snapshot(1, false, 0);
        replayed.event(Event::Removed { id: 7, at: 0 }).unwrap();
        for shard in 0..=255 {
            assert!(replayed.end().is_err());
            replayed.event(Event::Marker { snapshot: 1, shard }).unwrap();
        }
        assert!(replayed.end().is_err());
        replayed.event(Event::TablesMarker { snapshot: 1 }).unwrap();
        assert_eq!(replayed.end(), Ok(()));
        let found = replayed.finish();
        assert_eq!((found.keys.len(), found.highest_id), (0, 7));
    }
}
