//! What limits, keys and costs may be.

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
