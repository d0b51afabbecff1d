//! Where requests are answered: here, on the data directory, or by a server.

pub mod http;
pub mod session;
