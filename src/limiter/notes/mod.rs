//! What an operation looked at and changed, noted for a limiter whose records are kept elsewhere.
//!
//! Each module may use only those after it in this list: `name`.

pub mod name;
