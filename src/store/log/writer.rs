//! The log thread.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::health::{Health, Shared};
use super::queue::Message;
use super::segment::{NotCreated, Segment, create_segment};
use super::sync::{Instant, Ordering, Receiver, RecvTimeoutError, sleep, yield_now};
use super::wait::Pending;
use crate::bounds::{FILL_BYTES, FIRST_FILL_BYTES, IDLE_MARK_MS, LOG_WAIT_MS, MAX_FRAME_BYTES, NO_SPACE_RETRY_MS};
use crate::clock::Millis;
use crate::error::Result;
use crate::store::files::disk::{Disk, is_no_space};
use crate::store::format::frame::{self, FILE_HEADER, FRAME_HEADER, FrameHeader};
use crate::store::policy::Policy;

/// Filled space that is never promised to records, in bytes: for the marks of idle and stop, and their copies in the page
/// behind.
const SLACK: u64 = 8192;

/// How long the log thread lets records gather that nobody waits for, while they come in numbers: to be woken for each
/// would cost whoever sends it more than its check.
const GATHER: Duration = Duration::from_micros(200);

/// Batches in a row that nobody waits for, after which records gather.
const GATHER_AFTER: u32 = 2;

/// How often the log thread gives way before it collects a batch, where several wait for each.
const GIVE_WAY: u32 = 2;

/// Dropped when the log thread ends, before its queue is: nothing may be taken any more, above all after a panic, behind
/// which the health would be good for ever.
pub struct Ended(pub Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        if self.0.health() != Health::Failed {
            let reason = "the log thread has ended; nothing more is accepted; restart flint".to_owned();
            self.0.set_health(Health::Failed, Some(reason));
        }
    }
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

/// The log thread's own state.
pub struct Writer {
    pub shared: Arc<Shared>,
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
    pub fn new(start: Start, shared: Arc<Shared>) -> Writer {
        // A segment that was closed ends with the copy of its last mark, which tells of what it confirms until more follows.
        let mark_copy =
            (start.segment.filled > start.segment.position).then(|| start.segment.filled - FRAME_HEADER as u64);
        Writer {
            shared,
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
            base: start.base,
            rotate_at: start.policy.segment_bytes,
            policy: start.policy,
            closing: false,
        }
    }

    pub fn run(mut self, messages: &Receiver<Message>) -> Result<()> {
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
            waiter.complete(durable);
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
    pub fn fill(&mut self) {
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
