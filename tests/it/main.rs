//! Integration tests: the real binary, over its real command line, sockets and files.

mod cli;
mod crash;
mod faults;
mod http;
mod ladder;
mod util;
