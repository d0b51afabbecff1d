//! The engine of a data directory: the limiter itself.

use super::interface::{Done, Engine, Operation, Parts};
use super::report::EngineReport;
use crate::error::{Error, Result};
use crate::limiter::{Applied, By, Compaction, Limiter, Listing, Page, Setting, Status, SyncMode};
use crate::store::Health;

impl Parts for Listing {
    fn next_part(&mut self, out: &mut Vec<u8>, about: usize) -> Result<bool> {
        Ok(self.next_chunk(out, about))
    }
}

impl Engine for Limiter {
    fn local(&self) -> Option<&Limiter> {
        Some(self)
    }

    fn run(&self, mut operation: Operation) -> Result<()> {
        operation(self);
        Ok(())
    }

    fn submit(&self, operation: Operation, done: Done) {
        done(self.run(operation));
    }

    fn configure(&self, setting: &Setting<'_>) -> Result<bool> {
        self.configure_setting(setting)
    }

    fn configure_all(&self, settings: &[Setting<'_>]) -> Result<Vec<bool>> {
        Limiter::configure_all(self, settings)
    }

    fn apply(&self, settings: &[Setting<'_>], prune: bool, dry_run: bool) -> Result<Applied> {
        Limiter::apply(self, settings, prune, dry_run)
    }

    fn remove_prefix(&self, prefix: &str) -> Result<u64> {
        Limiter::remove_prefix(self, prefix)
    }

    fn reset(&self, key: &str) -> Result<()> {
        Limiter::reset(self, key)
    }

    fn reset_prefix(&self, prefix: &str) -> Result<u64> {
        Limiter::reset_prefix(self, prefix)
    }

    fn listing(&self, page: Page<'_>) -> Result<Box<dyn Parts>> {
        Ok(Box::new(Limiter::listing(self, page)?))
    }

    fn top(&self, by: By, limit: usize) -> Result<Vec<Status>> {
        Limiter::top(self, by, limit)
    }

    fn health(&self) -> (Health, Option<String>) {
        Limiter::health(self)
    }

    fn report(&self) -> EngineReport {
        EngineReport::Directory(Limiter::report(self))
    }

    fn flush(&self) -> Result<()> {
        Limiter::flush(self)
    }

    fn compact(&self) -> Result<Compaction> {
        Limiter::compact(self)
    }

    fn waits(&self) -> bool {
        // In relaxed mode no reply waits for the log.
        self.sync() != SyncMode::Relaxed
    }

    fn failure(&self) -> Error {
        Limiter::failure(self)
    }

    fn announce(&self, url: &str) -> Result<()> {
        Limiter::announce(self, url)
    }

    fn close(&self) -> Result<()> {
        Limiter::close(self)
    }
}
