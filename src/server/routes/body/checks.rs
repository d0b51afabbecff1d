//! What is to be checked.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::object::{Body, in_place, next_item, read_object, required, take, take_any};
use super::scalars::Text;
use super::values::{Brought, Units};
use crate::error::{Error, Result};
use crate::limit::Limit;
use crate::limiter::Item;

/// `{"key","cost"?,"limit"?}`
#[derive(Debug, Default)]
pub struct Check<'a> {
    key: Option<Text<'a>>,
    cost: Option<Units>,
    limit: Option<Brought>,
}

impl<'de> Body<'de> for Check<'de> {
    const FIELDS: &'static str = "`key`, `cost` and `limit`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "key" => take(&mut self.key, name, map),
            "cost" => take(&mut self.cost, name, map),
            "limit" => take_any(&mut self.limit, name, map),
            _ => Ok(false),
        }
    }
}

impl Check<'_> {
    /// What it asks for; the cost is 1 where none is given.
    ///
    /// # Errors
    /// `invalid_argument` without a key.
    pub fn item(&self) -> Result<Item<'_>> {
        let key = required(&self.key, "key")?;
        let cost = self.cost.map_or(1, |cost| cost.0);
        Ok(item(key, cost, self.limit.as_ref().map(|limit| &limit.0)))
    }

    /// The first field that is given.
    pub fn given(&self) -> Option<&'static str> {
        let fields = [("key", self.key.is_some()), ("cost", self.cost.is_some()), ("limit", self.limit.is_some())];
        fields.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// Whether a cost is given.
    pub fn has_cost(&self) -> bool {
        self.cost.is_some()
    }
}

fn item<'a>(key: &'a str, cost: u64, limit: Option<&'a Limit>) -> Item<'a> {
    let item = Item::new(key).with_cost(cost);
    match limit {
        Some(limit) => item.with_limit(limit),
        None => item,
    }
}

/// `{"items":[…]}`, each item `{"key","cost"?,"limit"?}`, `"key"` or `["key",cost]`.
#[derive(Debug, Default)]
pub struct Items<'a> {
    items: Option<List<'a>>,
}

impl<'de> Body<'de> for Items<'de> {
    const FIELDS: &'static str = "`items`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "items" => take(&mut self.items, name, map),
            _ => Ok(false),
        }
    }
}

impl Items<'_> {
    /// Whether there are any.
    pub fn is_given(&self) -> bool {
        self.items.is_some()
    }

    /// What it asks for, in its order.
    ///
    /// # Errors
    /// `invalid_argument` without items.
    pub fn items(&self) -> Result<Vec<Item<'_>>> {
        let List(items) = self.items.as_ref().ok_or_else(|| Error::invalid("field `items` is missing"))?;
        Ok(items.iter().map(|one| item(&one.key.0, one.cost, one.limit.as_ref().map(|limit| &limit.0))).collect())
    }
}

#[derive(Debug)]
struct List<'a>(Vec<One<'a>>);

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = List<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = next_item(&mut seq, items.len() + 1)? {
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

#[derive(Debug)]
struct One<'a> {
    key: Text<'a>,
    cost: u64,
    limit: Option<Brought>,
}

impl<'de> Deserialize<'de> for One<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneVisitor;
        impl<'de> Visitor<'de> for OneVisitor {
            type Value = One<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"key\", {\"key\",\"cost\",\"limit\"} or [\"key\",cost]")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(One { key: Text(Cow::Borrowed(key)), cost: 1, limit: None })
            }
            fn visit_str<E>(self, key: &str) -> std::result::Result<Self::Value, E> {
                Ok(One { key: Text(Cow::Owned(key.to_owned())), cost: 1, limit: None })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let within = |place, error: A::Error| A::Error::custom(in_place(place, &error.to_string()));
                let key = seq.next_element().map_err(|error| within("the key", error))?;
                let key = key.ok_or_else(|| A::Error::custom("must have a key and a cost"))?;
                let cost = seq.next_element().map_err(|error| within("the cost", error))?;
                let Units { 0: cost } = cost.ok_or_else(|| A::Error::custom("must have a cost after its key"))?;
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom("must have nothing after key and cost; a limit needs an object")),
                    None => Ok(One { key, cost, limit: None }),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let check: Check<'de> = read_object(map)?;
                let key = check.key.ok_or_else(|| A::Error::custom("field `key` is missing"))?;
                Ok(One { key, cost: check.cost.map_or(1, |cost| cost.0), limit: check.limit })
            }
        }
        deserializer.deserialize_any(OneVisitor)
    }
}
