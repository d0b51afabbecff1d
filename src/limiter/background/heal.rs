//! Files of the log that others remove, rename or replace while this process runs.
//!
//! The process would go on writing to them, and the next start would not find what was written. All that counts is in
//! memory too, so a compaction writes it again. A directory that is gone as a whole can't be written to: then nothing
//! more is accepted.

use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use crate::bounds::LOOK_AFTER_FILES_MS;
use crate::clock::rfc3339;
use crate::limiter::core::{Core, Healing};
use crate::store::{Fate, Whereabouts};

impl Core {
    /// A round of the thread `flint-compact`: looks after the files, compacts if the log has grown past its bound, and
    /// sleeps if not.
    pub fn compaction_round(&self) {
        self.heal();
        if self.log().is_ok_and(|log| log.take_compaction_request()) {
            self.compact_and_tell();
        } else if !self.is_closing() {
            thread::park_timeout(Duration::from_millis(LOOK_AFTER_FILES_MS));
        }
    }

    /// Lets a new snapshot replace everything that counts, if a file is not where a start would look for it.
    pub fn heal(&self) {
        let Some(store) = &self.store else { return };
        let _one = self.looking_after_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = store.lock().claim() {
            let way_out = "nothing more is accepted; stop one of the two, and give each its own directory";
            return store.log().give_up(format!("{error}; {way_out}"));
        }
        let wound = match store.whereabouts() {
            Whereabouts::Whole => return,
            Whereabouts::Moved => {
                let what = "was removed, renamed or replaced while this process was running";
                let way_out = "nothing more is accepted; put it back or name another directory, then restart flint";
                return store.log().give_up(format!("the data directory {} {what}; {way_out}", self.dir.display()));
            }
            Whereabouts::Missing(missing) => {
                let mut tales = Vec::new();
                for missing in &missing {
                    let path = missing.name.path(&self.dir);
                    tales.push(match missing.fate {
                        Fate::Removed => format!("{} was removed", path.display()),
                        Fate::Renamed => format!("{} was renamed", path.display()),
                        Fate::Replaced => format!("{} was replaced by another file", path.display()),
                    });
                }
                format!("{} while this process was running", tales.join(", "))
            }
        };
        let is_new = self.healing().wound.is_none();
        if is_new {
            log::error!("{wound}; a new snapshot is now being written to replace all files");
        }
        store.set_aside();
        let healed = self.compact();
        let mut healing = self.healing();
        match healed {
            Ok(_) => {
                log::warn!("a new snapshot replaces what is gone; nothing was lost; find out what caused this");
                let count = healing.healed.take().map_or(0, |(_, count)| count) + 1;
                let what = format!("at {} {wound}", rfc3339(self.clock.now()));
                *healing = Healing { wound: None, healed: Some((what, count)) };
            }
            Err(error) => {
                if is_new {
                    log::error!("no new snapshot could be written, which is tried again: {error}");
                }
                let what = "a new snapshot could not be written yet, and a restart now would lose what was answered";
                healing.wound = Some(format!("{wound}; {what}"));
            }
        }
    }
}
