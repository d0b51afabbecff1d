//! Checks.
//!
//! Each module may use only those after it in this list: `several`, `all`, `many`, `progress`, `decide`, `slots`, `wait`.

pub mod all;
pub mod decide;
mod many;
pub mod progress;
pub mod several;
pub mod slots;
pub mod wait;
