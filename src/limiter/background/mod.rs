//! What goes on beside the requests: denials are written, the log is compacted, keys that nothing counts for are swept.
//!
//! Each module may use only those after it in this list: `helpers`, `backup`, `denials`, `compact`, `sweep`.

pub mod backup;
pub mod compact;
pub mod denials;
pub mod helpers;
pub mod sweep;
