//! Many limits at once, in the order of their keys or of what happened to them.
//!
//! Owns: how a listing of any length is made in bounded memory. The map has no order, so the keys are gathered in
//! batches: one pass over the shards finds the next ones in order, and each is then looked up again for its status. A
//! shard is locked for its part of a pass, and for one status.

use std::cmp::Reverse;
use std::sync::Arc;

use super::least::Least;
use crate::bounds::{MAX_PAGE, SHARDS};
use crate::error::{Error, Result};
use crate::limiter::answers::{Status, Totals};
use crate::limiter::core::{Core, Limiter, shard_of};

/// Most keys of a batch, of which half are sure to be in it. More keys take more memory (some 50 bytes each), fewer
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
    /// At most so many (1 to [`MAX_PAGE`]); all, without it.
    pub limit: Option<usize>,
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

    /// At most so many limits.
    pub fn with_limit(self, limit: usize) -> Page<'a> {
        Page { limit: Some(limit), ..self }
    }
}

/// Limits by what happened to them.
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

/// The limits of a page, one after the other. It takes some megabytes, however many there are, and holds no lock while
/// it rests.
///
/// Each status is as it stood when it was taken out; a limit that is removed before is left out, and one that is added
/// after what was taken out may be there or not. Until it is dropped the data directory stays locked, also when the
/// limiter is dropped before.
///
/// ```
/// # use flint::{Limiter, Options, Page};
/// # let dir = tempfile::tempdir()?;
/// # let limiter = Limiter::open(dir.path(), Options::default())?;
/// limiter.configure("api:user-42", "100/1m".parse()?)?;
/// for status in limiter.listing(Page::default().with_prefix("api:"))? {
///     assert_eq!((status.key.as_str(), status.remaining), ("api:user-42", 100));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Listing {
    core: Arc<Core>,
    prefix: String,
    /// What all keys that were gathered so far are not greater than.
    after: Option<Box<str>>,
    /// Statuses that are still wanted.
    left: usize,
    /// Keys that were gathered, in order.
    keys: std::vec::IntoIter<Box<str>>,
    /// Whether no keys follow those.
    gathered_all: bool,
    batch: (usize, usize),
    /// What [`Listing::next_chunk`] writes before the next status; nothing after the array's end.
    before_next: Option<u8>,
}

impl Listing {
    fn new(core: &Arc<Core>, page: Page<'_>, batch: (usize, usize)) -> Result<Listing> {
        Ok(Listing {
            core: Arc::clone(core),
            prefix: page.prefix.to_owned(),
            after: page.after.map(Box::from),
            left: page.limit.map_or(Ok(usize::MAX), validate_page)?,
            keys: Vec::new().into_iter(),
            gathered_all: false,
            batch,
            before_next: Some(b'['),
        })
    }

    /// Appends the next part of the page as JSON, until `about` bytes of it or a little more are there (not more than
    /// one status object and the end), or the page has ended. All parts together are an array of status objects, as
    /// [`write_statuses`](crate::limiter::write_statuses) writes it. Returns whether more is to come. Now and then a
    /// call looks at the keys of all limits first: with a million of them it then takes some 100 milliseconds.
    #[doc(hidden)]
    pub fn next_chunk(&mut self, out: &mut Vec<u8>, about: usize) -> bool {
        let enough = out.len().saturating_add(about);
        while let Some(before) = self.before_next {
            let Some(status) = self.next() else {
                out.extend_from_slice(if before == b'[' { b"[]" } else { b"]" });
                self.before_next = None;
                break;
            };
            out.push(before);
            status.write_json(out);
            self.before_next = Some(b',');
            if out.len() >= enough {
                return true;
            }
        }
        false
    }

    #[cfg(test)]
    pub fn with_batch(limiter: &Limiter, page: Page<'_>, batch: (usize, usize)) -> Result<Listing> {
        Listing::new(&limiter.core, page, batch)
    }

    /// Keys in memory.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.keys.len()
    }

    /// Gathers the next keys: one pass over all limits.
    fn gather(&mut self) {
        let (most, most_bytes) = self.batch;
        let mut least: Least<Box<str>> = Least::new(most.min(self.left.saturating_mul(2)), most_bytes, |key| key.len());
        for (index, shard) in self.core.shards.iter().enumerate() {
            if index == SAMPLED {
                least.foresee(SHARDS / SAMPLED);
            }
            least.make_room();
            let table = shard.lock();
            for key in table.keys() {
                // Most keys are settled by one of the first two.
                let wanted = self.after.as_deref().is_none_or(|after| key > after)
                    && least.bound().is_none_or(|bound| key < bound)
                    && key.starts_with(&self.prefix);
                if wanted {
                    least.push(key.into());
                }
            }
        }
        let (keys, all) = least.finish();
        self.after = keys.last().cloned().or(self.after.take());
        self.gathered_all = all;
        self.keys = keys.into_iter();
    }
}

impl Iterator for Listing {
    type Item = Status;

    fn next(&mut self) -> Option<Status> {
        while self.left > 0 {
            match self.keys.next() {
                Some(key) => {
                    if let Some(status) = self.core.status(key) {
                        self.left -= 1;
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

impl Limiter {
    /// The limits of a page, sorted by key. Each one is as it stood at one instant; a page is not one instant.
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
    /// `invalid_argument` for a `limit` of 0 or over [`MAX_PAGE`].
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

    /// The `limit` (1 to [`MAX_PAGE`]) limits with the most allowed or denied checks, the greatest first.
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
        let mut least: Least<(Reverse<u64>, Box<str>)> = Least::new(2 * limit, usize::MAX, |(_, key)| key.len());
        for shard in &self.core.shards {
            least.make_room();
            let mut table = shard.lock();
            for entry in table.iter_mut() {
                let count = Reverse(by.count(&entry.totals));
                if least.bound().is_none_or(|(bound, key)| (count, &*entry.key) < (*bound, key)) {
                    least.push((count, entry.key.clone()));
                }
            }
        }
        let (keys, _) = least.finish();
        let mut top: Vec<Status> = keys.into_iter().take(limit).filter_map(|(_, key)| self.core.status(key)).collect();
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
    /// How a limit stands now.
    fn status(&self, key: Box<str>) -> Option<Status> {
        let hash = self.hash(&key);
        let mut table = self.shards[shard_of(hash)].lock();
        let now = self.clock.now();
        table.get(hash, &key).map(|entry| entry.status_of(key.into(), now))
    }
}
