//! The listening socket and what the kernel tells of connections. The only room with `unsafe` code.

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
