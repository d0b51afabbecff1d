//! Each algorithm by examples.

use super::*;
use crate::bounds::{MAX_PERIOD_MS, MAX_UNITS};
use crate::limit::counting::algorithms::sliding_window_log::EventLog;
use crate::limit::counting::parts::{Parts, StateParts};
use crate::limit::counting::state::State;

fn quote(allowed: bool, remaining: u64, used: u64, reset_at: Micros, retry: Micros, next: Micros) -> Quote {
    Quote { allowed, remaining, used, debt: 0, reset_at, retry: Some(retry), next: Some(next) }
}

#[test]
fn standings_stay_small() {
    assert!(size_of::<State>() <= 40, "{}", size_of::<State>());
    assert!(size_of::<Standing>() <= 40, "{}", size_of::<Standing>());
}

#[test]
fn a_bucket_refills_without_losing_a_fraction() {
    // 3 per 7 ms, looked at in every microsecond: after 7 s exactly 3 000 units have come in.
    let mut key = Key::new("3/7ms burst=1000000");
    key.at(0).spend(1_000_000);
    for _ in 0..7_000_000 / 7 {
        key.wait(7);
    }
    let bucket = StateParts::Bucket { whole: 3000, part: 0, at: 7 * SECOND, full_at: 0, fast: None };
    assert_eq!(key.standing.parts(), Parts { windows: vec![bucket], ..Parts::default() });
}

#[test]
fn a_bucket_says_when_to_come_back() {
    let mut key = Key::new("100/1m");
    key.at(0);
    assert_eq!(key.one(1), quote(true, 99, 1, 600 * MS, 0, 600 * MS));
    assert_eq!(key.one(100), quote(true, 0, 100, MINUTE, 0, 600 * MS));
    key.spend(100);
    assert_eq!(key.one(1), quote(false, 0, 100, MINUTE, 600 * MS, 600 * MS));
    assert_eq!(key.one(3), quote(false, 0, 100, MINUTE, 1800 * MS, 600 * MS));
    assert!(!key.at(600 * MS - 1).check(1));
    assert!(key.at(600 * MS).check(1));
    assert_eq!(key.at(2 * MINUTE).one(0), quote(true, 100, 0, 2 * MINUTE, 0, 0));
}

#[test]
fn whoever_asks_often_enough_gets_all_of_a_rate() {
    for (rate, burst, every) in
        [(999, 1, 1), (900, 1, 1), (600, 1, 1), (400, 1, 1), (300, 1, 1), (150, 1, 1), (8000, 4, 100)]
    {
        let mut key = Key::new(&format!("{rate}/1s burst={burst}"));
        let seconds = 2;
        let mut allowed = 0;
        for _ in 0..seconds * SECOND / every {
            allowed += u64::from(key.wait(every).check(1));
        }
        let all = rate * seconds;
        assert!(allowed * 1000 >= all * 999 && allowed <= burst + all, "{allowed} of {all} with burst {burst}");
    }
}

#[test]
fn a_debt_is_paid_before_anything_is_allowed() {
    let mut key = Key::new("10/1s");
    key.at(0).spend(25);
    let figures = key.one(1);
    assert_eq!((figures.used, figures.debt, figures.remaining), (25, 15, 0));
    assert_eq!((figures.retry, figures.next), (Some(1600 * MS), Some(1600 * MS)));
    assert_eq!(figures.reset_at, 2500 * MS);
    assert!(!key.at(1600 * MS - 1).check(1));
    assert!(key.at(1600 * MS).check(1));
    // A debt has a bound.
    for text in ["10/1s", "10/1s fixed_window_counter", "10/1s sliding_window_log", "10/1s sliding_window_counter"] {
        let mut key = Key::new(text);
        key.spend(u64::MAX).spend(MAX_UNITS).spend(1);
        assert_eq!((key.one(1).debt, key.one(1).allowed), (MAX_UNITS, false), "{text}");
    }
}

#[test]
fn a_rate_of_0_denies_for_ever() {
    for text in ["0/1m", "0/1m fixed_window_counter", "0/1m sliding_window_log", "0/1m sliding_window_counter", "0/day"]
    {
        let mut key = Key::new(text);
        let never = Quote { retry: None, next: None, ..quote(false, 0, 0, key.now, 0, 0) };
        assert_eq!(key.one(1), never, "{text}");
        assert!(key.is_untouched());
        key.set("10/1m");
        assert!(key.check(10));
        key.set(text);
        assert!(!key.is_untouched());
        assert_eq!((key.one(1).allowed, key.one(1).retry, key.one(1).next), (false, None, None), "{text}");
        assert_eq!(key.wait(30 * SECOND).set("10/1m").left(), 5, "{text}");
    }
}

#[test]
fn a_cost_over_the_capacity_is_never_allowed() {
    for text in ["10/1s", "10/1s fixed_window_counter", "10/1s sliding_window_log", "10/1s sliding_window_counter"] {
        let mut key = Key::new(text);
        for cost in [11, u64::MAX] {
            assert_eq!((key.one(cost).allowed, key.one(cost).retry), (false, None), "{text}");
        }
        key.spend(25);
        assert_eq!((key.one(11).allowed, key.one(11).retry), (false, None), "{text}");
    }
}

#[test]
fn a_window_opens_at_the_first_check() {
    let mut key = Key::new("10/1s fixed_window_counter");
    assert_eq!(key.at(500).one(0), quote(true, 10, 0, 500, 0, 0));
    assert_eq!(key.at(700).one(10), quote(true, 0, 10, SECOND + 700, 0, SECOND));
    key.spend(10);
    assert_eq!(key.at(SECOND + 699).one(1), quote(false, 0, 10, SECOND + 700, 1, 1));
    assert!(key.at(SECOND + 700).check(10));
}

#[test]
fn a_calendar_window_ends_with_its_period() {
    let mut key = Key::new("10/day");
    key.at(10 * DAY + HOUR);
    assert_eq!(key.one(0), quote(true, 10, 0, key.now, 0, 0));
    assert_eq!(key.one(4), quote(true, 6, 4, 11 * DAY, 0, 23 * HOUR));
    key.spend(4);
    assert_eq!(key.at(11 * DAY - 1).one(7), quote(false, 6, 4, 11 * DAY, 1, 1));
    assert!(key.at(11 * DAY).is_untouched());
    // It opens in whatever day the next check comes.
    assert!(key.at(20 * DAY + 1).check(10));
    assert_eq!(key.one(1).reset_at, 21 * DAY);
}

#[test]
fn an_open_calendar_window_does_not_ask_again() {
    let mut key = Key::new("10/day");
    key.at(10 * DAY + HOUR).spend(1);
    let ends = &mut Never;
    assert!(key.standing.quote(&key.limit, key.now, 1, ends).allowed);
    key.standing.spend(&key.limit, key.now, 1, ends);
    // Nor where its rate changes, and not its period.
    key.standing.reconfigure(&key.limit, &limit("20/day"), key.now, ends);
    key.limit = limit("20/day");
    assert_eq!(key.one(1), quote(true, 17, 3, 11 * DAY, 0, 23 * HOUR));
}

#[test]
fn units_of_a_log_expire_one_period_after_they_were_spent() {
    let mut key = Key::new("10/1s sliding_window_log");
    for (now, cost) in [(0, 4), (0, 2), (300 * MS, 4)] {
        assert!(key.at(now).check(cost));
    }
    assert_eq!(key.one(6), quote(false, 0, 10, 1300 * MS, 700 * MS, 700 * MS));
    assert_eq!(key.one(7).retry, Some(SECOND));
    assert!(!key.at(999 * MS).check(1));
    assert_eq!(key.at(SECOND).one(6), quote(true, 0, 10, 2 * SECOND, 0, 300 * MS));
}

#[test]
fn instants_of_a_log_are_rounded_up_to_milliseconds() {
    let mut key = Key::new("10/1s sliding_window_log");
    key.at(1).spend(1).at(999).spend(1).at(MS).spend(1).at(MS + 1).spend(1);
    let events = StateParts::Events(vec![(MS, 3), (2 * MS, 1)]);
    assert_eq!(key.standing.parts().windows, [events]);
    assert_eq!(key.one(10).retry, Some(SECOND + 2 * MS - key.now));
}

#[test]
fn memory_of_a_log_is_bounded_by_distinct_milliseconds_and_given_back() {
    let limit = limit("1000000/1s sliding_window_log");
    let [window] = limit.windows() else { panic!() };
    let mut log = EventLog::default();
    for check in 0..100_000 {
        log.spend(window, check * 10 + 1, 1);
    }
    assert_eq!((log.events().len(), log.used()), (1000, 100_000));
    assert!(log.memory() >= 1000);
    log.advance(window, 5 * SECOND);
    assert_eq!(log.used(), 0);
    assert!(log.memory() <= 64);
}

#[test]
fn running_totals_of_a_log_may_wrap() {
    let limit = limit("10/1s sliding_window_log");
    let [window] = limit.windows() else { panic!() };
    let mut log = EventLog::expired(u64::MAX - 4);
    log.spend(window, 0, 6);
    log.spend(window, MS, 4);
    assert_eq!(log.used(), 10);
    assert_eq!(log.quote(window, MS, 7, false).retry, Some(SECOND));
    assert_eq!(log.events().collect::<Vec<_>>(), [(0, 6), (MS, 4)]);
}

#[test]
fn the_last_window_counts_by_its_overlap() {
    let mut key = Key::new("100/1s sliding_window_counter");
    key.at(0).spend(100);
    assert_eq!(key.one(1), quote(false, 0, 100, 2 * SECOND, 1010 * MS, 1010 * MS));
    assert!(!key.at(1010 * MS - 1).check(1));
    assert_eq!(key.at(1010 * MS).one(1), quote(true, 0, 100, 3 * SECOND, 0, 10 * MS));
    assert_eq!(key.at(1250 * MS).one(0), quote(true, 25, 75, 2 * SECOND, 0, 10 * MS));
    assert_eq!(key.at(2 * SECOND).one(0), quote(true, 100, 0, 2 * SECOND, 0, 0));
}

#[test]
fn all_windows_must_allow() {
    let mut key = Key::new("10/1s, 15/1m");
    assert_eq!(key.left(), 10);
    assert!(key.check(8));
    let verdict = key.quote(2);
    assert!(verdict.allowed);
    // The least remaining.
    assert_eq!(verdict.windows.as_slice().iter().map(|quote| quote.remaining).collect::<Vec<_>>(), [0, 5]);
    assert_eq!(verdict.binding, 0);
    // Denied by one: nothing is spent of any, and both figures are unchanged.
    let verdict = key.quote(3);
    assert!(!verdict.allowed);
    let figures = |verdict: &Verdict| {
        verdict.windows.as_slice().iter().map(|quote| (quote.allowed, quote.remaining, quote.retry)).collect::<Vec<_>>()
    };
    assert_eq!(figures(&verdict), [(false, 2, Some(100 * MS)), (true, 7, Some(0))]);
    assert_eq!(verdict.binding, 0);
    assert!(key.wait(SECOND).check(7));
    // The longest wait.
    let verdict = key.quote(4);
    assert_eq!(figures(&verdict), [(false, 3, Some(100 * MS)), (false, 0, Some(15_000 * MS))]);
    assert_eq!(verdict.binding, 1);
    // Never is the longest.
    key.set("0/1s, 15/1m");
    assert_eq!((key.quote(1).binding, key.quote(1).windows.as_slice()[0].retry), (0, None));
    key.set("5/1s, 15/1m");
    assert_eq!(key.quote(9).binding, 0);
}

#[test]
fn unlimited_allows_everything_and_keeps_nothing() {
    let mut key = Key::new("unlimited");
    assert!(key.check(MAX_UNITS));
    assert!(key.quote(MAX_UNITS).windows.as_slice().is_empty());
    assert!(key.is_untouched());
    assert_eq!(key.set("10/1m").left(), 10);
}

#[test]
fn extremes_do_not_overflow() {
    let longest = MAX_PERIOD_MS;
    for text in [
        format!("{MAX_UNITS}/1ms"),
        format!("{MAX_UNITS}/{longest}ms"),
        format!("1/{longest}ms burst=1000"),
        format!("1/1ms burst={MAX_UNITS}"),
        format!("{MAX_UNITS}/{longest}ms fixed_window_counter"),
        format!("{MAX_UNITS}/{longest}ms sliding_window_log"),
        format!("{MAX_UNITS}/{longest}ms sliding_window_counter"),
    ] {
        let mut key = Key::new(&text);
        let all = key.left();
        assert!(key.check(all));
        let reset = key.one(0).reset_at;
        assert!(key.clone().at(reset - 1).left() < all, "{text}");
        assert_eq!(key.at(reset).left(), all, "{text}");
        assert!(key.check(1));
        assert_eq!(key.at(u64::MAX / 2).left(), all, "{text}");
        key.spend(all).at(u64::MAX - 1);
        key.spend(all).spend(u64::MAX).quote(1);
    }
}
