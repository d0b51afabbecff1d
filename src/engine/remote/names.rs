//! What records are called in the store, and the lists in which keys stand.
//!
//! | name | what |
//! |---|---|
//! | `flint:KEY` | a limit, or a key that lives by a pattern or by what a request brought |
//! | `flint.patterns` | all patterns |
//! | `flint.hold:NUMBER` | a hold, in a Cluster with the tag of the slot of its keys |
//! | `flint.answer:HEX` | a kept answer, in a Cluster with the tag of the slot of its request's keys |
//! | `flint.identity` | what ids of holds are made of |
//! | `flint.numbers` | the last number that was set aside for holds |
//! | `flint.counted:ID:…` | what was counted for the pattern of this id |
//!
//! No key has a control character, so the members of lists that are made of several parts are told apart by one.

use super::link::{limit_key, slot_of, tag_of};
use crate::clock::Micros;
use crate::limiter::scratch::{Live, Name, Place, Saved};

/// What ids of holds are made of.
pub const IDENTITY: &[u8] = b"flint.identity";

/// The last number that was set aside for holds.
pub const NUMBERS: &[u8] = b"flint.numbers";

/// The list of keys that are configured, or have values for a time.
pub const CONFIGURED: u8 = 0;

/// The list of keys that live by a pattern or by what a request brought.
pub const LIVE: u8 = 1;

/// The same keys, each after what it lives by.
pub const LIVE_BY: u8 = 2;

/// The list of holds that are open or remembered.
pub const HOLDS: u8 = 3;

/// The list of limits that keys share which found no room.
pub const OVERFLOWS: u8 = 4;

/// The list of answers that are kept.
pub const ANSWERS: u8 = 5;

/// The list of open holds, each after the instant at which it expires.
pub const OPEN: u8 = 6;

/// All lists.
pub const LISTS: [u8; 7] = [CONFIGURED, LIVE, LIVE_BY, HOLDS, OVERFLOWS, ANSWERS, OPEN];

/// Lists in which all records but that of the patterns stand: those together that may have the same names.
pub const LISTS_OF_RECORDS: [&[u8]; 4] = [&[CONFIGURED, LIVE], &[OVERFLOWS], &[HOLDS], &[ANSWERS]];

/// Bits of the number of a hold in a Cluster that are its slot.
pub const SLOT_BITS: u32 = 14;

/// The name of a record in the store. In a Cluster some names have the tag of a slot: a hold's is in its number, and
/// that of an answer is `slot`, that of its request's keys.
pub fn key(name: &Name, slot: Option<u16>) -> Vec<u8> {
    match (name, slot) {
        (Name::Key(key), _) => limit_key(key),
        (Name::Patterns, _) => b"flint.patterns".to_vec(),
        (Name::Hold(number), None) => format!("flint.hold:{number}").into_bytes(),
        (Name::Hold(number), Some(_)) => {
            format!("flint.hold:{{{}}}:{number}", tag_of(slot_of_hold(*number))).into_bytes()
        }
        (Name::Answer(hash), None) => format!("flint.answer:{}", hex(hash)).into_bytes(),
        (Name::Answer(hash), Some(slot)) => format!("flint.answer:{{{}}}:{}", tag_of(slot), hex(hash)).into_bytes(),
    }
}

fn slot_of_hold(number: u64) -> u16 {
    (number & ((1 << SLOT_BITS) - 1)) as u16
}

/// The slot in which a record has to be, where its name says so.
pub fn slot_of_name(name: &Name) -> Option<u16> {
    match name {
        Name::Key(key) => Some(slot_of(&limit_key(key))),
        Name::Hold(number) => Some(slot_of_hold(*number)),
        Name::Patterns | Name::Answer(_) => None,
    }
}

/// Two keys of an operation that lie in different slots, if there are some.
pub fn apart(names: &[Name]) -> Option<(&str, &str)> {
    let mut first: Option<(&str, u16)> = None;
    for name in names {
        let (Some(slot), Name::Key(key)) = (slot_of_name(name), name) else { continue };
        match first {
            None => first = Some((key, slot)),
            Some((other, known)) if known != slot => return Some((other, key)),
            Some(_) => {}
        }
    }
    None
}

/// The member of [`LIVE_BY`] that a key has.
pub fn live_member(live: Live, key: &str) -> Vec<u8> {
    let mut member = live_prefix(live);
    member.extend_from_slice(key.as_bytes());
    member
}

/// The lists in which a name stands, and the member that it is there.
pub fn members(name: &Name, place: Place) -> Vec<(u8, Vec<u8>)> {
    match (name, place) {
        (Name::Key(key), Place::Key { configured, live }) => {
            let key_bytes = || key.as_bytes().to_vec();
            let mut members = Vec::new();
            if configured {
                members.push((CONFIGURED, key_bytes()));
            }
            if let Some(live) = live {
                members.push((LIVE, key_bytes()));
                members.push((LIVE_BY, live_member(live, key)));
            }
            members
        }
        (Name::Key(key), Place::Overflow) => vec![(OVERFLOWS, key.as_bytes().to_vec())],
        (Name::Hold(number), Place::Hold { until }) => {
            let member = format!("{number:016x}").into_bytes();
            let open = until.map(|until| (OPEN, [open_until(until), member.clone()].concat()));
            let mut members = vec![(HOLDS, member)];
            members.extend(open);
            members
        }
        (Name::Answer(hash), Place::Answer) => vec![(ANSWERS, hex(hash).into_bytes())],
        _ => Vec::new(),
    }
}

/// The name of the record that has this member in a list, but [`LIVE_BY`].
pub fn name_of(list: u8, member: &str) -> Option<Name> {
    match list {
        CONFIGURED | LIVE | OVERFLOWS => Some(Name::Key(member.into())),
        HOLDS => u64::from_str_radix(member, 16).ok().map(Name::Hold),
        OPEN => u64::from_str_radix(member.get(16..)?, 16).ok().map(Name::Hold),
        ANSWERS => unhex(member.as_bytes()).map(Name::Answer),
        _ => None,
    }
}

/// How the members of [`OPEN`] begin that expire at this instant; those before are less.
pub fn open_until(until: Micros) -> Vec<u8> {
    format!("{until:016x}").into_bytes()
}

/// How the members of [`LIVE_BY`] begin that live by the same.
pub fn live_prefix(live: Live) -> Vec<u8> {
    match live {
        Live::Pattern(id) => format!("{id:016x}\u{1}").into_bytes(),
        Live::Requested => b"requested\x01".to_vec(),
    }
}

/// The counters of what was counted for a pattern: allowed, denied, allowed cost, denied cost.
pub fn counters(pattern: u64) -> [Vec<u8>; 4] {
    ["allowed", "denied", "allowed-cost", "denied-cost"]
        .map(|what| format!("flint.counted:{pattern}:{what}").into_bytes())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that were written so.
pub fn unhex(text: &[u8]) -> Option<[u8; 16]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; 16];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// How much longer than it makes a difference a record is left to the store, in milliseconds.
const MARGIN_MS: u64 = 60_000;

/// When the store may let go of a record, in milliseconds since 1970; of some never.
pub fn expire_at_ms(saved: &Saved) -> Option<u64> {
    saved.until.map(|until| until.div_ceil(1000).saturating_add(MARGIN_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_lists() {
        let configured = Place::Key { configured: true, live: Some(Live::Pattern(3)) };
        for (name, place) in [
            (Name::Key("a:b".into()), configured),
            (Name::Key("\u{2}a*".into()), Place::Overflow),
            (Name::Hold(1_800_000_000_000_000), Place::Hold { until: None }),
            (Name::Hold(7), Place::Hold { until: Some(1_800_000_000_000_000) }),
            (Name::Answer([0x5a; 16]), Place::Answer),
        ] {
            for (list, member) in members(&name, place).into_iter().filter(|(list, _)| *list != LIVE_BY) {
                assert_eq!(name_of(list, std::str::from_utf8(&member).unwrap()).as_ref(), Some(&name));
            }
        }
        assert_eq!(members(&Name::Key("a".into()), configured).len(), 3);
    }

    #[test]
    fn no_two_names_are_the_same() {
        let names = [
            Name::Key("a".into()),
            Name::Key("\u{2}a".into()),
            Name::Key("hold:1".into()),
            Name::Patterns,
            Name::Hold(1),
            Name::Hold(2),
            Name::Answer([0; 16]),
            Name::Answer([1; 16]),
        ];
        for slot in [None, Some(7)] {
            let mut keys: Vec<Vec<u8>> = names.iter().map(|name| key(name, slot)).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), names.len());
        }
        assert_eq!(key(&Name::Key("api:user-42".into()), None), b"flint:api:user-42");
        assert_eq!(unhex(hex(&[0xa5; 16]).as_bytes()), Some([0xa5; 16]));
        assert_eq!((unhex(b"zz"), unhex(&[b'g'; 32])), (None, None));
    }
}
