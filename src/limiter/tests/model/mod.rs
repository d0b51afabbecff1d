//! The limiter against a model that keeps every key for ever and looks everything up the slow way.

mod history;
mod holds;
mod overflow;
mod plain;
