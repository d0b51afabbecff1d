//! The scratch limiter: what is loaded, and how it is made.

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::record::Removed;
use crate::bounds::SHARDS;
use crate::clock::{Clock, Micros};
use crate::limiter::core::{Core, Limiter, Shard};
use crate::limiter::entry::{Entry, Journal, Source, Table};
use crate::limiter::held::Holds;
use crate::limiter::held::book::Book;
use crate::limiter::held::id::Ids;
use crate::limiter::held::outside::Outside;
use crate::limiter::notes::name::{Live, Name};
use crate::limiter::notes::noted::Notes;
use crate::limiter::notes::noting::Noting;
use crate::limiter::options::SyncMode;
use crate::limiter::registry::Registry;
use crate::store::Log;

/// Ids of entries begin at least here, so that those of patterns are never among them, and are random from there on: no
/// two keys of the same name, of any server, have the same.
const FIRST_ID: u64 = 1 << 40;

/// Denials that were reported and are in no record yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// Id and generation of the entry.
    pub entry: (u64, u64),
    pub checks: u64,
    pub units: u64,
    pub last: Micros,
}

/// A limiter whose records are handed in and taken out. For one thread at a time.
pub struct Scratch {
    pub(super) limiter: Limiter,
    pub(super) notes: Arc<Notes>,
    pub(super) keys: HashSet<Arc<str>>,
    /// Of each hold that is loaded the keys on which its items were decided, where these are not their own.
    pub(super) holds: HashMap<u64, Vec<Option<Arc<str>>>>,
    pub(super) answers: HashSet<[u8; 16]>,
    pub(super) patterns: bool,
    /// How many patterns were removed so far, and the last of them.
    pub(super) removals: u64,
    pub(super) removed: Vec<Removed>,
    /// What the patterns' record has of their totals.
    pub(super) totals: HashMap<u64, [u64; 4]>,
    pub(super) unsaved: HashMap<Arc<str>, Unsaved>,
    /// Keys that were led away from patterns here, and may have to come back.
    pub(super) led: Vec<Arc<str>>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("loaded", &self.loaded()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// A limiter that knows nothing yet: [`Name::Patterns`] is to be loaded first.
    ///
    /// Ids of holds are made of `identity`, which all servers of a store share. `max_keys` is the bound on keys that
    /// live under what requests brought. It never waits, has no thread and no file.
    pub fn new(clock: Clock, identity: &[u8; 16], max_keys: u64, max_holds: u64) -> Scratch {
        let notes = Arc::new(Notes::default());
        let mut registry = Registry::new(max_keys);
        registry.noting = Noting::of(&notes);
        let mut book = Book::default();
        book.outside = Some(Box::new(Outside::new(&notes)));
        let holds = Holds::new(book, Ids::of(identity), max_holds);
        let hasher = RandomState::new();
        // Nothing waits for a log that keeps nothing, but what is relaxed does not even ask.
        let mut core = Core::new(clock, SyncMode::Relaxed, registry, hasher, holds);
        core.noting = Noting::of(&notes);
        core.directory = *identity;
        core.next_id = AtomicU64::new(FIRST_ID + core.hash("the first id") % (FIRST_ID << 6));
        core.answers.lock().looks = Some(Vec::new());
        let shard = |shard: usize| {
            let mut table = Table::default();
            table.journal = Some(Box::new(Journal::new(&notes, shard as u8)));
            Shard(Mutex::new(table))
        };
        core.shards = (0..SHARDS).map(shard).collect();
        let taker = Arc::clone(&notes);
        core.sink = Some(Log::sink(Box::new(move |event| taker.event(event))));
        Scratch {
            limiter: Limiter { core: Arc::new(core) },
            notes,
            keys: HashSet::new(),
            holds: HashMap::new(),
            answers: HashSet::new(),
            patterns: false,
            removals: 0,
            removed: Vec::new(),
            totals: HashMap::new(),
            unsaved: HashMap::new(),
            led: Vec::new(),
        }
    }

    /// What operations run on. Those that look at all keys see only what is loaded: [`Limiter::reset`] of a pattern,
    /// [`Limiter::reset_prefix`], [`Limiter::remove_prefix`], [`Limiter::apply`] with `prune`, and lists.
    ///
    /// [`Limiter::remove`] of a pattern is for here: its keys go, or are led to other patterns, when they are next
    /// loaded.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    pub(super) fn core(&self) -> &Core {
        &self.limiter.core
    }

    pub(super) fn table(&self, hash: u64) -> MutexGuard<'_, Table> {
        self.core().shard(hash)
    }

    /// Whether a name is loaded.
    pub fn is_loaded(&self, name: &Name) -> bool {
        match name {
            Name::Key(key) => self.keys.contains(key),
            Name::Patterns => self.patterns,
            Name::Hold(number) => self.holds.contains_key(number),
            Name::Answer(key) => self.answers.contains(key),
        }
    }

    /// How many names are loaded, for a bound on memory.
    pub fn loaded(&self) -> usize {
        self.keys.len() + self.holds.len() + self.answers.len()
    }

    /// The name of a key; the one copy of it, if it is loaded.
    pub(super) fn name(&self, key: &str) -> Arc<str> {
        self.keys.get(key).map_or_else(|| key.into(), Arc::clone)
    }

    /// Sets how many keys live under a pattern or under what requests brought, in the whole store. Births and deaths
    /// here are counted from then on.
    pub fn set_live(&mut self, of: Live, count: u64) {
        self.with_live(of, |live| live.store(count, Ordering::Relaxed));
    }

    /// How many live, as far as is known here.
    pub fn live(&self, of: Live) -> u64 {
        self.with_live(of, |live| live.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn with_live<T>(&self, of: Live, with: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let registry = &self.core().registry;
        match of {
            Live::Requested => Some(with(&registry.requested)),
            Live::Pattern(id) => {
                registry.known().rows().find(|row| row.pattern.id == id).map(|row| with(&row.pattern.live))
            }
        }
    }

    /// What an entry lives under, if it comes and goes.
    pub(super) fn lives_by(&self, entry: &Entry) -> Option<Live> {
        match entry.source() {
            Source::Exact | Source::Overflow => None,
            Source::Request => Some(Live::Requested),
            Source::Pattern(slot) => self.core().registry.known().row(slot).map(|row| Live::Pattern(row.pattern.id)),
        }
    }

    /// Ids and texts of the patterns that are loaded.
    pub fn patterns(&self) -> Vec<(u64, String)> {
        let known = self.core().registry.known();
        known.rows().map(|row| (row.pattern.id, row.pattern.text.to_string())).collect()
    }

    /// Gives numbers to the holds to come, each once in the store. They must be greater than those that were given
    /// before, and be less than 2^62 with their low bits ([`Scratch::set_hold_low`]).
    pub fn set_hold_numbers(&mut self, numbers: Range<u64>) {
        if let Some(outside) = &mut self.core().holds.lock().outside {
            outside.set_numbers(numbers);
        }
    }

    /// The low bits of the holds to come: a hold's number is one of the range, shifted by this many bits, with these.
    /// None of them at first.
    pub fn set_hold_low(&mut self, bits: u32, low: u64) {
        if let Some(outside) = &mut self.core().holds.lock().outside {
            outside.set_low(bits, low);
        }
    }

    /// The number of a hold by its id; `None` if this store has never given it.
    pub fn hold_number(&self, id: &str) -> Option<u64> {
        self.core().holds.ids.read(id)
    }
}
