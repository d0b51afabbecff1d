//! Integration tests: the real binary, over its real command line, sockets and files.

mod attacks;
mod cli;
mod crash;
mod faults;
mod format;
mod http;
mod ladder;
mod pages;
mod repair;
mod util;
