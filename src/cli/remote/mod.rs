//! Where requests are answered: in this process, on the data directory, or by a server.

mod http;
mod session;

pub use http::{Request, encode};
pub use session::{PATIENCE, Session, ask, ask_within};
