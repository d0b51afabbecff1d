//! The rule: which connection is to be cut, and why. A pure function of the facts, the bounds and the time.

use std::fmt;
use std::time::{Duration, Instant};

use super::config::GuardConfig;

/// As [`GuardConfig::send_timeout`], for a client that goes on asking while it does not read the replies.
pub const ASKING_SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A dead connection is given this long to be closed by tiny_http.
pub const DEAD_GRACE: Duration = Duration::from_secs(1);

/// A connection over the byte bound is cut if it was seen so this often: a client that sends ahead must not lose its
/// connection because no decider has run for a moment.
pub const OVER_BOUND_SIGHTINGS: u32 = 2;

/// Over the bound by this factor, once is enough.
pub const OVER_BOUND_FACTOR: u64 = 4;

/// Samples in a row in which a Unix connection was read and received more, while no request was handed over.
pub const STREAM_SIGHTINGS: u32 = 2;

/// Why a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// Silent for longer than `idle_timeout`.
    Idle,
    /// The request was not complete within `head_timeout`.
    Head,
    /// The body was not complete within `body_timeout`.
    Body,
    /// More than `max_head_bytes` for one request or `max_body_bytes` for its body, or the largest while all together
    /// have more than `max_unfinished_bytes`.
    Bytes,
    /// Replies were not read within `send_timeout`.
    Send,
    /// More than `max_connections`.
    Excess,
    /// The server gave it up (`RequestGuard::give_up`).
    Abandoned,
    /// It was over, and tiny_http still held it.
    Dead,
}

impl CutReason {
    /// All reasons, in the order of `GuardHandle::cut_total`.
    pub const ALL: [CutReason; 8] = [
        CutReason::Idle,
        CutReason::Head,
        CutReason::Body,
        CutReason::Bytes,
        CutReason::Send,
        CutReason::Excess,
        CutReason::Abandoned,
        CutReason::Dead,
    ];

    /// A short name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CutReason::Idle => "idle",
            CutReason::Head => "head",
            CutReason::Body => "body",
            CutReason::Bytes => "bytes",
            CutReason::Send => "send",
            CutReason::Excess => "excess",
            CutReason::Abandoned => "abandoned",
            CutReason::Dead => "dead",
        }
    }
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known about one connection, as [`verdict`] needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Requests can be attributed to this connection. Not so on a Unix socket, or if the table of peers is full;
    /// `in_progress` and `last_progress` are then those of all such connections together.
    pub attributed: bool,
    /// Since when the connection has been over.
    pub dead_since: Option<Instant>,
    /// Requests handed over and not answered.
    pub in_progress: u32,
    /// The body of a handed-over request is still on the socket.
    pub body_unread: bool,
    /// That body may be larger than `max_body_bytes`.
    pub body_large: bool,
    /// When it was first seen, or last handed over, answered, or finished a body.
    pub last_progress: Instant,
    /// Since when there are bytes of a request that was not handed over.
    pub pending_since: Option<Instant>,
    /// How many bytes tiny_http has read of that request.
    pub pending_bytes: u64,
    /// How often in a row the connection was seen over the bound (on a Unix socket: receiving).
    pub sightings: u32,
    /// Since when the present body has been awaited.
    pub body_since: Option<Instant>,
    /// Since when replies have been pending without `MIN_DRAIN_BYTES` bytes being taken.
    pub send_since: Option<Instant>,
    /// Since when the connection is given up.
    pub abandoned_since: Option<Instant>,
}

impl Facts {
    /// A connection first seen at `now`.
    #[must_use]
    pub fn new(now: Instant, attributed: bool) -> Facts {
        Facts {
            attributed,
            dead_since: None,
            in_progress: 0,
            body_unread: false,
            body_large: false,
            last_progress: now,
            pending_since: None,
            pending_bytes: 0,
            sightings: 0,
            body_since: None,
            send_since: None,
            abandoned_since: None,
        }
    }
}

/// Decides whether a connection is to be cut, and why. A time or size equal to its bound is within it.
/// (`max_connections` and `max_unfinished_bytes` are bounds of all together: see cuts.rs.)
#[must_use]
pub fn verdict(facts: &Facts, now: Instant, config: &GuardConfig) -> Option<CutReason> {
    let past = |since: Option<Instant>, limit: Duration| {
        since.is_some_and(|since| now.saturating_duration_since(since) > limit)
    };
    if facts.dead_since.is_some() {
        // Its request may still be in progress. Where requests are not attributed that is unknown, so the grace is
        // longer than any request takes.
        let (free, grace) = if facts.attributed {
            (facts.in_progress == 0, DEAD_GRACE)
        } else {
            (true, config.idle_timeout.max(DEAD_GRACE))
        };
        return (free && past(facts.dead_since, grace)).then_some(CutReason::Dead);
    }
    if past(facts.abandoned_since, config.abandon_grace) {
        return Some(CutReason::Abandoned);
    }
    let asking = facts.attributed && facts.in_progress > 1;
    let send_timeout = if asking { config.send_timeout.min(ASKING_SEND_TIMEOUT) } else { config.send_timeout };
    if past(facts.send_since, send_timeout) {
        return Some(CutReason::Send);
    }
    if past(facts.body_since, config.body_timeout) {
        return Some(CutReason::Body);
    }
    if over_bound(facts, config) {
        return Some(CutReason::Bytes);
    }
    if facts.in_progress > 0 {
        return None;
    }
    if past(facts.pending_since, config.head_timeout) {
        return Some(CutReason::Head);
    }
    let silent = facts.pending_since.is_none();
    (silent && past(Some(facts.last_progress), config.idle_timeout)).then_some(CutReason::Idle)
}

pub fn over_bound(facts: &Facts, config: &GuardConfig) -> bool {
    if facts.body_unread {
        // The bytes are the body's. The reader of the body bounds what it gets of them, but the frames of chunks never
        // get there.
        return facts.attributed && !facts.body_large && facts.pending_bytes > config.max_body_bytes;
    }
    if !facts.attributed {
        return facts.sightings >= STREAM_SIGHTINGS;
    }
    let bound = config.max_head_bytes;
    facts.pending_bytes > bound.saturating_mul(OVER_BOUND_FACTOR)
        || (facts.pending_bytes > bound && facts.sightings >= OVER_BOUND_SIGHTINGS)
}
