//! Records come back as they were, and whatever bytes there are is survived.

use std::sync::Arc;

use proptest::prelude::*;

use super::decode::Decoder;
use super::encode::{
    encode_answer, encode_end, encode_entry, encode_event, encode_hold, encode_pattern_totals, encoded_len,
};
use super::record::*;
use crate::bounds::{MAX_ITEMS, MAX_RECORD_BYTES, MAX_UNITS};
use crate::clock::{Micros, Reading};
use crate::limit::{Algorithm, CalendarUnit, CeilingParts, Limit, Mode, Parts, Period, StateParts, Window, Zone};

fn windows() -> impl Strategy<Value = Window> {
    let fixed = (1..=MAX_UNITS, 1..=31_622_400_000_u64, 0..4_usize, prop::option::of(1..=1000_u64)).prop_map(
        |(rate, period, algorithm, burst)| {
            let algorithm = Algorithm::ALL[algorithm];
            let burst = burst.filter(|_| algorithm == Algorithm::TokenBucket);
            Window::of(rate, Period::of_millis(period).unwrap(), algorithm, burst).unwrap()
        },
    );
    let months = vec![CalendarUnit::Month, CalendarUnit::Quarter, CalendarUnit::Year];
    let monthly = (prop::sample::select(months), 1..=31_u8);
    let daily = (prop::sample::select(vec![CalendarUnit::Day, CalendarUnit::Week]), Just(1_u8));
    let zone = prop::sample::select(vec![Zone::UTC, Zone::recorded("Europe/Berlin"), Zone::recorded("Etc/GMT+5")]);
    let calendar = (0..=MAX_UNITS, prop_oneof![monthly, daily], zone).prop_map(|(rate, (unit, anchor), zone)| {
        Window::of(rate, Period::Calendar { unit, zone, anchor }, Algorithm::FixedWindowCounter, None).unwrap()
    });
    let never = (1..100_u64, 0..4_usize)
        .prop_map(|(ms, code)| Window::of(0, Period::of_millis(ms).unwrap(), Algorithm::ALL[code], None).unwrap());
    prop_oneof![6 => fixed, 3 => calendar, 1 => never]
}

fn limits() -> impl Strategy<Value = Arc<Limit>> {
    let several = prop::collection::vec(windows(), 1..9);
    let several = several.prop_filter_map("equal", |windows| Limit::of(windows).ok());
    let limit = prop_oneof![1 => Just(Limit::unlimited()), 9 => several];
    (limit, any::<bool>())
        .prop_map(|(limit, shadow)| Arc::new(if shadow { limit.with_mode(Mode::Shadow) } else { limit }))
}

fn instants() -> impl Strategy<Value = Micros> {
    1_000_000_u64..1 << 58
}

fn sources() -> impl Strategy<Value = Source> {
    prop_oneof![
        Just(Source::Exact),
        Just(Source::Request),
        Just(Source::Overflow),
        (0..=MAX_ID).prop_map(Source::Pattern)
    ]
}

fn keys() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "ключ", "route:/v1/chat", "\u{1}user:*"])
}

fn ends() -> impl Strategy<Value = Vec<Micros>> {
    prop::collection::vec(instants(), 0..4)
}

fn born() -> impl Strategy<Value = Born<'static>> {
    (any::<u8>(), sources(), limits(), keys()).prop_map(|(shard, source, limit, key)| Born {
        shard,
        source,
        limit,
        key,
    })
}

fn spends() -> impl Strategy<Value = Spend<'static>> {
    let moves = (instants(), sources(), any::<bool>(), limits()).prop_map(|(at, source, lifts, limit)| Move {
        at,
        source,
        lifts,
        limit,
    });
    let moves = prop::collection::vec(moves, 0..3);
    (0..=MAX_ID, any::<u64>(), prop::option::of(born()), moves, ends())
        .prop_map(|(id, cost, born, moves, ends)| Spend { id, cost, born, moves, ends })
}

fn intents() -> impl Strategy<Value = Intent<'static>> {
    let until = prop::option::of(instants());
    (prop::option::of(limits()), prop::option::of(any::<u64>()), until, keys())
        .prop_map(|(limit, max_keys, until, key)| Intent { limit, max_keys, until, key })
}

/// Events whose length has no part that varies without a bound.
fn short_events() -> impl Strategy<Value = Event<'static>> {
    prop_oneof![
        (0..=MAX_ID, instants()).prop_map(|(id, at)| Event::Removed { id, at }),
        (0..=MAX_ID, any::<u64>(), instants()).prop_map(|(id, cost, at)| Event::Spent { id, cost, at }),
        (0..=MAX_ID, any::<u64>(), any::<u64>(), prop::option::of(instants()))
            .prop_map(|(id, total, cost, last)| Event::Denied { id, total, cost, last }),
        (0..=MAX_ID, instants()).prop_map(|(id, at)| Event::Reset { id, at }),
        (any::<u64>(), any::<u8>()).prop_map(|(snapshot, shard)| Event::Marker { snapshot, shard }),
        (instants(), 0..=MAX_COUNTER, any::<[u8; 16]>(), 0..=MAX_COUNTER)
            .prop_map(|(at, wall, boot, boot_clock)| Event::Clock(Reading { at, wall, boot, boot_clock })),
        (0..=MAX_COUNTER, 0..=MAX_COUNTER).prop_map(|(hold, until)| Event::Renewed { hold, until }),
        (0..=MAX_ID, instants(), any::<u64>()).prop_map(|(id, at, units)| Event::Refunded { id, at, units }),
        any::<u64>().prop_map(|snapshot| Event::TablesMarker { snapshot }),
    ]
}

fn costs() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(any::<u64>(), 0..4)
}

pub fn answers() -> impl Strategy<Value = Answer<'static>> {
    let texts = prop::sample::select(vec!["", "{\"allowed\":true}", "да"]);
    (any::<[u8; 16]>(), any::<[u8; 16]>(), instants(), texts).prop_map(|(key, request, at, answer)| Answer {
        key,
        request,
        at,
        answer,
    })
}

/// Events that spend by a hold or give back.
fn hold_events() -> impl Strategy<Value = Event<'static>> {
    let item = (spends(), any::<bool>(), keys()).prop_map(|(spend, slots, key)| HeldItem { spend, slots, key });
    let back = (0..=MAX_ID, any::<u64>(), 0..=MAX_COUNTER).prop_map(|(id, units, held_at)| Back { id, units, held_at });
    let (items, back) = (prop::collection::vec(item, 0..4), prop::collection::vec(back, 0..4));
    let more = prop::collection::vec(spends(), 0..3);
    prop_oneof![
        (0..=MAX_COUNTER, instants(), 0..=MAX_COUNTER, items).prop_map(|(hold, at, until, items)| Event::Held {
            hold,
            at,
            until,
            items
        }),
        (0..=MAX_COUNTER, instants(), costs(), back, more).prop_map(|(hold, at, costs, back, more)| Event::Settled {
            hold,
            at,
            costs,
            back,
            more
        }),
    ]
}

fn kept_events() -> impl Strategy<Value = Event<'static>> {
    let spent = prop_oneof![
        hold_events(),
        (0..=MAX_ID, instants(), any::<u64>()).prop_map(|(id, at, units)| Event::Refunded { id, at, units }),
        (0..=MAX_ID, any::<u64>(), instants()).prop_map(|(id, cost, at)| Event::Spent { id, cost, at }),
        (instants(), prop::collection::vec((0..=MAX_ID, 1..=MAX_UNITS), 0..9))
            .prop_map(|(at, items)| Event::SpentAll { at, items }),
        (instants(), prop::collection::vec(spends(), 0..3)).prop_map(|(at, items)| Event::SpentMore { at, items }),
    ];
    (answers(), spent).prop_map(|(answer, event)| Event::Kept { answer, event: Box::new(event) })
}

pub fn holds() -> impl Strategy<Value = HoldEntry<'static>> {
    let item = ((0..=MAX_ID, any::<u64>(), any::<bool>(), keys()), any::<u64>());
    let instants = (0..=MAX_COUNTER, instants(), prop::option::of(instants()));
    (0..=MAX_COUNTER, instants, prop::collection::vec(item, 0..4)).prop_map(|(hold, (at, until, ended), items)| {
        let (items, costs): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        HoldEntry { hold, at, until, ttl: until, ended, costs: if ended.is_some() { costs } else { Vec::new() }, items }
    })
}

fn events() -> impl Strategy<Value = Event<'static>> {
    let max_keys = || prop::option::of(any::<u64>());
    prop_oneof![
        short_events(),
        (0..=MAX_ID, any::<u8>(), instants(), limits(), max_keys(), keys())
            .prop_map(|(id, shard, at, limit, max_keys, key)| Event::Created { id, shard, at, limit, max_keys, key }),
        (0..=MAX_ID, instants(), limits(), max_keys(), ends())
            .prop_map(|(id, at, limit, max_keys, ends)| Event::Reconfigured { id, at, limit, max_keys, ends }),
        (0..=MAX_ID, instants(), limits(), instants(), prop::option::of(born()), ends())
            .prop_map(|(id, at, limit, until, born, ends)| Event::Overlaid { id, at, limit, until, born, ends }),
        (0..=MAX_ID, instants(), sources(), limits(), ends()).prop_map(|(id, at, source, limit, ends)| Event::Became {
            id,
            at,
            source,
            limit,
            ends
        }),
        (instants(), prop::collection::vec((0..=MAX_ID, 1..=MAX_UNITS), 0..20))
            .prop_map(|(at, items)| Event::SpentAll { at, items }),
        (instants(), prop::collection::vec(spends(), 0..5)).prop_map(|(at, items)| Event::SpentMore { at, items }),
        (any::<u64>(), any::<bool>(), instants(), prop::collection::vec(intents(), 0..5))
            .prop_map(|(group, last, at, items)| Event::Intended { group, last, at, items }),
        any::<u64>().prop_map(|group| Event::Done { group }),
        hold_events(),
        kept_events(),
    ]
}

/// A state of each algorithm, of which one window takes one.
type States = (i64, [u64; 4], Option<(u64, u64)>, Vec<(Micros, u64)>);

fn states() -> impl Strategy<Value = States> {
    let events = prop::collection::vec((0..1_u64 << 58, any::<u64>()), 0..9).prop_map(|mut events| {
        events.sort_unstable();
        events
    });
    let numbers = prop::array::uniform4(0..=MAX_COUNTER);
    (any::<i64>(), numbers, prop::option::of((any::<u64>(), 0..=MAX_COUNTER)), events)
}

fn state_of(window: &Window, (whole, [a, b, c, _], fast, events): States) -> StateParts {
    match window.algorithm() {
        Algorithm::TokenBucket => StateParts::Bucket { whole, part: a, at: b, full_at: b - b % 7, fast },
        Algorithm::SlidingWindowLog => StateParts::Events(events),
        Algorithm::FixedWindowCounter => StateParts::Window { start: a, end: b, used: c },
        Algorithm::SlidingWindowCounter => StateParts::Pair { start: a, previous: b, current: c },
    }
}

pub fn entries() -> impl Strategy<Value = Entry<'static>> {
    let named = (0..=MAX_ID, any::<u8>(), sources(), prop::option::of(any::<u64>()), keys());
    let overlay = (limits(), instants()).prop_map(|(limit, until)| Overlay { limit, until });
    let values = (limits(), prop::option::weighted(0.3, overlay), prop::collection::vec(states(), 8));
    let resting = prop::collection::vec((windows(), states()), 0..8);
    let ceiling = (any::<[u64; 4]>(), any::<u64>(), 0..=MAX_COUNTER, instants()).prop_map(
        |([most, edge, whole, part], units, per, at)| CeilingParts { most, edge, speed: (units, per), whole, part, at },
    );
    let resting = (resting, prop::option::weighted(0.3, ceiling));
    let times = prop::array::uniform5(prop::option::of(instants()));
    (named, values, resting, any::<[u64; 4]>(), times).prop_map(
        |(
            (id, shard, source, max_keys, key),
            (limit, overlay, states),
            (resting, ceiling),
            totals,
            [configured, a, b, c, barrier],
        )| {
            let windows = overlay.as_ref().map_or(&limit, |overlay: &Overlay| &overlay.limit).windows();
            let windows = windows.iter().zip(states).map(|(window, states)| state_of(window, states)).collect();
            let resting = resting.into_iter().map(|(window, states)| (window, state_of(&window, states))).collect();
            let parts = Parts { windows, resting, ceiling };
            let times = [a, b, c];
            Entry { id, shard, source, limit, max_keys, overlay, parts, configured, totals, times, barrier, key }
        },
    )
}

fn encoded(event: &Event<'_>, base: Micros) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_event(&mut bytes, event, base);
    bytes
}

fn read_all(bytes: &[u8], base: Micros) {
    let mut decoder = Decoder::new(bytes, base);
    while !decoder.is_empty() && decoder.read().is_ok() {}
}

proptest! {
    #[test]
    fn events_come_back(events in prop::collection::vec(events(), 1..20), base in 0_u64..1_000_000) {
        let mut bytes = Vec::new();
        for event in &events {
            let before = bytes.len();
            encode_event(&mut bytes, event, base);
            let length = bytes.len() - before;
            prop_assert!(length <= encoded_len(event));
            if let Event::SpentAll { items, .. } = event {
                prop_assert!(length <= MAX_FIXED + items.len() * MAX_ITEM);
            }
        }
        let mut decoder = Decoder::new(&bytes, base);
        for event in events {
            prop_assert_eq!(decoder.read(), Ok(Record::Event(event)));
        }
        prop_assert!(decoder.is_empty());
        prop_assert!(decoder.read().is_err());
    }

    #[test]
    fn short_events_are_no_longer_than_what_is_reserved(event in short_events()) {
        prop_assert!(encoded(&event, 0).len() <= MAX_FIXED);
    }

    #[test]
    fn entries_come_back(entries in prop::collection::vec(entries(), 1..4), totals in any::<[u64; 4]>()) {
        let mut bytes = Vec::new();
        for entry in &entries {
            let before = bytes.len() as u64;
            encode_entry(&mut bytes, entry);
            prop_assert!(bytes.len() as u64 >= before + MIN_ENTRY);
        }
        let of_pattern = PatternTotals { id: 7, totals };
        encode_pattern_totals(&mut bytes, &of_pattern);
        encode_end(&mut bytes, 1, 2);
        let mut decoder = Decoder::new(&bytes, 0);
        for entry in entries {
            prop_assert_eq!(decoder.read(), Ok(Record::Entry(Box::new(entry))));
        }
        prop_assert_eq!(decoder.read(), Ok(Record::PatternTotals(of_pattern)));
        prop_assert_eq!(decoder.read(), Ok(Record::End { limits: 1, now: 2 }));
        prop_assert!(decoder.is_empty());
    }

    #[test]
    fn holds_and_answers_come_back(hold in holds(), answer in answers()) {
        let mut bytes = Vec::new();
        encode_hold(&mut bytes, &hold);
        encode_answer(&mut bytes, &answer);
        // Their instants do not depend on the base.
        let mut decoder = Decoder::new(&bytes, 77);
        prop_assert_eq!(decoder.read(), Ok(Record::Hold(hold)));
        prop_assert_eq!(decoder.read(), Ok(Record::Answer(answer)));
        prop_assert!(decoder.is_empty());
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..6_u8], 0..200),
        tag in 0_u8..27,
    ) {
        let tagged = [&[tag], &bytes[..]].concat();
        read_all(&tagged, u64::MAX - 5);
        read_all(&tagged, 0);
    }

}

proptest! {
    // Each is many cases by itself.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn cut_records_are_errors(event in events(), entry in entries(), hold in holds(), answer in answers()) {
        let (mut of_entry, mut of_hold, mut of_answer) = (Vec::new(), Vec::new(), Vec::new());
        encode_entry(&mut of_entry, &entry);
        encode_hold(&mut of_hold, &hold);
        encode_answer(&mut of_answer, &answer);
        for bytes in [encoded(&event, 0), of_entry, of_hold, of_answer] {
            for length in 0..bytes.len() {
                prop_assert!(Decoder::new(&bytes[..length], 0).read().is_err(), "{} of {}", length, bytes.len());
            }
        }
    }

    #[test]
    fn flipped_bits_are_survived(event in events(), entry in entries(), hold in holds(), answer in answers()) {
        let mut bytes = encoded(&event, 0);
        encode_entry(&mut bytes, &entry);
        encode_hold(&mut bytes, &hold);
        encode_answer(&mut bytes, &answer);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            read_all(&bytes, 0);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_spend_is_small() {
    // A year after the base, of which there is one for each start.
    let at = 31_622_400_000_000;
    assert!(encoded(&Event::Spent { id: 1_000_000, cost: 1, at }, 0).len() <= 12);
    let items = vec![(1_000_000, 1); MAX_ITEMS];
    assert!(encoded(&Event::SpentAll { at, items }, 0).len() <= 10 + 4 * MAX_ITEMS);
    let born = Born {
        shard: 1,
        source: Source::Pattern(3),
        limit: Arc::new("100/1m".parse().unwrap()),
        key: "user:1234567890",
    };
    let spend = Spend { id: 1_000_000, cost: 1, born: Some(born), moves: Vec::new(), ends: Vec::new() };
    assert!(encoded(&Event::SpentMore { at, items: vec![spend] }, 0).len() <= 28 + "user:1234567890".len());
}

#[test]
fn the_largest_spend_fits_into_a_frame() {
    let windows =
        (1..=8).map(|n| format!("{}/month tz=America/Argentina/ComodRivadavia anchor={n}", u64::from(n + 20_u8)));
    let limit: Limit = windows.collect::<Vec<_>>().join(", ").parse().unwrap();
    let key = "k".repeat(513);
    let limit = Arc::new(limit);
    let spend = |id| Spend {
        id,
        cost: MAX_UNITS,
        born: Some(Born { shard: 255, source: Source::Pattern(MAX_ID), limit: Arc::clone(&limit), key: &key }),
        moves: Vec::new(),
        ends: vec![1 << 52; 8],
    };
    let items = (0..MAX_ITEMS as u64).map(|id| spend(MAX_ID - id)).collect();
    let length = encoded_len(&Event::SpentMore { at: 1 << 52, items });
    assert!(length <= super::frame::MAX_PAYLOAD, "{length}");
}

#[test]
fn what_no_limit_can_be_is_refused() {
    let limit: Limit = "100/1m burst=50, 5000/month tz=UTC anchor=3".parse().unwrap();
    let event = Event::Became { id: 1, at: 0, source: Source::Exact, limit: Arc::new(limit), ends: Vec::new() };
    let bytes = encoded(&event, 0);
    assert_eq!(bytes, b"\x05\x01\0\0\0\0\x02\0\x64\x32\xe0\xd4\x03\x02\x88\x27\x88\x27\0\x02\x03UTC\x03\0");
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Decoder::new(&bytes, 0).read().unwrap_err()
    };
    assert_eq!(changed(4, 4), "an unknown flag of a limit");
    assert_eq!(changed(4, 2), "a limit that is not one of windows, slots and unlimited");
    assert_eq!(changed(6, 9), "a number of elements that cannot be");
    assert_eq!(changed(7, 4), "an unknown algorithm");
    assert_eq!(changed(7, 1), "a capacity that is not the rate");
    assert_eq!(changed(8, 0), "a capacity that is not the rate");
    assert_eq!(changed(9, 0), "values of a limit out of their range");
    assert_eq!(changed(19, 5), "an unknown unit of the calendar");
    assert_eq!(changed(20, 65), "a text that is too long");
    assert_eq!(changed(21, b' '), "a time zone that cannot be");
    assert_eq!(changed(24, 0), "an anchor out of its range");
    assert_eq!(changed(24, 32), "an anchor out of its range");
}

#[test]
fn what_no_hold_and_no_answer_can_be_is_refused() {
    let refused = |event: &Event<'_>| Decoder::new(&encoded(event, 0), 0).read().unwrap_err();
    let answer = |answer| Answer { key: [1; 16], request: [2; 16], at: 3, answer };
    let kept = |event| Event::Kept { answer: answer("{}"), event: Box::new(event) };
    let spent = Event::Spent { id: 1, cost: 1, at: 4 };
    let nothing_spent = "an answer that is kept without what was spent";
    assert_eq!(refused(&kept(kept(spent.clone()))), nothing_spent);
    assert_eq!(refused(&kept(Event::Marker { snapshot: 1, shard: 1 })), nothing_spent);
    assert_eq!(refused(&kept(Event::TablesMarker { snapshot: 1 })), nothing_spent);
    assert_eq!(refused(&kept(Event::Clock(Reading { at: 1, wall: 1, boot: [0; 16], boot_clock: 1 }))), nothing_spent);
    // As deep as a payload lets it be.
    let head = encoded(&kept(spent.clone()), 0);
    let head = &head[..head.len() - encoded(&spent, 0).len()];
    assert_eq!(Decoder::new(&head.repeat(10_000), 0).read(), Err(nothing_spent));
    let long = |length| "a".repeat(length);
    let (most, more) = (long(MAX_RECORD_BYTES), long(MAX_RECORD_BYTES + 1));
    let with = |text| Event::Kept { answer: answer(text), event: Box::new(Event::Spent { id: 1, cost: 1, at: 4 }) };
    assert!(Decoder::new(&encoded(&with(&most), 0), 0).read().is_ok());
    assert_eq!(refused(&with(&more)), "a text that is too long");

    assert_eq!(refused(&Event::Renewed { hold: MAX_COUNTER + 1, until: 1 }), "the number of a hold out of range");
    assert_eq!(refused(&Event::Renewed { hold: 1, until: MAX_COUNTER + 1 }), "an instant out of range");
    assert_eq!(refused(&Event::Refunded { id: MAX_ID + 1, at: 1, units: 1 }), "an id out of range");
    let settled = |costs, held_at| Event::Settled {
        hold: 1,
        at: 1,
        costs,
        back: vec![Back { id: 1, units: 1, held_at }],
        more: vec![],
    };
    assert!(Decoder::new(&encoded(&settled(vec![1; MAX_ITEMS], 1), 0), 0).read().is_ok());
    assert_eq!(refused(&settled(vec![1; MAX_ITEMS + 1], 1)), "a number of elements that cannot be");
    assert_eq!(refused(&settled(vec![], MAX_COUNTER + 1)), "an instant out of range");
    let item =
        || HeldItem { spend: Spend { id: 1, cost: 1, born: None, moves: vec![], ends: vec![] }, slots: true, key: "k" };
    let held = |number| Event::Held { hold: 1, at: 1, until: 2, items: (0..number).map(|_| item()).collect() };
    assert!(Decoder::new(&encoded(&held(MAX_ITEMS), 0), 0).read().is_ok());
    assert_eq!(refused(&held(MAX_ITEMS + 1)), "a number of elements that cannot be");

    let hold = |ended, costs| {
        let mut bytes = Vec::new();
        let hold = HoldEntry { hold: 1, at: 1, until: 2, ttl: 1, ended, costs, items: vec![(1, 2, false, "k")] };
        encode_hold(&mut bytes, &hold);
        Decoder::new(&bytes, 0).read().map(|_| ())
    };
    let costs = "a hold whose costs do not match its items";
    assert_eq!(hold(Some(3), vec![2]), Ok(()));
    assert_eq!(hold(None, vec![]), Ok(()));
    assert_eq!([hold(None, vec![2]), hold(Some(3), vec![]), hold(Some(3), vec![1, 2])], [Err(costs); 3]);
}
