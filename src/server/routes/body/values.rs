//! The values of a limit, in each of their forms.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

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
    /// The limit. `brought` is what is in a field `limit` besides these fields, where there can be one.
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
                "mode must not be {mode} if `limit` says {}; leave one of them out",
                limit.mode()
            )));
        }
        Ok(limit.with_mode(mode))
    }
}

/// The values of a limit, as in a status: among figures, which are read and left.
#[derive(Debug, Default)]
pub struct Told<'a>(pub Values<'a>);

impl<'de> Body<'de> for Told<'de> {
    const FIELDS: &'static str = Values::FIELDS;

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match name {
            "windows" => {
                let mut windows = self.0.windows.take().map(ToldWindows);
                let taken = take_any(&mut windows, name, map);
                self.0.windows = windows.map(|windows| windows.0);
                taken
            }
            _ if FIGURES.contains(&name) => map.next_value::<IgnoredAny>().map(|_| true),
            _ => self.0.field(name, map),
        }
    }
}

/// Fields of a status that are not values of the limit.
const FIGURES: &[&str] = &[
    "name",
    "per_millis",
    "remaining",
    "used",
    "debt",
    "reset_at",
    "next_ms",
    "oldest_at",
    "previous",
    "current",
    "window_started_at",
    "live",
    "pattern",
    "overflow",
    "total_allowed",
    "total_denied",
    "total_allowed_cost",
    "total_denied_cost",
    "last_allowed_at",
    "last_denied_at",
    "last_reset_at",
    "for_ms",
    "holds",
];

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
                read_windows::<Listed, A>(seq).map(Brought)
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
                read_windows::<Listed, A>(seq).map(Windows)
            }
        }
        deserializer.deserialize_any(WindowsVisitor)
    }
}

/// An array of windows, as in a status.
struct ToldWindows(Windows);

impl<'de> Deserialize<'de> for ToldWindows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ToldWindowsVisitor;
        impl<'de> Visitor<'de> for ToldWindowsVisitor {
            type Value = ToldWindows;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of 1 to {MAX_WINDOWS} windows, such as [\"10/1s\",\"5000/day\"]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Self::Value, A::Error> {
                read_windows::<ToldWindow, A>(seq).map(|limit| ToldWindows(Windows(limit)))
            }
        }
        deserializer.deserialize_any(ToldWindowsVisitor)
    }
}

fn read_windows<'de, W: Deserialize<'de> + Into<Window>, A: SeqAccess<'de>>(
    mut seq: A,
) -> std::result::Result<Limit, A::Error> {
    let mut windows = Vec::new();
    let mut count = 0_usize;
    loop {
        count += 1;
        let next = seq.next_element::<W>();
        let next = next.map_err(|error| A::Error::custom(in_place(&format!("item {count}"), &error.to_string())))?;
        let Some(window) = next else { break };
        // More of them are only counted: they may be as many as fit into a body.
        if windows.len() <= MAX_WINDOWS {
            windows.push(window.into());
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

/// One window of an array in a status.
struct ToldWindow(Window);

impl From<Listed> for Window {
    fn from(listed: Listed) -> Window {
        listed.0
    }
}

impl From<ToldWindow> for Window {
    fn from(told: ToldWindow) -> Window {
        told.0
    }
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(WindowVisitor::<OneWindow<'de>>(PhantomData)).map(Listed)
    }
}

impl<'de> Deserialize<'de> for ToldWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(WindowVisitor::<ToldFields<'de>>(PhantomData)).map(ToldWindow)
    }
}

/// The fields of one window in a status.
#[derive(Debug, Default)]
struct ToldFields<'a>(OneWindow<'a>);

impl<'de> Body<'de> for ToldFields<'de> {
    const FIELDS: &'static str = OneWindow::FIELDS;

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        match FIGURES.contains(&name) {
            true => map.next_value::<IgnoredAny>().map(|_| true),
            false => self.0.field(name, map),
        }
    }
}

impl<'a> From<ToldFields<'a>> for OneWindow<'a> {
    fn from(told: ToldFields<'a>) -> OneWindow<'a> {
        told.0
    }
}

/// Reads a window from text, or from fields.
struct WindowVisitor<B>(PhantomData<B>);

impl<'de, B: Body<'de> + Into<OneWindow<'de>>> Visitor<'de> for WindowVisitor<B> {
    type Value = Window;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a window, \"RATE/PER\" or an object of its values")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
        let fields: B = read_object(map)?;
        fields.into().window().map_err(A::Error::custom)
    }
}
