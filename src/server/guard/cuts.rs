//! The connections as the guard last saw them, and the cuts: by the rule for each, and by the bounds of all together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use super::super::net::descriptors::{Peephole, SocketId, socket_on};
use super::super::net::names::{self, Name};
use super::super::net::{facts, options, pressure};
use super::config::GuardConfig;
use super::connection::{Connection, Forgotten, Peer, serves};
use super::handle::Shared;
use super::table::Table;
use super::verdict::{CutReason, DEAD_GRACE, verdict};
use crate::bounds::SEND_PATIENCE_MS;

/// The connections of this process.
pub struct Watched {
    pub shared: &'static Shared,
    pub config: GuardConfig,
    pub listeners: Vec<(OwnedFd, Name)>,
    pub hole: Peephole,
    pub connections: HashMap<SocketId, Connection>,
    /// Worth a closer look before the next walk.
    pub hot: Vec<SocketId>,
    /// The number of this walk.
    pub walk: u32,
    /// Unfinished heads and bodies take much memory: it is worth some time to look more often.
    pub pressed: bool,
    /// A connection was accepted since this was last asked.
    pub accepted: bool,
}

impl Watched {
    pub fn new(
        shared: &'static Shared,
        config: GuardConfig,
        listeners: Vec<(OwnedFd, Name)>,
        hole: Peephole,
    ) -> Watched {
        let (connections, hot) = (HashMap::new(), Vec::new());
        Watched { shared, config, listeners, hole, connections, hot, walk: 0, pressed: false, accepted: false }
    }

    /// Looks at what stands on one number, if it is a connection and was not seen in this walk.
    pub fn look_at(&mut self, number: RawFd, now: Instant) {
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
            self.accepted = true;
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.number = number;
            connection.walk = self.walk;
            judge(connection, fd, self.shared, &self.config, now);
        }
    }

    /// Looks again at the connections that receive much and hand nothing over.
    pub fn look_at_hot(&mut self, now: Instant) {
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
    }

    /// Cuts one connection, if it still is the one on its number. False if it is not.
    pub fn cut_one(&mut self, id: SocketId, reason: CutReason, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Some((found, fd)) = self.hole.look(connection.number) else { return false };
        if found == id {
            cut(connection, fd, reason, self.shared, now);
        }
        found == id
    }

    /// Cuts those that are not to have any grace.
    pub fn cut_urgent(&mut self, now: Instant) {
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
    pub fn cut_closed(&mut self, now: Instant) {
        let closed = |c: &Connection| c.cut.is_none() && c.last.closed;
        let ids: Vec<SocketId> = self.connections.iter().filter(|(_, c)| closed(c)).map(|(id, _)| *id).collect();
        for id in ids {
            self.cut_one(id, CutReason::Excess, now);
        }
        self.hole.release();
    }

    /// Cuts all Unix connections where that was asked for.
    pub fn cut_unix(&mut self, wish: u64, now: Instant) {
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
    pub fn cut_greedy(&mut self, now: Instant) {
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
    pub fn cut_excess(&mut self, now: Instant) {
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
}

/// A connection that was accepted from one of our listeners; `None` for every other socket.
pub fn accepted(
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
pub fn judge(connection: &mut Connection, fd: BorrowedFd<'_>, shared: &Shared, config: &GuardConfig, now: Instant) {
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

pub fn cut(connection: &mut Connection, fd: BorrowedFd<'_>, reason: CutReason, shared: &Shared, now: Instant) {
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
