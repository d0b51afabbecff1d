//! What is queued for the log thread, and the room that is promised to it.

use super::health::Shared;
use super::sync::{Ordering, Sender};
use super::wait::Pending;
use crate::error::Result;
use crate::store::format::frame::FRAME_HEADER;
use crate::store::format::record::Sink;

/// Bytes of a record that are kept within the queue's message.
pub const INLINE: usize = 46;

/// Encoded bytes of one record on their way to the log thread.
pub enum Payload {
    Short(u8, [u8; INLINE]),
    Long(Vec<u8>),
}

impl Payload {
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

pub enum Message {
    Append { payload: Payload, reserved: u32, waiter: Option<Pending> },
    Sync { waiter: Pending },
    Rotate { reply: Sender<Result<u64>> },
    Stop,
}

/// Space promised to one or more records. Dropped, it is given back.
#[must_use]
pub struct Reservation<'a> {
    pub(super) shared: &'a Shared,
    pub(super) bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shared.reserved.fetch_sub(self.bytes, Ordering::Release);
        }
    }
}

/// Each record may come to stand in a frame of its own.
pub fn with_frames(records: usize, bytes: usize) -> u64 {
    (bytes + records * FRAME_HEADER) as u64
}
