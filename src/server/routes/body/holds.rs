//! What is to be held, settled, renewed, looked at, charged and refunded.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::checks::{Check, Items};
use super::object::{Body, in_field, required, take, take_any};
use super::scalars::{Length, Number, Text};
use crate::bounds::{DEFAULT_HOLD_MS, HOLD_MS, MAX_UNITS};
use crate::error::{Error, Result};
use crate::limit::{excerpt, parse_length};
use crate::limiter::{Cost, Item};

/// Units that may be none.
type Final = Number<0, MAX_UNITS>;

/// The body of a check or of a check of several keys.
#[derive(Debug, Default)]
pub struct Peek<'a> {
    one: Check<'a>,
    several: Items<'a>,
}

/// What it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked<'a> {
    /// One key.
    One(Item<'a>),
    /// Several, all or none.
    All(Vec<Item<'a>>),
}

impl<'de> Body<'de> for Peek<'de> {
    const FIELDS: &'static str = "`key`, `cost` and `limit`, or `items`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        Ok(self.one.field(name, map)? || self.several.field(name, map)?)
    }
}

impl Peek<'_> {
    /// What it asks for.
    ///
    /// # Errors
    /// `invalid_argument` for neither or both of the forms.
    pub fn asked(&self) -> Result<Asked<'_>> {
        match (self.one.given(), self.several.is_given()) {
            (None, true) => self.several.items().map(Asked::All),
            (Some(field), true) => Err(Error::invalid(format!(
                "fields `{field}` and `items` don't go together; each item has its own `{field}`"
            ))),
            (None, false) => Err(Error::invalid("field `key` or `items` is missing")),
            (Some(_), false) => self.one.item().map(Asked::One),
        }
    }
}

/// The same, and how long it is held.
#[derive(Debug, Default)]
pub struct Hold<'a> {
    what: Peek<'a>,
    ttl: Option<Length>,
}

impl<'de> Body<'de> for Hold<'de> {
    const FIELDS: &'static str = "`key`, `cost` and `limit`, or `items`; and `ttl`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "ttl" => take_any(&mut self.ttl, name, map),
            _ => self.what.field(name, map),
        }
    }
}

impl Hold<'_> {
    /// What it asks for.
    ///
    /// # Errors
    /// As [`Peek::asked`].
    pub fn asked(&self) -> Result<Asked<'_>> {
        self.what.asked()
    }

    /// How long it is to last.
    ///
    /// # Errors
    /// `invalid_argument`, naming `ttl`.
    pub fn ttl(&self) -> Result<Duration> {
        Ok(length(self.ttl.as_ref())?.unwrap_or(Duration::from_millis(DEFAULT_HOLD_MS)))
    }
}

fn length(ttl: Option<&Length>) -> Result<Option<Duration>> {
    let ttl = ttl.map(|ttl| parse_length("ttl", &ttl.0, *HOLD_MS.start(), *HOLD_MS.end())).transpose()?;
    Ok(ttl.map(Duration::from_millis))
}

/// `{"hold","cost"?}` or `{"hold","costs"}`
#[derive(Debug, Default)]
pub struct Settle<'a> {
    hold: Option<Text<'a>>,
    cost: Option<Final>,
    costs: Option<Costs<'a>>,
}

impl<'de> Body<'de> for Settle<'de> {
    const FIELDS: &'static str = "`hold`, `cost` and `costs`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "hold" => take(&mut self.hold, name, map),
            "cost" => take_any(&mut self.cost, name, map),
            "costs" => take_any(&mut self.costs, name, map),
            _ => Ok(false),
        }
    }
}

impl Settle<'_> {
    /// The id of the hold.
    ///
    /// # Errors
    /// `invalid_argument` without one.
    pub fn hold(&self) -> Result<&str> {
        required(&self.hold, "hold")
    }

    /// Keys with their costs, if they have their own costs.
    pub fn costs(&self) -> Option<Vec<(&str, u64)>> {
        let costs = self.costs.as_ref()?;
        Some(costs.0.iter().map(|(key, cost)| (&*key.0, *cost)).collect())
    }

    /// What it has cost; `each` is what [`Settle::costs`] says.
    ///
    /// # Errors
    /// `invalid_argument` if costs are given in both ways.
    pub fn cost<'c>(&self, each: Option<&'c [(&'c str, u64)]>) -> Result<Cost<'c>> {
        match (self.cost, each) {
            (Some(_), Some(_)) => Err(Error::invalid("fields `cost` and `costs` don't go together; leave one out")),
            (Some(cost), None) => Ok(Cost::Units(cost.0)),
            (None, Some(each)) => Ok(Cost::Each(each)),
            (None, None) => Ok(Cost::AsHeld),
        }
    }
}

/// `{"KEY":n}`
#[derive(Debug)]
struct Costs<'a>(Vec<(Text<'a>, u64)>);

impl<'de> Deserialize<'de> for Costs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct CostsVisitor;
        impl<'de> Visitor<'de> for CostsVisitor {
            type Value = Costs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of keys and their costs, such as {\"user:42\":5}")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut costs = Vec::new();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let name = excerpt(&key.0);
                    let cost: Final = map
                        .next_value()
                        .map_err(|error: A::Error| A::Error::custom(in_field(&name, &error.to_string())))?;
                    costs.push((key, cost.0));
                }
                Ok(Costs(costs))
            }
        }
        deserializer.deserialize_map(CostsVisitor)
    }
}

/// `{"hold","ttl"?}`
#[derive(Debug, Default)]
pub struct Renew<'a> {
    hold: Option<Text<'a>>,
    ttl: Option<Length>,
}

impl<'de> Body<'de> for Renew<'de> {
    const FIELDS: &'static str = "`hold` and `ttl`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "hold" => take(&mut self.hold, name, map),
            "ttl" => take_any(&mut self.ttl, name, map),
            _ => Ok(false),
        }
    }
}

impl Renew<'_> {
    /// The id of the hold.
    ///
    /// # Errors
    /// `invalid_argument` without one.
    pub fn hold(&self) -> Result<&str> {
        required(&self.hold, "hold")
    }

    /// How long it is to last from now; `None` for as long as it was made for.
    ///
    /// # Errors
    /// `invalid_argument`, naming `ttl`.
    pub fn ttl(&self) -> Result<Option<Duration>> {
        length(self.ttl.as_ref())
    }
}

/// `{"key","cost","limit"?}`: what is spent or given back without a decision says how much it is.
#[derive(Debug, Default)]
pub struct Charge<'a>(Check<'a>);

impl<'de> Body<'de> for Charge<'de> {
    const FIELDS: &'static str = Check::FIELDS;

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        self.0.field(name, map)
    }
}

impl Charge<'_> {
    /// What it asks for.
    ///
    /// # Errors
    /// `invalid_argument` without a key or a cost.
    pub fn item(&self) -> Result<Item<'_>> {
        let item = self.0.item()?;
        if self.0.has_cost() { Ok(item) } else { Err(Error::invalid("field `cost` is missing")) }
    }
}
