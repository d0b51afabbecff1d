//! The guard's thread: it walks over this process's sockets, has each judged, wakes tiny_http where that has forgotten
//! a connection, and raises the alarms.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::time::{ClockId, clock_gettime};

use super::super::net::names::{self, Name};
use super::super::net::pressure;
use super::super::net::process::AcceptSignal;
use super::config::LONGEST_INTERVAL;
use super::connection::Peer;
use super::cuts::Watched;
use super::handle::CutRequest;
use super::memory::Memory;

/// Longest time for bodies and unread replies when the server stops or is replaced.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Time between two walks while nothing is connected, if the kernel signals new connections; the walk is then only for
/// the case that a signal is lost.
const PARKED: Duration = Duration::from_secs(30);

/// The same if the kernel doesn't signal them.
const PARKED_BLIND: Duration = Duration::from_secs(1);

/// The guard goes on walking this long after the signal of a connection, which may not be accepted yet.
const ACCEPT_GRACE: Duration = Duration::from_secs(1);

/// If connections wait this long and none is accepted, no thread accepts any more.
const NOT_ACCEPTING_AFTER: Duration = Duration::from_millis(300);

/// A walk may take this part of the time between walks: one in so many.
const BUDGET: u32 = 20;

/// The same while memory is short.
const PRESSED_BUDGET: u32 = 4;

/// Connections for which tiny_http is woken in one look; further ones wait for the next.
const MOST_WAKES: u32 = 64;

/// Conditions that the guard can't fix by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// This many connections have leaked, `GuardConfig::leaked_limit` or more: the process is to be replaced. Raised
    /// once.
    Leaked(usize),
    /// Connections wait in a listener's queue and none was accepted for [`NOT_ACCEPTING_AFTER`]: tiny_http's accept
    /// thread has ended (`Server::from_listener`). Raised again as long as that lasts.
    NotAccepting,
}

/// Called in the guard's thread. It must not block, nor replace the process from there.
pub type OnAlarm = Box<dyn Fn(Alarm) + Send>;

/// Called in the guard's thread, after each look at the connections: about 50 ms apart while there are any. It must not
/// block.
pub type OnWalk = Box<dyn Fn(Instant) + Send>;

/// The guard's thread.
pub struct Walker {
    watched: Watched,
    wake: OwnedFd,
    /// `/proc/self/fd`, kept open so that walking needs no free descriptor.
    directory: Option<OwnedFd>,
    /// The last walk failed, and that was logged.
    directory_failing: bool,
    on_alarm: OnAlarm,
    on_walk: OnWalk,
    /// Since when connections have waited in a queue with none accepted.
    waiting_since: Option<Instant>,
    memory: Memory,
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

impl Walker {
    pub fn new(watched: Watched, wake: OwnedFd, on_alarm: OnAlarm, on_walk: OnWalk) -> Walker {
        Walker {
            watched,
            wake,
            directory: None,
            directory_failing: false,
            on_alarm,
            on_walk,
            waiting_since: None,
            memory: Memory::new(Instant::now()),
        }
    }

    pub fn run(mut self) {
        let signal = self.accept_signal();
        while !self.watched.shared.stop.load(SeqCst) {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.work(signal.as_ref())));
            if outcome.is_err() {
                // Never seen. A guard without its memory is better than none.
                log::error!("connection guard: internal error, starting over");
                self.watched.connections.clear();
                std::thread::sleep(LONGEST_INTERVAL);
            }
        }
    }

    fn accept_signal(&self) -> Option<AcceptSignal> {
        let start = || {
            let signal = AcceptSignal::new()?;
            for (listener, _) in &self.watched.listeners {
                signal.watch(listener)?;
            }
            Ok(signal)
        };
        start()
            .inspect_err(|e: &io::Error| {
                log::warn!("connection guard: the kernel signals no connections, polling instead: {e}");
            })
            .ok()
    }

    /// Walks and waits until it has to stop.
    fn work(&mut self, signal: Option<&AcceptSignal>) {
        let mut signalled = Instant::now();
        let mut next_walk = signalled;
        let mut earliest_walk = signalled;
        loop {
            let now = Instant::now();
            if now >= next_walk {
                let begun = processor_time();
                self.walk(now);
                (self.on_walk)(now);
                let end = Instant::now();
                // Elapsed time would count other threads that interrupt the walk, and make it seem expensive.
                let cost = processor_time().saturating_sub(begun);
                let budget = if self.watched.pressed { PRESSED_BUDGET } else { BUDGET };
                let affordable = cost.saturating_mul(budget).min(LONGEST_INTERVAL);
                earliest_walk = end + affordable.max(self.watched.config.fast_interval);
                next_walk = end
                    + if self.may_park(now, signalled) {
                        signal.map_or(PARKED_BLIND, |_| PARKED)
                    } else {
                        affordable.max(self.watched.config.walk_interval)
                    };
            } else if !self.watched.hot.is_empty() {
                self.watched.look_at_hot(now);
                self.wake_forgotten(now);
            }
            let now = Instant::now();
            let mut until = next_walk;
            if !self.watched.hot.is_empty() {
                until = until.min(now + self.watched.config.fast_interval);
            }
            let woken = self.wait(signal, until.saturating_duration_since(now));
            if self.watched.shared.stop.load(SeqCst) {
                return;
            }
            if woken {
                signalled = Instant::now();
                next_walk = next_walk.min(earliest_walk.max(signalled + self.watched.config.fast_interval));
            }
        }
    }

    /// Whether nothing is connected or about to be.
    fn may_park(&self, now: Instant, signalled: Instant) -> bool {
        let settled = now.saturating_duration_since(signalled) > ACCEPT_GRACE;
        let settled = settled && !self.memory.is_pending();
        self.watched.connections.is_empty()
            && settled
            && !self.directory_failing
            && !self.watched.listeners.iter().any(queue_waits)
    }

    /// Waits for this long at most; true if there was a signal of a connection, or the server woke the thread.
    fn wait(&self, signal: Option<&AcceptSignal>, time: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let wake = self.wake.as_fd();
        let signals = signal.map_or(wake, AsFd::as_fd);
        let mut fds = [PollFd::from_borrowed_fd(wake, PollFlags::IN), PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        if let Err(e) = poll(&mut fds, Some(&timeout))
            && e != rustix::io::Errno::INTR
        {
            // Impossible with descriptors of our own; if it happens, don't spin.
            std::thread::sleep(self.watched.config.walk_interval);
        }
        let woken = rustix::io::read(&self.wake, &mut [0; 8]).is_ok();
        signal.is_some_and(AcceptSignal::drain) || woken
    }

    /// Looks at every socket of this process.
    fn walk(&mut self, now: Instant) {
        let draining = self.watched.shared.draining.load(Relaxed);
        if draining {
            self.watched.config.body_timeout = self.watched.config.body_timeout.min(DRAIN_TIMEOUT);
            self.watched.config.send_timeout = self.watched.config.send_timeout.min(DRAIN_TIMEOUT);
        }
        // Read before the connections: this walk sees all that are open now.
        let request = CutRequest(self.watched.shared.cut_requests[0].load(SeqCst));
        self.watched.walk = self.watched.walk.wrapping_add(1).max(1);
        self.watched.hot.clear();
        match self.look_at_all(now) {
            Ok(()) => self.directory_failing = false,
            Err(e) => {
                self.directory = None;
                if !self.directory_failing {
                    log::error!("connection guard: /proc/self/fd: {e}; will try again");
                }
                self.directory_failing = true;
                self.watched.probe.release();
                // A connection that was not seen may be open all the same.
                return;
            }
        }
        self.watched.probe.release();
        let walk = self.watched.walk;
        let table = &self.watched.shared.table;
        self.watched.connections.retain(|_, c| {
            let open = c.walk == walk;
            if !open && c.flow.abandoned {
                // It is closed. That it was given up must not count for the next one from its port.
                table.settle(c.key);
            }
            open
        });
        self.watched.cut_urgent(now);
        if pressure::is_on() {
            self.watched.cut_closed(now);
        }
        self.watched.cut_all_unix(request, now);
        self.watched.cut_excess(now);
        self.watched.cut_largest(now);
        self.watched.hot.extend(self.watched.connections.iter().filter(|(_, c)| c.is_hot()).map(|(id, _)| *id));
        table.free_unseen(walk);
        self.wake_forgotten(now);
        self.listen(now);
        self.count(now);
        if draining && self.watched.connections.values().all(|c| c.cut.is_some()) {
            self.watched.shared.drained.store(true, Relaxed);
        }
        self.memory.give_back(self.watched.connections.len(), now);
    }

    fn look_at_all(&mut self, now: Instant) -> io::Result<()> {
        let directory = match self.directory.take() {
            Some(directory) => {
                rustix::fs::seek(&directory, SeekFrom::Start(0))?;
                directory
            }
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open("/proc/self/fd", flags, Mode::empty())?
            }
        };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            // "." and ".." are not numbers.
            let number = entry.file_name().to_str().ok().and_then(|n| n.parse().ok());
            if let Some(number) = number {
                self.watched.look_at(number, now);
            }
        }
        self.directory = Some(directory);
        Ok(())
    }

    /// Has tiny_http's pool take up the connections that it has forgotten: see guard/mod.rs.
    fn wake_forgotten(&mut self, now: Instant) {
        let mut left = MOST_WAKES;
        for connection in self.watched.connections.values_mut() {
            if left == 0 {
                return;
            }
            if !connection.wake_is_due(now) {
                continue;
            }
            left -= 1;
            // With wildcard addresses it is uncertain which listener the connection came from, and waking one too many
            // costs nothing.
            for (_, name) in &self.watched.listeners {
                if matches!(name, Name::Tcp(_)) == matches!(connection.peer, Peer::Tcp(_))
                    && let Err(e) = names::wake(name)
                {
                    log::debug!("connection guard: wake: {e}");
                }
            }
            self.watched.shared.woken.fetch_add(1, Relaxed);
        }
    }

    /// Raises the alarm when connections wait and no thread accepts them.
    fn listen(&mut self, now: Instant) {
        if std::mem::take(&mut self.watched.accepted) {
            self.waiting_since = None;
        }
        if !self.watched.listeners.iter().any(queue_waits) {
            self.waiting_since = None;
        } else if now.saturating_duration_since(*self.waiting_since.get_or_insert(now)) > NOT_ACCEPTING_AFTER {
            self.waiting_since = Some(now);
            (self.on_alarm)(Alarm::NotAccepting);
        }
    }

    /// Publishes the counts, and raises the alarm once when too many have leaked.
    fn count(&mut self, now: Instant) {
        let leaked = self.watched.count_leaked(now);
        self.watched.shared.open.store(self.watched.connections.len(), Relaxed);
        self.watched.shared.leaked.store(leaked, Relaxed);
        if leaked >= self.watched.config.leaked_limit && !self.watched.shared.alarmed.swap(true, SeqCst) {
            log::warn!("connection guard: tiny_http holds {leaked} connections that were cut");
            (self.on_alarm)(Alarm::Leaked(leaked));
        }
    }
}

/// Whether connections wait in a listener's queue.
fn queue_waits((listener, _): &(OwnedFd, Name)) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::IN)
}
