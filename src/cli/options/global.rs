//! Options of every command: which data directory or server it works on, with which token, and how it prints.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::args::Args;
use crate::cli::remote::http::Address;
use crate::error::{Error, Kind, Result};
use crate::server::read_token_file;

/// Options of every command.
pub struct Global {
    /// The data directory, where no server is named.
    pub dir: PathBuf,
    pub json: bool,
    directory_given: bool,
    server: Option<Address>,
    token: Option<String>,
    token_file: Option<OsString>,
}

impl Global {
    /// Takes them out of the arguments.
    ///
    /// # Errors
    /// `usage`.
    pub fn take(args: &mut Args) -> Result<Global> {
        let dir = args.os_value("--data-dir")?;
        let url = args.value("--server")?;
        if dir.as_ref().is_some_and(|dir| dir.is_empty()) {
            return Err(Error::new(Kind::Usage, "--data-dir must not be empty"));
        }
        if dir.is_some() && url.is_some() {
            let message = "--server and --data-dir exclude each other: a server knows its own data directory";
            return Err(Error::new(Kind::Usage, message));
        }
        Ok(Global {
            json: args.flag("--json")?,
            directory_given: dir.is_some(),
            dir: dir.unwrap_or_else(|| ".flint".into()).into(),
            server: url.map(|url| Address::parse(&url, "--server")).transpose()?,
            token: args.value("--token")?,
            token_file: args.os_value("--token-file")?,
        })
    }

    /// The server that was named, and by what: `--server`, or `FLINT_SERVER` where no `--data-dir` was given, which is
    /// nearer than the environment.
    ///
    /// # Errors
    /// `usage`, for a URL in the environment that is none.
    pub fn server(&self) -> Result<Option<(Address, &'static str)>> {
        const VARIABLE: &str = "FLINT_SERVER";
        if let Some(address) = &self.server {
            return Ok(Some((address.clone(), "--server")));
        }
        let url = std::env::var_os(VARIABLE).filter(|url| !url.is_empty() && !self.directory_given);
        url.map(|url| Ok((Address::parse(&url.to_string_lossy(), VARIABLE)?, VARIABLE))).transpose()
    }

    /// `--token`, else the tokens of `--token-file`, else `FLINT_SERVER_TOKEN`. An empty one is none.
    ///
    /// # Errors
    /// `usage`, for a file that can't be read, or that others can.
    pub fn tokens(&self) -> Result<Vec<String>> {
        if let Some(token) = self.token.as_ref().filter(|token| !token.is_empty()) {
            return Ok(vec![token.clone()]);
        }
        if let Some(path) = &self.token_file {
            return read_token_file(path.as_ref());
        }
        let from_environment = std::env::var("FLINT_SERVER_TOKEN").unwrap_or_default();
        Ok(Some(from_environment).filter(|token| !token.is_empty()).into_iter().collect())
    }

    /// The token file, if the tokens are from one.
    pub fn token_source(&self) -> Option<&Path> {
        self.token_file.as_ref().filter(|_| !self.token_shows()).map(Path::new)
    }

    /// The token to show to a server: the first there is.
    ///
    /// # Errors
    /// As [`Global::tokens`], and for one that no header can carry.
    pub fn token(&self) -> Result<Option<String>> {
        let token = self.tokens()?.into_iter().next();
        match token {
            Some(token) if token.trim() != token || !token.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => {
                Err(Error::new(Kind::Usage, "the token must be printable ASCII without blanks around it"))
            }
            token => Ok(token),
        }
    }

    /// Whether the token was given on the command line, where `ps` shows it.
    pub fn token_shows(&self) -> bool {
        self.token.as_ref().is_some_and(|token| !token.is_empty())
    }

    /// Refuses `--server`, for the command that starts one.
    ///
    /// # Errors
    /// `usage`.
    pub fn refuse_server(&self) -> Result<()> {
        match self.server {
            None => Ok(()),
            Some(_) => Err(Error::new(Kind::Usage, "--server names a server that runs; server start takes --bind")),
        }
    }

    /// Refuses a named server, for a command that reads the files themselves.
    ///
    /// # Errors
    /// `usage`.
    pub fn need_directory(&self, command: &str) -> Result<()> {
        match self.server()? {
            None => Ok(()),
            Some((_, source)) => Err(Error::new(
                Kind::Usage,
                format!(
                    "{command} reads the files of the data directory and cannot use {source}; run it where they are, with \
                     --data-dir"
                ),
            )),
        }
    }
}
