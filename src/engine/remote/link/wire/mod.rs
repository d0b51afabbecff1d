//! What goes over the wire: keys and their slots, attempts and the script that does them, values, commands.
//!
//! Owns: bytes. Called by the rest of the link. No connection is made here, nothing waits.

pub(super) mod attempt;
pub(super) mod pack;
pub(super) mod reply;
pub(super) mod script;
pub(super) mod slots;
pub(super) mod value;
