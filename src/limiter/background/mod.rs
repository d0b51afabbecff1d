//! What goes on beside the requests: denials are written, the log is compacted.
//!
//! Arrows go down this list: `helpers`, `denials`, `compact`.

pub mod compact;
pub mod denials;
pub mod helpers;
