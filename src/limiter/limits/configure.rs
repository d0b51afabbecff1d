//! What an operator configures for a limit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::{Draft, Grow, Room};
use super::setting::Setting;
use crate::bounds::MAX_KEYS;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Limit, Live, is_pattern};
use crate::limiter::check::wait::Wait;
use crate::limiter::core::{Core, Limiter, shard_of};
use crate::limiter::entry::{Entry, Source, Table};
use crate::limiter::registry::PATTERN_MARK;
use crate::store::record::{self, Born, Event};

impl Limiter {
    /// Configures a limit. Returns whether it is new. Configuring the same values again changes nothing; new values
    /// take over what was spent.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use flint::{Algorithm, Limit};
    /// use std::time::Duration;
    ///
    /// let limit = Limit::new(100, Duration::from_secs(60), Algorithm::SlidingWindowLog, None)?;
    /// assert!(limiter.configure("api:user-42", limit)?);
    /// assert!(!limiter.configure("api:user-42", "200/1m sliding_window_log".parse()?)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a bad key, `log_failed`, `overloaded`.
    pub fn configure(&self, key: &str, limit: Limit) -> Result<bool> {
        self.configure_setting(&Setting::new(key, limit))
    }

    /// As [`Limiter::configure`], with all settings of a limit: whether it is temporary and, for a pattern, how many
    /// keys may live under it. Temporary values replace the key's own values, which apply again afterwards; given
    /// again, they start over.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use std::time::Duration;
    ///
    /// use flint::Setting;
    ///
    /// limiter.configure_setting(&Setting::new("user:*", "100/1m".parse()?).with_max_keys(50_000))?;
    /// limiter.configure_setting(&Setting::new("user:42", "0/1s".parse()?).with_lasts(Duration::from_secs(3600)))?;
    /// let denied = limiter.check("user:42", 1)?;
    /// assert!(!denied.allowed && denied.retry_after.unwrap() <= Duration::from_secs(3600));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a bad key and values out of their range, `log_failed`, `overloaded`.
    pub fn configure_setting(&self, setting: &Setting<'_>) -> Result<bool> {
        let core = &*self.core;
        let want = Want::of(setting)?;
        // Every worker process of a web application does this at its start. It needs no room in the log.
        if core.is_same(&want) {
            core.confirm(&want)?;
            return Ok(false);
        }
        let wait = Wait::of_change(core.sync);
        let edit = core.begin_edit()?;
        let done = core.configure(&want, &wait)?;
        drop(edit);
        let Configured::Done { created, number } = done else {
            core.confirm(&want)?;
            return Ok(false);
        };
        core.finish(&wait)?;
        core.shard(core.place(want.key).0).confirm(number);
        Ok(created)
    }
}

/// How long values last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Until others come.
    Ever,
    /// So long from the instant at which they are configured.
    For(Micros),
    /// Until this instant.
    Until(Micros),
}

/// What a key is to have.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    pub key: &'a str,
    pub limit: Limit,
    pub span: Span,
    pub max_keys: Option<u64>,
}

impl<'a> Want<'a> {
    /// What a setting asks for, once it is valid.
    pub fn of(setting: &Setting<'a>) -> Result<Want<'a>> {
        let lasts = setting.validate()?;
        Ok(Want {
            key: setting.key,
            limit: setting.limit.clone(),
            span: lasts.map_or(Span::Ever, Span::For),
            // The default is not told apart from none.
            max_keys: setting.max_keys.filter(|most| *most != MAX_KEYS),
        })
    }
}

/// What configuring did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configured {
    /// Nothing: it is so already.
    Same,
    /// Its records are queued. `number` is that of the configuration in its shard.
    Done { created: bool, number: u64 },
}

/// How far a change came.
enum Attempt {
    Made(Configured),
    Grow(Grow),
}

/// A limit that is to be configured, and where.
#[derive(Clone, Copy)]
struct Asked<'m> {
    /// Hash and key of its entry.
    hash: u64,
    key: &'m str,
    /// The one copy that is kept of equal values.
    limit: &'m Arc<Limit>,
    want: &'m Want<'m>,
    wait: &'m Wait<'m>,
}

impl Core {
    /// Hash and key of the entry that an operator means by `key`.
    pub fn place(&self, key: &str) -> (u64, Box<str>) {
        let key: Box<str> = if is_pattern(key) { format!("{PATTERN_MARK}{key}").into() } else { key.into() };
        (self.hash(&key), key)
    }

    /// Whether configuring this would change nothing.
    pub fn is_same(&self, want: &Want<'_>) -> bool {
        let (hash, key) = self.place(want.key);
        self.shard(hash).get(hash, &key).is_some_and(|entry| is_same(entry, want))
    }

    /// Waits until the configuration has come as far as another call may still wait for, since nothing had to be
    /// changed. To be called holding no lock.
    fn confirm(&self, want: &Want<'_>) -> Result<()> {
        let (hash, _) = self.place(want.key);
        let unconfirmed = self.shard(hash).unconfirmed();
        if let Some(number) = unconfirmed {
            self.finish_all(&Wait::of_change(self.sync))?;
            // The call that queued it may have stopped waiting; without this all later calls would wait again.
            self.shard(hash).confirm(number);
        }
        Ok(())
    }

    /// Configures one limit, and queues its records. To be called under the lock of edits.
    pub fn configure(&self, want: &Want<'_>, wait: &Wait<'_>) -> Result<Configured> {
        let (hash, key) = self.place(want.key);
        let limit = self.registry.intern(&want.limit);
        let asked = Asked { hash, key: &key, limit: &limit, want, wait };
        let mut room = Room::default();
        loop {
            let attempt = {
                let mut table = self.shard(hash);
                match is_pattern(want.key) {
                    true => self.configure_pattern(&mut table, asked, &mut room)?,
                    false => self.configure_exact(&mut table, asked, &mut room)?,
                }
            };
            match attempt {
                Attempt::Made(configured) => return Ok(configured),
                Attempt::Grow(grow) => room.grow(self, grow)?,
            }
        }
    }

    fn configure_exact<'a>(&'a self, table: &mut Table, asked: Asked<'_>, room: &mut Room<'a>) -> Result<Attempt> {
        let Asked { hash, key, limit, want, wait } = asked;
        let now = self.clock.now();
        self.forget_if_none(table, hash, key, now, self.version(now));
        let (entry, counts) = table.get_with_counts(hash, key);
        let Some(entry) = entry else { return self.create_exact(table, asked, room) };
        if is_same(entry, want) {
            return Ok(Attempt::Made(Configured::Same));
        }
        let created = !entry.is_configured(now);
        let Draft { entry: mut to, mut events, served } = self.draft(entry, now)?;
        let mut ends = Live::default();
        let (id, limit) = (to.id(), Arc::clone(limit));
        events.push(match want.until(now) {
            Some(until) => {
                to.lay_over(Arc::clone(&limit), until, now, &mut ends);
                Event::Overlaid { id, at: now, limit, until, born: None, ends: ends.0 }
            }
            None if to.source() == Source::Exact => {
                to.reconfigure(Arc::clone(&limit), None, now, &mut ends);
                Event::Reconfigured { id, at: now, limit, max_keys: None, ends: ends.0 }
            }
            None => {
                to.become_of(Source::Exact, Arc::clone(&limit), now, &mut ends);
                Event::Became { id, at: now, source: record::Source::Exact, limit, ends: ends.0 }
            }
        });
        if let Some(grow) = room.fit(self, &events)? {
            return Ok(Attempt::Grow(grow));
        }
        self.settle_denials(entry);
        room.append(self, &events, wait)?;
        self.replace(entry, to, &served, counts);
        Ok(Attempt::Made(Configured::Done { created, number: table.count_configured() }))
    }

    fn create_exact<'a>(&'a self, table: &mut Table, asked: Asked<'_>, room: &mut Room<'a>) -> Result<Attempt> {
        let Asked { hash, key, limit, want, wait } = asked;
        let now = self.clock.now();
        let version = self.version(now);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let shard = shard_of(hash) as u8;
        let limit = Arc::clone(limit);
        let (event, mut entry) = match want.until(now) {
            None => {
                let entry = Entry::new(key, id, shard, Source::Exact, Arc::clone(&limit));
                (Event::Created { id, shard, at: now, limit, max_keys: None, key }, entry)
            }
            Some(until) => {
                // What comes back: the pattern's values, or nothing, in the place of which these stand.
                let row = self.registry.known().find(key).cloned();
                let (source, below) = match &row {
                    Some(row) => (Source::Pattern(row.pattern.slot), Arc::clone(row.in_force())),
                    None => (Source::Request, Arc::clone(&limit)),
                };
                let recorded = match &row {
                    Some(row) => record::Source::Pattern(row.pattern.id),
                    None => record::Source::Request,
                };
                let mut entry = Entry::new(key, id, shard, source, Arc::clone(&below));
                let mut ends = Live::default();
                entry.lay_over(Arc::clone(&limit), until, now, &mut ends);
                let born = Some(Born { shard, source: recorded, limit: below, key });
                (Event::Overlaid { id, at: now, limit, until, born, ends: ends.0 }, entry)
            }
        };
        entry.version = version;
        let events = [event];
        if let Some(grow) = room.fit(self, &events)? {
            return Ok(Attempt::Grow(grow));
        }
        room.append(self, &events, wait)?;
        let pattern = match entry.source() {
            Source::Pattern(slot) => self.registry.known().row(slot).map(|row| Arc::clone(&row.pattern)),
            _ => None,
        };
        self.join(entry.source(), pattern.as_ref(), &mut table.counts);
        table.insert(hash, entry, |key| self.hash(key));
        Ok(Attempt::Made(Configured::Done { created: true, number: table.count_configured() }))
    }

    fn configure_pattern<'a>(&'a self, table: &mut Table, asked: Asked<'_>, room: &mut Room<'a>) -> Result<Attempt> {
        let Asked { hash, key, limit, want, wait } = asked;
        let (now, shard, max_keys) = (self.clock.now(), shard_of(hash) as u8, want.max_keys);
        let Some(entry) = table.get(hash, key) else {
            if want.span != Span::Ever {
                return Err(rootless(want.key));
            }
            let id = self.next_pattern_id();
            let created = |at| [Event::Created { id, shard, at, limit: Arc::clone(limit), max_keys, key }];
            if let Some(grow) = room.fit(self, &created(now))? {
                return Ok(Attempt::Grow(grow));
            }
            let mut entry = Entry::new(key, id, shard, Source::Exact, Arc::clone(limit));
            self.registry.publish(|known| {
                let at = self.clock.now();
                room.append(self, &created(at), wait)?;
                entry.set_pattern(at, max_keys);
                known.add(want.key, id, Arc::clone(limit), None, at, max_keys);
                Ok::<(), Error>(())
            })?;
            table.insert(hash, entry, |key| self.hash(key));
            return Ok(Attempt::Made(Configured::Done { created: true, number: table.count_configured() }));
        };
        if is_same(entry, want) {
            return Ok(Attempt::Made(Configured::Same));
        }
        let id = entry.id();
        let slot = self.registry.known().get(want.key).map(|row| row.pattern.slot);
        let slot = slot.ok_or_else(|| Error::not_configured(want.key))?;
        // With a bound that is new, values for a time are two changes.
        let own = match want.span {
            Span::Ever => Some((Arc::clone(limit), max_keys)),
            _ if max_keys.is_some() && max_keys != entry.max_keys() => Some((Arc::clone(&entry.limit), max_keys)),
            _ => None,
        };
        let events = |at: Micros| {
            let own =
                own.clone().map(|(limit, max_keys)| Event::Reconfigured { id, at, limit, max_keys, ends: Vec::new() });
            let over = want.until(at).map(|until| Event::Overlaid {
                id,
                at,
                limit: Arc::clone(limit),
                until,
                born: None,
                ends: Vec::new(),
            });
            own.into_iter().chain(over).collect::<Vec<_>>()
        };
        if let Some(grow) = room.fit(self, &events(now))? {
            return Ok(Attempt::Grow(grow));
        }
        self.registry.publish(|known| {
            let at = self.clock.now();
            room.append(self, &events(at), wait)?;
            if let Some((limit, max_keys)) = own.clone() {
                entry.reconfigure(limit, max_keys, at, &mut Live::default());
            }
            if let Some(until) = want.until(at) {
                entry.lay_over(Arc::clone(limit), until, at, &mut Live::default());
            }
            known.edit(slot, |row| entry.show(row, at));
            Ok::<(), Error>(())
        })?;
        Ok(Attempt::Made(Configured::Done { created: false, number: table.count_configured() }))
    }
}

impl Core {
    /// The id of a new pattern. Elsewhere those of all servers are of one sequence.
    fn next_pattern_id(&self) -> u64 {
        self.noting.next_pattern().unwrap_or_else(|| self.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

/// The error of values for a time where none would come back.
pub fn rootless(pattern: &str) -> Error {
    Error::invalid(format!("for needs values to return to: configure the pattern `{pattern}` without it first"))
}

impl Want<'_> {
    /// Until when, if it is configured at `now`.
    pub fn until(&self, now: Micros) -> Option<Micros> {
        match self.span {
            Span::Ever => None,
            Span::For(length) => Some(now + length),
            Span::Until(until) => Some(until),
        }
    }
}

/// Whether an entry has the wanted permanent values. Temporary values start over each time.
fn is_same(entry: &Entry, want: &Want<'_>) -> bool {
    want.span == Span::Ever
        && entry.source() == Source::Exact
        && *entry.limit == want.limit
        && (entry.pattern_text().is_none() || entry.max_keys() == want.max_keys)
}
