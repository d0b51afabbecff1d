//! Checks.
//!
//! Arrows go down this list: `several`, `all`, `many`, `decide`, `wait`.

mod all;
mod decide;
mod many;
pub mod several;
pub mod wait;
