//! What a lane knows of the store: its scratch limiter, and the version of each record that is loaded there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::super::errors::told;
use super::super::lease::Lease;
use super::super::link::{Found, Known};
use super::super::names;
use super::wire::Wire;
use crate::error::{Error, Result};
use crate::limiter::scratch::{Live, Name, Place, Scratch};

/// Records that are fetched at once.
pub const FETCHED_AT_ONCE: usize = 1024;

/// Patterns whose status is exact at once: each is looked for among all.
const MAX_SHOWN: usize = 256;

/// What is known of a record in the store.
#[derive(Debug, Clone, Copy)]
pub struct Stand {
    pub version: Known,
    /// In which lists its name stands.
    pub place: Place,
    /// The round in which it was last fetched or written.
    pub seen: u64,
}

/// Whether copies of earlier rounds are of use. Where several servers check the same keys in turn, an attempt that goes
/// by such a copy often loses, which costs the store several times as much as a fetch, and the operation a round.
#[derive(Debug, Default)]
pub struct Trust {
    /// Counts rounds.
    pub round: u64,
    /// The share of the last attempts by copies of earlier rounds that have lost.
    lost: f32,
    /// Copies that were judged by chance.
    samples: u32,
    /// Whether this round has written a key that was seen in the round before it.
    wrote_again: bool,
    /// Rounds in a row that did.
    streak: u32,
}

impl Trust {
    /// Of so many attempts the share that is lost is an average.
    const WEIGHT: f32 = 32.0;

    /// The share from which on a fetch is cheaper.
    const MOST_LOST: f32 = 0.15;

    /// Of so many copies one is kept in any case: to see whether they are of use again.
    const SAMPLED: u32 = 16;

    /// Operations in a group from which on its keys are kept: these are asked for in every round.
    const HOT: usize = 3;

    /// Rounds in a row that write the same key, after which other servers get a turn.
    const TURN: u32 = 128;

    /// Begins a round.
    pub fn begin_round(&mut self) {
        self.round += 1;
        self.wrote_again = false;
    }

    /// Notes that a key was written which was last seen in this round.
    pub fn note_written(&mut self, seen: u64) {
        self.wrote_again |= seen + 1 == self.round;
    }

    /// To be asked after each round: whether other servers are to get a turn now. The server that has written a key
    /// last is the first to know its new version, and could win it for seconds: others learn of each version too late.
    pub fn gives_turn(&mut self) -> bool {
        self.streak = if self.wrote_again { self.streak + 1 } else { 0 };
        let due = self.streak >= Trust::TURN;
        if due {
            self.streak = 0;
        }
        due
    }

    /// Whether a copy is of an earlier round than the last.
    pub fn is_old(&self, seen: u64) -> bool {
        seen + 1 < self.round
    }

    /// Notes how an attempt by old copies has ended.
    pub fn note(&mut self, lost: bool) {
        self.lost += (f32::from(u8::from(lost)) - self.lost) / Trust::WEIGHT;
    }

    /// Whether to keep the keys of a group of so many operations.
    pub fn keeps(&mut self, operations: usize) -> bool {
        if self.lost < Trust::MOST_LOST || operations >= Trust::HOT {
            return true;
        }
        self.samples = self.samples.wrapping_add(1);
        self.samples.is_multiple_of(Trust::SAMPLED)
    }
}

/// What was counted since it was last told to the store.
#[derive(Debug, Default)]
pub struct Tally {
    /// For patterns: allowed, denied, allowed cost, denied cost.
    pub counted: HashMap<u64, [u64; 4]>,
    /// Those of them that were counted for in the round that runs.
    pub fresh: Vec<u64>,
    /// For patterns, what the whole store had counted when it was told last.
    pub totals: HashMap<u64, [u64; 4]>,
    /// Keys that were born, less those that went.
    pub births: HashMap<Live, i64>,
    /// Checks that were allowed, and denied.
    pub decisions: (u64, u64),
}

impl Tally {
    /// Counts for a pattern what is to be told to the store.
    pub fn count(&mut self, pattern: u64, counted: &[u64; 4]) {
        let sums = self.counted.entry(pattern).or_default();
        sums.iter_mut().zip(counted).for_each(|(sum, counted)| *sum += counted);
    }
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
    pub mode: Mode,
    /// The slots of answers, in a Cluster.
    pub slots: HashMap<Name, u16>,
    /// The number of the lease's patterns that are loaded.
    lease: u64,
    pub known: HashMap<Name, Stand>,
    /// Loaded, and maybe not as the store has it.
    pub stale: HashSet<Name>,
    /// Records that were fetched in this round and could not be read.
    pub bad: HashMap<Name, Error>,
    pub trust: Trust,
    pub tally: Tally,
}

impl<W: Wire> Round<W> {
    pub fn new(scratch: Scratch, wire: W, mode: Mode) -> Round<W> {
        let mut stale = HashSet::new();
        if !matches!(mode, Mode::Keys(_)) {
            stale.insert(Name::Patterns);
        }
        Round {
            scratch,
            wire,
            mode,
            slots: HashMap::new(),
            lease: 0,
            known: HashMap::new(),
            stale,
            bad: HashMap::new(),
            trust: Trust::default(),
            tally: Tally::default(),
        }
    }

    /// Fetches what is stale.
    pub fn refresh(&mut self, deadline: Instant) -> Result<()> {
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
    pub fn fetch(&mut self, mut names: Vec<Name>, deadline: Instant) -> Result<()> {
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

    pub fn key(&self, name: &Name) -> Vec<u8> {
        let slot = match self.mode {
            Mode::All => None,
            Mode::Keys(_) | Mode::Patterns => Some(self.slots.get(name).copied().unwrap_or_default()),
        };
        names::key(name, slot)
    }

    /// Replaces what is known of a record. One that can't be read is not known, and whatever needs it fails.
    pub fn load(&mut self, name: &Name, found: Found) {
        let (version, loaded) = match &found {
            Found::Same => return,
            Found::Absent => (Known::Absent, self.scratch.load(name, None)),
            Found::Present(value) => (Known::Version(value.version()), self.scratch.load(name, Some(value.record()))),
        };
        self.stale.remove(name);
        if *name == Name::Patterns && self.tally.totals.len() <= MAX_SHOWN {
            // Their statuses tell what their record says, and no more.
            let counted: Vec<u64> = self.tally.totals.keys().chain(self.tally.counted.keys()).copied().collect();
            counted.into_iter().for_each(|pattern| self.show_counted(pattern));
        }
        match loaded {
            Ok(()) => {
                let place = self.scratch.place_of(name);
                self.known.insert(name.clone(), Stand { version, place, seen: self.trust.round });
            }
            Err(error) => {
                self.known.remove(name);
                self.bad.insert(name.clone(), error);
            }
        }
    }

    /// Notes what the whole store has counted for a pattern, what it is still to be told aside.
    pub fn set_totals(&mut self, pattern: u64, totals: [u64; 4]) {
        self.tally.totals.insert(pattern, totals);
        self.show_counted(pattern);
    }

    /// Has the status of a pattern tell what was counted for it until now.
    pub fn show_counted(&mut self, pattern: u64) {
        let mut sums = self.tally.totals.get(&pattern).copied().unwrap_or_default();
        if let Some(counted) = self.tally.counted.get(&pattern) {
            sums.iter_mut().zip(counted).for_each(|(sum, counted)| *sum += counted);
        }
        self.scratch.set_counted(pattern, sums);
    }

    /// The same for all patterns that were counted for in this round. Of very many the status lags by a second.
    pub fn show_fresh(&mut self) {
        let mut fresh = std::mem::take(&mut self.tally.fresh);
        if self.tally.totals.len() <= MAX_SHOWN {
            fresh.sort_unstable();
            fresh.dedup();
            fresh.into_iter().for_each(|pattern| self.show_counted(pattern));
        }
    }

    /// Lets go of the copy of a key.
    pub fn forget(&mut self, name: &Name) {
        if let Name::Key(key) = name
            && self.scratch.forget(key)
        {
            self.known.remove(name);
            self.stale.remove(name);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_kept_until_many_have_lost_and_again_when_few_do() {
        let mut trust = Trust { round: 7, ..Trust::default() };
        assert_eq!([5, 6, 7].map(|seen| trust.is_old(seen)), [true, false, false]);
        assert!((0..100).all(|_| trust.keeps(1)));
        (0..20).for_each(|n| trust.note(n % 2 == 0));
        assert_eq!((0..160).filter(|_| trust.keeps(1)).count(), 10);
        assert!((0..100).all(|_| trust.keeps(Trust::HOT)));
        (0..60).for_each(|_| trust.note(false));
        assert!((0..100).all(|_| trust.keeps(1)));
    }

    #[test]
    fn others_get_a_turn_after_many_rounds_that_wrote_one_key() {
        let mut trust = Trust::default();
        let mut round = |seen_before: u64| {
            trust.begin_round();
            trust.note_written(trust.round - seen_before);
            trust.gives_turn()
        };
        for _ in 0..3 {
            assert!((1..Trust::TURN).all(|_| !round(1)) && round(1));
        }
        // A round whose keys were all last seen earlier ends the streak.
        assert!((0..1000).all(|number| !round(if number % 100 == 0 { 2 } else { 1 })));
    }
}
