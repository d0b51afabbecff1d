//! What limits, windows, keys and costs may be.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::bounds::{MAX_PERIOD_MS, MAX_SLOTS, MAX_UNITS, MAX_WINDOWS};
use crate::error::Kind;

/// Any period, a calendar's in a few zones.
pub fn periods() -> impl Strategy<Value = Period> {
    let fixed = prop_oneof![3 => 1..50u64, 2 => 1..5000u64, 1 => MAX_PERIOD_MS - 5..=MAX_PERIOD_MS];
    let units = prop::sample::select(CalendarUnit::ALL);
    let zones = prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Etc/GMT+12"]);
    prop_oneof![
        4 => fixed.prop_map(|ms| Period::of_millis(ms).unwrap()),
        1 => (units, zones, 1..=31u64).prop_map(|(unit, tz, anchor)| {
            let period = Period::calendar(unit).with_tz(tz).unwrap();
            period.with_anchor(anchor).unwrap_or(period)
        }),
    ]
}

/// Any window, one of rate 0 now and then.
pub fn windows() -> impl Strategy<Value = Window> {
    let rate = prop_oneof![6 => 1..20u64, 4 => 1..2000u64, 2 => MAX_UNITS - 5..=MAX_UNITS, 1 => Just(0)];
    let burst = prop::option::of(prop_oneof![1..30u64, 1..3000u64]);
    (rate, periods(), 0..4usize, burst).prop_map(|(rate, period, algorithm, burst)| {
        let algorithm = if period.is_calendar() { Algorithm::FixedWindowCounter } else { Algorithm::ALL[algorithm] };
        Window::of(rate, period, algorithm, burst)
            .unwrap_or_else(|_| Window::of(rate, period, algorithm, None).unwrap())
    })
}

/// Any limit: mostly of one window, up to the most there may be, or unlimited.
pub fn limits() -> impl Strategy<Value = Limit> {
    let count = prop_oneof![4 => Just(1), 3 => 2..4usize, 1 => 1..=MAX_WINDOWS];
    let mode = prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Shadow)];
    let several = count.prop_flat_map(|count| prop::collection::vec(windows(), count)).prop_map(|windows| {
        let first = windows[0];
        Limit::of(windows).unwrap_or_else(|_| Limit::from(first))
    });
    let any = prop_oneof![12 => several, 1 => Just(Limit::unlimited()),
        1 => (1..=MAX_SLOTS).prop_map(|slots| Limit::of_slots(slots).unwrap())];
    (any, mode).prop_map(|(limit, mode)| limit.with_mode(mode))
}

fn message(error: crate::error::Error) -> String {
    assert_eq!(error.kind(), Kind::InvalidArgument);
    error.message().to_owned()
}

#[test]
fn bounds_of_a_window_hold_at_the_edge_and_break_one_past_it() {
    let bucket = Algorithm::TokenBucket;
    let window = |rate, ms, algorithm, burst| Limit::of_millis(rate, ms, algorithm, burst);
    for (rate, period, burst) in [
        (0, 1, None),
        (1, 1, None),
        (MAX_UNITS, MAX_PERIOD_MS, None),
        (1, MAX_PERIOD_MS, Some(1000)),
        (1, 1, Some(1)),
        (MAX_UNITS, 1, Some(MAX_UNITS)),
    ] {
        let limit = window(rate, period, bucket, burst).unwrap();
        let [window] = limit.windows() else { panic!("{limit}") };
        assert_eq!((window.rate(), window.period(), window.algorithm()), (rate, Period::Fixed(period * 1000), bucket));
        assert_eq!(window.capacity(), burst.unwrap_or(rate));
        assert_eq!(window.burst(), (rate > 0).then_some(burst.unwrap_or(rate)));
        assert_eq!(window.fields().window().unwrap(), *window);
    }
    for (rate, period, algorithm, burst, start) in [
        (MAX_UNITS + 1, 1, bucket, None, "rate must be from 0 to 1000000000000 units, not 1000000000001"),
        (1, 0, bucket, None, "per must be from 1ms to 366d, not 0ms"),
        (1, MAX_PERIOD_MS + 1, bucket, None, "per must be from 1ms to 366d"),
        (1, u64::MAX, bucket, None, "per must be from 1ms to 366d"),
        (1, 1, bucket, Some(0), "burst must be from 1 to 1000000000000 units, not 0"),
        (1, 1, bucket, Some(MAX_UNITS + 1), "burst must be from 1 to"),
        (1, MAX_PERIOD_MS, bucket, Some(1001), "burst 1001 would take more than 1000 years"),
        (0, 1, bucket, Some(1), "burst must be left out if rate is 0"),
        (1, 1, Algorithm::SlidingWindowLog, Some(1), "burst is only for token_bucket; leave it out for sliding_w"),
    ] {
        let said = message(window(rate, period, algorithm, burst).unwrap_err());
        assert!(said.starts_with(start), "{said}");
    }
}

#[test]
fn calendar_windows_are_fixed_window_counters() {
    for unit in CalendarUnit::ALL.iter().copied() {
        let period = Period::calendar(unit);
        let window = Window::of(5, period, Algorithm::FixedWindowCounter, None).unwrap();
        assert_eq!(
            (window.capacity(), window.burst(), window.to_string()),
            (5, None, format!("5/{unit}", unit = unit.name()))
        );
        for other in Algorithm::ALL.iter().copied().filter(|other| *other != Algorithm::FixedWindowCounter) {
            let said = message(Window::of(5, period, other, None).unwrap_err());
            assert!(said.starts_with("algorithm of a calendar period must be fixed_window_counter"), "{said}");
        }
        let said = message(Window::of(5, period, Algorithm::FixedWindowCounter, Some(5)).unwrap_err());
        assert!(said.starts_with("burst is only for"), "{said}");
    }
    let by_hand = |unit, anchor| Period::Calendar { unit, zone: Zone::UTC, anchor };
    for (period, start) in [
        (by_hand(CalendarUnit::Day, 2), "anchor is only for"),
        (by_hand(CalendarUnit::Month, 0), "anchor must be"),
        (by_hand(CalendarUnit::Year, 32), "anchor must be"),
        (Period::Fixed(1500), "per must be whole milliseconds"),
        (Period::Fixed(0), "per must be from"),
        (Period::Fixed(u64::MAX / 1000 * 1000), "per must be from"),
    ] {
        let said = message(Window::of(1, period, Algorithm::FixedWindowCounter, None).unwrap_err());
        assert!(said.starts_with(start), "{said}");
    }
}

#[test]
fn periods_are_whole_milliseconds() {
    let per = |per| Window::new(1, per, Algorithm::TokenBucket, None);
    let (least, most) = (Duration::from_millis(1), Duration::from_millis(MAX_PERIOD_MS));
    assert_eq!(per(least).unwrap().period(), Period::Fixed(1000));
    assert_eq!(per(most).unwrap().period(), Period::Fixed(MAX_PERIOD_MS * 1000));
    let moment = Duration::from_nanos(1);
    for wrong in [Duration::ZERO, moment, least + moment, most - moment, most + least, Duration::MAX] {
        assert!(message(per(wrong).unwrap_err()).starts_with("per must be "), "{wrong:?}");
    }
}

#[test]
fn fields_name_what_is_missing_or_wrong() {
    let some = |text: &str| Some(text.to_owned());
    let good = Fields { rate: Some(100), per: some("1m"), ..Fields::default() };
    assert_eq!(good.window().unwrap().to_string(), "100/1m");
    assert!(Fields::default().is_empty() && !good.is_empty());
    let month = Fields { per: some("month"), tz: some("europe/berlin"), anchor: Some(31), ..good.clone() };
    let window = month.window().unwrap();
    assert_eq!(window.to_string(), "100/month tz=Europe/Berlin anchor=31");
    let all = Fields { algorithm: some("fixed_window_counter"), tz: some("Europe/Berlin"), ..month.clone() };
    assert_eq!(window.fields(), all);
    for (fields, start) in [
        (Fields::default(), "rate and per must be given"),
        (Fields { rate: None, ..good.clone() }, "rate must be given"),
        (Fields { per: None, ..good.clone() }, "per must be given"),
        (Fields { per: some("1day"), ..good.clone() }, "per must be `1d`"),
        (Fields { rate: Some(u64::MAX), ..good.clone() }, "rate must be"),
        (Fields { algorithm: some("leaky"), ..good.clone() }, "algorithm `leaky`"),
        (Fields { burst: Some(0), ..good.clone() }, "burst must be"),
        (Fields { tz: some("UTC"), ..good.clone() }, "tz is only for"),
        (Fields { anchor: Some(1), ..good.clone() }, "anchor is only for"),
        (Fields { tz: some("Nowhere/At\u{1b}All"), ..month.clone() }, "tz `Nowhere/At\u{fffd}All`"),
        (Fields { anchor: Some(32), ..month.clone() }, "anchor must be"),
        (Fields { per: some("week"), anchor: Some(1), ..good.clone() }, "anchor is only for"),
        (Fields { algorithm: some("token_bucket"), ..month.clone() }, "algorithm of a calendar period"),
        (Fields { burst: Some(5), ..month }, "burst is only for"),
    ] {
        let said = message(fields.window().unwrap_err());
        assert!(said.starts_with(start), "{said}");
    }
}

#[test]
fn a_limit_has_one_to_eight_windows() {
    let of = |texts: &[&str]| Limit::of(texts.iter().map(|text| text.parse().unwrap()).collect());
    let eight = ["1/1s", "2/2s", "3/3s", "4/4s", "5/5s", "6/6s", "7/7s", "8/8s"];
    assert_eq!(of(&eight).unwrap().windows().len(), MAX_WINDOWS);
    let nine: Vec<&str> = eight.iter().copied().chain(["9/9s"]).collect();
    assert_eq!(message(of(&nine).unwrap_err()), "windows must be 1 to 8, not 9");
    assert_eq!(message(of(&[]).unwrap_err()), "windows must be 1 to 8, not 0");
    assert_eq!(message("1/1s,".repeat(100_000).parse::<Limit>().unwrap_err()), "windows must be 1 to 8, not 100001");
    for (pair, twice) in [
        (["100/1m", "100/60s"], "`100/1m`"),
        (["100/1m burst=5", "100/1m"], "`100/1m`"),
        (["1/day", "1/day fixed_window_counter"], "`1/day`"),
        (["1/month anchor=5 tz=UTC", "1/month anchor=5"], "`1/month`"),
    ] {
        let said = message(of(&pair).unwrap_err());
        assert!(said.starts_with("windows must differ") && said.contains(twice), "{said}");
    }
    for pair in [
        ["100/1m", "101/1m"],
        ["100/1m", "100/1m sliding_window_log"],
        ["1/day", "1/1d fixed_window_counter"],
        ["1/day", "1/day tz=Europe/Berlin"],
        ["1/month", "1/month anchor=2"],
    ] {
        assert_eq!(of(&pair).unwrap(), of(&[pair[1], pair[0]]).unwrap());
    }
}

#[test]
fn keys() {
    for good in ["a", "api:user-42", "api:*", "route:/v1/chat", "ключ", " a", "a b", &"x".repeat(512), "a\u{2028}"]
    {
        assert!(validate_key(good).is_ok(), "{good:?}");
    }
    for bad in ["", " ", "\u{2003}", "a\n", "\u{1}", "\u{7f}", "a\u{85}", &"x".repeat(513), &"ключ".repeat(65)] {
        assert_eq!(validate_key(bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad:?}");
    }
}

#[test]
fn costs() {
    let kind = |limit: &str, cost| validate_cost("k", &limit.parse().unwrap(), cost).map_err(|error| error.kind());
    let never = Err(Kind::CostExceedsCapacity);
    for (limit, cost, expected) in [
        ("10/1s burst=20", 20, Ok(())),
        ("10/1s burst=20", 21, never),
        ("10/1s, 5000/day", 10, Ok(())),
        ("10/1s, 5000/day", 11, never),
        ("5000/1s, 10/day", 11, never),
        ("0/1s", MAX_UNITS, Ok(())),
        ("0/1s, 10/day", 10, Ok(())),
        ("0/1s, 10/day", 11, never),
        ("10/1s shadow", 11, never),
        ("unlimited", MAX_UNITS, Ok(())),
        ("unlimited", MAX_UNITS + 1, Err(Kind::InvalidArgument)),
        ("unlimited", 0, Err(Kind::InvalidArgument)),
        ("10/1s", 0, Err(Kind::InvalidArgument)),
        ("10/1s", u64::MAX, Err(Kind::InvalidArgument)),
    ] {
        assert_eq!(kind(limit, cost), expected, "{limit} {cost}");
    }
    let said = |limit: &str| validate_cost("k", &limit.parse().unwrap(), 30).unwrap_err().message().to_owned();
    assert_eq!(said("10/1s burst=20"), "cost 30 is over the capacity 20 of limit `k` and could never be allowed");
    assert_eq!(
        said("25/1s, 20/day"),
        "cost 30 is over the capacity 20 of `20/day` in limit `k` and could never be allowed"
    );
}

#[test]
fn algorithms_and_modes_have_names() {
    for algorithm in Algorithm::ALL.iter().copied() {
        assert_eq!(algorithm.name().parse::<Algorithm>().unwrap(), algorithm);
        assert_eq!(Algorithm::from_code(algorithm.code()), Some(algorithm));
    }
    assert!("leaky".parse::<Algorithm>().unwrap_err().message().contains("leaky"));
    assert_eq!(Algorithm::from_code(4), None);
    for mode in Mode::ALL {
        assert_eq!(mode.name().parse::<Mode>().unwrap(), *mode);
    }
    assert_eq!(message("Shadow".parse::<Mode>().unwrap_err()), "mode must be enforce or shadow, not `Shadow`");
}

#[test]
fn values_stay_small() {
    assert!(size_of::<Window>() <= 48, "{}", size_of::<Window>());
    assert!(size_of::<Limit>() <= 40, "{}", size_of::<Limit>());
}

proptest! {
    #[test]
    fn a_limit_is_read_back_from_its_text(limit in limits()) {
        let text = limit.to_string();
        prop_assert_eq!(text.parse::<Limit>().unwrap(), limit.clone());
        prop_assert_eq!(text.replace(", ", ",").to_string().parse::<Limit>().unwrap(), limit);
    }

    #[test]
    fn a_window_is_read_back_from_its_text_and_its_fields(window in windows()) {
        prop_assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
        prop_assert_eq!(window.fields().window().unwrap(), window);
        prop_assert_eq!(Limit::from(window), Limit::of(vec![window]).unwrap());
        prop_assert!(window.to_string().starts_with(&window.short()));
    }

    #[test]
    fn the_order_of_windows_does_not_matter(limit in limits(), turn in 0..8usize) {
        let mut windows = limit.windows().to_vec();
        if !windows.is_empty() {
            let turn = turn % windows.len();
            windows.rotate_left(turn);
            prop_assert_eq!(Limit::of(windows).unwrap().with_mode(limit.mode()), limit);
        }
    }

    /// What a longer window has comes after what a shorter one has.
    #[test]
    fn windows_stand_by_length(limit in limits()) {
        prop_assert!(limit.windows().is_sorted_by_key(|window| (window.period().nominal(), window.period())));
    }

    #[test]
    fn text_that_is_read_as_a_limit_has_one_meaning(
        text in "[0-9]{1,3}/([0-9]{0,2}(ms|s|m|w|)|day|month)\
                 ( (burst=[0-9]{1,2}|token_bucket|anchor=3|tz=UTC|x)){0,2}( shadow)?"
    ) {
        if let Ok(limit) = text.parse::<Limit>() {
            prop_assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}|[0-9a-z/=, ]{0,40}") {
        let _ = (text.parse::<Limit>(), text.parse::<Window>(), text.parse::<Period>(), text.parse::<Mode>());
    }
}

#[test]
fn slots_are_no_windows_and_not_unlimited() {
    let limit = Limit::of_slots(4).unwrap();
    assert_eq!((limit.slots(), limit.windows(), limit.is_unlimited()), (Some(4), &[][..], false));
    assert_ne!(limit, Limit::unlimited());
    assert_ne!(limit, Limit::of_slots(5).unwrap());
    assert_eq!(Limit::unlimited().slots(), None);
    assert_eq!(message(Limit::of_slots(0).unwrap_err()), "slots must be an integer of 1 to 1000000, not 0");
    assert!(Limit::of_slots(MAX_SLOTS).is_ok() && Limit::of_slots(MAX_SLOTS + 1).is_err());
    // Nothing is counted under them, as under `unlimited`.
    let ends = &mut Live::default();
    let mut standing = Standing::new(&limit);
    standing.spend(&limit, 5, 3, ends);
    assert!(standing.is_untouched(&limit, 5));
    assert_eq!(standing, Standing::new(&Limit::unlimited()));
    // What was there before rests, and is found again.
    let windows: Limit = "10/1h".parse().unwrap();
    let mut standing = Standing::new(&windows);
    standing.advance(&windows, 5);
    standing.spend(&windows, 5, 7, ends);
    standing.reconfigure(&windows, &limit, 6, ends);
    standing.spend(&limit, 6, 2, ends);
    standing.reconfigure(&limit, &windows, 7, ends);
    assert_eq!(standing.glance(&windows, 7, ends).windows.as_slice()[0].used, 7);
}

#[test]
fn limits_as_text() {
    for (text, canonical) in [
        ("100/1m", "100/1m"),
        ("  100/60s token_bucket burst=100 ", "100/1m"),
        ("100/m", "100/1m"),
        ("1/1\ttoken_bucket burst=5", "1/1s burst=5"),
        ("20/1500ms sliding_window_log", "20/1500ms sliding_window_log"),
        ("20/10s", "20/10s"),
        ("5/1w", "5/7d"),
        ("5/second", "5/1s"),
        ("0/1m", "0/1m"),
        ("1/day", "1/day"),
        ("1/day fixed_window_counter tz=utc", "1/day"),
        ("7/month anchor=31 tz=America/New_York", "7/month tz=America/New_York anchor=31"),
        ("7/1d fixed_window_counter", "7/1d fixed_window_counter"),
        ("5000/day,10/1s", "10/1s, 5000/day"),
        ("100000/month , 5000/day ,10/s shadow", "10/1s, 5000/day, 100000/month shadow"),
        ("100/1m enforce", "100/1m"),
        ("unlimited", "unlimited"),
        (" unlimited  shadow", "unlimited shadow"),
        ("slots=1", "slots=1"),
        (" slots=1000000\tshadow ", "slots=1000000 shadow"),
        ("slots=4 enforce", "slots=4"),
    ] {
        let limit = text.parse::<Limit>().unwrap();
        assert_eq!(limit.to_string(), canonical, "{text}");
        assert_eq!(canonical.parse::<Limit>().unwrap(), limit);
    }
    for (text, start) in [
        ("", "limit must be RATE/PER"),
        ("100", "limit must be RATE/PER"),
        ("x/1m", "limit must be RATE/PER"),
        ("+1/1m", "limit must be RATE/PER"),
        ("-1/1m", "limit must be RATE/PER"),
        ("/1m", "limit must be RATE/PER"),
        ("shadow", "limit must be RATE/PER"),
        ("1/1m,", "limit must be RATE/PER"),
        ("1/1m shadow, 2/1s", "algorithm `shadow`"),
        ("unlimited, 1/1m", "limit must be RATE/PER"),
        ("unlimited enforce enforce", "limit must be RATE/PER"),
        ("slots=", "slots must be an integer of 1 to 1000000, not ``"),
        ("slots=0", "slots must be an integer of 1 to 1000000, not 0"),
        ("slots=1000001", "slots must be an integer of 1 to 1000000, not 1000001"),
        ("slots=+4", "slots must be an integer of 1 to 1000000, not `+4`"),
        ("slots= 4", "slots must be an integer of 1 to 1000000, not ` 4`"),
        ("slots=4, 1/1m", "slots must be an integer of 1 to 1000000, not `4, 1/1m`"),
        ("slots 4", "limit must be RATE/PER"),
        ("1/1m burst=", "burst must be a whole number, not ``"),
        ("1/1m burst=+2", "burst must be a whole number, not `+2`"),
        ("1/1m burst=2 burst=2", "limit must give each value only once"),
        ("1/1m token_bucket token_bucket", "limit must give each value only once"),
        ("1/1m size=2", "limit takes an algorithm, burst=UNITS"),
        ("1/1x", "per must be"),
        ("1/", "per must be"),
        ("1/1day", "per must be `1d`"),
        ("1000000000001/1m", "rate must be from 0"),
        ("99999999999999999999/1m", "rate must be at most 1000000000000, not 99999999999999999999"),
        ("1/1m leaky", "algorithm `leaky`"),
        ("1/1m fixed_window_counter burst=2", "burst is only for"),
        ("1/day token_bucket", "algorithm of a calendar period"),
        ("1/1m tz=UTC", "tz is only for"),
        ("1/day tz=", "tz ``"),
        ("1/day anchor=1", "anchor is only for"),
        ("1/month anchor=0", "anchor must be"),
    ] {
        let said = message(text.parse::<Limit>().unwrap_err());
        assert!(said.starts_with(start), "{text}: {said}");
    }
}
