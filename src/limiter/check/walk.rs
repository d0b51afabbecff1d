//! The decisions on several items, one after the other, of which nothing is spent yet.
//!
//! Items are decided in their order on what is in the map, or on drafts where something is due, born or shared: two
//! items that an overflow limit serves add up on its one draft, and two that take slots of it too.

use std::sync::Arc;

use super::decide::{Aside, Ask, asks_for_ends, fresh};
use super::progress::{Draft, Ground, Progress, Tables, place, table};
use super::slots::{Usage, refuse_slots, validate_slots};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Limit, Live, Standing, Verdict, excerpt, validate_cost};
use crate::limiter::answers::Decision;
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Source, Table};
use crate::limiter::held::book::Book;
use crate::limiter::lookup::{Brought, Overflow, Served, changed, glance, is_plain};

/// What is made of the decisions on several items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They are spent, if all are allowed.
    Spend,
    /// Each that is allowed is spent; a key may be there several times.
    Each,
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
    /// When a hold of the items would expire.
    pub until: Micros,
}

/// How far a walk came.
pub enum Walked {
    /// All items are decided, or those up to the first that was denied.
    Decided(Progress, Vec<Option<Served>>),
    /// This shard has to be locked too.
    Lock(usize),
}

impl Core {
    /// Decides on the items in their order. Room that was taken for keys that are to be born is given back with
    /// [`Core::give_up`], where they are not born.
    pub fn walk(&self, tables: &mut Tables<'_>, asks: &[Ask<'_>], walk: &Walk<'_>) -> Result<Walked> {
        if self.noting.is_on() {
            // All of them are looked at, also those after one that is refused: what is not loaded is fetched at once.
            for ask in asks {
                table(tables, ask.hash)?.get(ask.hash, ask.key);
            }
        }
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

    /// Decides on one item separately, after those before it. Returns a shard that has to be locked for that.
    pub fn decide_each(
        &self,
        tables: &mut Tables<'_>,
        ask: &Ask<'_>,
        walk: &Walk<'_>,
        progress: &mut Progress,
    ) -> Result<Option<usize>> {
        // What an earlier item spends of the same key is on its draft.
        let known = progress.drafts.iter().position(|draft| draft.hash == ask.hash && *draft.entry.key == *ask.key);
        let Some(known) = known else {
            let served = self.served_in_all(tables, ask, walk)?;
            return self.decide_in_all(tables, ask, served.as_ref(), walk, progress);
        };
        let entry = &progress.drafts[known].entry;
        if let (Source::Request, Brought::Values(limit)) = (entry.source(), ask.brought)
            && *entry.limit != *limit
        {
            let key = excerpt(ask.key);
            return Err(Error::invalid(format!("key `{key}` is given twice with different limits; give it only one")));
        }
        walk.validate(ask, entry.in_force())?;
        self.decide_on_draft(progress, known, ask, walk);
        Ok(None)
    }

    /// How an item is served; `None` if the entry is already right. Refuses what can't be.
    fn served_in_all(&self, tables: &mut Tables<'_>, ask: &Ask<'_>, walk: &Walk<'_>) -> Result<Option<Served>> {
        let now = walk.now;
        let version = self.version(now);
        let table = table(tables, ask.hash)?;
        let plain = table.get(ask.hash, ask.key).filter(|entry| is_plain(entry, version, ask.brought));
        match plain {
            Some(entry) if walk.purpose != Purpose::Each && !asks_for_ends(&entry.limit) => {
                walk.validate(ask, &entry.limit)?;
                return Ok(None);
            }
            // It may have been born a moment ago, so that the record of these items has room for what is spent.
            Some(_) => {}
            None => self.forget_if_none(table, ask.hash, ask.key, now, version),
        }
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

    /// Lets the decisions on what is not spent after all report its state.
    pub fn unspend(
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

    /// The state of a key that has spent nothing here.
    fn stands(&self, table: &mut Table, place: (u64, &str), served: &Served, now: Micros) -> Option<Verdict> {
        Some(self.look(table.get(place.0, place.1), served, now, |standing, limit| glance(standing, limit, now)))
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
            Purpose::Spend | Purpose::Each | Purpose::Peek | Purpose::Hold => {
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
