//! The handle to the log thread, for those that write records and wait for them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::growth::Growth;
use super::health::{Health, overloaded, stalled};
use super::queue::{Message, Payload, Reservation, Shared};
use super::segment::Cut;
use super::segment::Start;
use super::sync::{Builder, Instant, JoinHandle, RecvTimeoutError, Sender, bounded, sleep, unbounded};
use super::wait::{Outcome, Pending, Stage, Waiter};
use super::writer::Writer;
use crate::bounds::{LOG_WAIT_MS, STACK_BYTES};
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::store::files::lock::Closed;
use crate::store::format::frame::FRAME_HEADER;
use crate::store::format::record::Event;
use crate::store::timings::Timings;

/// How often a thread that waits for space looks again.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Takes each record of a log that keeps none.
#[cfg(feature = "store")]
pub type Taker = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// The handle to the log thread.
pub struct Log {
    #[cfg(feature = "store")]
    taker: Option<Taker>,
    shared: Arc<Shared>,
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<Result<Closed>>>>,
    base: Micros,
}

impl Log {
    /// Starts the log thread on a segment that was just opened, and waits for its first filled space.
    pub(in crate::store) fn start(start: Start) -> Result<Log> {
        let growth = Growth::new(start.log_bytes, start.snapshot_bytes);
        let shared = Arc::new(Shared { growth, ..Shared::default() });
        let (queue, messages) = unbounded();
        let base = start.base;
        let mut writer = Writer::new(start, Arc::clone(&shared));
        writer.fill();
        let thread = Builder::new()
            .name("flint-log".into())
            .stack_size(STACK_BYTES)
            .spawn(move || writer.run(&messages))
            .map_err(|error| Error::new(Kind::Io, format!("cannot start the log thread: {error}")))?;
        Ok(Log {
            #[cfg(feature = "store")]
            taker: None,
            shared,
            queue,
            thread: Mutex::new(Some(thread)),
            base,
        })
    }

    /// A log that keeps nothing: it has room for all, hands each record to `taker`, and completes at once what waits
    /// for it. It has no thread and no file.
    #[cfg(feature = "store")]
    pub fn sink(taker: Taker) -> Log {
        let (queue, _) = unbounded();
        let shared = Arc::new(Shared::default());
        // More than is ever reserved at the same time.
        shared.account.available.store(u64::MAX / 2, Ordering::Release);
        Log { taker: Some(taker), shared, queue, thread: Mutex::new(None), base: 0 }
    }

    /// Promises room for `records` records whose encoded lengths add up to at most `bytes`. Must be called before a
    /// lock is taken: it may wait.
    ///
    /// # Errors
    /// `log_failed` when the log has failed or there is no room on the disk; `overloaded` when the disk takes longer
    /// than [`LOG_WAIT_MS`] to write what was queued before.
    pub fn reserve(&self, records: usize, bytes: usize) -> Result<Reservation<'_>> {
        if let Some(reservation) = self.reserve_now(records, bytes)? {
            return Ok(reservation);
        }
        let Shared { account, condition, .. } = &*self.shared;
        let deadline = Instant::now() + Duration::from_millis(LOG_WAIT_MS);
        loop {
            if condition.get() != Health::Healthy {
                return Err(condition.error());
            }
            if let Some(reservation) = account.try_reserve(records, with_frames(records, bytes)) {
                return Ok(reservation);
            }
            if condition.is_stalled() || Instant::now() >= deadline {
                return Err(overloaded());
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// As [`Log::reserve`], but never waits: `None` if it would.
    ///
    /// # Errors
    /// `log_failed` when the log has failed; `overloaded` when the disk does not answer.
    pub fn reserve_now(&self, records: usize, bytes: usize) -> Result<Option<Reservation<'_>>> {
        let Shared { account, condition, .. } = &*self.shared;
        if condition.is_stalled() {
            return Err(stalled());
        }
        if condition.get() == Health::Failed {
            return Err(condition.error());
        }
        Ok(account.try_reserve(records, with_frames(records, bytes)))
    }

    /// Queues one record, which takes its space out of the reservation. Never waits. With a waiter for the sync the log
    /// is synced as soon as possible, otherwise when its policy says.
    pub fn append(&self, reservation: &mut Reservation<'_>, event: &Event<'_>, waiter: Option<Pending>) {
        #[cfg(feature = "store")]
        if let Some(taker) = &self.taker {
            // What was reserved is given back when that is dropped.
            taker(event);
            return waiter.into_iter().for_each(|waiter| waiter.complete(true));
        }
        let payload = Payload::encode(event, self.base);
        let reserved = reservation.take(&payload);
        let message = Message::Append { payload, reserved: reserved as u32, waiter };
        if self.queue.send(message).is_err() {
            // The thread has ended. The waiter came back with the message, and was notified when that was dropped.
            self.shared.account.release(reserved);
        }
    }

    /// Waits until the ticket's record has come to its stage. To be called holding no lock.
    ///
    /// # Errors
    /// `log_failed` when it never will; `overloaded` when the disk does not answer in time (the record may still reach
    /// the disk).
    pub fn wait(&self, waiter: &Waiter) -> Result<()> {
        match waiter.wait(Instant::now() + Duration::from_millis(LOG_WAIT_MS)) {
            Outcome::Done => Ok(()),
            Outcome::Failed => Err(self.failure()),
            Outcome::TimedOut => Err(overloaded()),
        }
    }

    /// Waits until all that was queued before is durable.
    ///
    /// # Errors
    /// As [`Log::wait`].
    pub fn sync(&self) -> Result<()> {
        let waiter = Waiter::take();
        self.notify(Pending::new(&waiter, Stage::Durable));
        self.wait(&waiter)
    }

    /// Completes the waiter when all that was queued before has come to the stage that it waits for.
    pub fn notify(&self, waiter: Pending) {
        #[cfg(feature = "store")]
        if self.taker.is_some() {
            return waiter.complete(true);
        }
        // A thread that has ended gives the message back, and the waiter in it is dropped, which completes it as
        // failed.
        let _ = self.queue.send(Message::Notify { waiter });
    }

    /// Closes the segment and begins the next one, whose number is returned: all records queued before are in older
    /// segments, and durable.
    ///
    /// # Errors
    /// `log_failed` or `io`; the log then goes on in its segment, if it can.
    pub fn rotate(&self) -> Result<u64> {
        self.ask(|reply| Message::Rotate { reply })
    }

    /// Makes all durable that was queued before, and returns where that ends. Bytes before the cut are never written
    /// again. A full disk is not an error.
    ///
    /// # Errors
    /// `log_failed`, `overloaded`.
    pub fn cut(&self) -> Result<Cut> {
        self.ask(|reply| Message::Cut { reply })
    }

    fn ask<T>(&self, message: impl FnOnce(Sender<Result<T>>) -> Message) -> Result<T> {
        let (reply, answer) = bounded(1);
        self.queue.send(message(reply)).map_err(|_| self.failure())?;
        match answer.recv_timeout(Duration::from_millis(LOG_WAIT_MS)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(overloaded()),
            Err(RecvTimeoutError::Disconnected) => Err(self.failure()),
        }
    }

    /// Makes the log fail permanently, for this reason: from then on nothing is accepted. Returns at once.
    pub fn give_up(&self, reason: String) {
        let _ = self.queue.send(Message::GiveUp { reason });
    }

    /// Why records are not made durable any more.
    pub fn failure(&self) -> Error {
        self.shared.condition.error()
    }

    /// The health of the log, and the reason if it is not good.
    pub fn health(&self) -> (Health, Option<String>) {
        (self.shared.condition.get(), self.shared.condition.reason())
    }

    /// Bytes of all segments without filled space.
    pub fn bytes(&self) -> u64 {
        self.shared.growth.bytes.load(Ordering::Relaxed)
    }

    /// Notes that `bytes` of old segments were removed since a snapshot of `snapshot_bytes` replaces them.
    pub(in crate::store) fn compacted(&self, bytes: u64, snapshot_bytes: u64) {
        self.shared.growth.compacted(bytes, snapshot_bytes);
    }

    /// Events written since the start.
    pub fn events(&self) -> u64 {
        self.shared.growth.events.load(Ordering::Relaxed)
    }

    /// Bytes reserved for records that are not written yet.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.account.reserved.load(Ordering::Relaxed)
    }

    /// How long fdatasync took.
    pub fn syncs(&self) -> &Timings {
        &self.shared.syncs
    }

    /// Names the thread that is unparked when a compaction is requested.
    pub fn set_compactor(&self, thread: Thread) {
        self.shared.growth.set_compactor(thread);
    }

    /// Whether a compaction was requested since this was last asked.
    pub fn take_compaction_request(&self) -> bool {
        self.shared.growth.take_request()
    }

    /// Writes and syncs what is queued, marks the end as clean, and ends the thread. Returns where the log ends. A
    /// second call does nothing.
    ///
    /// # Errors
    /// `log_failed` when not everything could be written.
    pub fn stop(&self) -> Result<Option<Closed>> {
        self.shared.stopping.store(1, super::sync::Ordering::Release);
        let _ = self.queue.send(Message::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.map(JoinHandle::join) {
            None => Ok(None),
            Some(Ok(result)) => result.map(Some),
            Some(Err(_)) => Err(Error::new(Kind::Internal, "the log thread panicked")),
        }
    }
}

/// Each record may be written in its own frame.
fn with_frames(records: usize, bytes: usize) -> u64 {
    (bytes + records * FRAME_HEADER) as u64
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs::File;
    use std::io;

    use crossbeam_channel::Sender;

    use super::*;
    use crate::store::clocks::Clocks;
    use crate::store::files::data_dir::DataDir;
    use crate::store::files::disk::{Disk, ReadDisk, SystemDisk};
    use crate::store::format::frame::FILE_HEADER;
    use crate::store::format::record::MAX_FIXED;
    use crate::store::log::segment::Segment;
    use crate::store::log::wait::Completion;
    use crate::store::policy::Policy;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// The log of a new directory.
    fn log_on(disk: Arc<dyn Disk>, dir: &std::path::Path, policy: Policy) -> Log {
        let home = DataDir::new(&disk, dir, [0; 16]);
        Log::start(Start {
            segment: Segment::create(&home, 1, 1, 0).unwrap(),
            home,
            next_sequence: 1,
            base: 0,
            clocks: Clocks::still(),
            policy,
            log_bytes: FILE_HEADER as u64,
            snapshot_bytes: 0,
        })
        .unwrap()
    }

    /// A log that asks to be compacted from its first byte on.
    fn log(dir: &std::path::Path) -> Log {
        log_on(Arc::new(SystemDisk), dir, Policy { compact_after: 1, ..Policy::default() })
    }

    /// A disk whose fdatasync waits for its gate, and which can be told to fail.
    #[derive(Default)]
    struct GatedDisk {
        gate: Mutex<()>,
        write_fails: std::sync::atomic::AtomicBool,
    }

    impl ReadDisk for GatedDisk {}

    impl Disk for GatedDisk {
        fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
            if self.write_fails.load(Ordering::SeqCst) {
                return Err(io::Error::from_raw_os_error(5));
            }
            SystemDisk.write_at(file, bytes, offset)
        }
        fn sync_data(&self, file: &File) -> io::Result<()> {
            drop(self.gate.lock().unwrap());
            SystemDisk.sync_data(file)
        }
    }

    #[derive(Debug)]
    struct Completed(Sender<(u64, bool)>);

    impl Completion for Completed {
        fn complete(&self, slot: u64, done: bool) {
            let _ = self.0.send((slot, done));
        }
    }

    /// Never syncs by itself.
    fn never() -> Policy {
        Policy { flush_every: Duration::from_secs(3600), flush_every_events: 1_000_000, ..Policy::default() }
    }

    /// Queues a record for each waiter, all under one reservation.
    fn append_for(log: &Log, completion: &Arc<dyn Completion>, waiters: &[(u64, Stage)]) {
        let mut reservation = log.reserve(waiters.len(), waiters.len() * MAX_FIXED).unwrap();
        for (slot, stage) in waiters {
            let waiter = Pending::slot(completion, *slot, *stage);
            log.append(&mut reservation, &Event::Removed { id: *slot, at: 1 }, Some(waiter));
        }
    }

    #[test]
    fn who_waits_for_the_write_is_notified_before_the_sync_and_others_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(GatedDisk::default());
        let log = log_on(disk.clone(), dir.path(), never());
        let (sender, completed) = crossbeam_channel::unbounded();
        let completion: Arc<dyn Completion> = Arc::new(Completed(sender));
        let next = || completed.recv_timeout(PATIENCE).unwrap();

        // Records that are waited for until they are written are no reason to sync, however many come.
        for slot in 1..=300 {
            append_for(&log, &completion, &[(slot, Stage::Written)]);
            assert_eq!(next(), (slot, true));
        }
        log.notify(Pending::slot(&completion, 301, Stage::Written));
        assert_eq!(next(), (301, true));
        assert_eq!(log.syncs().read().0.iter().sum::<u64>(), 0);

        // In one batch or in two: what waits for the sync waits for the gate.
        let gate = disk.gate.lock().unwrap();
        append_for(&log, &completion, &[(401, Stage::Written), (402, Stage::Durable)]);
        assert_eq!(next(), (401, true));
        assert!(completed.is_empty());
        drop(gate);
        assert_eq!(next(), (402, true));
        log.stop().unwrap();
        log.notify(Pending::slot(&completion, 501, Stage::Written));
        assert_eq!(next(), (501, false));
    }

    #[test]
    fn a_failed_write_fails_all_that_wait() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(GatedDisk::default());
        let log = log_on(disk.clone(), dir.path(), never());
        let (sender, completed) = crossbeam_channel::unbounded();
        let completion: Arc<dyn Completion> = Arc::new(Completed(sender));
        disk.write_fails.store(true, Ordering::SeqCst);
        append_for(&log, &completion, &[(1, Stage::Durable), (2, Stage::Written)]);
        let mut results = [(); 2].map(|()| completed.recv_timeout(PATIENCE).unwrap());
        results.sort_unstable();
        assert_eq!((results, log.health().0), ([(1, false), (2, false)], Health::Failed));
        // Nothing is tried again, also when it would succeed.
        disk.write_fails.store(false, Ordering::SeqCst);
        log.notify(Pending::slot(&completion, 3, Stage::Written));
        assert_eq!(completed.recv_timeout(PATIENCE), Ok((3, false)));
        assert_eq!(log.stop().unwrap_err().kind(), Kind::LogFailed);
    }

    fn append(log: &Log, event: &Event<'_>) {
        let mut reservation = log.reserve(1, MAX_FIXED).unwrap();
        log.append(&mut reservation, event, None);
    }

    /// Waits until the log thread has done all that follows from what was queued.
    fn catch_up(log: &Log) {
        // Its housekeeping comes after it has answered the first.
        log.sync().unwrap();
        log.sync().unwrap();
    }

    #[test]
    fn what_a_compaction_writes_requests_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        catch_up(&log);
        assert!(!log.take_compaction_request(), "no event has come");
        for number in [2, 4, 6] {
            append(&log, &Event::Removed { id: 1, at: 1 });
            catch_up(&log);
            assert!(log.take_compaction_request());
            assert_eq!(log.rotate().unwrap(), number);
            for shard in 0..=255 {
                append(&log, &Event::Marker { snapshot: number, shard });
            }
            catch_up(&log);
            log.compacted(log.bytes() / 2, 0);
            // The log grows, as by the marks of an idle one, and no event has come.
            assert_eq!(log.rotate().unwrap(), number + 1);
            catch_up(&log);
            assert!(!log.take_compaction_request());
        }
        log.stop().unwrap();
    }
}
