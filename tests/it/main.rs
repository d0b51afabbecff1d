//! Integration tests: the real binary, over its real command line, sockets and files.

mod beside;
mod cli;
mod crash;
mod http;
mod install;
mod ladder;
mod pages_cli;
mod run;
mod shell;
mod util;
