//! What kind of thing a record is of, for the lists in which its name stands.

use super::state::Scratch;
use crate::clock::Micros;
use crate::limiter::core::shard_of;
use crate::limiter::entry::Source;
use crate::limiter::notes::name::{Live, Name};

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// There is none.
    None,
    /// A key.
    Key {
        /// Whether it is configured, or has values for a time.
        configured: bool,
        /// What it lives under, if it comes and goes.
        live: Option<Live>,
    },
    /// A limit that keys share which found no room.
    Overflow,
    Patterns,
    /// A hold.
    Hold {
        /// When it expires, if it is open.
        until: Option<Micros>,
    },
    Answer,
}

impl Scratch {
    /// What the record of a loaded name is of.
    pub fn place_of(&self, name: &Name) -> Place {
        let core = &*self.limiter().core;
        match name {
            Name::Patterns => Place::Patterns,
            Name::Hold(number) => core.holds.lock().get(*number).map_or(Place::None, |pledge| Place::Hold {
                until: pledge.settlement.is_none().then_some(pledge.until),
            }),
            Name::Answer(key) if core.answers.lock().has(key) => Place::Answer,
            Name::Answer(_) => Place::None,
            Name::Key(key) => {
                let hash = core.hash(key);
                let mut table = core.shards[shard_of(hash)].lock();
                let (Some(entry), counts) = table.get_with_counts(hash, key) else { return Place::None };
                let live = match entry.source() {
                    Source::Exact => None,
                    Source::Overflow => return Place::Overflow,
                    Source::Request => Some(Live::Requested),
                    Source::Pattern(slot) => counts.shares.get(slot).map(|share| Live::Pattern(share.pattern.id)),
                };
                Place::Key { configured: live.is_none() || entry.overlay().is_some(), live }
            }
        }
    }
    /// How many keys may live under a pattern, or by what requests brought.
    pub fn most_live(&self, of: Live) -> u64 {
        let registry = &self.limiter().core.registry;
        match of {
            Live::Requested => registry.max_requested,
            Live::Pattern(id) => {
                let known = registry.known();
                known.rows().find(|row| row.pattern.id == id).map_or(0, |row| row.max_keys)
            }
        }
    }
}
