//! JSON objects with known fields, and what is said of those that are not as they should be.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::scalars::Text;
use super::syntax::{not_json, on_line};
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// Reads a body that is an object; an empty one is read as `{}`.
///
/// # Errors
/// `invalid_json` for what is not JSON; `invalid_argument`, naming the field, for what is not as it should be.
pub fn parse<'a, B: Body<'a>>(bytes: &'a [u8]) -> Result<B> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(B::default());
    }
    read::<Object<B>>(bytes).map(|object| object.0)
}

/// Refuses a body on an endpoint that takes none: only nothing or `{}`.
///
/// # Errors
/// As [`parse`].
pub fn parse_empty(bytes: &[u8]) -> Result<()> {
    parse::<Nothing>(bytes).map(|_| ())
}

/// Reads a body.
///
/// # Errors
/// As [`parse`].
pub fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| match serde_json::from_slice::<IgnoredAny>(bytes) {
        Err(error) => Error::new(Kind::InvalidJson, not_json(bytes, &error)),
        Ok(_) => {
            let text = error.to_string();
            let (text, _) = split_position(&text);
            if text.contains("recursion limit exceeded") {
                return Error::invalid("the body is nested too deeply");
            }
            // What was said in the value of a field, or of an item, names it.
            let bare = text.starts_with(WRONG_TYPE) || text.ends_with(HALF_PAIR) || text == WRONG_BYTES;
            let text = if bare { in_place("the body", text) } else { text.to_owned() };
            Error::invalid(text + &on_line(&error))
        }
    })
}

/// A JSON object with known fields.
pub trait Body<'de>: Default {
    /// The known fields, for an error message.
    const FIELDS: &'static str;

    /// Takes the value of a field. `Ok(false)` for a field that is not known.
    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<bool, A::Error>;
}

#[derive(Default)]
struct Nothing;

impl<'de> Body<'de> for Nothing {
    const FIELDS: &'static str = "none";
    fn field<A: MapAccess<'de>>(&mut self, _: &str, _: &mut A) -> std::result::Result<bool, A::Error> {
        Ok(false)
    }
}

/// Takes the value of a field, which must not be there yet.
pub fn take<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &str,
    map: &mut A,
) -> std::result::Result<bool, A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format_args!("field `{name}` is given twice")));
    }
    let value = map.next_value().map_err(|error| A::Error::custom(in_field(name, &error.to_string())))?;
    *slot = Some(value);
    Ok(true)
}

/// As [`take`], where null stands for a value that is not given.
pub fn take_any<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &str,
    map: &mut A,
) -> std::result::Result<bool, A::Error> {
    let mut value: Option<Option<T>> = slot.take().map(Some);
    take(&mut value, name, map)?;
    *slot = value.flatten();
    Ok(true)
}

/// The value of a field that must be there.
///
/// # Errors
/// `invalid_argument`, naming it.
pub fn required<'t>(text: &'t Option<Text<'_>>, name: &str) -> Result<&'t str> {
    text.as_ref().map(|text| &*text.0).ok_or_else(|| Error::invalid(format!("field `{name}` is missing")))
}

/// An object in a body.
pub struct Object<B>(pub B);

impl<'de, B: Body<'de>> Deserialize<'de> for Object<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Reads its fields.
pub fn read_object<'de, B: Body<'de>, A: MapAccess<'de>>(map: A) -> std::result::Result<B, A::Error> {
    ObjectVisitor(PhantomData).visit_map(map).map(|Object(body)| body)
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
                let name = excerpt(&name);
                return Err(A::Error::custom(format_args!("unknown field `{name}`; known: {}", B::FIELDS)));
            }
        }
        Ok(Object(body))
    }
}

/// How serde begins to say that a value is of another type; it goes on with the value, `, expected `, and what it
/// should be.
const WRONG_TYPE: &str = "invalid type: ";

/// How serde_json ends to say that an escape is half of a surrogate pair.
const HALF_PAIR: &str = "hex escape";

/// What serde_json says of a string that is not UTF-8.
const WRONG_BYTES: &str = "invalid unicode code point";

/// The text of an error in the value of a field.
pub fn in_field(name: &str, text: &str) -> String {
    // Errors in values begin with the name.
    let named = text.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
    if named { text.to_owned() } else { in_place(&format!("field `{name}`"), text) }
}

/// The next item of an array; an error in it says that it is the item of this number, from 1.
pub fn next_item<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    seq: &mut A,
    number: usize,
) -> std::result::Result<Option<T>, A::Error> {
    seq.next_element().map_err(|error| A::Error::custom(in_place(&format!("item {number}"), &error.to_string())))
}

/// The text of an error with its place before it, in the words of users.
pub fn in_place(place: &str, text: &str) -> String {
    let (what, position) = split_position(text);
    match what.strip_prefix(WRONG_TYPE).and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, wanted)) => format!("{place} must be {wanted}, not {}{position}", thing(found)),
        // Half of a surrogate pair.
        None if what.ends_with(HALF_PAIR) => format!("{place} has a \\u that is not a character{position}"),
        None if what == WRONG_BYTES => format!("{place} must be UTF-8{position}"),
        None if what == "number out of range" => format!("{place} must be a smaller number{position}"),
        None => format!("{place}: {text}"),
    }
}

/// Splits off where serde_json says that an error is, at the end of its text.
fn split_position(text: &str) -> (&str, &str) {
    let at = text.rfind(" at line ").filter(|at| {
        let words: Vec<&str> = text[*at..].split(' ').skip(3).collect();
        let number = |word: &str| word.parse::<usize>().is_ok();
        matches!(words[..], [line, "column", column] if number(line) && number(column))
    });
    text.split_at(at.unwrap_or(text.len()))
}

/// What serde says that it has found (the texts of `serde::de::Unexpected`), in other words.
fn thing(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "an array".to_owned(),
        _ => match found.split_once(['`', '"']) {
            Some(("string ", text)) => format!("the string `{}`", excerpt(text.trim_end_matches('"'))),
            Some((_, value)) => excerpt(value.trim_end_matches('`')),
            None => excerpt(found),
        },
    }
}
