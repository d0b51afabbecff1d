//! The handle by which a limiter notes what happens. An ordinary one notes nothing.

#[cfg(feature = "store")]
use std::sync::Arc;

#[cfg(feature = "store")]
use super::noted::Notes;
use crate::clock::Micros;

/// The handle. Without the feature `store` it takes no room, and none of what it does is there.
#[derive(Debug, Clone, Default)]
pub struct Noting(#[cfg(feature = "store")] Option<Arc<Notes>>);

#[cfg(feature = "store")]
impl Noting {
    pub fn of(notes: &Arc<Notes>) -> Noting {
        Noting(Some(Arc::clone(notes)))
    }

    /// The notes, if there are any and an operation is noted now.
    #[inline]
    fn notes(&self) -> Option<&Notes> {
        self.0.as_deref().filter(|notes| notes.is_on())
    }

    /// Whether an operation is noted now.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.notes().is_some()
    }

    /// Whether the limiter's records are kept elsewhere: its patterns may be those of a moment ago.
    #[inline]
    pub fn is_elsewhere(&self) -> bool {
        self.0.is_some()
    }

    /// Notes that it makes a difference which patterns there are.
    #[inline]
    pub fn patterns(&self) {
        if let Some(notes) = self.notes() {
            notes.patterns();
        }
    }

    /// Notes a denial of a key by its hash.
    #[inline]
    pub fn denied(&self, hash: u64, cost: u64, now: Micros) {
        if let Some(notes) = self.notes() {
            notes.denied(hash, cost, now);
        }
    }

    /// Notes a check of a key without an entry, by the id of its pattern: allowed, denied, allowed cost, denied cost.
    /// Whether that is all there is to do.
    #[inline]
    pub fn aside(&self, pattern: u64, totals: [u64; 4]) -> bool {
        self.notes().map(|notes| notes.aside(pattern, totals)).is_some()
    }

    /// The id of a new pattern, where those of all servers are of one sequence.
    pub fn next_pattern(&self) -> Option<u64> {
        self.notes().map(Notes::next_pattern)
    }

    /// Notes that a pattern was removed. Whether its slot is to be kept for now.
    pub fn retired(&self, slot: u32) -> bool {
        self.notes().map(|notes| notes.retired(slot)).is_some()
    }

    /// Sets whether what is looked at now is not to be written.
    pub fn set_silent(&self, is_silent: bool) {
        if let Some(notes) = self.notes() {
            notes.set_silent(is_silent);
        }
    }
}

#[cfg(not(feature = "store"))]
impl Noting {
    #[inline]
    pub fn is_on(&self) -> bool {
        false
    }

    #[inline]
    pub fn is_elsewhere(&self) -> bool {
        false
    }

    #[inline]
    pub fn patterns(&self) {}

    #[inline]
    pub fn denied(&self, _hash: u64, _cost: u64, _now: Micros) {}

    #[inline]
    pub fn aside(&self, _pattern: u64, _totals: [u64; 4]) -> bool {
        false
    }

    #[inline]
    pub fn next_pattern(&self) -> Option<u64> {
        None
    }

    #[inline]
    pub fn retired(&self, _slot: u32) -> bool {
        false
    }

    #[inline]
    pub fn set_silent(&self, _is_silent: bool) {}
}
