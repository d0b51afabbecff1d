//! Tests of backups of a limiter at work, and of restores that fail or are interrupted.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;

use super::*;
use crate::limiter::offline::backup::restore_on;
use crate::store::ReadDisk;

fn taken(mut backup: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    backup.read_to_end(&mut bytes).unwrap();
    bytes
}

fn open(dir: &Path, clock: &Clock) -> Limiter {
    Limiter::open(dir, options(&clock.restarted())).unwrap()
}

#[test]
fn what_was_answered_before_is_in_the_copy_in_every_mode_and_over_compactions() {
    for sync in [SyncMode::Always, SyncMode::Batch, SyncMode::Relaxed] {
        let (parent, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
        let dir = parent.path().join("data");
        let limiter = Limiter::open(&dir, Options { sync, ..options(&clock) }).unwrap();
        limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        limiter.configure("no", Limit::of_millis(0, 1000, Algorithm::FixedWindowCounter, None).unwrap()).unwrap();
        let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let stopped = || stop.load(Ordering::SeqCst);
        let backups = thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stopped() {
                        limiter.check("k", 1).unwrap();
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(|| {
                while !stopped() {
                    limiter.compact().unwrap();
                }
            });
            limiter.check("no", 1).unwrap();
            let backups: Vec<(u64, Vec<u8>)> = (0..8)
                .map(|_| {
                    let before = answered.load(Ordering::SeqCst);
                    let backup = limiter.backup().unwrap();
                    // Not before the copy is begun, and while it is taken, the log goes on.
                    while answered.load(Ordering::SeqCst) < before + 50 {
                        thread::yield_now();
                    }
                    (before, taken(backup))
                })
                .collect();
            stop.store(true, Ordering::SeqCst);
            backups
        });
        let last = answered.load(Ordering::SeqCst);
        for (number, (before, bytes)) in backups.iter().enumerate() {
            let to = parent.path().join(number.to_string());
            let (restored, found) = restore(&to, &bytes[..], "it").unwrap();
            assert!(restored.bytes > 0 && found.torn.is_none(), "{found:?}");
            verify(&to).unwrap();
            let copy = open(&to, &clock);
            let spent = copy.status("k").unwrap().unwrap().totals.allowed;
            assert!((*before..=last).contains(&spent), "{sync:?}: {spent} of {before} to {last}");
            assert_eq!(copy.status("no").unwrap().unwrap().totals.denied, 1);
            // It goes on like any other.
            copy.check("k", 1).unwrap();
            drop(copy);
            assert_eq!(open(&to, &clock).status("k").unwrap().unwrap().totals.allowed, spent + 1);
        }
    }
}

#[test]
fn a_closed_directory_is_copied_up_to_its_last_frame() {
    let (parent, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let path = |name: &str| parent.path().join(name);
    let limiter = open(&path("data"), &clock);
    limiter.configure("k", limit(10, Algorithm::TokenBucket)).unwrap();
    limiter.check("k", 3).unwrap();
    // As a crash leaves it: the log has no clean end, and something torn.
    copy(&path("data"), &path("crashed"));
    drop(limiter);
    let segment = path("crashed").join("0000000001.aof");
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end + 10..end + 60].fill(7);
    std::fs::write(&segment, bytes).unwrap();
    for name in ["data", "crashed"] {
        let before = std::fs::read_dir(path(name)).unwrap().count();
        let bytes = taken(backup(&path(name)).unwrap());
        assert_eq!(std::fs::read_dir(path(name)).unwrap().count(), before);
        let to = path(&format!("{name}-restored"));
        let (_, found) = restore(&to, &bytes[..], "it").unwrap();
        assert_eq!((found.torn.is_none(), found.clean.is_some()), (true, name == "data"), "{found:?}");
        let copy = open(&to, &clock);
        assert_eq!(copy.status("k").unwrap().unwrap().totals.allowed_cost, 3);
    }
    // Damage is not copied.
    let mut bytes = std::fs::read(path("data").join("0000000001.aof")).unwrap();
    bytes[70] ^= 1;
    std::fs::write(path("data").join("0000000001.aof"), bytes).unwrap();
    assert_eq!(backup(&path("data")).map(|_| ()).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(backup(&path("none")).map(|_| ()).unwrap_err().kind(), Kind::Io);
    assert!(!path("none").exists());
}

/// A disk whose calls fail from one on: once, as a full disk does, or permanently, as after a crash.
#[derive(Default)]
struct Failing {
    calls: AtomicU64,
    from: u64,
    crashes: bool,
}

impl Failing {
    fn call<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match call == self.from || self.crashes && call > self.from {
            true => Err(io::Error::from_raw_os_error(28)),
            false => act(),
        }
    }
}

impl ReadDisk for Failing {}

impl Disk for Failing {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.call(|| SystemDisk.create(path))
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.call(|| SystemDisk.write_at(file, bytes, offset))
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.call(|| SystemDisk.sync_all(file))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(|| SystemDisk.remove(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(|| SystemDisk.sync_dir(path))
    }
}

/// What is in a directory, except the file that makes git ignore it.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".gitignore");
    names.sort();
    names
}

/// A backup of a directory with a snapshot and two segments.
fn example(dir: &Path, clock: &Clock) -> Vec<u8> {
    let policy = Policy { segment_bytes: 1024, ..Policy::default() };
    let limiter = Limiter::open(dir, Options { policy, ..options(clock) }).unwrap();
    limiter.configure("k", limit(1000, Algorithm::TokenBucket)).unwrap();
    limiter.compact().unwrap();
    for _ in 0..60 {
        limiter.check("k", 1).unwrap();
    }
    taken(limiter.backup().unwrap())
}

#[test]
fn a_restore_that_fails_at_any_call_leaves_nothing_and_one_that_crashes_nothing_that_opens() {
    let (parent, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let bytes = example(&parent.path().join("data"), &clock);
    for crashes in [false, true] {
        let mut failed = 0;
        loop {
            let to = parent.path().join(format!("{crashes}{failed}"));
            let disk: Arc<dyn Disk> = Arc::new(Failing { from: failed, crashes, ..Failing::default() });
            let Err(error) = restore_on(&to, &disk, &bytes[..], "it") else { break };
            assert_eq!(error.kind(), Kind::Io, "{error}");
            if crashes {
                match Limiter::open(&to, Options { access: Access::Read, ..options(&clock) }) {
                    // The last call, with which the removal of the name becomes durable, or nothing was made yet.
                    Ok(limiter) => match limiter.status("k").unwrap() {
                        Some(status) => assert_eq!(status.totals.allowed, 60),
                        None => assert_eq!(names(&to), ["flint.lock"], "{failed}"),
                    },
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
                        let told = "a restore of a backup into";
                        assert!(error.message().starts_with(told), "{failed}: {error}");
                        for error in [verify(&to).map(|_| ()), repair(&to, &parent.path().join("x")).map(|_| ())] {
                            assert!(error.unwrap_err().message().starts_with(told), "{failed}");
                        }
                        // And again, to its end.
                        restore(&to, &bytes[..], "it").unwrap();
                        assert_eq!(open(&to, &clock).status("k").unwrap().unwrap().totals.allowed, 60);
                    }
                }
            } else {
                assert!(error.message().contains("make room and try again"), "{error}");
                assert_eq!(names(&to), ["flint.lock"], "{failed}");
                restore(&to, &bytes[..], "it").unwrap();
            }
            failed += 1;
        }
        // Marker, two or more segments and a snapshot: creation, bytes, syncs.
        assert!(failed > 15, "{failed}");
    }
}

#[test]
fn a_restore_refuses_a_used_directory_and_keeps_nothing_of_a_bad_backup() {
    let (parent, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let path = |name: &str| parent.path().join(name);
    let bytes = example(&path("data"), &clock);
    let before = names(&path("data"));
    let error = restore(&path("data"), &bytes[..], "it").unwrap_err();
    assert!(error.kind() == Kind::Io && error.message().contains("is not empty: it has "), "{error}");
    assert_eq!(names(&path("data")), before);
    std::fs::create_dir(path("other")).unwrap();
    std::fs::write(path("other").join("notes"), "").unwrap();
    assert!(restore(&path("other"), &bytes[..], "it").unwrap_err().message().contains("it has notes"));
    assert_eq!(names(&path("other")), ["notes"]);
    std::fs::write(path("file"), "").unwrap();
    assert_eq!(restore(&path("file"), &bytes[..], "it").unwrap_err().kind(), Kind::Io);
    // A mount point, and what Flint itself puts into a directory, are empty.
    for name in ["lost+found", ".gitignore", "flint.lock"] {
        let dir = path(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(name), "").unwrap();
        restore(&dir, &bytes[..], "it").unwrap();
    }
    // What is not a backup at all creates no directory.
    assert!(restore(&path("none"), &b"no backup"[..], "it").is_err());
    assert!(!path("none").exists());
    for length in [60, bytes.len() / 2, bytes.len() - 1] {
        let error = restore(&path("cut"), &bytes[..length], "it").unwrap_err();
        assert!(error.message().contains(&format!("cut off at offset {length}")), "{error}");
        assert_eq!(names(&path("cut")), ["flint.lock"]);
    }
    let _other = Limiter::open(path("cut"), options(&clock)).unwrap();
    assert!(restore(&path("cut"), &bytes[..], "it").is_err());
}

#[test]
fn files_that_no_start_would_take_are_refused_though_the_backup_is_whole() {
    let (parent, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    let data = parent.path().join("data");
    let limiter = open(&data, &clock);
    limiter.configure("k", limit(1000, Algorithm::TokenBucket)).unwrap();
    let backup = limiter.backup().unwrap();
    // The disk has lost it after it was written.
    let segment: PathBuf = data.join("0000000001.aof");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let error = restore(&parent.path().join("to"), &taken(backup)[..], "it").unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.message().contains("0000000001.aof is damaged"), "{error}");
    assert_eq!(names(&parent.path().join("to")), ["flint.lock"]);
}

#[test]
fn one_that_is_only_looked_at_has_no_log_to_wait_for() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(START));
    drop(open(dir.path(), &clock));
    let limiter = Limiter::open(dir.path(), Options { access: Access::Read, ..options(&clock) }).unwrap();
    assert_eq!(limiter.backup().map(|_| ()).unwrap_err().kind(), Kind::Io);
    let limiter = {
        drop(limiter);
        open(dir.path(), &clock)
    };
    limiter.close().unwrap();
    assert_eq!(limiter.backup().map(|_| ()).unwrap_err().kind(), Kind::LogFailed);
}
