//! One key in memory.
//!
//! Owns: the layout (a million keys must fit in 200 MiB), what each event does to a key, live and in a replay alike,
//! and the translation to and from what a snapshot says.
//!
//! A key is served by the values in its entry, or by those of its overlay while it has one; [`Entry::in_force`] says
//! which. What is due by time or by an edit of patterns is found by `lookup`, never here.
//!
//! Patterns and overflow limits have entries too, under keys that no request can have; a pattern's own `standing` is
//! never used.

use std::sync::Arc;

use super::tag::Tag;
use super::text::Text;
use crate::clock::Micros;
use crate::limit::{Algorithm, Ends, Limit, Standing, Window};
use crate::limiter::answers::Totals;
use crate::limiter::registry::{OVERFLOW_MARK, PATTERN_MARK};
use crate::store::record::{self, Overlay};

const NO_SLOT: u32 = u32::MAX;

/// Where the limit of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was configured for exactly this key. Patterns themselves have this source too.
    Exact,
    /// A check brought it, or nothing is left of it but an overlay.
    Request,
    /// It is shared by the keys that found no room under `max_keys`.
    Overflow,
    /// From the pattern with this slot in the registry.
    Pattern(u32),
}

/// New values of a key.
#[derive(Debug, Clone)]
pub struct Change {
    /// As of when.
    pub at: Micros,
    pub source: Source,
    /// Whether the overlay is lifted. Without that the values of a key with an overlay change below it.
    pub lifts: bool,
    pub limit: Arc<Limit>,
}

/// A key with its limit, what it has counted, and its counters.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Text,
    pub(super) tag: Tag,
    /// Its values. While there is an overlay, those that come back.
    pub limit: Arc<Limit>,
    /// What was counted under the values in force.
    pub standing: Standing,
    more: Option<Box<More>>,
    pub(super) allowed: u64,
    pub(super) allowed_cost: u64,
    /// 0 for never, else the instant plus 1.
    last_allowed: u64,
    slot: u32,
    /// The registry's version at which it was looked up which pattern serves the key; 0 for never.
    pub version: u32,
}

/// What most keys do not have. Instants are 0 for never, else the instant plus 1.
#[derive(Debug, Clone, Default)]
pub(super) struct More {
    pub(super) denied: u64,
    pub(super) denied_cost: u64,
    last_denied: u64,
    last_reset: u64,
    overlay: Option<Overlay>,
    /// For a pattern: since when its keys are to have the values in force.
    configured: u64,
    /// The bound of a pattern, if it was given.
    max_keys: Option<u64>,
    /// When its last hold that was not settled expires. It follows from the table of holds.
    held_until: Micros,
    /// What was held until then is not given back: all was forgiven then, or began to count in another way.
    barrier: u64,
}

impl Entry {
    /// A key of which nothing was spent.
    pub fn new(key: &str, id: u64, shard: u8, source: Source, limit: Arc<Limit>) -> Entry {
        let mut entry = Entry {
            key: key.into(),
            tag: Tag::new(id, shard),
            standing: Standing::new(&limit),
            limit,
            more: None,
            allowed: 0,
            allowed_cost: 0,
            last_allowed: 0,
            slot: NO_SLOT,
            version: 0,
        };
        entry.set_source(source);
        entry
    }

    /// Id in the log.
    pub fn id(&self) -> u64 {
        self.tag.id()
    }

    /// The shard that the log knows the key by.
    pub fn shard(&self) -> u8 {
        self.tag.shard()
    }

    /// Gives it a new id and shard. The rest stays.
    pub fn renumber(&mut self, id: u64, shard: u8) {
        self.tag.renumber(id, shard);
    }

    /// Where its values come from.
    pub fn source(&self) -> Source {
        match self.tag.kind() {
            0 => Source::Exact,
            1 => Source::Request,
            2 => Source::Overflow,
            _ => Source::Pattern(self.slot),
        }
    }

    /// Notes where it has its values from. Nothing is recorded.
    pub fn set_source(&mut self, source: Source) {
        let (kind, slot) = match source {
            Source::Exact => (0, NO_SLOT),
            Source::Request => (1, NO_SLOT),
            Source::Overflow => (2, NO_SLOT),
            Source::Pattern(slot) => (3, slot),
        };
        self.tag.set_kind(kind);
        self.slot = slot;
    }

    /// Notes that this overflow limit is that of the pattern with this slot.
    pub fn set_overflow_of(&mut self, slot: u32) {
        self.slot = slot;
    }

    /// The pattern that all that happens to it counts for too.
    pub fn share_slot(&self) -> Option<u32> {
        Some(self.slot).filter(|slot| *slot != NO_SLOT)
    }

    /// Whether it was configured for exactly its key, and nothing lies over that.
    #[inline]
    pub fn is_plain_exact(&self) -> bool {
        self.tag.is_plain()
    }

    /// What follows a mark, if it begins with that. The byte settles it for nearly all.
    #[inline]
    fn after_mark(&self, mark: char) -> Option<&str> {
        (self.key.as_bytes().first() == Some(&(mark as u8))).then(|| self.key.strip_prefix(mark))?
    }

    /// Whether it stands for a pattern; the text of which follows the mark.
    pub fn pattern_text(&self) -> Option<&str> {
        self.after_mark(PATTERN_MARK)
    }

    /// Whether it is an overflow limit; the pattern's text or the values follow the mark.
    pub fn overflow_text(&self) -> Option<&str> {
        self.after_mark(OVERFLOW_MARK)
    }

    /// Whether it is an operator's: configured for the key, as a pattern, or for a time that lasts.
    pub fn is_configured(&self, now: Micros) -> bool {
        self.source() == Source::Exact || self.overlay().is_some_and(|overlay| overlay.until > now)
    }

    /// What lies over its values.
    pub fn overlay(&self) -> Option<&Overlay> {
        if !self.tag.is_overlaid() {
            return None;
        }
        self.more.as_ref()?.overlay.as_ref()
    }

    /// The values under which it counts.
    pub fn in_force(&self) -> &Arc<Limit> {
        self.overlay().map_or(&self.limit, |overlay| &overlay.limit)
    }

    /// For a pattern: since when its keys are to have the values in force, as far as they were configured.
    pub fn configured(&self) -> Option<Micros> {
        self.more.as_ref()?.configured.checked_sub(1)
    }

    /// For a pattern: the maximum number of live keys, if it was given.
    pub fn max_keys(&self) -> Option<u64> {
        self.more.as_ref()?.max_keys
    }

    /// Sets whether denials are missing in the log. Returns what it was before.
    pub fn set_pending_denials(&mut self, pending: bool) -> bool {
        let before = self.has_pending_denials();
        self.tag.set_pending_denials(pending);
        before
    }

    /// Whether denials are missing in the log.
    pub fn has_pending_denials(&self) -> bool {
        self.tag.has_pending_denials()
    }

    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// What has happened to it.
    pub fn totals(&self) -> Totals {
        let (denied, denied_cost) = self.more.as_ref().map_or((0, 0), |more| (more.denied, more.denied_cost));
        Totals { allowed: self.allowed, denied, allowed_cost: self.allowed_cost, denied_cost }
    }

    /// When it was last allowed, denied and reset.
    pub fn times(&self) -> [Option<Micros>; 3] {
        let (denied, reset) = self.more.as_ref().map_or((0, 0), |more| (more.last_denied, more.last_reset));
        [self.last_allowed, denied, reset].map(|time| time.checked_sub(1))
    }

    /// The last instant at which something happened to it that a replay would find in its own record.
    pub fn last_change(&self) -> Micros {
        let [allowed, _, reset] = self.times();
        allowed.max(reset).unwrap_or(0)
    }

    /// Counts an allowed check, and spends its cost. A pattern's own entry only counts: checks of keys that need none.
    /// A cost of 0 is not a check: it is in a record that only creates a key.
    pub fn spend(&mut self, now: Micros, cost: u64, ends: &mut dyn Ends) {
        if cost == 0 {
            return;
        }
        if self.pattern_text().is_some() {
            return self.count_allowed(now, cost);
        }
        if self.tag.is_overlaid() {
            let limit = Arc::clone(self.in_force());
            self.standing.advance(&limit, now);
            self.forget_if_untouched(&limit, now);
            self.standing.spend(&limit, now, cost, ends);
        } else {
            // As above, without counting those that hold the values: most of a replay is this.
            self.standing.advance(&self.limit, now);
            if self.would_forget(&self.limit, now) {
                self.forget(now);
            }
            self.standing.spend(&self.limit, now, cost, ends);
        }
        self.count_allowed(now, cost);
    }

    /// Keys that come and go have the totals of a new key when nothing that was spent counts any more: whether they
    /// were swept meanwhile makes no difference. To be called before a spend, with the standing advanced to `now`.
    pub fn forget_if_untouched(&mut self, limit: &Limit, now: Micros) {
        if self.would_forget(limit, now) {
            self.forget(now);
        }
    }

    fn forget(&mut self, now: Micros) {
        #[cfg(feature = "store")]
        self.tag.begin_generation();
        (self.allowed, self.allowed_cost, self.last_allowed) = (0, 0, 0);
        if let Some(more) = &mut self.more {
            (more.denied, more.denied_cost, more.last_denied, more.last_reset) = (0, 0, 0, 0);
            if more.barrier > now {
                // What is held from now on is given back, also in the instant of a reset. What was held before is not.
                more.barrier = now;
            }
        }
    }

    /// Whether [`Entry::forget_if_untouched`] would forget something.
    pub fn would_forget(&self, limit: &Limit, now: Micros) -> bool {
        let has_any = self.allowed > 0 || self.more.is_some();
        self.source() != Source::Exact && has_any && self.standing.is_untouched(limit, now) && self.held_until() <= now
    }

    /// When its last hold that was not settled expires: until then it is not untouched.
    pub fn held_until(&self) -> Micros {
        self.more.as_ref().map_or(0, |more| more.held_until)
    }

    /// Notes when its last hold expires.
    pub fn set_held_until(&mut self, until: Micros) {
        if self.held_until() != until {
            self.more().held_until = until;
        }
    }

    /// Counts an allowed check whose cost was spent.
    pub fn count_allowed(&mut self, now: Micros, cost: u64) {
        self.allowed = self.allowed.saturating_add(1);
        self.allowed_cost = self.allowed_cost.saturating_add(cost);
        self.last_allowed = now + 1;
    }

    /// Counts a denied check.
    pub fn count_denied(&mut self, now: Micros, cost: u64) {
        let more = self.more();
        more.denied = more.denied.saturating_add(1);
        more.denied_cost = more.denied_cost.saturating_add(cost);
        more.last_denied = now + 1;
    }

    /// Takes over denials as the log has them. Returns how many checks and units are new.
    pub fn set_denied(&mut self, total: u64, cost: u64, last: Option<Micros>) -> (u64, u64) {
        let more = self.more();
        let new = (total.saturating_sub(more.denied), cost.saturating_sub(more.denied_cost));
        (more.denied, more.denied_cost) = (total, cost);
        more.last_denied = last.map_or(0, |last| last + 1);
        new
    }

    /// Gives back everything that was spent; the totals stay. An overlay that has ended is lifted.
    pub fn reset(&mut self, now: Micros) {
        if self.overlay().is_some_and(|overlay| overlay.until <= now) {
            self.lift();
        }
        self.standing = Standing::new(self.in_force());
        let more = self.more();
        (more.last_reset, more.barrier) = (now + 1, now + 1);
    }

    /// What was held until then is not given back.
    pub fn barrier(&self) -> Option<Micros> {
        self.more.as_ref()?.barrier.checked_sub(1)
    }

    /// Gives back units that were held at an instant, as far as they still count.
    pub fn give_back(&mut self, held_at: Micros, now: Micros, units: u64) {
        if self.barrier().is_some_and(|barrier| held_at <= barrier) {
            return;
        }
        let limit = Arc::clone(self.in_force());
        self.standing.advance(&limit, now);
        self.standing.give_back(&limit, held_at, now, units);
    }

    /// Gives back units, in each window no more than is used there.
    pub fn refund(&mut self, now: Micros, units: u64) {
        let limit = Arc::clone(self.in_force());
        self.standing.advance(&limit, now);
        self.standing.refund(&limit, now, units);
    }

    /// Takes new values into the standing. Where they count over other periods or by other algorithms, nothing of what
    /// was held before is given back. Buckets know that by themselves, and need no note of it; but they don't know what
    /// was held while nothing was spent in windows.
    fn count_anew(&mut self, old: &Limit, new: &Limit, at: Micros, ends: &mut dyn Ends) {
        self.standing.reconfigure(old, new, at, ends);
        let is_bucket = |window: &Window| window.algorithm() == Algorithm::TokenBucket;
        let knows = |limit: &Limit| !limit.windows().is_empty() && limit.windows().iter().all(is_bucket);
        let keeps = old.has_shape_of(new) || knows(old) && knows(new);
        if !keeps {
            let more = self.more();
            more.barrier = more.barrier.max(at + 1);
        }
    }

    fn lift(&mut self) {
        self.tag.set_overlaid(false);
        if let Some(more) = &mut self.more {
            more.overlay = None;
        }
    }

    /// The values until now, after a key that could have been swept by then has got the totals of a new one.
    fn begin_change(&mut self, at: Micros) -> Arc<Limit> {
        let old = Arc::clone(self.in_force());
        if self.source() != Source::Exact {
            self.standing.advance(&old, at);
            self.forget_if_untouched(&old, at);
        }
        old
    }

    /// Changes its values; what was spent stays spent.
    pub fn change(&mut self, change: &Change, ends: &mut dyn Ends) {
        if change.lifts || self.overlay().is_none() {
            let old = self.begin_change(change.at);
            self.count_anew(&old, &change.limit, change.at, ends);
            self.lift();
        }
        self.limit = Arc::clone(&change.limit);
        if self.source() != change.source {
            self.set_source(change.source);
        }
    }

    /// It has its values from elsewhere. An overlay that has ended is lifted by that, another one stays.
    pub fn become_of(&mut self, source: Source, limit: Arc<Limit>, at: Micros, ends: &mut dyn Ends) {
        let lifts = self.overlay().is_some_and(|overlay| overlay.until <= at);
        self.change(&Change { at, source, lifts, limit }, ends);
    }

    /// An operator configured other values.
    pub fn reconfigure(&mut self, limit: Arc<Limit>, max_keys: Option<u64>, at: Micros, ends: &mut dyn Ends) {
        if self.pattern_text().is_some() {
            let overlay = self.overlay().map(|overlay| overlay.until);
            let covered = overlay.is_some_and(|until| until > at);
            let same = self.limit == limit;
            if let Some(until) = overlay.filter(|_| !covered) {
                self.lift();
                let more = self.more();
                more.configured = more.configured.max(until + 1);
            }
            self.limit = limit;
            let more = self.more();
            more.max_keys = max_keys;
            if !covered && !same {
                more.configured = at + 1;
            }
            // Its form follows the values in force, though it counts nothing.
            self.standing = Standing::new(self.in_force());
            return;
        }
        self.become_of(Source::Exact, limit, at, ends);
    }

    /// An operator laid other values over its own, until an instant.
    pub fn lay_over(&mut self, limit: Arc<Limit>, until: Micros, at: Micros, ends: &mut dyn Ends) {
        if self.pattern_text().is_some() {
            self.more().configured = at + 1;
        } else {
            let old = self.begin_change(at);
            self.count_anew(&old, &limit, at, ends);
        }
        self.tag.set_overlaid(true);
        self.more().overlay = Some(Overlay { limit, until });
        if self.pattern_text().is_some() {
            self.standing = Standing::new(self.in_force());
        }
    }

    /// Notes of a new pattern when it was configured, and its bound.
    pub fn set_pattern(&mut self, at: Micros, max_keys: Option<u64>) {
        let more = self.more();
        (more.configured, more.max_keys) = (at + 1, max_keys);
    }

    /// The key from its record in a snapshot. `source` is that of the record, by slot; `limit` and `overlay` are those
    /// of the record, as the one copy that is kept of equal values.
    pub fn from_record(
        record: &record::Entry<'_>,
        source: Source,
        limit: Arc<Limit>,
        overlay: Option<Overlay>,
    ) -> Entry {
        let [allowed, denied, allowed_cost, denied_cost] = record.totals;
        let [last_allowed, last_denied, last_reset] =
            record.times.map(|time| time.map_or(0, |time| time.saturating_add(1)));
        let mut entry = Entry::new(record.key, record.id, record.shard, source, limit);
        (entry.allowed, entry.allowed_cost, entry.last_allowed) = (allowed, allowed_cost, last_allowed);
        let configured = record.configured.map_or(0, |at| at.saturating_add(1));
        let barrier = record.barrier.map_or(0, |at| at.saturating_add(1));
        let any = denied | denied_cost | last_denied | last_reset | configured | barrier != 0;
        if any || overlay.is_some() || record.max_keys.is_some() {
            entry.tag.set_overlaid(overlay.is_some());
            let max_keys = record.max_keys;
            let more = More {
                denied,
                denied_cost,
                last_denied,
                last_reset,
                overlay,
                configured,
                max_keys,
                barrier,
                held_until: 0,
            };
            entry.more = Some(Box::new(more));
        }
        entry.standing = Standing::restore(entry.in_force(), &record.parts);
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Live;
    use crate::limiter::entry::shares::Shares;

    /// A million of them, each with its key and its place in a table, must fit in 200 MiB.
    #[test]
    fn an_entry_is_no_larger_than_it_says() {
        assert!(size_of::<Entry>() <= 120, "{}", size_of::<Entry>());
    }

    const START: Micros = 1_800_000_000_000_000;

    fn limit(text: &str) -> Arc<Limit> {
        Arc::new(text.parse().unwrap())
    }

    fn entry(text: &str) -> Entry {
        Entry::new("k", 1, 0, Source::Exact, limit(text))
    }

    fn used(entry: &mut Entry, now: Micros) -> u64 {
        let limit = Arc::clone(entry.in_force());
        entry.standing.advance(&limit, now);
        entry.standing.glance(&limit, now, &mut Live::default()).windows.as_slice().iter().map(|quote| quote.used).sum()
    }

    /// What was held while nothing counted is missing in no window, and does not come back to one.
    #[test]
    fn what_was_held_under_other_kinds_of_limits_is_not_given_back() {
        for windows in ["1/1h burst=100", "100/1h fixed_window_counter", "100/1h sliding_window_log"] {
            for between in ["unlimited", "slots=4"] {
                let ends = &mut Live::default();
                let mut entry = entry(windows);
                entry.spend(START, 20, ends);
                entry.reconfigure(limit(between), None, START + 1, ends);
                entry.spend(START + 1, 30, ends);
                entry.give_back(START + 1, START + 1, 5);
                entry.refund(START + 1, 5);
                entry.reconfigure(limit(windows), None, START + 1, ends);
                entry.give_back(START, START + 2, 20);
                entry.give_back(START + 1, START + 2, 30);
                assert_eq!(used(&mut entry, START + 2), 20, "{windows} {between}");
                entry.spend(START + 3, 7, ends);
                entry.give_back(START + 3, START + 4, 7);
                assert_eq!(used(&mut entry, START + 4), 20, "{windows} {between}");
            }
        }
    }

    /// A change of periods or algorithms, for a time or permanently, and a reset: nothing of what was held before comes
    /// back, also to windows that rest.
    #[test]
    fn nothing_held_before_a_change_of_shape_is_given_back() {
        let shapes = [
            "90/1m",
            "90/1m fixed_window_counter",
            "90/1m sliding_window_log",
            "90/1m sliding_window_counter",
            "90/2m",
            "90/1m, 90/1h",
            "90/day",
            "90/day tz=Europe/Berlin",
            "90/month",
            "90/month anchor=15",
        ];
        for (from, to) in shapes.iter().flat_map(|from| shapes.iter().map(move |to| (*from, *to))) {
            for overlay in [false, true] {
                let ends = &mut Live::default();
                let mut entry = entry(from);
                entry.spend(START, 40, ends);
                if from == to {
                    entry.give_back(START, START + 1, 10);
                    assert!(used(&mut entry, START + 1) <= 30 * entry.limit.windows().len() as u64, "{from}");
                    entry.reset(START + 1);
                } else if overlay {
                    entry.lay_over(limit(to), START + 3_600_000_000, START + 1, ends);
                } else {
                    entry.reconfigure(limit(to), None, START + 1, ends);
                }
                let in_force = Arc::clone(entry.in_force());
                entry.standing.advance(&in_force, START + 2);
                let before = entry.standing.parts();
                entry.give_back(START, START + 2, 25);
                assert_eq!(entry.standing.parts(), before, "{from}, {to}, overlay {overlay}");
                // Nor after it was changed back.
                entry.reconfigure(limit(from), None, START + 3, ends);
                let before = used(&mut entry, START + 3);
                entry.give_back(START, START + 3, 25);
                assert_eq!(used(&mut entry, START + 3), before, "{from}, {to}, overlay {overlay}");
                // What is held from then on does.
                entry.spend(START + 4, 5, ends);
                let before = used(&mut entry, START + 4);
                entry.give_back(START + 4, START + 4, 5);
                assert!(used(&mut entry, START + 4) < before, "{from}, {to}, overlay {overlay}");
            }
        }
    }

    /// Another rate or burst leaves what was held what it was; and the barrier is in a snapshot.
    #[test]
    fn another_rate_is_no_barrier_and_a_snapshot_keeps_one() {
        for (from, to) in [
            ("90/1m", "60/1m burst=90"),
            ("90/1m fixed_window_counter", "60/1m fixed_window_counter"),
            ("90/1m sliding_window_log", "60/1m sliding_window_log"),
            ("90/1m sliding_window_counter", "60/1m sliding_window_counter"),
            ("90/day", "60/day shadow"),
        ] {
            let ends = &mut Live::default();
            let mut entry = entry(from);
            entry.spend(START, 40, ends);
            entry.reconfigure(limit(to), None, START, ends);
            assert_eq!(entry.barrier(), None, "{from}");
            entry.give_back(START, START, 25);
            assert_eq!(used(&mut entry, START), 15, "{from}");
            entry.reset(START + 5);
            let shares = Shares::default();
            let record = entry.to_record(&shares);
            let limit = Arc::clone(&record.limit);
            let again = Entry::from_record(&record, Source::Exact, limit, None);
            assert_eq!((again.barrier(), entry.barrier()), (Some(START + 5), Some(START + 5)));
        }
    }
}
