//! The queue and the wake-ups under loom: the real log thread and the real waiters, in every order of their steps (with
//! at most a few preemptions), on a disk that only notes what it is given. Run by
//! `RUSTFLAGS="--cfg loom" cargo test --lib store::log::model`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::handle::Log;
use super::segment::Segment;
use super::segment::Start;
use super::sync::Instant;
use super::wait::{Outcome, Pending, Stage, Waiter};
use crate::error::{Kind, Result};
use crate::limit::{Algorithm, Limit};
use crate::store::clocks::Clocks;
use crate::store::files::data_dir::DataDir;
use crate::store::files::disk::{Disk, ReadDisk};
use crate::store::format::encode::encoded_len;
use crate::store::format::frame;
use crate::store::format::record::{Event, MAX_FIXED, MAX_ITEM};
use crate::store::policy::Policy;

/// Explores `scenario`, with this many preemptions at most.
fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(scenario);
}

/// What is on the disk. Its lock is held for no step of the model, so it is std's.
#[derive(Default)]
struct Noted {
    filled: u64,
    written: Vec<Vec<u8>>,
    synced: Vec<Vec<u8>>,
}

#[derive(Default)]
struct ModelDisk {
    noted: Mutex<Noted>,
    /// Whether an fsync fails.
    fails: bool,
    /// Whether the write of a frame fails.
    refuses: bool,
    /// Whether there is room only for the first filled space.
    full: bool,
}

impl ModelDisk {
    /// Whether the record of this key has come so far.
    fn has(&self, key: &str, stage: Stage) -> bool {
        let noted = self.noted.lock().unwrap();
        let frames = match stage {
            Stage::Written => &noted.written,
            Stage::Durable => &noted.synced,
        };
        frames.iter().any(|frame| frame.windows(key.len()).any(|part| part == key.as_bytes()))
    }
}

impl ReadDisk for ModelDisk {}

impl Disk for ModelDisk {
    fn write_at(&self, _: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut noted = self.noted.lock().unwrap();
        let end = offset + bytes.len() as u64;
        if bytes.starts_with(b"FLfr") {
            if self.refuses {
                return Err(io::Error::from_raw_os_error(5));
            }
            assert!(end <= noted.filled, "a frame past the space that was filled for it");
            noted.written.push(bytes.to_vec());
        } else if self.full && noted.filled > 0 {
            return Err(io::Error::from_raw_os_error(28));
        }
        noted.filled = noted.filled.max(end);
        Ok(())
    }
    fn sync_data(&self, _: &File) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut noted = self.noted.lock().unwrap();
        noted.synced = noted.written.clone();
        Ok(())
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.sync_data(file)
    }
    fn set_len(&self, _: &File, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn log_on(disk: &Arc<ModelDisk>) -> Arc<Log> {
    let header = frame::FILE_HEADER as u64;
    let segment = Segment {
        file: File::open("/dev/null").unwrap(),
        path: PathBuf::from("0000000001.aof"),
        number: 1,
        salt: 0,
        position: header,
        filled: header,
        mark_copy: None,
        copy_failed: false,
    };
    let log = Log::start(Start {
        home: DataDir::new(&(Arc::clone(disk) as Arc<dyn Disk>), Path::new(""), [0; 16]),
        segment,
        next_sequence: 1,
        base: 0,
        clocks: Clocks::still(),
        policy: Policy::default(),
        log_bytes: header,
        snapshot_bytes: 0,
    });
    Arc::new(log.unwrap())
}

fn created(key: &str) -> Event<'_> {
    let limit = Arc::new(Limit::of_millis(1, 1, Algorithm::TokenBucket, None).unwrap());
    Event::Created { id: 1, shard: 0, at: 0, limit, max_keys: None, key }
}

/// What a worker does for one request: the record of this key.
fn spend(log: &Log, key: &str, stage: Stage) -> Result<()> {
    let event = created(key);
    request(log, encoded_len(&event), &event, stage)
}

/// The same with a record of about 40 000 bytes.
fn spend_much(log: &Log) -> Result<()> {
    let items = vec![(1 << 60, 1 << 40); 2700];
    request(log, MAX_FIXED + items.len() * MAX_ITEM, &Event::SpentAll { at: 0, items }, Stage::Durable)
}

fn request(log: &Log, bytes: usize, event: &Event<'_>, stage: Stage) -> Result<()> {
    let waiter = Waiter::take();
    let mut reservation = log.reserve(1, bytes)?;
    log.append(&mut reservation, event, Some(Pending::new(&waiter, stage)));
    drop(reservation);
    log.wait(&waiter)
}

/// A worker that must get an answer, and not before its record has come so far.
fn worker(log: &Arc<Log>, disk: &Arc<ModelDisk>, key: &'static str, stage: Stage) -> loom::thread::JoinHandle<bool> {
    let (log, disk) = (Arc::clone(log), Arc::clone(disk));
    loom::thread::spawn(move || match spend(&log, key, stage) {
        Ok(()) => {
            assert!(disk.has(key, stage), "{key} was answered before it was {stage:?}");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::LogFailed, "{error}");
            false
        }
    })
}

#[test]
fn a_wake_up_is_never_lost() {
    explore(4, || {
        let far = Instant::now() + Duration::from_secs(3600);
        let (first, second) = (Waiter::take(), Waiter::take());
        let others = (Pending::new(&first, Stage::Written), Pending::new(&second, Stage::Durable));
        let other = loom::thread::spawn(move || {
            others.0.complete(true);
            others.1.complete(false);
        });
        // The second is completed after the first, so either may be seen to complete the first.
        assert_ne!(first.wait(far), Outcome::TimedOut);
        assert_eq!(second.wait(far), Outcome::Failed);
        other.join().unwrap();
    });
}

#[test]
fn two_workers_are_answered_after_their_write_or_sync() {
    for (own, others) in
        [(Stage::Durable, Stage::Durable), (Stage::Written, Stage::Written), (Stage::Written, Stage::Durable)]
    {
        explore(2, move || {
            let disk = Arc::new(ModelDisk::default());
            let log = log_on(&disk);
            let other = worker(&log, &disk, "other", others);
            spend(&log, "own", own).unwrap();
            assert!(disk.has("own", own));
            assert!(other.join().unwrap());
            log.stop().unwrap();
        });
    }
}

/// As a thread in `batch` does that checks, and flushes.
#[test]
fn a_sync_after_a_write_covers_it() {
    explore(2, || {
        let disk = Arc::new(ModelDisk::default());
        let log = log_on(&disk);
        let other = worker(&log, &disk, "other", Stage::Written);
        spend(&log, "own", Stage::Written).unwrap();
        log.sync().unwrap();
        assert!(disk.has("own", Stage::Durable));
        assert!(other.join().unwrap());
        log.stop().unwrap();
    });
}

#[test]
fn a_failed_sync_wakes_all() {
    explore(2, || {
        let disk = Arc::new(ModelDisk { fails: true, ..ModelDisk::default() });
        let log = log_on(&disk);
        let other = worker(&log, &disk, "other", Stage::Durable);
        assert_eq!(spend(&log, "own", Stage::Durable).unwrap_err().kind(), Kind::LogFailed);
        assert!(!other.join().unwrap());
        assert_eq!(log.stop().unwrap_err().kind(), Kind::LogFailed);
    });
}

#[test]
fn a_failed_write_wakes_all() {
    explore(2, || {
        let disk = Arc::new(ModelDisk { refuses: true, ..ModelDisk::default() });
        let log = log_on(&disk);
        let other = worker(&log, &disk, "other", Stage::Durable);
        assert_eq!(spend(&log, "own", Stage::Written).unwrap_err().kind(), Kind::LogFailed);
        assert!(!other.join().unwrap());
        assert_eq!(log.stop().unwrap_err().kind(), Kind::LogFailed);
    });
}

#[test]
fn room_is_promised_once() {
    explore(2, || {
        let disk = Arc::new(ModelDisk::default());
        let log = log_on(&disk);
        // Of the first 64 KiB each needs more than half: one waits until the other has been written and more is filled.
        let other = Arc::clone(&log);
        let other = loom::thread::spawn(move || spend_much(&other).unwrap());
        spend_much(&log).unwrap();
        other.join().unwrap();
        assert_eq!(log.queued_bytes(), 0, "all that was promised is given back");
        log.stop().unwrap();
    });
}

#[test]
fn the_last_room_is_promised_once() {
    explore(2, || {
        let disk = Arc::new(ModelDisk { full: true, ..ModelDisk::default() });
        let log = log_on(&disk);
        let other = Arc::clone(&log);
        let other = loom::thread::spawn(move || spend_much(&other).is_ok());
        let own = spend_much(&log).is_ok();
        assert!(own ^ other.join().unwrap(), "there is room for one of the two");
        log.stop().unwrap();
    });
}

#[test]
fn a_worker_that_meets_the_stop_is_answered() {
    for stage in [Stage::Durable, Stage::Written] {
        explore(3, move || {
            let disk = Arc::new(ModelDisk::default());
            let log = log_on(&disk);
            let other = worker(&log, &disk, "other", stage);
            log.stop().unwrap();
            // On disk, or refused; but not left waiting.
            let answered = other.join().unwrap();
            assert!(!answered || disk.has("other", Stage::Durable));
        });
    }
}

#[test]
fn a_record_that_meets_the_stop_is_on_disk() {
    explore(2, || {
        let disk = Arc::new(ModelDisk::default());
        let log = log_on(&disk);
        let other = Arc::clone(&log);
        // As in `relaxed`: it is answered when its record is queued.
        let other = loom::thread::spawn(move || {
            let event = created("other");
            other.reserve(1, encoded_len(&event)).map(|mut room| other.append(&mut room, &event, None)).is_ok()
        });
        log.stop().unwrap();
        let answered = other.join().unwrap();
        assert!(!answered || disk.has("other", Stage::Durable));
    });
}
