//! What tiny_http has of a request, and what it lacks.

pub mod auth;
pub mod exchange;
pub mod head;
pub mod instances;
pub mod more;
pub mod reply;
pub mod sending;
pub mod unsent;
