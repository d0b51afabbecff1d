//! Where limits are kept: in a data directory of this machine, or in a store that several servers share.
//!
//! Owns: what `server` and `cli` ask of the limits, wherever these are ([`Engine`]). No rule of quotas is here: an
//! *operation* is a function of a [`Limiter`](crate::limiter::Limiter), and runs on the limiter that is open here, or
//! on a lane's scratch limiter, which holds copies of records of a store. No HTTP and no command line here.
//!
//! Each module may use only those after it in this list: `remote`, `local`, `interface`, `report`.

mod interface;
mod local;
#[cfg(feature = "store")]
pub mod remote;
mod report;

pub use self::interface::{Done, Engine, Operation, Parts, ask};
pub use self::report::{EngineReport, Moved, StoreReport};
