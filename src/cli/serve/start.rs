//! The start of a server.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{Control, apply};
use super::notify::Notifier;
use super::signals::Signals;
use crate::bounds::{LOCK_WAIT_MS, MAX_IDLE_TIMEOUT_MS, MIN_IDLE_TIMEOUT_MS, TAKEOVER_WAIT_MS};
use crate::cli::answer::{Answer, usage};
use crate::cli::limits_file::LimitsFile;
use crate::cli::options::{Args, Global, as_option};
use crate::cli::output::{Output, counted};
use crate::error::{Kind, Result};
use crate::limit::{excerpt, parse_length};
use crate::limiter::{Limiter, Options, SyncMode};
use crate::server::{self, Bind, Bound, Config, Gates, LegacyHeaders, Server, TokenFile, Tokens, refuse_open_bind};
use crate::store::{Policy, ahead_notice, validate_policy};

/// Serves until SIGTERM or SIGINT.
pub fn start(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.refuse_server()?;
    // The signals are caught before the data directory is open.
    let signals = Signals::catch()?;
    let config = config(args, global, &signals)?;
    let options = options(args)?;
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
    let sync = options.sync;
    let limiter = Arc::new(open(&global.dir, options, taken_over)?);
    if let Some(ahead) = limiter.report().ahead {
        log::warn!("{}", ahead_notice(ahead));
    }
    if let Some(file) = &limits {
        log::info!("{}", apply(&limiter, file)?);
    }
    let bound = passed.map_or_else(|| server::bind(&bind, socket_mode), Ok)?;
    let server = Server::start(bound, config, Arc::clone(&limiter))?;
    if !taken_over {
        let (url, dir) = (server.url(), std::path::absolute(&global.dir).unwrap_or_else(|_| global.dir.clone()));
        let limits = counted(limiter.report().limits, "limit");
        let line = output.line(&format!("flint server listening on {url} (data in {}, {limits})", dir.display()));
        // A command whose reader has gone ends without a message; a server should not.
        line.and_then(|()| output.flush()).inspect_err(|error| log::error!("{error}"))?;
    }
    log::info!(
        "flint {} serves {} from {} on {}, --sync {}{}",
        env!("CARGO_PKG_VERSION"),
        counted(limiter.report().limits, "limit"),
        global.dir.display(),
        server.url(),
        sync.name(),
        if taken_over { ", in place of its former image" } else { "" }
    );
    let notifier = Notifier::from_environment();
    notifier.ready(&format!("listening on {}", server.url()));
    Control { limiter: &limiter, signals: &signals, token_file: global.token_source(), limits_file, notifier }
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
        log::warn!("--token shows in the list of processes; --token-file and FLINT_SERVER_TOKEN do not");
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

/// The options of the limiter.
fn options(args: &Args) -> Result<Options> {
    let policy = Policy {
        flush_every: Duration::from_millis(args.number("--flush-every-ms")?),
        flush_every_events: args.number("--flush-every-events")?,
        compact_after: args.number("--compact-after")?,
        ..Policy::default()
    };
    as_option(validate_policy(&policy))?;
    let named = args.text("--sync")?;
    let sync = SyncMode::ALL.into_iter().find(|mode| mode.name() == named).unwrap_or_default();
    let options = Options::default().with_sync(sync).with_max_keys(args.number("--max-keys")?);
    let options = options.with_max_holds(args.number("--max-holds")?);
    Ok(Options { policy, ..options.with_give_back(server::trim_memory) })
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

/// Opens the data directory. Commands hold it for a moment, and are waited for, but not in their queue, which may be
/// long. A process that takes over from its former image waits longer. Another server is not waited for.
fn open(dir: &Path, options: Options, taken_over: bool) -> Result<Limiter> {
    let begun = Instant::now();
    let patience = Duration::from_millis(if taken_over { TAKEOVER_WAIT_MS } else { LOCK_WAIT_MS });
    loop {
        let tried = Instant::now();
        let left = patience.saturating_sub(begun.elapsed());
        match Limiter::open(dir, options.clone()) {
            Err(error) if error.kind() == Kind::Locked && !left.is_zero() => {
                if !taken_over && crate::store::writer(dir).is_some_and(|writer| writer.url.is_some()) {
                    return Err(error);
                }
                crate::store::wait_until_free(dir, left);
                // Some other lock is in the way, or another process was faster.
                if tried.elapsed() < Duration::from_millis(1) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            result => return result,
        }
    }
}
