//! What is done while the server runs: reading the files of tokens and limits again, starting afresh, stopping.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use log::Level;

use super::notify::Notifier;
use super::signals::{Event, Signals};
use crate::cli::answer::Answer;
use crate::cli::limits_file::LimitsFile;
use crate::cli::output::counted;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::server::{Server, TokenFile, Tokens, parse_listed};
use crate::store::Health;

pub struct Control<'a> {
    pub engine: &'a dyn Engine,
    pub signals: &'a Signals,
    /// The token file, if the tokens are from one.
    pub token_file: Option<&'a TokenFile>,
    /// The file of limits, if there is one.
    pub limits_file: Option<&'a OsStr>,
    pub notifier: Notifier,
}

impl Control<'_> {
    /// Does what signals ask for, until the end.
    ///
    /// # Errors
    /// `io`, when the log can't be closed or the program can't be started again.
    pub fn run(&self, server: Server) -> Result<Answer> {
        // Why a replacement is postponed.
        let mut obstacle = None;
        loop {
            match self.signals.wait(obstacle.is_some()) {
                Event::Reload => {
                    let done = self.reload(&server);
                    self.notifier.ready(&format!("listening on {}; {done}", server.url()));
                }
                Event::Replace => {
                    let Some(reason) = self.obstacle() else { return self.replace(server) };
                    if obstacle.as_ref() != Some(&reason) {
                        log::error!("the server needs to start afresh, but can't yet: {reason}");
                    }
                    obstacle = Some(reason);
                }
                Event::Stop => {
                    log::info!("stopping: answering what is in flight and closing the log");
                    self.notifier.stopping();
                    server.stop();
                    return self.engine.close().map(|()| Answer::Yes);
                }
            }
        }
    }

    /// Why the next image of this process could not start.
    fn obstacle(&self) -> Option<String> {
        match self.engine.health() {
            (Health::Healthy, _) => Some(self.token_file?.read().err()?.to_string()),
            (_, reason) => Some(reason.unwrap_or_else(|| "the log cannot be written".to_owned())),
        }
    }

    /// Makes this process a fresh one on the same socket. Returns only if the server was stopped in the meantime, or on
    /// an error.
    fn replace(&self, server: Server) -> Result<Answer> {
        log::warn!("tiny_http holds connections that it does not release: starting afresh on the same socket");
        self.notifier.status("starting afresh on the same socket");
        let retired = server.replace();
        self.engine.close()?;
        if self.signals.stop_requested() {
            log::info!("stopping: a signal came while the server was about to start afresh");
            self.notifier.stopping();
            retired.stop();
            return Ok(Answer::Yes);
        }
        let error = retired.replace_process(&mut same_command());
        Err(Error::new(Kind::Io, format!("cannot start afresh: {error}; start the server again")))
    }

    /// Reads the files of tokens and limits again; a bad one changes nothing. Returns what was done.
    fn reload(&self, server: &Server) -> String {
        let tokens = self.token_file.map(|file| {
            let read = file.read()?;
            read.warning.iter().for_each(|warning| log::warn!("{warning}"));
            let count = counted(read.tokens.len(), "token");
            server.set_tokens(Tokens::new(read.tokens));
            Ok(format!("read {count} from {}", file.path.display()))
        });
        let limits = self.limits_file.map(|file| apply(self.engine, &LimitsFile::read(file)?));
        let mut done = Vec::new();
        for (what, result) in [("token", tokens), ("limit", limits)] {
            let (level, text) = match result {
                None => continue,
                Some(Ok(text)) => (Level::Info, text),
                Some(Err(error)) => (Level::Error, format!("SIGHUP changed no {what}: {error}")),
            };
            log::log!(level, "{text}");
            done.push(text);
        }
        if done.is_empty() {
            let text = "SIGHUP changed nothing: the tokens are not from a --token-file, and there is no --limits";
            log::warn!("{text}");
            done.push(text.to_owned());
        }
        done.join("; ")
    }
}

/// Makes the configured limits what a file says. Returns what was done.
///
/// # Errors
/// `usage`, naming the file and what is wrong in it; `log_failed`, `overloaded`. Nothing is changed then.
pub fn apply(engine: &dyn Engine, file: &LimitsFile) -> Result<String> {
    let mut settings = parse_listed(file.text.as_bytes()).map_err(|error| file.named(error))?;
    let applied = engine.apply(&settings.take(), false, false).map_err(|error| file.named(error))?;
    let (added, changed) = (counted(applied.added, "limit"), applied.changed);
    Ok(format!("read {}: {added} added, {changed} changed", file.name()))
}

/// This program with its arguments.
fn same_command() -> Command {
    // The path, for `ps` to show the name; unless another file has been put there since.
    let same = |path: &PathBuf| {
        let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        identity(path).is_some_and(|file| Some(file) == identity(Path::new("/proc/self/exe")))
    };
    let program = std::env::current_exe().ok().filter(same).unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args);
    command
}
