//! Time over restarts, and files of other versions, on real directories and with clocks that are set by hand.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Answer, Entry, Event, HoldEntry, PatternTotals, Source};
use super::*;
use crate::clock::{Clock, Micros, Reading};
use crate::error::Kind;
use crate::limit::{Limit, Parts, StateParts};

const HOUR: Micros = 3_600_000_000;
const YEAR: Micros = 365 * 24 * HOUR;
/// 2026-01-31T12:00:00Z
const TODAY: Micros = 1_769_860_800_000_000;

/// What was read, in words.
#[derive(Default)]
struct Seen {
    readings: Vec<Reading>,
    entries: Vec<String>,
    totals: Vec<PatternTotals>,
    holds: Vec<String>,
    answers: Vec<String>,
    events: usize,
}

impl Replay for Seen {
    fn snapshot(&mut self, _: u64, _: bool, _: u64) {}
    fn entry(&mut self, entry: Entry<'_>) -> std::result::Result<(), String> {
        self.entries.push(entry.key.to_owned());
        Ok(())
    }
    fn pattern_totals(&mut self, totals: PatternTotals) -> std::result::Result<(), String> {
        self.totals.push(totals);
        Ok(())
    }
    fn hold(&mut self, hold: HoldEntry<'_>) -> std::result::Result<(), String> {
        self.holds.push(format!("{hold:?}"));
        Ok(())
    }
    fn answer(&mut self, answer: Answer<'_>) -> std::result::Result<(), String> {
        self.answers.push(format!("{answer:?}"));
        Ok(())
    }
    fn event(&mut self, event: Event<'_>) -> std::result::Result<(), String> {
        match event {
            Event::Clock(reading) => self.readings.push(reading),
            _ => self.events += 1,
        }
        Ok(())
    }
}

fn look(dir: &Path) -> (Recovered, Seen) {
    let mut seen = Seen::default();
    let found = recover(dir, &ReadOnlyView::open(dir).unwrap(), &mut seen).unwrap();
    (found, seen)
}

fn entry(key: &str) -> Entry<'_> {
    let limit: Limit = "5/1m".parse().unwrap();
    Entry {
        id: 1,
        shard: 0,
        source: Source::Exact,
        limit: Arc::new(limit),
        max_keys: None,
        overlay: None,
        parts: Parts {
            windows: vec![StateParts::Bucket { whole: 5, part: 0, at: 1, full_at: 1, fast: None }],
            resting: vec![],
            ceiling: None,
        },
        configured: None,
        totals: [0; 4],
        times: [None; 3],
        barrier: None,
        key,
    }
}

/// Opens the directory for writing, as a process with this clock does.
fn open(dir: &Path, clock: &Clock) -> Store {
    let lock = DirectoryLock::acquire(dir, Access::Create).unwrap();
    let found = recover(dir, &SystemDisk, &mut Seen::default()).unwrap();
    found.resume(clock);
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let mut opening = Opening::begin(dir, &disk, lock, found, clock, Policy::default()).unwrap();
    if opening.wants_snapshot() {
        opening.entry(&entry("kept")).unwrap();
        opening.pattern_totals(&PatternTotals { id: 1, totals: [3, 4, 5, 6] }).unwrap();
    }
    opening.finish().unwrap()
}

fn append(store: &Store, event: &Event<'_>) {
    let mut room = store.log().reserve(1, encode::encoded_len(event)).unwrap();
    store.log().append(&mut room, event, None);
}

/// A directory whose last event is `ahead` of the system clock that the clock returned shows.
fn directory(dir: &Path, ahead: Micros) -> Clock {
    let clock = Clock::manual(TODAY + ahead);
    let store = open(dir, &clock);
    append(&store, &Event::Removed { id: 1, at: clock.now() });
    store.log().stop().unwrap();
    clock.set_wall(TODAY);
    clock
}

#[test]
fn short_commands_go_on_at_the_pace_of_real_time() {
    for ahead in [0, HOUR, 10 * YEAR] {
        let dir = tempfile::tempdir().unwrap();
        let mut clock = directory(dir.path(), ahead);
        for step in 0..20 {
            clock = clock.restarted();
            clock.advance(Duration::from_millis(1500));
            let now = TODAY + ahead + step * 2_000_000 + 1_500_000;
            // As with denials: no event that has an instant.
            let store = open(dir.path(), &clock);
            assert_eq!(clock.now(), now, "{ahead} ahead");
            assert_eq!(clock.ahead(), (ahead > 0).then(|| Duration::from_micros(ahead)));
            store.log().stop().unwrap();

            clock = clock.restarted();
            clock.advance(Duration::from_millis(500));
            let (found, seen) = look(dir.path());
            found.resume(&clock);
            assert_eq!(clock.now(), now + 500_000, "whoever looks goes on too");
            // Noted at first, and once more after the system clock was set back.
            assert_eq!(seen.readings.len(), if ahead == 0 { 1 } else { 2 });
        }
    }
}

#[test]
fn after_a_reboot_time_goes_on_by_the_system_clock_and_is_noted() {
    for ahead in [0, HOUR, 10 * YEAR] {
        let dir = tempfile::tempdir().unwrap();
        let mut clock = directory(dir.path(), ahead);
        open(dir.path(), &clock.restarted()).log().stop().unwrap();
        for boot in 1..4 {
            clock = clock.rebooted(TODAY + boot * HOUR);
            let store = open(dir.path(), &clock);
            assert_eq!(clock.now(), TODAY + ahead + boot * HOUR);
            store.log().stop().unwrap();
            let (found, _) = look(dir.path());
            assert_eq!(found.clock, Some(clock.reading()));
        }
        // A machine that has forgotten the time.
        let clock = clock.rebooted(0);
        let (found, _) = look(dir.path());
        found.resume(&clock);
        assert_eq!(clock.now(), TODAY + ahead + 3 * HOUR, "never backwards");
    }
}

#[test]
fn a_clock_that_is_set_while_the_log_is_open_is_noted_with_the_next_event() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(TODAY);
    let store = open(dir.path(), &clock);
    let step = |wall: Micros| {
        clock.set_wall(wall);
        append(&store, &Event::Removed { id: 1, at: clock.now() });
        store.log().sync().unwrap();
        look(dir.path()).0.clock.unwrap()
    };
    let first = step(TODAY);
    assert_eq!(first.at, TODAY);
    assert_eq!(step(TODAY + 1_000_000), first, "a second is no step");
    let forward = step(TODAY + HOUR);
    assert_eq!((forward.at, forward.wall, forward.boot_clock), (TODAY + HOUR, TODAY + HOUR, first.boot_clock));
    let back = step(TODAY);
    assert_eq!((back.at, back.wall), (TODAY + HOUR, TODAY));
    assert_eq!(store.log().events(), 4, "readings are no events");
    assert_eq!(store.log().queued_bytes(), 0, "what was promised for them is given back");
    store.log().stop().unwrap();
    let (found, seen) = look(dir.path());
    assert_eq!((found.events, found.next_sequence, seen.events), (7, 8, 4));
    // Time goes on from there in the next process, which sees the system clock where it is.
    let clock = clock.restarted();
    clock.advance(Duration::from_secs(7));
    found.resume(&clock);
    assert_eq!(clock.now(), TODAY + HOUR + 7_000_000);
}

#[test]
fn a_snapshot_holds_what_the_clocks_showed() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let clock = directory(dir.path(), HOUR).restarted();
    let store = open(dir.path(), &clock);
    store.log().sync().unwrap();
    // As after a crash: the log was not closed.
    for file in std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    drop(store);
    let clock = clock.restarted();
    clock.advance(Duration::from_secs(1));
    let store = open(copy.path(), &clock);
    assert_eq!(clock.now(), TODAY + HOUR + 1_000_000);
    store.log().stop().unwrap();
    drop(store);
    let (found, seen) = look(copy.path());
    assert_eq!((seen.entries, seen.totals.len()), (vec!["kept".to_owned()], 1));
    assert_eq!(seen.readings, [clock.reading()], "that of the snapshot, and none in the log");
    assert_eq!((found.clock, found.last_instant), (Some(clock.reading()), clock.now()));
    // A snapshot that is taken while the log goes on.
    let store = open(copy.path(), &clock.restarted());
    let number = store.log().rotate().unwrap();
    let mut writer = store.begin_snapshot(number).unwrap();
    clock.advance(Duration::from_secs(1));
    let sealed = writer.seal(&clock).unwrap();
    for shard in 0..=255 {
        append(&store, &Event::Marker { snapshot: number, shard });
    }
    store.log().sync().unwrap();
    store.remove_before(number, writer.finish().unwrap());
    store.log().stop().unwrap();
    let (found, seen) = look(copy.path());
    assert_eq!((found.snapshot, found.clock, seen.events), (Some(number), Some(sealed), 256));
}

#[test]
fn another_version_is_refused_by_name_and_nothing_is_changed() {
    for (version, what) in [
        (1_u32, "has format version 1: written by an older, unreleased Flint; nothing was changed"),
        (3, "has format version 3: this flint reads version 2; use a newer flint"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path(), 0);
        let path = dir.path().join("0000000001.aof");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = recover(dir.path(), &SystemDisk, &mut Seen::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains(what), "{error}");
        let repaired = read_for_repair(dir.path(), &SystemDisk, |_| Seen::default());
        assert_eq!(repaired.err().map(|error| error.kind()), Some(Kind::Unsupported));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the segment and the lock");
    }
}

#[test]
fn a_snapshot_keeps_holds_and_answers_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(TODAY);
    let lock = DirectoryLock::acquire(dir.path(), Access::Create).unwrap();
    let found = Recovered { highest_number: 1, next_sequence: 1, ..Recovered::default() };
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let mut opening = Opening::begin(dir.path(), &disk, lock, found, &clock, Policy::default()).unwrap();
    // More of them than one frame holds.
    let key = "k".repeat(500);
    let hold = |hold, ended: Option<Micros>| HoldEntry {
        hold,
        at: TODAY,
        until: TODAY + HOUR,
        ttl: HOUR,
        ended,
        costs: if ended.is_some() { vec![2] } else { Vec::new() },
        items: vec![(1, 3, true, &key)],
    };
    let answer = Answer { key: [1; 16], request: [2; 16], at: TODAY, answer: "{}" };
    let holds: Vec<_> = (0..400).map(|number| hold(number, (number % 2 == 0).then_some(TODAY))).collect();
    holds[..200].iter().for_each(|hold| opening.hold(hold).unwrap());
    opening.answer(&answer).unwrap();
    opening.entry(&entry("a")).unwrap();
    holds[200..].iter().for_each(|hold| opening.hold(hold).unwrap());
    opening.finish().unwrap().log().stop().unwrap();
    let (_, seen) = look(dir.path());
    assert_eq!(seen.holds, holds.iter().map(|hold| format!("{hold:?}")).collect::<Vec<_>>());
    assert_eq!((seen.answers, seen.entries), (vec![format!("{answer:?}")], vec!["a".to_owned()]));
}
