//! `flint log restore`.

use std::fs::File;
use std::io::{self, IsTerminal};

use serde_json::json;

use super::place::Place;
use crate::cli::answer::{Answer, usage};
use crate::cli::options::{Args, Global};
use crate::cli::output::{Output, counted};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::limiter::restore as restore_into;
use crate::store::ahead_notice;

/// `log restore`
pub fn restore(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let place = Place::of(args)?;
    global.need_directory(args)?;
    let dir = &global.dir;
    let (restored, found) = match place {
        Place::File(path) => {
            let file = File::open(path).map_err(|error| Error::io("open", path, &error))?;
            restore_into(dir, file, &path.display().to_string())?
        }
        Place::Standard if io::stdin().is_terminal() => {
            return Err(usage("standard input is a terminal; pipe a backup into it, or name a FILE"));
        }
        Place::Standard => restore_into(dir, io::stdin().lock(), "the backup on standard input")?,
    };
    let clock = Clock::system();
    found.resume(&clock);
    let ahead = clock.ahead();
    if output.json {
        let ahead_ms = ahead.map(|ahead| ahead.as_micros().div_ceil(1000) as u64);
        output.json(&json!({"ok": true, "data_dir": dir.display().to_string(), "files": restored.files,
            "bytes": restored.bytes, "events": found.events, "ahead_ms": ahead_ms}))?;
        return Ok(Answer::Yes);
    }
    let (files, bytes) = (counted(restored.files, "file"), counted(restored.bytes, "byte"));
    output.line(&format!("restored {files} with {bytes} into {}", dir.display()))?;
    ahead.map_or(Ok(()), |ahead| output.line(&ahead_notice(ahead)))?;
    Ok(Answer::Yes)
}
