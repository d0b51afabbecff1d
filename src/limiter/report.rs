//! How storage and limiter stand.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::Limiter;
use super::options::SyncMode;
use crate::error::Result;
use crate::store::{self, Health, Store};

/// How storage and limiter stand, for `doctor` and for metrics.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The data directory.
    pub dir: PathBuf,
    /// When checks are answered.
    pub sync: SyncMode,
    /// How the log stands, and why, if not well.
    pub health: (Health, Option<String>),
    /// Configured limits.
    pub limits: u64,
    /// Size of the log, in bytes.
    pub log_bytes: u64,
    /// Events written since the start.
    pub events: u64,
    /// Bytes promised to records that are not written yet.
    pub queued_bytes: u64,
    /// Number of fdatasync calls by duration (see [`store::TIMING_BOUNDS_US`]), and their sum in microseconds.
    #[doc(hidden)]
    pub sync_times: ([u64; store::TIMING_BOUNDS_US.len() + 1], u64),
    /// Bytes that the file system has left for this user, where known.
    pub free_bytes: Option<u64>,
    /// Compactions that succeeded since the start.
    pub compactions: u64,
    /// Why the last compaction failed, if it did.
    pub compaction_error: Option<String>,
    /// Which work has stopped, if a thread ended that should not have.
    pub helper_ended: Option<&'static str>,
    /// Checks allowed since the start.
    pub allowed: u64,
    /// Checks denied since the start.
    pub denied: u64,
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

    /// What is not as it should be, in words.
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
        problems.extend(self.helper_ended.map(str::to_owned));
        problems
    }
}

impl Limiter {
    /// How storage and limiter stand.
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
        let (mut limits, mut allowed, mut denied) = (0, 0, 0);
        for shard in &core.shards {
            let table = shard.lock();
            limits += table.len() as u64;
            allowed += table.decisions.0;
            denied += table.decisions.1;
        }
        Report {
            dir: core.dir.clone(),
            sync: core.sync,
            health: log.map_or((Health::Healthy, None), |log| log.health()),
            limits,
            log_bytes: log.map_or(core.found_bytes, |log| log.bytes()),
            events: log.map_or(0, |log| log.events()),
            queued_bytes: log.map_or(0, |log| log.queued_bytes()),
            sync_times: log.map_or_else(Default::default, |log| log.syncs().read()),
            free_bytes: fs4::available_space(&core.dir).ok(),
            compactions: core.compactions.load(Ordering::Relaxed),
            compaction_error: core.last_compaction().and_then(Result::err).map(|error| error.to_string()),
            helper_ended: core.helper_ended.get().copied(),
            allowed,
            denied,
        }
    }

    /// When checks are answered.
    pub fn sync(&self) -> SyncMode {
        self.core.sync
    }

    /// How the log stands, and why, if not well; [`Health::Failed`] also when a thread that serves it has ended. Cheap,
    /// and never waits for the disk.
    pub fn health(&self) -> (Health, Option<String>) {
        let log = self.core.store.as_ref().map_or((Health::Healthy, None), |store| store.log().health());
        match self.core.helper_ended.get() {
            Some(ended) if log.0 == Health::Healthy => (Health::Failed, Some((*ended).to_owned())),
            _ => log,
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
