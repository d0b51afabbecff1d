//! `flint log backup` and `flint log restore`.
//!
//! Each module may use only those after it in this list: `take`, `restore`, `place`.

mod place;
mod restore;
mod take;

pub use self::restore::restore;
pub use self::take::take;
