//! The scratch limiter itself.

use std::ops::Range;

use crate::clock::{Clock, Micros};
use crate::error::Result;
use crate::limiter::core::Limiter;
use crate::limiter::notes::name::{Live, Name};

/// What an operation looked at and changed, or all operations of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Looked at, and not loaded: what was decided means nothing. All of them are touched too.
    pub missing: Vec<Name>,
    /// All that could have made a difference to what was decided, each once, in no order.
    pub touched: Vec<Name>,
    /// What has another record than before, or none any more. All of them are touched too.
    pub changed: Vec<Name>,
    /// What was counted for patterns by id: allowed, denied, allowed cost, denied cost. To be added to what the store
    /// has counted for these, once the group is written.
    pub counted: Vec<(u64, [u64; 4])>,
    /// Keys that were born, less those that went, by what they live by.
    pub births: Vec<(Live, i64)>,
    /// Whether a hold found no number: the operation failed for that. To run it again after
    /// [`Scratch::set_hold_numbers`].
    pub wants_numbers: bool,
    /// Denials that were told: name, checks, units, and when the last of them was.
    pub(super) denied: Vec<(Name, u64, u64, Micros)>,
}

impl Looked {
    /// Whether what was decided means something: nothing is missing, and no number of a hold was wanted in vain.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && !self.wants_numbers
    }

    /// Whether anything is to be written.
    pub fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// One group of two.
    pub fn join(&mut self, other: Looked) {
        let _ = other;
        todo!()
    }
}

/// A record that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub record: Vec<u8>,
    /// From when on the record makes no difference, so that it may vanish, in microseconds since the epoch; rounded up,
    /// without a margin. `None`: never.
    pub until: Option<Micros>,
}

/// A limiter whose records are handed in and taken out. For one thread at a time.
pub struct Scratch {
    limiter: Limiter,
}

impl Scratch {
    /// One that knows nothing yet: [`Name::Patterns`] is to be loaded first.
    ///
    /// Ids of holds are made of `identity`, which all servers of a store share. `max_keys` is the bound on keys that
    /// live by what requests brought. It never waits, has no thread and no file.
    pub fn new(clock: Clock, identity: &[u8; 16], max_keys: u64, max_holds: u64) -> Scratch {
        let _ = (clock, identity, max_keys, max_holds);
        todo!()
    }

    /// What operations run on. Those that look at all keys see only what is loaded: [`Limiter::reset`] of a pattern,
    /// [`Limiter::reset_prefix`], [`Limiter::remove_prefix`], [`Limiter::apply`] with `prune`, and lists.
    ///
    /// [`Limiter::remove`] of a pattern is for here: its keys go, or are led to other patterns, when they are next
    /// loaded.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Replaces what is known of a name by its record in the store; `None`: there is none. Denials of it that were told
    /// and are not written yet are added. The clock is raised to the instants in it.
    ///
    /// # Errors
    /// `corrupt` for a record that is damaged, `unsupported` for one of a newer Flint, each with the name; nothing is
    /// known of it then.
    pub fn load(&mut self, name: &Name, record: Option<&[u8]>) -> Result<()> {
        let _ = (name, record);
        todo!()
    }

    /// Whether a name is loaded.
    pub fn is_loaded(&self, name: &Name) -> bool {
        let _ = name;
        todo!()
    }

    /// How many names are loaded, for a bound on memory.
    pub fn loaded(&self) -> usize {
        todo!()
    }

    /// Forgets all but patterns and what has denials that are not written yet. Between groups only.
    pub fn forget_all(&mut self) {
        todo!()
    }

    /// Begins an operation.
    pub fn begin(&mut self) {
        todo!()
    }

    /// What the operation since [`Scratch::begin`] looked at and changed.
    pub fn end(&mut self) -> Looked {
        todo!()
    }

    /// The record of a name as it is now; `None` where it is gone, so that what the store has is to be deleted.
    pub fn save(&mut self, name: &Name) -> Option<Saved> {
        let _ = name;
        todo!()
    }

    /// Notes that a group was written, or that what it touched was found to be as it was: what it told is so.
    pub fn won(&mut self, group: &Looked) {
        let _ = group;
        todo!()
    }

    /// Names of keys with denials that were told and are not written yet. To write them: a group with these names in
    /// [`Looked::touched`] and [`Looked::changed`].
    pub fn unsaved_denials(&self) -> Vec<Name> {
        todo!()
    }

    /// Sets how many keys live by a pattern or by what requests brought, in the whole store. Births and deaths here are
    /// counted from then on.
    pub fn set_live(&mut self, of: Live, count: u64) {
        let _ = (of, count);
        todo!()
    }

    /// How many live, as far as is known here.
    pub fn live(&self, of: Live) -> u64 {
        let _ = of;
        todo!()
    }

    /// Sets what was counted for a pattern in the whole store since its record was written ([`Looked::counted`]), for
    /// its status: allowed, denied, allowed cost, denied cost.
    pub fn set_counted(&mut self, pattern: u64, totals: [u64; 4]) {
        let _ = (pattern, totals);
        todo!()
    }

    /// Ids and texts of the patterns that are loaded.
    pub fn patterns(&self) -> Vec<(u64, String)> {
        todo!()
    }

    /// Gives numbers to the holds to come, each once in the store. They must be greater than those that were given
    /// before, and be less than 2^62 with their low bits ([`Scratch::set_hold_low`]).
    pub fn set_hold_numbers(&mut self, numbers: Range<u64>) {
        let _ = numbers;
        todo!()
    }

    /// The low bits of the holds to come: a hold's number is one of the range, shifted by so many bits, with these.
    /// None of them at first.
    pub fn set_hold_low(&mut self, bits: u32, low: u64) {
        let _ = (bits, low);
        todo!()
    }

    /// The number of a hold by its id; `None` where this store has never given it.
    pub fn hold_number(&self, id: &str) -> Option<u64> {
        let _ = id;
        todo!()
    }
}
