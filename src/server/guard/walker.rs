//! The guard's thread: it walks this process's sockets, judges each, and cuts.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

use super::super::net::descriptors::{Peephole, SocketId, socket_on};
use super::super::net::names::{self, Name};
use super::super::net::process::{self, AcceptSignal};
use super::super::net::{facts, options, pressure};
use super::connection::{Connection, Forgotten, Peer, serves};
use super::verdict::verdict;
use super::*;
use crate::bounds::SEND_PATIENCE_MS;

pub(super) struct Walker {
    pub(super) shared: &'static Shared,
    pub(super) config: GuardConfig,
    pub(super) listeners: Vec<(OwnedFd, Name)>,
    pub(super) hole: Peephole,
    pub(super) wake: OwnedFd,
    /// `/proc/self/fd`, kept open so that walking needs no free descriptor.
    pub(super) directory: Option<OwnedFd>,
    /// The last walk failed: already said.
    pub(super) directory_failing: bool,
    pub(super) connections: HashMap<SocketId, Connection>,
    pub(super) hot: Vec<SocketId>,
    pub(super) walk: u32,
    pub(super) on_alarm: OnAlarm,
    pub(super) on_walk: OnWalk,
    /// Unfinished heads and bodies take much memory: it is worth some time to look more often.
    pub(super) pressed: bool,
    /// Since when connections have waited in a queue with none accepted.
    pub(super) waiting_since: Option<Instant>,
    /// When to look at memory again, and what it was when it was last given back.
    pub(super) next_trim: Instant,
    pub(super) resident_after_trim: u64,
    /// Connections open then.
    pub(super) open_at_trim: usize,
    /// When to give back once more, and how long the pause before that was: what was in use then may be free by then.
    pub(super) trim_again: Option<(Instant, Duration)>,
}

impl Walker {
    pub(super) fn run(mut self) {
        let signal = self.accept_signal();
        while !self.shared.stop.load(SeqCst) {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.work(signal.as_ref())));
            if outcome.is_err() {
                // Never seen; a guard that forgets what it knew is better than none.
                log::error!("connection guard: internal error, starting over");
                self.connections.clear();
                std::thread::sleep(LONGEST_INTERVAL);
            }
        }
    }

    pub(super) fn accept_signal(&self) -> Option<AcceptSignal> {
        let start = || {
            let signal = AcceptSignal::new()?;
            for (listener, _) in &self.listeners {
                signal.watch(listener)?;
            }
            Ok(signal)
        };
        start()
            .inspect_err(|e: &io::Error| {
                log::warn!("connection guard: no news of connections, polling instead: {e}");
            })
            .ok()
    }

    /// Walks and waits until it is told to stop.
    pub(super) fn work(&mut self, signal: Option<&AcceptSignal>) {
        let mut news = Instant::now();
        let mut next_walk = news;
        let mut earliest_walk = news;
        loop {
            let now = Instant::now();
            if now >= next_walk {
                self.walk(now);
                (self.on_walk)(now);
                let end = Instant::now();
                let cost = end.saturating_duration_since(now);
                let budget = if self.pressed { PRESSED_BUDGET } else { BUDGET };
                let affordable = cost.saturating_mul(budget).min(LONGEST_INTERVAL);
                earliest_walk = end + affordable.max(self.config.fast_interval);
                next_walk = end
                    + if self.may_park(now, news) {
                        signal.map_or(PARKED_BLIND, |_| PARKED)
                    } else {
                        affordable.max(self.config.walk_interval)
                    };
            } else if !self.hot.is_empty() {
                self.look_at_hot(now);
            }
            let now = Instant::now();
            let mut until = next_walk;
            if !self.hot.is_empty() {
                until = until.min(now + self.config.fast_interval);
            }
            let told = self.wait(signal, until.saturating_duration_since(now));
            if self.shared.stop.load(SeqCst) {
                return;
            }
            if told {
                news = Instant::now();
                next_walk = next_walk.min(earliest_walk.max(news + self.config.fast_interval));
            }
        }
    }

    /// Nothing is connected or about to be.
    pub(super) fn may_park(&self, now: Instant, news: Instant) -> bool {
        let settled = now.saturating_duration_since(news) > ACCEPT_GRACE;
        let settled = settled && self.trim_again.is_none();
        self.connections.is_empty() && settled && !self.directory_failing && !self.listeners.iter().any(queue_waits)
    }

    /// Waits for news of a connection or a time; true if there was news.
    pub(super) fn wait(&self, signal: Option<&AcceptSignal>, time: Duration) -> bool {
        let timeout = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let wake = self.wake.as_fd();
        let news = signal.map_or(wake, AsFd::as_fd);
        let mut fds = [PollFd::from_borrowed_fd(wake, PollFlags::IN), PollFd::from_borrowed_fd(news, PollFlags::IN)];
        if let Err(e) = poll(&mut fds, Some(&timeout))
            && e != rustix::io::Errno::INTR
        {
            // Can't be, with descriptors of our own; don't spin if it is.
            std::thread::sleep(self.config.walk_interval);
        }
        // Told by a signal, or woken for a wish or the end.
        let woken = rustix::io::read(&self.wake, &mut [0; 8]).is_ok();
        signal.is_some_and(AcceptSignal::drain) || woken
    }

    // ------------------------------------------------------------ walking

    /// Looks at every socket of this process.
    pub(super) fn walk(&mut self, now: Instant) {
        if self.shared.hurry.load(Relaxed) {
            self.config.body_timeout = self.config.body_timeout.min(HURRIED);
            self.config.send_timeout = self.config.send_timeout.min(HURRIED);
        }
        // Read before the connections are: those that are open now are seen.
        let wish = self.shared.unix_cuts[0].load(SeqCst);
        self.walk = self.walk.wrapping_add(1).max(1);
        self.hot.clear();
        match self.look_at_all(now) {
            Ok(()) => self.directory_failing = false,
            Err(e) => {
                self.directory = None;
                if !self.directory_failing {
                    log::error!("connection guard: /proc/self/fd: {e}; will try again");
                }
                self.directory_failing = true;
                self.hole.release();
                // What was not seen may be open all the same.
                return;
            }
        }
        self.hole.release();
        let walk = self.walk;
        let table = &self.shared.table;
        self.connections.retain(|_, c| {
            let open = c.walk == walk;
            if !open && c.flow.abandoned {
                // It is closed; what it left must not strike the next one from its port.
                table.settle(c.key);
            }
            open
        });
        self.cut_urgent(now);
        if pressure::is_on() {
            self.cut_closed(now);
        }
        self.cut_unix(wish, now);
        self.cut_excess(now);
        self.cut_greedy(now);
        self.hot.extend(self.connections.iter().filter(|(_, c)| c.is_hot()).map(|(id, _)| *id));
        table.free_unseen(walk);
        self.knock(now);
        self.listen(now);
        self.count(now);
        self.give_memory_back(now);
    }

    pub(super) fn look_at_all(&mut self, now: Instant) -> io::Result<()> {
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
            // "." and ".." are no numbers.
            let number = entry.file_name().to_str().ok().and_then(|n| n.parse().ok());
            if let Some(number) = number {
                self.look_at(number, now);
            }
        }
        self.directory = Some(directory);
        Ok(())
    }

    /// Looks at what stands on one number, if it is a connection and was not seen in this walk.
    pub(super) fn look_at(&mut self, number: RawFd, now: Instant) {
        let Some(id) = socket_on(number) else {
            return;
        };
        // tiny_http has two descriptors of each connection; and a cut one is only counted.
        if let Some(known) = self.connections.get_mut(&id)
            && (known.walk == self.walk || known.cut.is_some())
        {
            if known.walk != self.walk && known.key != 0 {
                // Its slot stays, for what was sent before the cut may still come and must be known as doomed.
                let _ = self.shared.table.flow(known.key, self.walk);
            }
            known.walk = self.walk;
            return;
        }
        let Some((id, fd)) = self.hole.look(number) else {
            return;
        };
        if !self.connections.contains_key(&id) {
            let Some(new) = accepted(fd, number, &self.listeners, &self.shared.table, now) else {
                return;
            };
            let same_peer = |c: &Connection| c.cut.is_some() && c.key == new.key && c.flow.abandoned;
            let abandoned = new.key != 0 && self.shared.table.flow(new.key, self.walk).abandoned;
            if abandoned && self.connections.values().any(same_peer) {
                // The old connection of that port is over, though tiny_http holds it still; this one is innocent.
                self.shared.table.settle(new.key);
            }
            self.connections.insert(id, new);
            self.waiting_since = None;
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.number = number;
            connection.walk = self.walk;
            judge(connection, fd, self.shared, &self.config, now);
        }
    }

    /// Looks again at the connections that receive much and hand nothing over.
    pub(super) fn look_at_hot(&mut self, now: Instant) {
        let mut hot = std::mem::take(&mut self.hot);
        hot.retain(|id| {
            let Some(connection) = self.connections.get_mut(id) else {
                return false;
            };
            match self.hole.look(connection.number) {
                Some((found, fd)) if found == *id && connection.cut.is_none() => {
                    judge(connection, fd, self.shared, &self.config, now);
                    connection.is_hot()
                }
                // Closed, or the number has become another's: the next walk will know.
                _ => false,
            }
        });
        self.cut_greedy(now);
        self.hole.release();
        self.hot = hot;
        self.knock(now);
    }

    /// Cuts one connection, if it still is the one on its number. False if it is not.
    fn cut_one(&mut self, id: SocketId, reason: CutReason, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Some((found, fd)) = self.hole.look(connection.number) else { return false };
        if found == id {
            cut(connection, fd, reason, self.shared, now);
        }
        found == id
    }

    /// Cuts those that are not to have any grace.
    fn cut_urgent(&mut self, now: Instant) {
        let urgent = std::mem::take(&mut *self.shared.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        if urgent.is_empty() {
            return;
        }
        let meant = |c: &Connection| c.cut.is_none() && c.key != 0 && urgent.contains(&c.key);
        let ids: Vec<SocketId> = self.connections.iter().filter(|(_, c)| meant(c)).map(|(id, _)| *id).collect();
        for id in ids {
            self.cut_one(id, CutReason::Bytes, now);
        }
        self.hole.release();
    }

    /// Cuts those whose peers have closed them: what they have sent ahead is in the way of others.
    fn cut_closed(&mut self, now: Instant) {
        let closed = |c: &Connection| c.cut.is_none() && c.last.closed;
        let ids: Vec<SocketId> = self.connections.iter().filter(|(_, c)| closed(c)).map(|(id, _)| *id).collect();
        for id in ids {
            self.cut_one(id, CutReason::Excess, now);
        }
        self.hole.release();
    }

    /// Cuts all Unix connections where that was asked for.
    fn cut_unix(&mut self, wish: u64, now: Instant) {
        let [_, fulfilled] = &self.shared.unix_cuts;
        if fulfilled.load(SeqCst) >= wish {
            return;
        }
        let unix = |c: &Connection| c.cut.is_none() && matches!(c.peer, Peer::Unix(_));
        let ids: Vec<SocketId> = self.connections.iter().filter(|(_, c)| unix(c)).map(|(id, _)| *id).collect();
        let mut all = true;
        for id in ids {
            let gone = self.connections.get(&id).is_some_and(|c| socket_on(c.number) != Some(id));
            all &= self.cut_one(id, CutReason::Abandoned, now) || gone;
        }
        self.hole.release();
        if all {
            fulfilled.store(wish, SeqCst);
        }
    }

    /// Cuts the connections with the largest unfinished heads and bodies, where all together take too much memory.
    fn cut_greedy(&mut self, now: Instant) {
        let mut left: u64 = self.connections.values().map(Connection::unfinished).sum();
        self.pressed = left > self.config.max_unfinished_bytes / 4 || pressure::is_on();
        if left <= self.config.max_unfinished_bytes {
            return;
        }
        let mut order: Vec<(u64, SocketId)> = self.connections.iter().map(|(id, c)| (c.unfinished(), *id)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, id) in order {
            if left <= self.config.max_unfinished_bytes {
                break;
            }
            self.cut_one(id, CutReason::Bytes, now);
            left -= bytes;
        }
        self.hole.release();
    }

    /// Cuts what is over `max_connections`: the longest idle first, then the oldest.
    pub(super) fn cut_excess(&mut self, now: Instant) {
        let alive = self.connections.values().filter(|c| c.cut.is_none()).count();
        let excess = alive.saturating_sub(self.config.max_connections);
        if excess == 0 {
            return;
        }
        // Where requests can't be attributed, those of others say nothing about this one; bytes
        // that it has just sent do, and how many more its process has.
        // One that has not said anything yet is nearer to the door than any that has.
        let greed = self.greed_of_processes();
        let mut order: Vec<(Reverse<usize>, bool, bool, bool, Instant, SocketId)> = self
            .connections
            .iter()
            .filter(|(_, c)| c.cut.is_none())
            .map(|(id, c)| {
                if c.facts.attributed {
                    let busy = c.facts.in_progress > 0;
                    let since = if busy { c.first_seen } else { c.facts.last_progress };
                    (Reverse(0), !c.last.closed, busy, c.flow.handed > 0 || c.last.received > 0, since, *id)
                } else {
                    let greed = greed.get(id).copied().unwrap_or(0);
                    (Reverse(greed), true, c.last.unread > 0, true, c.first_seen, *id)
                }
            })
            .collect();
        order.sort_unstable();
        let mut left = excess;
        for (_, open, busy, _, _, id) in order {
            if left == 0 {
                break;
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let found = self.hole.look(connection.number).filter(|(found, _)| *found == id);
            let Some((_, fd)) = found else {
                // It was closed since the walk looked at it.
                left -= 1;
                continue;
            };
            // It may have begun a request since the walk looked at it.
            judge(connection, fd, self.shared, &self.config, now);
            if connection.cut.is_none() {
                if open && !busy && connection.facts.attributed && connection.facts.in_progress > 0 {
                    continue;
                }
                cut(connection, fd, CutReason::Excess, self.shared, now);
            }
            left -= 1;
        }
        self.hole.release();
    }

    /// For each Unix connection how many its process has that are not older. Who is cut in this order, from above, leaves
    /// to each process as many as to any other.
    fn greed_of_processes(&self) -> HashMap<SocketId, usize> {
        let mut processes: HashMap<u32, Vec<(Instant, SocketId)>> = HashMap::new();
        for (id, connection) in &self.connections {
            if let (Peer::Unix(pid), None) = (connection.peer, connection.cut) {
                processes.entry(pid).or_default().push((connection.first_seen, *id));
            }
        }
        let ranked = processes.into_values().flat_map(|mut connections| {
            connections.sort_unstable_by(|a, b| b.cmp(a));
            connections.into_iter().enumerate().map(|(rank, (_, id))| (id, rank + 1)).collect::<Vec<_>>()
        });
        ranked.collect()
    }

    /// Has tiny_http's pool take up what it has forgotten: see the module's text.
    pub(super) fn knock(&mut self, now: Instant) {
        let mut left = KNOCKS;
        for connection in self.connections.values_mut() {
            if left == 0 {
                return;
            }
            if !connection.knock_is_due(now) {
                continue;
            }
            left -= 1;
            // Of several listeners only one has this connection, but which isn't known for sure
            // with wildcard addresses, and a knock too many costs nothing.
            for (_, name) in &self.listeners {
                if matches!(name, Name::Tcp(_)) == matches!(connection.peer, Peer::Tcp(_))
                    && let Err(e) = names::knock(name)
                {
                    log::debug!("connection guard: knock: {e}");
                }
            }
            self.shared.knocks.fetch_add(1, Relaxed);
        }
    }

    /// Has the allocator return what a flood of requests has left behind. Each connection's thread has a heap of its own,
    /// which keeps its pages otherwise.
    fn give_memory_back(&mut self, now: Instant) {
        if now < self.next_trim {
            return;
        }
        self.next_trim = now + TRIM_INTERVAL;
        let resident = resident_bytes();
        let grown = resident > self.resident_after_trim + TRIM_GROWTH;
        let fewer = self.open_at_trim >= TRIM_CONNECTIONS && self.connections.len() * 2 <= self.open_at_trim;
        let again = self.trim_again.filter(|(at, _)| now >= *at);
        if grown || fewer || again.is_some() {
            process::trim_memory();
            self.resident_after_trim = resident_bytes();
            self.open_at_trim = self.connections.len();
            let pause = again.filter(|_| !grown).map_or(TRIM_PAUSE.0, |(_, pause)| pause * 2);
            self.trim_again = (pause <= TRIM_PAUSE.1).then(|| (now + pause, pause));
            log::debug!("memory: {resident} bytes, {} after trimming", self.resident_after_trim);
        }
        self.resident_after_trim = self.resident_after_trim.min(resident);
    }

    /// Raises the alarm when connections wait and nobody accepts them.
    fn listen(&mut self, now: Instant) {
        if !self.listeners.iter().any(queue_waits) {
            self.waiting_since = None;
        } else if now.saturating_duration_since(*self.waiting_since.get_or_insert(now)) > DEAF_AFTER {
            self.waiting_since = Some(now);
            (self.on_alarm)(Alarm::Deaf);
        }
    }

    /// Publishes the counts, and raises the alarm at the first time of too many leaks.
    pub(super) fn count(&self, now: Instant) {
        let after = self.config.leaked_after;
        let leaked = self
            .connections
            .values()
            .filter(|c| c.cut.is_some_and(|cut| now.saturating_duration_since(cut) > after))
            .count();
        self.shared.open.store(self.connections.len(), Relaxed);
        self.shared.leaked.store(leaked, Relaxed);
        if leaked >= self.config.leaked_limit && !self.shared.restart.swap(true, SeqCst) {
            log::warn!("connection guard: tiny_http holds {leaked} connections that were cut");
            (self.on_alarm)(Alarm::Leaked(leaked));
        }
    }
}

/// A connection that was accepted from one of our listeners; `None` for every other socket.
pub(super) fn accepted(
    fd: BorrowedFd<'_>,
    number: RawFd,
    listeners: &[(OwnedFd, Name)],
    table: &Table,
    now: Instant,
) -> Option<Connection> {
    let local = names::local_name(fd)?;
    if !listeners.iter().any(|(_, name)| serves(name, &local)) || names::is_listener(fd) {
        return None;
    }
    let (key, peer) = match local {
        Name::Tcp(_) => {
            let address = names::peer_address(fd);
            (address.map_or(0, |a| table.key(a)), Peer::Tcp(address))
        }
        Name::Unix(_) => {
            // Unlike TCP's, a Unix socket does not inherit it from the listener.
            let patience = Duration::from_millis(SEND_PATIENCE_MS);
            if let Err(error) = options::set_send_patience(fd, patience) {
                log::debug!("connection guard: {error}");
            }
            let known = facts::unix_facts(fd).unwrap_or_default();
            (0, Peer::Unix(known.peer_pid))
        }
    };
    Some(Connection::new(key, peer, number, now))
}

/// Takes a fresh look at a connection and cuts it if the rule says so. What was decided is done to
/// the very socket that was looked at.
pub(super) fn judge(
    connection: &mut Connection,
    fd: BorrowedFd<'_>,
    shared: &Shared,
    config: &GuardConfig,
    now: Instant,
) {
    // The flow before the sample: see the module's text.
    let flow = connection.flow(&shared.table, connection.walk);
    let Ok(sample) = connection.sample(fd, config) else {
        return;
    };
    connection.observe(flow, sample, now, config.max_head_bytes);
    if let Some(reason) = verdict(&connection.facts, now, config) {
        cut(connection, fd, reason, shared, now);
    }
}

pub(super) fn cut(connection: &mut Connection, fd: BorrowedFd<'_>, reason: CutReason, shared: &Shared, now: Instant) {
    let sending = reason == CutReason::Abandoned && facts::unread(fd).is_ok_and(|unread| unread > 0);
    if sending || matches!(reason, CutReason::Send | CutReason::Bytes) {
        // What the client doesn't read would stay in kernel memory for minutes; and one that sends
        // into a shut window would not learn for as long that nobody reads on.
        let _ = facts::reset_on_close(fd);
    }
    if matches!(connection.peer, Peer::Tcp(_)) && reason != CutReason::Abandoned {
        // tiny_http would go on reading what has arrived.
        facts::discard_received(fd);
    }
    if let Err(e) = facts::shutdown(fd) {
        log::debug!("connection guard: {}: {e}", connection.peer);
        return;
    }
    connection.cut = Some(now);
    if connection.untouched && connection.forgotten.is_none() {
        // Silent, so nobody could tell, but perhaps forgotten: then it is still there later.
        connection.forgotten = Some(Forgotten { next_knock: now + DEAD_GRACE, pause: DEAD_GRACE });
    }
    shared.cuts[reason as usize].fetch_add(1, Relaxed);
    log::debug!("connection guard: cut {} ({reason})", connection.peer);
}

/// Memory that this process has in use, in bytes; 0 if it can't be told.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Whether connections wait in a listener's queue.
pub(super) fn queue_waits((listener, _): &(OwnedFd, Name)) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::IN)
}
