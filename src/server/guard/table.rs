//! The table of requests: how many each peer has handed over and in progress. Lock-free; written by the
//! threads that handle requests, read and freed by the guard's thread.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

/// The counts of one peer, or of all peers that have no slot of their own. The counters of the past only grow, so a
/// reader has to notice changes only.
#[derive(Debug, Default)]
#[repr(align(32))]
pub struct Slot {
    /// The peer's key; 0 if the slot is free.
    pub key: AtomicU64,
    /// Requests handed over so far (upper half) and now in progress (lower half).
    pub flow: AtomicU64,
    /// Beginnings and ends of bodies so far (upper half); bodies now unread (lower half, of which the upper quarter
    /// counts those that are large).
    pub body: AtomicU64,
    /// How often a connection was given up so far.
    pub abandoned: AtomicU16,
    /// How many of these the guard has dealt with. Written only by the guard.
    pub settled: AtomicU16,
    /// The last walk that saw a connection of this peer; 0 for never. Written only by the guard.
    pub walk: AtomicU32,
}

impl Slot {
    /// Whether a connection was given up that may still be open.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed) != self.settled.load(Relaxed)
    }
}

pub const REQUEST: u64 = (1 << 32) + 1;
pub const BODY_EVENT: u64 = 1 << 32;
pub const BODY_UNREAD: u64 = 1;
pub const LARGE_UNREAD: u64 = 1 << 24;

/// Slots per bucket.
pub const WAYS: usize = 8;

/// Counts per peer address: buckets of [`WAYS`] slots, two buckets to choose from per peer.
///
/// Lock-free. A slot is *claimed* by setting its key from 0 (compare and swap, by the thread that takes a request), and
/// *freed* by setting it back (only by the guard, when no connection of that peer was open in two walks and nothing is
/// in progress). A thread that has counted a request looks at the key again afterwards: if the slot was freed in
/// between, it takes its count back and starts over. If it still saw its key, its count came before the freeing in the
/// total order of these SeqCst operations. Then a closed connection keeps a count on a slot that may become another
/// peer's, and that peer's connection seems busy for as long as the request takes. This is the only damage, and its
/// effect is that a connection is not cut.
///
/// Two threads may claim two slots for one peer at the same time. The reader adds up all slots of a peer, so that is
/// harmless too.
#[derive(Debug)]
pub struct Table {
    pub slots: Box<[Slot]>,
    /// Requests that found both buckets full, by first bucket.
    pub lost: Box<[AtomicU32]>,
    /// Where those are counted.
    pub overflow: Slot,
    /// Where requests without an address are counted.
    pub unix: Slot,
    pub hasher: RandomState,
    pub seed: u64,
}

/// What the table says of one peer at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub handed: u32,
    pub in_progress: u32,
    pub body_events: u32,
    pub body_unread: u32,
    /// One of these bodies may be larger than others.
    pub body_large: bool,
    pub abandoned: bool,
    pub attributed: bool,
}

impl Flow {
    pub fn add(&mut self, slot: &Slot) {
        let flow = slot.flow.load(SeqCst);
        let body = slot.body.load(SeqCst);
        self.handed = self.handed.wrapping_add((flow >> 32) as u32);
        self.in_progress = self.in_progress.wrapping_add(flow as u32);
        self.body_events = self.body_events.wrapping_add((body >> 32) as u32);
        self.body_unread += body as u32 % LARGE_UNREAD as u32;
        self.body_large |= body as u32 >= LARGE_UNREAD as u32;
        self.abandoned |= slot.is_abandoned();
    }

    pub fn of(slot: &Slot, attributed: bool) -> Flow {
        let mut flow = Flow { attributed, ..Flow::default() };
        flow.add(slot);
        flow
    }
}

impl Table {
    pub fn new(max_connections: usize) -> Table {
        let buckets = max_connections.clamp(1024, 1 << 20).next_power_of_two();
        let hasher = RandomState::new();
        Table {
            slots: (0..buckets * WAYS).map(|_| Slot::default()).collect(),
            lost: (0..buckets).map(|_| AtomicU32::new(0)).collect(),
            overflow: Slot::default(),
            unix: Slot::default(),
            seed: hasher.hash_one(0_u64),
            hasher,
        }
    }

    /// The key of a peer, never 0. Exact for IPv4; a keyed hash for IPv6, so that no client can choose an address that
    /// collides with another's.
    pub fn key(&self, peer: SocketAddr) -> u64 {
        match peer.ip().to_canonical() {
            IpAddr::V4(ip) => 1 << 48 | u64::from(ip.to_bits()) << 16 | u64::from(peer.port()),
            IpAddr::V6(ip) => {
                let scope = match peer {
                    SocketAddr::V6(v6) => v6.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                1 << 63 | self.hasher.hash_one((ip.to_bits(), peer.port(), scope))
            }
        }
    }

    /// The two buckets of a key. Seeded, so that no client can fill one by choosing its ports.
    pub fn buckets(&self, key: u64) -> [usize; 2] {
        let mask = self.lost.len() - 1;
        let mixed = (key ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let first = (mixed >> 32) as usize & mask;
        let second = mixed as usize & mask;
        [first, if second == first { first ^ 1 } else { second }]
    }

    pub fn bucket(&self, bucket: usize) -> &[Slot] {
        self.slots.chunks_exact(WAYS).nth(bucket).unwrap_or(&[])
    }

    /// The slot of `key`, found or claimed; `None` when both buckets are full.
    pub fn slot(&self, key: u64) -> Option<&Slot> {
        let buckets = self.buckets(key);
        for bucket in buckets {
            for slot in self.bucket(bucket) {
                if slot.key.load(SeqCst) == key {
                    return Some(slot);
                }
            }
        }
        for bucket in buckets {
            for slot in self.bucket(bucket) {
                let claimed = slot.key.load(Relaxed) == 0 && slot.key.compare_exchange(0, key, SeqCst, SeqCst).is_ok();
                if claimed {
                    return Some(slot);
                }
            }
        }
        None
    }

    /// Counts a request; returns its slot.
    pub fn enter(&self, key: u64) -> &Slot {
        // Each turn fails only by a race with the guard's freeing, which needs two walks apart.
        for _ in 0..4 {
            let Some(slot) = self.slot(key) else { break };
            slot.flow.fetch_add(REQUEST, SeqCst);
            if slot.key.load(SeqCst) == key {
                return slot;
            }
            slot.flow.fetch_sub(1, SeqCst);
        }
        let [first, _] = self.buckets(key);
        // In this order, so that a reader that sees no loss yet also sees the former count.
        self.overflow.flow.fetch_add(REQUEST, SeqCst);
        if let Some(lost) = self.lost.get(first) {
            lost.fetch_add(1, SeqCst);
        }
        &self.overflow
    }

    /// What is known of a peer, noting that `walk` saw a connection of it.
    pub fn flow(&self, key: u64, walk: u32) -> Flow {
        let mut flow = Flow { attributed: true, ..Flow::default() };
        let (mut found, mut full) = (false, true);
        let buckets = self.buckets(key);
        for slot in buckets.iter().flat_map(|bucket| self.bucket(*bucket)) {
            let owner = slot.key.load(SeqCst);
            full &= owner != 0;
            if owner == key {
                found = true;
                slot.walk.store(walk, Relaxed);
                flow.add(slot);
            }
        }
        if full && !found {
            return Flow::of(&self.overflow, false);
        }
        let lost = self.lost.get(buckets[0]).map_or(0, |n| n.load(SeqCst));
        if lost > 0 {
            // A request of a peer of this bucket was not counted: perhaps this peer's.
            flow.handed = flow.handed.wrapping_add(lost);
            let overflow = Flow::of(&self.overflow, false);
            flow.in_progress = flow.in_progress.wrapping_add(overflow.in_progress);
            flow.body_unread += overflow.body_unread;
        }
        flow
    }

    /// Notes that the guard has dealt with this peer's connection that was given up, so that another connection from
    /// the same port does not count as given up.
    pub fn settle(&self, key: u64) {
        for slot in self.buckets(key).iter().flat_map(|bucket| self.bucket(*bucket)) {
            if slot.key.load(SeqCst) == key {
                slot.settled.store(slot.abandoned.load(Relaxed), Relaxed);
            }
        }
    }

    /// Frees the slots of peers that no walk has seen for two walks.
    pub fn free_unseen(&self, walk: u32) {
        for slot in &self.slots {
            if slot.key.load(Relaxed) == 0 {
                continue;
            }
            let seen = slot.walk.load(Relaxed);
            if seen == 0 {
                slot.walk.store(walk, Relaxed);
            } else if walk.wrapping_sub(seen) >= 2 && slot.flow.load(SeqCst) as u32 == 0 {
                slot.walk.store(0, Relaxed);
                slot.settled.store(slot.abandoned.load(Relaxed), Relaxed);
                slot.key.store(0, SeqCst);
            }
        }
    }
}
