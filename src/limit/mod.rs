//! What a limit is and what it decides.
//!
//! Owns: windows and limits, the four algorithms, their state, the rules of reconfiguration, and the calendar. Called
//! by `limiter`, for live checks and for replay alike. Everything here is a pure function of (state, limit, now, cost)
//! and of the zone data where a calendar window opens: no clock, no file but the zone data, no lock that is held during
//! a decision, and integer arithmetic only, so that replaying a log gives the same state.
//!
//! A check is three steps: [`Standing::advance`] brings the state to `now` (refills, forgets what has expired; nothing
//! is spent), [`Standing::quote`] decides without changing anything, [`Standing::spend`] spends.
//!
//! Each module may use only those after it in this list: `counting`, `patterns`, `validation`, `values`, `calendar`,
//! `window`, `period`, `zone`, `algorithm`, `text`.

mod algorithm;
mod calendar;
mod counting;
mod patterns;
mod period;
mod text;
mod validation;
mod values;
mod window;
mod zone;

#[cfg(test)]
pub(crate) mod tests;

pub use self::algorithm::Algorithm;
pub use self::calendar::{Ends, Live, Recorded, bounds_of};
pub use self::counting::parts::{CeilingParts, Parts, StateParts};
pub use self::counting::quote::{Detail, Quote, Quotes, Verdict};
pub use self::counting::standing::Standing;
pub use self::patterns::{PatternSet, is_pattern, is_preferred, matches};
pub use self::period::{CalendarUnit, Period, format_length, parse_length};
pub use self::text::excerpt;
pub use self::validation::{validate_cost, validate_key};
pub use self::values::{Limit, Mode};
pub use self::window::{Fields, Window};
pub use self::zone::Zone;
