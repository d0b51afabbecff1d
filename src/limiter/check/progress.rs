//! What a check of several keys has decided so far, and the record of it.

use std::sync::MutexGuard;

use super::decide::{Aside, Ask, born};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limiter::answers::Decision;
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Entry, Table};
use crate::limiter::lookup::Served;
use crate::store::encode::encoded_len;
use crate::store::record::{Event, Spend};

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
    /// Of a change: the ends that it asked for.
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
}

impl Progress {
    /// Notes the decision on the next item.
    pub fn note(&mut self, decision: Decision, ground: Ground) {
        if !decision.allowed {
            self.denied = Some(self.results.len());
        }
        self.results.push(decision);
        self.grounds.push(ground);
    }
}

/// The hash and key of what an item was decided on.
pub fn place<'a>(asks: &[Ask<'a>], grounds: &[Ground], drafts: &'a [Draft], index: usize) -> (u64, &'a str) {
    match &grounds[index] {
        Ground::Draft(draft, _) => (drafts[*draft].hash, &drafts[*draft].entry.key),
        Ground::Entry | Ground::Nothing => (asks[index].hash, asks[index].key),
    }
}

/// The record of all that is spent, and its length; `None` where nothing is.
pub fn record<'a>(
    tables: &mut Tables<'_>,
    asks: &[Ask<'_>],
    progress: &'a Progress,
    now: Micros,
) -> Result<(Option<Event<'a>>, usize)> {
    let spent =
        || progress.results.iter().zip(&progress.grounds).zip(asks).filter(|((result, _), _)| result.is_spent());
    let id = |tables: &mut Tables<'_>, ask: &Ask<'_>| {
        let entry = table(tables, ask.hash)?.get(ask.hash, ask.key);
        entry.map(|entry| entry.id()).ok_or_else(|| Error::not_configured(ask.key))
    };
    if spent().all(|((_, ground), _)| matches!(ground, Ground::Entry | Ground::Nothing)) {
        let entries = spent().filter(|((_, ground), _)| matches!(ground, Ground::Entry));
        let items: Vec<(u64, u64)> = entries.map(|(_, ask)| Ok((id(tables, ask)?, ask.cost))).collect::<Result<_>>()?;
        return Ok((Some(items).filter(|items| !items.is_empty()).map(|items| Event::SpentAll { at: now, items }), 0));
    }
    let mut items = Vec::new();
    let mut begun = vec![false; progress.drafts.len()];
    for ((result, ground), ask) in spent() {
        match ground {
            Ground::Nothing => {}
            Ground::Entry => {
                let id = id(tables, ask)?;
                items.push(Spend { id, cost: result.cost, born: None, moves: Vec::new(), ends: Vec::new() });
            }
            Ground::Draft(index, ends) => {
                let Draft { entry, served, is_born, ends: before, .. } = &progress.drafts[*index];
                let first = !std::mem::replace(&mut begun[*index], true);
                let mut spend = match first && *is_born {
                    true => born(entry, served, result.cost),
                    false => {
                        Spend { id: entry.id(), cost: result.cost, born: None, moves: Vec::new(), ends: Vec::new() }
                    }
                };
                if first && !is_born {
                    spend.moves = served.moves();
                    spend.ends.extend(before);
                }
                spend.ends.extend(ends);
                items.push(spend);
            }
        }
    }
    let event = Event::SpentMore { at: now, items };
    let bytes = encoded_len(&event);
    Ok((Some(event), bytes))
}

/// The table of a hash.
pub fn table<'t>(tables: &'t mut Tables<'_>, hash: u64) -> Result<&'t mut Table> {
    let shard = shard_of(hash);
    let at = tables.partition_point(|(other, _)| *other < shard);
    let found = tables.get_mut(at).filter(|(other, _)| *other == shard);
    found.map(|(_, table)| &mut **table).ok_or_else(Core::unforeseen)
}
