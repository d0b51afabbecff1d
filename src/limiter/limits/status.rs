//! The state of keys and patterns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::bounds::MAX_LISTED_HOLDS;
use crate::clock::Micros;
use crate::error::Result;
use crate::limit::{Quotes, is_pattern, validate_key};
use crate::limiter::answers::{Figures, Lasting, OpenHold, Origin, SlotsInUse, Status, Totals};
use crate::limiter::check::slots::Usage;
use crate::limiter::core::{Core, Limiter, shard_of};
use crate::limiter::entry::{Entry, Source, Table};
use crate::limiter::held::book::Taken;
use crate::limiter::lookup::{Brought, Served, glance};
use crate::limiter::registry::{PATTERN_MARK, Row};

impl Limiter {
    /// The state of a key, or a pattern; `None` if no limit would serve the key. A key that a pattern serves has a
    /// status even if it was never checked.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.check("api:user-42", 5)?;
    /// let status = limiter.status("api:user-42")?.unwrap();
    /// assert_eq!((status.totals.allowed, status.totals.allowed_cost), (1, 5));
    /// assert!(status.last_denied_at.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a bad key.
    pub fn status(&self, key: &str) -> Result<Option<Status>> {
        validate_key(key)?;
        Ok(self.core.status_now(key))
    }
}

impl Core {
    /// The state of a key now, or the pattern with this text.
    pub fn status_now(&self, key: &str) -> Option<Status> {
        if is_pattern(key)
            && let Some(status) = self.status_of_pattern(key)
        {
            return Some(status);
        }
        self.status_by(key, Brought::AsItStands)
    }

    /// The state of a key now, to which a request may bring a limit.
    pub fn status_by(&self, key: &str, brought: Brought<'_>) -> Option<Status> {
        let hash = self.hash(key);
        let served = {
            let mut table = self.shards[shard_of(hash)].lock();
            let now = self.clock.now();
            let version = self.version(now);
            // What is untouched and not configured is the same as nothing.
            let entry = table.get(hash, key).and_then(|entry| {
                (entry.source() == Source::Exact || !self.is_untouched(entry, now, version)).then_some(entry)
            });
            let served = self.served(entry.as_deref(), key, brought, now, version).ok()?;
            if entry.is_some() || !self.may_be_full(&served, 0) {
                return Some(self.status_of(entry, key, &served, now));
            }
            served
        };
        Some(self.status_of_overflow(key, brought, served))
    }

    /// The status of a key for which there is no room: that of the limit that it shares, if it exists already.
    fn status_of_overflow(&self, key: &str, brought: Brought<'_>, mut served: Served) -> Status {
        let now = self.clock.now();
        let overflow = self.overflow(key, brought, self.version(now));
        if let Some(overflow) = overflow {
            let mut table = self.shard(overflow.hash);
            let entry = table.get(overflow.hash, &overflow.key);
            if let Some(entry) = entry {
                served = self.served_overflow(Some(entry), &overflow);
                let now = self.clock.now();
                let mut status = self.status_of(Some(entry), key, &served, now);
                status.overflow = true;
                return status;
            }
        }
        self.status_of(None, key, &served, now)
    }

    /// The state of a key that is served so.
    pub fn status_of(&self, mut entry: Option<&mut Entry>, key: &str, served: &Served, now: Micros) -> Status {
        let (verdict, details, limit) = self.look(entry.as_deref_mut(), served, now, |standing, limit| {
            (glance(standing, limit, now), standing.details(), Arc::clone(limit))
        });
        let mut figures = Figures::of(&verdict);
        let place = entry.as_deref().map_or(key, |entry| &*entry.key);
        let slots = limit.slots().map(|slots| self.slots_in_use(place, slots, now, &mut figures));
        let unlimited = limit.is_unlimited();
        let entry = entry.map(|entry| &*entry);
        let overlay = entry.and_then(Entry::overlay).filter(|overlay| overlay.until > now);
        let lasting = match (overlay, &served.ends) {
            (Some(overlay), _) => {
                let below = Some(&served.limit).filter(|_| served.source == Source::Exact);
                Some(Lasting::new(overlay.until, below, now))
            }
            (None, Some((until, below))) => Some(Lasting::new(*until, Some(below), now)),
            (None, None) => None,
        };
        let [last_allowed_at, last_denied_at, last_reset_at] = entry.map_or([None; 3], Entry::times);
        Status {
            key: key.to_owned(),
            details,
            source: match served.source {
                // An operator's values for a time are for exactly this key, whatever comes back.
                _ if overlay.is_some() => Origin::Exact,
                Source::Exact => Origin::Exact,
                Source::Pattern(_) => Origin::Pattern,
                Source::Overflow if served.pattern.is_some() => Origin::Pattern,
                Source::Request | Source::Overflow => Origin::Request,
            },
            pattern: served
                .pattern
                .as_ref()
                .filter(|_| overlay.is_none())
                .map(|(pattern, _)| Arc::clone(&pattern.text)),
            binding: verdict.binding,
            windows: verdict.windows,
            remaining: figures.remaining,
            used: figures.used,
            debt: figures.debt,
            reset_at: figures.reset_at,
            next: figures.next.filter(|_| !unlimited),
            lasting,
            overflow: false,
            slots,
            max_keys: None,
            live: None,
            totals: entry.map(Entry::totals).unwrap_or_default(),
            last_allowed_at,
            last_denied_at,
            last_reset_at,
            limit,
        }
    }

    /// Which slots of a key are held.
    fn slots_in_use(&self, key: &str, slots: u64, now: Micros, figures: &mut Figures) -> SlotsInUse {
        let hash = self.hash(key);
        let mut book = self.holds.lock();
        book.tidy(now);
        let stand = Usage { book: &book, hash, slots, now, taken: 0, until: now }.stand(0);
        (figures.remaining, figures.used, figures.debt) = (Some(stand.remaining), Some(stand.used), stand.debt);
        (figures.reset_at, figures.next) = (Some(stand.reset_at), stand.next.map(Duration::from_micros));
        let mut oldest: Vec<Taken> = book.rows(hash).into_iter().filter(|row| row.slots > 0).collect();
        let age = |row: &Taken| (row.at, row.number);
        if oldest.len() > MAX_LISTED_HOLDS {
            oldest.select_nth_unstable_by_key(MAX_LISTED_HOLDS, age);
            oldest.truncate(MAX_LISTED_HOLDS);
        }
        oldest.sort_unstable_by_key(age);
        let hold = |Taken { until, number, slots: cost, at }| {
            let id = self.holds.ids.write(number);
            OpenHold { id, cost, at, until }
        };
        SlotsInUse { slots, used: stand.used, now, holds: oldest.into_iter().map(hold).collect() }
    }

    /// The state of a pattern; `None` if there is none with this text.
    pub fn status_of_pattern(&self, text: &str) -> Option<Status> {
        let now = self.clock.now();
        // What has ended by now is lifted by the look at the version.
        self.version(now);
        let row: Row = self.registry.known().get(text).cloned()?;
        let key = format!("{PATTERN_MARK}{text}");
        let hash = self.hash(&key);
        let mut totals = self.shard(hash).get(hash, &key)?.totals();
        for shard in &self.shards {
            totals.add(shard.lock().share_of(row.pattern.slot));
        }
        let lasting = row.overlay.as_ref();
        Some(Status {
            key: text.to_owned(),
            limit: Arc::clone(row.in_force()),
            source: Origin::Exact,
            pattern: None,
            windows: Quotes::Many(Vec::new()),
            details: Vec::new(),
            binding: 0,
            remaining: None,
            used: None,
            debt: 0,
            reset_at: None,
            next: None,
            lasting: lasting.map(|overlay| Lasting::new(overlay.until, Some(&row.limit), now)),
            overflow: false,
            slots: None,
            max_keys: Some(row.max_keys),
            live: Some(row.pattern.live.load(Ordering::Relaxed)),
            totals,
            last_allowed_at: None,
            last_denied_at: None,
            last_reset_at: None,
        })
    }
}

impl Table {
    /// What the keys of a pattern in this shard have counted.
    fn share_of(&self, slot: u32) -> Totals {
        self.counts.shares.get(slot).map(|share| share.totals).unwrap_or_default()
    }
}
