//! The queue of the log thread, and the account of the space that is promised to it.
//!
//! Records are queued under a shard's lock, so queueing must neither wait nor fail: space is reserved before the lock
//! is taken, in bytes of zero-filled space that is already on disk. That one account bounds the memory of the queue,
//! holds back writers when the disk is slow, and shows a full disk *before* anything was changed.
//!
//! The account: `available` is the filled space after the writer's position, `reserved` the space promised to records
//! that are not written yet. A reservation succeeds if and only if `reserved` stays at or below `available`. The log
//! thread lowers `available` by what a frame took before it lowers `reserved` by what was promised for its records,
//! which is never less; so the promise is kept at every moment. To stop, it sets `available` to 0 for good and then
//! waits for `reserved` to come down to 0: every earlier reservation has queued its records by then, and no later one
//! succeeds. It reads `reserved` by a read-modify-write, so that a reservation is either seen by it or made after it,
//! by a thread that sees the new `available`.

use super::growth::Growth;
use super::health::Condition;
use super::sync::{AtomicU64, Ordering, Sender};
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
}

/// Promised space, and the space that there is, in bytes. All threads write it, so it has a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Account {
    pub reserved: AtomicU64,
    pub available: AtomicU64,
}

impl Account {
    /// Promises this space if it is there.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        if bytes > self.available.load(Ordering::Acquire) {
            return None;
        }
        let before = self.reserved.fetch_add(bytes, Ordering::AcqRel);
        let reservation = Reservation { account: self, bytes };
        (before + bytes <= self.available.load(Ordering::Acquire)).then_some(reservation)
    }

    /// Takes back what was promised.
    pub fn release(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::Release);
    }
}

/// What is left of a reservation and not given back at once, in bytes: less than the largest record of fixed length.
const KEPT_REST: u64 = 64;

/// Space promised to one or more records. Dropped, it is given back.
#[must_use]
pub struct Reservation<'a> {
    account: &'a Account,
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
        // A few bytes are not worth another access to what all threads share: they go with the record.
        let taken = if self.bytes.saturating_sub(used) <= KEPT_REST { self.bytes } else { used };
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
    Append { payload: Payload, reserved: u32, waiter: Option<Pending> },
    Sync { waiter: Pending },
    Rotate { reply: Sender<Result<u64>> },
    Stop,
}

/// Bytes of a record that are kept within the queue's message.
const INLINE: usize = 46;

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
