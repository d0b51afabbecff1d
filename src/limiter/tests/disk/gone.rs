//! Tests of files that others remove, rename or replace while a limiter runs.

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use super::fault::FaultyDisk;
use crate::limiter::tests::*;
use crate::store::Whereabouts;

/// A limiter of an older snapshot, an older segment and the one that is written to; closed and opened again if so.
fn open(dir: &Path, clock: &Clock, again: bool) -> Limiter {
    let policy = Policy { segment_bytes: 10_000, ..Policy::default() };
    let open = || Limiter::open(dir, Options { policy: policy.clone(), ..options(clock) }).unwrap();
    let limiter = open();
    limiter.configure("k", limit(1_000_000, Algorithm::SlidingWindowLog)).unwrap();
    limiter.check("k", 1).unwrap();
    limiter.compact().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !dir.join("0000000003.aof").exists() {
        assert!(Instant::now() < deadline, "another segment should begin: {:?}", files(dir));
        limiter.check("k", 1).unwrap();
    }
    if !again {
        return limiter;
    }
    limiter.close().unwrap();
    drop(limiter);
    open()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()).collect();
    files.sort();
    files
}

/// What is done to a file, and how it is reported.
type Deed = (&'static str, fn(&Path));

const DEEDS: [Deed; 4] = [
    ("was removed", |path| std::fs::remove_file(path).unwrap()),
    ("was renamed", |path| std::fs::rename(path, path.with_extension("mine")).unwrap()),
    ("was renamed", |path| {
        let elsewhere = path.parent().unwrap().with_extension("elsewhere");
        std::fs::create_dir_all(&elsewhere).unwrap();
        std::fs::rename(path, elsewhere.join("file")).unwrap();
    }),
    ("was replaced by another file", |path| {
        std::fs::write(path.with_extension("other"), "mine").unwrap();
        std::fs::rename(path.with_extension("other"), path).unwrap();
    }),
];

#[test]
fn a_file_that_is_gone_is_found_and_all_is_written_anew() {
    for again in [false, true] {
        for (fate, deed) in DEEDS {
            // An older segment, the snapshot, and the segment that is written to.
            for file in ["0000000002.aof", "0000000002.snapshot", "0000000003.aof"] {
                let parent = tempfile::tempdir().unwrap();
                let dir = parent.path().join("data");
                let clock = Clock::manual(START);
                let limiter = open(&dir, &clock, again);
                let path = dir.join(file);
                assert!(files(&dir).contains(&path), "{:?}", files(&dir));
                limiter.core.heal();
                let before = limiter.report();
                assert_eq!(before.problems(), Vec::<String>::new());
                deed(&path);
                limiter.check("k", 1).unwrap();
                limiter.core.heal();
                let report = limiter.report();
                // The thread may have come first.
                assert!(report.compactions > before.compactions, "{file} {fate}");
                let [problem] = &report.problems()[..] else { panic!("{:?}", report.problems()) };
                assert!(problem.contains(&format!("{file} {fate} while this process was running")), "{problem}");
                assert_eq!(limiter.health().0, Health::Healthy);
                assert_eq!(limiter.core.store.as_ref().unwrap().whereabouts(), Whereabouts::Whole);
                limiter.check("k", 1).unwrap();
                assert_eq!(recovered(&dir, &clock).unwrap(), all(&limiter));
                let aside = dir.join(format!("{file}.replaced"));
                let kept = std::fs::read(&aside).ok();
                assert_eq!(kept, fate.contains("another").then(|| b"mine".to_vec()), "what is not ours is kept");
                limiter.close().unwrap();
                assert_eq!(recovered(&dir, &clock).unwrap(), all(&limiter));
            }
        }
    }
}

#[test]
fn a_thread_looks_after_the_files_and_so_does_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let limiter = open(dir.path(), &clock, false);
    let segment = |number: u64| dir.path().join(format!("{number:010}.aof"));
    std::fs::remove_file(segment(3)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !segment(4).exists() || limiter.report().problems().is_empty() {
        assert!(Instant::now() < deadline, "it should be seen without a call");
        thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_file(segment(4)).unwrap();
    limiter.close().unwrap();
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
}

#[test]
fn a_directory_that_is_gone_ends_the_service() {
    let deeds: [fn(&Path); 3] = [
        |dir| std::fs::remove_dir_all(dir).unwrap(),
        |dir| std::fs::rename(dir, dir.with_extension("elsewhere")).unwrap(),
        |dir| {
            std::fs::rename(dir, dir.with_extension("elsewhere")).unwrap();
            std::fs::create_dir(dir).unwrap();
        },
    ];
    for deed in deeds {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let limiter = open(&dir, &Clock::manual(START), false);
        deed(&dir);
        limiter.core.heal();
        // The log thread does it.
        let deadline = Instant::now() + Duration::from_secs(60);
        while limiter.health().0 != Health::Failed {
            assert!(Instant::now() < deadline, "a log without a directory should fail");
            thread::sleep(Duration::from_millis(1));
        }
        let reason = limiter.health().1.unwrap();
        assert!(reason.contains("the data directory") && reason.contains("put it back"), "{reason}");
        let error = limiter.check("k", 1).unwrap_err();
        assert!(error.kind() == Kind::LogFailed && error.message() == reason, "{error}");
        assert_eq!(limiter.report().problems(), [reason]);
        assert_eq!(limiter.close().unwrap_err().kind(), Kind::LogFailed);
    }
}

#[test]
fn what_could_not_be_healed_is_told_by_health_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START);
    let disk = FaultyDisk::new(i64::MAX, 28, false);
    let limiter = Limiter::open(dir.path(), Options { disk: disk.clone(), ..options(&clock) }).unwrap();
    limiter.configure("k", limit(10, Algorithm::FixedWindowCounter)).unwrap();
    limiter.check("k", 1).unwrap();
    disk.creates_fail.store(true, Ordering::SeqCst);
    std::fs::remove_file(dir.path().join("0000000001.aof")).unwrap();
    limiter.core.heal();
    let (health, reason) = limiter.health();
    assert!(health == Health::Failed && reason.unwrap().contains("a restart now would lose what was answered"));
    assert!(limiter.report().problems().iter().any(|problem| problem.contains("could not be written yet")));
    disk.creates_fail.store(false, Ordering::SeqCst);
    limiter.core.heal();
    assert_eq!(limiter.health(), (Health::Healthy, None));
    assert_eq!(recovered(dir.path(), &clock).unwrap(), all(&limiter));
}
