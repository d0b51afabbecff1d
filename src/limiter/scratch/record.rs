//! The bytes of a record that is kept elsewhere.
//!
//! All of them begin with a format byte and the instant at which the record was made. What follows is of the fields of
//! the log's records ([`crate::store::record`]): *n*, *text*, *list*, and the records of a snapshot themselves, with
//! ids that mean the same to all servers.
//!
//! | of | format byte 1, made n, and |
//! |----|----------------------------|
//! | a key | removals n, entry list(entry), generation n, held-until n, open list(until n, hold n, slots n, at n) |
//! | the patterns | last-id n, removals n, removed list(at n, id n, last-id n, text text), patterns list(entry) |
//! | a hold | hold, places list(text) |
//! | an answer | answer |
//!
//! The id of an entry distinguishes the key from an earlier key of the same name. A key without an entry has only what
//! open holds take of it: its limit was removed. *removals* is how many patterns had been removed by then; the last of
//! them are in *removed*, the latest last, so that a key that lived under one of these is led to where it belongs when
//! it is loaded. *generation* is how often the entry has forgotten its totals, modulo 16. *places* has for each item of
//! a hold the key on which it was decided, or nothing where that is its own.
//!
//! A record is valid if and only if all of it is read so, it was made and is held until no later than in the year 9999,
//! and what it is of is what it was looked for by.

use crate::clock::{LAST_INSTANT, Micros};
use crate::limiter::entry::GENERATIONS;
use crate::limiter::held::book::Taken;
use crate::store::decode::Decoder;
use crate::store::encode::{encode_answer, encode_entry, encode_hold, number, put_text};
use crate::store::record::{Answer, Entry, HoldEntry, MAX_TEXT, Record};

/// The format of now.
const FORMAT: u8 = 1;

/// Patterns that were removed, of which is known when: a key that lived under an earlier one is led away as of its own
/// last instant.
pub const MAX_REMOVED: usize = 1000;

/// Why a record can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A newer Flint wrote it.
    Newer,
    /// It is damaged; says how.
    Damaged(&'static str),
}

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Fault {
        Fault::Damaged(what)
    }
}

type Read<T> = Result<T, Fault>;

/// The record of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord<'a> {
    pub removals: u64,
    pub entry: Option<Entry<'a>>,
    /// Of the entry; less than [`GENERATIONS`].
    pub generation: u64,
    pub held_until: Micros,
    /// What open holds take of it.
    pub open: Vec<Taken>,
}

/// A pattern that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub at: Micros,
    pub id: u64,
    /// Id of the last pattern that had been configured by then: later ones have served nothing before.
    pub last_id: u64,
    pub text: Box<str>,
}

/// The record of all patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatternsRecord<'a> {
    pub last_id: u64,
    pub removals: u64,
    pub removed: Vec<Removed>,
    pub patterns: Vec<Entry<'a>>,
}

/// The record of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRecord<'a> {
    pub hold: HoldEntry<'a>,
    pub places: Vec<&'a str>,
}

fn begin(made: Micros) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    number(&mut bytes, made);
    bytes
}

/// Begins to read a record. Returns when it was made.
fn open(bytes: &[u8]) -> Read<(Decoder<'_>, Micros)> {
    let (format, rest) = bytes.split_first().ok_or("an empty record")?;
    match *format {
        FORMAT => {
            let mut from = Decoder::new(rest, 0);
            let made = instant(&mut from)?;
            Ok((from, made))
        }
        0 => Err(Fault::Damaged("a format that never was")),
        _ => Err(Fault::Newer),
    }
}

fn close<T>(from: &Decoder<'_>, read: T) -> Read<T> {
    if from.is_empty() { Ok(read) } else { Err(Fault::Damaged("more than a record")) }
}

fn instant(from: &mut Decoder<'_>) -> Read<Micros> {
    Ok(Some(from.moment()?).filter(|at| *at <= LAST_INSTANT).ok_or("an instant after the year 9999")?)
}

fn entry<'a>(from: &mut Decoder<'a>) -> Result<Entry<'a>, &'static str> {
    match from.read()? {
        Record::Entry(entry) => Ok(*entry),
        _ => Err("a record of another kind"),
    }
}

impl KeyRecord<'_> {
    pub fn encode(&self, made: Micros) -> Vec<u8> {
        let mut bytes = begin(made);
        number(&mut bytes, self.removals);
        number(&mut bytes, u64::from(self.entry.is_some()));
        if let Some(entry) = &self.entry {
            encode_entry(&mut bytes, entry);
        }
        number(&mut bytes, self.generation);
        number(&mut bytes, self.held_until);
        number(&mut bytes, self.open.len() as u64);
        for Taken { until, number: hold, slots, at } in &self.open {
            [*until, *hold, *slots, *at].into_iter().for_each(|value| number(&mut bytes, value));
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Read<(KeyRecord<'_>, Micros)> {
        let (mut from, made) = open(bytes)?;
        let removals = from.number()?;
        let entry = from.list(1, 1, entry)?.pop();
        let generation =
            Some(from.number()?).filter(|number| *number < GENERATIONS).ok_or("a generation that cannot be")?;
        let held_until = instant(&mut from)?;
        let open = from.list(u64::MAX, 4, |from| {
            Ok(Taken { until: from.moment()?, number: from.moment()?, slots: from.number()?, at: from.moment()? })
        })?;
        close(&from, (KeyRecord { removals, entry, generation, held_until, open }, made))
    }
}

impl PatternsRecord<'_> {
    pub fn encode(&self, made: Micros) -> Vec<u8> {
        let mut bytes = begin(made);
        number(&mut bytes, self.last_id);
        number(&mut bytes, self.removals);
        number(&mut bytes, self.removed.len() as u64);
        for Removed { at, id, last_id, text } in &self.removed {
            [*at, *id, *last_id].into_iter().for_each(|value| number(&mut bytes, value));
            put_text(&mut bytes, text);
        }
        number(&mut bytes, self.patterns.len() as u64);
        self.patterns.iter().for_each(|pattern| encode_entry(&mut bytes, pattern));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Read<(PatternsRecord<'_>, Micros)> {
        let (mut from, made) = open(bytes)?;
        let (last_id, removals) = (from.id()?, from.number()?);
        let removed: Vec<Removed> = from.list(MAX_REMOVED as u64, 4, |from| {
            let (at, id, last_id) = (from.moment()?, from.id()?, from.id()?);
            Ok(Removed { at, id, last_id, text: from.text(MAX_TEXT)?.into() })
        })?;
        if removed.len() as u64 > removals {
            return Err(Fault::Damaged("more removals than there were"));
        }
        let patterns = from.list(u64::MAX, 16, entry)?;
        close(&from, (PatternsRecord { last_id, removals, removed, patterns }, made))
    }
}

impl HoldRecord<'_> {
    pub fn encode(&self, made: Micros) -> Vec<u8> {
        let mut bytes = begin(made);
        encode_hold(&mut bytes, &self.hold);
        number(&mut bytes, self.places.len() as u64);
        self.places.iter().for_each(|place| put_text(&mut bytes, place));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Read<(HoldRecord<'_>, Micros)> {
        let (mut from, made) = open(bytes)?;
        let hold = match from.read()? {
            Record::Hold(hold) => hold,
            _ => return Err(Fault::Damaged("a record of another kind")),
        };
        let places = from.list(u64::MAX, 1, |from| from.text(MAX_TEXT))?;
        if places.len() != hold.items.len() {
            return Err(Fault::Damaged("a hold whose places do not match its items"));
        }
        close(&from, (HoldRecord { hold, places }, made))
    }
}

/// The record of an answer.
pub fn encode_kept(answer: &Answer<'_>, made: Micros) -> Vec<u8> {
    let mut bytes = begin(made);
    encode_answer(&mut bytes, answer);
    bytes
}

/// Reads the record of an answer.
pub fn decode_kept(bytes: &[u8]) -> Read<(Answer<'_>, Micros)> {
    let (mut from, made) = open(bytes)?;
    match from.read()? {
        Record::Answer(answer) => close(&from, (answer, made)),
        _ => Err(Fault::Damaged("a record of another kind")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::properties::{answers, entries, holds};

    fn taken() -> impl Strategy<Value = Vec<Taken>> {
        let some = || 0..LAST_INSTANT;
        let one = (some(), some(), 0..1_000_000u64, some());
        prop::collection::vec(one.prop_map(|(until, number, slots, at)| Taken { until, number, slots, at }), 0..4)
    }

    fn removed() -> impl Strategy<Value = Vec<Removed>> {
        let one = (0..LAST_INSTANT, 0..1u64 << 48, 0..1u64 << 48);
        let one = one.prop_map(|(at, id, last_id)| Removed { at, id, last_id, text: "a*".into() });
        prop::collection::vec(one, 0..4)
    }

    fn read_all(bytes: &[u8]) -> [Option<Fault>; 4] {
        [
            KeyRecord::decode(bytes).err(),
            PatternsRecord::decode(bytes).err(),
            HoldRecord::decode(bytes).err(),
            decode_kept(bytes).err(),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back(
            entry in prop::option::of(entries()),
            patterns in prop::collection::vec(entries(), 0..3),
            (open, removed, hold, answer) in (taken(), removed(), holds(), answers()),
            (made, held_until, removals) in (0..LAST_INSTANT, 0..LAST_INSTANT, 4..u64::MAX),
            generation in 0..GENERATIONS,
        ) {
            let record = KeyRecord { removals, entry, generation, held_until, open };
            let bytes = record.encode(made);
            prop_assert_eq!(KeyRecord::decode(&bytes), Ok((record.clone(), made)));
            prop_assert!(KeyRecord::decode(&bytes[..bytes.len() - 1]).is_err());
            prop_assert!(KeyRecord::decode(&[&bytes[..], &[0]].concat()).is_err());
            let newer = [&[FORMAT + 1], &bytes[1..]].concat();
            prop_assert_eq!(KeyRecord::decode(&newer), Err(Fault::Newer));
            let record = PatternsRecord { last_id: 1 << 40, removals, removed, patterns };
            let bytes = record.encode(made);
            prop_assert_eq!(PatternsRecord::decode(&bytes), Ok((record.clone(), made)));
            let places = hold.items.iter().map(|(.., key)| *key).collect();
            let record = HoldRecord { hold, places };
            let bytes = record.encode(made);
            prop_assert_eq!(HoldRecord::decode(&bytes), Ok((record.clone(), made)));
            let bytes = encode_kept(&answer, made);
            prop_assert_eq!(decode_kept(&bytes), Ok((answer, made)));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3u8) {
            read_all(&bytes);
            read_all(&[&[FORMAT, kind], &bytes[..]].concat());
        }

        #[test]
        fn flipped_bits_are_survived(entry in entries(), open in taken(), hold in holds(), at in any::<u16>()) {
            let key = KeyRecord { removals: 0, entry: Some(entry.clone()), generation: 0, held_until: 0, open }.encode(7);
            let patterns = PatternsRecord { patterns: vec![entry], ..PatternsRecord::default() }.encode(7);
            let places = vec![""; hold.items.len()];
            for mut bytes in [key, patterns, HoldRecord { hold, places }.encode(7)] {
                let bit = usize::from(at) % (8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
                read_all(&bytes);
            }
        }
    }
}
