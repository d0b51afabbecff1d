//! The start of a server.

use std::sync::Arc;
use std::time::Duration;

use super::control::{Control, apply};
use super::notify::Notifier;
use super::opening::{Opened, Place};
use super::signals::Signals;
use crate::bounds::{MAX_IDLE_TIMEOUT_MS, MIN_IDLE_TIMEOUT_MS};
use crate::cli::answer::{Answer, usage};
use crate::cli::limits_file::LimitsFile;
use crate::cli::options::{Args, Global};
use crate::cli::output::{Output, counted};
use crate::error::Result;
use crate::limit::{excerpt, parse_length};
use crate::server::{self, Bind, Bound, Config, Gates, LegacyHeaders, Server, TokenFile, Tokens, refuse_open_bind};

/// Serves until SIGTERM or SIGINT.
pub fn start(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.refuse_server()?;
    // The signals are caught before the data directory is open.
    let signals = Signals::catch()?;
    let config = config(args, global, &signals)?;
    let place = Place::read(args)?;
    let (address, socket_mode) = (args.text("--bind")?, socket_mode(args)?);
    let bind = Bind::parse(address)?;
    let limits_file = args.os_text("--limits");
    if limits_file.is_some_and(|file| file == "-") {
        return Err(usage("--limits must be a file, not standard input: it is read again on SIGHUP"));
    }
    let passed = server::passed_socket(&config.tokens)?;
    if passed.is_none() {
        refuse_open_bind(&bind, address, &config.tokens)?;
    }

    // The next image of a process takes over its limits as they are.
    let taken_over = passed.as_ref().is_some_and(Bound::taken_over);
    let limits = limits_file.filter(|_| !taken_over).map(LimitsFile::read).transpose()?;
    if let Some(file) = &limits {
        server::parse_listed(file.text.as_bytes()).map_err(|error| file.named(error))?;
    }
    report_panics();
    if taken_over {
        server::release_signals();
    }
    let Opened { engine, place, kept, limits: mut found } = place.open(global, taken_over)?;
    if let Some(file) = &limits {
        // Not within the macro, which evaluates nothing that is not logged.
        let applied = apply(&*engine, file)?;
        log::info!("{applied}");
        found = engine.report().limits();
    }
    let limits = found.map_or_else(|| "limits unknown".to_owned(), |limits| counted(limits, "limit"));
    let bound = passed.map_or_else(|| server::bind(&bind, socket_mode), Ok)?;
    let server = Server::start(bound, config, Arc::clone(&engine))?;
    if !taken_over {
        let line = output.line(&format!("flint server listening on {} ({place}, {limits})", server.url()));
        // A command whose reader has gone ends without a message; a server should not.
        line.and_then(|()| output.flush()).inspect_err(|error| log::error!("{error}"))?;
    }
    log::info!(
        "flint {} serves {limits} ({place}, {kept}) on {}{}",
        env!("CARGO_PKG_VERSION"),
        server.url(),
        if taken_over { ", replacing its former image" } else { "" }
    );
    let notifier = Notifier::from_environment();
    notifier.ready(&format!("listening on {}", server.url()));
    Control { engine: &*engine, signals: &signals, token_file: global.token_source(), limits_file, notifier }
        .run(server)
}

/// The options of the server.
fn config(args: &Args, global: &Global, signals: &Signals) -> Result<Config> {
    let tokens = match global.token_source().map(TokenFile::read).transpose()? {
        None => global.tokens()?,
        Some(read) => {
            read.warning.iter().for_each(|warning| log::warn!("{warning}"));
            read.tokens
        }
    };
    if global.token_shows() {
        log::warn!("--token is visible in the list of processes; --token-file and FLINT_SERVER_TOKEN are not");
    }
    Ok(Config {
        tokens: Tokens::new(tokens),
        workers: args.number("--max-blocking")? as usize,
        hosts: args.texts("--allow-host")?.into_iter().map(str::to_owned).collect(),
        gates: Gates::parse(
            &args.texts("--gate")?,
            args.text("--trusted-proxies")?,
            args.number("--ipv6-prefix")? as u8,
        )?,
        open_health: args.os_text("--open-health").is_some(),
        legacy: args.given_text("--legacy-headers")?.and_then(LegacyHeaders::named).unwrap_or_default(),
        idle_timeout: idle_timeout(args)?,
        max_connections: args.number("--max-connections")? as usize,
        on_exhausted: signals.replacement_request(),
    })
}

fn socket_mode(args: &Args) -> Result<u32> {
    let text = args.text("--socket-mode")?;
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| usage(format!("--socket-mode must be octal from 0 to 777, not `{}`", excerpt(text))))
}

fn idle_timeout(args: &Args) -> Result<Duration> {
    let text = args.text("--idle-timeout")?;
    let length = parse_length("--idle-timeout", text, MIN_IDLE_TIMEOUT_MS, MAX_IDLE_TIMEOUT_MS);
    length.map(Duration::from_millis).map_err(|error| usage(error.message()))
}

/// Sends panics to the log. tiny_http's `ClientConnection::read` panics for a connection that was reset before its
/// address was read; that ends only this connection.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let file = panic.location().map_or("", |location| location.file());
        let level = if file.contains("tiny_http") { log::Level::Debug } else { log::Level::Error };
        let thread = std::thread::current();
        log::log!(level, "thread {} panicked: {panic}", thread.name().unwrap_or("without a name"));
    }));
}
