//! Which limit a key has, and which changes of it are due: the one place that decides it, for every operation.
//!
//! A key has the limit that is configured for exactly it; else that of the pattern that serves it; else the one that
//! the request brings; else none. Values that last for a time lie over all of these.
//!
//! What is due (the end of such values, the edit of a pattern, other values in a request) is found at each look. Only a
//! spend makes it, and says so in its record; any other look works on a copy and throws it away. So a replay, which
//! sees records only, comes to the same state.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::answers::Totals;
use super::core::{Core, shard_of};
use super::entry::{Change, Counts, Entry, Source, Swept, Table};
use super::registry::{OVERFLOW_MARK, Pattern, Row};
use crate::bounds::{MAX_OVERFLOWS, SHARDS};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, Live, Standing, Verdict};
use crate::store::record::{self, Event, MAX_FIXED};

/// Keys that are looked at, and swept if nothing counts for them, before a key is sent to an overflow limit.
const SWEPT_AT_THE_BOUND: usize = 64;

/// Shards besides its own in which that is done, at most.
const SHARDS_SWEPT_AT_THE_BOUND: usize = 16;

/// What a request says of the limit of its key.
#[derive(Debug, Clone, Copy)]
pub enum Brought<'a> {
    /// Nothing: where none is configured there is none.
    Nothing,
    /// These values, where none are configured.
    Values(&'a Limit),
    /// Nothing, and it is enough if the key has lived by a request.
    AsItStands,
}

impl<'a> From<Option<&'a Limit>> for Brought<'a> {
    fn from(limit: Option<&'a Limit>) -> Brought<'a> {
        limit.map_or(Brought::Nothing, Brought::Values)
    }
}

/// How a key is served at one instant.
#[derive(Debug, Clone)]
pub struct Served {
    /// Changes that are due, in the order in which they are to be made.
    pub changes: Vec<Change>,
    /// Where its values come from after them.
    pub source: Source,
    /// Its values after them. While there is an overlay, those that come back.
    pub limit: Arc<Limit>,
    /// The pattern that serves it, with its bound; of an overflow limit the pattern that it belongs to.
    pub pattern: Option<(Arc<Pattern>, u64)>,
    /// When the values of its pattern end, and what comes then.
    pub ends: Option<(Micros, Arc<Limit>)>,
    /// The version at which this was found.
    pub version: u32,
}

impl Served {
    fn by(row: &Row, version: u32) -> Served {
        Served {
            changes: Vec::new(),
            source: Source::Pattern(row.pattern.slot),
            limit: Arc::clone(row.in_force()),
            pattern: Some((Arc::clone(&row.pattern), row.max_keys)),
            ends: row.overlay.as_ref().map(|overlay| (overlay.until, Arc::clone(&row.limit))),
            version,
        }
    }

    /// The values under which a key is decided; `entry` is what the map has of it.
    pub fn in_force<'a>(&'a self, entry: Option<&'a Entry>) -> &'a Arc<Limit> {
        match entry.and_then(Entry::overlay) {
            Some(overlay) if !self.changes.iter().any(|change| change.lifts) => &overlay.limit,
            _ => &self.limit,
        }
    }

    /// As it is in records. The pattern of a source is always known to who serves a key.
    pub fn recorded(&self, source: Source) -> record::Source {
        match source {
            Source::Exact => record::Source::Exact,
            Source::Request => record::Source::Request,
            Source::Overflow => record::Source::Overflow,
            Source::Pattern(slot) => match &self.pattern {
                Some((pattern, _)) if pattern.slot == slot => record::Source::Pattern(pattern.id),
                // A step on the way from a pattern that was removed: the next change leads to another source.
                _ => record::Source::Request,
            },
        }
    }

    /// The changes as a record says them.
    pub fn moves(&self) -> Vec<record::Move> {
        let recorded = |change: &Change| record::Move {
            at: change.at,
            source: self.recorded(change.source),
            lifts: change.lifts,
            limit: Arc::clone(&change.limit),
        };
        self.changes.iter().map(recorded).collect()
    }
}

/// An overflow limit, by the key that found no room.
#[derive(Debug, Clone)]
pub struct Overflow {
    /// Its key in the map, and the hash.
    pub key: String,
    pub hash: u64,
    /// What it is to have.
    pub limit: Arc<Limit>,
    /// As of when, if it has other values.
    pub edited_at: Micros,
    pub served: Served,
}

/// Whether an entry is served by its own values, and nothing is due.
#[inline]
pub fn is_plain(entry: &Entry, version: u32, brought: Brought<'_>) -> bool {
    if entry.is_plain_exact() {
        return true;
    }
    if entry.version != version || entry.overlay().is_some() {
        return false;
    }
    match (entry.source(), brought) {
        (Source::Pattern(_), _) | (Source::Request, Brought::AsItStands) => true,
        (Source::Request, Brought::Values(limit)) => *entry.limit == *limit,
        _ => false,
    }
}

impl Core {
    /// The version of the patterns at `now`, which was read under a shard's lock.
    #[inline]
    pub fn version(&self, now: Micros) -> u32 {
        self.registry.version(now)
    }

    /// How `key` is served; `entry` is what the map has of it.
    ///
    /// # Errors
    /// `limit_not_configured`.
    pub fn served(
        &self,
        entry: Option<&Entry>,
        key: &str,
        brought: Brought<'_>,
        now: Micros,
        version: u32,
    ) -> Result<Served> {
        let Some(entry) = entry else { return self.served_unborn(key, brought, version) };
        let ended = entry.overlay().filter(|overlay| overlay.until <= now).map(|overlay| overlay.until);
        let covered = ended.is_none() && entry.overlay().is_some();
        let own = |changes| Served {
            changes,
            source: entry.source(),
            limit: Arc::clone(&entry.limit),
            pattern: None,
            ends: None,
            version,
        };
        let lift = |at, source, limit: &Arc<Limit>| Change { at, source, lifts: true, limit: Arc::clone(limit) };
        let lift_own = || ended.map(|until| lift(until, entry.source(), &entry.limit));
        if entry.source() == Source::Exact {
            return Ok(own(lift_own().into_iter().collect()));
        }
        let known = self.registry.known();
        if let Some(row) = known.find(key) {
            let mut served = Served::by(row, version);
            let same = entry.source() == served.source && entry.limit == served.limit;
            // A pattern that was removed a moment ago: its keys go to others as of then.
            let left_at = match entry.source() {
                Source::Pattern(slot) if served.source != entry.source() => known.row(slot),
                _ => None,
            };
            let left_at = left_at.and_then(|row| row.removed_at).unwrap_or(0);
            let at = row.edited_at.max(left_at);
            served.changes = match ended {
                Some(until) if same || at <= until => vec![lift(until, served.source, &served.limit)],
                Some(until) => vec![
                    lift(until, entry.source(), &entry.limit),
                    Change { at, source: served.source, lifts: false, limit: Arc::clone(&served.limit) },
                ],
                None if same => Vec::new(),
                None => {
                    let at = at.max(entry.last_change());
                    vec![Change { at, source: served.source, lifts: false, limit: Arc::clone(&served.limit) }]
                }
            };
            return Ok(served);
        }
        drop(known);
        if covered {
            return Ok(own(Vec::new()));
        }
        let mut changes: Vec<Change> = lift_own().into_iter().collect();
        match brought {
            Brought::AsItStands => Ok(own(changes)),
            Brought::Nothing => Err(Error::not_configured(key)),
            Brought::Values(limit) => {
                if entry.source() != Source::Request || *entry.limit != *limit {
                    let limit = self.registry.intern(limit);
                    changes.push(Change { at: now, source: Source::Request, lifts: false, limit });
                }
                let limit = Arc::clone(changes.last().map_or(&entry.limit, |change| &change.limit));
                Ok(Served { limit, source: Source::Request, ..own(changes) })
            }
        }
    }

    fn served_unborn(&self, key: &str, brought: Brought<'_>, version: u32) -> Result<Served> {
        if let Some(row) = self.registry.known().find(key) {
            return Ok(Served::by(row, version));
        }
        match brought {
            Brought::Values(limit) => Ok(Served {
                changes: Vec::new(),
                source: Source::Request,
                limit: self.registry.intern(limit),
                pattern: None,
                ends: None,
                version,
            }),
            Brought::Nothing | Brought::AsItStands => Err(Error::not_configured(key)),
        }
    }

    /// The overflow limit of the pattern that serves `key`, or of the values that are brought. `None` where neither is
    /// there any more.
    pub fn overflow(&self, key: &str, brought: Brought<'_>, version: u32) -> Option<Overflow> {
        let (text, served, edited_at) = match (self.registry.known().find(key), brought) {
            (Some(row), _) => (row.pattern.text.to_string(), Served::by(row, version), row.edited_at),
            (None, Brought::Values(limit)) => {
                let served = self.served_unborn(key, brought, version).ok()?;
                (limit.to_string(), served, 0)
            }
            (None, _) => return None,
        };
        let key = format!("{OVERFLOW_MARK}{text}");
        let served = Served { source: Source::Overflow, ..served };
        Some(Overflow { hash: self.hash(&key), key, limit: Arc::clone(&served.limit), edited_at, served })
    }

    /// As [`Core::served`], of an overflow limit.
    pub fn served_overflow(&self, entry: Option<&Entry>, overflow: &Overflow) -> Served {
        let mut served = overflow.served.clone();
        if let Some(entry) = entry.filter(|entry| entry.limit != overflow.limit) {
            let at = overflow.edited_at.max(entry.last_change());
            let limit = Arc::clone(&overflow.limit);
            served.changes = vec![Change { at, source: Source::Overflow, lifts: false, limit }];
        }
        served
    }

    /// How an entry is served that is there, overflow limits too, if something is due for it.
    pub fn due(&self, entry: &Entry, now: Micros, version: u32) -> Option<Served> {
        let served = match entry.overflow_text() {
            None => self.served(Some(entry), &entry.key, Brought::AsItStands, now, version).ok()?,
            Some(text) => {
                let row = self.registry.known().get(text).cloned()?;
                let served = Served { source: Source::Overflow, ..Served::by(&row, version) };
                let (limit, edited_at) = (Arc::clone(&served.limit), row.edited_at);
                let hash = 0;
                self.served_overflow(Some(entry), &Overflow { key: String::new(), hash, limit, edited_at, served })
            }
        };
        (!served.changes.is_empty()).then_some(served)
    }

    /// The same, where nothing is due.
    pub fn undue(&self, entry: &Entry, version: u32) -> Served {
        let (source, limit) = (entry.source(), Arc::clone(&entry.limit));
        Served { changes: Vec::new(), source, limit, pattern: None, ends: None, version }
    }

    /// Takes room for a key that is to be born, after a sweep if there is none. Whether there was some.
    pub fn take_room(&self, table: &mut Table, served: &Served, now: Micros) -> Result<bool> {
        let take = || match (&served.pattern, served.source) {
            (_, Source::Exact) => true,
            (None, Source::Overflow) => take(&self.registry.overflows, MAX_OVERFLOWS),
            (Some(_), Source::Overflow) => true,
            (Some((pattern, most)), _) => take(&pattern.live, *most),
            (None, _) => take(&self.registry.requested, self.registry.max_requested),
        };
        if take() {
            return Ok(true);
        }
        if served.source == Source::Overflow {
            return Err(Error::new(
                Kind::Overloaded,
                format!(
                    "too many keys live by limits that requests bring, with more than {MAX_OVERFLOWS} different values; \
                     configure a pattern for them or raise --max-keys"
                ),
            ));
        }
        self.sweep_for_room(table, now);
        Ok(take())
    }

    /// Sweeps a bounded number of keys: of the table, whose lock is held, and where that is small of others that are
    /// free.
    fn sweep_for_room(&self, table: &mut Table, now: Micros) {
        let mut left = SWEPT_AT_THE_BOUND;
        left -= table.len().min(left);
        self.sweep(table, SWEPT_AT_THE_BOUND, now);
        for _ in 0..SHARDS_SWEPT_AT_THE_BOUND {
            if left == 0 {
                return;
            }
            let next = self.registry.next_swept.fetch_add(1, Ordering::Relaxed) as usize % SHARDS;
            // Without waiting, as another shard's lock may be held already.
            let Ok(mut other) = self.shards[next].0.try_lock() else { continue };
            let most = left;
            left -= other.len().min(left);
            self.sweep(&mut other, most, now);
        }
    }

    /// Whether a key that is to be born may find no room, `more` others before it.
    pub fn may_be_full(&self, served: &Served, more: u64) -> bool {
        match &served.pattern {
            Some((pattern, most)) => pattern.live.load(Ordering::Relaxed) + more >= *most,
            None => self.registry.requested.load(Ordering::Relaxed) + more >= self.registry.max_requested,
        }
    }

    /// Gives back what [`Core::take_room`] took, or what a key had that is gone.
    pub fn give_room(&self, source: Source, pattern: Option<&Pattern>, of_pattern: bool) {
        let count = match (source, pattern) {
            (Source::Exact, _) => return,
            (Source::Overflow, _) if of_pattern => return,
            (Source::Overflow, _) => &self.registry.overflows,
            (Source::Request, _) => &self.registry.requested,
            (Source::Pattern(_), Some(pattern)) => &pattern.live,
            (Source::Pattern(_), None) => return,
        };
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// Counts a key out of what it lived by.
    pub fn leave(&self, entry: &Entry, counts: &Counts) {
        let share = entry.share_slot().and_then(|slot| counts.shares.get(slot));
        self.give_room(entry.source(), share.map(|share| &*share.pattern), entry.share_slot().is_some());
    }

    /// Counts a key in, whatever the bound: one that comes from elsewhere is never sent away.
    pub fn join(&self, source: Source, pattern: Option<&Arc<Pattern>>, counts: &mut Counts) {
        match (source, pattern) {
            (Source::Request, _) => {
                self.note_live();
                self.registry.requested.fetch_add(1, Ordering::Relaxed);
            }
            (Source::Pattern(_), Some(pattern)) => {
                self.note_live();
                counts.shares.of(pattern);
                pattern.live.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Looks at how a key stands at `now`, without a spend: at what it has counted under the values that serve it.
    pub fn look<T>(
        &self,
        entry: Option<&mut Entry>,
        served: &Served,
        now: Micros,
        look: impl FnOnce(&Standing, &Arc<Limit>) -> T,
    ) -> T {
        let mut copy;
        let entry = match entry {
            None => return look(&Standing::new(&served.limit), &served.limit),
            Some(entry) if served.changes.is_empty() => entry,
            Some(entry) => {
                copy = changed(entry, served, &mut Live::default());
                &mut copy
            }
        };
        let limit = Arc::clone(entry.in_force());
        entry.standing.advance(&limit, now);
        look(&entry.standing, &limit)
    }

    /// Looks at some entries of a shard, and takes out the keys by pattern or request that are untouched, and overflow
    /// limits. The next call goes on where this one ends.
    pub fn sweep(&self, table: &mut Table, most: usize, now: Micros) -> Swept {
        let version = self.version(now);
        table.sweep(
            most,
            |key| self.hash(key),
            |entry, counts| {
                let gone = self.is_gone(entry, now, version);
                if gone {
                    self.leave(entry, counts);
                }
                gone
            },
        )
    }

    /// Takes an entry out of which something is due, if it is the same as none: what is to happen to the key then
    /// happens to a new one, as it would after a sweep.
    pub fn forget_if_none(&self, table: &mut Table, hash: u64, key: &str, now: Micros, version: u32) {
        let (Some(entry), counts) = table.get_with_counts(hash, key) else { return };
        if self.is_as_none(entry, now, version) {
            self.settle_denials(entry);
            self.leave(entry, counts);
            table.remove(hash, key, |key| self.hash(key));
        }
    }

    /// Queues the denials of a key that are missing in the log, before it changes: they count for what it lives by
    /// until then. Where there is no room at once, they count for nothing or for what it lives by next.
    pub fn settle_denials(&self, entry: &Entry) {
        if !entry.has_pending_denials() {
            return;
        }
        let Ok(log) = self.log() else { return };
        if let Ok(Some(mut reservation)) = log.reserve_now(1, MAX_FIXED) {
            let Totals { denied: total, denied_cost: cost, .. } = entry.totals();
            let [_, last, _] = entry.times();
            log.append(&mut reservation, &Event::Denied { id: entry.id(), total, cost, last }, None);
        }
    }

    /// Whether an entry is the same as none: not configured, and nothing that was spent still counts.
    pub fn is_gone(&self, entry: &mut Entry, now: Micros, version: u32) -> bool {
        !entry.has_pending_denials() && self.is_as_none(entry, now, version)
    }

    /// The same, also while denials are missing in the log.
    fn is_as_none(&self, entry: &mut Entry, now: Micros, version: u32) -> bool {
        if entry.source() == Source::Exact {
            return false;
        }
        if !self.is_untouched(entry, now, version) {
            return false;
        }
        // What is due may be due no more at a later look: a pattern can get its old values back. So a key whose due
        // changes leave nothing of what it has counted is still there as long as something counts without them.
        if is_plain(entry, version, Brought::AsItStands) {
            return true;
        }
        let mut own = entry.clone();
        if let Some(until) = own.overlay().map(|overlay| overlay.until) {
            let (source, limit) = (own.source(), Arc::clone(&own.limit));
            own.change(&Change { at: until, source, lifts: true, limit }, &mut Live::default());
        }
        own.standing.advance(&own.limit, now);
        own.standing.is_untouched(&own.limit, now)
    }

    /// Whether nothing that was spent of a key still counts, no hold of it is open, and nothing lies over its values.
    pub fn is_untouched(&self, entry: &mut Entry, now: Micros, version: u32) -> bool {
        if entry.overlay().is_some_and(|overlay| overlay.until > now) || entry.held_until() > now {
            return false;
        }
        if entry.overflow_text().is_none() && !is_plain(entry, version, Brought::AsItStands) {
            // What is due may make an untouched key of one that is not, or the other way round.
            let Ok(served) = self.served(Some(entry), &entry.key, Brought::AsItStands, now, version) else {
                return false;
            };
            if !served.changes.is_empty() {
                return self.look(Some(entry), &served, now, |standing, limit| standing.is_untouched(limit, now));
            }
            entry.version = version;
        }
        if let Some(text) = entry.overflow_text() {
            // One whose pattern was edited is due for its new values.
            let edited = self.registry.known().get(text).map(|row| (Arc::clone(row.in_force()), row.edited_at));
            if let Some((limit, edited_at)) = edited.filter(|(limit, _)| *limit != entry.limit) {
                let mut standing = entry.standing.clone();
                let at = edited_at.max(entry.last_change());
                standing.reconfigure(&entry.limit, &limit, at, &mut Live::default());
                standing.advance(&limit, now);
                return standing.is_untouched(&limit, now);
            }
        }
        let limit = Arc::clone(&entry.limit);
        entry.standing.advance(&limit, now);
        entry.standing.is_untouched(&limit, now)
    }

    /// The shard of a hash, and its lock.
    pub fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, Table> {
        self.shards[shard_of(hash)].lock()
    }
}

/// A copy of the entry after the changes that are due. The ends of calendar windows are asked from `ends`.
pub fn changed(entry: &Entry, served: &Served, ends: &mut Live) -> Entry {
    let mut entry = entry.clone();
    for change in &served.changes {
        entry.change(change, ends);
    }
    entry.version = served.version;
    entry
}

/// How a standing is reported.
pub fn glance(standing: &Standing, limit: &Limit, now: Micros) -> Verdict {
    standing.glance(limit, now, &mut Live::default())
}

fn take(count: &std::sync::atomic::AtomicU64, most: u64) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1)).is_ok()
}
