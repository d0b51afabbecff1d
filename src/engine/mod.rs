//! Where limits are kept: in a data directory of this machine, or in a store that several servers share.

#[cfg(feature = "store")]
pub mod remote;
