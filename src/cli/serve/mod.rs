//! `flint server start`: opens the data directory, serves it, and does what signals ask for.

mod control;
mod notify;
mod opening;
mod signals;
mod start;

pub use start::start;
