//! Holds that are settled: what they have spent is corrected to what they cost, and their slots are given back.

use std::sync::Arc;

use super::known::{Locked, settled_before};
use crate::bounds::{MAX_RECORD_BYTES, MAX_UNITS};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Live, excerpt};
use crate::limiter::answers::{Cost, Decision, Figures, Settled, SettledItem};
use crate::limiter::check::all::{Attempt, note_held};
use crate::limiter::check::decide::Ask;
use crate::limiter::check::progress::{Draft, Progress, Tables, spends, table};
use crate::limiter::check::room::Room;
use crate::limiter::check::slots::Usage;
use crate::limiter::check::wait::{NonBlocking, Wait};
use crate::limiter::check::walk::{Purpose, Walk, Walked};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::held::book::{Book, Item, Pledge};
use crate::limiter::lookup::{Brought, changed, glance};
use crate::store::encode::encoded_len;
use crate::store::record::{Back, Event, MAX_FIXED, Spend};

impl Limiter {
    /// Corrects what a hold has spent to what it cost, and gives back its slots.
    ///
    /// If it cost more, the rest is spent, also past the limit; if it cost less, the difference is given back to each
    /// window that it came from, as far as it still counts there. Settling it again with the same cost gives the same
    /// answer. A hold that has expired can still be settled for 10 minutes.
    ///
    /// # Errors
    /// `hold_not_found`, `hold_settled` if it was settled before with other costs, `invalid_argument`; `log_failed`
    /// and `overloaded`, after which it may have been settled.
    pub fn settle(&self, hold: &str, cost: Cost<'_>) -> Result<Settled> {
        self.settle_for(hold, cost, None)
    }

    /// [`Limiter::settle`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn settle_for(&self, hold: &str, cost: Cost<'_>, non_blocking: Option<&NonBlocking<'_>>) -> Result<Settled> {
        let core = &*self.core;
        let known = core.known(hold, non_blocking)?;
        let costs = costs_of(&known, cost)?;
        let wait = Wait::by(core.sync, non_blocking);
        let most = MAX_FIXED + costs.len() * MAX_SETTLED_ITEM;
        let mut room = Room::new(core.reserve_for(non_blocking, 1, most)?, most);
        let mut shards = core.shards_of(&known);
        loop {
            let mut locked = core.lock_hold(known.number, &mut shards, non_blocking)?;
            if let Some(settlement) = locked.pledge.settlement.clone() {
                if settlement.costs != costs {
                    return Err(settled_before());
                }
                let settled = core.tell(&mut locked, &costs, settlement.at);
                drop(locked);
                drop(room);
                // What is answered again may not be on disk yet.
                core.finish_all(&wait)?;
                return Ok(settled);
            }
            match core.try_settle(&mut locked, &costs, &mut room, &wait)? {
                Attempt::Done(decisions, asides) => {
                    let now = locked.now;
                    let settled = core.tell(&mut locked, &costs, now);
                    drop(locked);
                    drop(room);
                    asides.iter().for_each(|aside| core.count_aside(aside));
                    core.count_overflows(&decisions);
                    core.finish(&wait)?;
                    return Ok(settled);
                }
                Attempt::Lock(shard) => shards.push(shard),
                Attempt::Again => {}
                Attempt::Grow(bytes) => {
                    drop(locked);
                    room.set_longer(core.reserve_for(non_blocking, 1, bytes)?, bytes);
                }
            }
        }
    }
}

/// Upper bound of what a settlement says of one item where nothing is born or moved, in bytes.
const MAX_SETTLED_ITEM: usize = 48;

/// The costs of all items, as they are kept; of slots what was held.
fn costs_of(pledge: &Pledge, cost: Cost<'_>) -> Result<Vec<u64>> {
    let in_range = |cost: u64| match cost {
        0..=MAX_UNITS => Ok(cost),
        _ => Err(Error::invalid(format!("cost must be from 0 to {MAX_UNITS}, not {cost}"))),
    };
    let mut costs: Vec<u64> = pledge.items.iter().map(|item| item.cost).collect();
    match cost {
        Cost::AsHeld => {}
        Cost::Units(cost) => {
            let cost = in_range(cost)?;
            let mut rates = pledge.items.iter().zip(&mut costs).filter(|(item, _)| !item.slots);
            if let Some((_, place)) = rates.next() {
                *place = cost;
            }
            if rates.next().is_some() {
                return Err(Error::invalid("the hold has several keys with a cost; give the cost of each in costs"));
            }
        }
        Cost::Each(each) => {
            for (index, (key, cost)) in each.iter().enumerate() {
                let cost = in_range(*cost)?;
                if each[..index].iter().any(|(other, _)| other == key) {
                    return Err(Error::invalid(format!("costs must not have the key `{}` twice", excerpt(key))));
                }
                let found = pledge.items.iter().position(|item| *item.key == **key);
                let index = found.ok_or_else(|| {
                    Error::invalid(format!("costs has the key `{}`, which is not in the hold", excerpt(key)))
                })?;
                if !pledge.items[index].slots {
                    costs[index] = cost;
                }
            }
        }
    }
    Ok(costs)
}

impl Core {
    /// Settles a hold that was not settled yet. Returns the decisions on what it cost more.
    fn try_settle<'a>(
        &'a self,
        locked: &mut Locked<'_>,
        costs: &[u64],
        room: &mut Room<'a>,
        wait: &Wait<'_>,
    ) -> Result<Attempt<Vec<Decision>>> {
        let Locked { tables, book, now, pledge } = locked;
        let (now, items) = (*now, Arc::clone(&pledge.items));
        let asks = self.surcharges(tables, &items, costs, now)?;
        let walk = Walk { purpose: Purpose::Charge, now, book: None, until: now };
        let mut progress = match self.walk(tables, &asks, &walk)? {
            Walked::Lock(shard) => return Ok(Attempt::Lock(shard)),
            Walked::Decided(progress, _) => progress,
        };
        // What the walk swept is not among these.
        let back = self.give_back(tables, pledge, costs, now, &mut progress)?;
        let mut more: Vec<Spend<'_>> = spends(tables, &asks, &progress)?.into_iter().flatten().collect();
        for draft in progress.drafts.iter().filter(|draft| draft.moves) {
            let (moves, ends) = (draft.served.moves(), draft.ends.clone());
            more.push(Spend { id: draft.entry.id(), cost: 0, born: None, moves, ends });
        }
        let event = Event::Settled { hold: pledge.number, at: now, costs: costs.to_vec(), back, more };
        let bytes = encoded_len(&event);
        if bytes > MAX_RECORD_BYTES {
            drop(event);
            return self.bear_first(tables, progress, now, room);
        }
        if !room.grow(self, bytes)? {
            drop(event);
            self.give_up(&progress);
            return Ok(Attempt::Grow(bytes));
        }
        self.settle_all_denials(tables, &asks, &progress, now)?;
        room.append(self, &event, bytes, wait)?;
        let Event::Settled { back, more, .. } = event else { return Err(Core::unforeseen()) };
        drop(more);
        let (decisions, asides) = self.commit(tables, &asks, now, progress);
        for (Back { id, units, held_at }, hash) in back.iter().zip(hashes(&items, &back)) {
            if let Some(entry) = table(tables, hash)?.get_id(hash, *id) {
                entry.give_back(*held_at, now, *units);
            }
        }
        book.settle(pledge.number, now, costs.to_vec());
        note_held(tables, book, &items);
        Ok(Attempt::Done(decisions, asides))
    }

    /// What is to be spent: of keys that cost more and have a limit with windows, or none that could be exceeded.
    fn surcharges<'i>(
        &self,
        tables: &mut Tables<'_>,
        items: &'i [Item],
        costs: &[u64],
        now: Micros,
    ) -> Result<Vec<Ask<'i>>> {
        let mut asks = Vec::new();
        for (item, cost) in items.iter().zip(costs).filter(|(item, cost)| is_corrected(item) && **cost > item.cost) {
            let (hash, version) = (self.hash(&item.key), self.version(now));
            let table = table(tables, hash)?;
            // Whether a key of which nothing counts any more was swept makes no difference.
            self.forget_if_none(table, hash, &item.key, now, version);
            let entry = table.get(hash, &item.key);
            let served = self.served(entry.as_deref(), &item.key, Brought::AsItStands, now, version);
            if served.is_ok_and(|served| served.in_force(entry.as_deref()).slots().is_none()) {
                asks.push(Ask { hash, key: &item.key, cost: cost - item.cost, brought: Brought::AsItStands });
            }
        }
        Ok(asks)
    }

    /// What is to be given back: of keys that cost less and are still there. What is due for them is drafted.
    fn give_back(
        &self,
        tables: &mut Tables<'_>,
        pledge: &Pledge,
        costs: &[u64],
        now: Micros,
        progress: &mut Progress,
    ) -> Result<Vec<Back>> {
        let mut back = Vec::new();
        for (item, cost) in
            pledge.items.iter().zip(costs).filter(|(item, cost)| is_corrected(item) && **cost < item.cost)
        {
            let Some(entry) = table(tables, item.hash)?.get_id(item.hash, item.id) else { continue };
            let (id, units, held_at) = (item.id, item.cost - cost, pledge.at);
            back.push(Back { id, units, held_at });
            if let Some(served) = self.due(entry, now, self.version(now))
                && !progress.drafts.iter().any(|draft| draft.entry.id() == id)
            {
                let mut ends = Live::default();
                let entry = Box::new(changed(entry, &served, &mut ends));
                let hash = item.hash;
                progress.drafts.push(Draft { hash, entry, served, is_born: false, moves: true, ends: ends.0 });
            }
        }
        Ok(back)
    }

    /// The answer to a settlement: the state of the keys now.
    fn tell(&self, locked: &mut Locked<'_>, costs: &[u64], at: Micros) -> Settled {
        let Locked { tables, book, now, pledge } = locked;
        let told = pledge.items.iter().zip(costs).map(|(item, cost)| self.tell_item(tables, book, item, *cost, *now));
        Settled { late: pledge.is_late(at), results: told.collect() }
    }

    fn tell_item(&self, tables: &mut Tables<'_>, book: &Book, item: &Item, cost: u64, now: Micros) -> SettledItem {
        let mut told = SettledItem {
            key: item.key.to_string(),
            held: item.cost,
            cost,
            remaining: None,
            debt: 0,
            configured: false,
        };
        // The limit that has decided, where the key still shares it.
        let own = self.hash(&item.key);
        let is_shared = own != item.hash && table(tables, own).is_ok_and(|table| table.get(own, &item.key).is_none());
        let hash = if is_shared { item.hash } else { own };
        let Ok(table) = table(tables, hash) else { return told };
        let entry = if is_shared { table.get_id(hash, item.id) } else { table.get(hash, &item.key) };
        let version = self.version(now);
        let served = match &entry {
            Some(entry) if is_shared => self.due(entry, now, version).or_else(|| Some(self.undue(entry, version))),
            entry => self.served(entry.as_deref(), &item.key, Brought::AsItStands, now, version).ok(),
        };
        let Some(served) = served else { return told };
        told.configured = true;
        self.look(entry, &served, now, |standing, limit| {
            if let Some(slots) = limit.slots() {
                let stand = Usage { book, hash, slots, now, taken: 0, until: now }.stand(0);
                (told.remaining, told.debt) = (Some(stand.remaining), stand.debt);
            } else {
                let figures = Figures::of(&glance(standing, limit, now));
                (told.remaining, told.debt) = (figures.remaining, figures.debt);
            }
        });
        told
    }
}

/// Whether the cost of an item can be corrected: not of slots, nor of what a shadow denied.
fn is_corrected(item: &Item) -> bool {
    !item.slots && item.cost > 0
}

/// The hashes of the entries to which is given back.
fn hashes(items: &[Item], back: &[Back]) -> Vec<u64> {
    let hash = |back: &Back| items.iter().find(|item| item.id == back.id).map_or(0, |item| item.hash);
    back.iter().map(hash).collect()
}
