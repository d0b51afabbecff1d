//! A limiter without a directory, whose records are handed in and taken out: the one that decides where the state is
//! kept in a store that several servers share.
//!
//! It is the ordinary [`Limiter`](super::Limiter), with a log that takes all and keeps nothing. Its owner, one thread,
//! does this for each operation:
//!
//! 1. [`Scratch::begin`], the operation on [`Scratch::limiter`], and [`Scratch::end`], which tells what it looked at,
//!    what it changed, and what is *missing*: looked at and not loaded. Where anything is missing the result means
//!    nothing: its records are fetched and handed to [`Scratch::load`], with all that the operation has changed, and it
//!    runs again.
//! 2. Several operations run one after the other. Those that share a name are one group ([`Looked::join`]): it is
//!    written or not as a whole. The records of what the group has changed come from [`Scratch::save`], after its last
//!    operation; that of each name that it touched is compared with what was last loaded or written.
//! 3. Written: [`Scratch::won`]. Not written, since another server was faster: [`Scratch::load`] of every name that the
//!    group touched, with the records of now, puts all of it back; the operations run again.
//!
//! Denials are counted at once and written with the next change of their key, or when the owner has
//! [`Scratch::unsaved_denials`] written as a group of their own.
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
