//! What is done while the server runs: reading the token file again, starting afresh, stopping.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use log::Level;

use super::notify::Notifier;
use super::signals::{Event, Signals};
use crate::cli::answer::Answer;
use crate::cli::output::counted;
use crate::error::{Error, Kind, Result};
use crate::limiter::Limiter;
use crate::server::{Server, TokenFile, Tokens};
use crate::store::Health;

pub struct Control<'a> {
    pub limiter: &'a Limiter,
    pub signals: &'a Signals,
    /// The token file, if the tokens are from one.
    pub token_file: Option<&'a TokenFile>,
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
                        log::error!("the server is to start afresh and cannot yet: {reason}");
                    }
                    obstacle = Some(reason);
                }
                Event::Stop => {
                    log::info!("stopping: answering what is in flight and closing the log");
                    self.notifier.stopping();
                    server.stop();
                    return self.limiter.close().map(|()| Answer::Yes);
                }
            }
        }
    }

    /// Why the next image of this process could not start.
    fn obstacle(&self) -> Option<String> {
        match self.limiter.health() {
            (Health::Healthy, _) => Some(self.token_file?.read().err()?.to_string()),
            (_, reason) => Some(reason.unwrap_or_else(|| "the log cannot be written".to_owned())),
        }
    }

    /// Makes this process a fresh one on the same socket. Returns only if the server was stopped in the meantime, or on
    /// an error.
    fn replace(&self, server: Server) -> Result<Answer> {
        log::warn!("tiny_http holds connections that it will not let go: starting afresh on the same socket");
        self.notifier.status("starting afresh on the same socket");
        let retired = server.replace();
        self.limiter.close()?;
        if self.signals.stop_requested() {
            log::info!("stopping: a signal came while the server was about to start afresh");
            self.notifier.stopping();
            retired.stop();
            return Ok(Answer::Yes);
        }
        let error = retired.replace_process(&mut same_command());
        Err(Error::new(Kind::Io, format!("cannot start afresh: {error}; start the server again")))
    }

    /// Reads the token file again; a bad one changes nothing. Returns what was done.
    fn reload(&self, server: &Server) -> String {
        let (level, done) = match self.token_file.map(|file| (file, file.read())) {
            None => (Level::Warn, "SIGHUP changes nothing: the tokens are not from a --token-file".to_owned()),
            Some((_, Err(error))) => (Level::Error, format!("SIGHUP changes nothing: {error}")),
            Some((file, Ok(read))) => {
                read.warning.iter().for_each(|warning| log::warn!("{warning}"));
                let count = counted(read.tokens.len(), "token");
                server.set_tokens(Tokens::new(read.tokens));
                (Level::Info, format!("read {count} from {}", file.path.display()))
            }
        };
        log::log!(level, "{done}");
        done
    }
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
