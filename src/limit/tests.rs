//! What limits, keys and costs may be.

use std::time::Duration;

use proptest::prelude::*;

use super::counting::properties::limits;
use super::*;
use crate::bounds::{MAX_PERIOD_MS, MAX_UNITS};
use crate::error::Kind;

#[test]
fn bounds_of_a_limit_hold_at_the_edge_and_break_one_past_it() {
    let bucket = Algorithm::TokenBucket;
    for (rate, period, burst) in [
        (1, 1, None),
        (MAX_UNITS, MAX_PERIOD_MS, None),
        (1, MAX_PERIOD_MS, Some(1000)),
        (MAX_UNITS, 1, Some(MAX_UNITS)),
    ] {
        let limit = Limit::of_millis(rate, period, bucket, burst).unwrap();
        assert_eq!((limit.rate(), limit.period_ms(), limit.algorithm()), (rate, period, bucket));
        assert_eq!(limit.capacity(), burst.unwrap_or(rate));
    }
    for (rate, period, algorithm, burst, field) in [
        (0, 1, bucket, None, "rate"),
        (MAX_UNITS + 1, 1, bucket, None, "rate"),
        (1, 0, bucket, None, "per"),
        (1, MAX_PERIOD_MS + 1, bucket, None, "per"),
        (1, 1, bucket, Some(0), "burst"),
        (1, 1, bucket, Some(MAX_UNITS + 1), "burst"),
        (1, MAX_PERIOD_MS, bucket, Some(1001), "burst"),
        (1, 1, Algorithm::SlidingWindowLog, Some(1), "burst"),
    ] {
        let error = Limit::of_millis(rate, period, algorithm, burst).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().starts_with(field), "{error}");
    }
}

#[test]
fn keys() {
    for good in ["a", "api:user-42", "route:/v1/chat", "ключ", " a", "a b", &"x".repeat(512), "a\u{2028}"] {
        assert!(validate_key(good).is_ok(), "{good:?}");
    }
    for bad in ["", " ", "\u{2003}", "a\n", "\0", "\u{7f}", "a\u{85}", &"x".repeat(513), &"ключ".repeat(65)] {
        assert_eq!(validate_key(bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad:?}");
    }
}

#[test]
fn costs() {
    let limit = Limit::of_millis(10, 1000, Algorithm::TokenBucket, Some(20)).unwrap();
    assert!(validate_cost("k", &limit, 20).is_ok());
    assert_eq!(validate_cost("k", &limit, 0).unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(validate_cost("k", &limit, 21).unwrap_err().kind(), Kind::CostExceedsCapacity);
    assert_eq!(validate_cost("k", &limit, u64::MAX).unwrap_err().kind(), Kind::CostExceedsCapacity);
}

#[test]
fn algorithms_have_names_and_codes() {
    for algorithm in Algorithm::ALL.iter().copied() {
        assert_eq!(algorithm.name().parse::<Algorithm>().unwrap(), algorithm);
        assert_eq!(Algorithm::from_code(algorithm.code()), Some(algorithm));
    }
    assert!("leaky".parse::<Algorithm>().unwrap_err().message().contains("leaky"));
    assert_eq!(Algorithm::from_code(4), None);
}

#[test]
fn states_stay_small() {
    assert!(size_of::<State>() <= 32, "{}", size_of::<State>());
    assert_eq!(size_of::<Limit>(), 24);
}

#[test]
fn periods_are_whole_milliseconds() {
    let per = |per| Limit::new(1, per, Algorithm::TokenBucket, None);
    let (least, most) = (Duration::from_millis(1), Duration::from_millis(MAX_PERIOD_MS));
    assert_eq!((per(least).unwrap().period(), per(most).unwrap().period()), (least, most));
    let moment = Duration::from_nanos(1);
    for wrong in [Duration::ZERO, moment, least + moment, most - moment, most + least, Duration::MAX] {
        assert!(per(wrong).unwrap_err().message().starts_with("per must be "), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn a_limit_is_read_back_from_its_text(limit in limits()) {
        prop_assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit);
    }

    #[test]
    fn text_that_is_read_as_a_limit_has_one_meaning(text in "[0-9]{1,3}/[0-9]{0,2}(ms|s|m|)( (burst=[0-9]{1,2}|token_bucket|x))?") {
        if let Ok(limit) = text.parse::<Limit>() {
            prop_assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit);
        }
    }
}

#[test]
fn limits_as_text() {
    let limit = |rate, ms, algorithm, burst| Limit::of_millis(rate, ms, algorithm, burst).unwrap();
    for (text, same, expected) in [
        ("100/1m", "  100/60s token_bucket  ", limit(100, 60_000, Algorithm::TokenBucket, None)),
        ("1/1s burst=5", "1/1\ttoken_bucket burst=5", limit(1, 1000, Algorithm::TokenBucket, Some(5))),
        (
            "20/1500ms sliding_window_log",
            "20/1500ms sliding_window_log",
            limit(20, 1500, Algorithm::SlidingWindowLog, None),
        ),
    ] {
        assert_eq!((expected.to_string().as_str(), text.parse::<Limit>().unwrap()), (text, expected));
        assert_eq!(same.parse::<Limit>().unwrap(), expected);
    }
    for (text, start) in [
        ("", "limit must be RATE/PERIOD"),
        ("100", "limit must be RATE/PERIOD"),
        ("x/1m", "limit must be RATE/PERIOD"),
        ("1/1m burst=", "limit must be RATE/PERIOD"),
        ("1/1m burst=2 burst=2", "limit must be RATE/PERIOD"),
        ("1/1m token_bucket token_bucket", "limit must be RATE/PERIOD"),
        ("1/1w", "per must be"),
        ("1/", "per must be"),
        ("0/1m", "rate must be"),
        ("1/1m leaky", "algorithm `leaky`"),
        ("1/1m fixed_window_counter burst=2", "burst belongs"),
    ] {
        let error = text.parse::<Limit>().unwrap_err();
        assert!(error.message().starts_with(start), "{text}: {error}");
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }
}
