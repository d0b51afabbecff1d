//! `flint run`: a command that starts when its quota allows.
//!
//! The command takes this process's place, so that signals and the exit status are its own. It is looked up first: what
//! can't be started spends nothing. The data directory is closed, and its lock let go, before it starts and while it
//! waits.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::Access as Permission;

use super::limits::{Decision, cost};
use crate::cli::Answer;
use crate::cli::options::args::{Args, text};
use crate::cli::options::global::Global;
use crate::cli::output::Output;
use crate::error::{Error, Kind, Result};
use crate::limit::parse_period;

/// Exit status when the limit says no: EX_TEMPFAIL of sysexits.h. 1 is what many commands end with.
const DENIED: u8 = 75;
/// Exit status when waiting was in vain: that of timeout(1).
const TIMED_OUT: u8 = 124;
/// Exit statuses of a shell for what can't be started and for what is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Takes quota, then becomes the command.
pub fn run(mut args: Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let cost = cost(&mut args)?;
    let wait = args.value("--wait")?.map(|wait| period("--wait", &wait)).transpose()?;
    let (key, words) = operands(args)?;
    let Some((name, arguments)) = words.split_first() else {
        return Err(Error::new(Kind::Usage, "COMMAND is missing; it stands behind --, as in `flint run KEY -- make`"));
    };
    let program = match find(name) {
        Ok(program) => program,
        Err((status, why)) => return complain(status, &format!("{}: {why}", name.to_string_lossy())),
    };
    let started = Instant::now();
    loop {
        let decision = match Decision::ask(global, &key, cost) {
            // As good as any other reason why it can never start; 2 is kept for the command line.
            Err(error) if error.kind() == Kind::CostExceedsCapacity => return complain(3, error.message()),
            decision => decision?,
        };
        if decision.allowed {
            break;
        }
        let pause = Duration::from_millis(decision.retry_after_ms.max(1));
        let left = wait.map(|wait| wait.saturating_sub(started.elapsed()));
        match left {
            Some(left) if pause <= left => std::thread::sleep(pause),
            left => return denied(&key, &decision, left.is_some(), global, output),
        }
    }
    output.flush()?;
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    complain(status, &format!("{}: {error}, after the quota was spent", program.display()))
}

fn denied(key: &str, decision: &Decision, waited: bool, global: &Global, output: &mut Output) -> Result<Answer> {
    if global.json {
        output.bytes(&decision.document.bytes)?;
    }
    let vain = if waited { ", which is later than --wait allows" } else { "" };
    let message = format!("denied by `{key}`, try again in {} ms{vain}", decision.retry_after_ms);
    complain(if waited { TIMED_OUT } else { DENIED }, &message)
}

fn complain(status: u8, message: &str) -> Result<Answer> {
    crate::cli::output::complain(&Error::new(Kind::Internal, message));
    Ok(Answer::Status(status))
}

/// The key, and the words of the command. A key that begins with a dash stands behind a `--` of its own.
fn operands(args: Args) -> Result<(String, Vec<OsString>)> {
    let (mut before, behind) = args.split_operands()?;
    let mut behind = behind.unwrap_or_default();
    if before.is_empty() && behind.get(1).is_some_and(|word| word == "--") {
        let command = behind.split_off(2);
        before = vec![behind.swap_remove(0)];
        behind = command;
    }
    match before.len() {
        0 => Err(crate::cli::missing("KEY")),
        1 => Ok((text(before.swap_remove(0))?, behind)),
        _ => Err(Error::new(
            Kind::Usage,
            format!("`{}` must stand behind --, as in `flint run KEY -- make`", before[1].to_string_lossy()),
        )),
    }
}

/// A duration, in the form of a period.
fn period(option: &str, text: &str) -> Result<Duration> {
    parse_period(text).map(Duration::from_millis).map_err(|error| {
        let message = error.message().strip_prefix("per ").unwrap_or(error.message());
        Error::new(Kind::Usage, format!("{option} {message}"))
    })
}

/// The file that a shell would start for this name.
fn find(name: &OsStr) -> std::result::Result<PathBuf, (u8, &'static str)> {
    let not_found = (NOT_FOUND, "not found; no quota was spent");
    let no_leave = (NOT_EXECUTABLE, "cannot be executed; no quota was spent");
    let look = |path: &Path| match path.metadata() {
        Err(_) => Err(not_found),
        Ok(metadata) if !metadata.is_file() => Err(no_leave),
        Ok(_) => {
            rustix::fs::access(path, Permission::EXEC_OK).map_err(|_| no_leave)?;
            match interpreter(path).map(|program| rustix::fs::access(program, Permission::EXEC_OK)) {
                Some(Err(_)) => Err((NOT_EXECUTABLE, "its interpreter cannot be executed; no quota was spent")),
                _ => Ok(()),
            }
        }
    };
    if name.is_empty() {
        return Err(not_found);
    }
    if name.as_encoded_bytes().contains(&b'/') {
        return look(Path::new(name)).map(|()| name.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut worst = not_found;
    for dir in std::env::split_paths(&path) {
        // An empty part of PATH is the current directory.
        let candidate = if dir.as_os_str().is_empty() { Path::new(".").join(name) } else { dir.join(name) };
        match look(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(why) if why.0 == NOT_EXECUTABLE && !candidate.is_dir() => worst = why,
            Err(_) => {}
        }
    }
    Err(worst)
}

/// The interpreter that a script names in its first line.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    // As much of it as Linux looks at.
    std::fs::File::open(path).ok()?.take(256).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let word = line.split(u8::is_ascii_whitespace).next().filter(|word| !word.is_empty())?;
    Some(OsStr::from_bytes(word).into())
}
