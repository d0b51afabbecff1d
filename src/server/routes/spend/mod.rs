//! The endpoints that decide, spend, hold and give back.
//!
//! Each module may use only those after it in this list: `holds`, `checks`, `once`.

pub mod checks;
pub mod holds;
mod once;
