//! What a server serves: a data directory, or a store.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bounds::{LOCK_WAIT_MS, TAKEOVER_WAIT_MS};
use crate::cli::answer::usage;
use crate::cli::options::{Args, Global, as_option, store_url};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::limiter::{Limiter, Options, SyncMode};
use crate::server;
use crate::store::{Policy, ahead_notice, validate_policy};

/// Options that make no sense where a store keeps the limits.
const OF_DIRECTORY: [&str; 5] = ["--data-dir", "--sync", "--flush-every-ms", "--flush-every-events", "--compact-after"];

/// What is to be served. Nothing is opened yet.
pub enum Place {
    Directory(Options),
    Store(StoreOptions),
}

/// A store, and how it is used.
#[cfg_attr(not(feature = "store"), expect(dead_code, reason = "it is refused before it is used"))]
pub struct StoreOptions {
    url: String,
    replicas: u32,
    max_keys: u64,
    max_holds: u64,
}

/// What was opened.
pub struct Opened {
    pub engine: Arc<dyn Engine>,
    /// Where the limits are, in words.
    pub place: String,
    /// How it is kept.
    pub kept: &'static str,
    /// Limits that were configured for one key, where known.
    pub limits: Option<u64>,
}

impl Place {
    /// Reads the options.
    ///
    /// # Errors
    /// `usage`.
    pub fn read(args: &Args) -> Result<Place> {
        let named = store_url(args)?;
        let replicas = args.given_number("--replicas")?;
        let Some(url) = named else {
            if replicas.is_some() {
                return Err(usage("--replicas needs --store: a data directory has no replicas"));
            }
            return options(args).map(Place::Directory);
        };
        if let Some(option) = OF_DIRECTORY.iter().find(|option| args.os_text(option).is_some()) {
            return Err(usage(format!("{option} is for a data directory; with --store the store keeps everything")));
        }
        Ok(Place::Store(StoreOptions {
            url,
            replicas: replicas.unwrap_or(0) as u32,
            max_keys: args.number("--max-keys")?,
            max_holds: args.number("--max-holds")?,
        }))
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`Limiter::open`]; `store_unavailable`, and `invalid_argument` for a bad URL.
    pub fn open(self, global: &Global, taken_over: bool) -> Result<Opened> {
        match self {
            Place::Directory(options) => {
                let kept = options.sync.name();
                let limiter = open(&global.dir, options, taken_over).map_err(with_way_out)?;
                let report = limiter.report();
                if let Some(ahead) = report.ahead {
                    log::warn!("{}", ahead_notice(ahead));
                }
                let dir = std::path::absolute(&global.dir).unwrap_or_else(|_| global.dir.clone());
                let place = format!("data in {}", dir.display());
                Ok(Opened { engine: Arc::new(limiter), place, kept, limits: Some(report.limits) })
            }
            Place::Store(options) => open_store(options),
        }
    }
}

#[cfg(not(feature = "store"))]
fn open_store(_: StoreOptions) -> Result<Opened> {
    Err(crate::cli::options::without_stores())
}

#[cfg(feature = "store")]
fn open_store(options: StoreOptions) -> Result<Opened> {
    use crate::engine::EngineReport;
    use crate::engine::remote::{Remote, Settings};

    let mut settings = Settings::new(&options.url);
    (settings.replicas, settings.max_keys, settings.max_holds) =
        (options.replicas, options.max_keys, options.max_holds);
    let engine = Remote::open(settings)?;
    let report = Engine::report(&engine);
    report.problems().iter().for_each(|problem| log::warn!("{problem}"));
    let place = match &report {
        EngineReport::Store(report) => format!("limits in {}", report.url),
        EngineReport::Directory(_) => String::new(),
    };
    Ok(Opened { engine: Arc::new(engine), place, kept: "store", limits: report.limits() })
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

fn with_way_out(error: Error) -> Error {
    match error.kind() {
        Kind::Locked => {
            let message = format!("{error}; stop that process, or name another directory with --data-dir");
            Error::new(Kind::Locked, message)
        }
        _ => error,
    }
}
