//! Which servers there are: who is master of what, and which of them are known to be away.
//!
//! Owns: the map from slots to masters, what is known of each server, and the thread `flint-store`, which alone asks
//! Sentinels and nodes for the map and finds out whether a server is back. Links read the map and say what they met;
//! they wait for the thread's next round where they need a fresh answer.

pub(super) mod watch;

pub(super) mod cluster;
pub(super) mod directory;
pub(super) mod map;
pub(super) mod place;
pub(super) mod sentinel;
