//! The log thread: the only writer of segments.
//!
//! Owns: the open segment, the frame being built, and what is known to be durable. Its queue and the space for it are
//! in `queue.rs`.
//!
//! A failed write into filled space and a failed fsync are final: whether the kernel kept the data is unknown, and a
//! later fsync that succeeds would prove nothing (<https://lwn.net/Articles/752063/>). From then on every waiter is
//! completed as failed, and nothing is written.
//!
//! A write for which there was no room is not final. File systems that copy on write (btrfs) need room also to
//! overwrite filled space. Such a write has taken nothing, or the first bytes; so the frame, with what was queued
//! since, is written again at the same offset until there is room. Meanwhile nothing more is promised, and the waiters
//! of the frame are completed as failed at the second attempt, though their records will be written. If the process
//! ends first, what is there is a torn end, after all that was confirmed.
//!
//! A batch is written, then those are notified that wait for the write; it is synced, at once if something waits for
//! that and else by the policy, then the others are.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::health::{Blocked, Health};
use super::queue::{FailOnExit, Intake, Message, Shared};
use super::segment::{Cut, NotCreated, Segment, Start};
use super::sync::{Instant, Ordering, Receiver, RecvTimeoutError, sleep};
use super::wait::Waiting;
use crate::bounds::{FILL_BYTES, FIRST_FILL_BYTES, IDLE_MARK_MS, LOG_WAIT_MS, MAX_FRAME_BYTES, NO_SPACE_RETRY_MS};
use crate::clock::Micros;
use crate::error::Result;
use crate::store::clocks::Clocks;
use crate::store::files::data_dir::DataDir;
use crate::store::files::disk::is_no_space;
use crate::store::files::lock::Closed;
use crate::store::format::encode::encode_event;
use crate::store::format::frame::{self, FILE_HEADER, FRAME_HEADER, FrameHeader};
use crate::store::format::record::{Event, MAX_FIXED};
use crate::store::policy::Policy;

/// Filled space that is never promised to records, in bytes: for the marks of idle and stop, and their copies in the
/// next page.
const SLACK: u64 = 8192;

/// How often a log thread that stops looks for the records of reservations that are still held.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// The log thread's own state.
pub struct Writer {
    shared: Arc<Shared>,
    home: DataDir,
    segment: Segment,
    fill_step: u64,
    /// The frame being built, with room for its header first.
    frame: Vec<u8>,
    records: u32,
    /// How many of them are readings of the clocks, which are not events.
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
    retry_fill_at: Option<Instant>,
    /// Set while there is no room even in filled space.
    blocked: Option<Blocked>,
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
            retry_fill_at: None,
            blocked: None,
            base,
            clocks,
            rotate_at: policy.segment_bytes,
            policy,
            closing: false,
        }
    }

    pub fn run(mut self, messages: &Receiver<Message>) -> Result<Closed> {
        let _guard = FailOnExit(Arc::clone(&self.shared));
        self.note_clocks();
        self.write_batch();
        loop {
            if self.blocked.is_some() && self.frame.len() >= MAX_FRAME_BYTES {
                self.wait_for_room();
                continue;
            }
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
                        Some(Message::GiveUp { reason }) => self.fail_for(reason),
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
                Err(RecvTimeoutError::Timeout) => {
                    self.write_batch();
                    self.sync_if_due();
                }
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            }
            self.housekeeping();
        }
    }

    /// When something is to be done though no message comes. An idle log has no deadline.
    fn deadline(&self) -> Option<Instant> {
        let flush = self.unsynced_since.map(|since| since + self.policy.flush_every);
        match self.blocked {
            Some(blocked) => [flush, Some(blocked.retry_at)].into_iter().flatten().min(),
            None => [flush, self.mark_at, self.retry_fill_at].into_iter().flatten().min(),
        }
    }

    /// Takes the message and all that are queued after it into the frame, up to its bound. Returns the first message
    /// that is not a record.
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
        if !self.closing && self.blocked.is_some_and(|blocked| blocked.retry_at > Instant::now()) {
            return;
        }
        if self.records > self.readings && self.blocked.is_none() {
            self.note_clocks();
        }
        if (self.records > 0 || self.blocked.is_some()) && self.healthy() {
            // A mark shows too whether there is room.
            let written = if self.records > 0 { self.write_frame(false) } else { self.write_mark(false) };
            match written {
                Ok(()) => self.note_written(),
                Err(error) if is_no_space(&error) && !self.closing => return self.block(&error),
                Err(error) => self.fail("write", &error),
            }
        }
        self.frame.truncate(FRAME_HEADER);
        (self.records, self.readings) = (0, 0);
        self.shared.account.release(std::mem::take(&mut self.promised));
        if self.healthy() {
            self.waiting.complete_written();
        } else {
            self.waiting.complete(false);
        }
    }

    fn note_written(&mut self) {
        if self.records > 0 {
            let (records, readings) = (u64::from(self.records), u64::from(self.readings));
            self.shared.growth.events.fetch_add(records - readings, Ordering::Relaxed);
            self.unsynced += records;
            self.unsynced_since.get_or_insert_with(Instant::now);
            self.mark_at = None;
        }
        if self.blocked.take().is_some() {
            self.account();
            self.note_room();
        }
    }

    /// Keeps the frame for another attempt.
    fn block(&mut self, error: &io::Error) {
        let blocked = Blocked::again(self.blocked.as_ref());
        let is_first = blocked.attempts == 1;
        self.blocked = Some(blocked);
        self.account();
        self.shared.condition.note_no_room(&self.home.path, error);
        if !is_first {
            self.waiting.complete(false);
        }
    }

    /// For a frame that can take no more of the queue, where the message to stop may be.
    fn wait_for_room(&mut self) {
        if let Some(blocked) = &self.blocked {
            sleep(blocked.left());
        }
        self.closing |= self.shared.stopping.load(Ordering::Acquire) != 0;
        self.write_batch();
        self.sync_if_due();
    }

    /// Writes the frame as it is. Its space was promised, or is of the slack.
    fn write_frame(&mut self, clean: bool) -> io::Result<()> {
        let (records, first) = (self.records, self.next_sequence);
        let header = FrameHeader { records, clean, first, durable: self.durable, base: self.base };
        frame::seal(&mut self.frame, &header, self.segment.salt);
        self.shared.condition.at_disk(|| self.segment.append(&*self.home.disk, &self.frame))?;
        self.next_sequence += u64::from(records);
        self.shared.growth.bytes.fetch_add(self.frame.len() as u64, Ordering::Relaxed);
        self.account();
        Ok(())
    }

    /// Writes a frame without records, which says up to where the log is on disk.
    fn write_mark(&mut self, clean: bool) -> io::Result<()> {
        self.write_frame(clean)?;
        self.segment.copy_mark(&*self.home.disk, &self.frame)
    }

    fn sync_if_due(&mut self) {
        // Those that wait for a frame that found no room wait on.
        let blocked = self.blocked.is_some();
        let due = (self.waiting.len().1 > 0 && !blocked)
            || self.unsynced >= self.policy.flush_every_events
            || self.unsynced_since.is_some_and(|since| since.elapsed() >= self.policy.flush_every);
        if due && self.healthy() {
            match blocked {
                true => drop(self.sync_segment()),
                false => self.sync(),
            }
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

    /// Makes all records that are written durable, and returns where they end.
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
        if !self.healthy() || self.blocked.is_some() {
            return;
        }
        if self.mark_at.is_some_and(|at| at <= Instant::now()) {
            self.mark_at = None;
            // It confirms what is durable anyway, and nothing is missing if it is lost. So it is not synced.
            match self.write_mark(false) {
                Ok(()) => {}
                Err(error) if is_no_space(&error) => return self.block(&error),
                Err(error) => return self.fail("write", &error),
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
        let available =
            if self.closing || self.blocked.is_some() { 0 } else { self.segment.room().saturating_sub(SLACK) };
        self.shared.account.available.store(available, Ordering::Release);
    }

    /// Allows no further reservation, and takes the records of those that there are: they may have been answered
    /// already.
    fn drain(&mut self, messages: &Receiver<Message>) {
        self.closing = true;
        self.account();
        // What found no room is written now or never.
        self.write_batch();
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
        let (disk, segment) = (&self.home.disk, &self.segment);
        match self.shared.condition.at_disk(|| disk.write_at(&segment.file, &zeros, segment.filled)) {
            Ok(()) => {
                self.segment.filled += self.fill_step;
                self.fill_step = FILL_BYTES;
                self.retry_fill_at = None;
                self.account();
                self.note_room();
            }
            Err(error) if is_no_space(&error) => {
                self.retry_fill_at = Some(Instant::now() + Duration::from_millis(NO_SPACE_RETRY_MS));
                self.shared.condition.note_no_room(&self.home.path, &error);
            }
            Err(error) => self.fail("write", &error),
        }
    }

    /// Notes that a write found room, unless another is still to find it.
    fn note_room(&self) {
        if self.blocked.is_none() && self.retry_fill_at.is_none() {
            self.shared.condition.note_room(&self.home.path);
        }
    }

    /// Closes the segment and begins the next one. Until the new one is there, nothing of the old one is changed.
    fn rotate(&mut self) -> Result<u64> {
        // All of the old segment must be on disk before the new one can be seen, also a mark without a waiter: a bad
        // frame in an older segment is corruption.
        if !self.healthy() || self.blocked.is_some() || !self.sync_segment() {
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
    fn stop(&mut self) -> Result<Closed> {
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
        let Segment { number, salt, .. } = self.segment;
        Ok(Closed { directory: self.home.id, segment: number, salt, last: self.next_sequence - 1 })
    }

    fn close_segment(&mut self) -> io::Result<()> {
        self.write_mark(true)?;
        self.segment.close(&*self.home.disk)
    }

    fn healthy(&self) -> bool {
        self.shared.condition.get() != Health::Failed
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        let (path, position) = (self.segment.path.display(), self.segment.position);
        let way_out = "nothing more is accepted; check the disk, then restart";
        self.fail_for(format!("cannot {what} the log {path} at offset {position}: {error}; {way_out}"));
    }

    /// For good.
    fn fail_for(&mut self, reason: String) {
        if !self.healthy() {
            return;
        }
        log::error!("{reason}");
        self.shared.condition.set(Health::Failed, Some(reason));
        self.mark_at = None;
        self.retry_fill_at = None;
        self.blocked = None;
        self.unsynced_since = None;
        self.waiting.complete(false);
    }
}
