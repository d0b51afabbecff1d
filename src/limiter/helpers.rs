//! The helper threads: one writes denials, one compacts the log when it has grown.
//!
//! Owns: how they start and end. Each does its work in rounds. A panic costs a round: it is logged, and after a pause the
//! next round comes. A thread that ends although the limiter is not closing is noted, for health to tell of: nothing else
//! would show that its work is not done any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Limiter;
use super::core::Core;
use crate::bounds::STACK_BYTES;
use crate::error::{Error, Kind, Result};

/// Pause after a round that panicked: the next one may do so too.
const PAUSE: Duration = Duration::from_secs(1);

/// What one of the threads does.
struct Helper {
    name: &'static str,
    round: fn(&Core),
    /// What its end means.
    ended: &'static str,
}

static DENIALS: Helper = Helper {
    name: "flint-denials",
    round: Core::denials_round,
    ended: "the thread flint-denials has ended, so denials are not written to the log any more; restart flint",
};

static COMPACTOR: Helper = Helper {
    name: "flint-compact",
    round: Core::compaction_round,
    ended: "the thread flint-compact has ended, so the log is not compacted any more; restart flint",
};

impl Limiter {
    /// Starts the threads. Those that run are ended by [`Limiter::close`], also when another could not be started.
    pub(super) fn start_helpers(&self) -> Result<()> {
        let core = &self.core;
        let denials = self.start(&DENIALS)?;
        *core.unlogged_helper.lock().unwrap_or_else(PoisonError::into_inner) = Some(denials);
        let compactor = self.start(&COMPACTOR)?;
        core.log()?.set_compactor(compactor.clone());
        // The log may have wished for it before it knew whom to wake.
        compactor.unpark();
        Ok(())
    }

    fn start(&self, helper: &'static Helper) -> Result<thread::Thread> {
        let core = Arc::clone(&self.core);
        let handle: JoinHandle<()> = thread::Builder::new()
            .name(helper.name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(&core, helper))
            .map_err(|error| Error::new(Kind::Io, format!("cannot start thread {}: {error}", helper.name)))?;
        let thread = handle.thread().clone();
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        Ok(thread)
    }
}

fn run(core: &Core, helper: &'static Helper) {
    let _end = End { core, helper };
    while !core.is_closing() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (helper.round)(core))) {
            log::error!("the thread {} panicked, which is a defect of Flint; it goes on", helper.name);
            drop(panic);
            core.rest(PAUSE);
        }
    }
}

/// Dropped when a helper ends, however it does.
struct End<'a> {
    core: &'a Core,
    helper: &'static Helper,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if !self.core.is_closing() {
            // The first is enough to tell of.
            let _ = self.core.helper_ended.set(self.helper.ended);
        }
    }
}

impl Core {
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits in a helper thread, until it is over or the limiter is closing.
    pub(super) fn rest(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.is_closing() {
            thread::park_timeout(time.saturating_sub(begun.elapsed()));
        }
    }
}
