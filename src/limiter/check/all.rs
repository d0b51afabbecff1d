//! The check of several keys at once: everything is spent, or nothing.
//!
//! Items are decided in their order on what is in the map, or on drafts where something is due, born or shared: two
//! items that an overflow limit serves add up on its one draft. Only when all are allowed the drafts go into the map,
//! and one record says it all.

use std::sync::Arc;

use super::decide::{Aside, Ask, Room, asks_for_ends, born, count_allowed, fresh};
use super::progress::{Draft, Ground, Progress, Tables, place, record, table};
use super::wait::{NonBlocking, Wait};
use crate::bounds::MAX_RECORD_BYTES;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Live, Verdict, validate_cost};
use crate::limiter::answers::{AllDecision, Decision};
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Entry, Source, Table};
use crate::limiter::lookup::{Overflow, Served, changed, glance, is_plain};
use crate::store::encode::encoded_len;
use crate::store::record::{Event, MAX_FIXED, MAX_ITEM};

/// Keys that are born by one record before the check of all. Each takes some 1300 bytes at most.
const BORN_AT_ONCE: usize = 64;

/// How far a decision came.
enum Attempt {
    /// It is made.
    Done(AllDecision, Vec<Aside>),
    /// Nothing was changed: there is no room for a record of so many bytes.
    Grow(usize),
    /// Nothing was changed: this shard has to be locked too.
    Lock(usize),
    /// Keys are there now that were to be born, of which nothing was spent yet; or one of which nothing counts was
    /// swept to make room for another. Nobody sees a difference.
    Again,
}

impl Core {
    /// Decides on all items; waits for the log only where it has no room.
    pub fn check_all(
        &self,
        asks: &[Ask<'_>],
        wait: &Wait<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<AllDecision> {
        let most = MAX_FIXED + asks.len() * MAX_ITEM;
        let mut room = Room::new(self.reserve_for(non_blocking, 1, most)?, most);
        let mut shards: Vec<usize> = asks.iter().map(|ask| shard_of(ask.hash)).collect();
        loop {
            shards.sort_unstable();
            shards.dedup();
            let lock = |shard: &usize| Ok((*shard, self.lock_for(non_blocking, *shard)?));
            let mut tables: Tables<'_> = shards.iter().map(lock).collect::<Result<_>>()?;
            match self.try_all(&mut tables, asks, self.clock.now(), &mut room, wait)? {
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

    fn try_all<'a>(
        &'a self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        now: Micros,
        room: &mut Room<'a>,
        wait: &Wait<'_>,
    ) -> Result<Attempt> {
        // An unknown key or an impossible cost anywhere in the list comes before any denial.
        let served: Vec<Option<Served>> =
            asks.iter().map(|ask| self.served_in_all(tables, ask, now)).collect::<Result<_>>()?;
        let mut progress = Progress::default();
        for (ask, served) in asks.iter().zip(&served) {
            match self.decide_in_all(tables, ask, served.as_ref(), now, &mut progress) {
                Ok(None) => {}
                Ok(Some(shard)) => {
                    self.give_up(&progress);
                    return Ok(Attempt::Lock(shard));
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
        if progress.denied.is_some() {
            self.give_up(&progress);
            return Ok(self.deny_all(tables, asks, &served, now, progress));
        }
        if has_lost_any(tables, asks, &progress) {
            self.give_up(&progress);
            return Ok(Attempt::Again);
        }
        let (event, bytes) = record(tables, asks, &progress, now)?;
        if bytes > MAX_RECORD_BYTES {
            drop(event);
            return self.bear_first(tables, progress, now, room);
        }
        if let Some(event) = &event {
            if !room.grow(self, bytes)? {
                self.give_up(&progress);
                return Ok(Attempt::Grow(bytes));
            }
            let forgettable = progress.results.iter().any(Decision::must_be_waited_for);
            // What a spend may forget, or count for another pattern, must be in the log before it.
            for index in 0..progress.grounds.len() {
                let (hash, key) = place(asks, &progress.grounds, &progress.drafts, index);
                let forgets = |entry: &&mut Entry| match &progress.grounds[index] {
                    Ground::Draft(..) => entry.source() != Source::Exact,
                    Ground::Entry | Ground::Nothing => entry.would_forget(entry.in_force()),
                };
                if let Some(entry) = table(tables, hash)?.get(hash, key).filter(forgets) {
                    self.settle_denials(entry);
                }
            }
            room.append(self, event, bytes, if forgettable { wait } else { &Wait::Not })?;
        }
        drop(event);
        Ok(self.commit(tables, asks, now, progress))
    }

    /// Where one record can't hold all: puts the keys into the map that are to be born, with records of their own. Of a
    /// key of which nothing was spent nobody sees whether it is there, also after a crash.
    fn bear_first<'a>(
        &'a self,
        tables: &mut Tables<'_>,
        progress: Progress,
        now: Micros,
        room: &mut Room<'a>,
    ) -> Result<Attempt> {
        let mut left: Vec<Draft> = progress.drafts.into_iter().filter(|draft| draft.is_born).collect();
        if left.is_empty() {
            return Err(Error::invalid(
                "items must not bring so many values at once; divide them among several checks",
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
            if !room.grow(self, bytes)? {
                left.iter().for_each(|draft| self.give_room_of(&draft.served));
                return Ok(Attempt::Grow(bytes));
            }
            room.append(self, &event, bytes, &Wait::Not)?;
            drop(event);
            for (entry, draft) in born_now.into_iter().zip(left.drain(some)) {
                self.put(table(tables, draft.hash)?, draft.hash, *entry, &draft.served);
            }
        }
        Ok(Attempt::Again)
    }

    /// How an item is served; `None` where the entry is as it is to be. Refuses what can't be.
    fn served_in_all(&self, tables: &mut Tables<'_>, ask: &Ask<'_>, now: Micros) -> Result<Option<Served>> {
        let version = self.version(now);
        let table = table(tables, ask.hash)?;
        if let Some(entry) = table.get(ask.hash, ask.key)
            && is_plain(entry, version, ask.brought)
            && !asks_for_ends(&entry.limit)
        {
            validate_cost(ask.key, &entry.limit, ask.cost)?;
            return Ok(None);
        }
        self.forget_if_none(table, ask.hash, ask.key, now, version);
        let entry = table.get(ask.hash, ask.key);
        let served = self.served(entry.as_deref(), ask.key, ask.brought, now, version)?;
        validate_cost(ask.key, served.in_force(entry.as_deref()), ask.cost)?;
        Ok(Some(served))
    }

    /// Decides on one item, after those before it. Returns a shard that has to be locked for that.
    fn decide_in_all(
        &self,
        tables: &mut Tables<'_>,
        ask: &Ask<'_>,
        served: Option<&Served>,
        now: Micros,
        progress: &mut Progress,
    ) -> Result<Option<usize>> {
        let table = table(tables, ask.hash)?;
        let entry = table.get(ask.hash, ask.key);
        match (entry, served) {
            (Some(entry), None) => {
                let limit = Arc::clone(entry.in_force());
                entry.standing.advance(&limit, now);
                let verdict = entry.standing.quote(&limit, now, ask.cost, &mut Live::default());
                let mut decision = Decision::new(verdict, limit, ask.cost, now);
                if !decision.is_spent() {
                    self.look_past_ends(&mut decision, entry, None);
                }
                let slot = entry.share_slot();
                let share = slot.and_then(|slot| table.counts.shares.get(slot));
                decision.pattern = share.map(|share| Arc::clone(&share.pattern.text));
                progress.note(decision, Ground::Entry);
            }
            (Some(entry), Some(served)) => {
                let mut ends = Live::default();
                let entry = Box::new(changed(entry, served, &mut ends));
                let (served, ends) = (served.clone(), ends.0);
                progress.drafts.push(Draft { hash: ask.hash, entry, served, is_born: false, ends });
                self.decide_on_draft(progress, progress.drafts.len() - 1, ask, now);
            }
            (None, None) => return Err(Error::not_configured(ask.key)),
            (None, Some(served)) => {
                let limit = &served.limit;
                let verdict = fresh(limit, now).quote(limit, now, ask.cost, &mut Live::default());
                if verdict.allowed && !limit.is_unlimited() {
                    if !self.take_room(table, served, now)? {
                        return self.overflow_in_all(tables, ask, now, progress);
                    }
                    let place = (ask.hash, ask.key);
                    progress.drafts.push(self.draft_born(place, served, true));
                    self.decide_on_draft(progress, progress.drafts.len() - 1, ask, now);
                    return Ok(None);
                }
                let mut decision = Decision::new(verdict, Arc::clone(limit), ask.cost, now);
                decision.pattern = served.told(None);
                if !decision.is_spent() {
                    self.look_past_ends_of(&mut decision, &fresh(limit, now), limit, served.ends.clone());
                }
                progress.asides.extend(Aside::of(served, &decision));
                progress.note(decision, Ground::Nothing);
            }
        }
        Ok(None)
    }

    /// Decides on an item that found no room.
    fn overflow_in_all(
        &self,
        tables: &mut Tables<'_>,
        ask: &Ask<'_>,
        now: Micros,
        progress: &mut Progress,
    ) -> Result<Option<usize>> {
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
                        Draft { hash: *hash, entry, served, is_born: false, ends: ends.0 }
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
        self.decide_on_draft(progress, draft, ask, now);
        if let Some(decision) = progress.results.last_mut() {
            decision.overflow = true;
        }
        Ok(None)
    }

    fn draft_born(&self, place: (u64, &str), served: &Served, is_born: bool) -> Draft {
        let entry = self.bear(place, served);
        Draft { hash: place.0, entry, served: served.clone(), is_born, ends: Vec::new() }
    }

    fn decide_on_draft(&self, progress: &mut Progress, index: usize, ask: &Ask<'_>, now: Micros) {
        let Draft { entry, served, .. } = &mut progress.drafts[index];
        let limit = Arc::clone(entry.in_force());
        entry.standing.advance(&limit, now);
        let verdict = entry.standing.quote(&limit, now, ask.cost, &mut Live::default());
        let mut decision = Decision::new(verdict, limit, ask.cost, now);
        decision.pattern = served.told(Some(entry));
        let mut ends = Live::default();
        if decision.is_spent() {
            entry.spend(now, ask.cost, &mut ends);
        } else {
            self.look_past_ends(&mut decision, entry, Some(served));
        }
        progress.note(decision, Ground::Draft(index, ends.0));
    }

    /// Gives back the room that was taken for keys that are not born after all.
    fn give_up(&self, progress: &Progress) {
        for draft in progress.drafts.iter().filter(|draft| draft.is_born) {
            self.give_room_of(&draft.served);
        }
    }

    /// The answer where an item was denied: what would have been allowed was not spent, and is told as it stands.
    fn deny_all(
        &self,
        tables: &mut Tables<'_>,
        asks: &[Ask<'_>],
        served: &[Option<Served>],
        now: Micros,
        progress: Progress,
    ) -> Attempt {
        let Progress { mut results, grounds, drafts, mut asides, denied } = progress;
        let last = results.len() - 1;
        for (index, result) in results.iter_mut().enumerate() {
            let (hash, key) = place(asks, &grounds, &drafts, index);
            let Ok(table) = table(tables, hash) else { continue };
            if result.is_spent() {
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
            } else if let (Some(entry), counts) = table.get_with_counts(hash, key) {
                self.deny(entry, counts, hash, now, asks[index].cost);
            }
        }
        // Checks that need no entry and were not made after all.
        asides.retain(|aside| !aside.is_allowed());
        let hash = asks[last].hash;
        if let Ok(table) = table(tables, hash) {
            table.counts.decisions.1 += 1;
        }
        Attempt::Done(AllDecision { allowed: false, denied, results }, asides)
    }

    /// How a key stands that has spent nothing here.
    fn stands(&self, table: &mut Table, place: (u64, &str), served: &Served, now: Micros) -> Option<Verdict> {
        Some(self.look(table.get(place.0, place.1), served, now, |standing, limit| glance(standing, limit, now)))
    }

    /// Makes what was decided: everything is spent but what a shadow denied.
    fn commit(&self, tables: &mut Tables<'_>, asks: &[Ask<'_>], now: Micros, progress: Progress) -> Attempt {
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
            if costs.is_empty() {
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
        if let Some((_, first)) = tables.first_mut() {
            first.counts.decisions.0 += 1;
        }
        Attempt::Done(AllDecision { allowed: true, denied: None, results }, asides)
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
