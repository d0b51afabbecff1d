//! One round of a lane: operations are run on the scratch limiter, joined, sent, and answered or kept for another
//! round.
//!
//! The scratch limiter is a copy of some of the store's records. What an operation changes in it stands only if the
//! store takes it: each group of operations is one attempt, which says what versions its records are known by. An
//! attempt that loses comes back with the records of now; these replace the copy, and its operations run again in the
//! next round. After an error nobody knows what the store has, so the copy is *stale*: fetched anew before it is used.
//!
//! In a Cluster the records of an attempt must share a slot, and that of all patterns is in one of its own. So lanes
//! for keys know patterns by a [`Lease`], and a lane for patterns knows nothing else.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::super::errors::{apart_from_patterns, cross_slot, told};
use super::super::names;
use super::job::{Job, Turn, groups};
use super::state::{Mode, Round};
use super::wire::Wire;
use crate::error::{Error, Kind, Result};
use crate::limiter::scratch::{Looked, Name};

/// Numbers of holds that are set aside at once.
const NUMBERS_AT_ONCE: u64 = 1024;

impl<W: Wire> Round<W> {
    /// Runs operations. Returns those that lost, in their order; all others are answered.
    pub fn run(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let Some(deadline) = jobs.iter().map(|job| job.deadline).min() else { return Vec::new() };
        if let Err(error) = self.refresh(deadline) {
            jobs.into_iter().for_each(|job| job.answer.give(Err(error.clone())));
            return Vec::new();
        }
        self.bad.clear();
        self.trust.begin_round();
        let turn = |job| Turn { job, looked: Looked::default(), ended: None };
        let mut turns: Vec<Turn> = jobs.into_iter().map(turn).collect();
        self.decide(&mut turns, deadline);
        self.send(&mut turns, deadline);
        self.show_fresh();
        let mut lost = Vec::new();
        for Turn { job, ended, .. } in turns {
            match ended {
                Some(ended) => job.answer.give(ended),
                None => lost.push(Job { losses: job.losses + 1, ..job }),
            }
        }
        lost
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
            self.put_back(turns, |index| panicked.contains(&index), &mut names, &mut again);
            if names.contains(&Name::Patterns) {
                // With new patterns go the copies of all keys, and what was decided on these.
                self.put_back(turns, |_| true, &mut names, &mut again);
            }
            panicked.iter().for_each(|index| turns[*index].looked = Looked::default());
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

    /// What lost operations have changed, and all that saw it, never was: the records are to be fetched again, and the
    /// operations that have not ended run again.
    fn put_back(
        &mut self,
        turns: &[Turn],
        is_lost: impl Fn(usize) -> bool,
        names: &mut HashSet<Name>,
        again: &mut Vec<usize>,
    ) {
        if !(0..turns.len()).any(&is_lost) {
            return;
        }
        for group in groups(turns) {
            if !group.operations.iter().any(|index| is_lost(*index)) {
                continue;
            }
            let changed = group.names.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name);
            names.extend(changed);
            again.extend(group.operations.into_iter().filter(|index| turns[*index].ended.is_none()));
        }
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
}
