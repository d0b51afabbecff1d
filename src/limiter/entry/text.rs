//! The text of a key, in place where it is short: a million keys are as many allocations fewer.

use std::fmt;
use std::ops::Deref;

/// Longest text in place, in bytes: as much as fits next to the mark for a longer text.
const SHORT: usize = 22;

/// The text of a key.
#[derive(Clone)]
pub struct Text(Form);

#[derive(Clone)]
enum Form {
    /// This many bytes of these.
    Short(u8, [u8; SHORT]),
    Long(Box<str>),
}

impl Text {
    /// Its bytes: what comparisons need.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Short(length, bytes) => &bytes[..usize::from(*length).min(SHORT)],
            Form::Long(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Text(Form::Short(text.len() as u8, bytes))
            }
            None => Text(Form::Long(text.into())),
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            // It came from a text, so it is one.
            Form::Short(..) => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Form::Long(text) => text,
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_length_come_back() {
        let whole = "ключ:user:550e8400-e29b-41d4-a716-446655440000";
        for (end, _) in whole.char_indices() {
            let text = Text::from(&whole[..end]);
            assert_eq!((&*text, text.as_bytes()), (&whole[..end], &whole.as_bytes()[..end]));
            assert_eq!(matches!(text.0, Form::Short(..)), end <= SHORT, "{end}");
            assert_eq!(&*text.clone(), &whole[..end]);
        }
        assert_eq!(size_of::<Text>(), 24);
    }
}
