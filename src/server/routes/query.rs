//! What is in a request's target besides its path: percent-encoding and query parameters.

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::limit::excerpt;

/// The parameters that follow the `?`.
#[derive(Default)]
pub struct Query<'a>(Vec<(&'a str, String)>);

impl<'a> Query<'a> {
    /// Reads them.
    ///
    /// # Errors
    /// `invalid_argument`, naming the parameter, for a parameter that is not known, is given twice, or is badly
    /// encoded.
    pub fn parse(query: &'a str, known: &[&str]) -> Result<Query<'a>> {
        let mut parameters: Vec<(&str, String)> = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if !known.contains(&name) {
                return Err(Error::invalid(format!("unknown query parameter `{}`", excerpt(name))));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Error::invalid(format!("query parameter `{name}` is given twice")));
            }
            parameters.push((name, decode(value, name)?));
        }
        Ok(Query(parameters))
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that must be there.
    ///
    /// # Errors
    /// `invalid_argument`, naming it.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| Error::invalid(format!("query parameter `{name}` is missing")))
    }

    /// The value of a parameter that is `true` or `false`; `false` where it is not there.
    ///
    /// # Errors
    /// `invalid_argument`, naming it.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Error::invalid(format!("query parameter `{name}` must be true or false, not `{}`", excerpt(other))))
            }
        }
    }

    /// The value of a parameter that is an integer.
    ///
    /// # Errors
    /// `invalid_argument`, naming it.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    Error::invalid(format!("query parameter `{name}` must be an integer, not `{}`", excerpt(value)))
                })
            })
            .transpose()
    }
}

/// The path of a target.
pub fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Decodes percent-encoded text.
///
/// # Errors
/// `invalid_argument`, with `what` it is.
pub fn decode(text: &str, what: &str) -> Result<String> {
    // A percent sign that begins no escape would be passed on as it is, and name another key than was meant.
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let escape = rest.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if escape.is_none() {
            return Err(Error::invalid(format!("{what} has a % that is not a percent-encoding; write it as %25")));
        }
        rest = &rest[at + 3..];
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::invalid(format!("{what} is not UTF-8 when percent-decoded"))),
    }
}
