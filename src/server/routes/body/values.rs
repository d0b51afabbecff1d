//! The values of a limit, in each of their forms.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::object::{Body, in_place, read_object, take_any};
use super::scalars::{Flag, Length, Number, Text};
use crate::bounds::{MAX_ANCHOR, MAX_SLOTS, MAX_UNITS, MAX_WINDOWS};
use crate::error::{Error, Result};
use crate::limit::{Fields, Limit, Mode, Window};

/// Units that are at least 1.
pub type Units = Number<1, MAX_UNITS>;

/// The values of one window.
#[derive(Debug, Default)]
struct OneWindow<'a> {
    rate: Option<Number<0, MAX_UNITS>>,
    per: Option<Length>,
    algorithm: Option<Text<'a>>,
    burst: Option<Units>,
    tz: Option<Text<'a>>,
    anchor: Option<Number<1, { MAX_ANCHOR as u64 }>>,
}

impl<'de> Body<'de> for OneWindow<'de> {
    const FIELDS: &'static str = "`rate`, `per`, `algorithm`, `burst`, `tz` and `anchor`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "rate" => take_any(&mut self.rate, name, map),
            "per" => take_any(&mut self.per, name, map),
            "algorithm" => take_any(&mut self.algorithm, name, map),
            "burst" => take_any(&mut self.burst, name, map),
            "tz" => take_any(&mut self.tz, name, map),
            "anchor" => take_any(&mut self.anchor, name, map),
            _ => Ok(false),
        }
    }
}

impl OneWindow<'_> {
    /// The first field that is given.
    fn given(&self) -> Option<&'static str> {
        let fields = [
            ("rate", self.rate.is_some()),
            ("per", self.per.is_some()),
            ("algorithm", self.algorithm.is_some()),
            ("burst", self.burst.is_some()),
            ("tz", self.tz.is_some()),
            ("anchor", self.anchor.is_some()),
        ];
        fields.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    fn window(&self) -> Result<Window> {
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.0.to_string());
        let fields = Fields {
            rate: self.rate.map(|rate| rate.0),
            per: self.per.as_ref().map(|per| per.0.clone()),
            algorithm: text(&self.algorithm),
            burst: self.burst.map(|burst| burst.0),
            tz: text(&self.tz),
            anchor: self.anchor.map(|anchor| anchor.0),
        };
        fields.window()
    }
}

/// The values of a limit, as fields.
#[derive(Debug, Default)]
pub struct Values<'a> {
    one: OneWindow<'a>,
    windows: Option<Windows>,
    slots: Option<Number<1, MAX_SLOTS>>,
    mode: Option<Text<'a>>,
    unlimited: Option<Flag>,
}

impl<'de> Body<'de> for Values<'de> {
    const FIELDS: &'static str =
        "`rate`, `per`, `algorithm`, `burst`, `tz`, `anchor`, `windows`, `slots`, `mode` and `unlimited`";

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "windows" => take_any(&mut self.windows, name, map),
            "slots" => take_any(&mut self.slots, name, map),
            "mode" => take_any(&mut self.mode, name, map),
            "unlimited" => take_any(&mut self.unlimited, name, map),
            _ => self.one.field(name, map),
        }
    }
}

impl Values<'_> {
    /// The limit. `brought` is what stands in a field `limit` besides these fields, where there can be one.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field that is missing, out of its range, or does not go with another.
    pub fn limit(self, brought: Option<Brought>) -> Result<Limit> {
        let given = [
            brought.as_ref().map(|_| "limit"),
            self.windows.as_ref().map(|_| "windows"),
            self.slots.map(|_| "slots"),
            self.unlimited.filter(|flag| flag.0).map(|_| "unlimited"),
            self.one.given(),
        ];
        let mut given = given.into_iter().flatten();
        if let (Some(one), Some(other)) = (given.next(), given.next()) {
            return Err(Error::invalid(format!(
                "fields `{one}` and `{other}` don't go together: each of them says what the limit is, so leave one out"
            )));
        }
        let limit = match (brought, self.windows) {
            (Some(Brought(limit)), _) | (None, Some(Windows(limit))) => limit,
            (None, None) if self.unlimited.is_some_and(|flag| flag.0) => Limit::unlimited(),
            (None, None) if let Some(slots) = self.slots => Limit::of_slots(slots.0)?,
            (None, None) => Limit::from(self.one.window()?),
        };
        let Some(mode) = self.mode else { return Ok(limit) };
        let mode = mode.0.parse()?;
        if limit.mode() != Mode::default() && limit.mode() != mode {
            return Err(Error::invalid(format!(
                "mode must not be {mode} where `limit` says {}; leave one of them out",
                limit.mode()
            )));
        }
        Ok(limit.with_mode(mode))
    }
}

/// The values of a limit in one field: text, an array of windows, or an object of fields.
#[derive(Debug)]
pub struct Brought(pub Limit);

impl<'de> Deserialize<'de> for Brought {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct BroughtVisitor;
        impl<'de> Visitor<'de> for BroughtVisitor {
            type Value = Brought;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"RATE/PER\", such as \"100/1m\", an array of windows, or an object of values")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
                Limit::from_str(text).map(Brought).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Self::Value, A::Error> {
                read_windows(seq).map(Brought)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let values: Values<'de> = read_object(map)?;
                values.limit(None).map(Brought).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(BroughtVisitor)
    }
}

/// An array of windows.
#[derive(Debug)]
struct Windows(Limit);

impl<'de> Deserialize<'de> for Windows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct WindowsVisitor;
        impl<'de> Visitor<'de> for WindowsVisitor {
            type Value = Windows;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of 1 to {MAX_WINDOWS} windows, such as [\"10/1s\",\"5000/day\"]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Self::Value, A::Error> {
                read_windows(seq).map(Windows)
            }
        }
        deserializer.deserialize_any(WindowsVisitor)
    }
}

fn read_windows<'de, A: SeqAccess<'de>>(mut seq: A) -> std::result::Result<Limit, A::Error> {
    let mut windows = Vec::new();
    let mut count = 0_usize;
    loop {
        count += 1;
        let next = seq.next_element();
        let next = next.map_err(|error| A::Error::custom(in_place(&format!("item {count}"), &error.to_string())))?;
        let Some(Listed(window)) = next else { break };
        // More of them are only counted: they may be as many as fit into a body.
        if windows.len() <= MAX_WINDOWS {
            windows.push(window);
        }
    }
    match count - 1 {
        count if count > MAX_WINDOWS => {
            Err(A::Error::custom(format_args!("windows must be 1 to {MAX_WINDOWS}, not {count}")))
        }
        _ => Limit::of(windows).map_err(A::Error::custom),
    }
}

/// One window of an array.
struct Listed(Window);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ListedVisitor;
        impl<'de> Visitor<'de> for ListedVisitor {
            type Value = Listed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a window, \"RATE/PER\" or an object of its values")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
                text.parse().map(Listed).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let values: OneWindow<'de> = read_object(map)?;
                values.window().map(Listed).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(ListedVisitor)
    }
}
