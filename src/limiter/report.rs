//! How storage and limiter stand.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::core::Limiter;
use super::options::SyncMode;
use crate::error::Result;
use crate::store::{self, Health, Store};

/// How storage and limiter stand, for `doctor` and for metrics.
#[derive(Debug, Clone)]
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
    pub syncs: ([u64; store::TIMING_BOUNDS_US.len() + 1], u64),
    /// Bytes that the file system has left for this user, where known.
    pub free_bytes: Option<u64>,
    /// Compactions that succeeded since the start.
    pub compactions: u64,
    /// Why the last compaction failed, if it did.
    pub compaction_error: Option<String>,
    /// What is not done any more since a thread has ended that should not.
    pub helper_ended: Option<&'static str>,
    /// Checks allowed and denied since the start.
    pub decisions: (u64, u64),
}

impl Report {
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
    pub fn report(&self) -> Report {
        let core = &*self.core;
        let log = core.store.as_ref().map(Store::log);
        let (mut limits, mut decisions) = (0, (0, 0));
        for shard in &core.shards {
            let table = shard.lock();
            limits += table.len() as u64;
            decisions = (decisions.0 + table.decisions.0, decisions.1 + table.decisions.1);
        }
        Report {
            dir: core.dir.clone(),
            sync: core.sync,
            health: log.map_or((Health::Healthy, None), |log| log.health()),
            limits,
            log_bytes: log.map_or(core.found_bytes, |log| log.bytes()),
            events: log.map_or(0, |log| log.events()),
            queued_bytes: log.map_or(0, |log| log.queued_bytes()),
            syncs: log.map_or_else(Default::default, |log| log.syncs().read()),
            free_bytes: fs4::available_space(&core.dir).ok(),
            compactions: core.compactions.load(Ordering::Relaxed),
            compaction_error: core.last_compaction().and_then(Result::err).map(|error| error.to_string()),
            helper_ended: core.helper_ended.get().copied(),
            decisions,
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
    pub fn announce(&self, url: &str) -> Result<()> {
        self.core.store.as_ref().map_or(Ok(()), |store| store.lock().announce(Some(url)))
    }
}
