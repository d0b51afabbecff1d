//! Checks.
//!
//! Each module may use only those after it in this list: `several`, `all`, `many`, `progress`, `decide`, `wait`.

mod all;
mod decide;
mod many;
mod progress;
pub mod several;
pub mod wait;
