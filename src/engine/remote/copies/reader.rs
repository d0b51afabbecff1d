//! A copy of some of the store's records, to look at: for lists, and for moving all of it.
//!
//! Each record is as it stood at one moment; all of them together are not one moment.

use std::time::{Duration, Instant};

use super::super::errors::told;
use super::super::link::{Attempt, Found, Link, LinkError, Outcome, Store};
use super::super::names;
use crate::clock::Clock;
use crate::error::Result;
use crate::limiter::Limiter;
use crate::limiter::scratch::{Live, Name, Scratch};

/// Names that are asked for at once.
pub const NAMES_AT_ONCE: usize = 1000;

/// Patterns whose counts are asked for at once.
const COUNTS_AT_ONCE: usize = 256;

/// What is needed to make a reader.
#[derive(Clone)]
pub struct Source {
    pub store: Store,
    pub clock: Clock,
    pub identity: [u8; 16],
    pub max_keys: u64,
    pub max_holds: u64,
    pub timeout: Duration,
}

impl Source {
    /// One that has no copy of anything yet.
    pub fn reader(&self) -> Reader {
        Reader { link: self.store.link(), scratch: self.scratch(), source: self.clone() }
    }

    /// A scratch limiter of this store.
    pub fn scratch(&self) -> Scratch {
        Scratch::new(self.clock.clone(), &self.identity, self.max_keys, self.max_holds)
    }
}

/// A copy of some records.
pub struct Reader {
    link: Link,
    scratch: Scratch,
    source: Source,
}

impl Reader {
    fn deadline(&self) -> Instant {
        Instant::now() + self.source.timeout
    }

    /// What was copied.
    pub fn limiter(&mut self) -> &Limiter {
        // What an earlier look has noted is of no interest.
        self.scratch.begin();
        self.scratch.limiter()
    }

    /// The ids and texts of the patterns that were copied.
    pub fn patterns(&self) -> Vec<(u64, String)> {
        self.scratch.patterns()
    }

    /// What was counted for the patterns that were copied, since their record was written.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn counted(&mut self) -> Result<Vec<(u64, [u64; 4])>> {
        let mut all = Vec::new();
        for patterns in self.scratch.patterns().chunks(COUNTS_AT_ONCE) {
            let keys: Vec<[Vec<u8>; 4]> = patterns.iter().map(|(id, _)| names::counters(*id)).collect();
            let counters: Vec<(&[u8], i64)> = keys.iter().flatten().map(|key| (key.as_slice(), 0)).collect();
            let deadline = self.deadline();
            let counted = self.link.add(&counters, deadline).map_err(|error| told(&error, false))?;
            for ((id, _), counted) in patterns.iter().zip(counted.chunks_exact(4)) {
                let count = |index: usize| counted[index].max(0) as u64;
                all.push((*id, [count(0), count(1), count(2), count(3)]));
            }
        }
        Ok(all)
    }

    /// Copies the patterns, how many keys live by each, and what was counted for each.
    ///
    /// # Errors
    /// `store_unavailable`, `corrupt`, `unsupported`.
    pub fn load_patterns(&mut self) -> Result<()> {
        self.load(&[Name::Patterns])?;
        for (id, counted) in self.counted()? {
            self.scratch.set_counted(id, counted);
        }
        if self.source.store.is_cluster() {
            // A list has a part in each slot: how many keys live by each pattern is not counted.
            return Ok(());
        }
        for patterns in self.scratch.patterns().chunks(COUNTS_AT_ONCE) {
            let deadline = self.deadline();
            let prefixes: Vec<Vec<u8>> =
                patterns.iter().map(|(id, _)| names::live_prefix(Live::Pattern(*id))).collect();
            let lists: Vec<(u8, &[u8])> = prefixes.iter().map(|prefix| (names::LIVE_BY, prefix.as_slice())).collect();
            let live = self.link.counts(&lists, deadline).map_err(|error| told(&error, false))?;
            for ((id, _), live) in patterns.iter().zip(live) {
                self.scratch.set_live(Live::Pattern(*id), live);
            }
        }
        Ok(())
    }

    /// How many keys may live under a pattern that was copied.
    pub fn most_live(&self, pattern: &str) -> Option<u64> {
        let (id, _) = self.scratch.patterns().into_iter().find(|(_, text)| text == pattern)?;
        Some(self.scratch.most_live(Live::Pattern(id)))
    }

    /// The patterns that have room for a tenth of their keys at most.
    pub fn crowded(&self) -> Vec<u64> {
        let is_crowded = |id: &u64| {
            let live = Live::Pattern(*id);
            let (most, count) = (self.scratch.most_live(live), self.scratch.live(live));
            count > 0 && count >= most - most / 10
        };
        self.scratch.patterns().into_iter().map(|(id, _)| id).filter(is_crowded).collect()
    }

    /// Copies records.
    ///
    /// # Errors
    /// As [`Reader::load_patterns`].
    pub fn load(&mut self, names: &[Name]) -> Result<()> {
        for names in names.chunks(NAMES_AT_ONCE) {
            let found = self.fetch(names)?;
            for (name, found) in names.iter().zip(found) {
                self.scratch.load(name, found.as_deref())?;
            }
        }
        Ok(())
    }

    /// The records with these names.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn fetch(&mut self, names: &[Name]) -> Result<Vec<Option<Vec<u8>>>> {
        let keys: Vec<Vec<u8>> = names.iter().map(|name| names::key(name, self.slot())).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let deadline = self.deadline();
        let found = self.link.fetch(&keys, deadline).map_err(|error| told(&error, false))?;
        let record = |found| match found {
            Found::Same | Found::Absent => None,
            Found::Present(value) => Some(value.record().to_vec()),
        };
        Ok(found.into_iter().map(record).collect())
    }

    /// Sends attempts.
    pub fn exchange(
        &mut self,
        attempts: &[Attempt<'_>],
        time: Duration,
    ) -> Vec<std::result::Result<Outcome, LinkError>> {
        self.link.exchange(attempts, Instant::now() + time)
    }

    /// Whether names have the tag of a slot. Answers, whose slot nobody knows here, are not looked at in a Cluster.
    fn slot(&self) -> Option<u16> {
        self.source.store.is_cluster().then_some(0)
    }

    /// Lets go of all copies of keys.
    pub fn forget_keys(&mut self) {
        self.scratch.forget_all();
    }

    /// The members of a list that begin with `prefix`, after `after`: so many, fewer only at the end. Those that are no
    /// text are left out.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn names(&mut self, list: u8, prefix: &[u8], after: Option<&[u8]>) -> Result<(Vec<String>, bool)> {
        let deadline = self.deadline();
        let names =
            self.link.names(list, prefix, after, NAMES_AT_ONCE, deadline).map_err(|error| told(&error, false))?;
        let ended = names.len() < NAMES_AT_ONCE;
        Ok((names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect(), ended))
    }

    /// How many members these lists have.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn counts(&mut self, lists: &[u8]) -> Result<Vec<u64>> {
        let deadline = self.deadline();
        let lists: Vec<(u8, &[u8])> = lists.iter().map(|list| (*list, &b""[..])).collect();
        self.link.counts(&lists, deadline).map_err(|error| told(&error, false))
    }

    /// How many holds are open.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn open_holds(&mut self) -> Result<u64> {
        // One that expires at this instant has expired.
        let least = names::open_until(self.source.clock.now() + 1);
        let deadline = self.deadline();
        self.link.count_from(names::OPEN, &least, deadline).map_err(|error| told(&error, false))
    }

    /// Takes names off a list whose records have vanished: those that are given and are not there.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn prune(&mut self, list: u8, members: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let members: Vec<(&[u8], &[u8])> = members.iter().map(|(member, key)| (&member[..], &key[..])).collect();
        let deadline = self.deadline();
        self.link.prune(list, &members, deadline).map_err(|error| told(&error, false))
    }

    /// Calls `each` with all keys that begin with `prefix` of one of these lists, in their order, some at a time, each
    /// once. It returns whether to go on.
    ///
    /// # Errors
    /// `store_unavailable`, and what `each` returns.
    pub fn each_key(
        &mut self,
        lists: &[u8],
        prefix: &str,
        mut each: impl FnMut(&mut Reader, &[String]) -> Result<()>,
    ) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let (keys, next) = self.merged(lists, prefix, after.as_deref())?;
            if !keys.is_empty() {
                each(self, &keys)?;
            }
            match next {
                None => return Ok(()),
                Some(_) => after = next,
            }
        }
    }

    /// The next keys of several lists in order, and the last of them if there are more.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn merged(&mut self, lists: &[u8], prefix: &str, after: Option<&str>) -> Result<(Vec<String>, Option<String>)> {
        let mut all = Vec::new();
        let mut horizon: Option<String> = None;
        for list in lists {
            let (names, ended) = self.names(*list, prefix.as_bytes(), after.map(str::as_bytes))?;
            if let Some(last) = names.last().filter(|_| !ended)
                && horizon.as_ref().is_none_or(|horizon| last < horizon)
            {
                horizon = Some(last.clone());
            }
            all.extend(names);
        }
        all.sort_unstable();
        all.dedup();
        if let Some(horizon) = &horizon {
            all.retain(|name| name <= horizon);
        }
        Ok((all, horizon))
    }
}
