//! What tests/fuzz.rs reaches of the server: how it reads heads and bodies. Nothing else uses it.

pub use super::http::head::{Class, Head};
pub use super::routes::body::{Check, Configure, Items, Key, parse, parse_empty};
pub use super::routes::table::find;
