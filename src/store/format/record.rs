//! Records: the inner layer of the on-disk format, version 2. They follow each other in the payload of a frame.
//!
//! A record is a tag (one byte) and its fields, each with its type. *n* is an unsigned LEB128 integer of at most ten
//! bytes; *z* is an *n* that holds a signed integer: 2 times it, or -1 minus 2 times a negative one; *instant* is an
//! *n*, in microseconds since the frame's base; *time* is an *n*: 0 for never, else microseconds since the epoch plus
//! 1; *text* is an *n* for its length in bytes and then UTF-8; *uuid* is 16 bytes; *list* is an *n* for the number of
//! its elements and then the fields of each; *maybe* is a list of at most one element; *source* is an *n*: 0 exact, 1
//! request, 2 overflow, else the id of a pattern plus 3; *period* is an *n*, in milliseconds: if it is 0, unit byte,
//! zone text and anchor byte follow; *window* is algorithm byte, rate n, capacity n, period period; *limit* is flags
//! byte (bit 0 shadow, bit 1 unlimited), slots maybe(n), windows list(window); *born* is shard byte, source source,
//! limit limit, key text; *move* is at n, source source, lifts byte, limit limit; *spend* is id n, cost n, born
//! maybe(born), moves list(move), ends list(n); *record* is a tag and its fields.
//!
//! | tag | record | fields |
//! |----:|--------|--------|
//! | 1 | created | id n, shard byte, at instant, limit limit, max-keys maybe(n), key text |
//! | 2 | reconfigured | id n, at instant, limit limit, max-keys maybe(n), ends list(n) |
//! | 3 | overlaid | id n, at instant, limit limit, until n, born maybe(born), ends list(n) |
//! | 4 | removed | id n, at instant |
//! | 5 | became | id n, at n, source source, limit limit, ends list(n) |
//! | 6 | spent | id n, cost n, at instant |
//! | 7 | spent-all | at instant, items list(id n, cost n) |
//! | 8 | spent-more | at instant, items list(spend) |
//! | 9 | denied | id n, total n, cost n, last time |
//! | 10 | reset | id n, at instant |
//! | 11 | marker | snapshot n, shard byte |
//! | 12 | clock | at instant, wall n, boot uuid, boot-clock n |
//! | 13 | entry | id n, shard byte, source source, limit limit, max-keys maybe(n), overlay maybe(limit limit, until n), states states, resting list(window window, state state), ceiling maybe(most n, edge n, units n, per n, whole n, part n, at n), configured time, allowed n, denied n, allowed-cost n, denied-cost n, last-allowed time, last-denied time, last-reset time, barrier time, key text |
//! | 14 | pattern-totals | id n, allowed n, denied n, allowed-cost n, denied-cost n |
//! | 15 | end | limits n, now n |
//! | 16 | intended | group n, last byte, at instant, items list(limit maybe(limit), max-keys maybe(n), until maybe(n), key text) |
//! | 17 | done | group n |
//! | 18 | held | hold n, at instant, until n, items list(spend spend, slots byte, key text) |
//! | 19 | settled | hold n, at instant, costs list(n), back list(id n, units n, held-at n), more list(spend) |
//! | 20 | renewed | hold n, until n |
//! | 21 | refunded | id n, at instant, units n |
//! | 22 | kept | key uuid, request uuid, at instant, answer text, event record |
//! | 23 | tables-marker | snapshot n |
//! | 24 | hold | hold n, at n, until n, ttl n, ended maybe(n), costs list(n), items list(id n, cost n, slots byte, key text) |
//! | 25 | answer | key uuid, request uuid, at n, answer text |
//!
//! 13 to 15, 24 and 25 are only in snapshots, with a record of the clock. Of 13, 14, 24 and 25 each stands by itself,
//! so their order does not matter: a hold may come before the entries of its items, whose ids may be of keys that are
//! gone. The end comes last.
//!
//! *kept* is one record, with one sequence number. The record inside it is one that spends or gives back
//! ([`may_be_kept`]); its instants count from the same base. The number of a hold is at most [`MAX_COUNTER`].
//!
//! The *states* of an entry are one state for each window of its limit, or of its
//! overlay's while it has one. The *state* of a window depends on its algorithm; instants in it are microseconds since
//! the epoch, but for those after the first of a log, which count from the one before:
//!
//! | code | algorithm | state |
//! |-----:|-----------|-------|
//! | 0 | token_bucket | whole z, part n, at n, full n, fast maybe(rate n, period n) |
//! | 1 | sliding_window_log | events list(after n, units n) |
//! | 2 | fixed_window_counter | start n, end n, used n |
//! | 3 | sliding_window_counter | start n, previous n, current n |
//!
//! A payload is valid if and only if the frame's number of records, each with a known tag, fill it exactly.

use std::sync::Arc;

use crate::clock::{Micros, Reading};
use crate::limit::{CalendarUnit, Limit, Parts};

/// Upper bound of the encoded length of a record of fixed length, and of a spent-all without its items, in bytes. What
/// holds a limit, ends or a key is measured by [`encoded_len`](super::encode::encoded_len).
pub const MAX_FIXED: usize = 64;

/// Upper bound of one item of spent-all, in bytes: an id of at most nine and a cost of at most six.
pub const MAX_ITEM: usize = 16;

/// Lower bound of the encoded length of an entry, in bytes.
pub const MIN_ENTRY: u64 = 16;

/// Largest id that is believed: an entry keeps it in 48 bits.
pub const MAX_ID: u64 = (1 << 48) - 1;

/// Largest instant and sequence number that is believed, so that sums of two of them fit: 146 000 years.
pub const MAX_COUNTER: u64 = 1 << 62;

/// Longest text that is believed, in bytes: what is in place of a key for a pattern or for values. Such a text
/// begins with a control character, which a key never has; a key has
/// [`MAX_KEY_BYTES`](crate::bounds::MAX_KEY_BYTES) at most.
pub const MAX_TEXT: usize = 1024;

/// Whether the record with this tag may be inside a record that keeps its answer.
pub fn may_be_kept(tag: u8) -> bool {
    use tag::{HELD, REFUNDED, SETTLED, SPENT, SPENT_ALL, SPENT_MORE};
    [SPENT, SPENT_ALL, SPENT_MORE, HELD, SETTLED, REFUNDED].contains(&tag)
}

/// The tags.
pub mod tag {
    pub const CREATED: u8 = 1;
    pub const RECONFIGURED: u8 = 2;
    pub const OVERLAID: u8 = 3;
    pub const REMOVED: u8 = 4;
    pub const BECAME: u8 = 5;
    pub const SPENT: u8 = 6;
    pub const SPENT_ALL: u8 = 7;
    pub const SPENT_MORE: u8 = 8;
    pub const DENIED: u8 = 9;
    pub const RESET: u8 = 10;
    pub const MARKER: u8 = 11;
    pub const CLOCK: u8 = 12;
    pub const ENTRY: u8 = 13;
    pub const PATTERN_TOTALS: u8 = 14;
    pub const END: u8 = 15;
    pub const INTENDED: u8 = 16;
    pub const DONE: u8 = 17;
    pub const HELD: u8 = 18;
    pub const SETTLED: u8 = 19;
    pub const RENEWED: u8 = 20;
    pub const REFUNDED: u8 = 21;
    pub const KEPT: u8 = 22;
    pub const TABLES_MARKER: u8 = 23;
    pub const HOLD: u8 = 24;
    pub const ANSWER: u8 = 25;
}

/// Where the limit of a key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// It was configured for exactly this key. Patterns themselves have this source too.
    Exact,
    /// From a check that brought it.
    Request,
    /// It is shared by the keys that found no room under `max_keys`.
    Overflow,
    /// From the pattern of this id.
    Pattern(u64),
}

/// A key that is there from this record on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Born<'a> {
    pub shard: u8,
    pub source: Source,
    pub limit: Arc<Limit>,
    pub key: &'a str,
}

/// A change of values that was due at an earlier instant, and is made by the spend that found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// As of when the key has the new values.
    pub at: Micros,
    /// Where they come from.
    pub source: Source,
    /// Whether the overlay is lifted. Without that the values of a key with an overlay change below it.
    pub lifts: bool,
    /// The new values.
    pub limit: Arc<Limit>,
}

/// One spend of a [`Event::SpentMore`]. In this order: the key is born, the moves are made, the cost is spent; each of
/// them takes the ends of the calendar windows that it opens from the front of `ends`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spend<'a> {
    pub id: u64,
    pub cost: u64,
    pub born: Option<Born<'a>>,
    pub moves: Vec<Move>,
    pub ends: Vec<Micros>,
}

/// What one of several limits that are configured together is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent<'a> {
    /// Its values; without them it is to be removed.
    pub limit: Option<Arc<Limit>>,
    pub max_keys: Option<u64>,
    /// Until when, if the values lie over others for a time.
    pub until: Option<Micros>,
    pub key: &'a str,
}

/// One item of a hold, with the spend that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldItem<'a> {
    pub spend: Spend<'a>,
    /// Whether the cost is a number of slots: the limit was one of slots.
    pub slots: bool,
    pub key: &'a str,
}

/// Units that a settlement gives back to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    pub id: u64,
    pub units: u64,
    /// The instant of the hold.
    pub held_at: Micros,
}

/// A hold in a snapshot: an open hold, or a remembered one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldEntry<'a> {
    pub hold: u64,
    pub at: Micros,
    pub until: Micros,
    /// How long it was made for.
    pub ttl: Micros,
    /// When it was settled; it has costs then, one for each item.
    pub ended: Option<Micros>,
    pub costs: Vec<u64>,
    /// Of each item: id, cost, whether these are slots, key.
    pub items: Vec<(u64, u64, bool, &'a str)>,
}

/// An answer that is kept for a request that is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    pub key: [u8; 16],
    pub request: [u8; 16],
    pub at: Micros,
    pub answer: &'a str,
}

/// Bit of a limit's flags: denials are only reported.
pub const SHADOW: u8 = 1;

/// Bit of a limit's flags: there are no windows.
pub const UNLIMITED: u8 = 2;

/// The units of the calendar, in the order of their codes.
pub const UNITS: [CalendarUnit; 5] =
    [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Quarter, CalendarUnit::Year];

/// One event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A key or a pattern was configured for the first time.
    Created { id: u64, shard: u8, at: Micros, limit: Arc<Limit>, max_keys: Option<u64>, key: &'a str },
    /// A limit got new values. With an overlay they change below it.
    Reconfigured { id: u64, at: Micros, limit: Arc<Limit>, max_keys: Option<u64>, ends: Vec<Micros> },
    /// Values were laid over those of a key until an instant; `born` where the key was not there.
    Overlaid { id: u64, at: Micros, limit: Arc<Limit>, until: Micros, born: Option<Born<'a>>, ends: Vec<Micros> },
    /// A limit was removed.
    Removed { id: u64, at: Micros },
    /// A key has its limit from elsewhere.
    Became { id: u64, at: Micros, source: Source, limit: Arc<Limit>, ends: Vec<Micros> },
    /// A check was allowed, of a key that was there and needed no end and no move.
    Spent { id: u64, cost: u64, at: Micros },
    /// A check of several such keys was allowed.
    SpentAll { at: Micros, items: Vec<(u64, u64)> },
    /// A check of one or several keys was allowed.
    SpentMore { at: Micros, items: Vec<Spend<'a>> },
    /// A limit's denials so far.
    Denied { id: u64, total: u64, cost: u64, last: Option<Micros> },
    /// What was spent was given back.
    Reset { id: u64, at: Micros },
    /// The snapshot of this number holds the shard as it was here.
    Marker { snapshot: u64, shard: u8 },
    /// What the clocks showed.
    Clock(Reading),
    /// Limits that are configured all or none: records that do it follow. From the `last` of the group on it is
    /// decided: what they have not done where the log ends is done then.
    Intended { group: u64, last: bool, at: Micros, items: Vec<Intent<'a>> },
    /// All that was intended is done.
    Done { group: u64 },
    /// A hold was allowed: its items are spent, or take slots until then.
    Held { hold: u64, at: Micros, until: Micros, items: Vec<HeldItem<'a>> },
    /// A hold was settled: `costs` has one for each item; what is more than was held is spent.
    Settled { hold: u64, at: Micros, costs: Vec<u64>, back: Vec<Back>, more: Vec<Spend<'a>> },
    /// A hold lasts until then.
    Renewed { hold: u64, until: Micros },
    /// Units were given back without a hold.
    Refunded { id: u64, at: Micros, units: u64 },
    /// The answer to a request with an idempotency key, and the event that it reports.
    Kept { answer: Answer<'a>, event: Box<Event<'a>> },
    /// The snapshot of this number holds the tables of holds and kept answers as they were here.
    TablesMarker { snapshot: u64 },
}

impl Event<'_> {
    /// The instant of the event, where it has one.
    pub fn at(&self) -> Option<Micros> {
        match self {
            Event::Created { at, .. }
            | Event::Reconfigured { at, .. }
            | Event::Overlaid { at, .. }
            | Event::Removed { at, .. }
            | Event::Became { at, .. }
            | Event::Spent { at, .. }
            | Event::SpentAll { at, .. }
            | Event::SpentMore { at, .. }
            | Event::Reset { at, .. }
            | Event::Intended { at, .. }
            | Event::Held { at, .. }
            | Event::Settled { at, .. }
            | Event::Refunded { at, .. }
            | Event::Clock(Reading { at, .. }) => Some(*at),
            Event::Denied { last, .. } => *last,
            Event::Kept { event, .. } => event.at(),
            Event::Marker { .. } | Event::Done { .. } | Event::Renewed { .. } | Event::TablesMarker { .. } => None,
        }
    }
}

/// Values that lie over those of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    pub limit: Arc<Limit>,
    pub until: Micros,
}

/// What a snapshot says of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    pub id: u64,
    pub shard: u8,
    pub source: Source,
    pub limit: Arc<Limit>,
    /// For a pattern: the maximum number of live keys, if it was given.
    pub max_keys: Option<u64>,
    pub overlay: Option<Overlay>,
    /// What was counted, under the overlay's limit if there is an overlay, else under `limit`.
    pub parts: Parts,
    /// When `limit` was configured; of a pattern the instant as of which its live keys move.
    pub configured: Option<Micros>,
    /// Allowed, denied, allowed cost, denied cost.
    pub totals: [u64; 4],
    /// Last allowed, last denied, last reset.
    pub times: [Option<Micros>; 3],
    /// What was held until then is not given back.
    pub barrier: Option<Micros>,
    pub key: &'a str,
}

/// What a snapshot says of the keys of a pattern: of each shard what they have counted before its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatternTotals {
    /// Id of the pattern.
    pub id: u64,
    /// Allowed, denied, allowed cost, denied cost.
    pub totals: [u64; 4],
}

/// A record: an event, or what a snapshot is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// An event of the log. That of the clock stands in snapshots too.
    Event(Event<'a>),
    /// A limit in a snapshot.
    Entry(Box<Entry<'a>>),
    /// The totals of a pattern's keys, in a snapshot.
    PatternTotals(PatternTotals),
    /// A hold in a snapshot.
    Hold(HoldEntry<'a>),
    /// An answer that is kept, in a snapshot.
    Answer(Answer<'a>),
    /// The end of a snapshot.
    End { limits: u64, now: Micros },
}
