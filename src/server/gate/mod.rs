//! Gates: a reverse proxy asks them about each request before it passes the request on.
//!
//! Owns: the gates that an operator has named, and how the key of a request is made from what its proxy sends. Called
//! by the endpoints of gates (`routes/gates.rs`). Must never happen here: trust in headers from an address that is not
//! a trusted proxy, or one key for two different lists of values.
//!
//! Each module may use only those after it in this list: `named`, `proxies`.

pub mod named;
pub mod proxies;
