//! The table of holds.
//!
//! A hold is open until it is settled or expires, and is remembered for a while after that. The slots of a key that
//! are in use are the sum of what its open holds take: kept by key, and changed nowhere else. A key is known here by
//! the hash of its entry's key, so that its slots stay counted when its limit is removed and comes again.
//!
//! Nothing reports that a hold has expired. So what is due is done first whenever the table is asked: [`Book::tidy`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

#[cfg(feature = "store")]
use super::outside::Outside;
pub use super::pledge::{Item, Pledge, Settlement, Taken};
use crate::bounds::{MAX_REMEMBERED, REMEMBER_MS};
use crate::clock::Micros;

/// The holds.
#[derive(Debug, Default)]
pub struct Book {
    holds: HashMap<u64, Pledge>,
    /// The open ones, in the order in which they expire.
    open: BTreeSet<(Micros, u64)>,
    /// The open ones of each key by its hash, in the same order, with the slots that each takes of it and when it was
    /// made.
    by_key: BTreeMap<(u64, Micros, u64), (u64, Micros)>,
    /// Slots in use, by the hash of their key.
    in_use: HashMap<u64, u64>,
    /// Those that are remembered, since when.
    ended: BTreeSet<(Micros, u64)>,
    highest: u64,
    /// Holds that have expired since the start.
    pub expired: u64,
    /// Of these, how many were settled after it.
    pub late: u64,
    /// Set where holds and keys are records that are kept elsewhere.
    #[cfg(feature = "store")]
    pub outside: Option<Box<Outside>>,
}

impl Book {
    /// Does what is due at `now`: holds expire, and others are forgotten.
    pub fn tidy(&mut self, now: Micros) {
        self.tidy_rows(now);
        while let Some((until, number)) = self.open.first().copied().filter(|(until, _)| *until <= now) {
            self.close(number);
            self.ended.insert((until, number));
            self.expired += 1;
        }
        while let Some((end, number)) = self.ended.first().copied()
            && (self.ended.len() > self.most_remembered() || end.saturating_add(REMEMBER_MS * 1000) <= now)
        {
            self.ended.pop_first();
            self.holds.remove(&number);
        }
        if self.holds.len() < self.holds.capacity() / 8 && self.holds.capacity() > 1024 {
            self.holds.shrink_to(2 * self.holds.len());
            self.in_use.shrink_to_fit();
        }
    }

    /// What is due of what the keys have of their holds, if no hold has it.
    fn tidy_rows(&mut self, now: Micros) {
        #[cfg(feature = "store")]
        while let Some(outside) = &self.outside
            && let Some((until, hash, number)) = outside.ends.first().copied().filter(|(until, ..)| *until <= now)
        {
            self.remove_row(hash, until, number);
        }
        let _ = now;
    }

    /// Elsewhere there is room for all; what is loaded must not be forgotten.
    fn most_remembered(&self) -> usize {
        #[cfg(feature = "store")]
        if self.outside.is_some() {
            return usize::MAX;
        }
        MAX_REMEMBERED
    }

    /// The number of the next hold, made at `now`. A number that was given is never given again, even if no trace of
    /// it is left: numbers are never behind the instant. `None` if numbers come from elsewhere and are used up.
    pub fn next_number(&self, now: Micros) -> Option<u64> {
        #[cfg(feature = "store")]
        if let Some(outside) = &self.outside {
            return outside.next_number();
        }
        Some((self.highest + 1).max(now))
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// An open hold, or a remembered one.
    pub fn get(&self, number: u64) -> Option<&Pledge> {
        let pledge = self.holds.get(&number);
        #[cfg(feature = "store")]
        if let Some(outside) = &self.outside {
            outside.look(number, pledge);
        }
        pledge
    }

    /// Adds a hold whose number is not there yet; a settled hold is remembered.
    pub fn insert(&mut self, pledge: Pledge) {
        self.get(pledge.number);
        if pledge.settlement.is_none() {
            self.note_open(&pledge);
        }
        self.put_in(pledge);
    }

    /// Adds a hold; what it takes of its keys is noted by itself.
    pub(super) fn put_in(&mut self, pledge: Pledge) {
        self.highest = self.highest.max(pledge.number);
        match pledge.settlement {
            Some(_) => self.ended.insert((pledge.end(), pledge.number)),
            None => self.open.insert((pledge.until, pledge.number)),
        };
        self.holds.insert(pledge.number, pledge);
    }

    /// Takes a hold out, as if it had never been there; what it takes of its keys stays.
    #[cfg(feature = "store")]
    pub(super) fn take_out(&mut self, number: u64) {
        if let Some(pledge) = self.holds.remove(&number) {
            self.open.remove(&(pledge.until, number));
            self.ended.remove(&(pledge.end(), number));
        }
    }

    /// Notes what a hold takes of its keys.
    fn note_open(&mut self, pledge: &Pledge) {
        let Pledge { number, until, at, .. } = *pledge;
        for item in &*pledge.items {
            self.remember(item.hash);
            self.add_row(item.hash, Taken { until, number, slots: if item.slots { item.cost } else { 0 }, at });
        }
    }

    pub(super) fn add_row(&mut self, hash: u64, Taken { until, number, slots, at }: Taken) {
        let (known, made) = self.by_key.entry((hash, until, number)).or_default();
        *known += slots;
        *made = at;
        if slots > 0 {
            *self.in_use.entry(hash).or_default() += slots;
        }
        #[cfg(feature = "store")]
        if let Some(outside) = &mut self.outside {
            outside.ends.insert((until, hash, number));
        }
    }

    pub(super) fn remove_row(&mut self, hash: u64, until: Micros, number: u64) {
        #[cfg(feature = "store")]
        if let Some(outside) = &mut self.outside {
            outside.ends.remove(&(until, hash, number));
        }
        // One key may have several items, by the limit that it shares.
        let Some((slots, _)) = self.by_key.remove(&(hash, until, number)) else { return };
        if let Some(in_use) = self.in_use.get_mut(&hash) {
            *in_use -= slots.min(*in_use);
            if *in_use == 0 {
                self.in_use.remove(&hash);
            }
        }
    }

    /// Remembers the open holds of a key that are about to change, where they may have to be put back.
    fn remember(&mut self, hash: u64) {
        #[cfg(feature = "store")]
        if self.outside.as_ref().is_some_and(|outside| outside.wants_rows(hash)) {
            let rows = self.rows(hash);
            if let Some(outside) = &mut self.outside {
                outside.remember(hash, rows);
            }
        }
        let _ = hash;
    }

    /// A hold is open no more.
    fn close(&mut self, number: u64) {
        let Some(pledge) = self.holds.get(&number) else { return };
        let (until, items) = (pledge.until, Arc::clone(&pledge.items));
        if !self.open.remove(&(until, number)) {
            return;
        }
        for item in &*items {
            self.remember(item.hash);
            self.remove_row(item.hash, until, number);
        }
    }

    /// A hold is settled to these costs.
    pub fn settle(&mut self, number: u64, at: Micros, costs: Vec<u64>) {
        self.close(number);
        let Some(pledge) = self.holds.get_mut(&number) else { return };
        self.ended.remove(&(pledge.end(), number));
        self.late += u64::from(pledge.is_late(at));
        pledge.settlement = Some(Arc::new(Settlement { at, costs }));
        self.ended.insert((at, number));
    }

    /// An open hold lasts until then.
    pub fn renew(&mut self, number: u64, until: Micros) {
        if self.holds.get(&number).is_none_or(|pledge| !self.open.contains(&(pledge.until, number))) {
            return;
        }
        self.close(number);
        let Some(pledge) = self.holds.get_mut(&number) else { return };
        pledge.until = until;
        let pledge = pledge.clone();
        self.open.insert((until, number));
        self.note_open(&pledge);
    }

    /// Slots of a key that are in use.
    pub fn in_use(&self, hash: u64) -> u64 {
        self.in_use.get(&hash).copied().unwrap_or(0)
    }

    /// The open holds of a key in the order in which they expire: until when, which, and how many slots it takes.
    pub fn of_key(&self, hash: u64) -> impl DoubleEndedIterator<Item = (Micros, u64, u64)> {
        let range = (hash, 0, 0)..=(hash, Micros::MAX, u64::MAX);
        self.by_key.range(range).map(|((_, until, number), (slots, _))| (*until, *number, *slots))
    }

    /// The same with all that is known of them.
    pub fn rows(&self, hash: u64) -> Vec<Taken> {
        let range = (hash, 0, 0)..=(hash, Micros::MAX, u64::MAX);
        let row = |((_, until, number), (slots, at)): (&(u64, Micros, u64), &(u64, Micros))| Taken {
            until: *until,
            number: *number,
            slots: *slots,
            at: *at,
        };
        self.by_key.range(range).map(row).collect()
    }

    /// When the last open hold of a key expires; 0 if there is none.
    pub fn held_until(&self, hash: u64) -> Micros {
        self.of_key(hash).next_back().map_or(0, |(until, ..)| until)
    }

    /// All of them, open or remembered.
    pub fn iter(&self) -> impl Iterator<Item = &Pledge> {
        self.holds.values()
    }

    /// The ids of the entries of all items.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.holds.values().flat_map(|pledge| pledge.items.iter().map(|item| item.id)).filter(|id| *id != 0)
    }

    /// Gives the entries of all items other ids: 0 where `id` knows none.
    pub fn renumber(&mut self, mut id: impl FnMut(u64) -> u64) {
        for pledge in self.holds.values_mut() {
            let renumbered = |item: &Item| Item { id: id(item.id), ..item.clone() };
            pledge.items = pledge.items.iter().map(renumbered).collect();
        }
    }

    /// Begins to count.
    pub fn begin(&mut self, now: Micros) {
        self.tidy(now);
        (self.expired, self.late) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMEMBER: Micros = REMEMBER_MS * 1000;

    fn item(hash: u64, cost: u64, slots: bool) -> Item {
        Item { id: hash, hash, cost, slots, key: "k".into() }
    }

    fn pledge(number: u64, until: Micros, items: &[Item]) -> Pledge {
        Pledge { number, at: 0, until, ttl: until, settlement: None, items: items.into() }
    }

    #[test]
    fn slots_are_in_use_until_a_hold_runs_out_or_is_settled() {
        let mut book = Book::default();
        book.insert(pledge(1, 10, &[item(7, 2, true), item(8, 100, false)]));
        book.insert(pledge(2, 20, &[item(7, 3, true), item(7, 1, true)]));
        assert_eq!((book.in_use(7), book.in_use(8), book.open()), (6, 0, 2));
        assert_eq!(book.of_key(7).collect::<Vec<_>>(), [(10, 1, 2), (20, 2, 4)]);
        assert_eq!((book.held_until(7), book.held_until(8), book.held_until(9)), (20, 10, 0));
        book.tidy(9);
        assert_eq!((book.in_use(7), book.expired), (6, 0));
        book.tidy(10);
        assert_eq!((book.in_use(7), book.held_until(8), book.expired, book.open()), (4, 0, 1, 1));
        book.renew(2, 15);
        book.renew(1, 50);
        assert_eq!((book.held_until(7), book.open(), book.get(1).unwrap().until), (15, 1, 10));
        book.settle(2, 12, vec![3, 1]);
        assert_eq!((book.in_use(7), book.open(), book.late), (0, 0, 0));
        book.settle(1, 13, vec![2, 50]);
        assert_eq!((book.late, book.by_key.len(), book.in_use.len(), book.ended.len()), (1, 0, 0, 2));
    }

    #[test]
    fn what_has_ended_is_remembered_for_ten_minutes() {
        let mut book = Book::default();
        book.insert(pledge(1, 10, &[item(7, 2, true)]));
        book.insert(pledge(2, 10, &[item(7, 2, true)]));
        book.settle(2, 5, vec![2]);
        book.tidy(REMEMBER + 4);
        assert!(book.get(1).is_some() && book.get(2).is_some());
        book.tidy(REMEMBER + 5);
        assert!(book.get(1).is_some() && book.get(2).is_none());
        // Settled late, it is remembered from then on.
        book.settle(1, REMEMBER + 9, vec![2]);
        book.tidy(2 * REMEMBER + 8);
        assert!(book.get(1).is_some());
        book.tidy(2 * REMEMBER + 9);
        assert!(book.get(1).is_none() && book.ended.is_empty() && book.holds.is_empty());
        // No number is given twice.
        assert_eq!((book.next_number(2), book.next_number(100)), (Some(3), Some(100)));
    }

    #[test]
    fn the_oldest_of_too_many_are_forgotten_first() {
        let mut book = Book::default();
        let count = MAX_REMEMBERED as u64 + 10;
        for number in 1..=count {
            book.insert(pledge(number, number, &[item(number % 3, 1, true)]));
        }
        assert_eq!((book.open(), book.in_use(0) + book.in_use(1) + book.in_use(2)), (count, count));
        book.tidy(count);
        assert!(book.get(10).is_none() && book.get(11).is_some());
        assert_eq!((book.open(), book.holds.len(), book.in_use.len()), (0, MAX_REMEMBERED, 0));
        book.tidy(count + REMEMBER);
        assert!(book.holds.is_empty() && book.holds.capacity() < 4096);
    }

    #[test]
    fn a_hold_comes_back_from_its_record() {
        let mut settled = pledge(1, 10, &[item(7, 2, true), item(8, 100, false)]);
        settled.settlement = Some(Arc::new(Settlement { at: 4, costs: vec![2, 70] }));
        for pledge in [settled, pledge(2, 20, &[item(9, 3, false)])] {
            let back = Pledge::from_record(&pledge.to_record(), |id, _| id);
            assert_eq!(format!("{back:?}"), format!("{pledge:?}"));
            let mut book = Book::default();
            book.insert(back);
            assert_eq!((book.open(), book.ended.len() as u64), if pledge.number == 1 { (0, 1) } else { (1, 0) });
        }
    }
}
