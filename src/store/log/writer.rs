//! The log thread: the only writer of segments.
//!
//! Owns: the open segment, the frame being built, and what is known to be durable. Its queue and the space for it are
//! in `queue.rs`.
//!
//! A failed write into filled space and a failed fsync are final: whether the kernel kept the data is unknown, and a
//! later fsync that succeeds would prove nothing (<https://lwn.net/Articles/752063/>). From then on every waiter is
//! completed as failed, and nothing is written.
//!
//! A batch is written, then those are notified that wait for the write; it is synced, at once if somebody waits for
//! that and else by the policy, then the others are.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::health::Health;
use super::queue::{Intake, Message, Shared};
use super::segment::{Cut, NotCreated, Segment};
use super::sync::{Instant, Ordering, Receiver, RecvTimeoutError, sleep};
use super::wait::Waiting;
use crate::bounds::{FILL_BYTES, FIRST_FILL_BYTES, IDLE_MARK_MS, LOG_WAIT_MS, MAX_FRAME_BYTES, NO_SPACE_RETRY_MS};
use crate::clock::Micros;
use crate::error::Result;
use crate::store::clocks::Clocks;
use crate::store::files::data_dir::DataDir;
use crate::store::files::disk::is_no_space;
use crate::store::format::encode::encode_event;
use crate::store::format::frame::{self, FILE_HEADER, FRAME_HEADER, FrameHeader};
use crate::store::format::record::{Event, MAX_FIXED};
use crate::store::policy::Policy;

/// Filled space that is never promised to records, in bytes: for the marks of idle and stop, and their copies in the
/// next page.
const SLACK: u64 = 8192;

/// How often a log thread that stops looks for the records of reservations that are still held.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Dropped when the log thread ends, before its queue and its waiters are: nothing may be accepted any more. After a
/// panic the health would be good for ever.
struct FailOnExit(Arc<Shared>);

impl Drop for FailOnExit {
    fn drop(&mut self) {
        if self.0.condition.get() != Health::Failed {
            let reason = "the log thread has ended; nothing more is accepted; restart flint".to_owned();
            self.0.condition.set(Health::Failed, Some(reason));
        }
    }
}

/// What a log begins with.
pub struct Start {
    pub home: DataDir,
    pub segment: Segment,
    pub next_sequence: u64,
    pub base: Micros,
    pub clocks: Clocks,
    pub policy: Policy,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
}

/// The log thread's own state.
pub struct Writer {
    shared: Arc<Shared>,
    home: DataDir,
    segment: Segment,
    fill_step: u64,
    /// The frame being built, with room for its header first.
    frame: Vec<u8>,
    records: u32,
    /// How many of them are readings of the clocks, which are no events.
    readings: u32,
    /// Promised to the records of the frame.
    promised: u64,
    next_sequence: u64,
    /// Highest sequence number known to be on disk.
    durable: u64,
    waiting: Waiting,
    /// Records written but not synced, and since when.
    unsynced: u64,
    unsynced_since: Option<Instant>,
    intake: Intake,
    /// When to write a mark, if nothing happens until then.
    mark_at: Option<Instant>,
    /// Where the copy of the last mark is, until the next frame is written.
    mark_copy: Option<u64>,
    retry_fill_at: Option<Instant>,
    base: Micros,
    clocks: Clocks,
    policy: Policy,
    rotate_at: u64,
    /// Set when nothing more may be reserved.
    closing: bool,
}

impl Writer {
    pub fn new(start: Start, shared: Arc<Shared>) -> Writer {
        let Start { home, segment, next_sequence, base, clocks, policy, .. } = start;
        // A closed segment ends with the copy of its last mark, which says what it confirms until more follows.
        let mark_copy = (segment.filled > segment.position).then(|| segment.filled - FRAME_HEADER as u64);
        Writer {
            shared,
            home,
            segment,
            fill_step: FIRST_FILL_BYTES,
            frame: vec![0; FRAME_HEADER],
            records: 0,
            readings: 0,
            promised: 0,
            next_sequence,
            durable: next_sequence - 1,
            waiting: Waiting::default(),
            unsynced: 0,
            unsynced_since: None,
            intake: Intake::new(policy.gathers),
            mark_at: None,
            mark_copy,
            retry_fill_at: None,
            base,
            clocks,
            rotate_at: policy.segment_bytes,
            policy,
            closing: false,
        }
    }

    pub fn run(mut self, messages: &Receiver<Message>) -> Result<()> {
        let _guard = FailOnExit(Arc::clone(&self.shared));
        self.note_clocks();
        self.write_batch();
        loop {
            let deadline = self.deadline();
            match self.intake.receive(messages, deadline) {
                Ok(message) => {
                    self.intake.yield_to_others(messages);
                    let control = self.collect(message, messages);
                    self.intake.note(self.waiting.len());
                    self.write_batch();
                    self.sync_if_due();
                    match control {
                        Some(Message::Rotate { reply }) => {
                            let _ = reply.send(self.rotate());
                        }
                        Some(Message::Cut { reply }) => {
                            let _ = reply.send(self.cut());
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

    /// When something is to be done though no message comes. An idle log has no deadline.
    fn deadline(&self) -> Option<Instant> {
        let flush = self.unsynced_since.map(|since| since + self.policy.flush_every);
        [flush, self.mark_at, self.retry_fill_at].into_iter().flatten().min()
    }

    /// Takes the message and all that are queued after it into the frame, up to its bound. Returns the first one that
    /// is not a record.
    fn collect(&mut self, first: Message, messages: &Receiver<Message>) -> Option<Message> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Append { payload, reserved, waiter } => {
                    self.frame.extend_from_slice(payload.bytes());
                    self.records += 1;
                    self.promised += u64::from(reserved);
                    if let Some(waiter) = waiter {
                        self.waiting.add(waiter);
                    }
                }
                Message::Notify { waiter } => self.waiting.add(waiter),
                control => return Some(control),
            }
            if self.frame.len() >= MAX_FRAME_BYTES {
                break;
            }
            next = messages.try_recv().ok();
        }
        None
    }

    /// Adds what the clocks show to the frame, if it does not follow from what was noted last and there is room.
    fn note_clocks(&mut self) {
        let Some(reading) = self.clocks.to_note() else { return };
        let Some(room) = self.shared.account.try_reserve(1, (FRAME_HEADER + MAX_FIXED) as u64) else { return };
        self.promised += room.take_all();
        encode_event(&mut self.frame, &Event::Clock(reading), self.base);
        self.records += 1;
        self.readings += 1;
        self.clocks.set_noted(reading);
    }

    /// Writes the frame, and notifies those that wait for that.
    fn write_batch(&mut self) {
        if self.records > self.readings {
            self.note_clocks();
        }
        let (records, readings) = (u64::from(self.records), u64::from(std::mem::take(&mut self.readings)));
        if records > 0 && self.healthy() {
            if let Err(error) = self.write_frame(false) {
                self.fail("write", &error);
            } else {
                self.shared.growth.events.fetch_add(records - readings, Ordering::Relaxed);
                self.unsynced += records;
                self.unsynced_since.get_or_insert_with(Instant::now);
                self.mark_at = None;
            }
        }
        self.frame.truncate(FRAME_HEADER);
        self.records = 0;
        self.shared.account.release(std::mem::take(&mut self.promised));
        if self.healthy() {
            self.waiting.complete_written();
        } else {
            self.waiting.complete(false);
        }
    }

    /// Writes the frame as it is. Its space was promised, or is of the slack.
    fn write_frame(&mut self, clean: bool) -> io::Result<()> {
        let (records, first) = (self.records, self.next_sequence);
        let header = FrameHeader { records, clean, first, durable: self.durable, base: self.base };
        frame::seal(&mut self.frame, &header, self.segment.salt);
        if let Some(copy) = self.mark_copy.take() {
            // The frame may cover a part of the copy; the rest of it would then look like a torn end.
            self.home.disk.write_at(&self.segment.file, &[0; FRAME_HEADER], copy)?;
        }
        let (disk, segment) = (&self.home.disk, &self.segment);
        self.shared.condition.at_disk(|| disk.write_at(&segment.file, &self.frame, segment.position))?;
        let length = self.frame.len() as u64;
        self.segment.position += length;
        self.next_sequence += u64::from(records);
        self.shared.growth.bytes.fetch_add(length, Ordering::Relaxed);
        self.account();
        Ok(())
    }

    /// Writes a frame without records, which says up to where the log is on disk, and its copy in the next page: the
    /// loss of a page takes the last record and one of the two, and the other still confirms the record.
    fn write_mark(&mut self, clean: bool) -> io::Result<()> {
        self.write_frame(clean)?;
        let copy = frame::copy_offset(self.segment.position);
        if copy + FRAME_HEADER as u64 <= self.segment.filled {
            self.mark_copy = Some(copy);
            self.home.disk.write_at(&self.segment.file, &self.frame, copy)?;
        }
        Ok(())
    }

    fn sync_if_due(&mut self) {
        let due = self.waiting.len().1 > 0
            || self.unsynced >= self.policy.flush_every_events
            || self.unsynced_since.is_some_and(|since| since.elapsed() >= self.policy.flush_every);
        if due && self.healthy() {
            self.sync();
        }
        if due && !self.healthy() {
            self.waiting.complete(false);
        }
    }

    /// Makes all records that are written durable, and completes their waiters.
    fn sync(&mut self) {
        if self.unsynced == 0 || self.sync_segment() {
            self.waiting.complete(true);
        }
    }

    /// Makes all records that are written durable, and tells where they end.
    fn cut(&mut self) -> Result<Cut> {
        if self.healthy() {
            self.sync();
        }
        match self.healthy() {
            true => Ok(Cut { segment: self.segment.number, length: self.segment.position }),
            false => Err(self.shared.condition.error()),
        }
    }

    /// Makes all of the segment durable, marks and filled space included. Returns whether it is.
    fn sync_segment(&mut self) -> bool {
        let begun = Instant::now();
        if let Err(error) = self.shared.condition.at_disk(|| self.home.disk.sync_data(&self.segment.file)) {
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

    /// What is done between two batches, when its time has come.
    fn housekeeping(&mut self) {
        if !self.healthy() {
            return;
        }
        if self.mark_at.is_some_and(|at| at <= Instant::now()) {
            self.mark_at = None;
            // It confirms what is durable anyway, and nothing is missing if it is lost. So it is not synced.
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
        if self.segment.room() < self.fill_step / 2 && self.retry_fill_at.is_none_or(|at| at <= Instant::now()) {
            self.fill();
        }
        self.shared.growth.request_compaction(self.policy.compact_after);
    }

    fn account(&self) {
        let available = if self.closing { 0 } else { self.segment.room().saturating_sub(SLACK) };
        self.shared.account.available.store(available, Ordering::Release);
    }

    /// Allows no further reservation, and takes the records of those that there are: they may have been answered
    /// already.
    fn drain(&mut self, messages: &Receiver<Message>) {
        self.closing = true;
        self.account();
        let deadline = Instant::now() + Duration::from_millis(LOG_WAIT_MS);
        while self.shared.account.reserved.fetch_add(0, Ordering::AcqRel) > 0 && Instant::now() < deadline {
            match messages.try_recv() {
                Ok(message) => {
                    // A rotation is not made any more; its reply is dropped, which says so.
                    let _ = self.collect(message, messages);
                    self.write_batch();
                    self.sync_if_due();
                }
                Err(_) => sleep(LOOK_AGAIN),
            }
        }
    }

    /// Fills space ahead with zeros. The fill need not be durable by itself: the fdatasync after the next frame covers
    /// it too.
    pub fn fill(&mut self) {
        let zeros = vec![0; self.fill_step as usize];
        let (disk, segment, condition) = (&self.home.disk, &self.segment, &self.shared.condition);
        match condition.at_disk(|| disk.write_at(&segment.file, &zeros, segment.filled)) {
            Ok(()) => {
                self.segment.filled += self.fill_step;
                self.fill_step = FILL_BYTES;
                self.retry_fill_at = None;
                self.account();
                if condition.get() == Health::NoSpace {
                    log::warn!("there is room for the log again in {}", self.home.path.display());
                    condition.set(Health::Healthy, None);
                }
            }
            Err(error) if is_no_space(&error) => {
                self.retry_fill_at = Some(Instant::now() + Duration::from_millis(NO_SPACE_RETRY_MS));
                if condition.get() == Health::Healthy {
                    let dir = self.home.path.display();
                    let way_out = "make room on the disk, and service resumes by itself";
                    let reason = format!("no room for the log in {dir}: {error}; {way_out}");
                    log::error!("{reason}");
                    condition.set(Health::NoSpace, Some(reason));
                }
            }
            Err(error) => self.fail("write", &error),
        }
    }

    /// Closes the segment and begins the next one. Until the new one is there, nothing of the old one is changed.
    fn rotate(&mut self) -> Result<u64> {
        // All of the old segment must be on disk before the new one can be seen, also a mark without a waiter: a bad
        // frame in an older segment is corruption.
        if !self.healthy() || !self.sync_segment() {
            return Err(self.shared.condition.error());
        }
        self.waiting.complete(true);
        let number = self.segment.number + 1;
        // Room for all that may have been promised in the old segment. Not for more each time, or a log that is
        // compacted often would take ever more of the disk.
        let fill = self.segment.room().max(FILL_BYTES);
        let (home, first) = (&self.home, self.next_sequence);
        let mut next = match self.shared.condition.at_disk(|| Segment::create(home, number, first, fill)) {
            Ok(next) => next,
            Err(NotCreated { visible, error, cause }) => {
                if visible {
                    // It may be there after a crash, or not: to go on in either could be read as damage.
                    self.fail("sync the directory of", &cause);
                }
                return Err(error);
            }
        };
        std::mem::swap(&mut self.segment, &mut next);
        self.mark_copy = None;
        self.account();
        self.fill_step = FILL_BYTES;
        self.rotate_at = self.policy.segment_bytes;
        self.mark_at = None;
        self.shared.growth.bytes.fetch_add(FILE_HEADER as u64, Ordering::Relaxed);
        // The cut only saves space, and may fail.
        if let Err(error) = self.home.disk.set_len(&next.file, next.position) {
            log::warn!("cannot cut {} to its length: {error}", next.path.display());
        }
        Ok(number)
    }

    /// Syncs all, marks the end as clean, and cuts off the filled space.
    fn stop(&mut self) -> Result<()> {
        if self.healthy() {
            self.sync();
        }
        if self.healthy()
            && let Err(error) = self.close_segment()
        {
            self.fail("sync", &error);
        }
        self.waiting.complete(false);
        self.shared.account.available.store(0, Ordering::Release);
        if !self.healthy() {
            return Err(self.shared.condition.error());
        }
        self.shared.condition.set(Health::Failed, Some("the limiter is closed".to_owned()));
        Ok(())
    }

    fn close_segment(&mut self) -> io::Result<()> {
        self.write_mark(true)?;
        let (disk, file) = (&self.home.disk, &self.segment.file);
        let end = self.mark_copy.map_or(self.segment.position, |copy| copy + FRAME_HEADER as u64);
        disk.set_len(file, end)?;
        disk.sync_all(file).inspect_err(|_| {
            // What may be only in memory must not look closed, or the next start would append to it.
            let _ = disk.set_len(file, end + 1);
        })
    }

    fn healthy(&self) -> bool {
        self.shared.condition.get() != Health::Failed
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        let (path, position) = (self.segment.path.display(), self.segment.position);
        let way_out = "nothing more is accepted; look at the disk, then restart";
        let reason = format!("cannot {what} the log {path} at offset {position}: {error}; {way_out}");
        log::error!("{reason}");
        self.shared.condition.set(Health::Failed, Some(reason));
        self.mark_at = None;
        self.retry_fill_at = None;
        self.unsynced_since = None;
        self.waiting.complete(false);
    }
}
