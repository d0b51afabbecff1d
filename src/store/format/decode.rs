//! Decoding of records, by the tables of `record.rs`. Whatever the bytes are, nothing panics, and nothing is allocated
//! by a length that was not checked.

use std::sync::Arc;

use super::record::{
    Answer, Back, Born, Entry, Event, HeldItem, HoldEntry, Intent, MAX_COUNTER, MAX_ID, MAX_TEXT, Move, Overlay,
    PatternTotals, Record, SHADOW, Source, Spend, UNITS, UNLIMITED, may_be_kept, tag,
};
use crate::bounds::{MAX_ITEMS, MAX_KEY_BYTES, MAX_RECORD_BYTES, MAX_RESTING, MAX_WINDOWS};
use crate::clock::{Micros, Reading};
use crate::limit::{Algorithm, CalendarUnit, CeilingParts, Limit, Mode, Parts, Period, StateParts, Window, Zone};

/// Longest name of a time zone that is believed, in bytes.
const MAX_ZONE: usize = 64;

/// What a step of decoding gives, or what is wrong.
type Read<T> = Result<T, &'static str>;

/// Reads the records of a payload one after the other.
pub struct Decoder<'a> {
    rest: &'a [u8],
    base: Micros,
    /// The last limit that was read, and its bytes: most limits of a file are equal to the one before.
    last: Option<(&'a [u8], Arc<Limit>)>,
}

impl<'a> Decoder<'a> {
    /// A decoder of the payload of a frame with this base.
    pub fn new(payload: &'a [u8], base: Micros) -> Decoder<'a> {
        Decoder { rest: payload, base, last: None }
    }

    /// Whether all of the payload was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes that were not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next record if it is a spent record and nothing is wrong with it: key, cost and instant. Nearly all of a log
    /// are such.
    #[inline]
    pub fn spent(&mut self) -> Option<(u64, u64, Micros)> {
        let (&tag::SPENT, rest) = self.rest.split_first()? else { return None };
        let mut ahead = Decoder { rest, base: self.base, last: None };
        let spent = (ahead.id().ok()?, ahead.number().ok()?, ahead.instant().ok()?);
        self.rest = ahead.rest;
        Some(spent)
    }

    /// The next record; `Err` says what is wrong with it. Nothing is allocated by a length that was not checked
    /// against the bytes that are there.
    pub fn read(&mut self) -> Read<Record<'a>> {
        let event = match self.byte()? {
            tag::CREATED => Event::Created {
                id: self.id()?,
                shard: self.byte()?,
                at: self.instant()?,
                limit: self.limit()?,
                max_keys: self.maybe(Self::number)?,
                key: self.key()?,
            },
            tag::RECONFIGURED => Event::Reconfigured {
                id: self.id()?,
                at: self.instant()?,
                limit: self.limit()?,
                max_keys: self.maybe(Self::number)?,
                ends: self.ends()?,
            },
            tag::OVERLAID => Event::Overlaid {
                id: self.id()?,
                at: self.instant()?,
                limit: self.limit()?,
                until: self.moment()?,
                born: self.maybe(Self::born)?,
                ends: self.ends()?,
            },
            tag::REMOVED => Event::Removed { id: self.id()?, at: self.instant()? },
            tag::BECAME => Event::Became {
                id: self.id()?,
                at: self.moment()?,
                source: self.source()?,
                limit: self.limit()?,
                ends: self.ends()?,
            },
            tag::SPENT => Event::Spent { id: self.id()?, cost: self.number()?, at: self.instant()? },
            tag::SPENT_ALL => Event::SpentAll {
                at: self.instant()?,
                items: self.list(MAX_ITEMS as u64, 2, |from| Ok((from.id()?, from.number()?)))?,
            },
            tag::SPENT_MORE => {
                Event::SpentMore { at: self.instant()?, items: self.list(MAX_ITEMS as u64, 5, Self::spend)? }
            }
            tag::DENIED => {
                Event::Denied { id: self.id()?, total: self.number()?, cost: self.number()?, last: self.time()? }
            }
            tag::RESET => Event::Reset { id: self.id()?, at: self.instant()? },
            tag::MARKER => Event::Marker { snapshot: self.number()?, shard: self.byte()? },
            tag::CLOCK => Event::Clock(Reading {
                at: self.instant()?,
                wall: self.moment()?,
                boot: self.uuid()?,
                boot_clock: self.moment()?,
            }),
            tag::INTENDED => Event::Intended {
                group: self.number()?,
                last: self.flag()?,
                at: self.instant()?,
                items: self.list(u64::MAX, 4, Self::intent)?,
            },
            tag::DONE => Event::Done { group: self.number()? },
            tag::ENTRY => return Ok(Record::Entry(Box::new(self.entry()?))),
            tag::PATTERN_TOTALS => {
                let (id, totals) = (self.id()?, self.totals()?);
                return Ok(Record::PatternTotals(PatternTotals { id, totals }));
            }
            tag::END => return Ok(Record::End { limits: self.number()?, now: self.moment()? }),
            tag::HELD => self.held()?,
            tag::SETTLED => self.settled()?,
            tag::RENEWED => Event::Renewed { hold: self.hold_number()?, until: self.moment()? },
            tag::REFUNDED => Event::Refunded { id: self.id()?, at: self.instant()?, units: self.number()? },
            tag::KEPT => self.kept()?,
            tag::TABLES_MARKER => Event::TablesMarker { snapshot: self.number()? },
            tag::HOLD => return Ok(Record::Hold(self.hold()?)),
            tag::ANSWER => return Ok(Record::Answer(self.answer(Self::moment)?)),
            _ => return Err("an unknown record tag"),
        };
        Ok(Record::Event(event))
    }

    fn held(&mut self) -> Read<Event<'a>> {
        Ok(Event::Held {
            hold: self.hold_number()?,
            at: self.instant()?,
            until: self.moment()?,
            items: self.list(MAX_ITEMS as u64, 7, |from| {
                Ok(HeldItem { spend: from.spend()?, slots: from.flag()?, key: from.key()? })
            })?,
        })
    }

    fn settled(&mut self) -> Read<Event<'a>> {
        Ok(Event::Settled {
            hold: self.hold_number()?,
            at: self.instant()?,
            costs: self.costs()?,
            back: self.list(MAX_ITEMS as u64, 3, |from| {
                Ok(Back { id: from.id()?, units: from.number()?, held_at: from.moment()? })
            })?,
            more: self.list(MAX_ITEMS as u64, 5, Self::spend)?,
        })
    }

    fn kept(&mut self) -> Read<Event<'a>> {
        let answer = self.answer(Self::instant)?;
        // So one is never in another, however deep.
        if !self.rest.first().is_some_and(|tag| may_be_kept(*tag)) {
            return Err("an answer that is kept without what was spent");
        }
        match self.read()? {
            Record::Event(event) => Ok(Event::Kept { answer, event: Box::new(event) }),
            _ => Err("an answer that is kept without what was spent"),
        }
    }

    fn hold(&mut self) -> Read<HoldEntry<'a>> {
        let entry = HoldEntry {
            hold: self.hold_number()?,
            at: self.moment()?,
            until: self.moment()?,
            ttl: self.moment()?,
            ended: self.maybe(Self::moment)?,
            costs: self.costs()?,
            items: self
                .list(MAX_ITEMS as u64, 4, |from| Ok((from.id()?, from.number()?, from.flag()?, from.key()?)))?,
        };
        let expected = if entry.ended.is_some() { entry.items.len() } else { 0 };
        if entry.costs.len() == expected { Ok(entry) } else { Err("a hold whose costs do not match its items") }
    }

    fn answer(&mut self, at: fn(&mut Self) -> Read<Micros>) -> Read<Answer<'a>> {
        let (key, request) = (self.uuid()?, self.uuid()?);
        Ok(Answer { key, request, at: at(self)?, answer: self.text(MAX_RECORD_BYTES)? })
    }

    fn costs(&mut self) -> Read<Vec<u64>> {
        self.list(MAX_ITEMS as u64, 1, Self::number)
    }

    fn hold_number(&mut self) -> Read<u64> {
        Some(self.number()?).filter(|hold| *hold <= MAX_COUNTER).ok_or("the number of a hold out of range")
    }

    fn entry(&mut self) -> Read<Entry<'a>> {
        let (id, shard, source) = (self.id()?, self.byte()?, self.source()?);
        let limit = self.limit()?;
        let max_keys = self.maybe(Self::number)?;
        let overlay = self.maybe(|from| Ok(Overlay { limit: from.limit()?, until: from.moment()? }))?;
        let windows = overlay.as_ref().map_or(&limit, |overlay| &overlay.limit).windows();
        let windows = windows.iter().map(|window| self.state(window)).collect::<Read<_>>()?;
        let resting = self.list(MAX_RESTING as u64, 7, |from| {
            let window = from.window()?;
            Ok((window, from.state(&window)?))
        })?;
        Ok(Entry {
            id,
            shard,
            source,
            limit,
            max_keys,
            overlay,
            parts: Parts { windows, resting, ceiling: self.maybe(Self::ceiling)? },
            configured: self.time()?,
            totals: self.totals()?,
            times: [self.time()?, self.time()?, self.time()?],
            barrier: self.time()?,
            key: self.key()?,
        })
    }

    fn ceiling(&mut self) -> Read<CeilingParts> {
        Ok(CeilingParts {
            most: self.number()?,
            edge: self.number()?,
            speed: (self.number()?, self.moment()?),
            whole: self.number()?,
            part: self.number()?,
            at: self.moment()?,
        })
    }

    fn intent(&mut self) -> Read<Intent<'a>> {
        Ok(Intent {
            limit: self.maybe(Self::limit)?,
            max_keys: self.maybe(Self::number)?,
            until: self.maybe(Self::moment)?,
            key: self.key()?,
        })
    }

    fn flag(&mut self) -> Read<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("an unknown flag"),
        }
    }

    fn byte(&mut self) -> Read<u8> {
        let (first, rest) = self.rest.split_first().ok_or("a record that ends early")?;
        self.rest = rest;
        Ok(*first)
    }

    /// An *n*.
    pub fn number(&mut self) -> Read<u64> {
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

    fn signed(&mut self) -> Read<i64> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn instant(&mut self) -> Read<Micros> {
        let at = self.base.checked_add(self.number()?).filter(|at| *at <= MAX_COUNTER);
        at.ok_or("an instant out of range")
    }

    /// An instant that is not further away than is plausible.
    pub fn moment(&mut self) -> Read<Micros> {
        Some(self.number()?).filter(|at| *at <= MAX_COUNTER).ok_or("an instant out of range")
    }

    /// An id.
    pub fn id(&mut self) -> Read<u64> {
        Some(self.number()?).filter(|id| *id <= MAX_ID).ok_or("an id out of range")
    }

    fn time(&mut self) -> Read<Option<Micros>> {
        Ok(self.moment()?.checked_sub(1))
    }

    fn uuid(&mut self) -> Read<[u8; 16]> {
        let (uuid, rest) = self.rest.split_first_chunk().ok_or("a record that ends early")?;
        self.rest = rest;
        Ok(*uuid)
    }

    fn totals(&mut self) -> Read<[u64; 4]> {
        Ok([self.number()?, self.number()?, self.number()?, self.number()?])
    }

    fn source(&mut self) -> Read<Source> {
        Ok(match self.number()? {
            0 => Source::Exact,
            1 => Source::Request,
            2 => Source::Overflow,
            more => Source::Pattern(Some(more - 3).filter(|id| *id <= MAX_ID).ok_or("an id out of range")?),
        })
    }

    /// A *text* of at most this many bytes.
    pub fn text(&mut self, most: usize) -> Read<&'a str> {
        let length = self.number()?;
        if length > most as u64 {
            return Err("a text that is too long");
        }
        let (text, rest) = self.rest.split_at_checked(length as usize).ok_or("a text that ends early")?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8")
    }

    fn key(&mut self) -> Read<&'a str> {
        let text = self.text(MAX_TEXT)?;
        let most = if text.starts_with(|first: char| first < ' ') { MAX_TEXT } else { MAX_KEY_BYTES };
        if text.len() <= most { Ok(text) } else { Err("a key that is too long") }
    }

    fn maybe<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Option<T>> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err("more than one where there is one at most"),
        }
    }

    /// A list of at most `most` elements, of at least `bytes` bytes each.
    pub fn list<T>(&mut self, most: u64, bytes: u64, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let length = self.number()?;
        if length > most || length > self.rest.len() as u64 / bytes {
            return Err("a number of elements that cannot be");
        }
        let mut list = Vec::new();
        list.reserve_exact(length as usize);
        for _ in 0..length {
            list.push(read(self)?);
        }
        Ok(list)
    }

    fn ends(&mut self) -> Read<Vec<Micros>> {
        self.list(u64::MAX, 1, Self::moment)
    }

    fn limit(&mut self) -> Read<Arc<Limit>> {
        if let Some((bytes, limit)) = &self.last
            && let Some(rest) = self.rest.strip_prefix(*bytes)
        {
            self.rest = rest;
            return Ok(Arc::clone(limit));
        }
        let whole = self.rest;
        let flags = self.byte()?;
        let slots = self.maybe(Self::number)?;
        let windows = self.list(MAX_WINDOWS as u64, 4, Self::window)?;
        let limit = match (flags & UNLIMITED != 0, slots, windows.is_empty()) {
            (true, None, true) => Limit::unlimited(),
            (false, Some(slots), true) => Limit::of_slots(slots).map_err(|_| "slots out of their range")?,
            (false, None, false) => {
                let limit = Limit::of(windows.clone()).map_err(|_| "windows that do not go together")?;
                if limit.windows() != windows {
                    return Err("windows that are out of order");
                }
                limit
            }
            _ => return Err("a limit that is not one of windows, slots and unlimited"),
        };
        let limit = match flags & !UNLIMITED {
            0 => limit,
            SHADOW => limit.with_mode(Mode::Shadow),
            _ => return Err("an unknown flag of a limit"),
        };
        let limit = Arc::new(limit);
        self.last = Some((&whole[..whole.len() - self.rest.len()], Arc::clone(&limit)));
        Ok(limit)
    }

    fn window(&mut self) -> Read<Window> {
        let algorithm = Algorithm::from_code(self.byte()?).ok_or("an unknown algorithm")?;
        let (rate, capacity) = (self.number()?, self.number()?);
        let period = match self.number()? {
            0 => Period::Calendar { unit: self.unit()?, zone: self.zone()?, anchor: self.anchor()? },
            millis => Period::Fixed(millis.checked_mul(1000).ok_or("a period out of its range")?),
        };
        // A bucket of no rate has no burst either.
        let burst = (algorithm == Algorithm::TokenBucket && rate > 0).then_some(capacity);
        let window = Window::of(rate, period, algorithm, burst).map_err(|_| "values of a limit out of their range")?;
        if window.capacity() != capacity {
            return Err("a capacity that is not the rate");
        }
        Ok(window)
    }

    fn unit(&mut self) -> Read<CalendarUnit> {
        UNITS.get(usize::from(self.byte()?)).copied().ok_or("an unknown unit of the calendar")
    }

    fn zone(&mut self) -> Read<Zone> {
        let name = self.text(MAX_ZONE)?;
        // Names are kept for ever, so only what can be one is.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
        match !name.is_empty() && name.bytes().all(fits) {
            true => Ok(Zone::recorded(name)),
            false => Err("a time zone that cannot be"),
        }
    }

    fn anchor(&mut self) -> Read<u8> {
        Some(self.byte()?).filter(|day| (1..=31).contains(day)).ok_or("an anchor out of its range")
    }

    fn state(&mut self, window: &Window) -> Read<StateParts> {
        Ok(match window.algorithm() {
            Algorithm::TokenBucket => {
                let (whole, part, at) = (self.signed()?, self.number()?, self.moment()?);
                let full_at = at.saturating_sub(self.moment()?);
                let fast = self.maybe(|from| Ok((from.number()?, from.moment()?)))?;
                StateParts::Bucket { whole, part, at, full_at, fast }
            }
            Algorithm::SlidingWindowLog => {
                let mut at = 0;
                let events = self.list(u64::MAX, 2, |from| {
                    at = Some(at + from.moment()?).filter(|at| *at <= MAX_COUNTER).ok_or("an instant out of range")?;
                    Ok((at, from.number()?))
                });
                StateParts::Events(events?)
            }
            Algorithm::FixedWindowCounter => {
                StateParts::Window { start: self.moment()?, end: self.moment()?, used: self.number()? }
            }
            Algorithm::SlidingWindowCounter => {
                StateParts::Pair { start: self.moment()?, previous: self.number()?, current: self.number()? }
            }
        })
    }

    fn born(&mut self) -> Read<Born<'a>> {
        Ok(Born { shard: self.byte()?, source: self.source()?, limit: self.limit()?, key: self.key()? })
    }

    fn made(&mut self) -> Read<Move> {
        let (at, source) = (self.moment()?, self.source()?);
        Ok(Move { at, source, lifts: self.flag()?, limit: self.limit()? })
    }

    fn spend(&mut self) -> Read<Spend<'a>> {
        Ok(Spend {
            id: self.id()?,
            cost: self.number()?,
            born: self.maybe(Self::born)?,
            moves: self.list(u64::MAX, 5, Self::made)?,
            ends: self.ends()?,
        })
    }
}
