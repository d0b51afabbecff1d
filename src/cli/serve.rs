//! `flint server start`.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::Answer;
use super::args::Args;
use super::global::Global;
use super::output::Output;
use crate::bounds::{COMPACT_AFTER_BYTES, FLUSH_EVERY_EVENTS, FLUSH_EVERY_MS, MAX_BLOCKING, MAX_MAX_BLOCKING};
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;
use crate::limiter::{Limiter, Options, SyncMode};
use crate::server::{Bind, Config, Server, Tokens, refuse_open_bind};
use crate::store::Policy;

/// Serves until SIGTERM or SIGINT.
pub fn start(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.refuse_server()?;
    let address = args.value("--bind")?.unwrap_or_else(|| "127.0.0.1:7878".to_owned());
    let tokens = global.tokens()?;
    let tokens = Tokens::new(tokens.iter().map(String::as_str));
    if global.token_shows() {
        log::info!("a token on the command line shows in ps; --token-file keeps it out of sight");
    }
    let sync = match args.value("--sync")?.as_deref() {
        None | Some("always") => SyncMode::Always,
        Some("batch") => SyncMode::Batch,
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--sync must be always or batch, not `{}`", excerpt(other))));
        }
    };
    let policy = Policy {
        flush_every: Duration::from_millis(args.number("--flush-every-ms")?.unwrap_or(FLUSH_EVERY_MS)),
        flush_every_events: args.number("--flush-every-events")?.unwrap_or(FLUSH_EVERY_EVENTS),
        compact_after: args.number("--compact-after")?.unwrap_or(COMPACT_AFTER_BYTES),
        ..Policy::default()
    };
    crate::store::validate_policy(&policy).map_err(|error| Error::new(Kind::Usage, format!("--{error}")))?;
    let workers = args.number("--max-blocking")?.unwrap_or(MAX_BLOCKING as u64);
    if !(1..=MAX_MAX_BLOCKING as u64).contains(&workers) {
        return Err(Error::new(Kind::Usage, format!("--max-blocking must be from 1 to {MAX_MAX_BLOCKING}")));
    }
    let mut hosts = Vec::new();
    while let Some(host) = args.value_again("--allow-host")? {
        hosts.push(host);
    }
    let socket_mode = match args.value("--socket-mode")? {
        None => 0o600,
        Some(text) => u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            Error::new(Kind::Usage, format!("--socket-mode must be octal from 0 to 777, not `{}`", excerpt(&text)))
        })?,
    };
    let [] = args.exactly([])?;
    let bind = Bind::parse(&address)?;
    refuse_open_bind(&bind, &address, &tokens)?;

    // The signals are caught before there is anything to lose.
    let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot catch signals: {error}"));
    let (mut caught, sender) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGTERM, SIGINT] {
        let sender = sender.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, sender).map_err(failed)?;
    }
    let limiter = Arc::new(Limiter::open(&global.dir, Options { sync, policy, ..Options::default() })?);
    let config = Config { bind, tokens, workers: workers as usize, hosts, socket_mode };
    let server = Server::start(config, Arc::clone(&limiter))?;
    output.line(&format!("flint server listening on {}", server.url()))?;
    output.flush()?;

    let mut signal = [0];
    while let Err(error) = caught.read_exact(&mut signal) {
        log::debug!("waiting for a signal: {error}");
    }
    log::info!("stopping: answering what is in flight and closing the log");
    server.stop();
    limiter.close()?;
    Ok(Answer::Yes)
}
