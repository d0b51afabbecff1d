//! What happens in the background: denials are written, the log is compacted, keys that nothing counts for
//! are swept, files that were removed are written again.
//!
//! Each module may use only those after it in this list: `helpers`, `backup`, `denials`, `heal`, `compact`, `sweep`.

pub mod backup;
pub mod compact;
pub mod denials;
pub mod heal;
pub mod helpers;
pub mod sweep;
