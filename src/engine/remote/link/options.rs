//! How a store is used.

use crate::clock::Clock;

/// How a store is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Replicas that must have confirmed a write before it counts, 0 to [`crate::bounds::MAX_REPLICAS`].
    pub replicas: u32,
    /// The clock that follows the store's: raised ([`Clock::raise`]) by the time in each reply.
    pub clock: Clock,
}
