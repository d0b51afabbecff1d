//! Files of limits: the array that `limit list --json` prints, or written by hand.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::answer::usage;
use crate::bounds::MAX_LIMITS_BYTES;
use crate::error::{Error, Kind, Result};

/// A file of limits, read whole.
pub struct LimitsFile {
    name: String,
    pub text: String,
}

impl LimitsFile {
    /// Reads the file of this name, `-` for standard input.
    ///
    /// # Errors
    /// `usage`, when it can't be read, is too large, or is not UTF-8.
    pub fn read(name: &OsStr) -> Result<LimitsFile> {
        let stdin = name == "-";
        let shown = if stdin { "standard input".to_owned() } else { Path::new(name).display().to_string() };
        let mut bytes = Vec::new();
        let most = MAX_LIMITS_BYTES as u64 + 1;
        let read = match stdin {
            true => io::stdin().lock().take(most).read_to_end(&mut bytes),
            false => File::open(name).and_then(|file| file.take(most).read_to_end(&mut bytes)),
        };
        read.map_err(|error| usage(format!("{shown} cannot be read: {error}")))?;
        if bytes.len() > MAX_LIMITS_BYTES {
            return Err(usage(format!("{shown} is larger than {MAX_LIMITS_BYTES} bytes; apply it in parts")));
        }
        let text = String::from_utf8(bytes).map_err(|_| usage(format!("{shown} is not UTF-8")))?;
        // Editors on other systems begin a file so.
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(LimitsFile { name: shown, text })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error about what the file says, with the file's name.
    pub fn named(&self, error: Error) -> Error {
        match error.kind() {
            Kind::InvalidJson | Kind::InvalidArgument => usage(match error.message().strip_prefix("the body ") {
                Some(rest) => format!("{} {rest}", self.name),
                None => format!("{}: {error}", self.name),
            }),
            _ => error,
        }
    }
}
