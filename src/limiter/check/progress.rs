//! What a check of several keys has decided so far, and the record of it.

use std::sync::MutexGuard;

use super::decide::{Aside, Ask, born};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limiter::answers::Decision;
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Entry, Table};
use crate::limiter::held::book::Item;
use crate::limiter::lookup::Served;
use crate::store::encode::encoded_len;
use crate::store::record::{Event, HeldItem, Spend};

/// The locked shards, in their order.
pub type Tables<'a> = Vec<(usize, MutexGuard<'a, Table>)>;

/// What one item is decided on.
pub enum Ground {
    /// The entry in the map, of which nothing is due.
    Entry,
    /// A draft, and the ends that its spend asked for.
    Draft(usize, Vec<Micros>),
    /// Nothing that is kept: a denial, or `unlimited`, of a key that has no entry.
    Nothing,
}

/// What is to go into the map.
pub struct Draft {
    pub hash: u64,
    pub entry: Box<Entry>,
    pub served: Served,
    /// Whether room was taken for it, and it is in the map only when it was put there.
    pub is_born: bool,
    /// Whether what is due is made also if nothing is spent.
    pub moves: bool,
    /// For a change: the ends that it asked for.
    pub ends: Vec<Micros>,
}

/// Items that have been decided so far.
#[derive(Default)]
pub struct Progress {
    pub results: Vec<Decision>,
    pub grounds: Vec<Ground>,
    pub drafts: Vec<Draft>,
    pub asides: Vec<Aside>,
    pub denied: Option<usize>,
    /// Slots that these items take, by the hash of the entry's key.
    slots: Vec<(u64, u64)>,
}

impl Progress {
    /// Notes the decision on the next item, which was made on an entry with this hash of its key.
    pub fn note(&mut self, decision: Decision, ground: Ground, hash: u64) {
        if !decision.allowed {
            self.denied = Some(self.results.len());
        }
        if decision.limit.slots().is_some() && decision.is_spent() {
            self.slots.push((hash, decision.cost));
        }
        self.results.push(decision);
        self.grounds.push(ground);
    }

    /// Slots of a key that the items so far take.
    pub fn taken(&self, hash: u64) -> u64 {
        self.slots.iter().filter(|(other, _)| *other == hash).map(|(_, slots)| slots).sum()
    }
}

/// The hash and key of what an item was decided on.
pub fn place<'a>(asks: &[Ask<'a>], grounds: &[Ground], drafts: &'a [Draft], index: usize) -> (u64, &'a str) {
    match &grounds[index] {
        Ground::Draft(draft, _) => (drafts[*draft].hash, &drafts[*draft].entry.key),
        Ground::Entry | Ground::Nothing => (asks[index].hash, asks[index].key),
    }
}

/// The record of all that is spent, and its length; `None` if nothing is.
pub fn record<'a>(
    tables: &mut Tables<'_>,
    asks: &[Ask<'_>],
    progress: &'a Progress,
    now: Micros,
) -> Result<(Option<Event<'a>>, usize)> {
    let spent =
        || progress.results.iter().zip(&progress.grounds).zip(asks).filter(|((result, _), _)| result.is_spent());
    if spent().all(|((_, ground), _)| matches!(ground, Ground::Entry | Ground::Nothing)) {
        let entries = spent().filter(|((_, ground), _)| matches!(ground, Ground::Entry));
        let items: Vec<(u64, u64)> = entries.map(|(_, ask)| Ok((id(tables, ask)?, ask.cost))).collect::<Result<_>>()?;
        return Ok((Some(items).filter(|items| !items.is_empty()).map(|items| Event::SpentAll { at: now, items }), 0));
    }
    let items = spends(tables, asks, progress)?.into_iter().flatten().collect();
    let event = Event::SpentMore { at: now, items };
    let bytes = encoded_len(&event);
    Ok((Some(event), bytes))
}

/// The record of a hold with this number that lasts until then, and its length.
pub fn record_hold<'a>(
    tables: &mut Tables<'_>,
    asks: &[Ask<'a>],
    progress: &'a Progress,
    now: Micros,
    (hold, until): (u64, Micros),
) -> Result<(Option<Event<'a>>, usize)> {
    let spends = spends(tables, asks, progress)?;
    let item = |((spend, result), ask): ((Option<Spend<'a>>, &Decision), &Ask<'a>)| {
        // Under `unlimited` there may be nothing to spend of.
        let cost = if result.is_spent() { result.cost } else { 0 };
        let nothing = || Spend { id: 0, cost, born: None, moves: Vec::new(), ends: Vec::new() };
        HeldItem { spend: spend.unwrap_or_else(nothing), slots: result.limit.slots().is_some(), key: ask.key }
    };
    let items = spends.into_iter().zip(&progress.results).zip(asks).map(item).collect();
    let event = Event::Held { hold, at: now, until, items };
    let bytes = encoded_len(&event);
    Ok((Some(event), bytes))
}

/// The items of a hold as the table has them.
pub fn held_items(asks: &[Ask<'_>], progress: &Progress, event: &Event<'_>) -> Vec<Item> {
    let items = match event {
        Event::Held { items, .. } => items,
        Event::Kept { event, .. } => return held_items(asks, progress, event),
        _ => return Vec::new(),
    };
    let item = |(index, item): (usize, &HeldItem<'_>)| {
        let (hash, _) = place(asks, &progress.grounds, &progress.drafts, index);
        Item { id: item.spend.id, hash, cost: item.spend.cost, slots: item.slots, key: item.key.into() }
    };
    items.iter().enumerate().map(item).collect()
}

fn id(tables: &mut Tables<'_>, ask: &Ask<'_>) -> Result<u64> {
    let entry = table(tables, ask.hash)?.get(ask.hash, ask.key);
    entry.map(|entry| entry.id()).ok_or_else(|| Error::not_configured(ask.key))
}

/// What is spent of each item, as records have it; `None` if nothing is, or of nothing.
pub fn spends<'a>(tables: &mut Tables<'_>, asks: &[Ask<'_>], progress: &'a Progress) -> Result<Vec<Option<Spend<'a>>>> {
    let mut begun = vec![false; progress.drafts.len()];
    let mut spends = Vec::with_capacity(asks.len());
    for ((result, ground), ask) in progress.results.iter().zip(&progress.grounds).zip(asks) {
        let cost = result.cost;
        spends.push(match ground {
            _ if !result.is_spent() => None,
            Ground::Nothing => None,
            Ground::Entry => {
                Some(Spend { id: id(tables, ask)?, cost, born: None, moves: Vec::new(), ends: Vec::new() })
            }
            Ground::Draft(index, ends) => {
                let Draft { entry, served, is_born, ends: before, .. } = &progress.drafts[*index];
                let first = !std::mem::replace(&mut begun[*index], true);
                let mut spend = match first && *is_born {
                    true => born(entry, served, cost),
                    false => Spend { id: entry.id(), cost, born: None, moves: Vec::new(), ends: Vec::new() },
                };
                if first && !is_born {
                    spend.moves = served.moves();
                    spend.ends.extend(before);
                }
                spend.ends.extend(ends);
                Some(spend)
            }
        });
    }
    Ok(spends)
}

/// The table of a hash.
pub fn table<'t>(tables: &'t mut Tables<'_>, hash: u64) -> Result<&'t mut Table> {
    let shard = shard_of(hash);
    let at = tables.partition_point(|(other, _)| *other < shard);
    let found = tables.get_mut(at).filter(|(other, _)| *other == shard);
    found.map(|(_, table)| &mut **table).ok_or_else(Core::unforeseen)
}
