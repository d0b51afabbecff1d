//! What a limit is to be.

use std::time::Duration;

use crate::bounds::{MAX_MAX_KEYS, MAX_PERIOD_MS};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Limit, is_pattern, validate_key};

/// What to configure for a key.
///
/// ```
/// use std::time::Duration;
///
/// use flint::Setting;
///
/// let ban = Setting::new("user:42", "0/1s".parse()?).with_lasts(Duration::from_secs(3600));
/// let each_user = Setting::new("user:*", "100/1m".parse()?).with_max_keys(50_000);
/// # drop((ban, each_user));
/// # Ok::<(), flint::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Setting<'a> {
    /// The key, or with a `*` a pattern: each `*` stands for one or more characters.
    pub key: &'a str,
    /// Its values.
    pub limit: Limit,
    /// How long they last, if they end by themselves: 1 ms to 366 days. They replace the key's own values, which apply
    /// again afterwards.
    pub lasts: Option<Duration>,
    /// For a pattern: the maximum number of live keys, 1 to 10^9; by default 1 000 000.
    pub max_keys: Option<u64>,
}

impl<'a> Setting<'a> {
    /// These values, permanently.
    pub fn new(key: &'a str, limit: Limit) -> Setting<'a> {
        Setting { key, limit, lasts: None, max_keys: None }
    }

    /// Only for this time.
    pub fn with_lasts(self, lasts: Duration) -> Setting<'a> {
        Setting { lasts: Some(lasts), ..self }
    }

    /// With at most this many live keys.
    pub fn with_max_keys(self, max_keys: u64) -> Setting<'a> {
        Setting { max_keys: Some(max_keys), ..self }
    }

    /// Refuses what can't be. Returns how long it lasts.
    pub(super) fn validate(&self) -> Result<Option<Micros>> {
        validate_key(self.key)?;
        match self.max_keys {
            Some(_) if !is_pattern(self.key) => {
                let message = format!("max_keys is only for patterns, and `{}` has no `*`", self.key);
                return Err(Error::invalid(message));
            }
            Some(most) if !(1..=MAX_MAX_KEYS).contains(&most) => {
                return Err(Error::invalid(format!("max_keys must be from 1 to {MAX_MAX_KEYS}, not {most}")));
            }
            _ => {}
        }
        let Some(lasts) = self.lasts else { return Ok(None) };
        let longest = Duration::from_millis(MAX_PERIOD_MS);
        if lasts < Duration::from_millis(1) || lasts > longest {
            return Err(Error::invalid(format!("for must be from 1ms to 366d, not {lasts:?}")));
        }
        Ok(Some(lasts.as_micros() as Micros))
    }
}

/// Refuses a prefix that would mean everything.
pub fn validate_prefix(prefix: &str) -> Result<()> {
    if prefix.is_empty() {
        return Err(Error::invalid("prefix must not be empty: it would match every key"));
    }
    Ok(())
}
