//! One connection as the guard follows it: from what the kernel and the table say to the facts that are judged.

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

/// Memory that tiny_http takes per byte of an unfinished head, at worst: it keeps two strings of each header line, which
/// may be as short as `a:b`.
pub const HEAD_COST: u64 = 24;

/// The same of an unfinished body: a buffer that doubles.
pub const BODY_COST: u64 = 2;

/// Bytes without a request handed over that make a connection worth a closer look.
const HOT_BYTES: u64 = 4 << 10;

/// The same for a body, which may well be this long.
const HOT_BODY_BYTES: u64 = 1 << 20;

/// Bytes that nobody has begun to read for this long make a connection count as forgotten.
pub const FORGOTTEN_AFTER: Duration = Duration::from_millis(10);

/// The pause between two knocks for one connection doubles from the first of these to the second.
const KNOCK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// What the kernel said of one connection at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Bytes received in total; 0 on a Unix socket.
    pub received: u64,
    /// Bytes that tiny_http has not read yet. On TCP asked only where it matters, else 0.
    pub unread: u64,
    /// How long ago the last bytes arrived; 0 on a Unix socket.
    pub waiting: Duration,
    /// Bytes taken by the client in total; 0 on a Unix socket.
    pub acked: u64,
    /// Measure of replies not taken by the client; on TCP 1 for any.
    pub unsent: u64,
    pub dead: bool,
    /// The peer sends nothing more: it has closed the connection, or its half of it.
    pub closed: bool,
}

/// One connection as the guard follows it.
#[derive(Debug)]
pub struct Connection {
    /// The peer's key in the table; 0 for none.
    pub key: u64,
    /// Whom to name in the log.
    pub peer: Peer,
    /// A number on which it was last seen. Verified at each use.
    pub number: RawFd,
    pub first_seen: Instant,
    /// The last walk that found it open.
    pub walk: u32,
    pub cut: Option<Instant>,
    pub flow: Flow,
    /// Bytes received when the flow last changed.
    pub base: u64,
    pub last: Sample,
    /// tiny_http was never seen to read anything of it.
    pub untouched: bool,
    /// Since when it has been forgotten, with how many knocks, and when to knock next.
    pub forgotten: Option<Forgotten>,
    /// Bytes acknowledged when the clock of unread replies was last set.
    pub acked: u64,
    pub facts: Facts,
}

#[derive(Clone, Copy, Debug)]
pub struct Forgotten {
    pub next_knock: Instant,
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
            flow: Flow::default(),
            base: 0,
            untouched: true,
            forgotten: None,
            last: Sample::default(),
            acked: 0,
            facts: Facts::new(now, true),
        }
    }

    /// What the table says of it. To be read before the sample, see the module's text.
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

    /// Brings the facts up to date. Pure but for the clock's reading handed in.
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
        facts.body_unread = flow.body_unread > 0;
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
            // Only what shrinks is being read. What stands still or grows is a server without
            // time to read it, and what is empty a request that was read at once.
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
            self.forgotten = Some(Forgotten { next_knock: now + left, pause: KNOCK_PAUSE.0 });
        }
    }

    /// Whether to knock for it now; if so, counts on that being done.
    pub fn knock_is_due(&mut self, now: Instant) -> bool {
        let Some(forgotten) = &mut self.forgotten else {
            return false;
        };
        let due = now >= forgotten.next_knock;
        if due {
            forgotten.next_knock = now + forgotten.pause;
            forgotten.pause = (forgotten.pause * 2).min(KNOCK_PAUSE.1);
        }
        due
    }

    /// Worth a closer look before the next walk.
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

    /// Memory that its unfinished head or body takes, at worst.
    pub fn unfinished(&self) -> u64 {
        if self.cut.is_some() || !self.facts.attributed {
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
