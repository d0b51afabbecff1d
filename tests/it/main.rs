//! Integration tests: the real binary, over its real command line, sockets and files.

mod beside;
mod cli;
mod crash;
mod http;
mod install;
mod ladder;
mod run;
mod shell;
mod util;
