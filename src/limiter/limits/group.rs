//! Several limits that are configured or removed at once: all or none, even after a crash.
//!
//! An array of limits may be longer than any record. So what is intended is written first, in as many records as it
//! takes, of which the last one decides. The changes follow with their usual records, and then a record that all is
//! done. A start that finds a group decided and not done does what is left of it.
//!
//! The lock of edits is held from the first of these records to the last: what is done again at a start can undo no
//! later change. A compaction takes it while it begins a new segment, so that no group is cut by that.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::Room;
use super::configure::{Configured, Span, Want};
use super::setting::Setting;
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::Limit;
use crate::limiter::check::wait::Wait;
use crate::limiter::core::{Core, Limiter};
use crate::limiter::entry::Source;
use crate::limiter::registry::{Edit, Group, Intended};
use crate::store::encode::encoded_len;
use crate::store::record::{Event, Intent};

/// Length of one record of what is intended, in bytes, up to which more goes into it.
const CHUNK: usize = 32 * 1024;

/// What making the configured limits the same as a list changed, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Limits that did not exist before.
    pub added: u64,
    /// Limits that got other values.
    pub changed: u64,
    /// Limits that were not in the list.
    pub removed: u64,
}

impl Limiter {
    /// Configures several limits, all or none of them, even after a crash. Returns for each whether it is new.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use flint::Setting;
    ///
    /// let settings =
    ///     [Setting::new("user:*", "100/1m".parse()?), Setting::new("user:admin", flint::Limit::unlimited())];
    /// assert_eq!(limiter.configure_all(&settings)?, [true, true]);
    /// assert_eq!(limiter.configure_all(&settings)?, [false, false]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `invalid_argument` for a bad setting, and for a key that is given twice; `log_failed`, `overloaded`.
    pub fn configure_all(&self, settings: &[Setting<'_>]) -> Result<Vec<bool>> {
        let core = &*self.core;
        let wants = wants(settings)?;
        let edit = core.begin_edit()?;
        let created = wants.iter().map(|want| !core.is_configured(want.key)).collect();
        let wants: Vec<Want<'_>> = wants.into_iter().filter(|want| !core.is_same(want)).collect();
        core.change_all(edit, &wants, &[])?;
        // What is so already may be waited for by another call.
        core.finish_all(&Wait::of_change(core.sync))?;
        Ok(created)
    }

    /// Sets the configured limits to the settings, as far as they name them. With `prune`, limits that they do not name
    /// are removed, except temporary values, which end by themselves. All or nothing, even after a crash. With
    /// `dry_run` nothing is changed: it only reports.
    ///
    /// # Errors
    /// As [`Limiter::configure_all`].
    pub fn apply(&self, settings: &[Setting<'_>], prune: bool, dry_run: bool) -> Result<Applied> {
        let core = &*self.core;
        let wants = wants(settings)?;
        let edit = core.begin_edit()?;
        let mut applied = Applied::default();
        let named: HashSet<&str> = wants.iter().map(|want| want.key).collect();
        let mut others = if prune { core.configured("") } else { Vec::new() };
        others.retain(|key| !named.contains(&**key) && core.has_own(key));
        let wants: Vec<Want<'_>> = wants.into_iter().filter(|want| !core.is_same(want)).collect();
        for want in &wants {
            let count = if core.is_configured(want.key) { &mut applied.changed } else { &mut applied.added };
            *count += 1;
        }
        applied.removed = others.len() as u64;
        if !dry_run {
            core.change_all(edit, &wants, &others)?;
            core.finish_all(&Wait::of_change(core.sync))?;
        }
        Ok(applied)
    }

    /// Whether values are configured for this key or pattern that do not end by themselves.
    #[cfg(feature = "store")]
    pub(crate) fn has_own(&self, key: &str) -> bool {
        self.core.has_own(key)
    }
}

/// What the settings ask for, once all are valid.
fn wants<'a>(settings: &[Setting<'a>]) -> Result<Vec<Want<'a>>> {
    let wants: Vec<Want<'a>> = settings.iter().map(Want::of).collect::<Result<_>>()?;
    let mut seen = HashSet::new();
    match wants.iter().find(|want| !seen.insert(want.key)) {
        Some(twice) => Err(Error::invalid(format!("the key `{}` is given twice; leave one of them out", twice.key))),
        None => Ok(wants),
    }
}

impl Core {
    /// The lock of edits, once what an earlier group has left is done.
    pub fn begin_edit(&self) -> Result<Edit<'_>> {
        let mut edit = self.registry.edit();
        // A log that has failed takes no change, also of a limit that is not there.
        self.log()?.reserve_now(0, 0)?;
        if let Some(group) = edit.take() {
            self.go_on(&mut edit, group)?;
        }
        Ok(edit)
    }

    /// Whether an operator has configured this key or pattern.
    fn is_configured(&self, key: &str) -> bool {
        let (hash, key) = self.place(key);
        let mut table = self.shard(hash);
        let now = self.clock.now();
        table.get(hash, &key).is_some_and(|entry| entry.is_configured(now))
    }

    /// Whether an operator has configured values permanently for this key or pattern.
    fn has_own(&self, key: &str) -> bool {
        let (hash, key) = self.place(key);
        self.shard(hash).get(hash, &key).is_some_and(|entry| entry.source() == Source::Exact)
    }

    /// Configures and removes as one group, and queues its records.
    fn change_all(&self, mut edit: Edit<'_>, wants: &[Want<'_>], removed: &[Box<str>]) -> Result<()> {
        let now = self.clock.now();
        match (wants, removed) {
            ([], []) => return Ok(()),
            // One change is whole by itself.
            ([want], []) => return self.configure(want, &Wait::Not).map(|_| ()),
            ([], [key]) => return self.remove(key, &Wait::Not),
            _ => {}
        }
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let wanted = wants.iter().map(|want| Intended {
            key: want.key.into(),
            limit: Some(self.registry.intern(&want.limit)),
            max_keys: want.max_keys,
            until: want.until(now),
        });
        let removed = removed.iter().map(|key| Intended { key: key.clone(), limit: None, max_keys: None, until: None });
        // New patterns are there before keys are led away from old ones.
        let mut left: Vec<Intended> = wanted.chain(removed).collect();
        // What may fail before anything is changed comes first; the rest must not.
        for want in left.iter().filter(|want| want.until.is_some()) {
            self.refuse_rootless(want)?;
        }
        self.write_intents(number, now, &left)?;
        left.reverse();
        self.go_on(&mut edit, Group { number, left })
    }

    /// Values of a pattern for a time need some that come back, in the same group at the latest.
    fn refuse_rootless(&self, want: &Intended) -> Result<()> {
        if crate::limit::is_pattern(&want.key) && !self.is_configured(&want.key) {
            return Err(super::configure::rootless(&want.key));
        }
        Ok(())
    }

    /// Writes what is intended. With the last of these records it is decided.
    fn write_intents(&self, group: u64, at: Micros, items: &[Intended]) -> Result<()> {
        let mut rest = items;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|item| {
                let fits = bytes < CHUNK;
                bytes += encoded_len(&event(group, false, at, std::slice::from_ref(*item)));
                fits
            });
            let (some, more) = rest.split_at(fit.count());
            let events = [event(group, more.is_empty(), at, some)];
            self.queue(&events)?;
            rest = more;
        }
        Ok(())
    }

    /// Queues records under no shard's lock.
    fn queue(&self, events: &[Event<'_>]) -> Result<()> {
        let mut room = Room::default();
        if let Some(grow) = room.fit(self, events)? {
            room.grow(self, grow)?;
        }
        room.append(self, events, &Wait::Not)
    }

    /// Does what is left of a group. What an error cuts short is left for the next edit, or for a start.
    fn go_on(&self, edit: &mut Edit<'_>, mut group: Group) -> Result<()> {
        while let Some(next) = group.left.last() {
            let done = match &next.limit {
                Some(limit) => self.configure_intended(next, limit),
                None => match self.remove(&next.key, &Wait::Not) {
                    // It was done already.
                    Err(error) if error.kind() == Kind::LimitNotConfigured => Ok(()),
                    other => other,
                },
            };
            if let Err(error) = done {
                **edit = Some(group);
                return Err(error);
            }
            group.left.pop();
        }
        let number = group.number;
        self.queue(&[Event::Done { group: number }]).inspect_err(|_| **edit = Some(group))
    }

    fn configure_intended(&self, next: &Intended, limit: &Arc<Limit>) -> Result<()> {
        let span = next.until.map_or(Span::Ever, Span::Until);
        let want = Want { key: &next.key, limit: Limit::clone(limit), span, max_keys: next.max_keys };
        match self.configure(&want, &Wait::Not)? {
            Configured::Same | Configured::Done { .. } => Ok(()),
        }
    }
}

fn event<'a>(group: u64, last: bool, at: Micros, items: &'a [Intended]) -> Event<'a> {
    let intent = |item: &'a Intended| Intent {
        limit: item.limit.clone(),
        max_keys: item.max_keys,
        until: item.until,
        key: &item.key,
    };
    Event::Intended { group, last, at, items: items.iter().map(intent).collect() }
}
