//! The queue of the log thread, how the thread takes from it, and the account of the space that is promised to it.
//!
//! Records are queued under a shard's lock, so queueing must neither wait nor fail: space is reserved before the lock
//! is taken, in bytes of zero-filled space that is already on disk. That one account bounds the memory of the queue,
//! holds back writers when the disk is slow, and shows a full disk *before* anything was changed.
//!
//! The account: `available` is the filled space after the writer's position, `reserved` the space promised to records
//! that are not written yet. A reservation succeeds if and only if `reserved` stays at or below `available`. The log
//! thread lowers `available` by what a frame took before it lowers `reserved` by what was promised for its records,
//! which is never less; so the promise is kept at every moment. To stop, it sets `available` to 0 permanently and then
//! waits for `reserved` to come down to 0: every earlier reservation has queued its records by then, and no later one
//! succeeds. It reads `reserved` by a read-modify-write, so that a reservation is either seen by it or made after it,
//! by a thread that sees the new `available`.

use std::sync::Arc;
use std::time::Duration;

use super::growth::Growth;
use super::health::{Condition, Health};
use super::segment::Cut;
use super::sync::{
    AtomicU8, AtomicU64, Instant, Ordering, Receiver, RecvTimeoutError, Sender, look_for, sleep, yield_now,
};
use super::wait::Pending;
use crate::clock::Micros;
use crate::error::Result;
use crate::store::format::encode::{Sink, encode_event};
use crate::store::format::frame::FRAME_HEADER;
use crate::store::format::record::Event;
use crate::store::timings::Timings;

/// What the log thread and its callers share.
#[derive(Debug, Default)]
pub struct Shared {
    pub account: Account,
    pub condition: Condition,
    pub growth: Growth,
    pub syncs: Timings,
    /// Not 0 once the log thread is to stop, which it may be unable to see in its queue.
    pub stopping: AtomicU8,
}

/// Dropped when the log thread ends, before its queue and its waiters are: nothing may be accepted any more. After a
/// panic the health would be good for ever.
pub struct FailOnExit(pub Arc<Shared>);

impl Drop for FailOnExit {
    fn drop(&mut self) {
        if self.0.condition.get() != Health::Failed {
            let reason = "the log thread has ended; nothing more is accepted; restart flint".to_owned();
            self.0.condition.set(Health::Failed, Some(reason));
        }
    }
}

/// Promised space, and the space that there is, in bytes. All threads write it, so it has its own cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Account {
    pub reserved: AtomicU64,
    pub available: AtomicU64,
}

impl Account {
    /// Promises this space for this many records if it is there.
    pub fn try_reserve(&self, records: usize, bytes: u64) -> Option<Reservation<'_>> {
        if bytes > self.available.load(Ordering::Acquire) {
            return None;
        }
        let before = self.reserved.fetch_add(bytes, Ordering::AcqRel);
        let reservation = Reservation { account: self, records, bytes };
        (before + bytes <= self.available.load(Ordering::Acquire)).then_some(reservation)
    }

    /// Takes back what was promised.
    pub fn release(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::Release);
    }
}

/// What is left of a reservation by its last record and not given back at once, in bytes: less than the largest record
/// of fixed length.
const KEPT_REST: u64 = 64;

/// Space promised to one or more records. Dropped, it is given back.
#[must_use]
pub struct Reservation<'a> {
    account: &'a Account,
    /// Records that may still come.
    records: usize,
    bytes: u64,
}

impl Reservation<'_> {
    /// Takes all of it, for a record of the log thread's own.
    pub(super) fn take_all(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Takes the space of one record with the header of its frame out of the reservation.
    pub(super) fn take(&mut self, payload: &Payload) -> u64 {
        let used = (payload.bytes().len() + FRAME_HEADER) as u64;
        debug_assert!(used <= self.bytes, "a record larger than what was reserved for it");
        // A few bytes are not worth another access to what all threads share: they go with the last record. With an
        // earlier one would go the space of a short one after it, and be given back before that is written.
        self.records = self.records.saturating_sub(1);
        let is_rest = self.records == 0 && self.bytes.saturating_sub(used) <= KEPT_REST;
        let taken = if is_rest { self.bytes } else { used };
        self.bytes -= taken;
        taken
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.release(self.bytes);
        }
    }
}

/// What the log thread is asked for.
pub enum Message {
    Append {
        payload: Payload,
        reserved: u32,
        waiter: Option<Pending>,
    },
    /// Notify the waiter when all that was queued before has come to its stage.
    Notify {
        waiter: Pending,
    },
    Rotate {
        reply: Sender<Result<u64>>,
    },
    /// Fail permanently.
    GiveUp {
        reason: String,
    },
    /// Make all durable that was queued before, and tell where that ends.
    Cut {
        reply: Sender<Result<Cut>>,
    },
    Stop,
}

/// How long the log thread lets records gather that nothing waits for, while many arrive: to wake it for each
/// would cost the sender more than its check.
const GATHER: Duration = Duration::from_micros(200);

/// Batches in a row without a waiter after which records gather.
const GATHER_AFTER: u32 = 2;

/// How long the log thread stays awake for the next record, where the last ones came as soon as that and are waited for
/// until they are written. To be woken takes longer than to write; others that have work get the processor at once.
const STAY_AWAKE: Duration = Duration::from_micros(100);

/// How often the log thread yields before it collects a batch, where there are several waiters.
const YIELDS: u32 = 2;

/// The same at most, as long as that brings further records, where they are waited for until they are written: no sync
/// gives others the time in which the next batch gathers.
const MOST_YIELDS: u32 = 8;

/// How the log thread takes from its queue: how long it stays awake, and what it lets gather.
#[derive(Debug)]
pub struct Intake {
    /// Whether records may gather that nothing waits for.
    gathers: bool,
    /// Whether it is of use to stay awake: there is another processor for those that have work.
    stays_awake: bool,
    /// Batches in a row without a waiter.
    unwaited_batches: u32,
    /// Whether the last batch was waited for until it was written.
    is_written_for: bool,
    /// Whether records come so soon after each other that it pays to stay awake for the next.
    is_brisk: bool,
    /// Whether several requests wait at the same time.
    is_crowded: bool,
}

impl Intake {
    pub fn new(gathers: bool) -> Intake {
        let stays_awake = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        Intake { gathers, stays_awake, unwaited_batches: 0, is_written_for: false, is_brisk: false, is_crowded: false }
    }

    /// Notes how many of the collected batch wait for the write, and how many for the sync.
    pub fn note(&mut self, (written, durable): (usize, usize)) {
        self.is_written_for = written > 0;
        self.is_crowded = written + durable > 1;
        self.unwaited_batches = if written + durable == 0 { self.unwaited_batches.saturating_add(1) } else { 0 };
    }

    /// The next message, unless the deadline comes first.
    pub fn receive(
        &mut self,
        messages: &Receiver<Message>,
        deadline: Option<Instant>,
    ) -> std::result::Result<Message, RecvTimeoutError> {
        if self.gathers && self.unwaited_batches >= GATHER_AFTER {
            sleep(GATHER);
            if let Ok(message) = messages.try_recv() {
                return Ok(message);
            }
            self.unwaited_batches = 0;
        }
        if !self.is_written_for {
            return receive_until(messages, deadline);
        }
        if let Ok(message) = messages.try_recv() {
            // It was queued while the last batch was written, so its sender is another.
            self.is_crowded = true;
            return Ok(message);
        }
        let begun = Instant::now();
        if self.is_brisk
            && let Some(message) = look_for(|| messages.try_recv().ok(), STAY_AWAKE)
        {
            return Ok(message);
        }
        let received = receive_until(messages, deadline);
        self.is_brisk = self.stays_awake && begun.elapsed() < STAY_AWAKE;
        received
    }

    /// Before a batch is collected, lets the threads run that have work: where each batch answers several requests,
    /// their senders are about to send the next ones, and a larger batch costs each of them less than waiting for
    /// another. Costs next to nothing where no thread has work.
    pub fn yield_to_others(&self, messages: &Receiver<Message>) {
        if !self.is_crowded {
            return;
        }
        let most = if self.is_written_for { MOST_YIELDS } else { YIELDS };
        let mut queued = messages.len();
        for yielded in 1..=most {
            yield_now();
            let before = std::mem::replace(&mut queued, messages.len());
            if yielded >= YIELDS && queued == before {
                break;
            }
        }
    }
}

fn receive_until(
    messages: &Receiver<Message>,
    deadline: Option<Instant>,
) -> std::result::Result<Message, RecvTimeoutError> {
    match deadline {
        None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(deadline) => messages.recv_deadline(deadline),
    }
}

/// Bytes of a record that are kept within the queue's message.
const INLINE: usize = 38;

/// Each check moves a message in and out of memory that two processors share.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Message>() <= 80);

/// Encoded bytes of one record on their way to the log thread.
pub enum Payload {
    Short(u8, [u8; INLINE]),
    Long(Vec<u8>),
}

impl Payload {
    pub fn encode(event: &Event<'_>, base: Micros) -> Payload {
        let mut payload = Payload::Short(0, [0; INLINE]);
        encode_event(&mut payload, event, base);
        payload
    }

    pub fn bytes(&self) -> &[u8] {
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
                    None => *self = Payload::Long([&bytes[..usize::from(*length)], more].concat()),
                }
            }
            Payload::Long(bytes) => bytes.extend_from_slice(more),
        }
    }
}
