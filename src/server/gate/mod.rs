//! Gates: what a reverse proxy asks about each request that it is about to pass on.
//!
//! Owns: the gates that an operator has named, and how the key of a request is made from what its proxy sends. Called
//! by the endpoints of gates (`routes/gates.rs`). Must never happen here: trust in what an address says that is not a
//! trusted proxy, or a key that two different lists of values share.
//!
//! Each module may use only those after it in this list: `named`, `proxies`.

pub mod named;
pub mod proxies;
