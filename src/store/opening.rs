//! Opening a store on what recovery has found.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::clocks::Clocks;
use super::directory::{Store, remove_leftover};
use super::files::data_dir::DataDir;
use super::files::disk::Disk;
use super::files::lock::DirectoryLock;
use super::files::names::Name;
use super::files::random::random;
use super::format::frame::FILE_HEADER;
use super::format::record::{Answer, Entry, HoldEntry, PatternTotals};
use super::log::handle::Log;
use super::log::segment::Segment;
use super::log::segment::Start;
use super::policy::Policy;
use super::read::found::Recovered;
use super::snapshot::SnapshotWriter;
use crate::clock::{Clock, Reading};
use crate::error::{Error, Result};

/// A store that is being opened. A log that was closed cleanly is appended to. Otherwise the state is first made
/// durable in a new snapshot: what was read may be only in the page cache, and a torn end must not be appended to.
///
/// Until [`Opening::finish`] the directory is as it was, except for an unfinished snapshot, which is removed when this
/// is dropped.
pub struct Opening {
    home: DataDir,
    lock: DirectoryLock,
    found: Recovered,
    clock: Clock,
    policy: Policy,
    snapshot: Option<SnapshotWriter>,
    /// What the clocks showed when the new snapshot was sealed.
    sealed: Option<Reading>,
}

impl Opening {
    /// Begins to go on where `found` ends, with a clock that was made to go on there too ([`Recovered::resume`]).
    ///
    /// # Errors
    /// `io`.
    pub fn begin(
        dir: &Path,
        disk: &Arc<dyn Disk>,
        lock: DirectoryLock,
        found: Recovered,
        clock: &Clock,
        policy: Policy,
    ) -> Result<Opening> {
        if let Some(torn) = &found.torn {
            log::warn!(
                "{}: the last {} bytes, from offset {}, were being written when the process or the machine stopped; \
                 they were never confirmed and are cut off",
                torn.file.display(),
                torn.bytes,
                torn.offset
            );
        }
        let id = found.directory.map_or_else(random, Ok).map_err(|error| Error::io("make an id for", dir, &error))?;
        let home = DataDir::new(disk, dir, id);
        let needs_snapshot = found.clean.is_none() && found.highest_number > 0;
        let snapshot = needs_snapshot.then(|| SnapshotWriter::begin(&home, found.highest_number + 1, true));
        Ok(Opening { lock, clock: clock.clone(), policy, snapshot: snapshot.transpose()?, home, found, sealed: None })
    }

    /// The id of the data directory.
    pub fn directory(&self) -> [u8; 16] {
        self.home.id
    }

    /// Whether all limits are to be handed to [`Opening::entry`].
    pub fn wants_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Adds the totals of a pattern's keys to the new snapshot.
    ///
    /// # Errors
    /// `io`.
    pub fn pattern_totals(&mut self, totals: &PatternTotals) -> Result<()> {
        self.snapshot.as_mut().map_or(Ok(()), |snapshot| snapshot.pattern_totals(totals))
    }

    /// Adds one limit to the new snapshot.
    ///
    /// # Errors
    /// `io`.
    pub fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.snapshot.as_mut().map_or(Ok(()), |snapshot| snapshot.entry(entry))
    }

    /// Adds one hold to the new snapshot.
    ///
    /// # Errors
    /// `io`.
    pub fn hold(&mut self, hold: &HoldEntry<'_>) -> Result<()> {
        self.snapshot.as_mut().map_or(Ok(()), |snapshot| snapshot.hold(hold))
    }

    /// Adds one answer that is kept to the new snapshot.
    ///
    /// # Errors
    /// `io`.
    pub fn answer(&mut self, answer: &Answer<'_>) -> Result<()> {
        self.snapshot.as_mut().map_or(Ok(()), |snapshot| snapshot.answer(answer))
    }

    /// Makes the new snapshot durable under its unfinished name.
    ///
    /// # Errors
    /// `io`.
    pub fn seal(&mut self) -> Result<()> {
        if let Some(snapshot) = self.snapshot.as_mut().filter(|_| self.sealed.is_none()) {
            self.sealed = Some(snapshot.seal(&self.clock)?);
        }
        Ok(())
    }

    /// Puts the new snapshot in force, removes what it replaces, and starts the log.
    ///
    /// # Errors
    /// `io` and `log_failed`; the directory is then as it was, or as the new snapshot says.
    pub fn finish(mut self) -> Result<Store> {
        self.seal()?;
        let Opening { home, lock, found, clock, policy, snapshot, sealed } = self;
        let (mut log_bytes, mut snapshot_bytes) = (FILE_HEADER as u64, found.snapshot_bytes);
        let next_sequence = found.next_sequence.max(1);
        let segment = match &found.clean {
            Some(end) => {
                log_bytes = found.log_bytes;
                let older = found.segments.iter().filter(|number| **number != end.number).map(|n| Name::Segment(*n));
                for name in older.chain(found.snapshot.map(Name::Snapshot)) {
                    home.kept.add(name, &home.path, File::open(name.path(&home.path)));
                }
                Segment::reopen(&home, end)?
            }
            None => {
                if let Some(writer) = snapshot {
                    snapshot_bytes = writer.finish()?;
                }
                Segment::create(&home, found.highest_number + 1, next_sequence, 0)?
            }
        };
        remove_superseded(&home, &found);
        let start = Start {
            home: home.clone(),
            segment,
            next_sequence,
            base: clock.now(),
            clocks: Clocks::new(clock, sealed.or(found.clock)),
            policy,
            log_bytes,
            snapshot_bytes,
        };
        Ok(Store { log: Log::start(start)?, home, lock })
    }
}

fn remove_superseded(home: &DataDir, found: &Recovered) {
    let mut superseded = found.leftovers.clone();
    if found.clean.is_none() {
        superseded.extend(found.segments.iter().map(|number| Name::Segment(*number).path(&home.path)));
        superseded.extend(found.snapshot.map(|number| Name::Snapshot(number).path(&home.path)));
    }
    superseded.iter().for_each(|path| remove_leftover(&*home.disk, path));
}
