//! The listening socket, and what the kernel reports about this process and its connections. The only room with
//! `unsafe` code.
//!
//! **Called by** the server's start and its replacement (listener.rs, bind.rs, process.rs), the connection guard and
//! the thread `flint-slow` (descriptors.rs, facts.rs, names.rs), and the deciders (pressure.rs).
//!
//! **Must never happen here:** a decision about a connection (the guard decides what is slow or idle); the close of
//! a descriptor of another owner; an answer about a descriptor *number* that another thread may have closed and reused
//! meanwhile.

#[allow(unsafe_code)]
pub mod activation;
pub mod bind;
#[allow(unsafe_code)]
pub mod descriptors;
#[allow(unsafe_code)]
pub mod facts;
pub mod listener;
pub mod names;
pub mod options;
#[allow(unsafe_code)]
pub mod pressure;
#[allow(unsafe_code)]
pub mod process;
