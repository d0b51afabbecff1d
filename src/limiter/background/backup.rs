//! Backups while checks go on. What they consist of, and why that is right, is in `store/backup/`.

use std::sync::PoisonError;

use crate::error::{Error, Kind, Result};
use crate::limiter::core::{Core, Limiter};
use crate::store::Backup;

impl Limiter {
    /// A copy of the data directory with everything that was answered before, whatever the
    /// [`SyncMode`](crate::SyncMode). Checks and compactions go on while it is read. Waits for a running compaction and
    /// for one sync of the log.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// limiter.configure("api:user-42", "100/1m".parse()?)?;
    /// let mut file = std::fs::File::create_new(dir.path().join("backup"))?;
    /// std::io::copy(&mut limiter.backup()?, &mut file)?;
    /// file.sync_all()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `log_failed`, `overloaded`, `io`.
    pub fn backup(&self) -> Result<Backup> {
        self.core.backup()
    }
}

impl Core {
    fn backup(&self) -> Result<Backup> {
        let Some(store) = &self.store else {
            return Err(Error::new(Kind::Io, format!("{} was opened only for reading", self.dir.display())));
        };
        let _compaction = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        // Denials that can't be written, as on a full disk, lose counters only.
        let _ = self.write_denials();
        store.backup(&self.clock)
    }
}
