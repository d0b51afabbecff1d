//! Request bodies: from JSON to values, without copying, with errors that name the field.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::bounds::MAX_UNITS;
use crate::error::{Error, Kind, Result};

/// `{"key","cost"?}`
#[derive(Debug, Default)]
pub struct Check<'a> {
    key: Option<Text<'a>>,
    cost: Option<Units>,
}

impl Check<'_> {
    /// Key and cost; the cost is 1 where none is given.
    pub fn parts(&self) -> Result<(&str, u64)> {
        Ok((required(&self.key, "key")?, self.cost.map_or(1, |cost| cost.0)))
    }
}

/// `{"key"}`
#[derive(Debug, Default)]
pub struct Key<'a> {
    key: Option<Text<'a>>,
}

impl Key<'_> {
    /// The key.
    pub fn key(&self) -> Result<&str> {
        required(&self.key, "key")
    }
}

/// `{"items":[…]}`, each item `{"key","cost"?}`, `"key"` or `["key",cost]`.
#[derive(Debug, Default)]
pub struct Items<'a> {
    items: Option<Vec<Item<'a>>>,
}

impl Items<'_> {
    /// Keys and costs.
    pub fn parts(&self) -> Result<Vec<(&str, u64)>> {
        let items = self.items.as_ref().ok_or_else(|| Error::invalid("field `items` is missing"))?;
        Ok(items.iter().map(|item| (&*item.key.0, item.cost)).collect())
    }
}

/// `{"key","rate","per","algorithm"?,"burst"?}`
#[derive(Debug, Default)]
pub struct Configure<'a> {
    key: Option<Text<'a>>,
    rate: Option<Units>,
    per: Option<Period>,
    algorithm: Option<Text<'a>>,
    burst: Option<Units>,
}

impl Configure<'_> {
    /// Key and limit.
    pub fn parts(&self) -> Result<(&str, crate::Limit)> {
        use crate::limit::{Algorithm, parse_period};
        let key = required(&self.key, "key")?;
        let Units(rate) = self.rate.ok_or_else(|| Error::invalid("field `rate` is missing"))?;
        let period = match &self.per {
            Some(Period(text)) => parse_period(text)?,
            None => return Err(Error::invalid("field `per` is missing")),
        };
        let algorithm = match &self.algorithm {
            Some(name) => name.0.parse()?,
            None => Algorithm::TokenBucket,
        };
        Ok((key, crate::Limit::of_millis(rate, period, algorithm, self.burst.map(|burst| burst.0))?))
    }
}

/// Reads a body; an empty one is read as `{}`.
///
/// # Errors
/// `invalid_json` for what is not JSON; `invalid_argument`, naming the field, for what is not as it should be.
pub fn parse<'a, B: Body<'a>>(bytes: &'a [u8]) -> Result<B> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(B::default());
    }
    serde_json::from_slice::<Object<B>>(bytes).map(|object| object.0).map_err(|error| {
        match serde_json::from_slice::<IgnoredAny>(bytes) {
            Err(error) => Error::new(Kind::InvalidJson, format!("the body is not JSON: {error}")),
            Ok(_) => Error::invalid(error.to_string()),
        }
    })
}

/// Refuses a body on an endpoint that takes none: only nothing or `{}`.
///
/// # Errors
/// As [`parse`].
pub fn parse_empty(bytes: &[u8]) -> Result<()> {
    parse::<Nothing>(bytes).map(|_| ())
}

/// A JSON object with known fields.
pub trait Body<'de>: Default {
    /// Takes the value of a field. `Ok(false)` for a field that is not known.
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error>;
    /// The known fields, for an error message.
    const FIELDS: &'static str;
}

macro_rules! body {
    ($type:ty { $($name:literal => $field:ident),* } $fields:literal) => {
        impl<'de> Body<'de> for $type {
            const FIELDS: &'static str = $fields;
            fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
                match name {
                    $($name => take(&mut self.$field, $name, map),)*
                    _ => Ok(false),
                }
            }
        }
    };
}

body!(Check<'de> { "key" => key, "cost" => cost } "`key` and `cost`");
body!(Key<'de> { "key" => key } "`key`");
body!(Items<'de> { "items" => items } "`items`");
body!(Configure<'de> { "key" => key, "rate" => rate, "per" => per, "algorithm" => algorithm, "burst" => burst }
    "`key`, `rate`, `per`, `algorithm` and `burst`");

#[derive(Default)]
struct Nothing;

impl<'de> Body<'de> for Nothing {
    const FIELDS: &'static str = "none";
    fn field<A: MapAccess<'de>>(&mut self, _: &str, _: &mut A) -> std::result::Result<bool, A::Error> {
        Ok(false)
    }
}

fn take<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &str,
    map: &mut A,
) -> std::result::Result<bool, A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format_args!("field `{name}` stands twice")));
    }
    let value = map.next_value().map_err(|error| A::Error::custom(format_args!("field `{name}`: {error}")))?;
    *slot = Some(value);
    Ok(true)
}

fn required<'t>(text: &'t Option<Text<'_>>, name: &str) -> Result<&'t str> {
    text.as_ref().map(|text| &*text.0).ok_or_else(|| Error::invalid(format!("field `{name}` is missing")))
}

struct Object<B>(B);

impl<'de, B: Body<'de>> Deserialize<'de> for Object<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<B>(PhantomData<B>);

impl<'de, B: Body<'de>> Visitor<'de> for ObjectVisitor<B> {
    type Value = Object<B>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut body = B::default();
        while let Some(Text(name)) = map.next_key()? {
            if !body.field(&name, &mut map)? {
                let name = crate::limit::excerpt(&name);
                return Err(A::Error::custom(format_args!("unknown field `{name}`; known: {}", B::FIELDS)));
            }
        }
        Ok(Object(body))
    }
}

/// A string, borrowed from the body where it holds no escape.
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A number of units. Whether it is in its range is for whoever takes it.
#[derive(Debug, Clone, Copy)]
struct Units(u64);

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct UnitsVisitor;
        impl Visitor<'_> for UnitsVisitor {
            type Value = Units;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer from 1 to {MAX_UNITS}")
            }
            fn visit_u64<E>(self, units: u64) -> std::result::Result<Self::Value, E> {
                Ok(Units(units))
            }
        }
        deserializer.deserialize_u64(UnitsVisitor)
    }
}

/// A period: a string with a unit, or an integer of seconds.
#[derive(Debug)]
struct Period(String);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct PeriodVisitor;
        impl Visitor<'_> for PeriodVisitor {
            type Value = Period;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a period such as \"10s\"")
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
                Ok(Period(text.to_owned()))
            }
            fn visit_u64<E>(self, seconds: u64) -> std::result::Result<Self::Value, E> {
                Ok(Period(seconds.to_string()))
            }
        }
        deserializer.deserialize_any(PeriodVisitor)
    }
}

#[derive(Debug)]
struct Item<'a> {
    key: Text<'a>,
    cost: u64,
}

impl<'de> Deserialize<'de> for Item<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item: \"key\", {\"key\",\"cost\"} or [\"key\",cost]")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(Item { key: Text(Cow::Borrowed(key)), cost: 1 })
            }
            fn visit_str<E>(self, key: &str) -> std::result::Result<Self::Value, E> {
                Ok(Item { key: Text(Cow::Owned(key.to_owned())), cost: 1 })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let key = seq.next_element()?.ok_or_else(|| A::Error::custom("an item without a key"))?;
                let Units(cost) = seq.next_element()?.ok_or_else(|| A::Error::custom("an item without a cost"))?;
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom("an item of more than key and cost")),
                    None => Ok(Item { key, cost }),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let Object(check) = ObjectVisitor::<Check<'de>>(PhantomData).visit_map(map)?;
                let key = check.key.ok_or_else(|| A::Error::custom("an item without field `key`"))?;
                Ok(Item { key, cost: check.cost.map_or(1, |cost| cost.0) })
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks() {
        let check: Check<'_> = parse(br#"{"key":"a\u0062","cost":5}"#).unwrap();
        assert_eq!(check.parts().unwrap(), ("ab", 5));
        let check: Check<'_> = parse(br#"{"key":"a"}"#).unwrap();
        assert_eq!(check.parts().unwrap(), ("a", 1));
    }

    #[test]
    fn items_in_three_forms() {
        let items: Items<'_> = parse(br#"{"items":["a",{"key":"b","cost":2},["c",3]]}"#).unwrap();
        assert_eq!(items.parts().unwrap(), [("a", 1), ("b", 2), ("c", 3)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, kind, word) in [
            ("{", Kind::InvalidJson, "JSON"),
            ("{\"key\":}", Kind::InvalidJson, "JSON"),
            ("{\"key\":\"\\ud800\"}", Kind::InvalidArgument, "`key`"),
            ("[1]", Kind::InvalidArgument, "object"),
            ("{\"key\":1}", Kind::InvalidArgument, "`key`"),
            ("{\"key\":\"a\",\"key\":\"b\"}", Kind::InvalidArgument, "twice"),
            ("{\"key\":\"a\",\"cots\":1}", Kind::InvalidArgument, "`cots`"),
            ("{\"cost\":1.5}", Kind::InvalidArgument, "`cost`"),
            ("{\"cost\":1.5}", Kind::InvalidArgument, "an integer from 1 to 1000000000000"),
            ("{\"cost\":\"1\"}", Kind::InvalidArgument, "`cost`"),
            ("{\"cost\":-1}", Kind::InvalidArgument, "`cost`"),
            ("{\"cost\":99999999999999999999999}", Kind::InvalidArgument, "`cost`"),
            ("", Kind::InvalidArgument, "`key`"),
        ] {
            let error = parse::<Check<'_>>(body.as_bytes()).and_then(|check| check.parts().map(|_| ())).unwrap_err();
            assert_eq!(error.kind(), kind, "{body}: {error}");
            assert!(error.message().contains(word), "{body}: {error}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(parse::<Items<'_>>(format!("{{\"items\":{deep}").as_bytes()).is_err());
    }
}
