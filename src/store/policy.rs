//! When the log is synced, when it is compacted, and when a segment is closed.

use std::time::Duration;

use crate::bounds::{
    MAX_COMPACT_AFTER_BYTES, MAX_FLUSH_EVERY_EVENTS, MAX_FLUSH_EVERY_MS, MAX_SEGMENT_BYTES, MIN_COMPACT_AFTER_BYTES,
    MIN_SEGMENT_BYTES,
};
use crate::error::{Error, Result};

/// When records are synced whose sync nothing waits for, and when the log is compacted.
#[derive(Debug, Clone)]
pub struct Policy {
    /// After this many records …
    pub flush_every_events: u64,
    /// … or after this time, whichever comes first.
    pub flush_every: Duration,
    /// Size of the log, in bytes, past which it is compacted, from
    /// [`MIN_COMPACT_AFTER_BYTES`](crate::bounds::MIN_COMPACT_AFTER_BYTES) to
    /// [`MAX_COMPACT_AFTER_BYTES`](crate::bounds::MAX_COMPACT_AFTER_BYTES).
    pub compact_after: u64,
    /// Size at which a segment is closed, in bytes, from [`MIN_SEGMENT_BYTES`](crate::bounds::MIN_SEGMENT_BYTES) to
    /// [`MAX_SEGMENT_BYTES`](crate::bounds::MAX_SEGMENT_BYTES).
    pub segment_bytes: u64,
    /// Whether records that nothing waits for may be left in the queue for a moment, so that many are written at once.
    pub gathers: bool,
}

/// A policy with the defaults of bounds.rs.
impl Default for Policy {
    fn default() -> Policy {
        Policy {
            flush_every_events: crate::bounds::FLUSH_EVERY_EVENTS,
            flush_every: Duration::from_millis(crate::bounds::FLUSH_EVERY_MS),
            compact_after: crate::bounds::COMPACT_AFTER_BYTES,
            segment_bytes: crate::bounds::SEGMENT_BYTES,
            gathers: false,
        }
    }
}

/// Refuses options that are out of their bounds.
///
/// # Errors
/// `invalid_argument`, naming the option.
pub fn validate_policy(policy: &Policy) -> Result<()> {
    // A part of a millisecond is below the smallest and above the largest.
    let ms = if policy.flush_every.as_millis() == 0 { 0 } else { policy.flush_every.as_nanos().div_ceil(1_000_000) };
    for (name, value, low, high) in [
        ("flush-every-ms", u64::try_from(ms).unwrap_or(u64::MAX), 1, MAX_FLUSH_EVERY_MS),
        ("flush-every-events", policy.flush_every_events, 1, MAX_FLUSH_EVERY_EVENTS),
        ("compact-after", policy.compact_after, MIN_COMPACT_AFTER_BYTES, MAX_COMPACT_AFTER_BYTES),
        ("segment_bytes", policy.segment_bytes, MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES),
    ] {
        if !(low..=high).contains(&value) {
            return Err(Error::invalid(format!("{name} must be from {low} to {high}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::format::{frame, record};

    #[test]
    fn a_policy_is_refused_past_each_of_its_bounds() {
        let refused = |change: &dyn Fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            validate_policy(&policy).err().map(|error| {
                assert_eq!(error.kind(), crate::Kind::InvalidArgument);
                error.message().to_owned()
            })
        };
        let flush_every = |flush_every| refused(&|policy| policy.flush_every = flush_every);
        let bounds = (Duration::from_millis(1), Duration::from_millis(MAX_FLUSH_EVERY_MS));
        assert_eq!((flush_every(bounds.0), flush_every(bounds.1)), (None, None));
        let message = Some(format!("flush-every-ms must be from 1 to {MAX_FLUSH_EVERY_MS}"));
        let moment = Duration::from_nanos(1);
        assert_eq!((flush_every(bounds.0 - moment), flush_every(bounds.1 + moment)), (message.clone(), message));
        type Field = fn(&mut Policy) -> &mut u64;
        let fields: [(&str, Field, u64, u64); 3] = [
            ("flush-every-events", |policy| &mut policy.flush_every_events, 1, MAX_FLUSH_EVERY_EVENTS),
            ("compact-after", |policy| &mut policy.compact_after, MIN_COMPACT_AFTER_BYTES, MAX_COMPACT_AFTER_BYTES),
            ("segment_bytes", |policy| &mut policy.segment_bytes, MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES),
        ];
        for (name, field, low, high) in fields {
            let message = Some(format!("{name} must be from {low} to {high}"));
            for (value, expected) in [(low - 1, &message), (low, &None), (high, &None), (high + 1, &message)] {
                assert_eq!(refused(&|policy| *field(policy) = value), *expected, "{name} {value}");
            }
        }
    }

    #[test]
    fn a_compaction_leaves_less_in_the_log_than_would_trigger_the_next() {
        let marker = (frame::FRAME_HEADER + record::MAX_FIXED) as u64;
        let left = frame::FILE_HEADER as u64 + crate::bounds::SHARDS as u64 * marker;
        assert!(2 * left < MIN_COMPACT_AFTER_BYTES, "{left}");
    }
}
