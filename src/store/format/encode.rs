//! Encoding of records, by the tables of `record.rs`.

use super::record::{
    Answer, Born, Entry, Event, HeldItem, HoldEntry, Intent, PatternTotals, SHADOW, Source, Spend, UNITS, UNLIMITED,
    tag,
};
use crate::clock::{Micros, Reading};
use crate::limit::{CeilingParts, Limit, Mode, Period, StateParts, Window};

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

/// Counts what would be written.
impl Sink for usize {
    fn put(&mut self, bytes: &[u8]) {
        *self += bytes.len();
    }
}

/// Upper bound of the encoded length of an event, in bytes: what to reserve for it, whatever the base.
pub fn encoded_len(event: &Event<'_>) -> usize {
    let mut length = 0;
    encode_event(&mut length, event, 0);
    length
}

/// Encodes an event whose instants are given relative to `base`.
pub fn encode_event(sink: &mut impl Sink, event: &Event<'_>, base: Micros) {
    let since = |at: &Micros| at.saturating_sub(base);
    match event {
        Event::Created { id, shard, at, limit, max_keys, key } => {
            put(sink, tag::CREATED, [*id]);
            sink.put(&[*shard]);
            number(sink, since(at));
            put_limit(sink, limit);
            put_maybe(sink, max_keys.as_ref(), |sink, most| number(sink, *most));
            put_text(sink, key);
        }
        Event::Reconfigured { id, at, limit, max_keys, ends } => {
            put(sink, tag::RECONFIGURED, [*id, since(at)]);
            put_limit(sink, limit);
            put_maybe(sink, max_keys.as_ref(), |sink, most| number(sink, *most));
            put_ends(sink, ends);
        }
        Event::Overlaid { id, at, limit, until, born, ends } => {
            put(sink, tag::OVERLAID, [*id, since(at)]);
            put_limit(sink, limit);
            number(sink, *until);
            put_maybe(sink, born.as_ref(), put_born);
            put_ends(sink, ends);
        }
        Event::Removed { id, at } => put(sink, tag::REMOVED, [*id, since(at)]),
        Event::Became { id, at, source, limit, ends } => {
            // It may be as of an instant before the base.
            put(sink, tag::BECAME, [*id, *at, source_number(*source)]);
            put_limit(sink, limit);
            put_ends(sink, ends);
        }
        Event::Spent { id, cost, at } => put(sink, tag::SPENT, [*id, *cost, since(at)]),
        Event::SpentAll { at, items } => {
            put(sink, tag::SPENT_ALL, [since(at), items.len() as u64]);
            items.iter().for_each(|(id, cost)| numbers(sink, [*id, *cost]));
        }
        Event::SpentMore { at, items } => {
            put(sink, tag::SPENT_MORE, [since(at), items.len() as u64]);
            items.iter().for_each(|spend| put_spend(sink, spend));
        }
        Event::Denied { id, total, cost, last } => put(sink, tag::DENIED, [*id, *total, *cost, time(*last)]),
        Event::Reset { id, at } => put(sink, tag::RESET, [*id, since(at)]),
        Event::Marker { snapshot, shard } => {
            put(sink, tag::MARKER, [*snapshot]);
            sink.put(&[*shard]);
        }
        Event::Clock(Reading { at, wall, boot, boot_clock }) => {
            put(sink, tag::CLOCK, [since(at), *wall]);
            sink.put(boot);
            number(sink, *boot_clock);
        }
        Event::Intended { group, last, at, items } => {
            put(sink, tag::INTENDED, [*group]);
            sink.put(&[u8::from(*last)]);
            numbers(sink, [since(at), items.len() as u64]);
            items.iter().for_each(|intent| put_intent(sink, intent));
        }
        Event::Done { group } => put(sink, tag::DONE, [*group]),
        Event::Held { hold, at, until, items } => {
            put(sink, tag::HELD, [*hold, since(at), *until, items.len() as u64]);
            items.iter().for_each(|item| put_held(sink, item));
        }
        Event::Settled { hold, at, costs, back, more } => {
            put(sink, tag::SETTLED, [*hold, since(at)]);
            put_costs(sink, costs);
            number(sink, back.len() as u64);
            back.iter().for_each(|back| numbers(sink, [back.id, back.units, back.held_at]));
            number(sink, more.len() as u64);
            more.iter().for_each(|spend| put_spend(sink, spend));
        }
        Event::Renewed { hold, until } => put(sink, tag::RENEWED, [*hold, *until]),
        Event::Refunded { id, at, units } => put(sink, tag::REFUNDED, [*id, since(at), *units]),
        Event::Kept { answer, event } => {
            put_answer(sink, tag::KEPT, answer, base);
            encode_event(sink, event, base);
        }
        Event::TablesMarker { snapshot } => put(sink, tag::TABLES_MARKER, [*snapshot]),
    }
}

/// Encodes a hold of a snapshot.
pub fn encode_hold(sink: &mut impl Sink, entry: &HoldEntry<'_>) {
    put(sink, tag::HOLD, [entry.hold, entry.at, entry.until, entry.ttl]);
    put_maybe(sink, entry.ended.as_ref(), |sink, ended| number(sink, *ended));
    put_costs(sink, &entry.costs);
    number(sink, entry.items.len() as u64);
    for (id, cost, slots, key) in &entry.items {
        numbers(sink, [*id, *cost]);
        sink.put(&[u8::from(*slots)]);
        put_text(sink, key);
    }
}

/// Encodes an answer of a snapshot.
pub fn encode_answer(sink: &mut impl Sink, answer: &Answer<'_>) {
    put_answer(sink, tag::ANSWER, answer, 0);
}

/// Encodes a limit of a snapshot.
pub fn encode_entry(sink: &mut impl Sink, entry: &Entry<'_>) {
    put(sink, tag::ENTRY, [entry.id]);
    sink.put(&[entry.shard]);
    number(sink, source_number(entry.source));
    put_limit(sink, &entry.limit);
    put_maybe(sink, entry.max_keys.as_ref(), |sink, most| number(sink, *most));
    put_maybe(sink, entry.overlay.as_ref(), |sink, overlay| {
        put_limit(sink, &overlay.limit);
        number(sink, overlay.until);
    });
    entry.parts.windows.iter().for_each(|state| put_state(sink, state));
    number(sink, entry.parts.resting.len() as u64);
    for (window, state) in &entry.parts.resting {
        put_window(sink, window);
        put_state(sink, state);
    }
    put_maybe(sink, entry.parts.ceiling.as_ref(), |sink, ceiling| {
        let CeilingParts { most, edge, speed: (units, per), whole, part, at } = *ceiling;
        numbers(sink, [most, edge, units, per, whole, part, at]);
    });
    number(sink, time(entry.configured));
    numbers(sink, entry.totals);
    numbers(sink, entry.times.map(time));
    number(sink, time(entry.barrier));
    put_text(sink, entry.key);
}

/// Encodes the totals of a pattern's keys.
pub fn encode_pattern_totals(sink: &mut impl Sink, totals: &PatternTotals) {
    put(sink, tag::PATTERN_TOTALS, [totals.id]);
    numbers(sink, totals.totals);
}

/// Encodes the end of a snapshot.
pub fn encode_end(sink: &mut impl Sink, limits: u64, now: Micros) {
    put(sink, tag::END, [limits, now]);
}

/// Encodes an *n*.
pub fn number(sink: &mut impl Sink, mut value: u64) {
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

fn put_maybe<S: Sink, T>(sink: &mut S, value: Option<&T>, put: impl FnOnce(&mut S, &T)) {
    sink.put(&[u8::from(value.is_some())]);
    if let Some(value) = value {
        put(sink, value);
    }
}

fn put_ends(sink: &mut impl Sink, ends: &[Micros]) {
    number(sink, ends.len() as u64);
    ends.iter().for_each(|end| number(sink, *end));
}

fn time(time: Option<Micros>) -> u64 {
    time.map_or(0, |time| time.saturating_add(1))
}

fn source_number(source: Source) -> u64 {
    match source {
        Source::Exact => 0,
        Source::Request => 1,
        Source::Overflow => 2,
        Source::Pattern(id) => id.saturating_add(3),
    }
}

/// Encodes a *text*.
pub fn put_text(sink: &mut impl Sink, text: &str) {
    number(sink, text.len() as u64);
    sink.put(text.as_bytes());
}

fn put_limit(sink: &mut impl Sink, limit: &Limit) {
    let shadow = if limit.mode() == Mode::Shadow { SHADOW } else { 0 };
    sink.put(&[shadow | if limit.is_unlimited() { UNLIMITED } else { 0 }]);
    put_maybe(sink, limit.slots().as_ref(), |sink, slots| number(sink, *slots));
    number(sink, limit.windows().len() as u64);
    limit.windows().iter().for_each(|window| put_window(sink, window));
}

fn put_window(sink: &mut impl Sink, window: &Window) {
    put(sink, window.algorithm().code(), [window.rate(), window.capacity()]);
    match window.period() {
        Period::Fixed(length) => number(sink, length / 1000),
        Period::Calendar { unit, zone, anchor } => {
            let code = UNITS.iter().position(|other| *other == unit).unwrap_or_default();
            sink.put(&[0, code as u8]);
            put_text(sink, zone.name());
            sink.put(&[anchor]);
        }
    }
}

fn put_state(sink: &mut impl Sink, state: &StateParts) {
    match state {
        StateParts::Bucket { whole, part, at, full_at, fast } => {
            // Most buckets were full not long before.
            let full = at.saturating_sub(*full_at);
            numbers(sink, [(*whole << 1 ^ *whole >> 63) as u64, *part, *at, full]);
            put_maybe(sink, fast.as_ref(), |sink, (rate, period)| numbers(sink, [*rate, *period]));
        }
        StateParts::Events(events) => {
            number(sink, events.len() as u64);
            let mut before = 0;
            for (at, units) in events {
                numbers(sink, [at.saturating_sub(before), *units]);
                before = *at;
            }
        }
        StateParts::Window { start, end, used } => numbers(sink, [*start, *end, *used]),
        StateParts::Pair { start, previous, current } => numbers(sink, [*start, *previous, *current]),
    }
}

fn put_born(sink: &mut impl Sink, born: &Born<'_>) {
    sink.put(&[born.shard]);
    number(sink, source_number(born.source));
    put_limit(sink, &born.limit);
    put_text(sink, born.key);
}

fn put_intent(sink: &mut impl Sink, intent: &Intent<'_>) {
    put_maybe(sink, intent.limit.as_ref(), |sink, limit| put_limit(sink, limit));
    put_maybe(sink, intent.max_keys.as_ref(), |sink, most| number(sink, *most));
    put_maybe(sink, intent.until.as_ref(), |sink, until| number(sink, *until));
    put_text(sink, intent.key);
}

fn put_spend(sink: &mut impl Sink, spend: &Spend<'_>) {
    numbers(sink, [spend.id, spend.cost]);
    put_maybe(sink, spend.born.as_ref(), put_born);
    number(sink, spend.moves.len() as u64);
    for made in &spend.moves {
        numbers(sink, [made.at, source_number(made.source)]);
        sink.put(&[u8::from(made.lifts)]);
        put_limit(sink, &made.limit);
    }
    put_ends(sink, &spend.ends);
}

fn put_held(sink: &mut impl Sink, item: &HeldItem<'_>) {
    put_spend(sink, &item.spend);
    sink.put(&[u8::from(item.slots)]);
    put_text(sink, item.key);
}

fn put_costs(sink: &mut impl Sink, costs: &[u64]) {
    number(sink, costs.len() as u64);
    costs.iter().for_each(|cost| number(sink, *cost));
}

fn put_answer(sink: &mut impl Sink, tag: u8, answer: &Answer<'_>, base: Micros) {
    sink.put(&[tag]);
    sink.put(&answer.key);
    sink.put(&answer.request);
    number(sink, answer.at.saturating_sub(base));
    put_text(sink, answer.answer);
}
