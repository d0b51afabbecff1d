//! Background work, a thread each: `flint-denials` writes totals of denials to the log, `flint-compact` compacts it.
//!
//! Each module may use only those after it in this list: `helpers`, `denials`, `compact`.

pub mod compact;
pub mod denials;
pub mod helpers;
