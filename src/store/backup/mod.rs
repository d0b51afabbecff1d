//! Backups: a copy of the data directory as one stream of bytes, and a data directory made of one.
//!
//! Owns: which bytes a copy consists of, the format of the stream, and the restore. Called by `limiter`.
//!
//! # What a copy consists of
//!
//! The newest snapshot, if there is one, and the segments from its number on, the last of them up to
//! the *cut*: the place where the log ended at a sync that was made after the backup was asked for. Lock, address and
//! tokens are not state, and are not in it.
//!
//! # Why what was answered before is in it
//!
//! A check is answered after its record was queued (`relaxed`), written (`batch`) or synced (`always`). In all three
//! the record was in the queue of the log thread before the cut was asked for, and the queue keeps its order. So the
//! log thread has written it before it comes to the cut. It syncs the segment then, and reports where its last frame
//! ends: the record is before that place, in this segment or an older one. What comes after the place is not in the
//! copy, even if it was answered before the copy is complete.
//!
//! # Why the copy is a whole data directory
//!
//! It equals what a crash at the cut would have left, without the torn end. The order of records is that of the log,
//! and the end is the end of a frame, so no check is only partly in it. Changes of several limits that had not all come
//! to the log are completed by the start, as after any crash.
//!
//! # Why the copy holds still while checks and compactions go on
//!
//! Snapshots, and all segments but the last, are never written again. Nothing of the last segment is written again
//! before the cut: frames, copies of marks, and the zeros that replace these, are written after it, and a segment is
//! never shortened to less than its frames. Files are opened before the first byte is sent; a compaction may remove
//! their names meanwhile, and the bytes stay until they are closed. The list of the files is made under the lock of the
//! compaction, so that none is removed between the cut and the opening, and that each snapshot in the list has its
//! markers before the cut. The lock is not held while bytes are sent.
//!
//! # A slow client
//!
//! A slow client only keeps the space of files that a compaction has removed. A copy with a deadline ends there with a
//! block that says so, and its files are closed.
//!
//! Each module may use only those after it in this list: `restore`, `unpack`, `copy`, `format`. `properties` tests
//! them.

pub mod copy;
pub mod format;
#[cfg(test)]
mod properties;
pub mod restore;
pub mod unpack;
