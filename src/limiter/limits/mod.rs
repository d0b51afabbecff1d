//! Limits: configured, looked at, reset, removed; one, several at once, or all that begin with a text.
//!
//! A thread that configures or removes holds the lock of edits until all its records are queued, so that the log has
//! these changes in the order in which they were decided.
//!
//! Each module may use only those after it in this list: `group`, `configure`, `remove`, `reset`, `change`, `setting`,
//! `status`.

mod change;
mod configure;
mod group;
mod remove;
mod reset;
mod setting;
mod status;

pub use self::group::Applied;
#[cfg(feature = "store")]
pub use self::remove::{led, place_in_removal};
pub use self::setting::Setting;
#[cfg(feature = "store")]
pub use self::setting::validate_prefix;
