//! Memory that a flood of requests leaves in the allocator.

use std::time::{Duration, Instant};

use super::super::net::process;

/// Time between two looks at memory while connections are open.
const TRIM_INTERVAL: Duration = Duration::from_secs(3);

/// Growth, in bytes, after which the allocator is asked to give back what is free.
const TRIM_GROWTH: u64 = 32 << 20;

/// Bytes given back that make it worth asking again soon.
const TRIM_FREED: u64 = 4 << 20;

/// If this many connections were open, the end of half of them is a reason as well.
const TRIM_CONNECTIONS: usize = 32;

/// Pauses before it is asked once more; they double from the first of these to the second.
const TRIM_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(160));

/// When memory was last given back, and when to look again.
pub struct Memory {
    next_look: Instant,
    resident_after_trim: u64,
    /// Connections open then.
    open_at_trim: usize,
    /// When to give back once more, and the pause before that: what is in use now may be free by then.
    trim_again: Option<(Instant, Duration)>,
}

impl Memory {
    pub fn new(now: Instant) -> Memory {
        Memory { next_look: now, resident_after_trim: 0, open_at_trim: 0, trim_again: None }
    }

    /// Whether it is to be given back once more.
    pub fn is_pending(&self) -> bool {
        self.trim_again.is_some()
    }

    /// Makes the allocator return free pages after a flood of requests. Each connection's thread has its own heap,
    /// which keeps its pages otherwise.
    pub fn give_back(&mut self, open: usize, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + TRIM_INTERVAL;
        let resident = resident_bytes();
        let grown = resident > self.resident_after_trim + TRIM_GROWTH;
        let fewer = self.open_at_trim >= TRIM_CONNECTIONS && open * 2 <= self.open_at_trim;
        let again = self.trim_again.filter(|(at, _)| now >= *at);
        if grown || fewer || again.is_some() {
            process::trim_memory();
            self.resident_after_trim = resident_bytes();
            self.open_at_trim = open;
            // While it still gives much back, more is about to be free.
            let freed = resident.saturating_sub(self.resident_after_trim) > TRIM_FREED;
            let pause = again.filter(|_| !grown && !freed).map_or(TRIM_PAUSE.0, |(_, pause)| pause * 2);
            self.trim_again = (pause <= TRIM_PAUSE.1).then(|| (now + pause, pause));
            log::debug!("memory: {resident} bytes, {} after trimming", self.resident_after_trim);
        }
        self.resident_after_trim = self.resident_after_trim.min(resident);
    }
}

/// Memory that this process has in use, in bytes; 0 if the kernel doesn't tell.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
