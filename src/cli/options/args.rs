//! Arguments: pico-args, with what it leaves to its callers. An option given twice, a value that looks like an option,
//! and whatever is left over are errors. `--name=value` is split here: pico-args refuses an empty value and takes quotes
//! off others.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use pico_args::Arguments;

use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// The arguments that were not looked at yet.
pub struct Args {
    arguments: Arguments,
    /// What stands behind `--`: operands, whatever they look like.
    operands: Option<Vec<OsString>>,
}

impl Args {
    /// Arguments without the program's name.
    ///
    /// # Errors
    /// None yet; for the sake of the caller's chain.
    pub fn new(mut argv: Vec<OsString>) -> Result<Args> {
        let operands = match argv.iter().position(|argument| argument == "--") {
            Some(at) => {
                let operands = argv.split_off(at + 1);
                argv.pop();
                Some(operands)
            }
            None => None,
        };
        Ok(Args { arguments: Arguments::from_vec(argv), operands })
    }

    /// Whether a flag is given.
    ///
    /// # Errors
    /// `usage` when it is given twice.
    pub fn flag(&mut self, name: &'static str) -> Result<bool> {
        let given = self.arguments.contains(name);
        if given && self.arguments.contains(name) {
            return Err(Error::new(Kind::Usage, format!("{name} is given twice")));
        }
        Ok(given)
    }

    /// The value of an option.
    ///
    /// # Errors
    /// `usage` when it has none, is given twice, or is not UTF-8.
    pub fn value(&mut self, name: &'static str) -> Result<Option<String>> {
        let value = self.value_again(name)?;
        if value.is_some() && self.value_again(name)?.is_some() {
            return Err(Error::new(Kind::Usage, format!("{name} is given twice")));
        }
        Ok(value)
    }

    /// The next value of an option that may be given several times.
    ///
    /// # Errors
    /// `usage` when it has none or is not UTF-8.
    pub fn value_again(&mut self, name: &'static str) -> Result<Option<String>> {
        self.next(name)?
            .map(|value| {
                let wrong = |_| Error::new(Kind::Usage, format!("the value of {name} is not UTF-8"));
                value.into_string().map_err(wrong)
            })
            .transpose()
    }

    /// The value of an option that names a file.
    ///
    /// # Errors
    /// `usage` when it has none or is given twice.
    pub fn os_value(&mut self, name: &'static str) -> Result<Option<OsString>> {
        let value = self.next(name)?;
        if value.is_some() && self.next(name)?.is_some() {
            return Err(Error::new(Kind::Usage, format!("{name} is given twice")));
        }
        Ok(value)
    }

    fn next(&mut self, name: &'static str) -> Result<Option<OsString>> {
        let mut left = std::mem::replace(&mut self.arguments, Arguments::from_vec(Vec::new())).finish();
        let value_of = |argument: &OsString| {
            let value = argument.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(OsStr::from_bytes(value).to_owned())
        };
        let joined = left.iter().enumerate().find_map(|(at, argument)| Some((at, value_of(argument)?)));
        if let Some((at, _)) = joined {
            left.remove(at);
        }
        self.arguments = Arguments::from_vec(left);
        if let Some((_, value)) = joined {
            return Ok(Some(value));
        }
        let value = self
            .arguments
            .opt_value_from_os_str(name, |value| Ok::<_, std::convert::Infallible>(value.to_owned()))
            .map_err(|_| Error::new(Kind::Usage, format!("{name} needs a value")))?;
        match value {
            Some(value) if value.as_bytes().starts_with(b"--") => {
                let value = value.to_string_lossy();
                Err(Error::new(Kind::Usage, format!("{name} needs a value, not `{}`", excerpt(&value))))
            }
            value => Ok(value),
        }
    }

    /// The value of an option that is an integer.
    ///
    /// # Errors
    /// `usage`, as for [`Args::value`], or when it is none.
    pub fn number(&mut self, name: &'static str) -> Result<Option<u64>> {
        self.value(name)?
            .map(|value| {
                value.parse().map_err(|error: std::num::ParseIntError| {
                    let what = match error.kind() {
                        std::num::IntErrorKind::PosOverflow => "is too large",
                        _ => "must be an integer of 0 or more",
                    };
                    Error::new(Kind::Usage, format!("{name} {what}: `{}`", excerpt(&value)))
                })
            })
            .transpose()
    }

    /// The next word of the command.
    ///
    /// # Errors
    /// `usage` for an unknown option before it, or when it is not UTF-8.
    pub fn word(&mut self) -> Result<Option<String>> {
        match self.arguments.subcommand() {
            Ok(Some(word)) => Ok(Some(word)),
            Ok(None) => match self.arguments.clone().finish().first() {
                Some(left) => Err(unknown_option(left)),
                None => Ok(None),
            },
            Err(_) => Err(Error::new(Kind::Usage, "the command is not UTF-8")),
        }
    }

    /// All operands that are left, when all options have been taken.
    ///
    /// # Errors
    /// `usage` for an unknown option, or an operand that is not UTF-8.
    pub fn operands(self) -> Result<Vec<String>> {
        let (mut before, behind) = self.split_operands()?;
        before.extend(behind.unwrap_or_default());
        before.into_iter().map(text).collect()
    }

    /// The operands before a `--`, and those behind it, if there is one.
    ///
    /// # Errors
    /// `usage` for an unknown option.
    pub fn split_operands(self) -> Result<(Vec<OsString>, Option<Vec<OsString>>)> {
        let left = self.arguments.finish();
        match left.iter().find(|argument| argument.as_bytes().starts_with(b"-")) {
            Some(option) => Err(unknown_option(option)),
            None => Ok((left, self.operands)),
        }
    }

    /// Exactly these operands.
    ///
    /// # Errors
    /// `usage`, naming the one that is missing or too many.
    pub fn exactly<const N: usize>(self, names: [&str; N]) -> Result<[String; N]> {
        let operands = self.operands()?;
        if let Some(name) = names.get(operands.len()) {
            return Err(Error::new(Kind::Usage, format!("{name} is missing")));
        }
        operands.try_into().map_err(|operands: Vec<String>| {
            Error::new(Kind::Usage, format!("`{}` is one argument too many", excerpt(&operands[N])))
        })
    }
}

fn unknown_option(option: &OsStr) -> Error {
    Error::new(Kind::Usage, format!("unknown option `{}`; `flint help` lists them", excerpt(&option.to_string_lossy())))
}

/// An argument that must be text.
///
/// # Errors
/// `usage`.
pub fn text(argument: OsString) -> Result<String> {
    argument
        .into_string()
        .map_err(|argument| Error::new(Kind::Usage, format!("`{}` is not UTF-8", excerpt(&argument.to_string_lossy()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(OsString::from).collect()).unwrap()
    }

    #[test]
    fn options_operands_and_what_is_wrong() {
        let mut good = args(&["--rate", "5", "--per=10s", "key", "--", "--odd"]);
        assert_eq!(good.number("--rate").unwrap(), Some(5));
        assert_eq!(good.value("--per").unwrap().as_deref(), Some("10s"));
        assert_eq!(good.value("--burst").unwrap(), None);
        assert_eq!(good.operands().unwrap(), ["key", "--odd"]);
        let mut joined = args(&["--token=", "--per=\"1s\"", "--after=--odd", "--rate=1=2", "key"]);
        assert_eq!(joined.value("--token").unwrap().as_deref(), Some(""));
        assert_eq!(joined.value("--per").unwrap().as_deref(), Some("\"1s\""));
        assert_eq!(joined.value("--after").unwrap().as_deref(), Some("--odd"));
        assert_eq!(joined.value("--rate").unwrap().as_deref(), Some("1=2"));
        assert_eq!(joined.operands().unwrap(), ["key"]);
        assert!(args(&["--rate=1", "--rate", "2"]).value("--rate").unwrap_err().message().contains("twice"));
        assert!(args(&["--json="]).operands().unwrap_err().message().contains("--json="));
        assert!(args(&["--rate"]).value("--rate").unwrap_err().message().contains("--rate"));
        assert!(args(&["--rate", "--per"]).value("--rate").unwrap_err().message().contains("--rate"));
        assert!(args(&["--rate", "1", "--rate", "2"]).value("--rate").unwrap_err().message().contains("twice"));
        assert!(args(&["--rate", "x"]).number("--rate").unwrap_err().message().contains("--rate"));
        assert!(args(&["--odd"]).operands().unwrap_err().message().contains("--odd"));
        assert!(args(&[]).exactly(["KEY"]).unwrap_err().message().contains("KEY"));
        assert!(args(&["a", "b"]).exactly(["KEY"]).unwrap_err().message().contains("`b`"));
    }
}
