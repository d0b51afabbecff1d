//! What is to be configured, and what is to be reset.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::object::{Body, next_item, read, read_object, take, take_any};
use super::scalars::{Length, Number, Text};
use super::values::{Brought, Values};
use crate::bounds::{MAX_MAX_KEYS, MAX_PERIOD_MS};
use crate::error::{Error, Result};
use crate::limit::{Limit, excerpt, parse_length};
use crate::limiter::Setting;

/// `{"key"}` or `{"prefix"}`
#[derive(Debug, Default)]
pub struct Reset<'a> {
    key: Option<Text<'a>>,
    prefix: Option<Text<'a>>,
}

/// What is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToReset<'a> {
    /// This key.
    Key(&'a str),
    /// All keys that begin so.
    Prefix(&'a str),
}

impl<'de> Body<'de> for Reset<'de> {
    const FIELDS: &'static str = "`key` and `prefix`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "key" => take(&mut self.key, name, map),
            "prefix" => take(&mut self.prefix, name, map),
            _ => Ok(false),
        }
    }
}

impl Reset<'_> {
    /// What it asks for.
    ///
    /// # Errors
    /// `invalid_argument` for none or both of the fields.
    pub fn what(&self) -> Result<ToReset<'_>> {
        match (&self.key, &self.prefix) {
            (Some(Text(key)), None) => Ok(ToReset::Key(key)),
            (None, Some(Text(prefix))) => Ok(ToReset::Prefix(prefix)),
            (None, None) => Err(Error::invalid("field `key` or `prefix` is missing")),
            (Some(_), Some(_)) => Err(Error::invalid("fields `key` and `prefix` don't go together; leave one out")),
        }
    }
}

/// One limit to configure, or an array of them.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    keys: Vec<Text<'a>>,
    values: Vec<ForKey>,
}

/// What a key is to have.
#[derive(Debug)]
pub struct ForKey {
    pub limit: Limit,
    pub lasts: Option<Duration>,
    pub max_keys: Option<u64>,
}

impl ForKey {
    fn of(self, key: &str) -> Setting<'_> {
        let mut setting = Setting::new(key, self.limit);
        (setting.lasts, setting.max_keys) = (self.lasts, self.max_keys);
        setting
    }
}

impl<'a> Settings<'a> {
    /// Adds what a key is to have.
    pub fn push(&mut self, key: Text<'a>, values: ForKey) {
        self.keys.push(key);
        self.values.push(values);
    }

    /// What it asks for, in its order. Nothing is left of it then.
    pub fn take(&mut self) -> Vec<Setting<'_>> {
        let both = self.keys.iter().zip(self.values.drain(..));
        both.map(|(key, values)| values.of(&key.0)).collect()
    }
}

/// Reads what is to be configured; an empty body is read as `{}`.
///
/// # Errors
/// As [`parse`](super::object::parse).
pub fn parse_settings(bytes: &[u8]) -> Result<Settings<'_>> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("field `key` is missing"));
    }
    read(bytes)
}

/// The fields of one limit: `key`, values, `for`, `max_keys`; `limit` may be in the place of the values.
#[derive(Debug, Default)]
struct Configure<'a> {
    key: Option<Text<'a>>,
    values: Values<'a>,
    limit: Option<Brought>,
    lasts: Option<Length>,
    max_keys: Option<Number<1, MAX_MAX_KEYS>>,
}

impl<'de> Body<'de> for Configure<'de> {
    const FIELDS: &'static str = "`key`, `rate`, `per`, `algorithm`, `burst`, `tz`, `anchor`, `windows`, `slots`, \
                                  `limit`, `unlimited`, `mode`, `for` and `max_keys`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "key" => take(&mut self.key, name, map),
            "limit" => take_any(&mut self.limit, name, map),
            "for" => take_any(&mut self.lasts, name, map),
            "max_keys" => take_any(&mut self.max_keys, name, map),
            _ => self.values.field(name, map),
        }
    }
}

impl<'a> Configure<'a> {
    fn parts(self) -> Result<(Text<'a>, ForKey)> {
        let Some(key) = self.key else { return Err(Error::invalid("field `key` is missing")) };
        let lasts = read_lasts(self.lasts.as_ref())?;
        let values =
            ForKey { limit: self.values.limit(self.limit)?, lasts, max_keys: self.max_keys.map(|most| most.0) };
        Ok((key, values))
    }
}

impl<'de> Deserialize<'de> for Settings<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct SettingsVisitor;
        impl<'de> Visitor<'de> for SettingsVisitor {
            type Value = Settings<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or an array of objects")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let one: Configure<'de> = read_object(map)?;
                let (key, values) = one.parts().map_err(A::Error::custom)?;
                Ok(Settings { keys: vec![key], values: vec![values] })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let mut settings = Settings::default();
                while let Some(Listed(key, values)) = next_item(&mut seq, settings.keys.len() + 1)? {
                    settings.push(key, values);
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_any(SettingsVisitor)
    }
}

/// How long values last, as `for` says.
///
/// # Errors
/// `invalid_argument`.
pub fn read_lasts(lasts: Option<&Length>) -> Result<Option<Duration>> {
    lasts.map(|lasts| parse_length("for", &lasts.0, 1, MAX_PERIOD_MS).map(Duration::from_millis)).transpose()
}

/// An error in one limit of an array, which names its key: an array may be long.
pub fn of_key<E: serde::de::Error>(key: Option<String>, error: &Error) -> E {
    match key {
        Some(key) => E::custom(format_args!("key `{key}`: {error}")),
        None => E::custom(error),
    }
}

/// One limit of an array.
struct Listed<'a>(Text<'a>, ForKey);

impl<'de> Deserialize<'de> for Listed<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ListedVisitor;
        impl<'de> Visitor<'de> for ListedVisitor {
            type Value = Listed<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let one: Configure<'de> = read_object(map)?;
                let named = one.key.as_ref().map(|key| excerpt(&key.0));
                let (key, values) = one.parts().map_err(|error| of_key(named, &error))?;
                Ok(Listed(key, values))
            }
        }
        deserializer.deserialize_map(ListedVisitor)
    }
}
