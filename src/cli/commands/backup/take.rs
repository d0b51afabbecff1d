//! `flint log backup`: every block is judged before the copy counts as taken, also that of a server.

use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::place::{NewFile, Place};
use crate::bounds::COMPACT_REPLY_MS;
use crate::cli::answer::{Answer, usage};
use crate::cli::options::{Args, Global};
use crate::cli::output::{Output, counted};
use crate::cli::remote::{Request, download};
use crate::error::{Error, Kind, Result};
use crate::limiter::backup;
use crate::store::Unpacker;

/// `log backup`
pub fn take(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let place = Place::of(args)?;
    let (path, mut file) = match place {
        Place::File(path) => (Some(path), Some(NewFile::create(path)?)),
        Place::Standard if io::stdout().is_terminal() => {
            return Err(usage("a backup is binary, not text for a terminal; redirect standard output, or name a FILE"));
        }
        Place::Standard => (None, None),
    };
    let stopped = catch_signals();
    let patience = Duration::from_millis(COMPACT_REPLY_MS);
    let request = Request { patience, ..Request::new("POST", "/v1/log/backup") };
    let (from, name) = download(global, &request, || backup(&global.dir))?;
    let mut write = |bytes: &[u8]| match &mut file {
        Some(file) => file.write(bytes),
        None => output.raw(bytes),
    };
    let mut tee = Tee { from, write: &mut write, stopped, failed: None };
    let read = read_whole(&mut tee, name);
    if let Some(error) = tee.failed {
        return Err(error);
    }
    let (files, bytes) = read?;
    file.map_or(Ok(()), NewFile::keep)?;
    let Some(path) = path else { return Ok(Answer::Yes) };
    if output.json {
        output.json(&json!({"ok": true, "file": path.display().to_string(), "files": files, "bytes": bytes}))?;
    } else {
        let (files, bytes) = (counted(files, "file"), counted(bytes, "byte"));
        output.line(&format!("backed up {files} with {bytes} to {}", path.display()))?;
    }
    Ok(Answer::Yes)
}

/// Reads a backup to its end. Returns how many files it has, and their bytes.
fn read_whole(from: impl Read, name: String) -> Result<(u32, u64)> {
    let mut unpacker = Unpacker::begin(from, name)?;
    while unpacker.next_item()?.is_some() {}
    Ok((unpacker.header().files, unpacker.header().bytes))
}

/// From now on the first SIGINT, SIGTERM or SIGHUP sets the flag, and the second one ends the process.
fn catch_signals() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // If they can't be caught, they end the process, and the file that it leaves has no end.
        let _ = signal_hook::flag::register_conditional_default(signal, Arc::clone(&stopped));
        let _ = signal_hook::flag::register(signal, Arc::clone(&stopped));
    }
    stopped
}

/// Writes all that is read of a backup.
struct Tee<'a> {
    from: Box<dyn Read>,
    write: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    stopped: Arc<AtomicBool>,
    /// Why it could not be written, or was not to be.
    failed: Option<Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let written = match self.stopped.load(Ordering::Relaxed) {
            true => Err(Error::new(Kind::Io, "the backup was stopped by a signal and is incomplete")),
            false => {
                let read = self.from.read(bytes)?;
                (self.write)(&bytes[..read]).map(|()| read)
            }
        };
        written.map_err(|error| {
            let text = error.to_string();
            self.failed = Some(error);
            io::Error::other(text)
        })
    }
}
