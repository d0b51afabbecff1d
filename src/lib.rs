#![deny(unsafe_code)]
#![allow(dead_code)]
pub mod bounds;
pub mod clock;
pub mod error;
pub mod limit;
pub mod limiter;
pub mod store;
pub use error::{Error, Kind, Result};
