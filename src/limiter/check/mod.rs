//! Checks.
//!
//! Each module may use only those after it in this list: `several`, `many_kept`, `all`, `walk`, `many`, `progress`, `decide`,
//! `room`, `slots`, `wait`.

pub mod all;
pub mod decide;
mod many;
mod many_kept;
pub mod progress;
pub mod room;
pub mod several;
pub mod slots;
pub mod wait;
pub mod walk;
