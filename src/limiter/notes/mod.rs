//! What an operation looks at and changes, noted for a limiter whose records are kept elsewhere (`scratch`).
//!
//! Owns: whether anything is noted now, and what is noted of all structures together. What was looked at is noted by
//! each structure in its own journal, with what was there before, so that it can be undone. Only what is in a record of
//! the log is changed: each change of the limiter queues one, or a crash would undo it.
//!
//! Each module may use only those after it in this list: `noting`, `noted`, `name`.

#[cfg(feature = "store")]
pub mod name;
#[cfg(feature = "store")]
pub mod noted;
pub mod noting;
