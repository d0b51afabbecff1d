//! `flint server start`.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::notify::Notifier;
use crate::bounds::{
    COMPACT_AFTER_BYTES, FLUSH_EVERY_EVENTS, FLUSH_EVERY_MS, IDLE_TIMEOUT_MS, LOCK_WAIT_MS, MAX_BLOCKING,
    MAX_CONNECTIONS, MAX_IDLE_TIMEOUT_MS, MAX_MAX_BLOCKING, MAX_MAX_CONNECTIONS, MIN_IDLE_TIMEOUT_MS, TAKEOVER_WAIT_MS,
};
use crate::cli::Answer;
use crate::cli::options::args::Args;
use crate::cli::options::global::Global;
use crate::cli::output::{Output, counted};
use crate::error::{Error, Kind, Result};
use crate::limit::{excerpt, parse_period};
use crate::limiter::{Limiter, Options, SyncMode};
use crate::server::{self, Bind, Bound, Config, Server, Tokens, read_token_file, refuse_open_bind};
use crate::store::{Health, Policy};

/// Serves until SIGTERM or SIGINT.
pub fn start(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    global.refuse_server()?;
    let address = args.value("--bind")?.unwrap_or_else(|| "127.0.0.1:7878".to_owned());
    let tokens = global.tokens()?;
    let tokens = Tokens::new(tokens.iter().map(String::as_str));
    if global.token_shows() {
        log::warn!("--token shows in the list of processes; --token-file and FLINT_SERVER_TOKEN do not");
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
    let workers = within(&mut args, "--max-blocking", MAX_BLOCKING, MAX_MAX_BLOCKING)?;
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
    let idle_timeout = idle_timeout(&mut args)?;
    let max_connections = within(&mut args, "--max-connections", MAX_CONNECTIONS, MAX_MAX_CONNECTIONS)?;
    let [] = args.exactly([])?;
    let bind = Bind::parse(&address)?;
    let passed = server::passed_socket(&tokens)?;
    if passed.is_none() {
        refuse_open_bind(&bind, &address, &tokens)?;
    }

    report_panics();
    // The signals are caught before there is anything to lose.
    let signals = Signals::catch()?;
    if passed.as_ref().is_some_and(Bound::taken_over) {
        server::release_signals();
    }
    let options = Options { sync, policy, ..Options::default() };
    let taken_over = passed.as_ref().is_some_and(Bound::taken_over);
    let limiter = Arc::new(open(&global.dir, options, taken_over)?);
    let bound = passed.map_or_else(|| server::bind(&bind, socket_mode), Ok)?;
    let config = Config { tokens, workers, hosts, idle_timeout, max_connections, on_worn: signals.on_worn() };
    let server = Server::start(bound, config, Arc::clone(&limiter))?;
    if !taken_over {
        let line = output.line(&format!("flint server listening on {}", server.url()));
        // A command whose reader has gone ends without a word; a server should not.
        line.and_then(|()| output.flush()).inspect_err(|error| log::error!("{error}"))?;
    }
    log::info!(
        "flint {} serves {} from {} on {}, --sync {}{}",
        env!("CARGO_PKG_VERSION"),
        counted(&limiter.report().limits.to_string(), "limit"),
        global.dir.display(),
        server.url(),
        sync.name(),
        if taken_over { ", in place of its former image" } else { "" }
    );
    let notifier = Notifier::from_environment();
    notifier.ready(&format!("listening on {}", server.url()));
    attend(server, &limiter, &signals, global.token_source(), &notifier)
}

/// Does what signals ask for, until the end.
fn attend(
    server: Server,
    limiter: &Limiter,
    signals: &Signals,
    token_file: Option<&Path>,
    notifier: &Notifier,
) -> Result<Answer> {
    let mut replacement = None;
    loop {
        match signals.wait(replacement.is_some()) {
            Wish::Reload => {
                let done = reload(&server, token_file);
                notifier.ready(&format!("listening on {}; {done}", server.url()));
            }
            Wish::Replace if hindrance(limiter, token_file, &mut replacement) => {}
            Wish::Replace => {
                log::warn!("tiny_http holds connections that it will not let go: starting afresh on the same socket");
                notifier.status("starting afresh on the same socket");
                let retired = server.replace();
                limiter.close()?;
                if signals.stop.load(Ordering::Acquire) {
                    log::info!("stopping instead: the server was told to while it was about to start afresh");
                    notifier.stopping();
                    retired.stop();
                    return Ok(Answer::Yes);
                }
                let error = retired.replace_process(&mut same_command());
                return Err(Error::new(Kind::Io, format!("cannot start afresh: {error}; start the server again")));
            }
            Wish::Stop => {
                log::info!("stopping: answering what is in flight and closing the log");
                notifier.stopping();
                server.stop();
                limiter.close()?;
                return Ok(Answer::Yes);
            }
        }
    }
}

/// Whether the next image of this process could not start, so that the replacement is put off and tried again every
/// second. What hinders it is said once, and kept in `said`.
fn hindrance(limiter: &Limiter, token_file: Option<&Path>, said: &mut Option<String>) -> bool {
    let unwell = match limiter.health() {
        (Health::Healthy, _) => None,
        (_, reason) => Some(reason.unwrap_or_else(|| "the log cannot be written".to_owned())),
    };
    let hindrance = unwell.or_else(|| Some(read_token_file(token_file?).err()?.to_string()));
    if hindrance.is_some() && hindrance != *said {
        log::error!("the server is to start afresh and cannot yet: {}", hindrance.as_deref().unwrap_or_default());
    }
    *said = hindrance;
    said.is_some()
}

/// Sends panics to the log. tiny_http's own threads panic when a client resets its connection at the wrong moment; that
/// ends the connection alone.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let file = panic.location().map_or("", |location| location.file());
        let level = if file.contains("tiny_http") { log::Level::Debug } else { log::Level::Error };
        let thread = std::thread::current();
        log::log!(level, "thread {} panicked: {panic}", thread.name().unwrap_or("without a name"));
    }));
}

/// The value of an option from 1 to `most`.
fn within(args: &mut Args, name: &'static str, default: usize, most: usize) -> Result<usize> {
    let value = args.number(name)?.map_or(Some(default), |value| usize::try_from(value).ok());
    let value = value.filter(|value| (1..=most).contains(value));
    value.ok_or_else(|| Error::new(Kind::Usage, format!("{name} must be from 1 to {most}")))
}

/// `--idle-timeout`, within its bounds.
fn idle_timeout(args: &mut Args) -> Result<Duration> {
    let Some(text) = args.value("--idle-timeout")? else { return Ok(Duration::from_millis(IDLE_TIMEOUT_MS)) };
    let within = parse_period(&text).ok().filter(|ms| (MIN_IDLE_TIMEOUT_MS..=MAX_IDLE_TIMEOUT_MS).contains(ms));
    within.map(Duration::from_millis).ok_or_else(|| {
        Error::new(Kind::Usage, format!("--idle-timeout must be from 100ms to 1d, not `{}`", excerpt(&text)))
    })
}

/// Opens the data directory. A process that takes over from its former image waits for whatever command has slipped in;
/// any other one for commands that only look at the directory, which they do for a moment.
fn open(dir: &Path, options: Options, taken_over: bool) -> Result<Limiter> {
    let begun = Instant::now();
    let patience = |ms| begun.elapsed() < Duration::from_millis(ms);
    loop {
        match Limiter::open(dir, options.clone()) {
            Err(error)
                if error.kind() == Kind::Locked
                    && ((taken_over && patience(TAKEOVER_WAIT_MS))
                        || (patience(LOCK_WAIT_MS) && crate::store::writer(dir).is_none())) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// This program with its arguments.
fn same_command() -> Command {
    // The path, for `ps` to show the name; unless another file has been put there meanwhile.
    let same = |path: &PathBuf| {
        let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        identity(path).is_some_and(|file| Some(file) == identity(Path::new("/proc/self/exe")))
    };
    let program = std::env::current_exe().ok().filter(same).unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args);
    command
}

/// What the server is asked to do.
enum Wish {
    /// SIGHUP: read the token file again.
    Reload,
    /// Too many connections are held by tiny_http.
    Replace,
    /// SIGTERM or SIGINT.
    Stop,
}

/// Signals and wishes, as bytes on one pipe beside flags that tell which it was.
struct Signals {
    pipe: UnixStream,
    sender: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    replace: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> Result<Signals> {
        let failed = |error: std::io::Error| Error::new(Kind::Io, format!("cannot catch signals: {error}"));
        let (pipe, sender) = UnixStream::pair().map_err(failed)?;
        let signals = Signals { pipe, sender, stop: Arc::default(), reload: Arc::default(), replace: Arc::default() };
        for (signal, flag) in [(SIGTERM, &signals.stop), (SIGINT, &signals.stop), (SIGHUP, &signals.reload)] {
            // Actions run in the order they were registered in: the flag is set when the byte is read.
            signal_hook::flag::register(signal, Arc::clone(flag)).map_err(failed)?;
            let sender = signals.sender.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, sender).map_err(failed)?;
        }
        Ok(signals)
    }

    fn on_worn(&self) -> Box<dyn Fn() + Send + Sync> {
        let replace = Arc::clone(&self.replace);
        // Without a descriptor for a clone the wish is seen with the next signal.
        let sender = self.sender.try_clone();
        Box::new(move || {
            replace.store(true, Ordering::Release);
            if let Ok(mut sender) = sender.as_ref() {
                let _ = sender.write_all(&[0]);
            }
        })
    }

    /// The next wish. A replacement that was put off is wished for anew after a second.
    fn wait(&self, put_off: bool) -> Wish {
        if let Err(error) = self.pipe.set_read_timeout(put_off.then_some(Duration::from_secs(1))) {
            log::debug!("waiting for a signal: {error}");
        }
        loop {
            for (flag, wish) in [(&self.stop, Wish::Stop), (&self.replace, Wish::Replace), (&self.reload, Wish::Reload)]
            {
                if flag.swap(false, Ordering::AcqRel) {
                    return wish;
                }
            }
            match (&self.pipe).read_exact(&mut [0]) {
                Err(error) if put_off && error.kind() == std::io::ErrorKind::WouldBlock => return Wish::Replace,
                Err(error) => log::debug!("waiting for a signal: {error}"),
                Ok(()) => {}
            }
        }
    }
}

/// Reads the token file again; a bad one changes nothing. Says what was done.
fn reload(server: &Server, file: Option<&Path>) -> String {
    let Some(file) = file else {
        let done = "SIGHUP changes nothing: the tokens are not from a --token-file";
        log::warn!("{done}");
        return done.to_owned();
    };
    match read_token_file(file) {
        Ok(tokens) => {
            server.set_tokens(Tokens::new(tokens.iter().map(String::as_str)));
            let done = format!("read {} from {}", counted(&tokens.len().to_string(), "token"), file.display());
            log::info!("{done}");
            done
        }
        Err(error) => {
            let done = format!("SIGHUP changes nothing: {error}");
            log::error!("{done}");
            done
        }
    }
}
