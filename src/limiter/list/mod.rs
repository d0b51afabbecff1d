//! Many limits at once, in bounded memory.
//!
//! Each module may use only those after it in this list: `listing`, `parts`, `least`.

mod least;
pub mod listing;
pub mod parts;
