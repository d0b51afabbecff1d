//! Integration tests: the real binary, over its real command line, sockets and files.

mod attacks;
mod beside;
mod cli;
mod crash;
mod deb;
mod faults;
mod format;
mod http;
mod install;
mod ladder;
mod mdoc;
mod metrics;
mod modules;
mod pages;
mod pages_cli;
mod pages_http;
mod pages_server;
mod proxies;
mod readme;
mod repair;
mod replies;
mod run;
mod shell;
mod systemd;
mod tokens;
mod util;
