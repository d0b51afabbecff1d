//! `flint server start`.

mod notify;
mod start;

pub use start::start;
