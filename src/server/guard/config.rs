//! The guard's bounds. Those that a user can meet come from bounds.rs.

use std::time::Duration;

use crate::bounds::{
    BODY_TIMEOUT_MS, HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS, LEAKED_SHARE, MAX_BODY_WIRE_BYTES, MAX_CONNECTIONS,
    MAX_HEAD_BYTES, MAX_LEAKED, MAX_UNFINISHED_BYTES, MIN_LEAKED, SEND_TIMEOUT_MS,
};

/// Descriptors that are kept for files and the server itself.
const SPARE_DESCRIPTORS: u64 = 40;

/// The guard's bounds. Times are met up to one walk late ([`GuardConfig::walk_interval`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardConfig {
    /// A connection may be silent this long between two requests, and before its first byte.
    pub idle_timeout: Duration,
    /// A request must be complete this long after its first byte: its head, and its body if that has at most 1024
    /// bytes, which tiny_http reads with the head (`new_request` in its request.rs). Further bytes don't extend it.
    pub head_timeout: Duration,
    /// A longer body must be read this long after its head. The thread `flint-slow` reads what has arrived at once.
    pub body_timeout: Duration,
    /// A client must take at least [`MIN_DRAIN_BYTES`](crate::bounds::MIN_DRAIN_BYTES) of pending replies in this time.
    pub send_timeout: Duration,
    /// Bytes that tiny_http may read for one request before it hands it over.
    pub max_head_bytes: u64,
    /// Bytes that may be read for one body, the frames of its chunks among them.
    pub max_body_bytes: u64,
    /// Memory that unfinished heads and bodies of all connections may take, in bytes; beyond it the largest are cut.
    pub max_unfinished_bytes: u64,
    /// Connections open at once; beyond it those that never asked anything are cut, then the longest idle, then the
    /// oldest.
    pub max_connections: usize,
    /// A connection that was given up is kept this long, so that its client can read the reply.
    pub abandon_grace: Duration,
    /// A connection that is still open this long after it was cut counts as leaked.
    pub leaked_after: Duration,
    /// This many leaked connections raise the alarm, once.
    pub leaked_limit: usize,
    /// Time between two walks while connections are open. It bounds how much an idle connection that turns hostile can
    /// send unseen: tiny_http reads about 200 MB/s, so 10 MB. Longer if walks would take over a twentieth of one
    /// processor, but at most [`LONGEST_INTERVAL`].
    pub walk_interval: Duration,
    /// Time between two looks at a connection that receives much while no request of it is handed over, and the delay
    /// of the walk that a new connection causes.
    pub fast_interval: Duration,
}

impl GuardConfig {
    /// Bounds the connections by the descriptors and threads that the system allows.
    #[must_use]
    pub fn within(self, descriptors: u64, threads: u64) -> GuardConfig {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let leaked_limit = count(descriptors.min(threads) / LEAKED_SHARE).clamp(MIN_LEAKED, MAX_LEAKED);
        // tiny_http has two descriptors of each connection, and `flint-slow` may have a third.
        let left = descriptors.saturating_sub(SPARE_DESCRIPTORS + 2 * leaked_limit as u64);
        GuardConfig { leaked_limit, max_connections: self.max_connections.min(count(left / 3).max(1)), ..self }
    }
}

impl Default for GuardConfig {
    fn default() -> GuardConfig {
        GuardConfig {
            idle_timeout: Duration::from_millis(IDLE_TIMEOUT_MS),
            head_timeout: Duration::from_millis(HEAD_TIMEOUT_MS),
            body_timeout: Duration::from_millis(BODY_TIMEOUT_MS),
            send_timeout: Duration::from_millis(SEND_TIMEOUT_MS),
            max_head_bytes: MAX_HEAD_BYTES,
            max_body_bytes: MAX_BODY_WIRE_BYTES,
            max_unfinished_bytes: MAX_UNFINISHED_BYTES,
            max_connections: MAX_CONNECTIONS,
            abandon_grace: Duration::from_millis(500),
            leaked_after: Duration::from_secs(10),
            leaked_limit: MAX_LEAKED,
            walk_interval: Duration::from_millis(50),
            fast_interval: Duration::from_millis(5),
        }
    }
}

/// The longest time between two walks while connections are open.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(1);
