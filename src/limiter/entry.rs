//! One limit in memory, and the table that holds those of a shard.
//!
//! Owns: the layout (a million entries must fit in 200 MiB) and the translation to and from what a snapshot says.

use hashbrown::HashTable;

use super::answers::{Status, Totals};
use crate::clock::Millis;
use crate::limit::{Limit, State};
use crate::store::record;

const ID_BITS: u32 = 48;
const PENDING_DENIALS: u64 = 1 << 63;

/// A limit with its state and counters. 136 bytes, with 8 of malloc's a multiple of 16.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Box<str>,
    /// Id in the log (48 bits), the shard that the log knows it by (8 bits), and a flag.
    id_and_flags: u64,
    pub limit: Limit,
    pub state: State,
    pub totals: Totals,
    /// Last allowed, last denied, last reset: 0 for never, else the instant plus 1.
    times: [u64; 3],
}

/// An entry with a fixed place in memory: the tables move only its address.
pub type Held = Box<Entry>;

impl Entry {
    /// A limit that nothing was spent of.
    pub fn new(key: &str, id: u64, shard: u8, limit: Limit, now: Millis) -> Entry {
        Entry {
            key: key.into(),
            id_and_flags: id | u64::from(shard) << ID_BITS,
            limit,
            state: State::new(&limit, now),
            totals: Totals::default(),
            times: [0; 3],
        }
    }

    /// Id in the log.
    pub fn id(&self) -> u64 {
        self.id_and_flags & ((1 << ID_BITS) - 1)
    }

    /// The shard that the log knows the limit by.
    pub fn shard(&self) -> u8 {
        (self.id_and_flags >> ID_BITS) as u8
    }

    /// Gives it a new id and shard. Pending denials stay pending.
    pub fn renumber(&mut self, id: u64, shard: u8) {
        self.id_and_flags = (self.id_and_flags & PENDING_DENIALS) | id | u64::from(shard) << ID_BITS;
    }

    /// Sets whether denials are missing in the log. Returns what it was before.
    pub fn set_pending_denials(&mut self, pending: bool) -> bool {
        let before = self.id_and_flags & PENDING_DENIALS != 0;
        self.id_and_flags = (self.id_and_flags & !PENDING_DENIALS) | if pending { PENDING_DENIALS } else { 0 };
        before
    }

    /// Counts an allowed check, whose cost is spent.
    pub fn allow(&mut self, now: Millis, cost: u64) {
        self.state.advance(&self.limit, now);
        self.state.spend(&self.limit, now, cost);
        self.totals.allowed = self.totals.allowed.saturating_add(1);
        self.totals.allowed_cost = self.totals.allowed_cost.saturating_add(cost);
        self.times[0] = now + 1;
    }

    /// Counts a denied check.
    pub fn deny(&mut self, now: Millis, cost: u64) {
        self.totals.denied = self.totals.denied.saturating_add(1);
        self.totals.denied_cost = self.totals.denied_cost.saturating_add(cost);
        self.times[1] = now + 1;
    }

    /// Takes over denials as the log has them.
    pub fn set_denied(&mut self, total: u64, cost: u64, last: Option<Millis>) {
        self.totals.denied = total;
        self.totals.denied_cost = cost;
        self.times[1] = last.map_or(0, |last| last + 1);
    }

    /// When a check was last denied.
    pub fn last_denied(&self) -> Option<Millis> {
        self.times[1].checked_sub(1)
    }

    /// Gives back all that was spent; the totals stay.
    pub fn reset(&mut self, now: Millis) {
        self.state = State::new(&self.limit, now);
        self.times[2] = now + 1;
    }

    /// Takes new values; what was spent stays spent.
    pub fn reconfigure(&mut self, limit: Limit, now: Millis) {
        let state = std::mem::replace(&mut self.state, State::new(&limit, now));
        self.state = state.reconfigured(&self.limit, &limit, now);
        self.limit = limit;
    }

    /// The status of the limit at `now`.
    pub fn status(&mut self, now: Millis) -> Status {
        self.status_of(self.key.to_string(), now)
    }

    /// As [`Entry::status`], with the caller's copy of the key.
    pub fn status_of(&mut self, key: String, now: Millis) -> Status {
        self.state.advance(&self.limit, now);
        let (remaining, reset_at) = self.state.glance(&self.limit, now);
        let [last_allowed_at, last_denied_at, last_reset_at] = self.times.map(|time| time.checked_sub(1));
        Status {
            key,
            limit: self.limit,
            remaining,
            reset_at,
            totals: self.totals,
            last_allowed_at,
            last_denied_at,
            last_reset_at,
        }
    }

    /// What a snapshot says of it.
    pub fn to_record(&self) -> record::Entry<'_> {
        let Totals { allowed, denied, allowed_cost, denied_cost } = self.totals;
        record::Entry {
            id: self.id(),
            shard: self.shard(),
            limit: self.limit,
            state: self.state.parts(),
            totals: [allowed, denied, allowed_cost, denied_cost],
            times: self.times.map(|time| time.checked_sub(1)),
            key: &self.key,
        }
    }

    /// The limit from its record in a snapshot.
    pub fn from_record(record: &record::Entry<'_>) -> Entry {
        let [allowed, denied, allowed_cost, denied_cost] = record.totals;
        let mut entry = Entry::new(record.key, record.id & ((1 << ID_BITS) - 1), record.shard, record.limit, 0);
        entry.state = State::restore(&record.limit, &record.state);
        entry.totals = Totals { allowed, denied, allowed_cost, denied_cost };
        entry.times = record.times.map(|time| time.map_or(0, |time| time.saturating_add(1)));
        entry
    }
}

/// The limits of one shard.
#[derive(Debug, Default)]
pub struct Table {
    entries: HashTable<Box<Entry>>,
    /// Checks allowed and denied since the start.
    pub decisions: (u64, u64),
    /// Hash and id of the limits with pending denials: those that are missing in the log.
    pub pending_denials: Vec<(u64, u64)>,
    /// Configurations that were queued for the log, and how many of them are known to be on disk: in this order, since
    /// records of a shard are queued under its lock.
    configured: (u64, u64),
}

impl Table {
    /// The limit of `key`, whose hash is `hash`.
    pub fn get(&mut self, hash: u64, key: &str) -> Option<&mut Entry> {
        self.entries.find_mut(hash, |entry| *entry.key == *key).map(|entry| &mut **entry)
    }

    /// The limit with `id`, whose key's hash is `hash`.
    pub fn get_id(&mut self, hash: u64, id: u64) -> Option<&mut Entry> {
        self.entries.find_mut(hash, |entry| entry.id() == id).map(|entry| &mut **entry)
    }

    /// Adds a limit whose key is not there yet.
    pub fn insert(&mut self, hash: u64, entry: Box<Entry>, rehash: impl Fn(&str) -> u64) {
        self.entries.insert_unique(hash, entry, |entry| rehash(&entry.key));
    }

    /// Takes a limit out.
    pub fn remove(&mut self, hash: u64, key: &str) -> bool {
        self.entries.find_entry(hash, |entry| *entry.key == *key).map(|found| found.remove()).is_ok()
    }

    /// All limits, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|entry| &mut **entry)
    }

    /// Their keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.key)
    }

    /// Counts a configuration that was queued for the log. Returns its number.
    pub fn count_configured(&mut self) -> u64 {
        self.configured.0 += 1;
        self.configured.0
    }

    /// The number of the last configuration, if it is not known to be on disk: under way, or not waited for any more.
    pub fn unconfirmed(&self) -> Option<u64> {
        (self.configured.0 > self.configured.1).then_some(self.configured.0)
    }

    /// Notes that the configuration of this number is on disk, and so all before it.
    pub fn confirm(&mut self, number: u64) {
        self.configured.1 = self.configured.1.max(number);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Makes room for `more`.
    pub fn reserve(&mut self, more: usize, rehash: impl Fn(&str) -> u64) {
        self.entries.reserve(more, |entry| rehash(&entry.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_no_larger_than_it_says() {
        assert_eq!(size_of::<Entry>(), 136);
    }
}
