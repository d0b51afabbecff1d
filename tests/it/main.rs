//! Integration tests: the real binary, over its real command line, sockets and files.

mod attacks;
mod cli;
mod crash;
mod deb;
mod http;
mod ladder;
mod mdoc;
mod metrics;
mod pages_http;
mod pages_server;
mod proxies;
mod systemd;
mod tokens;
mod util;
