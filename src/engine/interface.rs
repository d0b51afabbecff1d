//! What is asked of the limits, wherever they are kept.

use std::sync::{Arc, Mutex, PoisonError};

use super::report::EngineReport;
use crate::error::{Error, Kind, Result};
use crate::limiter::{Applied, By, Compaction, Limiter, Page, Setting, Status};
use crate::store::Health;

/// What is asked of the limits: it may run several times, on this or that limiter, and only its last run counts. What
/// it finds it keeps itself.
pub type Operation = Box<dyn FnMut(&Limiter) + Send>;

/// Called once, from any thread, when the outcome of an operation is as durable as it is promised to be, or never will
/// be. The last run of the operation was before.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A list of limits that is made in parts.
pub trait Parts: Send {
    /// Appends the next part as JSON, of some `about` bytes. All parts together are an array of status objects. Returns
    /// whether more is to come.
    ///
    /// # Errors
    /// `store_unavailable`, `corrupt`; the list is cut short then.
    fn next_part(&mut self, out: &mut Vec<u8>, about: usize) -> Result<bool>;
}

/// What the server and the commands ask of the limits, wherever they are kept.
///
/// Errors of all methods: those of the method of [`Limiter`] of the same name. Over a store each may be
/// `store_unavailable` (nothing was done), `outcome_unknown` (it may have been done), `overloaded` or `cross_slot` too.
pub trait Engine: Send + Sync {
    /// The limiter, where it is open in this process: operations may be called on it as they are.
    fn local(&self) -> Option<&Limiter>;

    /// Runs an operation, and returns once its outcome is as durable as it is promised to be.
    ///
    /// # Errors
    /// `store_unavailable`, `outcome_unknown`, `overloaded`, `cross_slot`. What the operation has found counts for
    /// nothing then.
    fn run(&self, operation: Operation) -> Result<()>;

    /// The same without waiting.
    fn submit(&self, operation: Operation, done: Done);

    /// As [`Limiter::configure_setting`].
    fn configure(&self, setting: &Setting<'_>) -> Result<bool>;

    /// As [`Limiter::configure_all`].
    fn configure_all(&self, settings: &[Setting<'_>]) -> Result<Vec<bool>>;

    /// As [`Limiter::apply`].
    fn apply(&self, settings: &[Setting<'_>], prune: bool, dry_run: bool) -> Result<Applied>;

    /// As [`Limiter::remove_prefix`].
    fn remove_prefix(&self, prefix: &str) -> Result<u64>;

    /// As [`Limiter::reset`].
    fn reset(&self, key: &str) -> Result<()>;

    /// As [`Limiter::reset_prefix`].
    fn reset_prefix(&self, prefix: &str) -> Result<u64>;

    /// As [`Limiter::listing`].
    fn listing(&self, page: Page<'_>) -> Result<Box<dyn Parts>>;

    /// As [`Limiter::top`].
    fn top(&self, by: By, limit: usize) -> Result<Vec<Status>>;

    /// Whether checks can be decided now, and if not, why. Does not wait.
    fn health(&self) -> (Health, Option<String>);

    /// Its state, for `doctor` and for metrics. May wait for a store.
    fn report(&self) -> EngineReport;

    /// As [`Limiter::flush`].
    fn flush(&self) -> Result<()>;

    /// As [`Limiter::compact`].
    fn compact(&self) -> Result<Compaction>;

    /// Whether the reply to an operation that spent may have to wait for its record.
    fn waits(&self) -> bool;

    /// The error of an operation of [`Engine::local`] whose slot was completed as failed.
    fn failure(&self) -> Error;

    /// Notes the address of the server that is in front of it, for commands on this machine.
    fn announce(&self, url: &str) -> Result<()>;

    /// Ends it cleanly. Operations after that fail.
    fn close(&self) -> Result<()>;
}

/// Runs an operation, and returns what its last run returned.
///
/// # Errors
/// As [`Engine::run`], and what the operation returns.
pub fn ask<T: Send + 'static>(
    engine: &dyn Engine,
    operation: impl FnMut(&Limiter) -> Result<T> + Send + 'static,
) -> Result<T> {
    ask_by(|operation| engine.run(operation), operation)
}

/// The same, of what runs operations.
///
/// # Errors
/// What `run` and the operation return.
pub fn ask_by<T: Send + 'static>(
    run: impl FnOnce(Operation) -> Result<()>,
    mut operation: impl FnMut(&Limiter) -> Result<T> + Send + 'static,
) -> Result<T> {
    let result = Arc::new(Mutex::new(None));
    let cell = Arc::clone(&result);
    run(Box::new(move |limiter| {
        let told = operation(limiter);
        *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }))?;
    let told = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    told.unwrap_or_else(|| Err(Error::new(Kind::Internal, "an operation was said to be done that never ran")))
}
