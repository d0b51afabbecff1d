//! Many limits at once, in the order of their keys or of what happened to them.

use super::Limiter;
use super::report::Status;
use crate::bounds::MAX_PAGE;
use crate::error::{Error, Result};

/// Which limits to list, in the order of their keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct Page<'a> {
    /// Only keys that begin with this.
    pub prefix: &'a str,
    /// Only keys behind this one.
    pub after: Option<&'a str>,
    /// At most so many (1 to [`MAX_PAGE`]); all, without it.
    pub limit: Option<usize>,
}

/// Limits by what happened to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By allowed checks.
    Allowed,
    /// By denied checks.
    Denied,
}

impl Limiter {
    /// The limits of a page, sorted by key. Each one is as it stood at one instant; a page is not one instant.
    ///
    /// # Errors
    /// `invalid_argument` for a `limit` of 0 or over [`MAX_PAGE`].
    pub fn list(&self, page: Page<'_>) -> Result<Vec<Status>> {
        if page.limit.is_some_and(|limit| !(1..=MAX_PAGE).contains(&limit)) {
            return Err(Error::invalid(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        let wanted = |key: &str| key.starts_with(page.prefix) && page.after.is_none_or(|after| key > after);
        let mut listed: Vec<Status> = Vec::new();
        for shard in &self.core.shards {
            let mut table = shard.lock();
            let now = self.core.clock.now();
            listed.extend(table.iter_mut().filter(|entry| wanted(&entry.key)).map(|entry| entry.status(now)));
            drop(table);
            // No more is kept than twice what is asked for.
            if let Some(limit) = page.limit.filter(|limit| listed.len() > 2 * limit) {
                listed.select_nth_unstable_by(limit, |a, b| a.key.cmp(&b.key));
                listed.truncate(limit);
            }
        }
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        listed.truncate(page.limit.unwrap_or(usize::MAX));
        Ok(listed)
    }

    /// The `limit` (1 to [`MAX_PAGE`]) limits with the most allowed or denied checks, the greatest first.
    ///
    /// # Errors
    /// `invalid_argument` for a `limit` out of range.
    pub fn top(&self, by: By, limit: usize) -> Result<Vec<Status>> {
        let mut all = self.list(Page::default())?;
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Error::invalid(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        let count = |status: &Status| match by {
            By::Allowed => status.totals.allowed,
            By::Denied => status.totals.denied,
        };
        all.sort_by_key(|status| std::cmp::Reverse(count(status)));
        all.truncate(limit);
        Ok(all)
    }
}
