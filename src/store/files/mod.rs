//! The files of the data directory: their names, how they are read and changed, and their owner.
//!
//! Each module may use only those after it in this list: `lock`, `queue`, `view`, `data_dir`, `disk`, `names`,
//! `random`.

pub mod data_dir;
pub mod disk;
pub mod lock;
pub mod names;
pub mod queue;
pub mod random;
pub mod view;
