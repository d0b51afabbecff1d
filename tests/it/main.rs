//! Integration tests: the real binary, over its real command line, sockets and files.

mod attacks;
mod beside;
mod cli;
mod crash;
mod deb;
mod faults;
mod format;
mod gates;
mod heads;
mod holds;
mod http;
mod install;
mod keys;
mod ladder;
mod listing;
mod mdoc;
mod metrics;
mod modules;
mod once;
mod pages;
mod pages_cli;
mod pages_http;
mod pages_server;
mod proxied;
mod proxies;
mod readme;
mod repair;
mod replies;
mod run;
mod shell;
#[cfg(feature = "store")]
mod store;
mod systemd;
mod tokens;
mod util;
