//! A data directory as records, and records as a data directory.

use std::path::Path;

use super::lane::Saved;
use crate::clock::Clock;
use crate::error::Result;
use crate::limiter::core::Limiter;
use crate::limiter::notes::name::Name;

/// What the ids of holds of an open data directory are made of.
///
/// # Errors
/// `io`.
pub fn identity(dir: &Path) -> Result<[u8; 16]> {
    let _ = dir;
    todo!()
}

/// Hands out the records of all keys, patterns, holds and kept answers of an open data directory, the patterns first.
/// Nothing should be changed meanwhile. What is untouched is left out.
///
/// # Errors
/// Those of `each`.
pub fn read_records(limiter: &Limiter, each: &mut dyn FnMut(Name, Saved) -> Result<()>) -> Result<()> {
    let _ = (limiter, each);
    todo!()
}

/// Makes a data directory of records, in which the ids of holds are made of `identity`. Returns how many limits and
/// keys there are.
///
/// # Errors
/// `invalid_argument` if the directory has files of a limiter already; `corrupt` and `unsupported`, which name the
/// record; `io`. Nothing is left in the directory then.
pub fn write_directory(
    dir: &Path,
    clock: &Clock,
    identity: &[u8; 16],
    records: &mut dyn Iterator<Item = Result<(Name, Vec<u8>)>>,
) -> Result<u64> {
    let _ = (dir, clock, identity, records);
    todo!()
}
