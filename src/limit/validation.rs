//! What a key and a cost must be.

use super::text::excerpt;
use super::values::Limit;
use crate::bounds::{MAX_KEY_BYTES, MAX_UNITS};
use crate::error::{Error, Kind, Result};

/// Refuses a cost that is out of range or that `limit` could never allow: over the capacity of a window with a rate.
///
/// # Errors
/// `invalid_argument` for 0 and for more than 10^12; `cost_exceeds_capacity` for more than the capacity.
pub fn validate_cost(key: &str, limit: &Limit, cost: u64) -> Result<()> {
    if !(1..=MAX_UNITS).contains(&cost) {
        return Err(Error::invalid(format!("cost must be from 1 to {MAX_UNITS}, not {cost}")));
    }
    // A window of rate 0 denies whatever the cost: that is an answer.
    let least = limit.windows().iter().filter(|window| window.rate() > 0).min_by_key(|window| window.capacity());
    let Some(window) = least.filter(|window| cost > window.capacity()) else {
        return Ok(());
    };
    let which = if limit.windows().len() > 1 { format!("`{}` in ", window.short()) } else { String::new() };
    Err(Error::new(
        Kind::CostExceedsCapacity,
        format!(
            "cost {cost} is over the capacity {} of {which}limit `{key}` and could never be allowed",
            window.capacity()
        ),
    ))
}

/// Refuses a key that is empty, blank, longer than 512 bytes, or holds a control character.
///
/// # Errors
/// `invalid_argument`, saying which rule the key breaks.
pub fn validate_key(key: &str) -> Result<()> {
    // Printable ASCII without a blank is what nearly every key is made of: one pass settles it.
    if !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
        return Ok(());
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!("key must be at most {MAX_KEY_BYTES} bytes, not {}", key.len())));
    }
    if key.trim().is_empty() {
        return Err(Error::invalid("key must not be empty or blank"));
    }
    if key.chars().any(char::is_control) {
        return Err(Error::invalid(format!("key `{}` must not contain a control character", excerpt(key))));
    }
    Ok(())
}
