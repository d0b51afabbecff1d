//! Many limits at once, in bounded memory.
//!
//! Arrows go down this list: `listing`, `least`.

mod least;
pub mod listing;
