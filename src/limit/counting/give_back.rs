//! What goes back to a key: units that were held and not needed, and refunds.
//!
//! Each window gives back by its own rule, and never more than was spent there and still counts:
//!
//! - A **bucket** forgets what was spent by refilling. A bucket that was full since has forgotten all of it, so nothing
//!   goes back where [`State::full_at`] is after the hold. Until then what was held is among what is missing, except
//!   for what was refilled. That may have been refilled for the hold or for what others spent; a bucket doesn't know,
//!   and gives the units back up to its capacity. So where the bucket without the hold would have been full meanwhile,
//!   it has more than without the hold, by at most the units that go back.
//! - A **fixed window** forgets at its end. Units go back while the hold's instant lies in the open window; then they
//!   are among what is used.
//! - A **sliding counter** has them in the count of the window in which the hold's instant lies: this one or the last.
//! - A **log** has them under the hold's instant, rounded up to its step, until it forgets that.
//! - A window that **rests** had everything that was spent since it began, so it follows the same rules. Under values
//!   without windows nothing is spent in those that rest, and nothing goes back to them.
//! - The **ceiling** falls by what every window of the limit gave back, that is the least of it: what one of them has
//!   forgotten was spent, as far as that window says, and its rate is what the ceiling promises to hold. So a hold of
//!   before the ceiling, which the ceiling may never have counted, takes nothing from it.
//!
//! No count falls below zero. A counter or log that comes to nothing is as a new one, so that the next spend opens a
//! new window: everything that opened the old one went back.
//!
//! What was held before the periods or algorithms of the limit changed is not given back: what counts of it may be part
//! of a lump by now. [`Standing::reconfigure`] says so to buckets ([`State::forget_holds`]); counters and logs have no
//! place for it, so the key keeps that instant.
//!
//! Nothing here depends on when the key was looked at, so a replay gives back the same.

use super::rest::Rest;
use super::standing::{Kind, More, Standing};
use super::state::State;
use crate::clock::Micros;
use crate::limit::values::Limit;
use crate::limit::window::Window;

impl Standing {
    /// Gives back `units` that were spent at `held_at`, at `now`, to which it was advanced: in each window as far as
    /// they still count there.
    pub fn give_back(&mut self, limit: &Limit, held_at: Micros, now: Micros, units: u64) {
        self.give(limit, now, |state, window| state.give_back(window, held_at, units));
    }

    /// Gives back `units` at `now`, to which it was advanced: in each window no more than is used there; of a log the
    /// newest first, of a sliding counter only what was spent in its current window.
    pub fn refund(&mut self, limit: &Limit, now: Micros, units: u64) {
        self.give(limit, now, |state, window| state.refund(window, units));
    }

    fn give(&mut self, limit: &Limit, now: Micros, mut give: impl FnMut(&mut State, &Window) -> u64) {
        match (&mut self.0, limit.windows()) {
            (Kind::One(state), [window]) => {
                give(state, window);
            }
            // Under `unlimited` and slots nothing is spent in windows.
            (Kind::More(_), []) => {}
            (Kind::More(more), windows) => {
                let More { states, rest: Rest { windows: resting, ceiling } } = &mut **more;
                let given = states.iter_mut().zip(windows).map(|(state, window)| give(state, window)).min();
                resting.iter_mut().for_each(|(window, state)| {
                    give(state, window);
                });
                if let (Some(ceiling), Some(given)) = (ceiling, given) {
                    ceiling.give(given);
                }
            }
            _ => {}
        }
        // As a look would find it: a ceiling of nothing goes.
        self.advance(limit, now);
    }
}

impl State {
    /// Gives back units that were spent at an instant, as far as they still count. Returns how many.
    fn give_back(&mut self, window: &Window, held_at: Micros, units: u64) -> u64 {
        match self {
            State::Bucket(_) | State::Debt(_) if self.full_at() > held_at => 0,
            State::Bucket(_) | State::Debt(_) => self.refund(window, units),
            State::Events(log) => log.give_back(held_at, units),
            State::Window(open) => open.give_back(held_at, units),
            State::Pair(pair) => pair.give_back(window, held_at, units),
        }
    }

    /// Gives back units of what counts now: of a log the newest, of a sliding counter those of this window. Returns how
    /// many.
    fn refund(&mut self, window: &Window, units: u64) -> u64 {
        match self {
            State::Bucket(bucket) => bucket.give(window, units),
            State::Debt(debt) => {
                let given = units.min(debt.used(window));
                if let Some(bucket) = debt.give(window, given) {
                    *self = State::Bucket(bucket);
                }
                given
            }
            State::Events(log) => log.give(units),
            State::Window(open) => open.give(units),
            State::Pair(pair) => pair.give(units),
        }
    }
}
