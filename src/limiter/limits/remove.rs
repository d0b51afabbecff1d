//! Limits that go, and what becomes of their keys.

use std::cmp::Reverse;
use std::sync::Arc;

use super::change::{Draft, Grow, Room};
use super::setting::validate_prefix;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Limit, Live, is_pattern, is_preferred, matches, validate_key};
use crate::limiter::check::wait::Wait;
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::{Entry, Source, Table};
use crate::limiter::registry::{OVERFLOW_MARK, Pattern, Row};
use crate::store::record::{self, Event};

/// Keys that are led to another limit under one hold of a shard's lock.
const STEP: usize = 64;

impl Limiter {
    /// Removes a limit and everything that it has counted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// limiter.remove("api:user-42")?;
    /// assert_eq!(limiter.status("api:user-42")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// If a pattern then serves the key, or another pattern serves the keys of a removed pattern, they continue under
    /// its values with what they have counted. Temporary values are removed too.
    ///
    /// # Errors
    /// `limit_not_configured`, `log_failed`, `overloaded`.
    pub fn remove(&self, key: &str) -> Result<()> {
        validate_key(key)?;
        let core = &*self.core;
        let wait = Wait::of_change(core.sync);
        let edit = core.begin_edit()?;
        core.remove(key, &wait)?;
        drop(edit);
        core.finish(&wait)
    }

    /// Removes all limits that begin with `prefix`, patterns too. Returns how many there were.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// for key in ["api:a", "api:*", "web:c"] {
    ///     limiter.configure(key, "100/1m".parse()?)?;
    /// }
    /// assert_eq!(limiter.remove_prefix("api:")?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for an empty prefix; `log_failed` and `overloaded`, after which some may be removed.
    pub fn remove_prefix(&self, prefix: &str) -> Result<u64> {
        let core = &*self.core;
        validate_prefix(prefix)?;
        let edit = core.begin_edit()?;
        let keys = core.configured(prefix);
        let mut removed = 0;
        for key in &keys {
            core.remove(key, &Wait::Not)?;
            removed += 1;
        }
        drop(edit);
        if removed > 0 {
            core.finish_all(&Wait::of_change(core.sync))?;
        }
        Ok(removed)
    }
}

/// Patterns come before exact limits, which may be led to them, and the less preferred before those whose keys may be
/// led to them.
pub fn place_in_removal(key: &str) -> (bool, usize, usize, Reverse<&str>) {
    let begin = key.split('*').next().map_or(0, str::len);
    let literals = key.chars().filter(|c| *c != '*').count();
    (!is_pattern(key), begin, literals, Reverse(key))
}

/// What becomes of a key whose pattern goes.
pub struct Led {
    pub entry: Entry,
    /// The changes that lead to it.
    pub steps: Vec<Step>,
}

/// One change on the way.
pub struct Step {
    pub at: Micros,
    pub source: Source,
    pub limit: Arc<Limit>,
    /// The ends that it asked for.
    pub ends: Vec<Micros>,
}

/// What becomes of a key whose pattern goes at an instant; `row` is the pattern that serves it then. `None` if the
/// key goes with its pattern.
pub fn led(entry: &Entry, row: Option<&Row>, at: Micros) -> Option<Led> {
    let at = at.max(entry.last_change());
    let covered = entry.overlay().is_some_and(|overlay| overlay.until > at);
    let (source, limit) = match row {
        Some(row) => (Source::Pattern(row.pattern.slot), Arc::clone(row.in_force())),
        // What an operator has laid over it stays.
        None if covered => (Source::Request, Arc::clone(&entry.limit)),
        None => return None,
    };
    let mut led = Led { entry: entry.clone(), steps: Vec::new() };
    // Values that lasted until before come to their end as of then.
    if let Some(until) = entry.overlay().map(|overlay| overlay.until).filter(|until| *until <= at) {
        led.step(until, entry.source(), Arc::clone(&entry.limit));
    }
    led.step(at, source, limit);
    Some(led)
}

impl Led {
    fn step(&mut self, at: Micros, source: Source, limit: Arc<Limit>) {
        let mut ends = Live::default();
        self.entry.become_of(source, Arc::clone(&limit), at, &mut ends);
        self.steps.push(Step { at, source, limit, ends: ends.0 });
    }
}

/// How far a removal came.
enum Attempt {
    Made,
    Grow(Grow),
}

impl Core {
    /// The keys of all configured limits that begin with `prefix`, patterns by their text, in the order in which they
    /// are to be removed: no key is led to a pattern that is about to go.
    pub fn configured(&self, prefix: &str) -> Vec<Box<str>> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            let table = shard.lock();
            let now = self.clock.now();
            let configured = table.iter().filter(|entry| entry.is_configured(now));
            let shown = configured.map(|entry| entry.pattern_text().unwrap_or(&entry.key));
            keys.extend(shown.filter(|key| key.starts_with(prefix)).map(Box::from));
        }
        keys.sort_unstable_by(|one, other| place_in_removal(one).cmp(&place_in_removal(other)));
        keys
    }

    /// Removes a limit, and queues its records. To be called under the lock of edits.
    pub fn remove(&self, key: &str, wait: &Wait<'_>) -> Result<()> {
        let (hash, place) = self.place(key);
        if is_pattern(key) {
            return self.remove_pattern(key, hash, &place, wait);
        }
        let mut room = Room::default();
        loop {
            let attempt = self.try_remove(&mut self.shard(hash), (hash, key), &mut room, wait)?;
            match attempt {
                Attempt::Made => return Ok(()),
                Attempt::Grow(grow) => room.grow(self, grow)?,
            }
        }
    }

    fn try_remove<'a>(
        &'a self,
        table: &mut Table,
        (hash, key): (u64, &str),
        room: &mut Room<'a>,
        wait: &Wait<'_>,
    ) -> Result<Attempt> {
        let now = self.clock.now();
        let entry = table.get(hash, key).filter(|entry| entry.is_configured(now));
        let entry = entry.ok_or_else(|| Error::not_configured(key))?;
        let Draft { entry: mut to, mut events, mut served } = self.draft(entry, now)?;
        let id = to.id();
        // An overlay that is in force ends now.
        if let Some(overlay) = to.overlay().cloned() {
            let mut ends = Live::default();
            to.lay_over(Arc::clone(&overlay.limit), now, now, &mut ends);
            events.push(Event::Overlaid { id, at: now, limit: overlay.limit, until: now, born: None, ends: ends.0 });
        }
        let row = self.registry.known().find(key).cloned();
        let next = match (&row, to.source()) {
            (Some(row), _) => Some((Source::Pattern(row.pattern.slot), Arc::clone(row.in_force()))),
            (None, Source::Request) => Some((Source::Request, Arc::clone(&to.limit))),
            (None, _) => None,
        };
        let mut stays = false;
        if let Some((source, limit)) = next {
            let mut ends = Live::default();
            to.become_of(source, Arc::clone(&limit), now, &mut ends);
            to.standing.advance(&limit, now);
            stays = !to.standing.is_untouched(&limit, now);
            let source = row.as_ref().map_or(record::Source::Request, |row| record::Source::Pattern(row.pattern.id));
            events.push(Event::Became { id, at: now, source, limit, ends: ends.0 });
            served.pattern = row.map(|row| (row.pattern, row.max_keys));
        }
        if !stays {
            events = vec![Event::Removed { id, at: now }];
        }
        if let Some(grow) = room.fit(self, &events)? {
            return Ok(Attempt::Grow(grow));
        }
        if let Some(entry) = table.get(hash, key) {
            self.settle_denials(entry);
        }
        room.append(self, &events, wait)?;
        match table.get_with_counts(hash, key) {
            (Some(entry), counts) if stays => self.replace(entry, to, &served, counts),
            (Some(entry), counts) => {
                self.leave(entry, counts);
                table.remove(hash, key, |key| self.hash(key));
            }
            (None, _) => {}
        }
        table.count_configured();
        Ok(Attempt::Made)
    }

    /// Removes a pattern. Its keys are led to the patterns that serve them then, or go with it: the record of the
    /// removal says so for all that have no record of their own by then. It comes last, so that a crash on the way
    /// leaves the pattern, to which its keys come back.
    fn remove_pattern(&self, text: &str, hash: u64, key: &str, wait: &Wait<'_>) -> Result<()> {
        if self.shard(hash).get(hash, key).is_none() {
            return Err(Error::not_configured(text));
        }
        let retired = self.registry.publish(|known| {
            let at = self.clock.now();
            known.retire(text, at).map(|pattern| (pattern, at))
        });
        let (pattern, at) = retired.ok_or_else(|| Error::not_configured(text))?;
        let led = self.silently(|| {
            self.lead_away(&pattern, at)?;
            let overflow = format!("{OVERFLOW_MARK}{text}");
            self.drop_entry(self.hash(&overflow), &overflow, at, &Wait::Not)
        });
        let done = led.and_then(|()| self.drop_entry(hash, key, at, wait));
        match &done {
            Ok(()) if self.noting.retired(pattern.slot) => {}
            Ok(()) => self.registry.publish(|known| known.forget(pattern.slot)),
            // Its record could not be queued: it goes on.
            Err(_) => self.registry.publish(|known| known.reinstate(pattern.slot)),
        }
        done
    }

    /// If records are kept elsewhere, the keys that a pattern leaves are led away when they are next loaded: what
    /// becomes of them here is not to be written.
    fn silently<T>(&self, act: impl FnOnce() -> T) -> T {
        self.noting.set_silent(true);
        let done = act();
        self.noting.set_silent(false);
        done
    }

    /// Takes an entry out, with a record, if it is there.
    fn drop_entry(&self, hash: u64, key: &str, at: Micros, wait: &Wait<'_>) -> Result<()> {
        let mut room = Room::default();
        loop {
            let grow = {
                let mut table = self.shard(hash);
                let Some(entry) = table.get(hash, key) else { return Ok(()) };
                let events = [Event::Removed { id: entry.id(), at }];
                match room.fit(self, &events)? {
                    None => {
                        room.append(self, &events, wait)?;
                        table.remove(hash, key, |key| self.hash(key));
                        table.count_configured();
                        return Ok(());
                    }
                    Some(grow) => grow,
                }
            };
            room.grow(self, grow)?;
        }
    }

    /// Leads the keys of a pattern that serves none any more to where they belong, shard by shard.
    fn lead_away(&self, pattern: &Pattern, at: Micros) -> Result<()> {
        // What has ended by now is lifted by the look at the version.
        self.version(self.clock.now());
        for shard in &self.shards {
            let mut left: Vec<(u64, u64)> = {
                let table = shard.lock();
                let is_led = |entry: &&Entry| self.is_led_away(entry, pattern);
                table.iter().filter(is_led).map(|entry| (self.hash(&entry.key), entry.id())).collect()
            };
            let mut room = Room::default();
            while !left.is_empty() {
                let mut grow = None;
                let mut table = shard.lock();
                for _ in 0..STEP {
                    let Some((hash, id)) = left.last().copied() else { break };
                    grow = self.lead_one(&mut table, (hash, id), pattern, at, &mut room)?;
                    if grow.is_some() {
                        break;
                    }
                    left.pop();
                }
                drop(table);
                if let Some(grow) = grow {
                    room.grow(self, grow)?;
                }
            }
            shard.lock().counts.shares.remove(pattern.slot);
        }
        Ok(())
    }

    /// Whether a key is led elsewhere when this pattern goes: one that lives under it, and one that it served and
    /// another serves now. That may not have moved to it yet, but must not come to the other's values as of an instant
    /// at which this one served it still.
    fn is_led_away(&self, entry: &Entry, pattern: &Pattern) -> bool {
        if entry.source() == Source::Pattern(pattern.slot) {
            return true;
        }
        if entry.source() == Source::Exact || entry.overflow_text().is_some() || !matches(&pattern.text, &entry.key) {
            return false;
        }
        let known = self.registry.known();
        known.find(&entry.key).is_some_and(|row| is_preferred(&pattern.text, &row.pattern.text))
    }

    fn lead_one<'a>(
        &'a self,
        table: &mut Table,
        (hash, id): (u64, u64),
        pattern: &Pattern,
        at: Micros,
        room: &mut Room<'a>,
    ) -> Result<Option<Grow>> {
        // It may have been swept meanwhile, or spent and so moved.
        let key = match table.get_id(hash, id) {
            Some(entry) if self.is_led_away(entry, pattern) => entry.key.clone(),
            _ => return Ok(None),
        };
        let row: Option<Row> = self.registry.known().find(&key).cloned();
        let (Some(entry), counts) = table.get_with_counts(hash, &key) else { return Ok(None) };
        let Some(Led { entry: to, steps }) = led(entry, row.as_ref(), at) else {
            self.leave(entry, counts);
            table.remove(hash, &key, |key| self.hash(key));
            return Ok(None);
        };
        let recorded = |source: Source| match (source, &row) {
            (Source::Pattern(slot), Some(row)) if row.pattern.slot == slot => record::Source::Pattern(row.pattern.id),
            (Source::Pattern(slot), _) => counts
                .shares
                .get(slot)
                .map_or(record::Source::Request, |share| record::Source::Pattern(share.pattern.id)),
            _ => record::Source::Request,
        };
        let became = |Step { at, source, limit, ends }| {
            let source = recorded(source);
            Event::Became { id, at, source, limit, ends }
        };
        let events: Vec<Event<'_>> = steps.into_iter().map(became).collect();
        if let Some(grow) = room.fit(self, &events)? {
            return Ok(Some(grow));
        }
        self.settle_denials(entry);
        room.append(self, &events, &Wait::Not)?;
        self.leave(entry, counts);
        self.join(to.source(), row.as_ref().map(|row| &row.pattern), counts);
        *entry = to;
        Ok(None)
    }
}
