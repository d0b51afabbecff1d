//! The limits that are to be the configured ones: an array of what configures them, or of their status objects in a
//! list.
//!
//! A list tells figures too, which are read and left. Of values that last for a time only it tells the time that was
//! left then. So such values are no part of what is applied: those that come back are.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::limits::{ForKey, Settings, of_key, read_lasts};
use super::object::{Body, Object, next_item, read, read_object, take, take_any};
use super::scalars::{Length, Number, Text};
use super::values::{Brought, Told};
use crate::bounds::MAX_MAX_KEYS;
use crate::error::{Error, Result};
use crate::limit::excerpt;

/// Reads the array.
///
/// # Errors
/// As [`parse`](super::object::parse).
pub fn parse_listed(bytes: &[u8]) -> Result<Settings<'_>> {
    // An empty file is rather a mistake than the wish to have no limits.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("the body is empty; it must be an array of limits, and may be []"));
    }
    read::<Whole<'_>>(bytes).map(|whole| whole.0)
}

struct Whole<'a>(Settings<'a>);

impl<'de> Deserialize<'de> for Whole<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct WholeVisitor;
        impl<'de> Visitor<'de> for WholeVisitor {
            type Value = Whole<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of limits, such as [{\"key\":\"mail\",\"limit\":\"20/1h\"}]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let (mut settings, mut count) = (Settings::default(), 0_usize);
                while let Some(Item(item)) = next_item(&mut seq, count + 1)? {
                    count += 1;
                    if let Some((key, values)) = item {
                        settings.push(key, values);
                    }
                }
                Ok(Whole(settings))
            }
        }
        deserializer.deserialize_any(WholeVisitor)
    }
}

/// One limit of the array; none if an operator has not configured it permanently.
struct Item<'a>(Option<(Text<'a>, ForKey)>);

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let fields: Fields<'de> = read_object(map)?;
                let named = fields.key.as_ref().map(|key| excerpt(&key.0));
                fields.parts().map(Item).map_err(|error| of_key(named, &error))
            }
        }
        deserializer.deserialize_map(ItemVisitor)
    }
}

/// The fields of one limit: those that configure it, and those of its status.
#[derive(Default)]
struct Fields<'a> {
    key: Option<Text<'a>>,
    values: Told<'a>,
    limit: Option<Brought>,
    lasts: Option<Length>,
    max_keys: Option<Number<1, MAX_MAX_KEYS>>,
    source: Option<Text<'a>>,
    /// Whether its values last for a time, of which a part has gone.
    ends: bool,
    below: Option<Object<Told<'a>>>,
}

impl<'de> Body<'de> for Fields<'de> {
    const FIELDS: &'static str = "`key`, `rate`, `per`, `algorithm`, `burst`, `tz`, `anchor`, `windows`, `slots`, \
                                  `limit`, `unlimited`, `mode`, `for`, `max_keys`, and those of a status";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "key" => take(&mut self.key, name, map),
            "limit" => take_any(&mut self.limit, name, map),
            "for" => take_any(&mut self.lasts, name, map),
            "max_keys" => take_any(&mut self.max_keys, name, map),
            "source" => take_any(&mut self.source, name, map),
            "below" => take_any(&mut self.below, name, map),
            "for_until" => {
                self.ends = map.next_value::<Option<IgnoredAny>>()?.is_some();
                Ok(true)
            }
            _ => self.values.field(name, map),
        }
    }
}

impl<'a> Fields<'a> {
    fn parts(self) -> Result<Option<(Text<'a>, ForKey)>> {
        let Some(key) = self.key else { return Err(Error::invalid("field `key` is missing")) };
        // A list with `live=true` also has keys that are not configured.
        let live = self.source.is_some_and(|source| ["pattern", "request"].contains(&&*source.0));
        let lasts = read_lasts(self.lasts.as_ref())?;
        let limit = match self.below {
            _ if live => return Ok(None),
            Some(below) if self.ends => below.0.0.limit(None)?,
            None if self.ends => return Ok(None),
            _ => self.values.0.limit(self.limit)?,
        };
        let max_keys = self.max_keys.map(|most| most.0);
        Ok(Some((key, ForKey { limit, lasts, max_keys })))
    }
}
