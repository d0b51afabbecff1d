//! The state of storage and limiter.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::{Core, Limiter};
use super::options::SyncMode;
use super::registry::{OVERFLOW_MARK, Row};
use crate::error::Result;
use crate::store::{self, Health, Store};

/// The state of storage and limiter, for `doctor` and for metrics.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The data directory.
    pub dir: PathBuf,
    /// When checks are answered.
    pub sync: SyncMode,
    /// The state of the log, and the reason if it is not healthy.
    pub health: (Health, Option<String>),
    /// Limits that are configured for one key.
    pub limits: u64,
    /// Patterns.
    pub patterns: u64,
    /// Keys that live under a pattern or request.
    pub live: u64,
    /// Limits that are shared, because `max_keys` keys live under their pattern, or under requests.
    pub overflows: Vec<Overflowing>,
    /// Decisions by these since the start.
    pub overflowed: u64,
    /// Keys of which nothing counted any more that were taken out of memory since the start.
    pub swept: u64,
    /// How far the log is ahead of the system clock, if that is more than a second.
    pub ahead: Option<Duration>,
    /// Size of the log, in bytes.
    pub log_bytes: u64,
    /// Events written since the start.
    pub events: u64,
    /// Bytes reserved for records that are not written yet.
    pub queued_bytes: u64,
    /// Number of fdatasync calls by duration (see [`store::TIMING_BOUNDS_US`]), and their sum in microseconds.
    #[doc(hidden)]
    pub sync_times: ([u64; store::TIMING_BOUNDS_US.len() + 1], u64),
    /// Bytes that the file system has free for this user, if known.
    pub free_bytes: Option<u64>,
    /// Compactions that succeeded since the start.
    pub compactions: u64,
    /// Why the last compaction failed, if it did.
    pub compaction_error: Option<String>,
    /// What is known of files that others removed, renamed or replaced while this process was running.
    pub files: Vec<String>,
    /// Which work has stopped, if a thread ended that should not have.
    pub helper_ended: Option<&'static str>,
    /// Open holds.
    pub holds: u64,
    /// Holds that have expired since the start.
    pub holds_expired: u64,
    /// Of these, how many were settled after it.
    pub holds_late: u64,
    /// Checks allowed since the start.
    pub allowed: u64,
    /// Checks denied since the start.
    pub denied: u64,
}

/// A bound on live keys that is reached, so that further keys share one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overflowing {
    /// The pattern that serves them; `None` if requests bring their limits.
    pub pattern: Option<Arc<str>>,
    /// The maximum number of keys that may live under it.
    pub max_keys: u64,
}

impl fmt::Display for Overflowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.max_keys;
        match &self.pattern {
            Some(pattern) => write!(
                f,
                "the pattern `{pattern}` has no room for more than {most} live keys, so further keys share one limit; \
                 raise its max_keys, or shorten its periods"
            ),
            None => write!(
                f,
                "there is no room for more than {most} live keys with limits that requests bring, so further keys \
                 with the same values share one limit; raise --max-keys, or configure patterns"
            ),
        }
    }
}

impl Report {
    /// Number of fdatasync calls since the start.
    pub fn syncs(&self) -> u64 {
        self.sync_times.0.iter().sum()
    }

    /// Mean duration of these calls, if there were any.
    pub fn mean_sync(&self) -> Option<Duration> {
        self.sync_times.1.checked_div(self.syncs()).map(Duration::from_micros)
    }

    /// Everything that is wrong, in words.
    pub fn problems(&self) -> Vec<String> {
        const LOW_BYTES: u64 = 64 * 1024 * 1024;
        let mut problems = Vec::new();
        if self.health.0 != Health::Healthy {
            problems.push(self.health.1.clone().unwrap_or_else(|| "the log cannot be written".to_owned()));
        }
        if let Some(free) = self.free_bytes.filter(|free| *free < LOW_BYTES) {
            problems.push(format!("only {free} bytes are free where {} is; make room", self.dir.display()));
        }
        if let Some(error) = &self.compaction_error {
            problems.push(format!("the last compaction failed: {error}"));
        }
        problems.extend(self.files.iter().cloned());
        problems.extend(self.helper_ended.map(str::to_owned));
        problems.extend(self.overflows.iter().map(Overflowing::to_string));
        problems.extend(self.ahead.map(store::ahead_notice));
        problems
    }
}

impl Limiter {
    /// The state of storage and limiter.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// let report = limiter.report();
    /// assert_eq!(report.limits, 1);
    /// for problem in report.problems() {
    ///     eprintln!("{problem}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn report(&self) -> Report {
        let core = &*self.core;
        let log = core.store.as_ref().map(Store::log);
        let (mut entries, mut allowed, mut denied, mut swept) = (0, 0, 0, 0);
        for shard in &core.shards {
            let table = shard.lock();
            entries += table.len() as u64;
            allowed += table.counts.decisions.0;
            denied += table.counts.decisions.1;
            swept += table.counts.swept;
        }
        let census = core.census();
        let (holds, holds_expired, holds_late) = {
            let mut book = core.holds.lock();
            book.tidy(core.clock.now());
            (book.open(), book.expired, book.late)
        };
        Report {
            dir: core.dir.clone(),
            sync: core.sync,
            health: log.map_or((Health::Healthy, None), |log| log.health()),
            limits: entries.saturating_sub(census.patterns + census.live + census.shared),
            patterns: census.patterns,
            live: census.live,
            overflows: census.overflows,
            overflowed: core.registry.overflowed.load(Ordering::Relaxed),
            swept,
            ahead: core.clock.ahead(),
            log_bytes: log.map_or(core.found_bytes, |log| log.bytes()),
            events: log.map_or(0, |log| log.events()),
            queued_bytes: log.map_or(0, |log| log.queued_bytes()),
            sync_times: log.map_or_else(Default::default, |log| log.syncs().read()),
            free_bytes: fs4::available_space(&core.dir).ok(),
            compactions: core.compactions.load(Ordering::Relaxed),
            compaction_error: core.last_compaction().and_then(Result::err).map(|error| error.to_string()),
            files: core.healing().problems(),
            helper_ended: core.helper_ended.get().copied(),
            holds,
            holds_expired,
            holds_late,
            allowed,
            denied,
        }
    }

    /// When checks are answered.
    pub fn sync(&self) -> SyncMode {
        self.core.sync
    }

    /// The state of the log, and the reason if it is not healthy; [`Health::Failed`] also when a thread that serves it
    /// has ended, or when a start would not find what was answered. Cheap, and never waits for the disk.
    pub fn health(&self) -> (Health, Option<String>) {
        let log = self.core.store.as_ref().map_or((Health::Healthy, None), |store| store.log().health());
        if log.0 != Health::Healthy {
            return log;
        }
        let ended = self.core.helper_ended.get().map(|ended| (*ended).to_owned());
        match ended.or_else(|| self.core.healing().wound.clone()) {
            Some(reason) => (Health::Failed, Some(reason)),
            None => log,
        }
    }

    /// Notes the URL of the server that serves this limiter, for other processes to find.
    ///
    /// # Errors
    /// `io`.
    #[doc(hidden)]
    pub fn announce(&self, url: &str) -> Result<()> {
        self.core.store.as_ref().map_or(Ok(()), |store| store.lock().announce(Some(url)))
    }
}

/// What is in the map besides the limits of single keys.
struct Census {
    patterns: u64,
    live: u64,
    /// Overflow limits.
    shared: u64,
    overflows: Vec<Overflowing>,
}

impl Core {
    fn census(&self) -> Census {
        let rows: Vec<Row> = self.registry.known().rows().cloned().collect();
        let requested = self.registry.requested.load(Ordering::Relaxed);
        let by_request = self.registry.overflows.load(Ordering::Relaxed);
        let mut census =
            Census { patterns: rows.len() as u64, live: requested, shared: by_request, overflows: Vec::new() };
        if by_request > 0 {
            census.overflows.push(Overflowing { pattern: None, max_keys: self.registry.max_requested });
        }
        for row in rows {
            census.live += row.pattern.live.load(Ordering::Relaxed);
            let key = format!("{OVERFLOW_MARK}{}", row.pattern.text);
            let hash = self.hash(&key);
            let mut table = self.shard(hash);
            let Some(entry) = table.get(hash, &key) else { continue };
            census.shared += 1;
            let now = self.clock.now();
            if !self.is_untouched(entry, now, self.version(now)) {
                let (pattern, max_keys) = (Some(Arc::clone(&row.pattern.text)), row.max_keys);
                census.overflows.push(Overflowing { pattern, max_keys });
            }
        }
        census
    }
}
