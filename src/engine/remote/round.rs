//! One round of a lane: operations are run on the scratch limiter, joined, sent, and answered or kept for another round.
//!
//! The scratch limiter is a copy of some of the store's records. What an operation changes in it stands only if the
//! store takes it: each group of operations is one attempt, which says what versions its records are known by. An
//! attempt that loses comes back with the records of now; these replace the copy, and its operations run again in the
//! next round. After an error nobody knows what the store has, so the copy is *stale*: fetched anew before it is used.
//!
//! In a Cluster the records of an attempt must share a slot, and that of all patterns is in one of its own. So lanes for
//! keys know patterns by a [`Lease`], and a lane for patterns knows nothing else.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::group::{Group, Touched, join};
use super::link::{Attempt, ErrorKind, Found, Known, LinkError, Mark, Outcome, Part, Write};
use super::lease::{IN_TIME, LEASE, Lease};
use super::names;
use super::wire::Wire;
use crate::engine::interface::{Done, Operation};
use crate::error::{Error, Kind, Result};
use crate::limiter::scratch::{Live, Looked, Name, Place, Scratch};

/// Numbers of holds that are set aside at once.
const NUMBERS_AT_ONCE: u64 = 1024;

/// How much longer than it makes a difference a record is left to the store, in milliseconds.
const MARGIN_MS: u64 = 60_000;

/// Records that are fetched at once.
const FETCHED_AT_ONCE: usize = 1024;

/// Tells the outcome of an operation, once: dropped before, that nobody takes it any more.
pub struct Answer(Option<Done>);

impl Answer {
    pub fn new(done: Done) -> Answer {
        Answer(Some(done))
    }

    pub fn give(mut self, outcome: Result<()>) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(closed()));
        }
    }
}

/// The error of operations that no lane takes any more.
pub fn closed() -> Error {
    Error::new(Kind::StoreUnavailable, "the server is stopping; ask another one")
}

/// An operation that waits for its outcome.
pub struct Job {
    pub operation: Operation,
    pub answer: Answer,
    /// When it has to have one.
    pub deadline: Instant,
    /// How often it was run and lost.
    pub losses: u32,
    /// In a Cluster the slot of its keys.
    pub slot: Option<u16>,
}

/// An operation in a round.
struct Turn {
    job: Job,
    looked: Looked,
    /// Its outcome, if that is known before anything is sent.
    ended: Option<Result<()>>,
}

/// What is known of a record in the store.
#[derive(Debug, Clone, Copy)]
struct Stand {
    version: Known,
    /// In which lists its name stands.
    place: Place,
}

/// What was counted since it was last told to the store.
#[derive(Debug, Default)]
pub struct Tally {
    /// For patterns: allowed, denied, allowed cost, denied cost.
    pub counted: HashMap<u64, [u64; 4]>,
    /// Keys that were born, less those that went.
    pub births: HashMap<Live, i64>,
    /// Checks that were allowed, and denied.
    pub decisions: (u64, u64),
}

/// What a lane is for.
#[derive(Clone)]
pub enum Mode {
    /// All: one attempt may have any records.
    All,
    /// Keys of a Cluster, and their holds and answers: those of an attempt share a slot.
    Keys(Arc<Lease>),
    /// The patterns of a Cluster.
    Patterns,
}

/// The scratch limiter of a lane, its link, and what it knows of the store.
pub struct Round<W> {
    pub scratch: Scratch,
    pub wire: W,
    mode: Mode,
    /// The slots of answers, in a Cluster.
    slots: HashMap<Name, u16>,
    /// The number of the lease's patterns that are loaded.
    lease: u64,
    known: HashMap<Name, Stand>,
    /// Loaded, and maybe not as the store has it.
    stale: HashSet<Name>,
    /// Records that were fetched in this round and could not be read.
    bad: HashMap<Name, Error>,
    pub tally: Tally,
}

/// A record that an attempt looks at or changes.
struct Planned {
    name: Name,
    key: Vec<u8>,
    known: Known,
    change: Option<Change>,
    /// Where it stands in lists then.
    place: Place,
}

enum Change {
    Put(Vec<u8>, Option<u64>),
    Delete,
}

impl<W: Wire> Round<W> {
    pub fn new(scratch: Scratch, wire: W, mode: Mode) -> Round<W> {
        let mut stale = HashSet::new();
        if !matches!(mode, Mode::Keys(_)) {
            stale.insert(Name::Patterns);
        }
        Round { scratch, wire, mode, slots: HashMap::new(), lease: 0, known: HashMap::new(), stale, bad: HashMap::new(), tally: Tally::default() }
    }

    /// Runs operations. Returns those that lost, in their order; all others are answered.
    pub fn run(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let Some(deadline) = jobs.iter().map(|job| job.deadline).min() else { return Vec::new() };
        if let Err(error) = self.refresh(deadline) {
            jobs.into_iter().for_each(|job| job.answer.give(Err(error.clone())));
            return Vec::new();
        }
        self.bad.clear();
        let turn = |job| Turn { job, looked: Looked::default(), ended: None };
        let mut turns: Vec<Turn> = jobs.into_iter().map(turn).collect();
        self.decide(&mut turns, deadline);
        self.send(&mut turns, deadline);
        let mut lost = Vec::new();
        for Turn { job, ended, .. } in turns {
            match ended {
                Some(ended) => job.answer.give(ended),
                None => lost.push(Job { losses: job.losses + 1, ..job }),
            }
        }
        lost
    }

    /// Fetches what is stale.
    fn refresh(&mut self, deadline: Instant) -> Result<()> {
        if let Mode::Keys(lease) = &self.mode
            && let Some((number, record)) = lease.newer(self.lease)
        {
            self.scratch.load(&Name::Patterns, record.as_deref())?;
            self.lease = number;
        }
        while !self.stale.is_empty() {
            let names: Vec<Name> = self.stale.iter().cloned().collect();
            self.fetch(names, deadline)?;
        }
        Ok(())
    }

    /// Loads what the store has under these names; patterns come first.
    fn fetch(&mut self, mut names: Vec<Name>, deadline: Instant) -> Result<()> {
        names.sort_unstable_by_key(|name| *name != Name::Patterns);
        for names in names.chunks(FETCHED_AT_ONCE) {
            let keys: Vec<Vec<u8>> = names.iter().map(|name| self.key(name)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let found = self.wire.fetch(&keys, deadline).map_err(|error| told(&error, false))?;
            for (name, found) in names.iter().zip(found) {
                self.load(name, found);
            }
        }
        Ok(())
    }

    fn key(&self, name: &Name) -> Vec<u8> {
        let slot = match self.mode {
            Mode::All => None,
            Mode::Keys(_) | Mode::Patterns => Some(self.slots.get(name).copied().unwrap_or_default()),
        };
        names::key(name, slot)
    }

    /// Replaces what is known of a record. One that can't be read is not known, and whatever needs it fails.
    fn load(&mut self, name: &Name, found: Found) {
        let (version, loaded) = match &found {
            Found::Same => return,
            Found::Absent => (Known::Absent, self.scratch.load(name, None)),
            Found::Present(value) => {
                (Known::Version(value.version()), self.scratch.load(name, Some(value.record())))
            }
        };
        self.stale.remove(name);
        match loaded {
            Ok(()) => {
                let place = self.scratch.place_of(name);
                self.known.insert(name.clone(), Stand { version, place });
            }
            Err(error) => {
                self.known.remove(name);
                self.bad.insert(name.clone(), error);
            }
        }
    }

    /// Runs all operations, until each has seen all that it looked at, or has ended. What an operation did that was not
    /// complete is put back already.
    fn decide(&mut self, turns: &mut [Turn], deadline: Instant) {
        let mut left: Vec<usize> = (0..turns.len()).collect();
        while !left.is_empty() {
            let (mut names, mut wants_numbers, mut panicked) = (HashSet::new(), false, Vec::new());
            let mut again = Vec::new();
            for index in left {
                let turn = &mut turns[index];
                turn.ended = self.run_one(turn);
                if turn.ended.is_some() {
                    panicked.push(index);
                    continue;
                }
                turn.ended = self.refusal(&turn.looked).map(Err);
                self.note_slot(turn);
                if turn.ended.is_some() {
                    if turn.looked.is_changed() {
                        panicked.push(index);
                    } else {
                        turn.looked = Looked::default();
                    }
                } else if !turn.looked.is_complete() {
                    names.extend(turn.looked.missing.iter().cloned());
                    wants_numbers |= turn.looked.wants_numbers;
                    again.push(index);
                }
            }
            self.put_back(turns, &panicked, &mut names, &mut again);
            if again.is_empty() && names.is_empty() {
                return;
            }
            let numbers = if wants_numbers { self.take_numbers(deadline) } else { Ok(()) };
            if let Err(error) = numbers.and_then(|()| self.fetch(names.into_iter().collect(), deadline)) {
                for index in again {
                    turns[index].looked = Looked::default();
                    turns[index].ended = Some(Err(error.clone()));
                }
                return;
            }
            again.sort_unstable();
            again.dedup();
            left = again;
        }
    }

    /// What operations have changed that came to a bad end, and all that saw it, never was: the records are to be fetched
    /// again, and the other operations run again.
    fn put_back(&mut self, turns: &mut [Turn], ended: &[usize], names: &mut HashSet<Name>, again: &mut Vec<usize>) {
        if ended.is_empty() {
            return;
        }
        for group in groups(turns) {
            if !group.operations.iter().any(|index| ended.contains(index)) {
                continue;
            }
            let changed = group.names.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name);
            names.extend(changed);
            again.extend(group.operations.into_iter().filter(|index| turns[*index].ended.is_none()));
        }
        ended.iter().for_each(|index| turns[*index].looked = Looked::default());
        // Should they not be fetched now, they are not used.
        self.stale.extend(names.iter().filter(|name| self.known.contains_key(*name)).cloned());
    }

    /// Why an operation can't be made: it needs a record that can't be read, or records that can't change together.
    fn refusal(&self, looked: &Looked) -> Option<Error> {
        if let Some(error) = looked.missing.iter().find_map(|name| self.bad.get(name)) {
            return Some(error.clone());
        }
        match &self.mode {
            Mode::All => None,
            Mode::Keys(lease) => {
                if looked.changed.contains(&Name::Patterns) {
                    return Some(apart_from_patterns());
                }
                if looked.touched.contains(&Name::Patterns) && !lease.is_fresh() {
                    return Some(lease.error());
                }
                names::apart(&looked.touched).map(|(one, other)| cross_slot(one, other))
            }
            Mode::Patterns => {
                let only = looked.touched.iter().all(|name| *name == Name::Patterns);
                (!only).then(apart_from_patterns)
            }
        }
    }

    /// Notes in which slot the answer to a request is kept. One that was kept in another slot is another answer.
    fn note_slot(&mut self, turn: &Turn) {
        let Some(slot) = turn.job.slot else { return };
        for name in turn.looked.touched.iter().filter(|name| matches!(name, Name::Answer(_))) {
            if self.slots.insert(name.clone(), slot).is_some_and(|former| former != slot) {
                self.stale.insert(name.clone());
            }
        }
    }

    /// Runs an operation. Returns its outcome if it panicked.
    fn run_one(&mut self, turn: &mut Turn) -> Option<Result<()>> {
        if let Some(slot) = turn.job.slot {
            self.scratch.set_hold_low(names::SLOT_BITS, slot.into());
        }
        self.scratch.begin();
        let ran = catch_unwind(AssertUnwindSafe(|| (turn.job.operation)(self.scratch.limiter())));
        turn.looked = self.scratch.end();
        ran.err().map(|panic| {
            drop(panic);
            log::error!("an operation panicked, which is a defect of Flint; nothing was changed by it");
            let what = "the request met a defect of Flint, and nothing was changed; please report it";
            Err(Error::new(Kind::Internal, what))
        })
    }

    /// Sets numbers aside for holds to come.
    fn take_numbers(&mut self, deadline: Instant) -> Result<()> {
        let counters = [(names::NUMBERS, NUMBERS_AT_ONCE as i64)];
        let last = self.wire.add(&counters, deadline).map_err(|error| told(&error, false))?;
        let end = last.first().map_or(0, |last| (*last).max(0) as u64) + 1;
        self.scratch.set_hold_numbers(end.saturating_sub(NUMBERS_AT_ONCE)..end);
        Ok(())
    }

    /// Sends each group as one attempt. Turns without an outcome have lost.
    fn send(&mut self, turns: &mut [Turn], deadline: Instant) {
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
            match outcome {
                Ok(Outcome::Won(version)) => {
                    let mut all = Looked::default();
                    for index in &group.operations {
                        all.join(std::mem::take(&mut turns[*index].looked));
                        turns[*index].ended = Some(Ok(()));
                    }
                    self.win(planned, version, &all);
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
        let Stand { version: known, place } =
            self.known.get(name).copied().unwrap_or(Stand { version: Known::Absent, place: Place::None });
        let key = self.key(name);
        let (change, place) = match changed {
            false => (None, place),
            true => match self.scratch.save(name)? {
                Some(saved) => {
                    let expires = saved.until.map(|until| until.div_ceil(1000).saturating_add(MARGIN_MS));
                    (Some(Change::Put(saved.record, expires)), self.scratch.place_of(name))
                }
                None if known == Known::Absent => (None, Place::None),
                None => (Some(Change::Delete), Place::None),
            },
        };
        Ok(Planned { name: name.clone(), key, known, change, place })
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
            marks.extend(new.iter().filter(|member| !old.contains(member)).map(|(list, member)| (*list, member.clone(), true)));
        }
        marks
    }

    /// A group was written, or what it looked at was found to be as it was.
    fn win(&mut self, planned: Vec<Planned>, version: super::link::Version, all: &Looked) {
        for part in planned {
            let version = match part.change {
                None => continue,
                Some(Change::Put(..)) => Known::Version(version),
                Some(Change::Delete) => Known::Absent,
            };
            self.known.insert(part.name, Stand { version, place: part.place });
        }
        for (pattern, counted) in &all.counted {
            let sums = self.tally.counted.entry(*pattern).or_default();
            sums.iter_mut().zip(counted).for_each(|(sum, counted)| *sum += counted);
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

    /// Lets go of copies, if there are more than so many.
    pub fn bound(&mut self, most: usize) {
        if self.scratch.loaded() > most {
            self.scratch.forget_all();
            let scratch = &self.scratch;
            self.known.retain(|name, _| scratch.is_loaded(name));
            self.stale.retain(|name| scratch.is_loaded(name));
            self.slots.clear();
        }
    }
}

/// Ends the operations of a group with an error.
fn end(turns: &mut [Turn], group: &Group<Name>, error: &Error) {
    group.operations.iter().for_each(|index| turns[*index].ended = Some(Err(error.clone())));
}

fn groups(turns: &[Turn]) -> Vec<Group<Name>> {
    let touched: Vec<Touched<'_, Name>> = turns
        .iter()
        .map(|turn| Touched { looked: &turn.looked.touched, changed: &turn.looked.changed })
        .collect();
    join(&touched, |name| *name == Name::Patterns)
}

fn part_of(part: &Planned) -> Part<'_> {
    let write = match &part.change {
        None => Write::Keep,
        Some(Change::Put(record, expire_at_ms)) => Write::Put { record, expire_at_ms: *expire_at_ms },
        Some(Change::Delete) => Write::Delete,
    };
    Part { key: &part.key, known: part.known, write }
}

/// What users are told of an error of the link. `writes`: whether something was to be written.
pub fn told(error: &LinkError, writes: bool) -> Error {
    let kind = match error.kind() {
        ErrorKind::OutcomeUnknown if writes => Kind::OutcomeUnknown,
        // Its sentence says that it is written, and may be lost.
        ErrorKind::TooFewReplicas => Kind::StoreUnavailable,
        ErrorKind::Unavailable | ErrorKind::OutcomeUnknown | ErrorKind::Refused => Kind::StoreUnavailable,
        ErrorKind::CrossSlot => Kind::CrossSlot,
        ErrorKind::Corrupt => Kind::Corrupt,
    };
    Error::new(kind, error.message())
}

fn cross_slot(one: &str, other: &str) -> Error {
    let what = format!(
        "the keys `{one}` and `{other}` are in different slots of the Cluster, so they can't be spent together; give them a \
         common tag, such as `{{user:42}}:a` and `{{user:42}}:b`"
    );
    Error::new(Kind::CrossSlot, what)
}

fn apart_from_patterns() -> Error {
    let what = "patterns and limits of single keys can't be changed together in a Cluster; send each kind for itself";
    Error::new(Kind::CrossSlot, what)
}
