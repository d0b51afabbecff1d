//! Lists of limits in the order of their keys, made in parts: some names, a copy of their records, and of that the
//! same list that a data directory would give.

use std::collections::VecDeque;

use super::super::names::{self, CONFIGURED, LIVE, LIVE_BY};
use super::reader::{Reader, Source};
use crate::error::{Error, Result};
use crate::limiter::scratch::{Live, Name};
use crate::limiter::{By, Page, Parts, Status};

/// Records that a list has copies of at once: each of its parts is made by another thread, and each thread keeps the
/// memory that it once had.
const COPIED_AT_ONCE: usize = 200;

/// The limits of a page, one after the other, in bounded memory.
pub struct Listing {
    reader: Reader,
    prefix: String,
    live: bool,
    /// Text and id of the pattern whose keys are wanted.
    pattern: Option<(String, u64)>,
    /// What all that was gathered is not after.
    after: Option<String>,
    /// Names that are known and not gathered yet, and the last of them if there are more.
    named: VecDeque<String>,
    horizon: Option<String>,
    ended: bool,
    ready: VecDeque<Status>,
    /// Statuses that are still wanted.
    left: usize,
    /// The last one, if it was a pattern.
    last_pattern: Option<String>,
    parts: Parts,
}

impl Listing {
    /// # Errors
    /// `invalid_argument` for a `limit` out of range, `limit_not_configured` for a pattern that is not,
    /// `store_unavailable`.
    pub fn new(source: &Source, page: Page<'_>) -> Result<Listing> {
        let mut reader = source.reader();
        reader.load_patterns()?;
        // It refuses what can't be.
        reader.limiter().list(page.with_limit(page.limit.unwrap_or(1)))?;
        let pattern = match page.pattern {
            None => None,
            Some(text) => {
                let known = reader.patterns().into_iter().find(|(_, known)| known == text);
                let (id, text) = known.ok_or_else(|| Error::not_configured(text))?;
                Some((text, id))
            }
        };
        let mut listing = Listing {
            reader,
            prefix: page.prefix.to_owned(),
            live: page.live,
            pattern,
            after: page.after.map(str::to_owned),
            named: VecDeque::new(),
            horizon: None,
            ended: false,
            ready: VecDeque::new(),
            left: page.limit.unwrap_or(usize::MAX),
            last_pattern: None,
            parts: Parts::default(),
        };
        // What fails at once is an error and not half a list.
        listing.gather()?;
        Ok(listing)
    }

    fn gather(&mut self) -> Result<()> {
        if self.named.is_empty() {
            let (keys, horizon) = match &self.pattern {
                None if self.live => self.reader.merged(&[CONFIGURED, LIVE], &self.prefix, self.after.as_deref())?,
                None => self.reader.merged(&[CONFIGURED], &self.prefix, self.after.as_deref())?,
                Some((_, id)) => self.reader.keys_of(*id, &self.prefix, self.after.as_deref())?,
            };
            (self.named, self.horizon) = (keys.into(), horizon);
        }
        let keys: Vec<String> = self.named.drain(..self.named.len().min(COPIED_AT_ONCE)).collect();
        let horizon = if self.named.is_empty() { self.horizon.take() } else { keys.last().cloned() };
        self.reader.copy_keys(&keys)?;
        let page = Page {
            after: self.after.as_deref(),
            pattern: self.pattern.as_ref().map(|(text, _)| text.as_str()),
            ..Page::default().with_prefix(&self.prefix).with_live(self.live)
        };
        let mut statuses = self.reader.limiter().list(page)?;
        if let Some(horizon) = &horizon {
            statuses.retain(|status| status.key <= *horizon);
        }
        self.ready = statuses.into();
        self.ended = horizon.is_none();
        self.after = horizon;
        Ok(())
    }

    /// The next status; `None` at the end.
    ///
    /// # Errors
    /// `store_unavailable`, `corrupt`, `unsupported`.
    pub fn next_status(&mut self) -> Result<Option<Status>> {
        loop {
            if self.left == 0 {
                // The key that is spelled like the pattern before it belongs to the page too.
                let Some(pattern) = self.last_pattern.take() else { return Ok(None) };
                while self.ready.is_empty() && !self.ended {
                    self.gather()?;
                }
                return Ok(self.ready.pop_front().filter(|status| status.key == pattern));
            }
            if let Some(status) = self.ready.pop_front() {
                self.left -= 1;
                self.last_pattern = status.max_keys.map(|_| status.key.clone());
                return Ok(Some(status));
            }
            if self.ended {
                return Ok(None);
            }
            self.gather()?;
        }
    }

    /// Appends the next part of the page as JSON, as [`crate::limiter::Listing::next_chunk`] does. Returns whether more
    /// is to come.
    ///
    /// # Errors
    /// As [`Listing::next_status`]; the list is cut short then.
    pub fn next_chunk(&mut self, out: &mut Vec<u8>, about: usize) -> Result<bool> {
        let mut parts = self.parts;
        let more = parts.write(out, about, || self.next_status());
        self.parts = parts;
        more
    }
}

impl Reader {
    /// Lets go of the copies of keys, and copies these.
    ///
    /// # Errors
    /// `store_unavailable`, `corrupt`, `unsupported`.
    fn copy_keys(&mut self, keys: &[String]) -> Result<()> {
        self.forget_keys();
        let names: Vec<Name> = keys.iter().map(|key| Name::Key(key.as_str().into())).collect();
        self.load(&names)
    }

    /// The next keys that live by the pattern of this id, and the last of them if there are more.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn keys_of(&mut self, id: u64, prefix: &str, after: Option<&str>) -> Result<(Vec<String>, Option<String>)> {
        let member = |key: &str| names::live_member(Live::Pattern(id), key);
        let begin = names::live_prefix(Live::Pattern(id)).len();
        let (names, ended) = self.names(LIVE_BY, &member(prefix), after.map(member).as_deref())?;
        let keys: Vec<String> = names.iter().filter_map(|name| name.get(begin..).map(str::to_owned)).collect();
        let last = keys.last().filter(|_| !ended).cloned();
        Ok((keys, last))
    }
}

/// The keys with the most allowed or denied checks, the greatest first.
///
/// # Errors
/// `invalid_argument` for a `limit` out of range, `store_unavailable`, `corrupt`, `unsupported`.
pub fn top(source: &Source, by: By, limit: usize) -> Result<Vec<Status>> {
    let mut reader = source.reader();
    reader.load_patterns()?;
    let mut best: Vec<Status> = reader.limiter().top(by, limit)?;
    let count = |status: &Status| match by {
        By::Allowed => status.totals.allowed,
        By::Denied => status.totals.denied,
    };
    reader.each_key(&[CONFIGURED, LIVE], "", |reader, keys| {
        reader.copy_keys(keys)?;
        best.extend(reader.limiter().top(by, limit)?);
        best.sort_by(|one, other| count(other).cmp(&count(one)).then_with(|| one.key.cmp(&other.key)));
        best.truncate(limit);
        Ok(())
    })?;
    Ok(best)
}
