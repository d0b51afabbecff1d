//! How what is known becomes records, and from when on these make no difference.

use std::sync::Arc;

use super::record::{HoldRecord, KeyRecord, PatternsRecord, Removed, encode_kept};
use super::state::Scratch;
use crate::bounds::REMEMBER_MS;
use crate::clock::{LAST_INSTANT, Micros};
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, Live as LiveEnds, Standing};
use crate::limiter::answers::Totals;
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Change, Entry, Source, Table};
use crate::limiter::held::book::{Pledge, Taken};
use crate::limiter::kept::shelf::Kept;
use crate::limiter::lookup::{Brought, changed, glance};
use crate::limiter::notes::name::Name;
use crate::store::record::HoldEntry;

/// A record that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub record: Vec<u8>,
    /// From when on the record makes no difference, so that it may vanish, in microseconds since the epoch; rounded up,
    /// without a margin. `None`: never.
    pub until: Option<Micros>,
}

impl Scratch {
    /// The record of a name as it is now; `None` if it is gone, so that what the store has is to be deleted.
    ///
    /// # Errors
    /// `internal` for a name that is not loaded.
    pub fn save(&mut self, name: &Name) -> Result<Option<Saved>> {
        if !self.is_loaded(name) {
            return Err(Error::new(Kind::Internal, format!("{name:?} is to be saved and is not loaded")));
        }
        let core = self.core();
        let now = core.clock.now();
        Ok(match name {
            Name::Key(key) => {
                let hash = core.hash(key);
                let open = {
                    let mut book = core.holds.lock();
                    book.tidy(now);
                    book.rows(hash)
                };
                let mut table = core.shard(hash);
                save_key(core, &mut table, (hash, key), open, self.removals, now)
            }
            Name::Patterns => {
                let totals = |id: u64, _: &Entry| self.totals.get(&id).copied().unwrap_or_default();
                let removed = (self.removals, &*self.removed);
                Some(Saved {
                    record: save_patterns(core, self.notes.last_pattern(), removed, totals, now),
                    until: None,
                })
            }
            Name::Hold(number) => {
                let mut book = core.holds.lock();
                book.tidy(now);
                let places = self.holds.get(number).map_or(&[][..], |places| places);
                let place = |index: usize| places.get(index).and_then(Option::as_deref).unwrap_or_default();
                book.get(*number).map(|pledge| save_hold(pledge, place, now))
            }
            Name::Answer(key) => core.answers.lock().of(key).map(|kept| save_answer(kept, now)),
        })
    }
}

/// The record of a key, its hash and text, with what open holds take of it; `None` if it is as if it had never been
/// there.
pub fn save_key(
    core: &Core,
    table: &mut Table,
    (hash, key): (u64, &str),
    open: Vec<Taken>,
    removals: u64,
    now: Micros,
) -> Option<Saved> {
    let version = core.version(now);
    let last_open = open.iter().map(|taken| taken.until).max();
    let (entry, counts) = table.get_with_counts(hash, key);
    let entry = entry.filter(|entry| !core.is_as_none(&mut (**entry).clone(), now, version));
    let Some(entry) = entry else {
        let record = KeyRecord { removals, entry: None, generation: 0, held_until: 0, open };
        return last_open.map(|last| Saved { record: record.encode(now), until: Some(last) });
    };
    let record = KeyRecord {
        removals,
        entry: Some(entry.to_record(&counts.shares)),
        generation: entry.generation(),
        held_until: entry.held_until(),
        open,
    };
    let until = vanishes(core, entry, now, version).map(|until| until.max(last_open.unwrap_or(0)));
    Some(Saved { record: record.encode(now), until })
}

/// The record of all patterns. `totals` says what is written of the totals of each.
pub fn save_patterns(
    core: &Core,
    last_id: u64,
    (removals, removed): (u64, &[Removed]),
    totals: impl Fn(u64, &Entry) -> [u64; 4],
    now: Micros,
) -> Vec<u8> {
    let texts: Vec<Arc<str>> = core.registry.known().rows().map(|row| Arc::clone(&row.pattern.text)).collect();
    let mut entries: Vec<Entry> = Vec::with_capacity(texts.len());
    for text in texts {
        let (hash, key) = core.place(&text);
        entries.extend(core.shards[shard_of(hash)].lock().get(hash, &key).map(|entry| entry.clone()));
    }
    entries.sort_by_key(Entry::id);
    let shares = Default::default();
    let pattern = |entry| {
        let mut record = Entry::to_record(entry, &shares);
        (record.totals, record.times) = (totals(record.id, entry), [None; 3]);
        record.shard = 0;
        record
    };
    let patterns = entries.iter().map(pattern).collect();
    PatternsRecord { last_id, removals, removed: removed.to_vec(), patterns }.encode(now)
}

/// The record of a hold. `place` says on which key an item was decided, nothing where that is its own.
pub fn save_hold<'p>(pledge: &Pledge, place: impl Fn(usize) -> &'p str, now: Micros) -> Saved {
    let hold: HoldEntry<'_> = pledge.to_record();
    let places = (0..hold.items.len()).map(place).collect();
    let until = pledge.end().saturating_add(REMEMBER_MS * 1000);
    Saved { record: HoldRecord { hold, places }.encode(now), until: Some(until) }
}

/// The record of an answer.
pub fn save_answer(kept: &Kept, now: Micros) -> Saved {
    let until = kept.at.saturating_add(REMEMBER_MS * 1000);
    Saved { record: encode_kept(&kept.to_record(), now), until: Some(until) }
}

/// From when on a key is the same as none if nothing happens to it; `None` for a key that an operator has configured.
fn vanishes(core: &Core, entry: &Entry, now: Micros, version: u32) -> Option<Micros> {
    if entry.source() == Source::Exact {
        return None;
    }
    let limit = Arc::clone(entry.in_force());
    // What is due is made as of an instant before: the entry itself must not be brought to now.
    let mut standing = entry.standing.clone();
    standing.advance(&limit, now);
    let mut until = forgets(&standing, &limit, now).max(entry.held_until());
    if let Some(overlay) = entry.overlay().cloned().filter(|overlay| overlay.until > now) {
        // What comes back counts what was spent by then.
        let mut later = entry.clone();
        let own = Arc::clone(&later.limit);
        let change = Change { at: overlay.until, source: later.source(), lifts: true, limit: Arc::clone(&own) };
        later.change(&change, &mut LiveEnds::default());
        until = until.max(overlay.until).max(forgets(&later.standing, &own, overlay.until));
    }
    if entry.overflow_text().is_none()
        && let Ok(served) = core.served(Some(entry), &entry.key, Brought::AsItStands, now, version)
    {
        let mut due = changed(entry, &served, &mut LiveEnds::default());
        let limit = Arc::clone(due.in_force());
        due.standing.advance(&limit, now);
        until = until.max(forgets(&due.standing, &limit, now));
        // The values of its pattern end by themselves.
        if let Some((end, below)) = served.ends.filter(|(end, _)| *end > now && *end < until) {
            due.standing.reconfigure(&limit, &below, end, &mut LiveEnds::default());
            until = until.max(forgets(&due.standing, &below, end));
        }
    }
    until = until.max(now);
    while until <= LAST_INSTANT {
        if core.is_as_none(&mut entry.clone(), until, version) {
            return Some(until);
        }
        // What rests of earlier values counts longer.
        until += (until - now).max(1_000_000);
    }
    None
}

/// When nothing of a standing counts any more, as far as its windows show.
fn forgets(standing: &Standing, limit: &Limit, now: Micros) -> Micros {
    let verdict = glance(standing, limit, now);
    verdict.windows.as_slice().iter().map(|quote| quote.reset_at).max().unwrap_or(now)
}

/// What patterns and their keys have counted, of all shards, by id.
pub fn pattern_totals(core: &Core) -> std::collections::HashMap<u64, Totals> {
    let mut totals: std::collections::HashMap<u64, Totals> = std::collections::HashMap::new();
    for shard in &core.shards {
        for share in shard.lock().counts.shares.iter() {
            totals.entry(share.pattern.id).or_default().add(share.totals);
        }
    }
    totals
}
