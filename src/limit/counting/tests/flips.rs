//! Values that change and come back, by examples.

use super::*;
use crate::bounds::MAX_RESTING;
use crate::limit::counting::parts::{Parts, StateParts};

/// Whole units that come back in a time.
fn refill(rate: u64, per: Micros, time: Micros) -> u64 {
    (u128::from(rate) * u128::from(time) / u128::from(per)) as u64
}

#[test]
fn a_limit_lowered_and_raised_again_has_what_it_had() {
    let mut key = Key::new("100/1h");
    assert!(key.check(90));
    key.set("5/1h");
    assert_eq!((key.one(1).allowed, key.one(0).used, key.one(0).debt), (false, 90, 85));
    assert_eq!(key.set("100/1h").left(), 10);
    // Later it has what came back meanwhile.
    key.set("5/1h").wait(HOUR / 10);
    assert_eq!(key.set("100/1h").left(), 20);
}

#[test]
fn ten_flips_give_nothing() {
    for (a, b) in [
        ("1000/1h", "10/1h"),
        ("1000/1h burst=1000", "1000/1h burst=10"),
        ("1000/1h fixed_window_counter", "10/1h"),
        ("1000/1h fixed_window_counter", "1000/1h burst=10"),
        ("1000/1h sliding_window_log", "1000/1h burst=10"),
        ("1000/1h sliding_window_log", "10/1h"),
        ("1000/1h sliding_window_counter", "10/1h"),
        ("1000/1h fixed_window_counter", "1000/1h sliding_window_log"),
        ("1000/1h fixed_window_counter", "1000/59m fixed_window_counter"),
        ("1000/1h, 500/1m", "10/1h"),
    ] {
        for pause in [0, 1, MS] {
            let mut key = Key::new(a);
            let begin = key.now;
            let mut allowed = 0;
            for _ in 0..10 {
                allowed += key.drain();
                allowed += key.wait(pause).set(b).drain();
                key.wait(pause).set(a);
            }
            allowed += key.drain();
            let most = 1000 + refill(1000, 59 * MINUTE, key.now - begin);
            assert!(allowed <= most, "{a}, {b}: {allowed}");
        }
    }
}

#[test]
fn below_zero_it_refills_at_the_faster_rate() {
    let mut key = Key::new("100/1h");
    key.check(90);
    key.set("5/1h");
    // 85 units at 100 an hour, then one at 5 an hour.
    assert_eq!(key.one(1).retry, Some(51 * MINUTE + 12 * MINUTE));
    assert_eq!(key.one(0).reset_at, key.now + 51 * MINUTE + HOUR);
    let debt = StateParts::Bucket { whole: -85, part: 0, at: key.now, full_at: key.now, fast: Some((100, HOUR)) };
    assert_eq!(key.standing.parts().windows, [debt]);
    assert_eq!(key.wait(51 * MINUTE).one(0).debt, 0);
    assert_eq!(key.one(1).retry, Some(12 * MINUTE));
    // Over zero in one step it is the same.
    let mut same = Key::new("100/1h");
    same.check(90);
    same.set("5/1h").wait(63 * MINUTE - 1);
    assert!(!same.check(1));
    assert!(same.wait(1).check(1));
    // A new rate that is faster pays by itself.
    let mut key = Key::new("1/1h burst=100");
    key.check(100);
    key.set("60/1h burst=10");
    assert_eq!(key.one(1).retry, Some(91 * MINUTE));
}

#[test]
fn where_a_debt_ends_does_not_depend_on_who_looks() {
    let (mut seen, mut unseen) = (Key::new("7/11ms burst=50"), Key::new("7/11ms burst=50"));
    for key in [&mut seen, &mut unseen] {
        assert!(key.check(50));
        key.set("3/13ms burst=20");
    }
    for _ in 0..100 {
        seen.wait(997);
    }
    unseen.at(seen.now);
    assert_eq!(seen, unseen);
}

#[test]
fn counters_keep_their_counts() {
    let mut key = Key::new("100/1h fixed_window_counter");
    key.at(10 * HOUR).check(90);
    key.wait(10 * MINUTE);
    let begin = 10 * HOUR;
    // A window keeps its beginning.
    assert_eq!(key.clone().set("200/1h fixed_window_counter").one(0).remaining, 110);
    assert_eq!(key.clone().set("50/1h fixed_window_counter").one(0).debt, 40);
    assert_eq!(key.clone().set("50/20m fixed_window_counter").one(1).retry, Some(10 * MINUTE));
    assert_eq!(key.clone().set("50/5m fixed_window_counter").one(0).remaining, 50);
    assert_eq!(key.clone().set("100/day").one(1).reset_at, DAY);
    // So does its count where it is another algorithm's.
    let log = StateParts::Events(vec![(begin, 90)]);
    assert_eq!(key.clone().set("100/2h sliding_window_log").standing.parts().windows, [log]);
    let pair = StateParts::Pair { start: begin, previous: 0, current: 90 };
    assert_eq!(key.clone().set("100/2h sliding_window_counter").standing.parts().windows, [pair]);
    assert_eq!(key.clone().set("100/2h").one(0).remaining, 10);
    // A log keeps its instants; as one lump it was spent in its last.
    let mut key = Key::new("100/1h sliding_window_log");
    key.at(begin).check(40);
    key.wait(10 * MINUTE).check(30);
    let log = StateParts::Events(vec![(begin + 10 * MINUTE, 30)]);
    assert_eq!(key.clone().set("50/10m sliding_window_log").standing.parts().windows, [log]);
    let end = begin + 70 * MINUTE;
    let window = StateParts::Window { start: begin + 10 * MINUTE, end, used: 70 };
    assert_eq!(key.clone().set("100/1h fixed_window_counter").standing.parts().windows, [window]);
    // A bucket's lump is spent now.
    let mut key = Key::new("100/1h");
    key.at(begin).check(40);
    key.wait(MINUTE + 1);
    let window = StateParts::Window { start: key.now, end: key.now + HOUR, used: 39 };
    assert_eq!(key.set("100/1h fixed_window_counter").standing.parts().windows, [window]);
    // A sliding counter's was spent when its window began.
    let mut key = Key::new("100/1h sliding_window_counter");
    key.at(begin).check(40);
    key.wait(90 * MINUTE).check(10);
    let window = StateParts::Window { start: begin + HOUR, end: begin + 2 * HOUR, used: 30 };
    assert_eq!(key.clone().set("100/1h fixed_window_counter").standing.parts().windows, [window]);
    let pair = StateParts::Pair { start: begin + HOUR, previous: 40, current: 10 };
    assert_eq!(key.set("100/2h sliding_window_counter").standing.parts().windows, [pair]);
}

#[test]
fn a_window_is_converted_from_its_like() {
    let mut key = Key::new("10/1s, 100/1h");
    key.check(10);
    key.wait(SECOND);
    // From the same period, each; the others from what is left.
    let left = |key: &Key| key.glance().windows.as_slice().iter().map(|quote| quote.remaining).collect::<Vec<_>>();
    assert_eq!(left(&key), [10, 90]);
    assert_eq!(left(key.clone().set("20/1s, 200/1h")), [20, 190]);
    assert_eq!(left(key.clone().set("20/1m, 100/1h")), [20, 90]);
    // From the most used where none is left.
    assert_eq!(left(key.clone().set("200/1h")), [190]);
    assert_eq!(left(key.clone().set("200/1m")), [190]);
    assert_eq!(left(key.clone().set("10/1s, 50/1m, 100/1h")), [10, 40, 90]);
    // From a resting one of its kind before another kind.
    assert_eq!(left(key.clone().set("10/1s").set("10/1s, 200/1h")), [10, 190]);
    // And the order in which they are written says nothing.
    let mut other = key.clone();
    other.set("100/1h, 10/1s");
    assert_eq!(other, key);
}

#[test]
fn what_rests_is_found_again() {
    let mut key = Key::new("100/1h, 10/1s");
    key.check(10);
    let before = key.clone();
    // Under `unlimited` nothing counts, and time goes on.
    assert!(key.set("unlimited").check(1_000_000));
    assert_eq!(key.clone().set("100/1h, 10/1s").standing, before.standing);
    assert_eq!(key.wait(36 * SECOND).set("100/1h, 10/1s").left(), 10);
    // A ban for a time.
    let mut key = Key::new("100/1h");
    key.check(50);
    assert_eq!(key.set("0/1h").wait(6 * MINUTE).set("100/1h").left(), 60);
    // Fixed windows go on as well.
    let mut key = Key::new("100/1h fixed_window_counter");
    key.check(100);
    key.set("5/1s").wait(HOUR - 1);
    assert_eq!(key.clone().set("100/1h fixed_window_counter").left(), 0);
    assert_eq!(key.wait(1).set("100/1h fixed_window_counter").left(), 100);
}

#[test]
fn what_is_spent_meanwhile_is_spent_there_too() {
    let mut key = Key::new("100/1h");
    key.check(1);
    key.set("1000/1h");
    assert_eq!(key.drain(), 999);
    // It pays at the faster rate that allowed it.
    key.set("100/1h");
    assert_eq!((key.one(0).debt, key.one(1).retry), (900, Some(54 * MINUTE + 36 * SECOND)));
    // A full bucket counts too, while the key is in use.
    let mut key = Key::new("100/1h, 10/1s");
    key.check(10);
    key.wait(SECOND).set("100/1h, 10000/1s").wait(1).check(90);
    key.set("100/1h, 10/1s");
    assert_eq!(key.glance().windows.as_slice()[0].debt, 80);
}

#[test]
fn the_same_values_change_nothing() {
    let mut key = Key::new("100/1h, 10/1s fixed_window_counter");
    key.check(7);
    let before = key.clone();
    key.set("10/1s fixed_window_counter, 100/1h");
    assert_eq!(key, before);
    let shadow = key.limit.clone().with_mode(crate::limit::Mode::Shadow);
    key.take(&shadow);
    assert_eq!(key.standing, before.standing);
}

#[test]
fn at_most_so_many_rest() {
    let mut key = Key::new("100/1h");
    key.check(50);
    for rate in 1..20 {
        key.set(&format!("{rate}/1h"));
    }
    assert_eq!(key.standing.parts().resting.len(), MAX_RESTING);
    // The memory is given back.
    key.wait(100 * HOUR);
    assert_eq!(key, *Key::of(&key.limit, 0).at(key.now));
}

/// Windows of one rate that end one after the other, each made the only one just before: what they allow together is
/// what the ceiling is for.
#[test]
fn a_chain_of_ending_windows_allows_no_more_than_one() {
    for algorithm in ["fixed_window_counter", "sliding_window_log", "sliding_window_counter"] {
        let text = |step: u64| format!("10/{}ms {algorithm}", 10_000 + 50 * step);
        let mut key = Key::new(&text(0));
        key.check(10);
        for step in (0..8).rev() {
            key.wait(MS).set(&text(step));
        }
        let mut allowed = 0;
        key.wait(9_980 * MS);
        for step in 0..8 {
            key.set(&text(step)).wait(20 * MS);
            allowed += key.drain();
            key.wait(30 * MS);
        }
        // A sliding counter lets each come gradually.
        assert!(allowed <= 20 && (allowed >= 10 || algorithm == "sliding_window_counter"), "{algorithm}: {allowed}");
    }
}

/// The same where a key is untouched in between, so that nothing is left of what it did.
#[test]
fn windows_that_end_together_allow_no_more_than_one() {
    let mut key = Key::new("1000/1h fixed_window_counter");
    key.check(1);
    key.wait(HOUR - 1).check(999);
    let begin = key.now;
    assert!(key.wait(1).check(1000));
    key.set("10/1s fixed_window_counter");
    let mut allowed = 1999;
    for _ in 0..3599 {
        allowed += key.wait(SECOND).drain();
    }
    // Both windows are over, and none of the next is open.
    allowed += key.wait(SECOND).set("1000/1h fixed_window_counter").drain();
    let most = 1000 + 1000 + refill(10, SECOND, key.now - begin);
    assert!(allowed > 30_000 && allowed <= most, "{allowed} of {most}");
}

#[test]
fn a_window_before_a_key_was_untouched_counts_as_an_edge() {
    let mut key = Key::new("1000/1h fixed_window_counter");
    key.check(1);
    key.wait(HOUR - 1);
    let begin = key.now;
    let mut allowed = key.drain();
    assert!(key.wait(1).is_untouched());
    // The large windows come last, when a ceiling is there for the small ones.
    for text in ["10/1s", "9/1s", "1000/1h", "10/1s", "1000/59m", "10/1s", "1000/58m"] {
        key.set(&format!("{text} fixed_window_counter"));
        if text == "10/1s" {
            key.wait(SECOND);
        }
        allowed += key.drain();
    }
    let most = 1000 + 1000 + refill(10, SECOND, key.now - begin);
    assert!(allowed > 1900 && allowed <= most, "{allowed} of {most}");
}

#[test]
fn a_single_change_meets_no_ceiling() {
    // All of a window at its end, and all of the next at its beginning, even if the values change in between.
    for (a, b) in [
        ("10/10s fixed_window_counter", "11/10s fixed_window_counter"),
        ("11/10s fixed_window_counter", "10/10s fixed_window_counter"),
        ("10/10s fixed_window_counter", "10/1s fixed_window_counter"),
        ("10/10s sliding_window_log", "10/10s fixed_window_counter"),
        ("10/10s fixed_window_counter", "10/10s sliding_window_log"),
        ("10/10s sliding_window_counter", "10/10s fixed_window_counter"),
    ] {
        for spent in [0, 9_900 * MS] {
            let mut key = Key::new(a);
            let begin = key.now;
            key.check(1);
            key.wait(spent).drain();
            key.at(begin + 9_950 * MS).set(b);
            // Whatever the windows say is left, is left.
            let bare = |key: &Key| {
                let parts = Parts { ceiling: None, resting: Vec::new(), ..key.standing.parts() };
                Standing::restore(&key.limit, &parts).glance(&key.limit, key.now, &mut Never)
            };
            for _ in 0..10 {
                assert_eq!(bare(&key), key.glance(), "{a}, {b}");
                let left = key.left();
                assert!(key.check(left), "{a}, {b}");
                let next = key.one(0).next.unwrap();
                key.wait(next);
            }
        }
    }
}

#[test]
fn what_a_ceiling_denies_is_told() {
    let mut key = Key::new("10/10s fixed_window_counter");
    let begin = key.now;
    key.check(1);
    key.wait(9_900 * MS).check(9);
    key.wait(100 * MS).check(10);
    // 1000 ms are over for the new window, which opens, as far as 20 units in a moment are allowed.
    key.set("10/1s fixed_window_counter").at(begin + 11_000 * MS);
    assert_eq!(key.left(), 10);
    let mut key = Key::new("1000/1h fixed_window_counter");
    let begin = key.now;
    assert!(key.check(1));
    assert!(key.wait(HOUR - 1).check(999));
    assert!(key.wait(1).check(1000));
    key.set("10/1s fixed_window_counter").wait(SECOND);
    assert_eq!(key.drain(), 10);
    // The window of one hour took no part in what was spent before its beginning, but the ceiling did.
    key.set("1000/50m fixed_window_counter");
    let figures = key.one(500);
    assert_eq!((figures.allowed, figures.remaining), (false, 0));
    let retry = figures.retry.unwrap();
    assert!((49 * SECOND..=50 * SECOND).contains(&retry), "{retry}");
    assert!(!key.clone().wait(retry - 1).check(500));
    assert!(key.clone().wait(retry).check(500));
    let next = figures.next.unwrap();
    assert_eq!(key.clone().wait(next - 1).left(), 0);
    assert_eq!(key.clone().wait(next).left(), 1);
    assert!(key.now > begin);
}
