//! The file that a command's name means, as a shell would find it.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Exit statuses of a shell for what can't be started and for what is not there.
pub const NOT_EXECUTABLE: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// The file that a shell would start for this name.
pub fn find(name: &OsStr) -> std::result::Result<PathBuf, (u8, &'static str)> {
    let not_found = (NOT_FOUND, "not found; no quota was spent");
    let not_allowed = (NOT_EXECUTABLE, "cannot be executed; no quota was spent");
    let look = |path: &Path| match path.metadata() {
        Err(_) => Err(not_found),
        Ok(metadata) if !metadata.is_file() => Err(not_allowed),
        Ok(_) => {
            rustix::fs::access(path, Access::EXEC_OK).map_err(|_| not_allowed)?;
            match interpreter(path).map(|program| rustix::fs::access(program, Access::EXEC_OK)) {
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
