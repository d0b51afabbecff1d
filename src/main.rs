//! The `flint` command: argv in, exit status out.

#![forbid(unsafe_code)]

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use log::Level;

/// Holds back the HTTP library's threads when they read more than the server can decide.
#[global_allocator]
static ALLOCATOR: flint::server::Allocator = flint::server::Allocator;

fn main() -> ExitCode {
    let journal = to_journal();
    let mut logger = env_logger::Builder::new();
    // A command ends with the error that the log writes about as well; a server goes on.
    if std::env::var_os("FLINT_LOG").is_none() && !std::env::args().any(|argument| argument == "start") {
        logger.filter_module("flint::store::log", log::LevelFilter::Off);
        logger.filter_module("flint::limiter::open", log::LevelFilter::Off);
    }
    logger
        .filter_level(log::LevelFilter::Warn)
        // Its `Server::from_listener` logs each failed accept as an error. The server begins to accept again by itself,
        // and logs what an operator must know.
        .filter_module("tiny_http", log::LevelFilter::Off)
        .parse_env(env_logger::Env::new().filter("FLINT_LOG"))
        .format(move |out, record| {
            if journal {
                return writeln!(out, "<{}>{}", priority(record.level()), record.args());
            }
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let now = flint::clock::rfc3339(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
            writeln!(out, "{now} {:<5} {}", record.level(), record.args())
        })
        .init();
    ExitCode::from(flint::cli::run(std::env::args_os().skip(1).collect()))
}

/// Whether standard error is systemd's journal, which records the time itself and reads the priority from the line.
fn to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

/// The priority of syslog(3), as sd-daemon(3) has it.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
