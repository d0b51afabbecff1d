//! What a key has counted under its limit.

use super::parts::Parts;
use super::quote::Verdict;
use crate::clock::Micros;
use crate::limit::calendar::Ends;
use crate::limit::values::Limit;

/// What a key has counted: the state of each window of its limit, and of windows of earlier values that still count.
/// Every method is given the limit under which the key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {}

impl Standing {
    /// Nothing spent.
    pub fn new(_limit: &Limit) -> Standing {
        todo!()
    }

    /// As plain numbers, for a snapshot.
    pub(crate) fn parts(&self) -> Parts {
        todo!()
    }

    /// From plain numbers that were written for `limit`; what cannot have been written is clamped.
    pub(crate) fn restore(_limit: &Limit, _parts: &Parts) -> Standing {
        todo!()
    }

    /// Brings it to `now`. Changes no later decision.
    pub fn advance(&mut self, _limit: &Limit, _now: Micros) {
        todo!()
    }

    /// Decides whether `cost` may be spent at `now`, to which it was advanced. Opens nothing, changes nothing; `ends`
    /// may be asked for the end of a calendar window that this check would open.
    pub fn quote(&self, _limit: &Limit, _now: Micros, _cost: u64, _ends: &mut dyn Ends) -> Verdict {
        todo!()
    }

    /// As [`Standing::quote`] for nothing: how it stands.
    pub fn glance(&self, _limit: &Limit, _now: Micros, _ends: &mut dyn Ends) -> Verdict {
        todo!()
    }

    /// Spends `cost` at `now`, to which it was advanced, also past the limit, and in the resting windows too (none of
    /// which under `unlimited`).
    pub fn spend(&mut self, _limit: &Limit, _now: Micros, _cost: u64, _ends: &mut dyn Ends) {
        todo!()
    }

    /// Takes new values at `at`: what was spent stays spent.
    pub fn reconfigure(&mut self, _old: &Limit, _new: &Limit, _at: Micros, _ends: &mut dyn Ends) {
        todo!()
    }

    /// Whether nothing that was spent still counts at `now`, to which it was advanced.
    pub fn is_untouched(&self, _limit: &Limit, _now: Micros) -> bool {
        todo!()
    }
}
