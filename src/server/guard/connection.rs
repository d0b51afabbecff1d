//! One connection over time: from what the kernel and the table tell to the facts that the rule needs.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::net::facts;
use super::super::net::names::Name;
use super::config::GuardConfig;
use super::table::{Flow, Table};
use super::verdict::Facts;
use crate::bounds::MIN_DRAIN_BYTES;

/// Memory that tiny_http takes per byte of an unfinished head, at worst: `ClientConnection::read` keeps two strings of
/// each header line, which may be as short as `a:b`.
pub const HEAD_COST: u64 = 24;

/// The same of an unfinished body, in a buffer that doubles.
pub const BODY_COST: u64 = 2;

/// Bytes without a request handed over that make a connection worth a closer look.
const HOT_BYTES: u64 = 4 << 10;

/// The same for a body, which may be this long.
const HOT_BODY_BYTES: u64 = 1 << 20;

/// A connection counts as forgotten if its bytes have waited this long and tiny_http has read none of it.
pub const FORGOTTEN_AFTER: Duration = Duration::from_millis(10);

/// Pauses between two wakes of tiny_http for one connection; they double from the first of these to the second.
const WAKE_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// What the kernel told of one connection at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Bytes received in total; 0 on a Unix socket.
    pub received: u64,
    /// Bytes that tiny_http has not read yet. On TCP 0 where it does not matter.
    pub unread: u64,
    /// How long ago the last bytes arrived; 0 on a Unix socket.
    pub waiting: Duration,
    /// Bytes that the client has acknowledged in total; 0 on a Unix socket.
    pub acked: u64,
    /// Measure of replies that the client has not taken; on TCP 1 for any.
    pub unsent: u64,
    pub dead: bool,
    /// The peer sends nothing more: it has closed the connection, or its half of it.
    pub closed: bool,
}

/// One connection over time.
#[derive(Debug)]
pub struct Connection {
    /// The peer's key in the table; 0 for none.
    pub key: u64,
    /// The peer's name for the log.
    pub peer: Peer,
    /// The number of a descriptor of it. Verified at each use.
    pub number: RawFd,
    pub first_seen: Instant,
    /// The last walk that found it open.
    pub walk: u32,
    pub cut: Option<Instant>,
    /// It has leaked, and the kernel was made to free what it kept for it.
    pub leaked: bool,
    pub flow: Flow,
    /// Bytes received when the flow last changed.
    pub base: u64,
    pub last: Sample,
    /// tiny_http has not read anything of it in any sample.
    pub untouched: bool,
    /// Set while tiny_http has forgotten it.
    pub forgotten: Option<Forgotten>,
    /// Bytes acknowledged when `send_since` was last set.
    pub acked: u64,
    pub facts: Facts,
}

#[derive(Clone, Copy, Debug)]
pub struct Forgotten {
    /// When tiny_http is to be woken for it next, and the pause after that.
    pub next_wake: Instant,
    pub pause: Duration,
}

#[derive(Clone, Copy, Debug)]
pub enum Peer {
    Tcp(Option<SocketAddr>),
    Unix(u32),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(Some(address)) => address.fmt(f),
            Peer::Tcp(None) => f.write_str("a peer already gone"),
            Peer::Unix(pid) => write!(f, "process {pid}"),
        }
    }
}

impl Connection {
    pub fn new(key: u64, peer: Peer, number: RawFd, now: Instant) -> Connection {
        Connection {
            key,
            peer,
            number,
            first_seen: now,
            walk: 0,
            cut: None,
            leaked: false,
            flow: Flow::default(),
            base: 0,
            untouched: true,
            forgotten: None,
            last: Sample::default(),
            acked: 0,
            facts: Facts::new(now, true),
        }
    }

    /// What the table has of it. To be read before the sample: see guard/mod.rs.
    pub fn flow(&self, table: &Table, walk: u32) -> Flow {
        match (self.key, self.peer) {
            (0, Peer::Unix(_)) => Flow::of(&table.unix, false),
            (0, Peer::Tcp(_)) => Flow::of(&table.overflow, false),
            (key, _) => table.flow(key, walk),
        }
    }

    pub fn sample(&self, fd: BorrowedFd<'_>, config: &GuardConfig) -> io::Result<Sample> {
        if let Peer::Unix(_) = self.peer {
            return Ok(Sample {
                received: 0,
                unread: facts::unread(fd)?,
                waiting: Duration::ZERO,
                acked: 0,
                unsent: facts::unsent(fd)?,
                dead: hung_up(fd),
                closed: false,
            });
        }
        let facts = facts::bytes_received(fd)?;
        let begun = facts.bytes_received.saturating_sub(self.base);
        let unread =
            if begun > config.max_head_bytes || (begun > 0 && self.untouched) { facts::unread(fd)? } else { 0 };
        Ok(Sample {
            received: facts.bytes_received,
            unread,
            waiting: facts.last_data_received,
            acked: facts.bytes_acked,
            unsent: u64::from(facts.reply_pending),
            dead: facts.dead,
            closed: facts.peer_closed || facts.dead,
        })
    }

    /// Brings the facts up to date. Pure: the time is an argument.
    pub fn observe(&mut self, flow: Flow, sample: Sample, now: Instant, bound: u64) {
        self.untouched &= match self.peer {
            Peer::Tcp(_) => sample.unread == sample.received,
            Peer::Unix(_) => sample.unread >= self.last.unread,
        };
        self.note_forgotten(sample, now);
        let facts = &mut self.facts;
        let progress = flow.handed != self.flow.handed
            || flow.in_progress != self.flow.in_progress
            || flow.body_events != self.flow.body_events;
        let another_body = flow.body_events != self.flow.body_events;
        facts.attributed = flow.attributed;
        facts.in_progress = flow.in_progress;
        (facts.body_unread, facts.body_large) = (flow.body_unread > 0, flow.body_large);
        if progress {
            self.base = sample.received;
            facts.last_progress = now;
        }
        let begun = sample.received.saturating_sub(self.base);
        facts.pending_bytes = begun.saturating_sub(sample.unread);
        if !flow.attributed || begun == 0 {
            facts.pending_since = None;
        } else if self.forgotten.is_some() || facts.pending_since.is_none() {
            facts.pending_since = Some(now);
        }
        let seen = if flow.attributed {
            facts.pending_bytes > bound
        } else {
            // Only a queue that shrinks is being read. If it stands still or grows, the server had no time to read; if
            // it is empty, a request was read at once.
            sample.unread > 0 && sample.unread < self.last.unread
        };
        let growing = !flow.attributed && sample.unread > 0;
        facts.sightings = match (progress, seen) {
            (true, _) => 0,
            (false, true) => facts.sightings.saturating_add(1),
            (false, false) if growing => facts.sightings,
            (false, false) => 0,
        };
        if flow.body_unread == 0 || !flow.attributed {
            facts.body_since = None;
        } else if another_body || facts.body_since.is_none() {
            facts.body_since = Some(now);
        }
        let drained = match self.peer {
            Peer::Tcp(_) => sample.acked >= self.acked.saturating_add(MIN_DRAIN_BYTES),
            Peer::Unix(_) => sample.unsent < self.last.unsent,
        };
        if sample.unsent == 0 {
            facts.send_since = None;
        } else if drained || facts.send_since.is_none() {
            facts.send_since = Some(now);
            self.acked = sample.acked;
        }
        let since = |old: Option<Instant>, is: bool| is.then(|| old.unwrap_or(now));
        facts.abandoned_since = since(facts.abandoned_since, flow.abandoned);
        facts.dead_since = since(facts.dead_since, sample.dead);
        self.flow = flow;
        self.last = sample;
    }

    pub fn note_forgotten(&mut self, sample: Sample, now: Instant) {
        if !self.untouched || sample.unread == 0 {
            self.forgotten = None;
        } else if self.forgotten.is_none() {
            let left = FORGOTTEN_AFTER.saturating_sub(sample.waiting);
            self.forgotten = Some(Forgotten { next_wake: now + left, pause: WAKE_PAUSE.0 });
        }
    }

    /// Whether tiny_http is to be woken for it now; if so, the caller does that.
    pub fn wake_is_due(&mut self, now: Instant) -> bool {
        let Some(forgotten) = &mut self.forgotten else {
            return false;
        };
        let due = now >= forgotten.next_wake;
        if due {
            forgotten.next_wake = now + forgotten.pause;
            forgotten.pause = (forgotten.pause * 2).min(WAKE_PAUSE.1);
        }
        due
    }

    /// Whether it is worth a closer look before the next walk.
    pub fn is_hot(&self) -> bool {
        if self.cut.is_none() && self.forgotten.is_some() {
            return true;
        }
        let begun = self.last.received.saturating_sub(self.base);
        let streaming = match (self.facts.attributed, self.facts.body_unread) {
            (true, false) => begun > HOT_BYTES,
            (true, true) => begun > HOT_BODY_BYTES,
            (false, false) => self.last.unread > 0 || self.facts.sightings > 0,
            (false, true) => false,
        };
        self.cut.is_none() && streaming
    }

    /// Memory that its unfinished head or body takes, at worst. Large bodies have their own bound.
    pub fn unfinished(&self) -> u64 {
        if self.cut.is_some() || !self.facts.attributed || self.facts.body_large {
            return 0;
        }
        self.facts.pending_bytes.saturating_mul(if self.facts.body_unread { BODY_COST } else { HEAD_COST })
    }
}

/// Whether the peer of a Unix stream socket has closed it.
pub fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Whether a connection with this local name was accepted by the listener of that name.
pub fn serves(listener: &Name, local: &Name) -> bool {
    match (listener, local) {
        (Name::Tcp(listener), Name::Tcp(local)) => {
            listener.port() == local.port()
                && (listener.ip().is_unspecified() || listener.ip().to_canonical() == local.ip().to_canonical())
        }
        (Name::Unix(listener), Name::Unix(local)) => !listener.is_empty() && listener == local,
        _ => false,
    }
}
