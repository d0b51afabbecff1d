//! Options of every command: which data directory or server it works on, and with which token.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::address::Address;
use super::args::Args;
use crate::cli::answer::usage;
use crate::error::Result;
use crate::server::read_token_file;

/// Where a command works, and with which token.
pub struct Global {
    /// The data directory, where no server is named: `--data-dir`, else `FLINT_DATA_DIR`, else the table's default.
    pub dir: PathBuf,
    directory_given: bool,
    server: Option<Address>,
    token: Option<String>,
    token_file: Option<OsString>,
}

impl Global {
    /// Reads the options of every command.
    ///
    /// # Errors
    /// `usage`.
    pub fn read(args: &Args) -> Result<Global> {
        let dir = args.os_text("--data-dir");
        let server = args.given_text("--server")?;
        if dir.is_some_and(OsStr::is_empty) {
            return Err(usage("--data-dir must not be empty"));
        }
        if dir.is_some() && server.is_some() {
            return Err(usage("--server and --data-dir exclude each other: a server knows its own data directory"));
        }
        let variable = std::env::var_os("FLINT_DATA_DIR").filter(|dir| !dir.is_empty());
        let named = dir.map(PathBuf::from).or_else(|| variable.map(PathBuf::from));
        Ok(Global {
            dir: named.map_or_else(|| args.text("--data-dir").map(PathBuf::from), Ok)?,
            directory_given: dir.is_some(),
            server: server.map(|url| Address::parse(url, "--server")).transpose()?,
            token: args.given_text("--token")?.filter(|token| !token.is_empty()).map(str::to_owned),
            token_file: args.os_text("--token-file").map(OsStr::to_owned),
        })
    }

    /// The server that was named, and the name of the option or variable that did: `--server`, or `FLINT_SERVER` where
    /// no `--data-dir` was given, which counts more than the environment.
    ///
    /// # Errors
    /// `usage`, for a bad URL in the environment.
    pub fn server(&self) -> Result<Option<(Address, &'static str)>> {
        const VARIABLE: &str = "FLINT_SERVER";
        if let Some(address) = &self.server {
            return Ok(Some((address.clone(), "--server")));
        }
        let url = std::env::var_os(VARIABLE).filter(|url| !url.is_empty() && !self.directory_given);
        url.map(|url| Ok((Address::parse(&url.to_string_lossy(), VARIABLE)?, VARIABLE))).transpose()
    }

    /// `--token`, else the tokens of `--token-file`, else `FLINT_SERVER_TOKEN`. An empty one does not count.
    ///
    /// # Errors
    /// `usage`, for a file that can't be read, or that others can.
    pub fn tokens(&self) -> Result<Vec<String>> {
        if let Some(token) = &self.token {
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
        self.token_file.as_ref().filter(|_| self.token.is_none()).map(Path::new)
    }

    /// The token to show to a server: the first there is.
    ///
    /// # Errors
    /// As [`Global::tokens`], and for one that no header can carry.
    pub fn token(&self) -> Result<Option<String>> {
        let token = self.tokens()?.into_iter().next();
        match token {
            Some(token) if token.trim() != token || !token.bytes().all(|byte| (0x20..0x7f).contains(&byte)) => {
                Err(usage("the token must be printable ASCII without blanks around it"))
            }
            token => Ok(token),
        }
    }

    /// Whether the token was given on the command line, where `ps` shows it.
    pub fn token_shows(&self) -> bool {
        self.token.is_some()
    }

    /// Refuses `--server`, for the command that starts one.
    ///
    /// # Errors
    /// `usage`.
    pub fn refuse_server(&self) -> Result<()> {
        match self.server {
            None => Ok(()),
            Some(_) => Err(usage("--server names a server that runs; server start takes --bind")),
        }
    }

    /// Refuses a named server, for a command that reads the files themselves.
    ///
    /// # Errors
    /// `usage`.
    pub fn need_directory(&self, args: &Args) -> Result<()> {
        let Some((_, source)) = self.server()? else { return Ok(()) };
        let what = "reads the files of the data directory and cannot use";
        Err(usage(format!("{} {what} {source}; run it where they are, with --data-dir", args.command.name)))
    }
}
