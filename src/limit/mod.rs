//! What a limit is and what it decides.
//!
//! Owns: the four algorithms, their state, and the rules of reconfiguration. Called by `limiter`, for live checks and
//! for replay alike. Everything here is a pure function of (state, limit, now, cost): no lock, no clock, no I/O, and
//! integer arithmetic only, so that replaying a log gives the state that was there.
//!
//! A check is three steps: [`State::advance`] brings the state to `now` (refills, opens the next window, forgets what
//! has expired; nothing is spent), [`State::quote`] decides without changing anything, [`State::spend`] spends.
//!
//! Each module may use only those after it in this list: `counting`, `validation`, `values`, `period`, `algorithm`,
//! `text`.

mod algorithm;
mod counting;
mod period;
#[cfg(test)]
mod tests;
mod text;
mod validation;
mod values;

pub use self::algorithm::Algorithm;
pub use self::counting::parts::StateParts;
pub use self::counting::quote::Quote;
pub use self::counting::state::State;
pub use self::period::{format_period, parse_period};
pub use self::text::excerpt;
pub use self::validation::{validate_cost, validate_key};
pub use self::values::Limit;
