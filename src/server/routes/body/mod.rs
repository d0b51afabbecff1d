//! Request bodies: from JSON to values, without copying what need not be, with errors that name the field.
//!
//! Each module may use only those after it in this list: `listed`, `limits`, `checks`, `values`, `object`, `scalars`.

mod checks;
mod limits;
mod listed;
mod object;
mod scalars;
#[cfg(test)]
mod tests;
mod values;

pub use self::checks::{Check, Items};
pub use self::limits::{Reset, Settings, ToReset, parse_settings};
pub use self::listed::parse_listed;
pub use self::object::{parse, parse_empty};
