//! The keys of a shard, and what is counted of them.
//!
//! Each module may use only those after it in this list: `table`, `journal`, `chunks`, `recorded`, `key`, `tag`,
//! `text`, `shares`.

mod chunks;
#[cfg(feature = "store")]
mod journal;
mod key;
mod recorded;
mod shares;
mod table;
mod tag;
mod text;

pub use self::chunks::Chunks;
#[cfg(feature = "store")]
pub use self::journal::{Journal, Look};
pub use self::key::{Change, Entry, Source};
pub use self::shares::{Counts, Shares};
pub use self::table::{Swept, Table};
#[cfg(feature = "store")]
pub use self::tag::GENERATIONS;
pub use self::text::Text;
