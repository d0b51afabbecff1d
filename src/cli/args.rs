//! Arguments: pico-args, with what it leaves to its callers. An option given twice, a value that looks like an option,
//! and whatever is left over are errors.

use std::ffi::OsString;

use pico_args::Arguments;

use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;

/// The arguments that were not looked at yet.
pub struct Args {
    arguments: Arguments,
    /// What stands behind `--`: operands, whatever they look like.
    operands: Vec<OsString>,
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
                operands
            }
            None => Vec::new(),
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
        let value: Option<String> = self.arguments.opt_value_from_str(name).map_err(|error| wrong(name, &error))?;
        match value {
            Some(value) if value.starts_with("--") => {
                Err(Error::new(Kind::Usage, format!("{name} needs a value, not `{}`", excerpt(&value))))
            }
            value => Ok(value),
        }
    }

    /// The value of an option that names a file.
    ///
    /// # Errors
    /// `usage` when it has none or is given twice.
    pub fn os_value(&mut self, name: &'static str) -> Result<Option<OsString>> {
        let mut next = || {
            self.arguments
                .opt_value_from_os_str(name, |value| Ok::<_, std::convert::Infallible>(value.to_owned()))
                .map_err(|error| wrong(name, &error))
        };
        let value = next()?;
        if value.is_some() && next()?.is_some() {
            return Err(Error::new(Kind::Usage, format!("{name} is given twice")));
        }
        match value {
            Some(value) if value.to_string_lossy().starts_with("--") => {
                Err(Error::new(Kind::Usage, format!("{name} needs a value, not `{}`", value.to_string_lossy())))
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
                value.parse().map_err(|_| {
                    Error::new(
                        Kind::Usage,
                        format!("{name} must be an integer of 0 or more, not `{}`", excerpt(&value)),
                    )
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
        let left = self.arguments.finish();
        if let Some(option) = left.iter().find(|argument| argument.as_encoded_bytes().starts_with(b"-")) {
            return Err(unknown_option(option));
        }
        left.into_iter()
            .chain(self.operands)
            .map(|operand| {
                operand.into_string().map_err(|operand| {
                    Error::new(Kind::Usage, format!("`{}` is not UTF-8", excerpt(&operand.to_string_lossy())))
                })
            })
            .collect()
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

fn unknown_option(option: &std::ffi::OsStr) -> Error {
    Error::new(Kind::Usage, format!("unknown option `{}`; `flint help` lists them", excerpt(&option.to_string_lossy())))
}

fn wrong(name: &str, error: &pico_args::Error) -> Error {
    match error {
        pico_args::Error::NonUtf8Argument => Error::new(Kind::Usage, format!("the value of {name} is not UTF-8")),
        _ => Error::new(Kind::Usage, format!("{name} needs a value")),
    }
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
        assert!(args(&["--rate"]).value("--rate").unwrap_err().message().contains("--rate"));
        assert!(args(&["--rate", "--per"]).value("--rate").unwrap_err().message().contains("--rate"));
        assert!(args(&["--rate", "1", "--rate", "2"]).value("--rate").unwrap_err().message().contains("twice"));
        assert!(args(&["--rate", "x"]).number("--rate").unwrap_err().message().contains("--rate"));
        assert!(args(&["--odd"]).operands().unwrap_err().message().contains("--odd"));
        assert!(args(&[]).exactly(["KEY"]).unwrap_err().message().contains("KEY"));
        assert!(args(&["a", "b"]).exactly(["KEY"]).unwrap_err().message().contains("`b`"));
    }
}
