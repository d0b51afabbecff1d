//! The log thread: the only writer of segments.
//!
//! Owns: the queue of encoded records, the open segment, and what is known to be durable. Called by [`crate::store::Store`].
//! Records are queued under a shard's lock, so queueing must neither wait nor fail: room is reserved before the lock is
//! taken ([`Log::reserve`]), in bytes of zero-filled space that is already on disk. That one account bounds the memory of
//! the queue, holds back writers when the disk is slow, and makes a full disk known *before* anything was changed.
//!
//! The account: `available` is the filled space behind the writer's position, `reserved` the space promised to
//! records that are not written yet. A reservation succeeds if and only if `reserved` stays at or below `available`.
//! The writer lowers `available` by what a frame took before it lowers `reserved` by what was promised for its
//! records, which is never less; so the promise is kept at every moment. To stop, it sets `available` to 0 for good and
//! then waits for `reserved` to come down to 0: whoever reserved before has queued its records by then, and nobody can
//! reserve any more: it reads `reserved` by a read-modify-write, so that a reservation is either seen by it or made after
//! it, by one who sees `available` as it is then.
//!
//! A failed write into filled space and a failed fsync are final: whether the kernel kept the data is unknown, and a
//! later fsync that succeeds would prove nothing. From then on every waiter is told so and nothing is written.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::health::{Health, Shared, overloaded, stalled};
use super::queue::{INLINE, Message, Payload, Reservation, with_frames};
use super::sync::{Builder, Instant, JoinHandle, Ordering, RecvTimeoutError, Sender, bounded, sleep, unbounded};
use super::wait::{Outcome, Pending, Waiter};
use super::writer::{Ended, Start, Writer};
use crate::bounds::LOG_WAIT_MS;
use crate::clock::Millis;
use crate::error::{Error, Kind, Result};
use crate::store::format::frame::FRAME_HEADER;
use crate::store::format::record::{self, Event};
use crate::store::timings::Timings;

/// What is left of a reservation and not given back at once, in bytes: less than the largest record of fixed length.
const SMALL_CHANGE: u64 = 64;

/// The handle to the log thread.
pub struct Log {
    shared: Arc<Shared>,
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    base: Millis,
}

impl Log {
    /// Starts the log thread on a segment that was just opened, and waits for its first filled space.
    pub(in crate::store) fn start(start: Start) -> Result<Log> {
        let shared = Arc::new(Shared::default());
        shared.log_bytes.store(start.log_bytes, Ordering::Relaxed);
        shared.compact_past.store(2 * start.snapshot_bytes, Ordering::Relaxed);
        let (queue, messages) = unbounded();
        let base = start.base;
        let mut writer = Writer::new(start, Arc::clone(&shared));
        writer.fill();
        let thread = Builder::new()
            .name("flint-log".into())
            .stack_size(crate::bounds::STACK_BYTES)
            .spawn(move || {
                let _ended = Ended(Arc::clone(&writer.shared));
                writer.run(&messages)
            })
            .map_err(|error| Error::new(Kind::Io, format!("cannot start the log thread: {error}")))?;
        Ok(Log { shared, queue, thread: Mutex::new(Some(thread)), base })
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
        let bytes = with_frames(records, bytes);
        let shared = &*self.shared;
        let deadline = Instant::now() + Duration::from_millis(LOG_WAIT_MS);
        loop {
            if shared.health() != Health::Healthy {
                return Err(shared.error());
            }
            if let Some(reservation) = self.try_reserve(bytes) {
                return Ok(reservation);
            }
            if shared.is_stalled() || Instant::now() >= deadline {
                return Err(overloaded());
            }
            sleep(Duration::from_micros(200));
        }
    }

    /// As [`Log::reserve`], but never waits: `None` where it would.
    ///
    /// # Errors
    /// `log_failed` when the log has failed; `overloaded` when the disk does not answer.
    pub fn reserve_now(&self, records: usize, bytes: usize) -> Result<Option<Reservation<'_>>> {
        if self.shared.is_stalled() {
            return Err(stalled());
        }
        if self.shared.health() == Health::Failed {
            return Err(self.shared.error());
        }
        Ok(self.try_reserve(with_frames(records, bytes)))
    }

    fn try_reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        let shared = &*self.shared;
        if bytes > shared.available.load(Ordering::Acquire) {
            return None;
        }
        let before = shared.reserved.fetch_add(bytes, Ordering::AcqRel);
        let reservation = Reservation { shared, bytes };
        (before + bytes <= shared.available.load(Ordering::Acquire)).then_some(reservation)
    }

    /// Queues one record, for which `bytes` of the reservation are used up. Never waits. With somebody to tell the log is
    /// synced as soon as can be, without by its policy.
    pub fn append(&self, reservation: &mut Reservation<'_>, event: &Event<'_>, waiter: Option<Pending>) {
        let mut payload = Payload::Short(0, [0; INLINE]);
        record::encode_event(&mut payload, event, self.base);
        let used = (payload.bytes().len() + FRAME_HEADER) as u64;
        debug_assert!(used <= reservation.bytes, "a record larger than what was reserved for it");
        // A few bytes are not worth another access to what all threads share: they go with the record.
        let left = reservation.bytes.saturating_sub(used);
        let reserved = if left <= SMALL_CHANGE { reservation.bytes } else { used };
        reservation.bytes -= reserved;
        let message = Message::Append { payload, reserved: reserved as u32, waiter };
        if self.queue.send(message).is_err() {
            // The thread has ended. Whom to tell went back with the message, and was told when that was dropped.
            self.shared.reserved.fetch_sub(reserved, Ordering::Release);
        }
    }

    /// Waits until the ticket's record is durable. To be called holding no lock.
    ///
    /// # Errors
    /// `log_failed` when it never will be; `overloaded` when the disk does not answer in time (the record may still
    /// come to be on disk).
    pub fn wait(&self, waiter: &Waiter) -> Result<()> {
        match waiter.wait(Instant::now() + Duration::from_millis(LOG_WAIT_MS)) {
            Outcome::Durable => Ok(()),
            Outcome::Failed => Err(self.shared.error()),
            Outcome::TimedOut => Err(overloaded()),
        }
    }

    /// Waits until all that was queued before is durable.
    ///
    /// # Errors
    /// As [`Log::wait`].
    pub fn sync(&self) -> Result<()> {
        let waiter = Waiter::take();
        self.sync_later(Pending::new(&waiter));
        self.wait(&waiter)
    }

    /// Has it told when all that was queued before is durable.
    pub fn sync_later(&self, waiter: Pending) {
        // A thread that has ended gives the message back, and who is told of it is told that it failed.
        let _ = self.queue.send(Message::Sync { waiter });
    }

    /// Closes the segment and begins the next one, whose number is returned: all records queued before are in older
    /// segments, and durable.
    ///
    /// # Errors
    /// `log_failed` or `io`; the log then goes on in its segment, if it can.
    pub fn rotate(&self) -> Result<u64> {
        let (reply, answer) = bounded(1);
        self.queue.send(Message::Rotate { reply }).map_err(|_| self.shared.error())?;
        match answer.recv_timeout(Duration::from_millis(LOG_WAIT_MS)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(overloaded()),
            Err(RecvTimeoutError::Disconnected) => Err(self.shared.error()),
        }
    }

    /// Why records don't become durable any more.
    pub fn failure(&self) -> Error {
        self.shared.error()
    }

    /// How the log stands, and why, if not well.
    pub fn health(&self) -> (Health, Option<String>) {
        let health = self.shared.health();
        (health, self.shared.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Bytes of all segments without filled space.
    pub fn bytes(&self) -> u64 {
        self.shared.log_bytes.load(Ordering::Relaxed)
    }

    /// Notes that `bytes` of old segments were removed since a snapshot of `snapshot_bytes` stands for them.
    pub(in crate::store) fn compacted(&self, bytes: u64, snapshot_bytes: u64) {
        let shared = &*self.shared;
        let _ =
            shared.log_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
        // All markers were synced before, and so they were counted.
        shared.compacted_events.store(self.events(), Ordering::Relaxed);
        shared.compact_past.store(2 * snapshot_bytes, Ordering::Release);
        // Asked for meanwhile, because of the markers perhaps. Events that came meanwhile are counted with the next one.
        shared.wants_compaction.store(false, Ordering::Release);
    }

    /// Events written since the start.
    pub fn events(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Bytes promised to records that are not written yet.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.reserved.load(Ordering::Relaxed)
    }

    /// How long fdatasync took.
    pub fn syncs(&self) -> &Timings {
        &self.shared.syncs
    }

    /// Names the thread that is unparked when the log wants to be compacted.
    pub fn set_compactor(&self, thread: std::thread::Thread) {
        *self.shared.compactor.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Whether the log has grown past its bound since this was last asked.
    pub fn take_compaction_wish(&self) -> bool {
        self.shared.wants_compaction.swap(false, Ordering::AcqRel)
    }

    /// Writes and syncs what is queued, marks the end as clean, and ends the thread. A second call does nothing.
    ///
    /// # Errors
    /// `log_failed` when not everything could be written.
    pub fn stop(&self) -> Result<()> {
        let _ = self.queue.send(Message::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::new(Kind::Internal, "the log thread panicked")),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::files::disk::{Disk, SystemDisk};
    use crate::store::format::frame::FILE_HEADER;
    use crate::store::log::segment::create_segment;
    use crate::store::policy::Policy;

    /// The log of a new directory that asks to be compacted from its first byte on.
    fn log(dir: &std::path::Path) -> Log {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let segment = create_segment(&*disk, dir, [0; 16], 1, 1, None).unwrap();
        Log::start(Start {
            disk,
            dir: dir.to_owned(),
            directory: [0; 16],
            segment,
            next_sequence: 1,
            base: 0,
            policy: Policy { compact_after: 1, ..Policy::default() },
            log_bytes: FILE_HEADER as u64,
            snapshot_bytes: 0,
        })
        .unwrap()
    }

    fn append(log: &Log, event: &Event<'_>) {
        let mut reservation = log.reserve(1, record::MAX_FIXED).unwrap();
        log.append(&mut reservation, event, None);
    }

    /// Waits until the log thread has done all that follows what was queued.
    fn settle(log: &Log) {
        // It looks after its log when it has answered the first.
        log.sync().unwrap();
        log.sync().unwrap();
    }

    #[test]
    fn what_a_compaction_writes_asks_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        settle(&log);
        assert!(!log.take_compaction_wish(), "no event has come");
        for number in [2, 4, 6] {
            append(&log, &Event::Removed { id: 1, at: 1 });
            settle(&log);
            assert!(log.take_compaction_wish());
            assert_eq!(log.rotate().unwrap(), number);
            for shard in 0..=255 {
                append(&log, &Event::Marker { snapshot: number, shard });
            }
            settle(&log);
            log.compacted(log.bytes() / 2, 0);
            // The log grows, as by the marks of an idle one, and no event has come.
            assert_eq!(log.rotate().unwrap(), number + 1);
            settle(&log);
            assert!(!log.take_compaction_wish());
        }
        log.stop().unwrap();
    }
}
