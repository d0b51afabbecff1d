//! How long things took, in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of [`Timings`], in microseconds; a last bucket takes the rest.
pub const TIMING_BOUNDS_US: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000];

/// How long something took, counted in buckets.
#[derive(Debug, Default)]
pub struct Timings {
    buckets: [AtomicU64; TIMING_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Timings {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = TIMING_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The number of durations in each bucket, and their sum in microseconds.
    pub fn read(&self) -> ([u64; TIMING_BOUNDS_US.len() + 1], u64) {
        let mut counts = [0; TIMING_BOUNDS_US.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        (counts, self.sum_us.load(Ordering::Relaxed))
    }
}
