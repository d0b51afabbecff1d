//! The check of several keys at once: everything is spent, or nothing.
//!
//! Items are decided in their order on what is in the map, or on drafts where something is due, born or shared: two
//! items that an overflow limit serves add up on its one draft. Only when all are allowed the drafts go into the map,
//! and one record says it all.

use std::sync::Arc;

use super::decide::{Aside, Ask, Room, asks_for_ends, born, count_allowed, fresh};
use super::progress::{Draft, Ground, Progress, Tables, held_items, place, record, record_hold, table};
use super::slots::{Usage, refuse_slots, validate_slots};
use super::wait::{NonBlocking, Wait};
use crate::bounds::{DEFAULT_HOLD_MS, MAX_ITEMS, MAX_RECORD_BYTES};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, Live, Standing, Verdict, validate_cost};
use crate::limiter::answers::{AllDecision, Decision};
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Entry, Source, Table};
use crate::limiter::held::book::{Book, Item as HeldItem, Pledge};
use crate::limiter::lookup::{Overflow, Served, changed, glance, is_plain};
use crate::store::encode::encoded_len;
use crate::store::record::{Event, MAX_FIXED, MAX_ITEM};

/// Keys that are born by one record before the check of all. Each takes some 1300 bytes at most.
const BORN_AT_ONCE: usize = 64;

/// How far it came.
pub enum Attempt<T> {
    /// It is made.
    Done(T, Vec<Aside>),
    /// Nothing was changed: there is no room for a record of so many bytes.
    Grow(usize),
    /// Nothing was changed: this shard has to be locked too.
    Lock(usize),
    /// Keys are there now that were to be born, of which nothing was spent yet; or one of which nothing counts was
    /// swept to make room for another. Nobody sees a difference.
    Again,
}

/// What is made of the decisions on several items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They are spent, if all are allowed.
    Spend,
    /// Nothing.
    Peek,
    /// They are spent, or take slots, until a hold of them is settled.
    Hold,
    /// They are spent, also past the limit.
    Charge,
}

/// A walk over several items.
#[derive(Clone, Copy)]
pub struct Walk<'w> {
    pub purpose: Purpose,
    /// Read under all locks.
    pub now: Micros,
    /// The table of holds, where slots may be asked for.
    pub book: Option<&'w Book>,
    /// When a hold of the items would run out.
    pub until: Micros,
}

/// How far a walk came.
pub enum Walked {
    /// All items are decided, or those up to the first that was denied.
    Decided(Progress, Vec<Option<Served>>),
    /// This shard has to be locked too.
    Lock(usize),
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
        wait: &Wait<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Made> {
        let named = |ask: &Ask<'_>| MAX_FIXED + ask.key.len();
        let most = match purpose {
            // Longer records have room of their own, beside which there must be some.
            Purpose::Hold => (MAX_FIXED + asks.iter().map(named).sum::<usize>()).min(MAX_ITEMS * MAX_ITEM),
            Purpose::Spend | Purpose::Peek | Purpose::Charge => MAX_FIXED + asks.len() * MAX_ITEM,
        };
        let mut room = Room::new(self.reserve_for(non_blocking, 1, most)?, most);
        let mut shards: Vec<usize> = asks.iter().map(|ask| shard_of(ask.hash)).collect();
        loop {
            let mut tables = self.lock_all(&mut shards, non_blocking)?;
            let mut book = match purpose {
                Purpose::Hold => Some(self.lock_holds_for(non_blocking)?),
                Purpose::Spend | Purpose::Charge | Purpose::Peek => None,
            };
            let now = self.clock.now();
            if let Some(book) = &mut book {
                book.tidy(now);
            }
            let attempt = self.try_all(&mut tables, asks, (purpose, now, ttl), book.as_deref_mut(), &mut room, wait)?;
            drop(book);
            match attempt {
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

    /// Decides on the items in their order. Room that was taken for keys that are to be born is given back with
    /// [`Core::give_up`], where they are not born.
    pub fn walk(&self, tables: &mut Tables<'_>, asks: &[Ask<'_>], walk: &Walk<'_>) -> Result<Walked> {
        // An unknown key or an impossible cost anywhere in the list comes before any denial.
        let served: Vec<Option<Served>> =
            asks.iter().map(|ask| self.served_in_all(tables, ask, walk)).collect::<Result<_>>()?;
        let mut progress = Progress::default();
        for (ask, served) in asks.iter().zip(&served) {
            match self.decide_in_all(tables, ask, served.as_ref(), walk, &mut progress) {
                Ok(None) => {}
                Ok(Some(shard)) => {
                    self.give_up(&progress);
                    return Ok(Walked::Lock(shard));
                }
                Err(error) => {
                    self.give_up(&progress);
                    return Err(error);
                }
            }
            if progress.denied.is_some() {
                break;
            }
        }
        Ok(Walked::Decided(progress, served))
    }

    fn try_all<'a>(
        &'a self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        (purpose, now, ttl): (Purpose, Micros, Micros),
        book: Option<&mut Book>,
        room: &mut Room<'a>,
        wait: &Wait<'_>,
    ) -> Result<Attempt<Made>> {
        let walk = Walk { purpose, now, book: book.as_deref(), until: now.saturating_add(ttl) };
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
                format!("{} holds are open, as many as may be; settle them, or raise --max-holds", book.open()),
            ));
        }
        let held = book.as_ref().map(|book| (book.next_number(now), walk.until));
        let (event, bytes) = match held {
            Some(hold) => record_hold(tables, asks, &progress, now, hold)?,
            None => record(tables, asks, &progress, now)?,
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
            room.append(self, event, bytes, if forgettable { wait } else { &Wait::Not })?;
            items = held_items(asks, &progress, event);
        }
        drop(event);
        let (results, asides) = self.commit(tables, asks, now, progress);
        if let Some((_, first)) = tables.first_mut() {
            first.counts.decisions.0 += 1;
        }
        let pledge = book.zip(held).map(|(book, (number, until))| {
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

    /// Where one record can't hold all: puts the keys into the map that are to be born, with records of their own. Of a
    /// key of which nothing was spent nobody sees whether it is there, also after a crash.
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
                "items must not have so many values or so long keys at once; divide them among several requests",
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

    /// How an item is served; `None` where the entry is as it is to be. Refuses what can't be.
    fn served_in_all(&self, tables: &mut Tables<'_>, ask: &Ask<'_>, walk: &Walk<'_>) -> Result<Option<Served>> {
        let now = walk.now;
        let version = self.version(now);
        let table = table(tables, ask.hash)?;
        if let Some(entry) = table.get(ask.hash, ask.key)
            && is_plain(entry, version, ask.brought)
            && !asks_for_ends(&entry.limit)
        {
            walk.validate(ask, &entry.limit)?;
            return Ok(None);
        }
        self.forget_if_none(table, ask.hash, ask.key, now, version);
        let entry = table.get(ask.hash, ask.key);
        let served = self.served(entry.as_deref(), ask.key, ask.brought, now, version)?;
        walk.validate(ask, served.in_force(entry.as_deref()))?;
        Ok(Some(served))
    }

    /// Decides on one item, after those before it. Returns a shard that has to be locked for that.
    fn decide_in_all(
        &self,
        tables: &mut Tables<'_>,
        ask: &Ask<'_>,
        served: Option<&Served>,
        walk: &Walk<'_>,
        progress: &mut Progress,
    ) -> Result<Option<usize>> {
        let now = walk.now;
        let table = table(tables, ask.hash)?;
        let entry = table.get(ask.hash, ask.key);
        match (entry, served) {
            (Some(entry), None) => {
                let limit = Arc::clone(entry.in_force());
                entry.standing.advance(&limit, now);
                let mut decision = walk.decide((ask.hash, ask.cost), &entry.standing, limit, progress);
                if !decision.is_spent() {
                    self.look_past_ends(&mut decision, entry, None);
                }
                let slot = entry.share_slot();
                let share = slot.and_then(|slot| table.counts.shares.get(slot));
                decision.pattern = share.map(|share| Arc::clone(&share.pattern.text));
                progress.note(decision, Ground::Entry, ask.hash);
            }
            (Some(entry), Some(served)) => {
                let mut ends = Live::default();
                let entry = Box::new(changed(entry, served, &mut ends));
                let (served, ends) = (served.clone(), ends.0);
                let (hash, is_born, moves) = (ask.hash, false, false);
                progress.drafts.push(Draft { hash, entry, served, is_born, moves, ends });
                self.decide_on_draft(progress, progress.drafts.len() - 1, ask, walk);
            }
            (None, None) => return Err(Error::not_configured(ask.key)),
            (None, Some(served)) => {
                let limit = &served.limit;
                let place = (ask.hash, ask.cost);
                let mut decision = walk.decide(place, &fresh(limit, now), Arc::clone(limit), progress);
                if decision.is_spent() && !limit.is_unlimited() {
                    if !self.take_room(table, served, now)? {
                        return self.overflow_in_all(tables, ask, walk, progress);
                    }
                    let place = (ask.hash, ask.key);
                    progress.drafts.push(self.draft_born(place, served, true));
                    self.decide_on_draft(progress, progress.drafts.len() - 1, ask, walk);
                    return Ok(None);
                }
                decision.pattern = served.told(None);
                if !decision.is_spent() {
                    self.look_past_ends_of(&mut decision, &fresh(limit, now), limit, served.ends.clone());
                }
                progress.asides.extend(Aside::of(served, &decision));
                progress.note(decision, Ground::Nothing, ask.hash);
            }
        }
        Ok(None)
    }

    /// Decides on an item that found no room.
    fn overflow_in_all(
        &self,
        tables: &mut Tables<'_>,
        ask: &Ask<'_>,
        walk: &Walk<'_>,
        progress: &mut Progress,
    ) -> Result<Option<usize>> {
        let now = walk.now;
        let overflow = self.overflow(ask.key, ask.brought, self.version(now));
        let Overflow { key, hash, .. } = overflow.as_ref().ok_or_else(|| Error::not_configured(ask.key))?;
        let shard = shard_of(*hash);
        if tables.iter().all(|(locked, _)| *locked != shard) {
            return Ok(Some(shard));
        }
        let known = progress.drafts.iter().position(|draft| *draft.entry.key == **key);
        let draft = match (known, &overflow) {
            (Some(draft), _) => draft,
            (None, Some(overflow)) => {
                let table = table(tables, *hash)?;
                let entry = table.get(*hash, key);
                let served = self.served_overflow(entry.as_deref(), overflow);
                let draft = match entry {
                    Some(entry) => {
                        let mut ends = Live::default();
                        let entry = Box::new(changed(entry, &served, &mut ends));
                        Draft { hash: *hash, entry, served, is_born: false, moves: false, ends: ends.0 }
                    }
                    None => {
                        self.take_room(table, &served, now)?;
                        self.draft_born((*hash, key), &served, true)
                    }
                };
                progress.drafts.push(draft);
                progress.drafts.len() - 1
            }
            (None, None) => return Err(Error::not_configured(ask.key)),
        };
        self.decide_on_draft(progress, draft, ask, walk);
        if let Some(decision) = progress.results.last_mut() {
            decision.overflow = true;
        }
        Ok(None)
    }

    fn draft_born(&self, place: (u64, &str), served: &Served, is_born: bool) -> Draft {
        let entry = self.bear(place, served);
        Draft { hash: place.0, entry, served: served.clone(), is_born, moves: false, ends: Vec::new() }
    }

    fn decide_on_draft(&self, progress: &mut Progress, index: usize, ask: &Ask<'_>, walk: &Walk<'_>) {
        let now = walk.now;
        let Draft { hash, entry, .. } = &mut progress.drafts[index];
        let hash = *hash;
        let limit = Arc::clone(entry.in_force());
        entry.standing.advance(&limit, now);
        let mut decision = walk.decide((hash, ask.cost), &progress.drafts[index].entry.standing, limit, progress);
        let Draft { entry, served, .. } = &mut progress.drafts[index];
        decision.pattern = served.told(Some(entry));
        let mut ends = Live::default();
        if decision.is_spent() {
            entry.spend(now, ask.cost, &mut ends);
        } else {
            self.look_past_ends(&mut decision, entry, Some(served));
        }
        progress.note(decision, Ground::Draft(index, ends.0), hash);
    }

    /// Gives back the room that was taken for keys that are not born after all.
    pub fn give_up(&self, progress: &Progress) {
        for draft in progress.drafts.iter().filter(|draft| draft.is_born) {
            self.give_room_of(&draft.served);
        }
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

    /// Lets the decisions on what is not spent after all tell how it stands.
    fn unspend(
        &self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        served: &[Option<Served>],
        walk: &Walk<'_>,
        progress: &mut Progress,
    ) {
        let Progress { results, grounds, drafts, .. } = progress;
        for (index, result) in results.iter_mut().enumerate().filter(|(_, result)| result.is_spent()) {
            let (hash, key) = place(asks, grounds, drafts, index);
            if let Some(usage) = walk.usage(hash, &result.limit, 0) {
                result.stand_in_slots(usage.stand(0));
                continue;
            }
            let Ok(table) = table(tables, hash) else { continue };
            let now = walk.now;
            let verdict = match &grounds[index] {
                Ground::Draft(draft, _) => self.stands(table, (hash, key), &drafts[*draft].served, now),
                Ground::Entry | Ground::Nothing => match &served[index] {
                    Some(served) => self.stands(table, (hash, key), served, now),
                    None => table.get(hash, key).map(|entry| glance(&entry.standing, entry.in_force(), now)),
                },
            };
            if let Some(verdict) = verdict {
                result.stand(verdict);
            }
        }
    }

    /// How a key stands that has spent nothing here.
    fn stands(&self, table: &mut Table, place: (u64, &str), served: &Served, now: Micros) -> Option<Verdict> {
        Some(self.look(table.get(place.0, place.1), served, now, |standing, limit| glance(standing, limit, now)))
    }

    /// Makes what was decided: everything is spent but what a shadow denied.
    pub fn commit(&self, tables: &mut Tables<'_>, asks: &[Ask<'_>], now: Micros, progress: Progress) -> Committed {
        let Progress { results, grounds, drafts, asides, .. } = progress;
        for (index, result) in results.iter().enumerate() {
            let (hash, key) = place(asks, &grounds, &drafts, index);
            let Ok(table) = table(tables, hash) else { continue };
            let (Some(entry), counts) = table.get_with_counts(hash, key) else { continue };
            match &grounds[index] {
                _ if !result.is_spent() => self.deny(entry, counts, hash, now, asks[index].cost),
                Ground::Entry => {
                    entry.spend(now, asks[index].cost, &mut Live::default());
                    count_allowed(entry, counts, asks[index].cost);
                }
                Ground::Draft(..) | Ground::Nothing => {}
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
        (results, asides)
    }
}

/// Notes in the entries of a hold when the last of their holds runs out.
pub fn note_held(tables: &mut Tables<'_>, book: &Book, items: &[HeldItem]) {
    for item in items.iter().filter(|item| item.id != 0) {
        if let Ok(table) = table(tables, item.hash)
            && let Some(entry) = table.get_id(item.hash, item.id)
        {
            entry.set_held_until(book.held_until(item.hash));
        }
    }
}

impl Walk<'_> {
    /// Refuses what could never be allowed.
    fn validate(&self, ask: &Ask<'_>, limit: &Limit) -> Result<()> {
        if self.book.is_none() {
            refuse_slots(ask.key, limit)?;
        }
        match self.purpose {
            // Any cost: there is no limit to it.
            Purpose::Charge => validate_cost(ask.key, &Limit::unlimited(), ask.cost),
            Purpose::Spend | Purpose::Peek | Purpose::Hold => {
                validate_cost(ask.key, limit, ask.cost)?;
                validate_slots(ask.key, limit, ask.cost)
            }
        }
    }

    /// The slots of a key with such a limit, of which other items take some.
    fn usage(&self, hash: u64, limit: &Limit, taken: u64) -> Option<Usage<'_>> {
        let (slots, book) = limit.slots().zip(self.book)?;
        Some(Usage { book, hash, slots, now: self.now, taken, until: self.until })
    }

    /// Decides on a cost of a key, by the hash of its entry's key.
    fn decide(&self, (hash, cost): (u64, u64), on: &Standing, limit: Arc<Limit>, progress: &Progress) -> Decision {
        if let Some(usage) = self.usage(hash, &limit, progress.taken(hash)) {
            return Decision::of_slots(&usage, limit, cost);
        }
        let verdict = on.quote(&limit, self.now, cost, &mut Live::default());
        let mut decision = Decision::new(verdict, limit, cost, self.now);
        if self.purpose == Purpose::Charge {
            (decision.allowed, decision.would_deny) = (true, decision.would_deny.map(|_| false));
        }
        decision
    }
}

/// Whether a key that was there has made room for one that is to be born.
fn has_lost_any(tables: &mut Tables<'_>, asks: &[Ask<'_>], progress: &Progress) -> bool {
    let is_there = |tables: &mut Tables<'_>, ask: &Ask<'_>| {
        table(tables, ask.hash).is_ok_and(|table| table.get(ask.hash, ask.key).is_some())
    };
    progress.drafts.iter().any(|draft| draft.is_born)
        && asks
            .iter()
            .zip(&progress.grounds)
            .any(|(ask, ground)| matches!(ground, Ground::Entry) && !is_there(tables, ask))
}
