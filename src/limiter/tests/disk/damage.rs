//! Tests of damaged data directories: what is refused, what is cut off, and what a repair saves.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use crate::limiter::tests::*;

const FRAME_HEADER: usize = 40;

/// Frames of a segment by the lengths in their headers: where each begins, whether it has records, and where the last
/// one ends.
fn frames(segment: &[u8]) -> (Vec<(usize, bool)>, usize) {
    let (mut found, mut at) = (Vec::new(), 64);
    let number = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap());
    while segment.get(at..at + 4) == Some(b"FLfr".as_slice()) {
        found.push((at, number(at + 12) & 0x7fff_ffff != 0));
        at += FRAME_HEADER + number(at + 8) as usize;
    }
    (found, at)
}

/// A directory as a crash leaves it when the log was idle: many frames over several pages, and a mark with its copy.
/// Returns it with its only segment and the number of allowed checks.
fn idle_directory(parent: &Path, checks: u64) -> (PathBuf, PathBuf) {
    let (live, dir) = (parent.join("live"), parent.join("idle"));
    let limiter = Limiter::open(&live, options(&Clock::manual(START))).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    for _ in 0..checks {
        limiter.check("k", 1).unwrap();
    }
    let segment = live.join("0000000001.aof");
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_copy = |bytes: &[u8]| {
        let (found, end) = frames(bytes);
        let page = end.next_multiple_of(4096);
        found.last().is_some_and(|(_, records)| !records) && bytes.get(page..page + 4) == Some(b"FLfr")
    };
    while !has_copy(&std::fs::read(&segment).unwrap()) {
        assert!(Instant::now() < deadline, "an idle log should write its mark");
        thread::sleep(Duration::from_millis(1));
    }
    copy(&live, &dir);
    (dir.clone(), dir.join("0000000001.aof"))
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

/// Opening must be refused by file and offset, and change nothing but the lock file's note.
fn assert_refused(dir: &Path, file: &str, what: &str) -> String {
    let ours = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        files.into_iter().filter(|(path, _)| !path.ends_with("flint.lock")).collect()
    };
    let before = ours(files(dir));
    let refused = Limiter::open(dir, options(&Clock::manual(START)));
    let error = refused.err().unwrap_or_else(|| panic!("{what}: it was opened"));
    assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
    let place = format!("{file} is damaged at offset ");
    assert!(error.message().contains(&place), "{what}: {error}");
    assert!(error.message().contains("a new directory with `flint log repair`"), "{what}: {error}");
    assert!(ours(files(dir)) == before, "{what}: a file was changed");
    error.message().to_owned()
}

fn allowed(dir: &Path) -> Result<u64> {
    recovered(dir, &Clock::manual(START)).map(|statuses| statuses.first().map_or(0, |status| status.totals.allowed))
}

#[test]
fn every_lost_page_and_sector_of_the_confirmed_part_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment) = idle_directory(parent.path(), 300);
    let whole = std::fs::read(&segment).unwrap();
    let (found, _) = frames(&whole);
    // The last frame with records, whose loss must be seen too.
    let (last, _) = *found.iter().rev().find(|(_, records)| *records).unwrap();
    assert!(last > 3 * 4096, "several pages: {last}");
    assert_eq!(allowed(&dir).unwrap(), 300);
    for size in [512, 4096] {
        for begin in (0..=last).step_by(size) {
            for fill in [0, 0xff] {
                let mut damaged = whole.clone();
                damaged[begin..begin + size].fill(fill);
                std::fs::write(&segment, &damaged).unwrap();
                assert_refused(&dir, "0000000001.aof", &format!("{size} bytes of {fill} from {begin}"));
            }
        }
    }
    // All of them, but for the copy of the mark.
    let mut damaged = whole.clone();
    let copy = frames(&whole).1.next_multiple_of(4096);
    damaged[64..copy].fill(0);
    std::fs::write(&segment, &damaged).unwrap();
    let message = assert_refused(&dir, "0000000001.aof", "all frames");
    assert!(message.contains("offset 64") && message.contains("up to 302 were confirmed"), "{message}");
    std::fs::write(&segment, &whole).unwrap();
    assert_eq!(allowed(&dir).unwrap(), 300);
}

#[test]
fn the_copy_of_a_mark_is_gone_before_a_frame_stands_over_it() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, crashed) = (parent.path().join("data"), parent.path().join("crashed"));
    let limiter = Limiter::open(&dir, options(&Clock::manual(START))).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    while limiter.report().log_bytes < 3700 {
        limiter.check("k", 1).unwrap();
    }
    let segment = dir.join("0000000001.aof");
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read(&segment).unwrap()[4096..4100] != *b"FLfr" {
        assert!(Instant::now() < deadline, "an idle log should write its mark");
        thread::sleep(Duration::from_millis(1));
    }
    // A frame that ends within the copy: 40 bytes and a record of about 15 and the key.
    let (_, end) = frames(&std::fs::read(&segment).unwrap());
    limiter.configure(&"x".repeat(4096 - end - 40 - 15 + 20), limit(1, Algorithm::FixedWindowCounter)).unwrap();
    copy(&dir, &crashed);
    let (_, end) = frames(&std::fs::read(crashed.join("0000000001.aof")).unwrap());
    assert!((4097..4096 + FRAME_HEADER).contains(&end), "{end}");
    assert_eq!(verify(&crashed).unwrap().torn, None, "what is left of a copy is no torn end");
}

#[test]
fn a_lost_page_of_a_log_that_was_closed_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let segment = dir.join("0000000001.aof");
    // Each start goes on in the same segment, so the end comes to stand at many places of a page.
    for round in 0..30 {
        let limiter = Limiter::open(&dir, options(&Clock::manual(START))).unwrap();
        limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        for _ in 0..7 {
            limiter.check("k", 1).unwrap();
        }
        limiter.close().unwrap();
        drop(limiter);
        let whole = std::fs::read(&segment).unwrap();
        let (found, end) = frames(&whole);
        assert_eq!(whole.len(), end.next_multiple_of(4096) + FRAME_HEADER);
        let (last, _) = *found.iter().rev().find(|(_, records)| *records).unwrap();
        for size in [512, 4096] {
            let mut damaged = whole.clone();
            damaged[last / size * size..(last / size + 1) * size].fill(0);
            std::fs::write(&segment, &damaged).unwrap();
            assert_refused(&dir, "0000000001.aof", &format!("round {round}, {size} bytes"));
        }
        // The other way round nothing is lost, and it is only a log that was not closed.
        let mut damaged = whole.clone();
        damaged[end..].fill(0);
        std::fs::write(&segment, &damaged).unwrap();
        assert_eq!(allowed(&dir).unwrap(), 7 * (round + 1));
        std::fs::write(&segment, &whole).unwrap();
    }
}

#[test]
fn a_log_that_is_cut_anywhere_in_its_last_frames_starts_with_what_is_whole() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment) = idle_directory(parent.path(), 20);
    let whole = std::fs::read(&segment).unwrap();
    let (found, end) = frames(&whole);
    let with_records: Vec<usize> = found.iter().filter(|(_, records)| *records).map(|(at, _)| *at).collect();
    let begin = with_records[with_records.len() - 5];
    for length in begin..=end {
        std::fs::write(&segment, &whole[..length]).unwrap();
        // A frame counts when the next one has begun where it ends, or the file ends there.
        let next = found.iter().map(|(at, _)| *at).chain([end]).skip(1);
        let ends = with_records.iter().map(|at| next.clone().find(|next| next > at).unwrap());
        let kept = ends.filter(|end| *end <= length).count() as u64;
        // That of the clock and that of the limit are not checks.
        assert_eq!(allowed(&dir).unwrap(), kept - 2, "cut to {length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Sectors that never reached the disk, in any choice, of what was never confirmed.
    #[test]
    fn sectors_of_the_unconfirmed_tail_may_be_lost(
        confirmed in 1..60u64,
        batch in 1..120u64,
        lost in prop::collection::vec(any::<bool>(), 40),
    ) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        let crashed = parent.path().join("crashed");
        let clock = Clock::manual(START);
        // Nothing is synced by itself, so that what comes after the flush is not confirmed.
        let never = Duration::from_secs(3600);
        let policy = Policy { flush_every_events: 1_000_000, flush_every: never, ..Policy::default() };
        let limiter = Limiter::open(&dir, Options { sync: SyncMode::Relaxed, policy, ..options(&clock) }).unwrap();
        limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
        for _ in 0..confirmed {
            limiter.check("k", 1).unwrap();
        }
        limiter.flush().unwrap();
        let segment = "0000000001.aof";
        let (_, durable) = frames(&std::fs::read(dir.join(segment)).unwrap());
        for _ in 0..batch {
            limiter.check("k", 1).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while limiter.report().queued_bytes > 0 {
            prop_assert!(Instant::now() < deadline, "the log should write what is queued");
            thread::sleep(Duration::from_millis(1));
        }
        copy(&dir, &crashed);
        let mut bytes = std::fs::read(crashed.join(segment)).unwrap();
        for (sector, _) in lost.iter().enumerate().filter(|(_, lost)| **lost) {
            // A sector that holds confirmed bytes has them at least as they were.
            let begin = (durable / 512 + sector) * 512;
            let end = (begin + 512).min(bytes.len());
            bytes[begin.max(durable).min(end)..end].fill(0);
        }
        std::fs::write(crashed.join(segment), bytes).unwrap();
        let kept = allowed(&crashed).unwrap();
        prop_assert!((confirmed..=confirmed + batch).contains(&kept), "{} of {}+{}", kept, confirmed, batch);
    }
}

#[test]
fn frames_of_an_older_segment_behind_the_tail_are_never_replayed() {
    let parent = tempfile::tempdir().unwrap();
    let (live, dir) = (parent.path().join("live"), parent.path().join("stale"));
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&live, options(&clock)).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    for _ in 0..50 {
        limiter.check("k", 1).unwrap();
    }
    let old = std::fs::read(live.join("0000000001.aof")).unwrap();
    limiter.compact().unwrap();
    limiter.check("k", 1).unwrap();
    limiter.flush().unwrap();
    copy(&live, &dir);
    let segment = dir.join("0000000002.aof");
    let new = std::fs::read(&segment).unwrap();
    let ((found, end), (old_found, old_end)) = (frames(&new), frames(&old));
    assert!(old_found.len() > 50 && !found.is_empty());
    // The blocks of a removed segment that the disk hands out again, with the very next sequence number among them.
    for begin in [64, old_found[1].0, old_found[20].0, old_found[49].0] {
        let mut bytes = new[..end].to_vec();
        bytes.extend_from_slice(&old[begin..old_end]);
        std::fs::write(&segment, bytes).unwrap();
        assert_eq!(allowed(&dir).unwrap(), 51, "from {begin}");
    }
}

fn verified(dir: &Path) {
    let found = verify(dir).unwrap();
    assert!(found.torn.is_none() && found.clean.is_some(), "{found:?}");
}

fn repaired(dir: &Path, to: &Path) -> Value {
    let before = files(dir);
    let done = repair_at(dir, to, &Clock::manual(START)).unwrap();
    assert!(files(dir) == before, "the source was changed");
    verified(to);
    done.to_json()
}

#[test]
fn a_repair_saves_everything_before_the_damage() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, segment) = idle_directory(parent.path(), 100);
    let whole = std::fs::read(&segment).unwrap();
    let (found, _) = frames(&whole);
    let records: Vec<usize> = found.iter().filter(|(_, records)| *records).map(|(at, _)| *at).collect();
    assert_eq!(records.len(), 102, "each in a frame of its own, the clock's too");
    for lost in [2, 3, 51, 100, 101] {
        let mut damaged = whole.clone();
        damaged[records[lost] + 41] ^= 1;
        std::fs::write(&segment, &damaged).unwrap();
        let to = parent.path().join(format!("repaired-{lost}"));
        let done = repaired(&dir, &to);
        assert_eq!(done["kept"]["events"], lost, "{done}");
        assert_eq!(done["kept"]["last_sequence"], lost, "{done}");
        assert_eq!(done["kept"]["limits"], 1, "{done}");
        assert_eq!(done["damaged"][0]["offset"], records[lost], "{done}");
        assert_eq!(done["damaged"][0]["file"], segment.display().to_string(), "{done}");
        assert_eq!(done["lost"]["events"], 101 - lost, "{done}");
        assert_eq!(done["lost"]["last_sequence"].as_u64(), (lost < 101).then_some(102), "{done}");
        assert_eq!(allowed(&to).unwrap(), lost as u64 - 2);
        // It goes on from there.
        let limiter = Limiter::open(&to, options(&Clock::manual(START))).unwrap();
        assert!(limiter.check("k", 1).unwrap().allowed);
    }
    // The record that configures the limit: nothing is left.
    let mut damaged = whole;
    damaged[records[1] + 41] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    let to = parent.path().join("nothing");
    let error = repair(&dir, &to).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains("nothing can be recovered"), "{error}");
    assert!(error.message().contains(&format!("0000000001.aof is damaged at offset {}", records[1])), "{error}");
    assert!(!to.exists());
}

/// A directory with a snapshot of many limits in several frames, and a log after it.
fn with_snapshot(dir: &Path, clock: &Clock) -> Vec<Status> {
    const LIMITS: u64 = 6000;
    let limiter = Limiter::open(dir, Options { sync: SyncMode::Relaxed, ..options(clock) }).unwrap();
    thread::scope(|scope| {
        for worker in 0..32 {
            let limiter = &limiter;
            scope.spawn(move || {
                for index in (worker..LIMITS).step_by(32) {
                    let algorithm = Algorithm::ALL[index as usize % 4];
                    limiter.configure(&format!("key-{index:05}"), limit(1000, algorithm)).unwrap();
                    limiter.check(&format!("key-{index:05}"), 1 + index % 9).unwrap();
                }
            });
        }
    });
    limiter.compact().unwrap();
    for index in (0..LIMITS).step_by(100) {
        limiter.check(&format!("key-{index:05}"), 2).unwrap();
    }
    limiter.close().unwrap();
    all(&limiter)
}

#[test]
fn a_repair_saves_what_can_be_read_of_a_damaged_snapshot() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("to"));
    let clock = Clock::manual(START);
    let before = with_snapshot(&dir, &clock);
    let snapshot = dir.join("0000000002.snapshot");
    let whole = std::fs::read(&snapshot).unwrap();
    let (found, end) = frames(&whole);
    assert!(found.len() >= 3 && end == whole.len(), "{}", found.len());
    let mut damaged = whole.clone();
    damaged[found[1].0 + 1000] ^= 0x40;
    std::fs::write(&snapshot, &damaged).unwrap();
    let error = assert_refused(&dir, "0000000002.snapshot", "a frame of a snapshot");
    assert!(error.contains(&format!("offset {}", found[1].0)), "{error}");
    let done = repaired(&dir, &to);
    let kept = done["kept"]["limits"].as_u64().unwrap();
    let lost = done["lost"]["limits"].as_u64().unwrap();
    assert_eq!(kept + lost, 6000, "{done}");
    assert!(kept > 3000 && lost > 500, "{done}");
    // Each file that is there is unchanged, including the log after the snapshot.
    let after = recovered(&to, &clock).unwrap();
    assert_eq!(after.len() as u64, kept);
    for status in &after {
        let old = before.binary_search_by(|old| old.key.cmp(&status.key)).unwrap();
        assert_eq!(*status, before[old]);
    }
    // Without its header a snapshot has no salt, and nothing in it can be distinguished from chance.
    let mut damaged = whole;
    damaged[41] ^= 1;
    std::fs::write(&snapshot, &damaged).unwrap();
    let error = repair(&dir, &parent.path().join("nothing")).unwrap_err();
    assert!(error.message().contains("0000000002.snapshot") && error.message().contains("nothing can be"), "{error}");
}

#[test]
fn a_repair_falls_back_to_an_older_snapshot_with_all_of_its_log() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, old, to) = (parent.path().join("data"), parent.path().join("old"), parent.path().join("to"));
    let clock = Clock::manual(START);
    let limiter = Limiter::open(&dir, options(&clock)).unwrap();
    limiter.configure("k", limit(1000, Algorithm::SlidingWindowLog)).unwrap();
    limiter.compact().unwrap();
    limiter.check("k", 5).unwrap();
    limiter.flush().unwrap();
    copy(&dir, &old);
    limiter.compact().unwrap();
    limiter.check("k", 7).unwrap();
    limiter.close().unwrap();
    let before = all(&limiter);
    drop(limiter);
    // Compaction was stopped before it removed the old files.
    let segment = "0000000002.aof";
    let bytes = std::fs::read(old.join(segment)).unwrap();
    // The 256 markers and the check.
    std::fs::write(dir.join(segment), &bytes[..frames(&bytes).1]).unwrap();
    std::fs::copy(old.join("0000000002.snapshot"), dir.join("0000000002.snapshot")).unwrap();
    let newest = dir.join("0000000003.snapshot");
    let mut damaged = std::fs::read(&newest).unwrap();
    damaged[100] ^= 1;
    std::fs::write(&newest, damaged).unwrap();
    assert_refused(&dir, "0000000003.snapshot", "the newest snapshot");
    let done = repaired(&dir, &to);
    assert_eq!((&done["kept"]["snapshot"], &done["lost"]["events"]), (&2.into(), &0.into()), "{done}");
    assert_eq!(recovered(&to, &clock).unwrap(), before);
}

/// As after a compaction that was stopped while it removed the old files: an old state is the last resort.
#[test]
fn a_repair_prefers_what_is_left_of_a_snapshot_to_an_older_state_with_a_gap() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, old) = (parent.path().join("data"), parent.path().join("old"));
    let clock = Clock::manual(START);
    let policy = Policy { segment_bytes: 4096, ..Policy::default() };
    let limiter = Limiter::open(&dir, Options { policy, sync: SyncMode::Relaxed, ..options(&clock) }).unwrap();
    let keys: Vec<String> = (0..3000).map(|index| format!("key-{index:04}")).collect();
    thread::scope(|scope| {
        for keys in keys.chunks(100) {
            let limiter = &limiter;
            scope.spawn(move || {
                for key in keys {
                    limiter.configure(key, limit(1000, Algorithm::FixedWindowCounter)).unwrap();
                }
            });
        }
    });
    copy(&dir, &old);
    keys.iter().for_each(|key| assert!(limiter.check(key, 5).unwrap().allowed));
    limiter.compact().unwrap();
    limiter.close().unwrap();
    drop(limiter);
    std::fs::copy(old.join("0000000001.aof"), dir.join("0000000001.aof")).unwrap();
    assert!(!dir.join("0000000002.aof").exists(), "there is a gap");
    let snapshots = files(&dir).into_iter().filter(|(path, _)| path.extension().is_some_and(|name| name == "snapshot"));
    let [(newest, whole)]: [(PathBuf, Vec<u8>); 1] = snapshots.collect::<Vec<_>>().try_into().unwrap();
    let (found, _) = frames(&whole);
    assert!(found.len() > 1);
    let mut damaged = whole.clone();
    damaged[found[0].0 + 100] ^= 1;
    std::fs::write(&newest, &damaged).unwrap();
    let done = repaired(&dir, &parent.path().join("partly"));
    assert!(done["lost"]["limits"].as_u64().is_some_and(|lost| (1..2900).contains(&lost)), "{done}");
    assert!(recovered(&parent.path().join("partly"), &clock).unwrap().iter().all(|status| status.totals.allowed == 1));
    damaged[41] ^= 1;
    std::fs::write(&newest, &damaged).unwrap();
    let done = repaired(&dir, &parent.path().join("older"));
    assert_eq!(done["kept"]["snapshot"], Value::Null, "{done}");
    assert!(done["damaged"].to_string().contains("0000000002.aof"), "{done}");
}

#[test]
fn a_repair_ends_at_a_missing_segment_and_copies_what_is_whole() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let clock = Clock::manual(START);
    let policy = Policy { segment_bytes: 3000, ..Policy::default() };
    let limiter = Limiter::open(&dir, Options { policy, ..options(&clock) }).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::SlidingWindowCounter)).unwrap();
    // The next segment is made ready ahead: only a fifth shows that the fourth has events.
    while !dir.join("0000000005.aof").exists() {
        limiter.check("k", 1).unwrap();
    }
    limiter.close().unwrap();
    let before = all(&limiter);
    drop(limiter);
    let done = repaired(&dir, &parent.path().join("whole"));
    assert_eq!(done["damaged"], Value::Array(Vec::new()), "{done}");
    assert_eq!(recovered(&parent.path().join("whole"), &clock).unwrap(), before);

    std::fs::remove_file(dir.join("0000000003.aof")).unwrap();
    let error = recovered(&dir, &clock).unwrap_err();
    assert!(error.message().contains("0000000003.aof is missing"), "{error}");
    let to = parent.path().join("to");
    let done = repaired(&dir, &to);
    assert_eq!(done["damaged"][0]["offset"], Value::Null, "{done}");
    assert!(done["lost"]["events"].as_u64().unwrap() > 0, "{done}");
    let kept = done["kept"]["events"].as_u64().unwrap();
    assert_eq!(allowed(&to).unwrap(), kept - 2);
    assert!(kept - 2 < before[0].totals.allowed);
}

#[test]
fn a_repair_writes_into_a_new_directory_alone() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, _) = idle_directory(parent.path(), 3);
    let taken = parent.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("notes"), "mine").unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    for to in [&taken, &dir, &dir.join("inner/most"), &file] {
        let error = repair(&dir, to).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(error.message().starts_with("to "), "{error}");
    }
    assert_eq!(std::fs::read_to_string(taken.join("notes")).unwrap(), "mine");
    assert!(!dir.join("inner").exists());
    // A directory in use is not read.
    let _open = Limiter::open(&dir, options(&Clock::manual(START))).unwrap();
    let to = parent.path().join("to");
    assert_eq!(repair(&dir, &to).unwrap_err().kind(), Kind::Locked);
    assert!(!to.exists());
    // An empty one is taken, also with the lock file of an attempt that failed.
    let (dir, _) = idle_directory(&tempfile::tempdir_in(&parent).unwrap().keep(), 3);
    let empty = parent.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::write(empty.join("flint.lock"), "").unwrap();
    repaired(&dir, &empty);
    let missing = repair(&parent.path().join("nowhere"), &to).unwrap_err();
    assert!(missing.message().contains("does not exist"), "{missing}");
}

/// A log that was closed and opened again confirms what it did before.
#[test]
fn a_lost_page_is_refused_also_after_a_start_without_records() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, crashed) = (parent.path().join("data"), parent.path().join("crashed"));
    let segment = crashed.join("0000000001.aof");
    let limiter = Limiter::open(&dir, options(&Clock::manual(START))).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    for _ in 0..200 {
        limiter.check("k", 1).unwrap();
    }
    limiter.close().unwrap();
    drop(limiter);
    let limiter = Limiter::open(&dir, options(&Clock::manual(START))).unwrap();
    copy(&dir, &crashed);
    let whole = std::fs::read(&segment).unwrap();
    let (found, end) = frames(&whole);
    let (last, _) = *found.iter().rev().find(|(_, records)| *records).unwrap();
    let mut damaged = whole.clone();
    damaged[last / 4096 * 4096..end.next_multiple_of(4096)].fill(0);
    std::fs::write(&segment, &damaged).unwrap();
    assert_refused(&crashed, "0000000001.aof", "a lost page");
    drop(limiter);
}

/// The markers of a snapshot are on disk before it has its name: a log that ends before them has lost its end.
#[test]
fn a_log_that_ends_before_the_markers_of_its_snapshot_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("to"));
    let clock = Clock::manual(START);
    let before = with_snapshot(&dir, &clock);
    let segment = dir.join("0000000002.aof");
    let whole = std::fs::read(&segment).unwrap();
    let (found, _) = frames(&whole);
    let mut torn = whole[..found[1].0 + 20].to_vec();
    torn.resize(whole.len(), 0);
    for (damaged, offset) in
        [(whole[..64].to_vec(), 64), (whole[..found[1].0].to_vec(), found[1].0), (torn, found[1].0)]
    {
        std::fs::write(&segment, &damaged).unwrap();
        let error = assert_refused(&dir, "0000000002.aof", "a cut log");
        assert!(error.contains(&format!("at offset {offset}: the log ends before")), "{error}");
        assert_eq!(verify(&dir).unwrap_err().message(), error);
        let _ = std::fs::remove_dir_all(&to);
        let done = repaired(&dir, &to);
        assert_eq!((&done["kept"]["limits"], &done["damaged"][0]["offset"]), (&6000.into(), &offset.into()), "{done}");
    }
    std::fs::write(&segment, &whole).unwrap();
    assert_eq!(recovered(&dir, &clock).unwrap(), before);
}

/// Two segments that were closed cleanly, and the records in all.
fn closed_directory(dir: &Path, clock: &Clock) -> u64 {
    let policy = Policy { segment_bytes: 3000, ..Policy::default() };
    let limiter = Limiter::open(dir, Options { policy, ..options(clock) }).unwrap();
    limiter.configure("k", limit(1_000_000, Algorithm::FixedWindowCounter)).unwrap();
    while !dir.join("0000000002.aof").exists() {
        limiter.check("k", 1).unwrap();
    }
    for _ in 0..10 {
        limiter.check("k", 1).unwrap();
    }
    limiter.close().unwrap();
    // The reading of the clock, the limit, and each check.
    2 + all(&limiter)[0].totals.allowed
}

#[test]
fn a_log_that_was_closed_and_is_cut_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, to) = (parent.path().join("data"), parent.path().join("to"));
    let clock = Clock::manual(START);
    let last = closed_directory(&dir, &clock);
    let segment = dir.join("0000000002.aof");
    let whole = std::fs::read(&segment).unwrap();
    let (found, end) = frames(&whole);
    let confirmed = format!("records up to {last} were there when the log was closed");
    let with_records: Vec<usize> = found.iter().filter(|(_, records)| *records).map(|(at, _)| *at).collect();
    let all_records = found.iter().find(|(at, _)| at > with_records.last().unwrap()).unwrap().0;
    let count = with_records.len() as u64;
    for (kept, at) in (0..).zip(with_records) {
        // Between two frames, and within one, with filled space after it or without.
        for (cut, length) in [(at, at), (at + 20, at + 20), (at, whole.len()), (at + 20, whole.len())] {
            let mut damaged = whole[..cut].to_vec();
            damaged.resize(length, 0);
            std::fs::write(&segment, &damaged).unwrap();
            let error = assert_refused(&dir, "0000000002.aof", "a cut log");
            assert!(error.contains(&format!("at offset {at}: record ")) && error.contains(&confirmed), "{error}");
            assert_eq!(verify(&dir).unwrap_err().message(), error);
            let _ = std::fs::remove_dir_all(&to);
            let done = repaired(&dir, &to);
            let lost = &done["lost"];
            assert_eq!((&done["damaged"][0]["offset"], &lost["last_sequence"]), (&at.into(), &last.into()), "{done}");
            assert_eq!(lost["missing"], count - kept, "{done}");
            assert_eq!(allowed(&to).unwrap(), last - 2 - (count - kept));
        }
    }
    // Only marks are cut: nothing is missing.
    for cut in [all_records, all_records + 20, end] {
        std::fs::write(&segment, &whole[..cut]).unwrap();
        assert_eq!(allowed(&dir).unwrap(), last - 2);
    }
    for gone in ["0000000002.aof", "0000000001.aof"] {
        std::fs::remove_file(dir.join(gone)).unwrap();
        let error = Limiter::open(&dir, options(&clock)).err().unwrap();
        let what = "0000000002.aof is missing: ";
        assert!(error.kind() == Kind::Corrupt && error.message().contains(what), "{error}");
        assert!(error.message().contains(&confirmed), "{error}");
    }
    let error = repair(&dir, &parent.path().join("nothing")).unwrap_err();
    assert!(error.message().contains(&confirmed) && error.message().contains("nothing can be recovered"), "{error}");
}

#[test]
fn what_comes_after_a_log_was_closed_is_compared_with_its_end_too() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, crashed) = (parent.path().join("data"), parent.path().join("crashed"));
    let clock = Clock::manual(START);
    let last = closed_directory(&dir, &clock);
    let limiter = Limiter::open(&dir, options(&clock)).unwrap();
    let closed_at = std::fs::read(dir.join("0000000002.aof")).unwrap();
    let (_, closed_at) = frames(&closed_at);
    limiter.check("k", 1).unwrap();
    limiter.check("k", 1).unwrap();
    copy(&dir, &crashed);
    let segment = crashed.join("0000000002.aof");
    let whole = std::fs::read(&segment).unwrap();
    // What was never confirmed by a clean stop may be missing, as after a power cut of a disk that lies.
    std::fs::write(&segment, &whole[..closed_at]).unwrap();
    assert_eq!(allowed(&crashed).unwrap(), last - 2);
    let before = frames(&whole).0.iter().rev().find(|(at, records)| *records && *at < closed_at).unwrap().0;
    std::fs::write(&segment, &whole[..before]).unwrap();
    assert_refused(&crashed, "0000000002.aof", "a cut log");
    // A snapshot replaces what is gone.
    limiter.compact().unwrap();
    assert_eq!(recovered(&dir, &clock).unwrap(), all(&limiter));
    limiter.close().unwrap();
    drop(limiter);
    for file in ["0000000003.aof", "0000000003.snapshot"] {
        std::fs::remove_file(dir.join(file)).unwrap();
        let error = Limiter::open(&dir, options(&clock)).err().unwrap();
        assert!(error.message().contains("0000000003.aof is missing"), "{error}");
    }
    // What the lock file says of another log is nothing to this one.
    let other = parent.path().join("other");
    closed_directory(&other, &clock);
    for number in 1..=2 {
        let file = format!("{number:010}.aof");
        std::fs::copy(other.join(&file), dir.join(&file)).unwrap();
    }
    assert_eq!(recovered(&dir, &clock).unwrap(), recovered(&other, &clock).unwrap());
}
