//! The `flint` command: argv in, exit status out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        // What it reports as errors is the server's daily bread; the server says itself what matters of it.
        .filter_module("tiny_http", log::LevelFilter::Off)
        .parse_env(env_logger::Env::new().filter("FLINT_LOG"))
        .init();
    ExitCode::from(flint::cli::run(std::env::args_os().skip(1).collect()))
}
