//! Tests on disks that fail, are full, or do their work piece by piece.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use crate::bounds::MAX_FRAME_BYTES;
use crate::limiter::registry::Registry;
use crate::limiter::tests::*;
use crate::store::{ReadDisk, retry_interrupted, write_fully};

/// An error by which a disk panics.
const PANICS: i32 = -1;

/// A disk whose calls fail from the k-th one on, or only that one.
pub struct FaultyDisk {
    left: AtomicI64,
    error: i32,
    only_once: bool,
    failed: AtomicU32,
    /// Makes the next fdatasync fail.
    sync_fails: AtomicBool,
    /// No file can be created while this is set.
    pub creates_fail: AtomicBool,
    /// Stalls each fdatasync while it is locked.
    stall: Mutex<()>,
    /// What the next calls of the thread that compacts panic with.
    pub compaction_panics: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl FaultyDisk {
    pub fn new(after: i64, error: i32, only_once: bool) -> Arc<FaultyDisk> {
        Arc::new(FaultyDisk {
            left: AtomicI64::new(after),
            error,
            only_once,
            failed: AtomicU32::new(0),
            sync_fails: AtomicBool::new(false),
            creates_fail: AtomicBool::new(false),
            stall: Mutex::new(()),
            compaction_panics: Mutex::default(),
        })
    }

    fn step<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if thread::current().name() == Some("flint-compact") {
            let panic = self.compaction_panics.lock().unwrap().pop();
            if let Some(panic) = panic {
                std::panic::resume_unwind(panic);
            }
        }
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left == 0 || (left < 0 && !self.only_once) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            assert_ne!(self.error, PANICS, "this disk panics");
            return Err(io::Error::from_raw_os_error(self.error));
        }
        call()
    }
}

impl ReadDisk for FaultyDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.step(|| SystemDisk.read(path))
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        if self.creates_fail.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(self.error));
        }
        self.step(|| SystemDisk.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        self.step(|| SystemDisk.open(path))
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step(|| {
            // Half of it may be written before it fails.
            SystemDisk.write_at(file, bytes, offset)
        })
        .inspect_err(|_| drop(file.write_at(&bytes[..bytes.len() / 2], offset)))
    }
    fn sync_data(&self, file: &File) -> io::Result<()> {
        drop(self.stall.lock().unwrap());
        if self.sync_fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(self.error));
        }
        self.step(|| SystemDisk.sync_data(file))
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.step(|| SystemDisk.sync_all(file))
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.step(|| SystemDisk.set_len(file, len))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|| SystemDisk.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(|| SystemDisk.remove(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(|| SystemDisk.sync_dir(path))
    }
}

const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// What a session on a failing disk has sent and what was answered.
#[derive(Default)]
struct Spent {
    sent: u64,
    answered: u64,
}

impl Spent {
    /// A session with every kind of call in it: checks, a rotation, a snapshot, a clean stop.
    fn session(&mut self, dir: &Path, clock: &Clock, disk: &Arc<FaultyDisk>) {
        let opened = Limiter::open(dir, Options { disk: disk.clone(), ..options(clock) });
        let Ok(limiter) = opened else { return };
        let _ = limiter.configure("k", limit(1000, Algorithm::FixedWindowCounter));
        for round in 0..6 {
            self.sent += 1;
            self.answered += u64::from(limiter.check("k", 1).is_ok_and(|decision| decision.allowed));
            if round == 3 {
                let _ = limiter.compact();
            }
        }
        let _ = limiter.close();
    }
}

/// Runs sessions on a disk that fails at call 0, 1, 2 … until one is not reached any more; each must leave what was
/// answered and nothing that was not sent. `begin` makes the directory and returns what was answered in it.
fn fail_at_every_call(error: i32, only_once: bool, sessions: u32, begin: &(impl Fn(&Path, &Clock) -> u64 + Sync)) {
    for after in 0.. {
        assert!(after < 2000, "the scenario never ends");
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let clock = Clock::manual(START);
        let before = begin(&dir, &clock);
        let disk = FaultyDisk::new(after, error, only_once);
        let mut spent = Spent { sent: before, answered: before };
        for _ in 0..sessions {
            spent.session(&dir, &clock, &disk);
        }
        let what = format!("error {error} at call {after}, once {only_once}");
        let limiter = Limiter::open(&dir, options(&clock)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let allowed = limiter.status("k").unwrap().map_or(0, |status| status.totals.allowed);
        let Spent { sent, answered } = spent;
        assert!(answered <= allowed && allowed <= sent, "{what}: {answered} <= {allowed} <= {sent}");
        if disk.failed.load(Ordering::SeqCst) == 0 {
            assert_eq!(answered, before + 6 * u64::from(sessions), "without a failure everything is answered");
            assert!(after > 20, "only {after} calls were reached");
            break;
        }
    }
}

/// Whichever call fails, and however: what was answered is there after the next start, and nothing that was not sent.
#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_that_was_answered() {
    thread::scope(|scope| {
        for error in [EIO, ENOSPC, EFBIG, EDQUOT] {
            for only_once in [false, true] {
                scope.spawn(move || fail_at_every_call(error, only_once, 2, &|_, _| 0));
            }
        }
    });
}

/// The same from the directory that a crash left: recovery writes its snapshot and its segment on the failing disk.
#[test]
fn a_disk_that_fails_at_any_call_of_recovery_loses_nothing_either() {
    let parent = tempfile::tempdir().unwrap();
    let (live, crashed) = (parent.path().join("live"), parent.path().join("crashed"));
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&live, options(&clock)).unwrap();
    limiter.configure("k", limit(1000, Algorithm::FixedWindowCounter)).unwrap();
    for _ in 0..5 {
        limiter.check("k", 1).unwrap();
    }
    limiter.compact().unwrap();
    for _ in 0..4 {
        limiter.check("k", 1).unwrap();
    }
    copy(&live, &crashed);
    let begin = |dir: &Path, _: &Clock| {
        copy(&crashed, dir);
        9
    };
    thread::scope(|scope| {
        for error in [EIO, ENOSPC, EFBIG] {
            for only_once in [false, true] {
                let begin = &begin;
                scope.spawn(move || fail_at_every_call(error, only_once, 1, begin));
            }
        }
    });
}

/// A disk that interrupts every other call and writes a part of what it is given, and fails at nothing.
#[derive(Default)]
struct HaltingDisk {
    calls: AtomicU64,
    interrupted: AtomicU64,
    short: AtomicU64,
}

impl HaltingDisk {
    /// Interrupts a call, or lets it be.
    fn halt(&self) -> io::Result<u64> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call.is_multiple_of(2) {
            self.interrupted.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(call)
    }

    fn sync(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        retry_interrupted(|| self.halt().and_then(|_| sync()))
    }
}

impl ReadDisk for HaltingDisk {}

impl Disk for HaltingDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_fully(bytes, offset, |bytes, offset| {
            let call = self.halt()?;
            // All but the last bytes, so that the rest is written in ever smaller pieces.
            let part = if call % 4 == 1 { bytes.len().div_ceil(2) } else { bytes.len() };
            self.short.fetch_add(u64::from(part < bytes.len()), Ordering::SeqCst);
            file.write_at(&bytes[..part], offset)
        })
    }
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.sync(|| SystemDisk.sync_data(file))
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.sync(|| SystemDisk.sync_all(file))
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.sync(|| SystemDisk.set_len(file, len))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.sync(|| SystemDisk.sync_dir(path))
    }
}

#[test]
fn interrupted_calls_and_short_writes_have_no_effect() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let disk = Arc::new(HaltingDisk::default());
    let limiter = Limiter::open(dir.path(), Options { disk: disk.clone(), ..options(&clock) }).unwrap();
    limiter.configure("k", limit(1000, Algorithm::SlidingWindowLog)).unwrap();
    for round in 0..20 {
        assert!(limiter.check("k", 1).unwrap().allowed);
        if round % 7 == 3 {
            limiter.compact().unwrap();
        }
    }
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter), "after a crash");
    limiter.close().unwrap();
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter), "after a clean stop");
    assert!(disk.interrupted.load(Ordering::SeqCst) > 20 && disk.short.load(Ordering::SeqCst) > 10);
}

#[test]
fn a_write_that_writes_nothing_is_an_error() {
    let error = write_fully(b"abc", 0, |_, _| Ok(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

#[test]
fn a_failed_fsync_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let disk = FaultyDisk::new(i64::MAX, 5, true);
    let limiter = Limiter::open(dir.path(), Options { disk: disk.clone(), ..options(&clock) }).unwrap();
    limiter.configure("k", limit(10, Algorithm::FixedWindowCounter)).unwrap();
    // Once is enough: the next one would succeed.
    disk.sync_fails.store(true, Ordering::SeqCst);
    assert_eq!(limiter.check("k", 1).unwrap_err().kind(), Kind::LogFailed);
    for _ in 0..3 {
        assert_eq!(limiter.check("k", 1).unwrap_err().kind(), Kind::LogFailed);
    }
    let (health, reason) = limiter.health();
    assert_eq!(health, Health::Failed);
    assert!(reason.unwrap().contains("cannot sync the log"));
    assert!(!limiter.report().problems().is_empty());
    assert_eq!(limiter.close().unwrap_err().kind(), Kind::LogFailed);
}

/// What was not written is answered with an error in every mode that waits, and so are changes of limits in all.
#[test]
fn a_failed_write_refuses_those_that_wait_for_it() {
    type Act = fn(&Limiter) -> Result<()>;
    let changes: [Act; 4] = [
        |limiter| limiter.configure("other", limit(1, Algorithm::FixedWindowCounter)).map(drop),
        |limiter| limiter.configure("k", limit(2, Algorithm::FixedWindowCounter)).map(drop),
        |limiter| limiter.reset("k"),
        |limiter| limiter.remove("k"),
    ];
    let checks: [Act; 3] = [
        |limiter| limiter.check("k", 1).map(drop),
        |limiter| limiter.check_all(&[("k", 1)]).map(drop),
        |limiter| limiter.check_many(&[("k", 1)]).map(drop),
    ];
    for sync in SyncMode::ALL {
        let checks = if sync == SyncMode::Relaxed { &[][..] } else { &checks };
        for act in changes.iter().chain(checks) {
            let dir = tempfile::tempdir().unwrap();
            let clock = Clock::manual(START);
            let disk = FaultyDisk::new(i64::MAX, EIO, true);
            let limiter = Limiter::open(dir.path(), Options { sync, disk: disk.clone(), ..options(&clock) }).unwrap();
            limiter.configure("k", limit(10, Algorithm::FixedWindowCounter)).unwrap();
            limiter.flush().unwrap();
            disk.left.store(0, Ordering::SeqCst);
            assert_eq!(act(&limiter).unwrap_err().kind(), Kind::LogFailed, "{}", sync.name());
            let (health, reason) = limiter.health();
            assert_eq!(health, Health::Failed);
            assert!(reason.unwrap().contains("cannot write the log"));
            // The next write would succeed; nothing is tried again.
            assert_eq!(act(&limiter).unwrap_err().kind(), Kind::LogFailed, "{}", sync.name());
            assert_eq!(limiter.close().unwrap_err().kind(), Kind::LogFailed);
            assert_eq!(recovered(dir.path(), &clock).unwrap()[0].totals.allowed, 0);
        }
    }
}

/// While the disk does not sync, batch and relaxed answer; a flush does not.
#[test]
fn only_a_flush_waits_for_the_sync_in_batch() {
    let never = Duration::from_secs(3600);
    let policy = Policy { flush_every_events: 1_000_000, flush_every: never, ..Policy::default() };
    for sync in [SyncMode::Batch, SyncMode::Relaxed] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(i64::MAX, EIO, true);
        let options = Options { sync, policy: policy.clone(), disk: disk.clone(), ..options(&Clock::manual(START)) };
        let limiter = Limiter::open(dir.path(), options).unwrap();
        let stall = disk.stall.lock().unwrap();
        assert!(limiter.configure("k", limit(1000, Algorithm::FixedWindowCounter)).unwrap());
        assert!(!limiter.configure("k", limit(1000, Algorithm::FixedWindowCounter)).unwrap());
        for _ in 0..200 {
            assert!(limiter.check("k", 1).unwrap().allowed);
            assert!(limiter.check_all(&[("k", 1)]).unwrap().allowed);
            assert!(limiter.check_many(&[("k", 1)]).unwrap()[0].as_ref().unwrap().allowed);
        }
        limiter.reset("k").unwrap();
        let flushed = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                limiter.flush().unwrap();
                flushed.store(true, Ordering::SeqCst);
            });
            // The log thread is at the stalled sync by then, or about to be.
            while limiter.core.log().unwrap().queued_bytes() > 0 {
                thread::yield_now();
            }
            assert!(!flushed.load(Ordering::SeqCst) && limiter.report().syncs() == 0);
            drop(stall);
        });
        assert!(flushed.load(Ordering::SeqCst) && limiter.report().syncs() == 1);
    }
}

#[test]
fn a_full_disk_is_refused_before_anything_changes_and_service_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let disk = FullDisk::default();
    let limiter = Limiter::open(dir.path(), Options { disk: Arc::new(disk.clone()), ..options(&clock) }).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    disk.full.store(true, Ordering::SeqCst);
    let mut allowed = 0;
    let error = loop {
        match limiter.check("k", 1) {
            Ok(_) => allowed += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::LogFailed);
    assert!(error.message().contains("room"), "{error}");
    assert_eq!(limiter.status("k").unwrap().unwrap().totals.allowed, allowed, "nothing was spent by the refused one");
    assert_eq!(limiter.health().0, Health::NoSpace);
    disk.full.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while limiter.check("k", 1).is_err() {
        assert!(Instant::now() < deadline, "service should resume once there is room");
        thread::yield_now();
    }
    assert_eq!(limiter.health().0, Health::Healthy);
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
}

/// A disk on which a file can't grow while it is full.
#[derive(Clone, Default)]
struct FullDisk {
    full: Arc<AtomicBool>,
}

impl ReadDisk for FullDisk {}

impl Disk for FullDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let grows = offset + bytes.len() as u64 > file.metadata()?.len();
        if grows && self.full.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(28));
        }
        SystemDisk.write_at(file, bytes, offset)
    }
}

/// A disk that copies on write: while it is full, filled space can't be overwritten either. That may show when a part
/// is written.
struct CopyingDisk {
    error: i32,
    /// How many writes are still to find no room.
    full: AtomicI64,
    refused: AtomicU32,
    /// Holds up each write while it is locked.
    gate: Mutex<()>,
}

impl CopyingDisk {
    fn new(error: i32) -> Arc<CopyingDisk> {
        Arc::new(CopyingDisk { error, full: AtomicI64::new(0), refused: AtomicU32::new(0), gate: Mutex::new(()) })
    }
}

impl ReadDisk for CopyingDisk {}

impl Disk for CopyingDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        drop(self.gate.lock().unwrap());
        if self.full.fetch_sub(1, Ordering::SeqCst) > 0 {
            self.refused.fetch_add(1, Ordering::SeqCst);
            file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::Error::from_raw_os_error(self.error));
        }
        SystemDisk.write_at(file, bytes, offset)
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_write_into_filled_space_that_finds_no_room_is_made_again_until_there_is_some() {
    for (sync, error) in [(SyncMode::Always, ENOSPC), (SyncMode::Batch, EDQUOT), (SyncMode::Always, EDQUOT)] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let disk = CopyingDisk::new(error);
        let limiter = Limiter::open(dir.path(), Options { sync, disk: disk.clone(), ..options(&clock) }).unwrap();
        limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        limiter.check("k", 1).unwrap();
        let spent = || limiter.status("k").unwrap().unwrap().totals.allowed;
        disk.full.store(i64::MAX, Ordering::SeqCst);
        // The first finds out, unless a mark was written meanwhile. The others are refused before anything changes.
        let error = limiter.check("k", 1).unwrap_err();
        assert!(error.kind() == Kind::LogFailed && error.message().contains("no room"), "{error}");
        let after = spent();
        assert!(after <= 2, "{after}");
        for _ in 0..10 {
            assert_eq!(limiter.check("k", 1).unwrap_err().kind(), Kind::LogFailed);
            assert_eq!(limiter.compact().unwrap_err().kind(), Kind::LogFailed);
        }
        assert_eq!((spent(), limiter.health().0), (after, Health::NoSpace));
        assert_eq!(limiter.flush().unwrap_err().kind(), Kind::LogFailed);
        assert_eq!(recovered(dir.path(), &clock).unwrap()[0].totals.allowed, 1, "after a crash meanwhile");
        let before = disk.refused.load(Ordering::SeqCst);
        wait_until("it should be tried again", || disk.refused.load(Ordering::SeqCst) > before + 1);

        disk.full.store(0, Ordering::SeqCst);
        wait_until("service should resume once there is room", || limiter.health().0 == Health::Healthy);
        assert!(limiter.check("k", 1).unwrap().allowed);
        assert_eq!(spent(), after + 1);
        limiter.flush().unwrap();
        limiter.compact().unwrap();
        assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
        limiter.close().unwrap();
        assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
    }
}

#[test]
fn a_check_does_not_notice_that_there_was_no_room_for_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let disk = CopyingDisk::new(ENOSPC);
    let limiter = Limiter::open(dir.path(), Options { disk: disk.clone(), ..options(&clock) }).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    for round in 1..=3 {
        disk.full.store(1, Ordering::SeqCst);
        // Refused only if a mark has found out, so that nothing is promised for a moment.
        let answered = limiter.check("k", 1);
        assert_eq!(disk.refused.load(Ordering::SeqCst), round);
        wait_until("service should resume", || limiter.health().0 == Health::Healthy);
        assert!(answered.is_ok_and(|decision| decision.allowed) || limiter.check("k", 1).unwrap().allowed);
        assert_eq!(limiter.status("k").unwrap().unwrap().totals.allowed, u64::from(round));
        assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
    }
}

/// Also where the frame that found no room can take no more of the queue.
#[test]
fn a_log_without_room_can_be_closed_and_has_what_was_answered() {
    for (sync, fills) in [(SyncMode::Always, false), (SyncMode::Relaxed, true)] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let disk = CopyingDisk::new(ENOSPC);
        let limiter = Limiter::open(dir.path(), Options { sync, disk: disk.clone(), ..options(&clock) }).unwrap();
        limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        limiter.configure("long:*", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        limiter.check("k", 1).unwrap();
        limiter.flush().unwrap();
        let keys: Vec<String> = (0..1600).map(|number| format!("long:{number:0490}")).collect();
        let gate = disk.gate.lock().unwrap();
        disk.full.store(i64::MAX, Ordering::SeqCst);
        // All of it is queued while the log thread is at the gate, in large records: soon the disk counts as stalled.
        let queued = || limiter.report().queued_bytes;
        for keys in keys.chunks(400).filter(|_| fills) {
            let items: Vec<(&str, u64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
            limiter.check_all(&items).unwrap_or_else(|error| panic!("{} bytes queued: {error}", queued()));
        }
        assert!(!fills || queued() > MAX_FRAME_BYTES as u64, "{}", queued());
        drop(gate);
        wait_until("it should find no room", || disk.refused.load(Ordering::SeqCst) > 2 || !fills);
        let begun = Instant::now();
        assert_eq!(limiter.close().unwrap_err().kind(), Kind::LogFailed);
        assert!(begun.elapsed() < Duration::from_secs(5), "it waits for no room");
        // In relaxed an end of the process may lose what was not written yet.
        let found = recovered(dir.path(), &clock).unwrap();
        assert_eq!(found.iter().map(|status| status.totals.allowed).collect::<Vec<_>>(), [1, 0]);
    }
}

#[test]
fn a_limit_that_is_there_already_is_confirmed_only_when_it_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let disk = FaultyDisk::new(i64::MAX, 5, true);
    let limiter = Limiter::open(dir.path(), Options { disk: disk.clone(), ..options(&clock) }).unwrap();
    let (ten, twenty) = (limit(10, Algorithm::FixedWindowCounter), limit(20, Algorithm::FixedWindowCounter));
    assert!(limiter.configure("safe", ten.clone()).unwrap());
    assert!(!limiter.configure("safe", ten.clone()).unwrap());
    assert!(limiter.core.shards.iter().all(|shard| shard.lock().unconfirmed().is_none()));
    disk.sync_fails.store(true, Ordering::SeqCst);
    assert_eq!(limiter.configure("lost", ten.clone()).unwrap_err().kind(), Kind::LogFailed);
    assert_eq!(limiter.configure("lost", ten.clone()).unwrap_err().kind(), Kind::LogFailed);
    assert_eq!(limiter.configure("lost", twenty.clone()).unwrap_err().kind(), Kind::LogFailed);
}

/// Takes as long as a request waits for the disk.
#[test]
fn a_configuration_that_was_given_up_is_waited_for_once_more_and_not_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(i64::MAX, 5, true);
    let options = Options { disk: disk.clone(), ..options(&Clock::manual(START)) };
    let limiter = Limiter::open(dir.path(), options).unwrap();
    let ten = limit(10, Algorithm::FixedWindowCounter);
    limiter.configure("other", ten.clone()).unwrap();
    let stall = disk.stall.lock().unwrap();
    assert_eq!(limiter.configure("k", ten.clone()).unwrap_err().kind(), Kind::Overloaded);
    let shard = &limiter.core.shards[shard_of(limiter.core.hash("k"))];
    thread::scope(|scope| {
        let again = scope.spawn(|| limiter.configure("k", ten.clone()));
        // It waits for the disk too, and keeps nobody from the shard meanwhile.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            limiter.status("k").unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(stall);
        assert!(!again.join().unwrap().unwrap());
    });
    // By now it is known to be on disk: the next one has nothing to wait for.
    assert_eq!(shard.lock().unconfirmed(), None);
}

#[test]
fn a_panic_of_the_log_thread_is_as_final_as_a_failed_write() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(i64::MAX, PANICS, true);
    let options = Options { disk: disk.clone(), sync: SyncMode::Relaxed, ..options(&Clock::manual(START)) };
    let limiter = Limiter::open(dir.path(), options).unwrap();
    limiter.configure("k", limit(1_000_000_000, Algorithm::FixedWindowCounter)).unwrap();
    disk.left.store(0, Ordering::SeqCst);
    // In relaxed no check waits for the log: it must be reported otherwise.
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        match limiter.check("k", 1) {
            Ok(_) => assert!(Instant::now() < deadline, "checks should not go on without a log"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::LogFailed);
    assert_eq!(limiter.health().0, Health::Failed);
    assert!(limiter.close().is_err());
}

#[test]
fn a_log_whose_closing_failed_does_not_look_closed() {
    let mut failed = 0;
    for call in 0..8 {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let clock = Clock::manual(START);
        let disk = FaultyDisk::new(i64::MAX, 5, true);
        let limiter = Limiter::open(&dir, Options { disk: disk.clone(), ..options(&clock) }).unwrap();
        limiter.configure("k", limit(10, Algorithm::FixedWindowCounter)).unwrap();
        limiter.check("k", 1).unwrap();
        disk.left.store(call, Ordering::SeqCst);
        let closed = limiter.close();
        assert_eq!(closed.is_err(), disk.failed.load(Ordering::SeqCst) > 0, "call {call}");
        failed += u32::from(closed.is_err());
        let found =
            store::recover(&dir, &SystemDisk, &mut Replayed::new(&Registry::new(0), &std::hash::RandomState::new()))
                .unwrap();
        assert_eq!(found.clean.is_some(), closed.is_ok(), "call {call}");
        assert_eq!(recovered(&dir, &clock).unwrap()[0].totals.allowed, 1);
    }
    assert!((4..8).contains(&failed), "writes, the cut and the sync: {failed}");
}
