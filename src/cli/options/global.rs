//! Options of every command: which data directory or server it works on, and with which token.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::address::Address;
use super::args::Args;
use crate::cli::answer::usage;
use crate::error::Result;
use crate::server::{Token, TokenFile};

/// Where a command works, and with which token.
#[derive(Clone)]
pub struct Global {
    /// The data directory, where no server is named: `--data-dir`, else `FLINT_DATA_DIR`, else the table's default.
    pub dir: PathBuf,
    directory_given: bool,
    server: Option<Address>,
    token: Option<String>,
    token_file: Option<TokenFile>,
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
            return Err(usage("--server and --data-dir can't be used together: a server knows its own data directory"));
        }
        let variable = std::env::var_os("FLINT_DATA_DIR").filter(|dir| !dir.is_empty());
        let named = dir.map(PathBuf::from).or_else(|| variable.map(PathBuf::from));
        Ok(Global {
            dir: named.map_or_else(|| args.text("--data-dir").map(PathBuf::from), Ok)?,
            directory_given: dir.is_some(),
            server: server.map(|url| Address::parse(url, "--server")).transpose()?,
            token: args.given_text("--token")?.filter(|token| !token.is_empty()).map(str::to_owned),
            token_file: token_file(args),
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

    /// `--token`, else the tokens of `--token-file`, else of `FLINT_TOKEN_FILE`, else `FLINT_SERVER_TOKEN`. An empty
    /// one does not count.
    ///
    /// # Errors
    /// `usage`, for a file that can't be read, or that others can write, and for a token that no client may send.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        if let Some(token) = &self.token {
            return Ok(vec![Token::new(token, "--token")?]);
        }
        if let Some(file) = &self.token_file {
            return file.read().map(|read| read.tokens);
        }
        const VARIABLE: &str = "FLINT_SERVER_TOKEN";
        let from_environment = std::env::var_os(VARIABLE).filter(|token| !token.is_empty());
        from_environment.map(|token| Token::new(&token.to_string_lossy(), VARIABLE)).into_iter().collect()
    }

    /// The token file, if the tokens are from one.
    pub fn token_source(&self) -> Option<&TokenFile> {
        self.token_file.as_ref().filter(|_| self.token.is_none())
    }

    /// The token to show to a server: the first there is.
    ///
    /// # Errors
    /// As [`Global::tokens`].
    pub fn token(&self) -> Result<Option<String>> {
        Ok(self.tokens()?.into_iter().next().map(Token::into_text))
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
            Some(_) => Err(usage(
                "--server names a running server, and this command starts one; use --bind to choose its address",
            )),
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

/// The file of tokens that `--token-file` names, else `FLINT_TOKEN_FILE`.
fn token_file(args: &Args) -> Option<TokenFile> {
    const VARIABLE: &str = "FLINT_TOKEN_FILE";
    let named = args.os_text("--token-file").map(|path| TokenFile { path: path.into(), source: "--token-file" });
    named.or_else(|| {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        Some(TokenFile { path: path.into(), source: VARIABLE })
    })
}
