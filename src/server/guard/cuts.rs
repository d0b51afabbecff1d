//! The connections as the guard last saw them, and the cuts: by the rule for each ([`verdict`]), and by the bounds of
//! all together.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use rustix::net::SendFlags;

use super::super::net::descriptors::{Probe, SocketId, socket_on};
use super::super::net::names::{self, Name};
use super::super::net::{facts, options, pressure};
use super::config::GuardConfig;
use super::connection::{Connection, Forgotten, Peer, serves};
use super::handle::{CutRequest, Shared};
use super::table::Table;
use super::verdict::{CutReason, DEAD_GRACE, verdict};
use crate::bounds::{FEW_SHARE, SEND_PATIENCE_MS, SEND_TIMEOUT_MS};

/// Kernel memory of replies, in bytes, at which a Unix connection takes no more: a client that has filled it before the
/// guard saw it reads nothing.
const UNIX_FULL: u64 = 128 << 10;

/// What a client gets whose request does not end. The length is that of the body.
const UNFINISHED: &str = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: 233\r\n\
    Connection: close\r\n\r\n{\"error\":\"the request did not end in time: this server speaks HTTP/1.1 without TLS; each \
    line of a head must end with CR LF, the head with an empty line, and a body must have the length that was \
    announced\",\"code\":\"invalid_argument\"}\n";

const SEND_TIMEOUT: Duration = Duration::from_millis(SEND_TIMEOUT_MS);

/// The connections of this process.
pub struct Watched {
    pub shared: &'static Shared,
    pub config: GuardConfig,
    pub listeners: Vec<(OwnedFd, Name)>,
    pub probe: Probe,
    /// Every open one, also those that were cut.
    pub connections: HashMap<SocketId, Connection>,
    /// Worth a closer look before the next walk.
    pub hot: Vec<SocketId>,
    /// The number of this walk.
    pub walk: u32,
    /// Unfinished heads and bodies take much memory, so that more frequent looks are worth their time.
    pub pressed: bool,
    /// A connection was accepted since the walker last cleared this.
    pub accepted: bool,
}

impl Watched {
    pub fn new(shared: &'static Shared, config: GuardConfig, listeners: Vec<(OwnedFd, Name)>, probe: Probe) -> Watched {
        let (connections, hot) = (HashMap::new(), Vec::new());
        Watched { shared, config, listeners, probe, connections, hot, walk: 0, pressed: false, accepted: false }
    }

    /// Looks at the descriptor with this number, if it is a connection that this walk has not seen yet.
    pub fn look_at(&mut self, number: RawFd, now: Instant) {
        let Some(id) = socket_on(number) else {
            return;
        };
        // tiny_http has two descriptors of each connection (`RefinedTcpStream::new`), and a cut connection is only
        // counted.
        if let Some(known) = self.connections.get_mut(&id)
            && (known.walk == self.walk || known.cut.is_some())
        {
            if known.walk != self.walk && known.key != 0 {
                // Its slot stays: requests from before the cut may still be handed over, and must count as given up.
                let _ = self.shared.table.flow(known.key, self.walk);
            }
            known.walk = self.walk;
            return;
        }
        let Some((id, fd)) = self.probe.look(number) else {
            return;
        };
        if !self.connections.contains_key(&id) {
            let Some(new) = accepted(fd, number, &self.listeners, &self.shared.table, now) else {
                return;
            };
            let same_peer = |c: &Connection| c.cut.is_some() && c.key == new.key && c.flow.abandoned;
            let abandoned = new.key != 0 && self.shared.table.flow(new.key, self.walk).abandoned;
            if abandoned && self.connections.values().any(same_peer) {
                // The former connection from that port is over, though tiny_http still holds it. This one has done
                // nothing.
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

    /// Looks again at the connections that receive much while no request of theirs is handed over.
    pub fn look_at_hot(&mut self, now: Instant) {
        let mut hot = std::mem::take(&mut self.hot);
        hot.retain(|id| {
            let Some(connection) = self.connections.get_mut(id) else {
                return false;
            };
            match self.probe.find(*id, connection.number) {
                Some(fd) if connection.cut.is_none() => {
                    judge(connection, fd, self.shared, &self.config, now);
                    connection.is_hot()
                }
                // It was closed, and another descriptor may have the number: the next walk finds out.
                _ => false,
            }
        });
        self.cut_largest(now);
        self.probe.release();
        self.hot = hot;
    }

    /// Cuts a connection, unless its number belongs to another descriptor by now; then false.
    fn cut_one(&mut self, id: SocketId, reason: CutReason, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Some(fd) = self.probe.find(id, connection.number) else { return false };
        cut(connection, fd, reason, self.shared, now);
        true
    }

    /// Cuts all connections of which this is true.
    fn cut_where(&mut self, reason: CutReason, now: Instant, meant: impl Fn(&Connection) -> bool) {
        let meant = |c: &Connection| c.cut.is_none() && meant(c);
        let ids: Vec<SocketId> = self.connections.iter().filter(|(_, c)| meant(c)).map(|(id, _)| *id).collect();
        for id in ids {
            self.cut_one(id, reason, now);
        }
        self.probe.release();
    }

    /// Cuts the connections for which the server asked for an immediate cut.
    pub fn cut_urgent(&mut self, now: Instant) {
        let urgent = std::mem::take(&mut *self.shared.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        if !urgent.is_empty() {
            self.cut_where(CutReason::Bytes, now, |c| c.key != 0 && urgent.contains(&c.key));
        }
    }

    /// Cuts the connections that their peers have closed: requests that they sent ahead delay those of others.
    pub fn cut_closed(&mut self, now: Instant) {
        self.cut_where(CutReason::Excess, now, |c| c.last.closed);
    }

    /// Cuts all Unix connections, if a request for that is not done yet.
    pub fn cut_all_unix(&mut self, request: CutRequest, now: Instant) {
        let [_, done] = &self.shared.cut_requests;
        if done.load(SeqCst) >= request.0 {
            return;
        }
        let unix = |c: &Connection| c.cut.is_none() && matches!(c.peer, Peer::Unix(_));
        let ids: Vec<SocketId> = self.connections.iter().filter(|(_, c)| unix(c)).map(|(id, _)| *id).collect();
        let mut all = true;
        for id in ids {
            let gone = self.connections.get(&id).is_some_and(|c| socket_on(c.number) != Some(id));
            all &= self.cut_one(id, CutReason::Abandoned, now) || gone;
        }
        self.probe.release();
        if all {
            done.store(request.0, SeqCst);
        }
    }

    /// Cuts the connections with the largest unfinished heads and bodies, if all together take too much memory.
    pub fn cut_largest(&mut self, now: Instant) {
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
        self.probe.release();
    }

    /// Cuts the connections beyond `max_connections`: those that never asked anything, then the longest idle, then the
    /// oldest; those of hosts that have few are cut last. Of Unix connections those of the process that has most.
    pub fn cut_excess(&mut self, now: Instant) {
        if self.connections.values().filter(|c| c.cut.is_none()).count() <= self.config.max_connections {
            return;
        }
        // In a flood of short connections many have ended, or were closed by their peers, after the walk looked at
        // them; others must not be cut for them.
        for (id, connection) in self.connections.iter_mut().filter(|(_, c)| c.cut.is_none()) {
            if let Some(fd) = self.probe.find(*id, connection.number) {
                judge(connection, fd, self.shared, &self.config, now);
            }
        }
        self.probe.release();
        let alive = self.connections.iter().filter(|(id, c)| c.cut.is_none() && socket_on(c.number) == Some(**id));
        let alive: Vec<(&SocketId, &Connection)> = alive.collect();
        let excess = alive.len().saturating_sub(self.config.max_connections);
        if excess == 0 {
            return;
        }
        // If requests can't be attributed, the counts of requests say nothing about one connection. Its unread bytes
        // do, and the share of its process.
        let share = self.process_shares();
        let hosts = self.host_shares();
        let most = self.config.max_connections / FEW_SHARE;
        let few = |c: &Connection| host_of(c).and_then(|host| hosts.get(&host)).is_some_and(|count| *count <= most);
        let mut order: Vec<_> = alive
            .into_iter()
            .map(|(id, c)| {
                if c.facts.attributed {
                    let busy = c.facts.in_progress > 0;
                    let since = if busy { c.first_seen } else { c.facts.last_progress };
                    let asked = c.flow.handed > 0 || c.last.received > 0;
                    (few(c), Reverse(0), !c.last.closed, busy, asked, since, *id)
                } else {
                    let share = share.get(id).copied().unwrap_or(0);
                    (few(c), Reverse(share), true, c.last.unread > 0, true, c.first_seen, *id)
                }
            })
            .collect();
        order.sort_unstable();
        let mut left = excess;
        for (_, _, open, busy, _, _, id) in order {
            if left == 0 {
                break;
            }
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let Some(fd) = self.probe.find(id, connection.number) else {
                // It was closed after the walk looked at it.
                left -= 1;
                continue;
            };
            // It may have begun a request after the walk looked at it.
            judge(connection, fd, self.shared, &self.config, now);
            if connection.cut.is_none() {
                if open && !busy && connection.facts.attributed && connection.facts.in_progress > 0 {
                    continue;
                }
                cut(connection, fd, CutReason::Excess, self.shared, now);
            }
            left -= 1;
        }
        self.probe.release();
    }

    /// Counts the connections that tiny_http does not release. Of each, the kernel drops what has arrived since the
    /// cut.
    pub fn count_leaked(&mut self, now: Instant) -> usize {
        let mut leaked = 0;
        for (id, connection) in &mut self.connections {
            let past = |cut: Instant| now.saturating_duration_since(cut) > self.config.leaked_after;
            if !connection.cut.is_some_and(past) {
                continue;
            }
            leaked += 1;
            if !std::mem::replace(&mut connection.leaked, true)
                && let Some(fd) = self.probe.find(*id, connection.number)
            {
                facts::discard_received(fd);
            }
        }
        self.probe.release();
        leaked
    }

    /// How many connections each host has that were not cut.
    fn host_shares(&self) -> HashMap<IpAddr, usize> {
        let mut hosts = HashMap::new();
        for host in self.connections.values().filter(|c| c.cut.is_none()).filter_map(host_of) {
            *hosts.entry(host).or_default() += 1;
        }
        hosts
    }

    /// For each Unix connection, the number of those of its process that are not older. Cuts in this order, the highest
    /// number first, leave the same share to each process.
    fn process_shares(&self) -> HashMap<SocketId, usize> {
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

/// Where a connection comes from. Of an IPv6 address the half that names the network: the other half is the client's to
/// choose.
fn host_of(connection: &Connection) -> Option<IpAddr> {
    match connection.peer {
        Peer::Tcp(Some(address)) => Some(match address.ip().to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            address => address,
        }),
        Peer::Tcp(None) | Peer::Unix(_) => None,
    }
}

/// The connection on a socket that was accepted from one of these listeners; `None` for every other socket.
fn accepted(
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
    let mut full = false;
    let (key, peer) = match local {
        Name::Tcp(_) => {
            let address = names::peer_address(fd);
            (address.map_or(0, |a| table.key(a)), Peer::Tcp(address))
        }
        Name::Unix(_) => {
            // Unlike a TCP socket, a Unix socket does not inherit it from the listener.
            let patience = Duration::from_millis(SEND_PATIENCE_MS);
            if let Err(error) = options::set_send_patience(fd, patience) {
                log::debug!("connection guard: {error}");
            }
            let known = facts::unix_facts(fd).unwrap_or_default();
            full = known.unsent >= UNIX_FULL;
            (0, Peer::Unix(known.peer_pid))
        }
    };
    let mut connection = Connection::new(key, peer, number, now);
    if full {
        // A write that began before waits without end, perhaps in a decider: as if it had waited too long already.
        connection.facts.send_since = now.checked_sub(2 * SEND_TIMEOUT);
    }
    Some(connection)
}

/// Takes a fresh look at a connection and cuts it if the rule says so. The cut is made through the descriptor by which
/// the connection was looked at, so it can't hit another.
fn judge(connection: &mut Connection, fd: BorrowedFd<'_>, shared: &Shared, config: &GuardConfig, now: Instant) {
    // The flow before the sample: see guard/mod.rs.
    let flow = connection.flow(&shared.table, connection.walk);
    let Ok(sample) = connection.sample(fd, config) else {
        return;
    };
    connection.observe(flow, sample, now, config.max_head_bytes);
    if let Some(reason) = verdict(&connection.facts, now, config) {
        cut(connection, fd, reason, shared, now);
    }
}

/// Ends a connection.
fn cut(connection: &mut Connection, fd: BorrowedFd<'_>, reason: CutReason, shared: &Shared, now: Instant) {
    let sending = reason == CutReason::Abandoned && facts::unread(fd).is_ok_and(|unread| unread > 0);
    if sending || matches!(reason, CutReason::Send | CutReason::Bytes) {
        // Replies that the client doesn't read would stay in kernel memory for minutes, and a client that sends into a
        // closed window would learn as late that its connection has ended.
        let _ = facts::reset_on_close(fd);
    }
    if matches!(connection.peer, Peer::Tcp(_)) && reason != CutReason::Abandoned {
        // tiny_http would go on reading what has arrived (`ClientConnection::read_next_line`).
        facts::discard_received(fd);
    }
    if reason == CutReason::Head {
        // No request was handed over, so no other thread writes. What the kernel does not take at once is left out.
        let _ = rustix::net::send(fd, UNFINISHED.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
    if let Err(e) = facts::shutdown(fd) {
        log::debug!("connection guard: {}: {e}", connection.peer);
        return;
    }
    connection.cut = Some(now);
    if connection.untouched && connection.forgotten.is_none() {
        // A silent connection may be a forgotten one: if so, it is still open later.
        connection.forgotten = Some(Forgotten { next_wake: now + DEAD_GRACE, pause: DEAD_GRACE });
    }
    shared.cuts[reason as usize].fetch_add(1, Relaxed);
    log::debug!("connection guard: cut {} ({reason})", connection.peer);
}
