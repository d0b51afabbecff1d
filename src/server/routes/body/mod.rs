//! Request bodies: from JSON to values, without copying what need not be, with errors that name the field.
//!
//! Each module may use only those after it in this list: `listed`, `limits`, `holds`, `checks`, `values`, `object`,
//! `syntax`, `scalars`.

mod checks;
mod holds;
mod limits;
mod listed;
mod object;
mod scalars;
mod syntax;
#[cfg(test)]
mod tests;
mod values;

pub use self::checks::{Check, Items};
pub use self::holds::{Asked, Charge, Hold, Peek, Renew, Settle};
pub use self::limits::{Reset, Settings, ToReset, parse_settings};
pub use self::listed::parse_listed;
pub use self::object::{parse, parse_empty};
