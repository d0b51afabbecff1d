//! Bytes on their way to a client.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::bounds::SEND_TIMEOUT_MS;

/// A request that is counted until it is dropped: one on a Unix socket while it is with a thread that may wait, or one
/// with a large body.
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub fn of(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes on their way to a client.
pub struct Unsent<W> {
    writer: W,
    bytes: Vec<u8>,
    /// How many the writer has taken; it may hold the last of them back until it is flushed.
    sent: usize,
}

impl<W: Write> Unsent<W> {
    pub fn new(writer: W, bytes: Vec<u8>) -> Unsent<W> {
        Unsent { writer, bytes, sent: 0 }
    }

    /// The bytes, emptied for the next ones. To be called when all are sent.
    pub fn renew(&mut self) -> &mut Vec<u8> {
        self.bytes.clear();
        self.sent = 0;
        &mut self.bytes
    }

    /// Sends what the socket takes. Returns whether that was all.
    pub fn go_on(&mut self) -> io::Result<bool> {
        loop {
            let unsent = &self.bytes[self.sent..];
            let done = if unsent.is_empty() { self.writer.flush().map(|()| 0) } else { self.writer.write(unsent) };
            match done {
                Ok(_) if unsent.is_empty() => return Ok(true),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => self.sent += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // SO_SNDTIMEO has passed; nothing of what was refused was taken.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// As `go_on`, without waiting. tiny_http's writer holds back less than a kibibyte, and nothing after a write
    /// that it did not take whole; so what it holds can only be the end of the reply.
    pub fn go_on_by(&mut self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            match rustix::net::send(fd, &self.bytes[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(more) => self.sent += more,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.go_on()
    }

    /// Sends all, unless that takes longer than a client may leave a reply unread.
    pub fn finish(&mut self, begun: Instant) -> io::Result<()> {
        while !self.go_on()? {
            if begun.elapsed() > Duration::from_millis(SEND_TIMEOUT_MS) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}
