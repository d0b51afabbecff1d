//! Records: the inner layer of the on-disk format, version 1. They follow each other in the payload of a frame.
//!
//! A record is a tag (one byte) and its fields, each with its type. *n* is an unsigned LEB128 integer of at most ten
//! bytes; *instant* is an *n*, in milliseconds since the frame's base; *time* is an *n*: 0 for never, else milliseconds
//! since the epoch plus 1; *text* is an *n* for its length in bytes and then UTF-8; *list* is an *n* for the number of
//! its elements and then the fields of each; *limit* is algorithm byte, rate n, period n, capacity n.
//!
//! | tag | record | fields |
//! |----:|--------|--------|
//! | 1 | created | id n, shard byte, at instant, limit limit, key text |
//! | 2 | reconfigured | id n, at instant, limit limit |
//! | 3 | removed | id n, at instant |
//! | 4 | spent | id n, cost n, at instant |
//! | 5 | spent-all | at instant, items list(id n, cost n) |
//! | 6 | denied | id n, total n, cost n, last time |
//! | 7 | reset | id n, at instant |
//! | 8 | marker | snapshot n, shard byte |
//! | 9 | entry | id n, shard byte, limit limit, state state, allowed n, denied n, allowed-cost n, denied-cost n, last-allowed time, last-denied time, last-reset time, key text |
//! | 10 | end | limits n, now n |
//!
//! 9 and 10 are only in snapshots. The *state* of an entry depends on the algorithm; instants in it are milliseconds
//! since the epoch:
//!
//! | code | algorithm | state |
//! |-----:|-----------|-------|
//! | 0 | token_bucket | whole n, part n, at n |
//! | 1 | sliding_window_log | events list(at n, units n) |
//! | 2 | fixed_window_counter | start n, used n |
//! | 3 | sliding_window_counter | start n, previous n, current n |
//!
//! A payload is valid if and only if the frame's number of records, each with a known tag, fill it exactly.

use crate::bounds::{MAX_ITEMS, MAX_KEY_BYTES};
use crate::clock::Millis;
use crate::limit::{Algorithm, Limit, StateParts};

/// Upper bound of the encoded length of everything but a key and the items of spent-all, in bytes.
pub const MAX_FIXED: usize = 64;

/// Upper bound of one item of spent-all, in bytes: an id of at most nine and a cost of at most six.
pub const MAX_ITEM: usize = 16;

/// Lower bound of the encoded length of an entry, in bytes.
pub const MIN_ENTRY: u64 = 16;

/// Largest id that is believed: an entry keeps it in 48 bits.
pub const MAX_ID: u64 = (1 << 48) - 1;

/// Largest instant and sequence number that is believed, so that sums of two of them fit. A hundred million years.
pub const MAX_COUNTER: u64 = 1 << 62;

mod tag {
    pub const CREATED: u8 = 1;
    pub const RECONFIGURED: u8 = 2;
    pub const REMOVED: u8 = 3;
    pub const SPENT: u8 = 4;
    pub const SPENT_ALL: u8 = 5;
    pub const DENIED: u8 = 6;
    pub const RESET: u8 = 7;
    pub const MARKER: u8 = 8;
    pub const ENTRY: u8 = 9;
    pub const END: u8 = 10;
}

/// One event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A key was configured for the first time.
    Created { id: u64, shard: u8, at: Millis, limit: Limit, key: &'a str },
    /// A limit got new values.
    Reconfigured { id: u64, at: Millis, limit: Limit },
    /// A limit was removed.
    Removed { id: u64, at: Millis },
    /// A check was allowed.
    Spent { id: u64, cost: u64, at: Millis },
    /// A check of several keys was allowed.
    SpentAll { at: Millis, items: Vec<(u64, u64)> },
    /// A limit's denials so far.
    Denied { id: u64, total: u64, cost: u64, last: Option<Millis> },
    /// What was spent was given back.
    Reset { id: u64, at: Millis },
    /// The snapshot of this number holds the shard as it was here.
    Marker { snapshot: u64, shard: u8 },
}

impl Event<'_> {
    /// The instant of the event, where it has one.
    pub fn at(&self) -> Option<Millis> {
        match self {
            Event::Created { at, .. }
            | Event::Reconfigured { at, .. }
            | Event::Removed { at, .. }
            | Event::Spent { at, .. }
            | Event::SpentAll { at, .. }
            | Event::Reset { at, .. } => Some(*at),
            Event::Denied { last, .. } => *last,
            Event::Marker { .. } => None,
        }
    }
}

/// What a snapshot says of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    pub id: u64,
    pub shard: u8,
    pub limit: Limit,
    pub state: StateParts,
    /// Allowed, denied, allowed cost, denied cost.
    pub totals: [u64; 4],
    /// Last allowed, last denied, last reset.
    pub times: [Option<Millis>; 3],
    pub key: &'a str,
}

/// A record: an event, or what a snapshot is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// An event of the log.
    Event(Event<'a>),
    /// A limit in a snapshot.
    Entry(Entry<'a>),
    /// The end of a snapshot.
    End { limits: u64, now: Millis },
}

/// Where encoded bytes go: a `Vec`, or a buffer of a fixed size on the stack.
pub trait Sink {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Encodes an event whose instants are given relative to `base`.
pub fn encode_event(sink: &mut impl Sink, event: &Event<'_>, base: Millis) {
    let since = |at: &Millis| at.saturating_sub(base);
    match event {
        Event::Created { id, shard, at, limit, key } => {
            put(sink, tag::CREATED, [*id]);
            sink.put(&[*shard]);
            number(sink, since(at));
            put_limit(sink, limit);
            put_text(sink, key);
        }
        Event::Reconfigured { id, at, limit } => {
            put(sink, tag::RECONFIGURED, [*id, since(at)]);
            put_limit(sink, limit);
        }
        Event::Removed { id, at } => put(sink, tag::REMOVED, [*id, since(at)]),
        Event::Spent { id, cost, at } => put(sink, tag::SPENT, [*id, *cost, since(at)]),
        Event::SpentAll { at, items } => {
            put(sink, tag::SPENT_ALL, [since(at)]);
            put_pairs(sink, items);
        }
        Event::Denied { id, total, cost, last } => put(sink, tag::DENIED, [*id, *total, *cost, time(*last)]),
        Event::Reset { id, at } => put(sink, tag::RESET, [*id, since(at)]),
        Event::Marker { snapshot, shard } => {
            put(sink, tag::MARKER, [*snapshot]);
            sink.put(&[*shard]);
        }
    }
}

/// Encodes a limit of a snapshot.
pub fn encode_entry(sink: &mut impl Sink, entry: &Entry<'_>) {
    put(sink, tag::ENTRY, [entry.id]);
    sink.put(&[entry.shard]);
    put_limit(sink, &entry.limit);
    match &entry.state {
        StateParts::Bucket { whole, part, at } => numbers(sink, [*whole, *part, *at]),
        StateParts::Events(events) => put_pairs(sink, events),
        StateParts::Window { start, used } => numbers(sink, [*start, *used]),
        StateParts::Pair { start, previous, current } => numbers(sink, [*start, *previous, *current]),
    }
    numbers(sink, entry.totals);
    numbers(sink, entry.times.map(time));
    put_text(sink, entry.key);
}

/// Encodes the end of a snapshot.
pub fn encode_end(sink: &mut impl Sink, limits: u64, now: Millis) {
    put(sink, tag::END, [limits, now]);
}

/// Reads the records of a payload one after the other.
pub struct Decoder<'a> {
    rest: &'a [u8],
    base: Millis,
}

impl<'a> Decoder<'a> {
    /// A decoder of the payload of a frame with this base.
    pub fn new(payload: &'a [u8], base: Millis) -> Decoder<'a> {
        Decoder { rest: payload, base }
    }

    /// Whether all of the payload was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes that were not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next record; `Err` says what is wrong with it. Nothing is allocated by a length that was not checked
    /// against the bytes that are there.
    pub fn read(&mut self) -> Result<Record<'a>, &'static str> {
        let event = match self.byte()? {
            tag::CREATED => Event::Created {
                id: self.id()?,
                shard: self.byte()?,
                at: self.instant()?,
                limit: self.limit()?,
                key: self.key()?,
            },
            tag::RECONFIGURED => Event::Reconfigured { id: self.id()?, at: self.instant()?, limit: self.limit()? },
            tag::REMOVED => Event::Removed { id: self.id()?, at: self.instant()? },
            tag::SPENT => Event::Spent { id: self.id()?, cost: self.number()?, at: self.instant()? },
            tag::SPENT_ALL => {
                let at = self.instant()?;
                let items = self.pairs(MAX_ITEMS as u64)?;
                Event::SpentAll { at, items }
            }
            tag::DENIED => {
                Event::Denied { id: self.id()?, total: self.number()?, cost: self.number()?, last: self.time()? }
            }
            tag::RESET => Event::Reset { id: self.id()?, at: self.instant()? },
            tag::MARKER => Event::Marker { snapshot: self.number()?, shard: self.byte()? },
            tag::ENTRY => return Ok(Record::Entry(self.entry()?)),
            tag::END => return Ok(Record::End { limits: self.number()?, now: self.moment()? }),
            _ => return Err("an unknown record tag"),
        };
        Ok(Record::Event(event))
    }

    fn entry(&mut self) -> Result<Entry<'a>, &'static str> {
        let id = self.id()?;
        let shard = self.byte()?;
        let limit = self.limit()?;
        let state = match limit.algorithm() {
            Algorithm::TokenBucket => {
                StateParts::Bucket { whole: self.number()?, part: self.number()?, at: self.moment()? }
            }
            Algorithm::SlidingWindowLog => StateParts::Events(self.pairs(u64::MAX)?),
            Algorithm::FixedWindowCounter => StateParts::Window { start: self.moment()?, used: self.number()? },
            Algorithm::SlidingWindowCounter => {
                StateParts::Pair { start: self.moment()?, previous: self.number()?, current: self.number()? }
            }
        };
        let totals = [self.number()?, self.number()?, self.number()?, self.number()?];
        let times = [self.time()?, self.time()?, self.time()?];
        Ok(Entry { id, shard, limit, state, totals, times, key: self.key()? })
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.rest.split_first().ok_or("a record that ends early")?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err("an integer of more than 64 bits");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("an integer of more than ten bytes")
    }

    fn instant(&mut self) -> Result<Millis, &'static str> {
        let at = self.base.checked_add(self.number()?).filter(|at| *at <= MAX_COUNTER);
        at.ok_or("an instant out of range")
    }

    fn moment(&mut self) -> Result<Millis, &'static str> {
        Some(self.number()?).filter(|at| *at <= MAX_COUNTER).ok_or("an instant out of range")
    }

    fn id(&mut self) -> Result<u64, &'static str> {
        Some(self.number()?).filter(|id| *id <= MAX_ID).ok_or("an id out of range")
    }

    fn time(&mut self) -> Result<Option<Millis>, &'static str> {
        Ok(self.moment()?.checked_sub(1))
    }

    fn limit(&mut self) -> Result<Limit, &'static str> {
        let algorithm = Algorithm::from_code(self.byte()?).ok_or("an unknown algorithm")?;
        let (rate, period, capacity) = (self.number()?, self.number()?, self.number()?);
        let burst = (algorithm == Algorithm::TokenBucket).then_some(capacity);
        if burst.is_none() && capacity != rate {
            return Err("a capacity that is not the rate");
        }
        Limit::of_millis(rate, period, algorithm, burst).map_err(|_| "values of a limit out of their range")
    }

    fn key(&mut self) -> Result<&'a str, &'static str> {
        let length = self.number()?;
        if length > MAX_KEY_BYTES as u64 {
            return Err("a key that is too long");
        }
        let (key, rest) = self.rest.split_at_checked(length as usize).ok_or("a key that ends early")?;
        self.rest = rest;
        std::str::from_utf8(key).map_err(|_| "a key that is not UTF-8")
    }

    fn pairs(&mut self, most: u64) -> Result<Vec<(u64, u64)>, &'static str> {
        let number = self.number()?;
        // Each pair takes two bytes or more.
        if number > most || number > self.rest.len() as u64 / 2 {
            return Err("a number of items that cannot be");
        }
        (0..number).map(|_| Ok((self.number()?, self.number()?))).collect()
    }
}

fn number(sink: &mut impl Sink, mut value: u64) {
    let mut bytes = [0; 10];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = value as u8;
    sink.put(&bytes[..=length]);
}

fn numbers<const N: usize>(sink: &mut impl Sink, values: [u64; N]) {
    for value in values {
        number(sink, value);
    }
}

fn put<const N: usize>(sink: &mut impl Sink, tag: u8, values: [u64; N]) {
    sink.put(&[tag]);
    numbers(sink, values);
}

fn put_pairs(sink: &mut impl Sink, pairs: &[(u64, u64)]) {
    number(sink, pairs.len() as u64);
    for (first, second) in pairs {
        number(sink, *first);
        number(sink, *second);
    }
}

fn time(time: Option<Millis>) -> u64 {
    time.map_or(0, |time| time.saturating_add(1))
}

fn put_text(sink: &mut impl Sink, text: &str) {
    number(sink, text.len() as u64);
    sink.put(text.as_bytes());
}

fn put_limit(sink: &mut impl Sink, limit: &Limit) {
    put(sink, limit.algorithm().code(), [limit.rate(), limit.period_ms(), limit.capacity()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> impl Strategy<Value = Limit> {
        (1..=1_000_000_000_000u64, 1..=31_622_400_000u64, 0..4usize, any::<bool>()).prop_map(
            |(rate, period, algorithm, burst)| {
                let algorithm = Algorithm::ALL[algorithm];
                let burst = (burst && algorithm == Algorithm::TokenBucket).then_some(rate);
                Limit::of_millis(rate, period, algorithm, burst).unwrap()
            },
        )
    }

    fn instants() -> impl Strategy<Value = Millis> {
        1_000_000u64..1 << 50
    }

    fn events() -> impl Strategy<Value = Event<'static>> {
        let key = prop::sample::select(vec!["a", "ключ", "route:/v1/chat"]);
        prop_oneof![
            (0..=MAX_ID, any::<u8>(), instants(), limits(), key)
                .prop_map(|(id, shard, at, limit, key)| Event::Created { id, shard, at, limit, key }),
            (0..=MAX_ID, instants(), limits()).prop_map(|(id, at, limit)| Event::Reconfigured { id, at, limit }),
            (0..=MAX_ID, instants()).prop_map(|(id, at)| Event::Removed { id, at }),
            (0..=MAX_ID, any::<u64>(), instants()).prop_map(|(id, cost, at)| Event::Spent { id, cost, at }),
            (instants(), prop::collection::vec((0..=MAX_ID, any::<u64>()), 0..20))
                .prop_map(|(at, items)| Event::SpentAll { at, items }),
            (0..=MAX_ID, any::<u64>(), any::<u64>(), prop::option::of(instants()))
                .prop_map(|(id, total, cost, last)| Event::Denied { id, total, cost, last }),
            (0..=MAX_ID, instants()).prop_map(|(id, at)| Event::Reset { id, at }),
            (any::<u64>(), any::<u8>()).prop_map(|(snapshot, shard)| Event::Marker { snapshot, shard }),
        ]
    }

    fn entries() -> impl Strategy<Value = Entry<'static>> {
        let times = prop::array::uniform3(prop::option::of(instants()));
        let events = prop::collection::vec((instants(), any::<u64>()), 0..9);
        let parts = prop::array::uniform3(0..=MAX_COUNTER);
        (0..=MAX_ID, any::<u8>(), limits(), any::<[u64; 4]>(), times, events, parts).prop_map(
            |(id, shard, limit, totals, times, events, [a, b, c])| {
                let state = match limit.algorithm() {
                    Algorithm::TokenBucket => StateParts::Bucket { whole: a, part: b, at: c },
                    Algorithm::SlidingWindowLog => StateParts::Events(events),
                    Algorithm::FixedWindowCounter => StateParts::Window { start: a, used: b },
                    Algorithm::SlidingWindowCounter => StateParts::Pair { start: a, previous: b, current: c },
                };
                Entry { id, shard, limit, state, totals, times, key: "route:/v1/chat" }
            },
        )
    }

    proptest! {
        #[test]
        fn events_come_back(events in prop::collection::vec(events(), 1..20), base in 0u64..1_000_000) {
            let mut bytes = Vec::new();
            for event in &events {
                let before = bytes.len();
                encode_event(&mut bytes, event, base);
                let variable = match event {
                    Event::Created { key, .. } => key.len(),
                    Event::SpentAll { items, .. } => items.len() * 20,
                    _ => 0,
                };
                prop_assert!(bytes.len() - before <= MAX_FIXED + variable);
            }
            let mut decoder = Decoder::new(&bytes, base);
            for event in events {
                prop_assert_eq!(decoder.read(), Ok(Record::Event(event)));
            }
            prop_assert!(decoder.is_empty());
            prop_assert!(decoder.read().is_err());
        }

        #[test]
        fn entries_come_back(entry in entries()) {
            let mut bytes = Vec::new();
            encode_entry(&mut bytes, &entry);
            prop_assert!(bytes.len() as u64 >= MIN_ENTRY);
            encode_end(&mut bytes, 1, 2);
            let mut decoder = Decoder::new(&bytes, 0);
            prop_assert_eq!(decoder.read(), Ok(Record::Entry(entry)));
            prop_assert_eq!(decoder.read(), Ok(Record::End { limits: 1, now: 2 }));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0u8..12) {
            let mut tagged = vec![tag];
            tagged.extend_from_slice(&bytes);
            let mut decoder = Decoder::new(&tagged, u64::MAX - 5);
            while !decoder.is_empty() && decoder.read().is_ok() {}
        }

        #[test]
        fn cut_events_are_errors(event in events()) {
            let mut bytes = Vec::new();
            encode_event(&mut bytes, &event, 0);
            for length in 0..bytes.len() {
                let mut decoder = Decoder::new(&bytes[..length], 0);
                prop_assert!(decoder.read().is_err());
            }
        }
    }

    #[test]
    fn an_event_is_small() {
        let mut bytes = Vec::new();
        encode_event(&mut bytes, &Event::Spent { id: 1_000_000, cost: 1, at: 1_000_000_000 }, 0);
        assert!(bytes.len() <= 15, "{} bytes", bytes.len());
    }
}
