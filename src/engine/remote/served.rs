//! The engine over a store, as the server and the commands know every engine.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::copies::listing::{Listing, top};
use super::copies::reader::Reader;
use super::engine::Remote;
use super::errors::told;
use super::link::Facts;
use super::names::{CONFIGURED, LIVE, OVERFLOWS};
use crate::engine::interface::{Done, Engine, Operation, Parts};
use crate::engine::report::{EngineReport, StoreReport};
use crate::error::{Error, Kind, Result};
use crate::limit::is_pattern;
use crate::limiter::{Applied, By, Compaction, Limiter, Overflowing, Page, Setting, Status};
use crate::store::Health;

impl Parts for Listing {
    fn next_part(&mut self, out: &mut Vec<u8>, about: usize) -> Result<bool> {
        self.next_chunk(out, about)
    }
}

impl Engine for Remote {
    fn local(&self) -> Option<&Limiter> {
        None
    }

    fn run(&self, operation: Operation) -> Result<()> {
        Remote::run(self, operation)
    }

    fn submit(&self, operation: Operation, done: Done) {
        Remote::submit(self, operation, done);
    }

    fn configure(&self, setting: &Setting<'_>) -> Result<bool> {
        Remote::configure(self, setting)
    }

    fn configure_all(&self, settings: &[Setting<'_>]) -> Result<Vec<bool>> {
        Remote::configure_all(self, settings)
    }

    fn apply(&self, settings: &[Setting<'_>], prune: bool, dry_run: bool) -> Result<Applied> {
        Remote::apply(self, settings, prune, dry_run)
    }

    fn remove_prefix(&self, prefix: &str) -> Result<u64> {
        Remote::remove_prefix(self, prefix)
    }

    fn reset(&self, key: &str) -> Result<()> {
        Remote::reset(self, key)
    }

    fn reset_prefix(&self, prefix: &str) -> Result<u64> {
        Remote::reset_prefix(self, prefix)
    }

    fn listing(&self, page: Page<'_>) -> Result<Box<dyn Parts>> {
        self.tell_counts();
        Ok(Box::new(Listing::new(&self.source, page)?))
    }

    fn top(&self, by: By, limit: usize) -> Result<Vec<Status>> {
        self.tell_counts();
        top(&self.source, by, limit)
    }

    fn health(&self) -> (Health, Option<String>) {
        match Remote::health(self) {
            Ok(()) => (Health::Healthy, None),
            Err(error) => (Health::Failed, Some(error.to_string())),
        }
    }

    fn report(&self) -> EngineReport {
        EngineReport::Store(Box::new(self.store_report()))
    }

    fn flush(&self) -> Result<()> {
        Remote::flush(self)
    }

    fn compact(&self) -> Result<Compaction> {
        Err(Error::invalid("a store has no log to compact: the store manages that itself"))
    }

    fn waits(&self) -> bool {
        true
    }

    fn failure(&self) -> Error {
        Error::new(Kind::Internal, "no operation of a store is done in place")
    }

    fn announce(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn close(&self) -> Result<()> {
        Remote::close(self);
        Ok(())
    }
}

impl Remote {
    /// Has the store told what this server has counted, so that a list has it too.
    fn tell_counts(&self) {
        if let Err(error) = Remote::flush(self) {
            log::debug!("a list may lack what was counted in the last second: {error}");
        }
    }

    /// How the store stands, as far as it says so.
    fn store_report(&self) -> StoreReport {
        let store = &self.source.store;
        let figures = self.figures();
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let mut report = StoreReport {
            url: store.address().to_string(),
            health: Engine::health(self),
            limits: None,
            patterns: None,
            live: None,
            overflows: None,
            holds: None,
            replicas: self.replicas,
            facts: Vec::new(),
            problems: Vec::new(),
            allowed: read(&figures.allowed),
            denied: read(&figures.denied),
            rounds: read(&figures.rounds),
            lost: read(&figures.losses),
        };
        if report.health.0 != Health::Healthy {
            return report;
        }
        if let Err(error) = self.ask_store(&mut report) {
            report.problems.push(error.to_string());
        }
        report
    }

    /// How many patterns have no room for more live keys, and one more if requests have none; each is a problem.
    ///
    /// # Errors
    /// `store_unavailable`.
    fn overflows(&self, reader: &mut Reader, report: &mut StoreReport) -> Result<u64> {
        let mut patterns = BTreeSet::new();
        reader.each_key(&[OVERFLOWS], "", |_, keys| {
            // After a mark the pattern, or the values that requests brought.
            patterns.extend(keys.iter().map(|key| key.get(1..).filter(|text| is_pattern(text)).map(str::to_owned)));
            Ok(())
        })?;
        let overflowing = patterns.into_iter().filter_map(|pattern| match pattern {
            None => Some(Overflowing { pattern: None, max_keys: self.source.max_keys }),
            // Without its most keys it has been removed.
            Some(text) => {
                let max_keys = reader.most_live(&text)?;
                Some(Overflowing { pattern: Some(text.into()), max_keys })
            }
        });
        let before = report.problems.len();
        report.problems.extend(overflowing.map(|overflowing| overflowing.to_string()));
        Ok((report.problems.len() - before) as u64)
    }

    fn ask_store(&self, report: &mut StoreReport) -> Result<()> {
        let mut reader = self.source.reader();
        let counts = reader.counts(&[CONFIGURED, LIVE])?;
        let count = |index: usize| counts.get(index).copied().unwrap_or(0);
        reader.load_patterns()?;
        report.patterns = Some(reader.patterns().len() as u64);
        (report.limits, report.live) = (Some(count(0)), Some(count(1)));
        report.holds = Some(reader.open_holds()?);
        report.overflows = Some(self.overflows(&mut reader, report)?);
        let deadline = Instant::now() + self.source.timeout;
        let facts = self.source.store.link().facts(deadline).map_err(|error| told(&error, false))?;
        for server in &facts {
            describe(server, report);
        }
        Ok(())
    }
}

/// Adds what a server of the store says of itself.
fn describe(facts: &Facts, report: &mut StoreReport) {
    let server = &facts.server;
    let mut add =
        |name, value: Option<String>| report.facts.extend(value.map(|value| (name, format!("{server}: {value}"))));
    add("software", facts.software.as_ref().map(|(name, version)| format!("{name} {version}")));
    add("replicas", facts.replicas.map(|count| count.to_string()));
    add("used_memory", facts.used_memory.map(|bytes| bytes.to_string()));
    add("maxmemory", facts.maxmemory.map(|bytes| bytes.to_string()));
    add("maxmemory_policy", facts.maxmemory_policy.clone());
    add("appendonly", facts.appendonly.map(|on| on.to_string()));
    add("appendfsync", facts.appendfsync.clone());
    add("waitaof", facts.waitaof.map(|known| known.to_string()));
    add("round_trip_us", Some(facts.round_trip.as_micros().to_string()));
    if let Some(policy) = facts.maxmemory_policy.as_ref().filter(|policy| *policy != "noeviction") {
        report.problems.push(format!(
            "the store {server} has maxmemory-policy {policy}, so that it forgets limits when its memory is full; set it to \
             noeviction"
        ));
    }
    if let (Some(used), Some(most)) = (facts.used_memory, facts.maxmemory.filter(|most| *most > 0))
        && used >= most - most / 10
    {
        report.problems.push(format!("the store {server} has used {used} of {most} bytes of its memory; give it more"));
    }
    if facts.appendonly == Some(false) {
        report.problems.push(format!(
            "the store {server} has appendonly no, so that a restart forgets what was spent since its last snapshot; set it \
             to yes"
        ));
    }
    if let Some(replicas) = facts.replicas.filter(|replicas| *replicas < report.replicas) {
        let wanted = report.replicas;
        report.problems.push(format!("the store {server} has {replicas} replicas, and --replicas demands {wanted}"));
    }
}
