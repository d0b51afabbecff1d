//! The helper threads: one writes denials, one compacts the log when it has grown, one sweeps keys that come and go.
//!
//! Owns: how they start and end. Each does its work in rounds. A panic costs a round: it is logged, and after a pause
//! the next round comes. A thread that ends although the limiter is not closing is noted for the health check:
//! nothing else would show that its work is not done any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crate::bounds::STACK_BYTES;
use crate::error::{Error, Kind, Result};
use crate::limiter::core::Core;

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

static SWEEPER: Helper = Helper {
    name: "flint-sweep",
    round: Core::sweep_when_due,
    ended: "the thread flint-sweep has ended, so keys that are not used any more stay in memory; restart flint",
};

/// Starts the threads.
pub fn start_all(core: &Arc<Core>) -> Result<()> {
    let denials = start(core, &DENIALS)?;
    *core.denials_helper.lock().unwrap_or_else(PoisonError::into_inner) = Some(denials);
    let compactor = start(core, &COMPACTOR)?;
    core.log()?.set_compactor(compactor.clone());
    // The log may have asked for a compaction before it had this thread to wake.
    compactor.unpark();
    let sweeper = start(core, &SWEEPER)?;
    let _ = core.sweep_helper.set(sweeper.clone());
    // A key may have come before.
    sweeper.unpark();
    Ok(())
}

fn start(core: &Arc<Core>, helper: &'static Helper) -> Result<thread::Thread> {
    let shared = Arc::clone(core);
    let handle = thread::Builder::new()
        .name(helper.name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || run(&shared, helper))
        .map_err(|error| Error::new(Kind::Io, format!("cannot start thread {}: {error}", helper.name)))?;
    let thread = handle.thread().clone();
    core.helpers.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    Ok(thread)
}

/// Ends the threads, and waits until they have ended.
pub fn end_all(core: &Core) {
    core.closing.store(true, Ordering::Release);
    let helpers = std::mem::take(&mut *core.helpers.lock().unwrap_or_else(PoisonError::into_inner));
    for helper in helpers {
        helper.thread().unpark();
        let _ = helper.join();
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
            // The first is enough for the report.
            let _ = self.core.helper_ended.set(self.helper.ended);
        }
    }
}
