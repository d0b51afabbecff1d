//! Groups of operations on their way to the store: each is one attempt.

use std::time::Instant;

use super::super::errors::told;
use super::super::lease::{IN_TIME, LEASE};
use super::super::link::{Attempt, Found, Known, LinkError, Mark, Outcome, Part, Version, Write};
use super::super::names;
use super::group::Group;
use super::job::{Turn, end, groups};
use super::state::{FETCHED_AT_ONCE, Mode, Round, Stand};
use super::wire::Wire;
use crate::error::Result;
use crate::limiter::scratch::{Looked, Name, Place};

/// A record that an attempt looks at or changes.
struct Planned {
    name: Name,
    key: Vec<u8>,
    known: Known,
    change: Option<Change>,
    /// Where it stands in lists then.
    place: Place,
    /// Whether it goes by a copy of an earlier round, of a key.
    is_old: bool,
}

enum Change {
    Put(Vec<u8>, Option<u64>),
    Delete,
}

impl<W: Wire> Round<W> {
    /// Sends each group as one attempt. Turns without an outcome have lost.
    pub fn send(&mut self, turns: &mut [Turn], deadline: Instant) {
        let groups = groups(turns);
        for turn in turns.iter_mut().filter(|turn| turn.looked.touched.is_empty() && turn.ended.is_none()) {
            // It looked at nothing, such as a request with an argument out of range.
            turn.ended = Some(Ok(()));
        }
        if groups.is_empty() {
            return;
        }
        let by_patterns = groups.iter().any(|group| group.names.iter().any(|(name, _)| *name == Name::Patterns));
        let deadline = match self.mode {
            Mode::Keys(_) if by_patterns => deadline.min(Instant::now() + IN_TIME),
            _ => deadline,
        };
        let mut planned: Vec<Vec<Planned>> = Vec::with_capacity(groups.len());
        let groups: Vec<Group<Name>> = groups
            .into_iter()
            .filter(|group| match group.names.iter().map(|name| self.plan(name)).collect() {
                Ok(parts) => {
                    planned.push(parts);
                    true
                }
                Err(error) => {
                    self.stale.extend(group.names.iter().map(|(name, _)| name.clone()));
                    end(turns, group, &error);
                    false
                }
            })
            .collect();
        let outcomes = self.exchange(&planned, deadline);
        if matches!(self.mode, Mode::Patterns) && planned.iter().flatten().any(|part| part.change.is_some()) {
            // Until no server goes by what was before.
            std::thread::sleep(LEASE + IN_TIME);
        }
        for ((group, planned), outcome) in groups.iter().zip(planned).zip(outcomes) {
            let writes = planned.iter().any(|part| part.change.is_some());
            if planned.iter().any(|part| part.is_old)
                && let Ok(outcome) = &outcome
            {
                self.trust.note(matches!(outcome, Outcome::Lost(_)));
            }
            match outcome {
                Ok(Outcome::Won(version)) => {
                    let mut all = Looked::default();
                    for index in &group.operations {
                        all.join(std::mem::take(&mut turns[*index].looked));
                        turns[*index].ended = Some(Ok(()));
                    }
                    self.win(planned, version, &all);
                    if !self.trust.keeps(group.operations.len()) {
                        group.names.iter().for_each(|(name, _)| self.forget(name));
                    }
                }
                Ok(Outcome::Lost(found)) => self.lose(planned, found),
                Err(error) => {
                    self.stale.extend(planned.into_iter().map(|part| part.name));
                    end(turns, group, &told(&error, writes));
                }
            }
        }
    }

    /// What an attempt has to say of a name.
    fn plan(&mut self, (name, changed): &(Name, bool)) -> Result<Planned> {
        let nothing = Stand { version: Known::Absent, place: Place::None, seen: self.trust.round };
        let Stand { version: known, place, seen } = self.known.get(name).copied().unwrap_or(nothing);
        let key = self.key(name);
        let (change, place) = match changed {
            false => (None, place),
            true => match self.scratch.save(name)? {
                Some(saved) => {
                    let expires = names::expire_at_ms(&saved);
                    (Some(Change::Put(saved.record, expires)), self.scratch.place_of(name))
                }
                None if known == Known::Absent => (None, Place::None),
                None => (Some(Change::Delete), Place::None),
            },
        };
        let is_old = matches!(name, Name::Key(_)) && self.trust.is_old(seen);
        Ok(Planned { name: name.clone(), key, known, change, place, is_old })
    }

    fn exchange(
        &mut self,
        planned: &[Vec<Planned>],
        deadline: Instant,
    ) -> Vec<std::result::Result<Outcome, LinkError>> {
        let members: Vec<Vec<(u8, Vec<u8>, bool)>> = planned.iter().map(|parts| self.marks(parts)).collect();
        let attempts: Vec<Attempt<'_>> = planned
            .iter()
            .zip(&members)
            .map(|(parts, members)| Attempt {
                parts: parts.iter().filter(|part| self.is_sent(part)).map(part_of).collect(),
                marks: members
                    .iter()
                    .map(|(list, member, present)| Mark { list: *list, member, present: *present })
                    .collect(),
            })
            .collect();
        self.wire.exchange(&attempts, deadline)
    }

    /// Whether a record is in the attempt: in a Cluster that of all patterns lies elsewhere.
    fn is_sent(&self, part: &Planned) -> bool {
        !matches!(self.mode, Mode::Keys(_)) || part.name != Name::Patterns
    }

    /// The changes of lists that belong to an attempt.
    fn marks(&self, parts: &[Planned]) -> Vec<(u8, Vec<u8>, bool)> {
        let mut marks = Vec::new();
        for part in parts.iter().filter(|part| part.change.is_some()) {
            let before = self.known.get(&part.name).map_or(Place::None, |stand| stand.place);
            if before == part.place {
                continue;
            }
            let (old, new) = (names::members(&part.name, before), names::members(&part.name, part.place));
            let gone = old.iter().filter(|member| !new.contains(member));
            marks.extend(gone.map(|(list, member)| (*list, member.clone(), false)));
            marks.extend(
                new.iter().filter(|member| !old.contains(member)).map(|(list, member)| (*list, member.clone(), true)),
            );
        }
        marks
    }

    /// A group was written, or what it looked at was found to be as it was.
    fn win(&mut self, planned: Vec<Planned>, version: Version, all: &Looked) {
        for part in planned {
            let version = match part.change {
                // Seen to be as it was.
                None => {
                    if let Some(stand) = self.known.get_mut(&part.name) {
                        stand.seen = self.trust.round;
                    }
                    continue;
                }
                Some(Change::Put(..)) => Known::Version(version),
                Some(Change::Delete) => Known::Absent,
            };
            let stand = Stand { version, place: part.place, seen: self.trust.round };
            let is_key = matches!(part.name, Name::Key(_));
            if let Some(before) = self.known.insert(part.name, stand).filter(|_| is_key) {
                self.trust.note_written(before.seen);
            }
        }
        for (pattern, counted) in &all.counted {
            self.tally.fresh.push(*pattern);
            self.tally.count(*pattern, counted);
        }
        for (live, births) in &all.births {
            *self.tally.births.entry(*live).or_default() += births;
        }
        self.tally.decisions.0 += all.decisions.0;
        self.tally.decisions.1 += all.decisions.1;
        self.scratch.won(all);
    }

    /// A group was not written: what the store has replaces all that it touched.
    fn lose(&mut self, planned: Vec<Planned>, found: Vec<Found>) {
        let mut found = found.into_iter();
        for part in planned {
            let found = if self.is_sent(&part) { found.next() } else { Some(Found::Same) };
            match found {
                // As it was before these operations; the copy has what they made of it.
                None | Some(Found::Same) if part.change.is_some() => {
                    self.stale.insert(part.name);
                }
                None | Some(Found::Same) => {}
                Some(found) => self.load(&part.name, found),
            }
        }
    }

    /// Writes the denials that were told and are not in the store yet. What another server has changed meanwhile is
    /// left for the next call.
    pub fn write_denials(&mut self, deadline: Instant) -> Result<()> {
        self.refresh(deadline)?;
        let names = self.scratch.unsaved_denials();
        let missing = names.iter().filter(|name| !self.scratch.is_loaded(name)).cloned().collect();
        self.fetch(missing, deadline)?;
        for names in names.chunks(FETCHED_AT_ONCE) {
            // What can't be read can't be added to.
            let names: Vec<&Name> = names.iter().filter(|name| self.scratch.is_loaded(name)).collect();
            let plan = |name: &&Name| self.plan(&(Name::clone(name), true)).map(|part| vec![part]);
            let planned: Vec<Vec<Planned>> = names.iter().map(plan).collect::<Result<_>>()?;
            let outcomes = self.exchange(&planned, deadline);
            for ((name, planned), outcome) in names.iter().zip(planned).zip(outcomes) {
                match outcome {
                    Ok(Outcome::Won(version)) => {
                        let mut looked = Looked::default();
                        looked.touched.push(Name::clone(name));
                        looked.changed.push(Name::clone(name));
                        self.win(planned, version, &looked);
                    }
                    Ok(Outcome::Lost(found)) => self.lose(planned, found),
                    Err(error) => {
                        self.stale.insert(Name::clone(name));
                        return Err(told(&error, true));
                    }
                }
            }
        }
        Ok(())
    }
}

fn part_of(part: &Planned) -> Part<'_> {
    let write = match &part.change {
        None => Write::Keep,
        Some(Change::Put(record, expire_at_ms)) => Write::Put { record, expire_at_ms: *expire_at_ms },
        Some(Change::Delete) => Write::Delete,
    };
    Part { key: &part.key, known: part.known, write }
}
