//! What is reported of single operations.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::{Clock, Micros};
use crate::error::{Kind, Result};
use crate::limiter::scratch::*;
use crate::limiter::tests::START;
use crate::limiter::{Cost, Item, Limiter, Setting};
use crate::store::properties::entries;

const SECOND: Micros = 1_000_000;

fn name(key: &str) -> Name {
    Name::Key(key.into())
}

/// A single lane, and its records.
struct Alone {
    scratch: Scratch,
    records: HashMap<Name, Saved>,
    next_hold: u64,
}

impl Alone {
    fn new() -> Alone {
        Alone { scratch: Scratch::new(Clock::manual(START), &[3; 16], 2, 10), records: HashMap::new(), next_hold: 5 }
    }

    /// Runs an operation, and writes what it has changed.
    fn run<T>(&mut self, mut act: impl FnMut(&Limiter) -> Result<T>) -> (T, Looked) {
        for _ in 0..9 {
            self.scratch.begin();
            let answer = act(self.scratch.limiter());
            let looked = self.scratch.end();
            for name in &looked.missing {
                let record = self.records.get(name).map(|saved| &*saved.record);
                self.scratch.load(name, record).unwrap();
            }
            if looked.wants_numbers {
                self.scratch.set_hold_numbers(self.next_hold..self.next_hold + 1);
                self.next_hold += 1;
            }
            if looked.is_complete() {
                for name in &looked.changed {
                    match self.scratch.save(name).unwrap() {
                        Some(saved) => drop(self.records.insert(name.clone(), saved)),
                        None => drop(self.records.remove(name)),
                    }
                }
                self.scratch.won(&looked);
                return (answer.unwrap(), looked);
            }
        }
        panic!("something is always missing");
    }

    fn configure(&mut self, key: &str, limit: &str) {
        self.run(|limiter| limiter.configure(key, limit.parse().unwrap()));
    }
}

fn sorted(names: &[Name]) -> Vec<Name> {
    let mut names = names.to_vec();
    names.sort();
    names
}

#[test]
fn an_operation_tells_what_it_looked_at_and_what_it_changed() {
    let mut alone = Alone::new();
    alone.scratch.begin();
    assert_eq!(alone.scratch.limiter().check("a", 1).unwrap_err().kind(), Kind::LimitNotConfigured);
    let looked = alone.scratch.end();
    assert_eq!((looked.missing.clone(), looked.is_complete()), (vec![Name::Patterns, name("a")], false));
    assert_eq!(sorted(&looked.touched), [name("a"), Name::Patterns]);

    alone.configure("a", "2/1h fixed_window_counter");
    alone.configure("u:*", "5/1m");
    // A key with its own limit needs no look at the patterns.
    let (decision, looked) = alone.run(|limiter| limiter.check("a", 2));
    assert!(decision.allowed);
    assert_eq!((looked.touched, looked.changed), (vec![name("a")], vec![name("a")]));
    // A denial changes nothing, and is to be written some time.
    let (decision, looked) = alone.run(|limiter| limiter.check("a", 1));
    assert!(!decision.allowed);
    assert_eq!((looked.touched, looked.changed), (vec![name("a")], vec![]));
    assert_eq!(alone.scratch.unsaved_denials(), [name("a")]);
    let (_, looked) = alone.run(|limiter| limiter.refund(Item::new("a")));
    assert_eq!((looked.changed, alone.scratch.unsaved_denials()), (vec![name("a")], vec![]));
    // A key by a pattern needs the patterns; its birth is reported.
    let (_, looked) = alone.run(|limiter| limiter.check("u:1", 1));
    assert_eq!((sorted(&looked.touched), looked.changed), (vec![name("u:1"), Name::Patterns], vec![name("u:1")]));
    assert_eq!((looked.births, looked.counted), (vec![(Live::Pattern(1), 1)], vec![(1, [1, 0, 1, 0])]));
    assert_eq!(alone.scratch.live(Live::Pattern(1)), 1);
    // A key that is there already is not born again, and a look changes nothing.
    let (_, looked) = alone.run(|limiter| limiter.check("u:1", 1));
    assert_eq!((looked.births, looked.changed), (vec![], vec![name("u:1")]));
    let (_, looked) = alone.run(|limiter| limiter.peek("u:1".into()).and(limiter.status("a")));
    assert_eq!((sorted(&looked.touched), looked.is_changed()), (vec![name("a"), name("u:1"), Name::Patterns], false));
    // 2 units of 5 a minute are back after 24 seconds; what is configured stays.
    assert_eq!(alone.records[&name("u:1")].until, Some(START + 24 * SECOND));
    assert_eq!((alone.records[&name("a")].until, alone.records[&Name::Patterns].until), (None, None));
}

#[test]
fn what_is_not_complete_is_put_back() {
    let mut alone = Alone::new();
    alone.configure("a", "3/1h fixed_window_counter");
    let used = |alone: &mut Alone| alone.run(|limiter| limiter.status("a")).0.unwrap().used;
    alone.scratch.begin();
    assert!(alone.scratch.limiter().check("a", 1).unwrap().allowed);
    let hold = alone.scratch.limiter().hold("a", 1, Duration::from_secs(60));
    assert_eq!(hold.unwrap_err().kind(), Kind::Overloaded);
    let looked = alone.scratch.end();
    assert!(looked.wants_numbers && looked.missing.is_empty() && looked.changed.is_empty());
    assert_eq!(used(&mut alone), Some(0));
    // With a key that is missing, and with patterns that come and go.
    alone.configure("x:*", "1/1h");
    alone.run(|limiter| limiter.check("x:1", 1));
    alone.scratch.begin();
    let limiter = alone.scratch.limiter();
    limiter.check("a", 1).unwrap();
    limiter.remove("x:*").unwrap();
    limiter.configure("y:*", "1/1h".parse().unwrap()).unwrap();
    assert!(limiter.status("x:1").unwrap().is_none());
    limiter.check("missing", 1).unwrap_err();
    assert_eq!(alone.scratch.end().missing, [name("missing")]);
    assert_eq!(used(&mut alone), Some(0));
    assert_eq!(alone.scratch.patterns(), [(1, "x:*".to_owned())]);
    assert!(!alone.run(|limiter| limiter.check("x:1", 1)).0.allowed);
    assert_eq!(alone.scratch.live(Live::Pattern(1)), 1);
}

#[test]
fn a_hold_is_a_record_with_its_keys_and_its_number_comes_from_outside() {
    let mut alone = Alone::new();
    alone.configure("gpu", "slots=2");
    alone.scratch.set_hold_low(14, 77);
    let (held, looked) = alone.run(|limiter| limiter.hold("gpu", 1, Duration::from_secs(60)));
    let id = held.hold.unwrap().id;
    let number = 5 << 14 | 77;
    assert_eq!(alone.scratch.hold_number(&id), Some(number));
    assert_eq!(sorted(&looked.changed), [name("gpu"), Name::Hold(number)]);
    let until = alone.records[&Name::Hold(number)].until;
    assert_eq!(until, Some(START + 60 * SECOND + 600 * SECOND));
    // Another lane that has only the key knows how many slots are in use; settling needs the hold, and its keys.
    let mut other = Alone { records: alone.records.clone(), ..Alone::new() };
    let (status, looked) = other.run(|limiter| limiter.status("gpu"));
    let status = status.unwrap();
    assert_eq!((status.used, looked.touched), (Some(1), vec![name("gpu")]));
    assert_eq!(status.slots.unwrap().holds[0].id, id);
    let (settled, looked) = other.run(|limiter| limiter.settle(&id, Cost::AsHeld));
    assert_eq!((settled.results.len(), sorted(&looked.changed)), (1, vec![name("gpu"), Name::Hold(number)]));
    assert_eq!(other.run(|limiter| limiter.status("gpu")).0.unwrap().used, Some(0));
    // The first has lost that race, and gets that answer.
    for (name, saved) in &other.records {
        alone.scratch.load(name, Some(&saved.record)).unwrap();
    }
    let again = alone.run(|limiter| limiter.settle(&id, Cost::Units(7)).map(|settled| settled.late)).0;
    assert!(!again, "of slots there is no other cost");
    // Its limit goes and comes again: what is held of it is still held.
    alone.run(|limiter| limiter.hold("gpu", 2, Duration::from_secs(60)));
    alone.run(|limiter| limiter.remove("gpu"));
    assert_eq!(alone.records[&name("gpu")].until, Some(START + 60 * SECOND));
    alone.scratch.forget_all();
    alone.configure("gpu", "slots=2");
    assert_eq!(alone.run(|limiter| limiter.status("gpu")).0.unwrap().used, Some(2));
}

#[test]
fn the_bound_on_keys_is_that_of_the_store() {
    let mut alone = Alone::new();
    alone.run(|limiter| {
        let setting = Setting::new("u:*", "9/1h".parse().unwrap()).with_max_keys(3);
        limiter.configure_setting(&setting)
    });
    alone.scratch.set_live(Live::Pattern(1), 2);
    assert!(!alone.run(|limiter| limiter.check("u:1", 1)).0.overflow);
    assert_eq!(alone.scratch.live(Live::Pattern(1)), 3);
    let (decision, looked) = alone.run(|limiter| limiter.check("u:2", 2));
    assert!(decision.overflow);
    assert_eq!((looked.changed, looked.births), (vec![name("\u{2}u:*")], vec![]));
    // The shared limit is found again, also by a hold and its settlement.
    alone.scratch.forget_all();
    let held = alone.run(|limiter| limiter.hold("u:3", 3, Duration::from_secs(60))).0;
    assert_eq!(held.all.results[0].remaining, Some(4));
    alone.scratch.forget_all();
    let id = held.hold.unwrap().id;
    let (settled, looked) = alone.run(|limiter| limiter.settle(&id, Cost::Units(1)));
    assert_eq!(settled.results[0].remaining, Some(6));
    assert_eq!(sorted(&looked.changed), [name("\u{2}u:*"), Name::Hold(5)]);
    // Of what requests bring there may be two.
    let limit = "1/1h".parse().unwrap();
    for (key, overflow) in [("a", false), ("b", false), ("c", true)] {
        let decision = alone.run(|limiter| limiter.check_item(Item::new(key).with_limit(&limit))).0;
        assert_eq!(decision.overflow, overflow, "{key}");
    }
    assert_eq!(alone.scratch.live(Live::Requested), 2);
    alone.scratch.set_live(Live::Requested, 0);
    assert!(!alone.run(|limiter| limiter.check_item(Item::new("d").with_limit(&limit))).0.overflow);
}

#[test]
fn a_record_that_is_none_is_an_error_that_names_it() {
    let mut alone = Alone::new();
    alone.configure("a", "3/1h");
    let record = alone.records[&name("a")].record.clone();
    let mut newer = record.clone();
    newer[0] = 9;
    for (bytes, of, kind) in [
        (&record[..record.len() - 1], name("a"), Kind::Corrupt),
        (&record[..], name("b"), Kind::Corrupt),
        (&[], name("a"), Kind::Corrupt),
        (&newer[..], name("a"), Kind::Unsupported),
        (&record[..], Name::Patterns, Kind::Corrupt),
        (&record[..], Name::Hold(7), Kind::Corrupt),
        (&record[..], Name::Answer([1; 16]), Kind::Corrupt),
    ] {
        let error = alone.scratch.load(&of, Some(bytes)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!alone.scratch.is_loaded(&of), "{error}");
        if let Name::Key(key) = &of {
            assert!(error.message().contains(&**key), "{error}");
        }
        alone.scratch.load(&Name::Patterns, alone.records.get(&Name::Patterns).map(|saved| &*saved.record)).unwrap();
    }
    assert_eq!(alone.scratch.save(&name("a")).unwrap_err().kind(), Kind::Internal);
    assert!(alone.run(|limiter| limiter.check("a", 3)).0.allowed);
}

proptest! {
    /// Whatever a record says: it is refused, or the key can be used.
    #[test]
    fn no_record_makes_a_panic(entry in entries(), bit in any::<u16>(), held_until in any::<u32>()) {
        use super::super::record::KeyRecord;
        use crate::store::record::Source;
        for source in [Source::Exact, Source::Request, Source::Pattern(1)] {
            let mut alone = Alone::new();
            alone.configure("*", "5/1m");
            let mut entry = entry.clone();
            entry.source = source;
            let key: std::sync::Arc<str> = entry.key.into();
            let (entry, held_until) = (Some(entry), held_until.into());
            let record = KeyRecord { removals: 0, entry, generation: 0, held_until, open: Vec::new() };
            let mut bytes = record.encode(START);
            for _ in 0..2 {
                if alone.scratch.load(&Name::Key(key.clone()), Some(&bytes)).is_ok() {
                    alone.records.insert(Name::Key(key.clone()), Saved { record: bytes.clone(), until: None });
                    alone.scratch.begin();
                    let limiter = alone.scratch.limiter();
                    let _ = (limiter.check(&key, 1), limiter.status(&key), limiter.refund(Item::new(&key)));
                    let _ = limiter.hold(&key, 1, Duration::from_secs(1));
                    let looked = alone.scratch.end();
                    for name in looked.changed {
                        alone.scratch.save(&name).unwrap();
                    }
                }
                let bit = usize::from(bit) % (8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
