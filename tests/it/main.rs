//! Integration tests: the real binary, over its real command line, sockets and files.

mod attacks;
mod beside;
mod cli;
mod crash;
mod faults;
mod format;
mod http;
mod install;
mod ladder;
mod pages;
mod pages_cli;
mod repair;
mod run;
mod shell;
mod util;
