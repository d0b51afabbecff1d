//! A limiter without a directory, whose records are handed in and taken out: it decides when the state is in a store
//! that several servers share.
//!
//! It is the ordinary [`Limiter`](super::Limiter), with a log that takes all and keeps nothing. Its owner, one thread,
//! does this for each operation:
//!
//! 1. [`Scratch::begin`], the operation on [`Scratch::limiter`], and [`Scratch::end`], which returns what it looked at,
//!    what it changed, and what is *missing*: looked at and not loaded. If anything is missing, the result is void and
//!    is undone; the records are fetched and handed to [`Scratch::load`], in this order, and the operation runs again.
//! 2. Several operations run one after the other. Those that share a name are one group ([`Looked::join`]): it is
//!    written or not as a whole. The records of what the group has changed come from [`Scratch::save`], after its last
//!    operation; that of each name that it touched is compared with what was loaded or written when the first of its
//!    operations ran that touched it: what is loaded between two of them (a later one may find that patterns are
//!    missing) was not what the earlier one saw, and may have led away what that has changed, so that it can't be
//!    saved. Such a group counts as not written.
//! 3. Written: [`Scratch::won`]. Not written, because another server was faster: [`Scratch::load`] of every name that
//!    the group touched, with the current records, undoes all of it; the operations run again.
//!
//! After an edit of patterns the instants at which records may vanish ([`Saved::until`]) are the old ones, and removed
//! patterns still have keys. So its owner goes through the keys that the old or the new patterns serve, and writes each
//! again: a group that touches the key and the patterns and changes the key. Nothing that is decided waits for that,
//! but what vanishes before it is forgotten too early, and a key that finds several edits at once moves as of the last,
//! without the values in between.
//!
//! Denials are counted at once and written with the next change of their key, or when the owner has
//! [`Scratch::unsaved_denials`] written as a separate group.
//!
//! Each module may use only those after it in this list: `directory`, `place`, `lane`, `load`, `save`, `state`,
//! `record`.

mod directory;
mod lane;
mod load;
mod place;
mod record;
mod save;
mod state;
#[cfg(test)]
mod tests;

pub use self::directory::{identity, read_records, with_counted, write_directory};
pub use self::lane::{Denied, Looked};
pub use self::place::Place;
pub use self::save::Saved;
pub use self::state::Scratch;
pub use super::notes::name::{Live, Name};
