//! The check of several keys at once: everything is spent, or nothing.
//!
//! Items are decided in their order on what is in the map, or on drafts where something is due, born or shared: two
//! items that an overflow limit serves add up on its one draft. Only when all are allowed the drafts go into the map,
//! and one record says it all.

use std::time::Duration;

use super::decide::{Aside, Ask, born, count_allowed};
use super::progress::{Draft, Ground, Progress, Tables, held_items, place, record, record_hold, table};
use super::room::{Room, too_long_to_keep};
use super::wait::{NonBlocking, Wait};
use super::walk::{Purpose, Walk, Walked};
use crate::bounds::{DEFAULT_HOLD_MS, MAX_ITEMS, MAX_RECORD_BYTES};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::Live;
use crate::limiter::answers::{AllDecision, Decision, Hold};
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Entry, Source, Text};
use crate::limiter::held::book::{Book, Item as HeldItem, Pledge};
use crate::limiter::kept::shelf::Kept;
use crate::limiter::kept::{Keep, Told};
use crate::limiter::lookup::Served;
use crate::store::encode::encoded_len;
use crate::store::record::{Event, MAX_FIXED, MAX_ITEM};

/// Keys that are born by one record before the check of all. Each takes about 1300 bytes at most.
const BORN_AT_ONCE: usize = 64;

/// How far it came.
pub enum Attempt<T> {
    /// It is made.
    Done(T, Vec<Aside>),
    /// Nothing was changed: there is no room for a record of this many bytes.
    Grow(usize),
    /// Nothing was changed: this shard has to be locked too.
    Lock(usize),
    /// Keys are there now that were to be born, of which nothing was spent yet; or one of which nothing counts was
    /// swept to make room for another. Nobody sees a difference.
    Again,
}

/// The decisions as they were made, and what is left to count when no lock is held.
pub type Committed = (Vec<Decision>, Vec<Aside>);

/// The answer to several items, and the hold that was made of them.
pub type Made = (AllDecision, Option<Pledge>);

impl Core {
    /// Decides on all items; waits for the log only where it has no room. With a `ttl` a hold is made of them.
    pub fn check_all(
        &self,
        asks: &[Ask<'_>],
        (purpose, ttl): (Purpose, Micros),
        mut keep: Option<&mut Keep<'_>>,
        wait: &Wait<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Made> {
        let named = |ask: &Ask<'_>| MAX_FIXED + ask.key.len();
        let most = match purpose {
            // Longer records have their own room, in addition to the usual room.
            Purpose::Hold => (MAX_FIXED + asks.iter().map(named).sum::<usize>()).min(MAX_ITEMS * MAX_ITEM),
            Purpose::Spend | Purpose::Each | Purpose::Peek | Purpose::Charge => MAX_FIXED + asks.len() * MAX_ITEM,
        };
        let mut room = Room::new(self.reserve_for(non_blocking, 1, most)?, most);
        let shards = asks.iter().map(|ask| shard_of(ask.hash)).collect();
        self.decide_locked(shards, &mut room, non_blocking, |tables, room| {
            let mut book = match purpose {
                Purpose::Hold => Some(self.lock_holds_for(non_blocking)?),
                Purpose::Spend | Purpose::Each | Purpose::Charge | Purpose::Peek => None,
            };
            let now = self.clock.now();
            if let Some(book) = &mut book {
                book.tidy(now);
            }
            let walk = Walk { purpose, now, book: None, until: now.saturating_add(ttl) };
            let made = (book.as_deref_mut(), keep.as_deref_mut());
            self.try_all(tables, asks, walk, made, room, wait)
        })
    }

    /// Locks the shards and has it decided, with another shard or more room as often as that is needed. Counts what is
    /// left to count when no lock is held.
    pub fn decide_locked<'a, T>(
        &'a self,
        mut shards: Vec<usize>,
        room: &mut Room<'a>,
        non_blocking: Option<&NonBlocking<'_>>,
        mut decide: impl FnMut(&mut Tables<'_>, &mut Room<'a>) -> Result<Attempt<T>>,
    ) -> Result<T> {
        loop {
            let mut tables = self.lock_all(&mut shards, non_blocking)?;
            match decide(&mut tables, room)? {
                Attempt::Done(answer, asides) => {
                    drop(tables);
                    asides.iter().for_each(|aside| self.count_aside(aside));
                    return Ok(answer);
                }
                Attempt::Lock(shard) => shards.push(shard),
                Attempt::Again => {}
                Attempt::Grow(bytes) => {
                    drop(tables);
                    room.set_longer(self.reserve_for(non_blocking, 1, bytes)?, bytes);
                }
            }
        }
    }

    /// What is reported of a hold.
    pub fn told_hold(&self, number: u64, until: Micros, ttl: Micros) -> Hold {
        Hold { id: self.holds.ids.write(number), expires_at: until, ttl: Duration::from_micros(ttl) }
    }

    /// Says what [`Core::check_all`] would decide. Nothing is spent or written.
    pub fn peek_all(&self, asks: &[Ask<'_>]) -> Result<AllDecision> {
        let mut shards: Vec<usize> = asks.iter().map(|ask| shard_of(ask.hash)).collect();
        loop {
            let mut tables = self.lock_all(&mut shards, None)?;
            let mut book = self.holds.lock();
            let now = self.clock.now();
            book.tidy(now);
            let walk = Walk { purpose: Purpose::Peek, now, book: Some(&book), until: now + DEFAULT_HOLD_MS * 1000 };
            match self.walk(&mut tables, asks, &walk)? {
                Walked::Lock(shard) => shards.push(shard),
                Walked::Decided(mut progress, served) => {
                    self.give_up(&progress);
                    if progress.denied.is_some() {
                        self.unspend(&mut tables, asks, &served, &walk, &mut progress);
                    }
                    let Progress { results, denied, .. } = progress;
                    return Ok(AllDecision { allowed: denied.is_none(), denied, results });
                }
            }
        }
    }

    /// Locks the shards, in their order.
    pub fn lock_all<'a>(
        &'a self,
        shards: &mut Vec<usize>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Tables<'a>> {
        shards.sort_unstable();
        shards.dedup();
        shards.iter().map(|shard| Ok((*shard, self.lock_for(non_blocking, *shard)?))).collect()
    }

    fn try_all<'a>(
        &'a self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        walk: Walk<'_>,
        (book, keep): (Option<&mut Book>, Option<&mut Keep<'_>>),
        room: &mut Room<'a>,
        wait: &Wait<'_>,
    ) -> Result<Attempt<Made>> {
        let walk = Walk { book: book.as_deref(), ..walk };
        let (now, until) = (walk.now, walk.until);
        let (progress, served) = match self.walk(tables, asks, &walk)? {
            Walked::Lock(shard) => return Ok(Attempt::Lock(shard)),
            Walked::Decided(progress, served) => (progress, served),
        };
        if progress.denied.is_some() {
            self.give_up(&progress);
            return Ok(self.deny_all(tables, asks, &served, &walk, progress));
        }
        if has_lost_any(tables, asks, &progress) {
            self.give_up(&progress);
            return Ok(Attempt::Again);
        }
        if let Some(book) = &book
            && book.open() >= self.holds.most
        {
            self.give_up(&progress);
            return Err(Error::new(
                Kind::TooManyHolds,
                format!("{} holds are open, which is the maximum; settle some, or raise --max-holds", book.open()),
            ));
        }
        let held = match book.as_ref().map(|book| book.next_number(now)) {
            None => None,
            Some(Some(number)) => Some((number, until)),
            Some(None) => {
                self.give_up(&progress);
                return Err(Error::new(Kind::Overloaded, "there is no number left for the hold; try again"));
            }
        };
        let (event, bytes) = match held {
            Some(hold) => record_hold(tables, asks, &progress, now, hold)?,
            None => record(tables, asks, &progress, now)?,
        };
        let answer = match keep.filter(|_| event.is_some()) {
            Some(keep) if walk.purpose == Purpose::Charge => {
                let mut entry = charged(tables, asks, &progress, now)?;
                Some((keep.once, (keep.write)(Told::Stands(entry.as_mut()))))
            }
            Some(keep) => {
                let all = AllDecision { allowed: true, denied: None, results: progress.results.clone() };
                let hold = held.map(|(number, until)| self.told_hold(number, until, until - now));
                Some((keep.once, (keep.write)(Told::Decided(&all, hold.as_ref()))))
            }
            None => None,
        };
        let answer = answer.map(|(once, answer)| Kept { once, at: now, answer: answer.into() });
        // Fewer keys that are to be born would not make it shorter.
        if answer.as_ref().is_some_and(|kept| kept.answer.len() + asks.len() * MAX_ITEM + MAX_FIXED > MAX_RECORD_BYTES)
        {
            drop(event);
            self.give_up(&progress);
            return Err(too_long_to_keep());
        }
        let (event, bytes) = match (event, &answer) {
            (Some(event), Some(kept)) => {
                let event = kept.with(event);
                let bytes = encoded_len(&event);
                (Some(event), bytes)
            }
            (event, _) => (event, bytes),
        };
        if bytes > MAX_RECORD_BYTES {
            drop(event);
            return self.bear_first(tables, progress, now, room);
        }
        let mut items = Vec::new();
        if let Some(event) = &event {
            if !room.grow(self, bytes)? {
                self.give_up(&progress);
                return Ok(Attempt::Grow(bytes));
            }
            let forgettable = held.is_some() || progress.results.iter().any(Decision::must_be_waited_for);
            self.settle_all_denials(tables, asks, &progress, now)?;
            let wait = if forgettable { wait } else { &Wait::Not };
            self.answers.keep_with(answer.as_ref(), || room.append(self, event, bytes, wait))?;
            items = held_items(asks, &progress, event);
        }
        drop(event);
        let (results, asides) = self.commit(tables, asks, now, progress);
        if let Some((_, first)) = tables.first_mut() {
            first.counts.decisions.0 += 1;
        }
        let pledge = book.zip(held).map(|(book, (number, until))| {
            let ttl = until - now;
            let pledge = Pledge { number, at: now, until, ttl, settlement: None, items: items.into() };
            book.insert(pledge.clone());
            note_held(tables, book, &pledge.items);
            pledge
        });
        Ok(Attempt::Done((AllDecision { allowed: true, denied: None, results }, pledge), asides))
    }

    /// Queues denials that are missing in the log of all keys of which the spends may forget something, or count for
    /// another pattern: they must be in the log before.
    pub fn settle_all_denials(
        &self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        progress: &Progress,
        now: Micros,
    ) -> Result<()> {
        for index in 0..progress.grounds.len() {
            let (hash, key) = place(asks, &progress.grounds, &progress.drafts, index);
            let forgets = |entry: &&mut Entry| match &progress.grounds[index] {
                Ground::Draft(..) => entry.source() != Source::Exact,
                Ground::Entry | Ground::Nothing => entry.would_forget(entry.in_force(), now),
            };
            if let Some(entry) = table(tables, hash)?.get(hash, key).filter(forgets) {
                self.settle_denials(entry);
            }
        }
        Ok(())
    }

    /// If one record can't hold all: puts the keys into the map that are to be born, with their own records. Of a
    /// key of which nothing was spent it is invisible whether it is there, even after a crash.
    pub fn bear_first<'a, T>(
        &'a self,
        tables: &mut Tables<'_>,
        progress: Progress,
        now: Micros,
        room: &mut Room<'a>,
    ) -> Result<Attempt<T>> {
        let mut left: Vec<Draft> = progress.drafts.into_iter().filter(|draft| draft.is_born).collect();
        if left.is_empty() {
            return Err(Error::invalid(
                "items must have fewer values or shorter keys; split them over several requests",
            ));
        }
        while !left.is_empty() {
            let some = left.len().saturating_sub(BORN_AT_ONCE)..;
            let born_now: Vec<Box<Entry>> = left[some.clone()]
                .iter()
                .map(|draft| self.bear((draft.hash, &draft.entry.key), &draft.served))
                .collect();
            let items = born_now.iter().zip(&left[some.clone()]).map(|(entry, draft)| born(entry, &draft.served, 0));
            let event = Event::SpentMore { at: now, items: items.collect() };
            let bytes = encoded_len(&event);
            if !room.grow_before(self, bytes)? {
                left.iter().for_each(|draft| self.give_room_of(&draft.served));
                return Ok(Attempt::Grow(bytes));
            }
            room.append_before(self, &event)?;
            drop(event);
            for (entry, draft) in born_now.into_iter().zip(left.drain(some)) {
                self.put(table(tables, draft.hash)?, draft.hash, *entry, &draft.served);
            }
        }
        Ok(Attempt::Again)
    }

    /// The answer where an item was denied: what would have been allowed was not spent.
    fn deny_all(
        &self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        served: &[Option<Served>],
        walk: &Walk<'_>,
        mut progress: Progress,
    ) -> Attempt<Made> {
        self.unspend(tables, asks, served, walk, &mut progress);
        let Progress { results, grounds, drafts, mut asides, denied, .. } = progress;
        let last = results.len() - 1;
        for (index, result) in results.iter().enumerate().filter(|(_, result)| !result.is_spent()) {
            let (hash, key) = place(asks, &grounds, &drafts, index);
            let Ok(table) = table(tables, hash) else { continue };
            if let (Some(entry), counts) = table.get_with_counts(hash, key) {
                self.deny(entry, counts, hash, walk.now, result.cost);
            }
        }
        // Checks that need no entry and were not made after all.
        asides.retain(|aside| !aside.is_allowed());
        let hash = asks[last].hash;
        if let Ok(table) = table(tables, hash) {
            table.counts.decisions.1 += 1;
        }
        Attempt::Done((AllDecision { allowed: false, denied, results }, None), asides)
    }

    /// Makes what was decided: everything is spent but what a shadow denied.
    pub fn commit(&self, tables: &mut Tables<'_>, asks: &[Ask<'_>], now: Micros, progress: Progress) -> Committed {
        let Progress { results, grounds, drafts, asides, .. } = progress;
        // Of what was not spent: it is counted when what is spent of the same key is there.
        let mut denied: Vec<(u64, Text, u64)> = Vec::new();
        for (index, result) in results.iter().enumerate() {
            let (hash, key) = place(asks, &grounds, &drafts, index);
            if !result.is_spent() {
                denied.push((hash, key.into(), result.cost));
            } else if matches!(grounds[index], Ground::Entry)
                && let Ok(table) = table(tables, hash)
                && let (Some(entry), counts) = table.get_with_counts(hash, key)
            {
                entry.spend(now, result.cost, &mut Live::default());
                count_allowed(entry, counts, result.cost);
            }
        }
        let spent = |draft: usize| {
            let of_draft = |(ground, result): &(&Ground, &Decision)| {
                matches!(ground, Ground::Draft(index, _) if *index == draft) && result.is_spent()
            };
            grounds.iter().zip(&results).filter(of_draft).map(|(_, result)| result.cost).collect::<Vec<_>>()
        };
        for (index, draft) in drafts.into_iter().enumerate() {
            let costs = spent(index);
            let Ok(table) = table(tables, draft.hash) else { continue };
            if costs.is_empty() && !draft.moves {
                // A shadow denied all of it: what is due stays due.
                if draft.is_born {
                    self.give_room_of(&draft.served);
                }
                continue;
            }
            let key = draft.entry.key.clone();
            if draft.is_born {
                self.put(table, draft.hash, *draft.entry, &draft.served);
            } else if let (Some(entry), counts) = table.get_with_counts(draft.hash, &key) {
                self.replace(entry, *draft.entry, &draft.served, counts);
            }
            if let (Some(entry), counts) = table.get_with_counts(draft.hash, &key) {
                for cost in costs {
                    count_allowed(entry, counts, cost);
                }
            }
        }
        for (hash, key, cost) in denied {
            if let Ok(table) = table(tables, hash)
                && let (Some(entry), counts) = table.get_with_counts(hash, &key)
            {
                self.deny(entry, counts, hash, now, cost);
            }
        }
        (results, asides)
    }
}

/// The entry of a key as it is when it is charged.
fn charged(tables: &mut Tables<'_>, asks: &[Ask<'_>], progress: &Progress, now: Micros) -> Result<Option<Entry>> {
    match (progress.grounds.first(), asks.first()) {
        (Some(Ground::Draft(index, _)), _) => Ok(Some((*progress.drafts[*index].entry).clone())),
        (Some(Ground::Entry), Some(ask)) => {
            let mut entry = table(tables, ask.hash)?.get(ask.hash, ask.key).cloned();
            if let Some(entry) = &mut entry {
                entry.spend(now, ask.cost, &mut Live::default());
            }
            Ok(entry)
        }
        _ => Ok(None),
    }
}

/// Notes in the entries of a hold when the last of their holds expires.
pub fn note_held(tables: &mut Tables<'_>, book: &Book, items: &[HeldItem]) {
    for item in items.iter().filter(|item| item.id != 0) {
        if let Ok(table) = table(tables, item.hash)
            && let Some(entry) = table.get_id(item.hash, item.id)
        {
            entry.set_held_until(book.held_until(item.hash));
        }
    }
}

/// Whether a key that was there has made room for a key that is to be born.
pub fn has_lost_any(tables: &mut Tables<'_>, asks: &[Ask<'_>], progress: &Progress) -> bool {
    let mut is_gone = |hash: u64, key: &str| !table(tables, hash).is_ok_and(|table| table.get(hash, key).is_some());
    progress.drafts.iter().any(|draft| draft.is_born)
        && (asks
            .iter()
            .zip(&progress.grounds)
            .any(|(ask, ground)| matches!(ground, Ground::Entry) && is_gone(ask.hash, ask.key))
            || progress.drafts.iter().any(|draft| !draft.is_born && is_gone(draft.hash, &draft.entry.key)))
}
