//! Many limits at once, in the order of their keys or of what happened to them.
//!
//! Owns: how a listing of any length is made in bounded memory, and what is in it. The map has no order, so the keys
//! are gathered in batches: one pass over the shards finds the next ones in order, and each is then looked up again for
//! its status. A shard is locked for its part of a pass, and for one status.

use std::cmp::{Ordering, Reverse};
use std::convert::Infallible;
use std::sync::Arc;

use super::least::Least;
use super::parts::Parts;
use crate::bounds::{MAX_PAGE, SHARDS};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limiter::answers::{Status, Totals};
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::{Entry, Source};
use crate::limiter::lookup::Brought;
use crate::limiter::registry::{PATTERN_MARK, Pattern};

/// Most keys of a batch, of which half are sure to be in it. More keys take more memory (about 50 bytes each), fewer
/// keys take more passes.
const BATCH: usize = 96 * 1024;

/// Most bytes of text in the keys of a batch.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Shards whose keys are taken for a random part of all: by their hash they are.
const SAMPLED: usize = 4;

/// Which limits to list, in the order of their keys.
///
/// ```
/// # use flint::Page;
/// let page = Page::default().with_prefix("api:").with_after("api:user-42").with_limit(100);
/// # drop(page);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
#[must_use]
pub struct Page<'a> {
    /// Only keys that begin with this.
    pub prefix: &'a str,
    /// Only keys after this one.
    pub after: Option<&'a str>,
    /// At most this many (1 to [`MAX_PAGE`]); all by default. One more if the last two are a pattern and the key that
    /// is spelled like it: what is [`after`](Page::after) a key is after both.
    pub limit: Option<usize>,
    /// Whether to list, in addition to configured limits, the keys that live under a pattern or request.
    pub live: bool,
    /// Only the live keys of this pattern.
    pub pattern: Option<&'a str>,
}

impl<'a> Page<'a> {
    /// Only keys that begin with `prefix`.
    pub fn with_prefix(self, prefix: &'a str) -> Page<'a> {
        Page { prefix, ..self }
    }

    /// Only keys after this one.
    pub fn with_after(self, after: &'a str) -> Page<'a> {
        Page { after: Some(after), ..self }
    }

    /// At most this many limits.
    pub fn with_limit(self, limit: usize) -> Page<'a> {
        Page { limit: Some(limit), ..self }
    }

    /// Also the keys that live under a pattern or request, or not.
    pub fn with_live(self, live: bool) -> Page<'a> {
        Page { live, ..self }
    }

    /// Only the live keys of the pattern with this text.
    pub fn with_pattern(self, pattern: &'a str) -> Page<'a> {
        Page { pattern: Some(pattern), ..self }
    }
}

/// How to order limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum By {
    /// By allowed checks.
    Allowed,
    /// By denied checks.
    Denied,
}

impl By {
    fn count(self, totals: &Totals) -> u64 {
        match self {
            By::Allowed => totals.allowed,
            By::Denied => totals.denied,
        }
    }
}

/// The limits of a page, one after the other. It takes a few megabytes, however many there are, and holds no lock
/// between two items.
///
/// Each status shows the limit at the moment when it was taken out. A limit that is removed before is left out, and a
/// limit that is added later may be there or not. Until the listing is dropped, the data directory stays locked, even
/// if the limiter is dropped before.
///
/// ```
/// # use flint::{Limiter, Options, Page};
/// # let dir = tempfile::tempdir()?;
/// # let limiter = Limiter::open(dir.path(), Options::default())?;
/// limiter.configure("api:user-42", "100/1m".parse()?)?;
/// for status in limiter.listing(Page::default().with_prefix("api:"))? {
///     assert_eq!((status.key.as_str(), status.remaining), ("api:user-42", Some(100)));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Listing {
    core: Arc<Core>,
    prefix: String,
    live: bool,
    /// The pattern of which only the live keys are wanted.
    pattern: Option<Arc<Pattern>>,
    /// What all keys that were gathered so far are not greater than.
    after: Option<Name>,
    /// Statuses that are still wanted.
    left: usize,
    /// The last item that was listed, if it was a pattern.
    last_pattern: Option<Name>,
    /// Keys that were gathered, in order.
    names: std::iter::Peekable<std::vec::IntoIter<Name>>,
    /// Whether no keys follow those.
    gathered_all: bool,
    batch: (usize, usize),
    parts: Parts,
}

impl Listing {
    fn new(core: &Arc<Core>, page: Page<'_>, batch: (usize, usize)) -> Result<Listing> {
        let left = page.limit.map_or(Ok(usize::MAX), validate_page)?;
        let pattern = page.pattern.map(|text| {
            let known = core.registry.known();
            known.get(text).map(|row| Arc::clone(&row.pattern)).ok_or_else(|| Error::not_configured(text))
        });
        Ok(Listing {
            core: Arc::clone(core),
            prefix: page.prefix.to_owned(),
            live: page.live,
            pattern: pattern.transpose()?,
            after: page.after.map(Name::of_key),
            left,
            last_pattern: None,
            names: Vec::new().into_iter().peekable(),
            gathered_all: false,
            batch,
            parts: Parts::default(),
        })
    }

    /// Appends the next part of the page as JSON, until `about` bytes of it or a little more are there (not more than
    /// one status object and the end), or the page has ended. All parts together are an array of status objects, as
    /// [`write_statuses`](crate::limiter::write_statuses) writes it. Returns whether more is to come. Now and then a
    /// call looks at the keys of all limits first: with a million of them it then takes about 100 milliseconds.
    #[doc(hidden)]
    pub fn next_chunk(&mut self, out: &mut Vec<u8>, about: usize) -> bool {
        let mut parts = self.parts;
        let Ok(more) = parts.write(out, about, || Ok::<_, Infallible>(self.next()));
        self.parts = parts;
        more
    }

    /// A listing with other bounds on the keys of a batch.
    #[cfg(test)]
    pub fn with_batch(limiter: &Limiter, page: Page<'_>, batch: (usize, usize)) -> Result<Listing> {
        Listing::new(&limiter.core, page, batch)
    }

    /// Keys in memory.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.names.len()
    }

    /// Gathers the next keys: one pass over all entries.
    fn gather(&mut self) {
        let (most, most_bytes) = self.batch;
        // One more than is wanted, for a pattern and the key that is spelled like it.
        let most = most.min(self.left.saturating_mul(2).saturating_add(2));
        let mut least: Least<Name> = Least::new(most, most_bytes, |name| name.0.len());
        for (index, shard) in self.core.shards.iter().enumerate() {
            if index == SAMPLED {
                least.foresee(SHARDS / SAMPLED);
            }
            least.make_room();
            let table = shard.lock();
            let now = self.core.clock.now();
            for entry in table.iter() {
                let place = place(&entry.key);
                // Most keys are settled by one of the first two.
                let wanted = self.after.as_ref().is_none_or(|after| place > after.place())
                    && least.bound().is_none_or(|bound| place < bound.place())
                    && place.0.starts_with(&self.prefix)
                    && self.shows(entry, now);
                if wanted {
                    least.push(Name(Box::from(&*entry.key)));
                }
            }
        }
        let (names, all) = least.finish();
        self.after = names.last().cloned().or(self.after.take());
        self.gathered_all = all;
        self.names = names.into_iter().peekable();
    }

    /// Whether an entry is among the chosen ones. For keys that come and go this does not say whether anything still
    /// counts.
    fn shows(&self, entry: &Entry, now: Micros) -> bool {
        if entry.overflow_text().is_some() {
            return false;
        }
        match &self.pattern {
            None => self.live || entry.is_configured(now),
            Some(_) if entry.is_configured(now) => false,
            Some(pattern) if entry.version == self.core.version(now) => entry.source() == Source::Pattern(pattern.slot),
            Some(pattern) => {
                let known = self.core.registry.known();
                known.find(&entry.key).is_some_and(|row| row.pattern.id == pattern.id)
            }
        }
    }

    /// Whether one more is wanted: so many, and the key that is spelled like the pattern before it.
    fn wants_more(&mut self) -> bool {
        if self.left > 0 {
            return true;
        }
        let Some(pattern) = self.last_pattern.take() else { return false };
        if self.names.peek().is_none() && !self.gathered_all {
            self.gather();
        }
        self.names.peek().is_some_and(|name| name.place().0 == pattern.place().0)
    }
}

impl Iterator for Listing {
    type Item = Status;

    fn next(&mut self) -> Option<Status> {
        while self.wants_more() {
            match self.names.next() {
                Some(name) => {
                    if let Some(status) = self.core.listed(&name) {
                        self.left = self.left.saturating_sub(1);
                        self.last_pattern = Some(name).filter(Name::is_pattern);
                        return Some(status);
                    }
                }
                None if self.gathered_all => break,
                None => self.gather(),
            }
        }
        None
    }
}

/// A key in the map, in the order in which users see keys: a pattern by its text, before the key that is spelled so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(Box<str>);

impl Name {
    /// Of a key that is not a pattern.
    fn of_key(key: &str) -> Name {
        Name(key.into())
    }

    fn is_pattern(&self) -> bool {
        self.0.starts_with(PATTERN_MARK)
    }

    fn place(&self) -> (&str, bool) {
        place(&self.0)
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What users see of a key in the map, and whether it is not a pattern.
fn place(key: &str) -> (&str, bool) {
    key.strip_prefix(PATTERN_MARK).map_or((key, true), |text| (text, false))
}

impl Limiter {
    /// The limits of a page, sorted by key: configured limits, including patterns, and if the page says so the keys
    /// that live under a pattern or request. Each status is of one instant, but not all of a page are of the same
    /// instant.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// for key in ["api:a", "api:b", "web:c"] {
    ///     limiter.configure(key, "100/1m".parse()?)?;
    /// }
    /// let page = limiter.list(flint::Page::default().with_prefix("api:").with_limit(100))?;
    /// assert_eq!(page.iter().map(|status| &*status.key).collect::<Vec<_>>(), ["api:a", "api:b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a `limit` of 0 or over [`MAX_PAGE`]; `limit_not_configured` for a pattern that is not
    /// configured.
    pub fn list(&self, page: Page<'_>) -> Result<Vec<Status>> {
        // All are to be in memory anyway: their keys may be there at once.
        Ok(Listing::new(&self.core, page, (usize::MAX, usize::MAX))?.collect())
    }

    /// As [`Limiter::list`], in an amount of memory that does not depend on how many limits there are.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// # limiter.configure("api:a", "100/1m".parse()?)?;
    /// let spent: u64 = limiter.listing(flint::Page::default())?.map(|status| status.totals.allowed_cost).sum();
    /// assert_eq!(spent, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limiter::list`].
    pub fn listing(&self, page: Page<'_>) -> Result<Listing> {
        Listing::new(&self.core, page, (BATCH, BATCH_BYTES))
    }

    /// The `limit` (1 to [`MAX_PAGE`]) keys with the most allowed or denied checks, the greatest first: keys with their
    /// own limit and keys that live under a pattern or request.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// for (key, cost) in [("a", 1), ("b", 1), ("b", 1)] {
    ///     limiter.configure(key, "100/1m".parse()?)?;
    ///     limiter.check(key, cost)?;
    /// }
    /// let top = limiter.top(flint::By::Allowed, 1)?;
    /// assert_eq!((&*top[0].key, top[0].totals.allowed), ("b", 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a `limit` out of range.
    pub fn top(&self, by: By, limit: usize) -> Result<Vec<Status>> {
        validate_page(limit)?;
        let mut least: Least<(Reverse<u64>, Name)> = Least::new(2 * limit, usize::MAX, |(_, name)| name.0.len());
        for shard in &self.core.shards {
            least.make_room();
            let mut table = shard.lock();
            let now = self.core.clock.now();
            let version = self.core.version(now);
            let is_key = |entry: &&mut Entry| entry.pattern_text().is_none() && entry.overflow_text().is_none();
            for entry in table.iter_mut().filter(is_key) {
                let count = Reverse(by.count(&entry.totals()));
                let wanted = least.bound().is_none_or(|(bound, name)| (count, &*entry.key) < (*bound, &*name.0))
                    && (entry.is_configured(now) || !self.core.is_untouched(entry, now, version));
                if wanted {
                    least.push((count, Name(Box::from(&*entry.key))));
                }
            }
        }
        let (names, _) = least.finish();
        // Some of these may have gone meanwhile.
        let mut top: Vec<Status> = names.iter().filter_map(|(_, name)| self.core.listed(name)).take(limit).collect();
        // What was counted meanwhile is in the answer, so it counts for the order too.
        top.sort_by_key(|status| Reverse(by.count(&status.totals)));
        Ok(top)
    }
}

fn validate_page(limit: usize) -> Result<usize> {
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Error::invalid(format!("limit must be from 1 to {MAX_PAGE}")))
}

impl Core {
    /// The state of a key or pattern in the map now. `None` for what is not there, or the same as if it were not.
    fn listed(&self, name: &Name) -> Option<Status> {
        if let Some(text) = name.0.strip_prefix(PATTERN_MARK) {
            return self.status_of_pattern(text);
        }
        let hash = self.hash(&name.0);
        let mut table = self.shard(hash);
        let now = self.clock.now();
        let version = self.version(now);
        let entry = table.get(hash, &name.0)?;
        if !entry.is_configured(now) && self.is_untouched(entry, now, version) {
            return None;
        }
        let served = self.served(Some(entry), &name.0, Brought::AsItStands, now, version).ok()?;
        Some(self.status_of(Some(entry), &name.0, &served, now))
    }
}
