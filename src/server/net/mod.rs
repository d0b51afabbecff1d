//! The listening socket and what the kernel tells of connections. The only room with `unsafe` code.

pub mod listener;
#[allow(unsafe_code)]
pub mod pressure;
#[allow(unsafe_code)]
pub mod sockets;
