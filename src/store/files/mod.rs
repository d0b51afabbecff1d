//! The files of the data directory: their names, how they are changed, and whose they are.

pub mod data_dir;
pub mod disk;
pub mod lock;
pub mod names;
pub mod random;
pub mod view;
