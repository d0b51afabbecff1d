//! What tests/fuzz.rs reaches of the server: how it reads heads and bodies. Nothing else uses it.

pub use super::http::head::{Class, Fault, Head};
pub use super::routes::body::{
    Check, Items, Reset, Settings, ToReset, parse, parse_empty, parse_listed, parse_settings,
};
pub use super::routes::table::find;
