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

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64 as Counter};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::sync::{
    AtomicU8, AtomicU64, Builder, Instant, JoinHandle, Ordering, Receiver, RecvTimeoutError, Sender, bounded, sleep,
    unbounded, yield_now,
};
use super::wait::{Outcome, Pending, Waiter};
use crate::bounds::{
    FILL_BYTES, FIRST_FILL_BYTES, IDLE_MARK_MS, LOG_WAIT_MS, MAX_FRAME_BYTES, NO_SPACE_RETRY_MS, STALL_MS,
};
use crate::clock::Millis;
use crate::error::{Error, Kind, Result, way_out};
use crate::store::files::disk::{Disk, is_no_space};
use crate::store::files::names::Name;
use crate::store::format::frame::{self, FILE_HEADER, FRAME_HEADER, FileHeader, FileKind, FrameHeader};
use crate::store::format::record::{self, Event, Sink};

/// Filled space that is never promised to records, in bytes: for the marks of idle and stop, and their copies in the page
/// behind.
const SLACK: u64 = 8192;

/// What is left of a reservation and not given back at once, in bytes: less than the largest record of fixed length.
const SMALL_CHANGE: u64 = 64;

/// How long the log thread lets records gather that nobody waits for, while they come in numbers: to be woken for each
/// would cost whoever sends it more than its check.
const GATHER: Duration = Duration::from_micros(200);

/// Batches in a row that nobody waits for, after which records gather.
const GATHER_AFTER: u32 = 2;

/// How often the log thread gives way before it collects a batch, where several wait for each.
const GIVE_WAY: u32 = 2;

/// Bytes of a record that are kept within the queue's message.
const INLINE: usize = 46;

/// Upper bounds of the buckets of [`Timings`], in microseconds; a last one takes the rest.
pub const TIMING_BOUNDS_US: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000];

/// How the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Records are written.
    Healthy,
    /// There is no room ahead; it is tried again, and records go on being taken as long as filled space is left.
    NoSpace,
    /// A write or an fsync failed: nothing is written any more.
    Failed,
}

/// How long something took, counted in buckets.
#[derive(Debug, Default)]
pub struct Timings {
    buckets: [Counter; TIMING_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Timings {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = TIMING_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The number of durations in each bucket, and their sum in microseconds.
    pub fn read(&self) -> ([u64; TIMING_BOUNDS_US.len() + 1], u64) {
        let mut counts = [0; TIMING_BOUNDS_US.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        (counts, self.sum_us.load(Ordering::Relaxed))
    }
}

/// What the log thread and its callers share.
#[derive(Debug, Default)]
struct Shared {
    reserved: AtomicU64,
    available: AtomicU64,
    health: AtomicU8,
    /// Why the health is not good. Locked for a moment, by anybody, holding nothing else.
    reason: Mutex<Option<String>>,
    /// Bytes of all segments without filled space.
    log_bytes: Counter,
    /// Set while the log has grown past its bound; cleared by whoever compacts.
    wants_compaction: AtomicBool,
    /// The log's size, in bytes, past which compaction is asked for, if it is past `compact_after` too.
    compact_past: Counter,
    events: Counter,
    /// Events when the last compaction ended, its markers included. Without further ones none is asked for.
    compacted_events: Counter,
    syncs: Timings,
    /// Since when the log thread has been in a call of the disk that may take long, in milliseconds after `born`, plus 1;
    /// 0 while it is not.
    at_disk: Counter,
    born: OnceLock<Instant>,
    compactor: Mutex<Option<std::thread::Thread>>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.born.get_or_init(Instant::now).elapsed().as_millis() as u64
    }

    /// Runs what may take long at the disk, so that others can tell when it does.
    fn at_disk<T>(&self, call: impl FnOnce() -> T) -> T {
        self.at_disk.store(self.now() + 1, Ordering::Relaxed);
        let result = call();
        self.at_disk.store(0, Ordering::Relaxed);
        result
    }

    /// The disk has not answered for so long that nothing more should be given to it.
    fn is_stalled(&self) -> bool {
        let since = self.at_disk.load(Ordering::Relaxed);
        since > 0 && self.now() + 1 > since + STALL_MS
    }

    fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Healthy,
            1 => Health::NoSpace,
            _ => Health::Failed,
        }
    }

    fn set_health(&self, health: Health, reason: Option<String>) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.health.store(health as u8, Ordering::Release);
    }

    fn error(&self) -> Error {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Error::new(Kind::LogFailed, reason.unwrap_or_else(|| "the log cannot be written".to_owned()))
    }
}

/// Dropped when the log thread ends, before its queue is: nothing may be taken any more, above all after a panic, behind
/// which the health would be good for ever.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.health() != Health::Failed {
            let reason = "the log thread has ended; nothing more is accepted; restart flint".to_owned();
            self.0.set_health(Health::Failed, Some(reason));
        }
    }
}

/// Encoded bytes of one record on their way to the log thread.
enum Payload {
    Short(u8, [u8; INLINE]),
    Long(Vec<u8>),
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Short(length, bytes) => &bytes[..usize::from(*length)],
            Payload::Long(bytes) => bytes,
        }
    }
}

impl Sink for Payload {
    fn put(&mut self, more: &[u8]) {
        match self {
            Payload::Short(length, bytes) => {
                let end = usize::from(*length) + more.len();
                match bytes.get_mut(usize::from(*length)..end) {
                    Some(room) => {
                        room.copy_from_slice(more);
                        *length = end as u8;
                    }
                    None => {
                        let mut long = bytes[..usize::from(*length)].to_vec();
                        long.extend_from_slice(more);
                        *self = Payload::Long(long);
                    }
                }
            }
            Payload::Long(bytes) => bytes.extend_from_slice(more),
        }
    }
}

enum Message {
    Append { payload: Payload, reserved: u32, waiter: Option<Pending> },
    Sync { waiter: Pending },
    Rotate { reply: Sender<Result<u64>> },
    Stop,
}

/// Space promised to one or more records. Dropped, it is given back.
#[must_use]
pub struct Reservation<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.reserved.fetch_sub(self.bytes, Ordering::Release);
        }
    }
}

/// When unwaited records are synced, and when the log wants to be compacted.
#[derive(Debug, Clone)]
pub struct Policy {
    /// After this many records …
    pub flush_every_events: u64,
    /// … or after this time, whichever comes first.
    pub flush_every: Duration,
    /// Size of the log, in bytes, past which it wants to be compacted, from
    /// [`MIN_COMPACT_AFTER_BYTES`](crate::bounds::MIN_COMPACT_AFTER_BYTES) to
    /// [`MAX_COMPACT_AFTER_BYTES`](crate::bounds::MAX_COMPACT_AFTER_BYTES).
    pub compact_after: u64,
    /// Size at which a segment is closed, in bytes, from [`MIN_SEGMENT_BYTES`](crate::bounds::MIN_SEGMENT_BYTES) to
    /// [`MAX_SEGMENT_BYTES`](crate::bounds::MAX_SEGMENT_BYTES).
    pub segment_bytes: u64,
}

/// The open segment.
pub(in crate::store) struct Segment {
    pub file: File,
    pub path: PathBuf,
    pub number: u64,
    pub salt: u64,
    /// Where the next frame goes.
    pub position: u64,
    /// Up to where the file is filled with zeros.
    pub filled: u64,
}

/// The handle to the log thread.
pub struct Log {
    shared: Arc<Shared>,
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    base: Millis,
}

/// What [`Log::start`] begins with.
pub(in crate::store) struct Start {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub directory: [u8; 16],
    pub segment: Segment,
    pub next_sequence: u64,
    pub base: Millis,
    pub policy: Policy,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
}

impl Log {
    /// Starts the log thread on a segment that was just opened, and waits for its first filled space.
    pub(in crate::store) fn start(start: Start) -> Result<Log> {
        let shared = Arc::new(Shared::default());
        shared.log_bytes.store(start.log_bytes, Ordering::Relaxed);
        shared.compact_past.store(2 * start.snapshot_bytes, Ordering::Relaxed);
        let (queue, messages) = unbounded();
        let base = start.base;
        // A segment that was closed ends with the copy of its last mark, which tells of what it confirms until more follows.
        let mark_copy =
            (start.segment.filled > start.segment.position).then(|| start.segment.filled - FRAME_HEADER as u64);
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            disk: start.disk,
            dir: start.dir,
            directory: start.directory,
            segment: start.segment,
            fill_step: FIRST_FILL_BYTES,
            frame: vec![0; FRAME_HEADER],
            records: 0,
            promised: 0,
            next_sequence: start.next_sequence,
            durable: start.next_sequence - 1,
            waiters: Vec::new(),
            unsynced: 0,
            unsynced_since: None,
            unwaited_batches: 0,
            waited_by: 0,
            mark_at: None,
            mark_copy,
            retry_fill_at: None,
            base,
            policy: start.policy,
            rotate_at: 0,
            closing: false,
        };
        writer.rotate_at = writer.policy.segment_bytes;
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

/// Each record may come to stand in a frame of its own.
fn with_frames(records: usize, bytes: usize) -> u64 {
    (bytes + records * FRAME_HEADER) as u64
}

/// The error for what waited for the disk in vain.
pub fn overloaded() -> Error {
    Error::new(
        Kind::Overloaded,
        format!("the disk did not take the log for {LOG_WAIT_MS} ms; try again, and look at the disk's load"),
    )
}

fn stalled() -> Error {
    Error::new(
        Kind::Overloaded,
        format!("the disk has not answered the log for {STALL_MS} ms; try again, and look at the disk's load"),
    )
}

/// The log thread's own state.
struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    directory: [u8; 16],
    segment: Segment,
    fill_step: u64,
    /// The frame being built; its header's room first.
    frame: Vec<u8>,
    records: u32,
    /// Promised to the records of the frame.
    promised: u64,
    next_sequence: u64,
    /// Highest sequence number known to be on disk.
    durable: u64,
    waiters: Vec<Pending>,
    /// Records written but not synced, and since when.
    unsynced: u64,
    unsynced_since: Option<Instant>,
    /// Batches in a row that nobody waits for.
    unwaited_batches: u32,
    /// How many wait for the batch, or waited for the last one.
    waited_by: usize,
    /// When to write a mark, if nothing happens until then.
    mark_at: Option<Instant>,
    /// Where the copy of the last mark stands, until the next frame is written.
    mark_copy: Option<u64>,
    retry_fill_at: Option<Instant>,
    base: Millis,
    policy: Policy,
    rotate_at: u64,
    /// Set when nothing more may be reserved.
    closing: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) -> Result<()> {
        loop {
            match self.receive(messages) {
                Ok(message) => {
                    self.let_others_in();
                    let control = self.collect(message, messages);
                    self.note_waiters();
                    self.write_batch();
                    self.sync_if_due();
                    match control {
                        Some(Message::Rotate { reply }) => {
                            let _ = reply.send(self.rotate());
                        }
                        Some(Message::Stop) => {
                            self.drain(messages);
                            return self.stop();
                        }
                        _ => {}
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.sync_if_due(),
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            }
            self.housekeeping();
        }
    }

    /// The next message, or the time at which something is to be done.
    fn receive(&mut self, messages: &Receiver<Message>) -> std::result::Result<Message, RecvTimeoutError> {
        if self.unwaited_batches >= GATHER_AFTER {
            sleep(GATHER);
            if let Ok(message) = messages.try_recv() {
                return Ok(message);
            }
            self.unwaited_batches = 0;
        }
        match self.deadline() {
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => messages.recv_deadline(deadline),
        }
    }

    /// When something is to be done though no message comes. An idle log has no deadline.
    fn deadline(&self) -> Option<Instant> {
        let flush = self.unsynced_since.map(|since| since + self.policy.flush_every);
        [flush, self.mark_at, self.retry_fill_at].into_iter().flatten().min()
    }

    /// Takes the message and all that wait behind it into the frame, up to its bound. Returns the first one that is no
    /// record.
    fn collect(&mut self, first: Message, messages: &Receiver<Message>) -> Option<Message> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Append { payload, reserved, waiter } => {
                    self.frame.extend_from_slice(payload.bytes());
                    self.records += 1;
                    self.promised += u64::from(reserved);
                    self.waiters.extend(waiter);
                }
                Message::Sync { waiter } => self.waiters.push(waiter),
                control => return Some(control),
            }
            if self.frame.len() >= MAX_FRAME_BYTES {
                break;
            }
            next = messages.try_recv().ok();
        }
        None
    }

    /// Before a batch is collected, lets those run who have work: where several are answered by each sync, they are about
    /// to ask again, and a batch of more costs each of them less than it takes to wait for the others. Costs next to
    /// nothing where nobody has.
    fn let_others_in(&self) {
        if self.waited_by > 1 {
            for _ in 0..GIVE_WAY {
                yield_now();
            }
        }
    }

    /// Notes how many wait for the batch that was collected.
    fn note_waiters(&mut self) {
        self.waited_by = self.waiters.len();
        self.unwaited_batches = if self.waiters.is_empty() { self.unwaited_batches.saturating_add(1) } else { 0 };
    }

    fn write_batch(&mut self) {
        let records = u64::from(self.records);
        if records > 0 && self.healthy() {
            let written = self.write_frame(false);
            if let Err(error) = written {
                self.fail("write", &error);
            } else {
                self.shared.events.fetch_add(records, Ordering::Relaxed);
                self.unsynced += records;
                self.unsynced_since.get_or_insert_with(Instant::now);
                self.mark_at = None;
            }
        }
        self.frame.truncate(FRAME_HEADER);
        self.records = 0;
        self.shared.reserved.fetch_sub(std::mem::take(&mut self.promised), Ordering::Release);
        if !self.healthy() {
            self.settle(false);
        }
    }

    /// Writes the frame as it stands. Its space was promised, or is of the slack.
    fn write_frame(&mut self, clean: bool) -> std::io::Result<()> {
        let header = FrameHeader {
            records: self.records,
            clean,
            first: self.next_sequence,
            durable: self.durable,
            base: self.base,
        };
        frame::seal(&mut self.frame, &header, self.segment.salt);
        if let Some(copy) = self.mark_copy.take() {
            // The frame may come to stand over a part of it; what was left of it then would look like a torn end.
            self.disk.write_at(&self.segment.file, &[0; FRAME_HEADER], copy)?;
        }
        self.shared.at_disk(|| self.disk.write_at(&self.segment.file, &self.frame, self.segment.position))?;
        let length = self.frame.len() as u64;
        self.segment.position += length;
        self.next_sequence += u64::from(self.records);
        self.shared.log_bytes.fetch_add(length, Ordering::Relaxed);
        self.account();
        Ok(())
    }

    /// Writes a frame without records, which says up to where the log is on disk, and its copy in the next page: a page
    /// that is lost takes the last record and one of the two, and the other still tells of it.
    fn write_mark(&mut self, clean: bool) -> std::io::Result<()> {
        self.write_frame(clean)?;
        let copy = frame::copy_offset(self.segment.position);
        if copy + FRAME_HEADER as u64 <= self.segment.filled {
            self.mark_copy = Some(copy);
            self.disk.write_at(&self.segment.file, &self.frame, copy)?;
        }
        Ok(())
    }

    fn sync_if_due(&mut self) {
        let due = !self.waiters.is_empty()
            || self.unsynced >= self.policy.flush_every_events
            || self.unsynced_since.is_some_and(|since| since.elapsed() >= self.policy.flush_every);
        if due && self.healthy() {
            self.sync();
        }
        if due && !self.healthy() {
            self.settle(false);
        }
    }

    /// Makes all records that are written durable, and tells who waits for it.
    fn sync(&mut self) {
        if self.unsynced == 0 || self.sync_segment() {
            self.settle(true);
        }
    }

    /// Makes all of the segment durable, marks and filled space included. Returns whether it is.
    fn sync_segment(&mut self) -> bool {
        let begun = Instant::now();
        if let Err(error) = self.shared.at_disk(|| self.disk.sync_data(&self.segment.file)) {
            self.fail("sync", &error);
            return false;
        }
        self.shared.syncs.record(begun.elapsed());
        self.durable = self.next_sequence - 1;
        self.unsynced = 0;
        self.unsynced_since = None;
        self.mark_at = Some(Instant::now() + Duration::from_millis(IDLE_MARK_MS));
        true
    }

    fn settle(&mut self, durable: bool) {
        for waiter in self.waiters.drain(..) {
            waiter.settle(durable);
        }
    }

    /// What is done between two batches, when its time has come.
    fn housekeeping(&mut self) {
        if !self.healthy() {
            return;
        }
        if self.mark_at.is_some_and(|at| at <= Instant::now()) {
            self.mark_at = None;
            // It confirms what is durable anyway; lost, it is not missed. So it is not synced.
            if let Err(error) = self.write_mark(false) {
                self.fail("write", &error);
                return;
            }
        }
        if self.segment.position >= self.rotate_at
            && let Err(error) = self.rotate()
        {
            log::warn!("the log goes on in {}: {error}", self.segment.path.display());
            // Tried again when it has grown by another step.
            self.rotate_at = self.segment.position + FILL_BYTES;
        }
        if self.room() < self.fill_step / 2 && self.retry_fill_at.is_none_or(|at| at <= Instant::now()) {
            self.fill();
        }
        self.wish_for_compaction();
    }

    fn wish_for_compaction(&mut self) {
        let past = self.shared.compact_past.load(Ordering::Acquire);
        let bytes = self.shared.log_bytes.load(Ordering::Relaxed);
        let compacted = self.shared.compacted_events.load(Ordering::Relaxed);
        if bytes > self.policy.compact_after.max(past) && self.shared.events.load(Ordering::Relaxed) > compacted {
            // Should compaction fail, it is asked for again when the log has grown by half as much once more.
            self.shared.compact_past.store(bytes + bytes / 2, Ordering::Relaxed);
            self.shared.wants_compaction.store(true, Ordering::Release);
            if let Some(thread) = &*self.shared.compactor.lock().unwrap_or_else(PoisonError::into_inner) {
                thread.unpark();
            }
        }
    }

    /// Filled space behind the position, in bytes.
    fn room(&self) -> u64 {
        self.segment.filled.saturating_sub(self.segment.position)
    }

    fn account(&self) {
        let available = if self.closing { 0 } else { self.room().saturating_sub(SLACK) };
        self.shared.available.store(available, Ordering::Release);
    }

    /// Lets nobody reserve any more, and takes the records of those who have: they may have been answered already.
    fn drain(&mut self, messages: &Receiver<Message>) {
        self.closing = true;
        self.account();
        let deadline = Instant::now() + Duration::from_millis(LOG_WAIT_MS);
        while self.shared.reserved.fetch_add(0, Ordering::AcqRel) > 0 && Instant::now() < deadline {
            match messages.try_recv() {
                Ok(message) => {
                    // A rotation is not made any more; its reply is dropped, which says so.
                    let _ = self.collect(message, messages);
                    self.write_batch();
                    self.sync_if_due();
                }
                Err(_) => sleep(Duration::from_micros(200)),
            }
        }
    }

    /// Fills space ahead with zeros. That the fill is durable is of no concern: the fdatasync after the next frame
    /// covers it too.
    fn fill(&mut self) {
        let zeros = vec![0; self.fill_step as usize];
        match self.shared.at_disk(|| self.disk.write_at(&self.segment.file, &zeros, self.segment.filled)) {
            Ok(()) => {
                self.segment.filled += self.fill_step;
                self.fill_step = FILL_BYTES;
                self.retry_fill_at = None;
                self.account();
                if self.shared.health() == Health::NoSpace {
                    log::warn!("there is room for the log again in {}", self.dir.display());
                    self.shared.set_health(Health::Healthy, None);
                }
            }
            Err(error) if is_no_space(&error) => {
                self.retry_fill_at = Some(Instant::now() + Duration::from_millis(NO_SPACE_RETRY_MS));
                if self.shared.health() == Health::Healthy {
                    let reason = format!(
                        "no room for the log in {}: {error}; make room on the disk, and service resumes by itself",
                        self.dir.display()
                    );
                    log::error!("{reason}");
                    self.shared.set_health(Health::NoSpace, Some(reason));
                }
            }
            Err(error) => self.fail("write", &error),
        }
    }

    /// Closes the segment and begins the next one. Until the new one is there, nothing of the old one is changed.
    fn rotate(&mut self) -> Result<u64> {
        if !self.healthy() {
            return Err(self.shared.error());
        }
        // All of the old segment must be on disk before the new one can be seen, a mark that nobody waits for too: a bad
        // frame in an older segment is corruption.
        if !self.sync_segment() {
            return Err(self.shared.error());
        }
        self.settle(true);
        let number = self.segment.number + 1;
        // Room for all that may have been promised in the old segment; not for more each time, or a log that is compacted
        // often would hold ever more of the disk.
        let fill = self.room().max(FILL_BYTES);
        let created = self
            .shared
            .at_disk(|| create_segment(&*self.disk, &self.dir, self.directory, number, self.next_sequence, Some(fill)));
        let mut next = match created {
            Ok(next) => next,
            Err(NotCreated { visible: false, error, .. }) => return Err(error),
            Err(NotCreated { visible: true, error, cause }) => {
                // The new segment may be there after a crash, and may not: going on in either could be read as damage.
                self.fail("sync the directory of", &cause);
                return Err(error);
            }
        };
        std::mem::swap(&mut self.segment, &mut next);
        self.mark_copy = None;
        self.account();
        self.fill_step = FILL_BYTES;
        self.rotate_at = self.policy.segment_bytes;
        self.mark_at = None;
        self.shared.log_bytes.fetch_add(FILE_HEADER as u64, Ordering::Relaxed);
        // Cutting saves space and says nothing: whether it succeeds is of no consequence.
        if let Err(error) = self.disk.set_len(&next.file, next.position) {
            log::warn!("cannot cut {} to its length: {error}", next.path.display());
        }
        Ok(number)
    }

    /// The last acts: all is synced, the end marked as clean, the filled space cut off.
    fn stop(&mut self) -> Result<()> {
        if self.healthy() {
            self.sync();
        }
        if self.healthy()
            && let Err(error) = self.close_segment()
        {
            self.fail("sync", &error);
        }
        self.settle(false);
        self.shared.available.store(0, Ordering::Release);
        let result = if self.healthy() { Ok(()) } else { Err(self.shared.error()) };
        if result.is_ok() {
            self.shared.set_health(Health::Failed, Some("the limiter is closed".to_owned()));
        }
        result
    }

    fn close_segment(&mut self) -> std::io::Result<()> {
        self.write_mark(true)?;
        let end = self.mark_copy.map_or(self.segment.position, |copy| copy + FRAME_HEADER as u64);
        self.disk.set_len(&self.segment.file, end)?;
        let synced = self.disk.sync_all(&self.segment.file);
        if synced.is_err() {
            // What is in memory alone must not look closed, or the next start would append to it.
            let _ = self.disk.set_len(&self.segment.file, end + 1);
        }
        synced
    }

    fn healthy(&self) -> bool {
        self.shared.health() != Health::Failed
    }

    fn fail(&mut self, what: &str, error: &std::io::Error) {
        let reason = format!(
            "cannot {what} the log {} at offset {}: {error}; nothing more is accepted; look at the disk, then restart",
            self.segment.path.display(),
            self.segment.position
        );
        log::error!("{reason}");
        self.shared.set_health(Health::Failed, Some(reason));
        self.mark_at = None;
        self.retry_fill_at = None;
        self.unsynced_since = None;
        self.settle(false);
    }
}

/// Why a segment was not created.
#[derive(Debug)]
pub(in crate::store) struct NotCreated {
    /// Whether it has its name all the same, though perhaps not durably.
    visible: bool,
    pub error: Error,
    cause: std::io::Error,
}

impl From<NotCreated> for Error {
    fn from(not_created: NotCreated) -> Error {
        not_created.error
    }
}

/// Creates a segment under its unfinished name, makes it durable, and gives it its name.
pub(in crate::store) fn create_segment(
    disk: &dyn Disk,
    dir: &std::path::Path,
    directory: [u8; 16],
    number: u64,
    first: u64,
    fill: Option<u64>,
) -> std::result::Result<Segment, NotCreated> {
    let name = Name::Segment(number);
    let (unfinished, path) = (name.unfinished(dir), name.path(dir));
    let _ = disk.remove(&unfinished);
    let salt = crate::store::random().map_err(|error| NotCreated {
        visible: false,
        cause: std::io::Error::other(error.to_string()),
        error,
    })?;
    let header = FileHeader { kind: FileKind::Segment, complete: false, number, directory, salt, first };
    let mut bytes = vec![0; FILE_HEADER + fill.unwrap_or(0) as usize];
    bytes[..FILE_HEADER].copy_from_slice(&header.encode());
    let mut visible = false;
    let created = disk.create(&unfinished).and_then(|file| {
        disk.write_at(&file, &bytes, 0)?;
        disk.sync_all(&file)?;
        disk.rename(&unfinished, &path)?;
        visible = true;
        disk.sync_dir(dir)?;
        Ok(file)
    });
    let file = created.map_err(|cause| {
        if !visible {
            let _ = disk.remove(&unfinished);
        }
        let kind = if is_no_space(&cause) { Kind::LogFailed } else { Kind::Io };
        let error = Error::new(kind, format!("cannot create {}: {cause}{}", path.display(), way_out(&cause)));
        NotCreated { visible, error, cause }
    })?;
    Ok(Segment { file, path, number, salt, position: FILE_HEADER as u64, filled: bytes.len() as u64 })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::SystemDisk;

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
