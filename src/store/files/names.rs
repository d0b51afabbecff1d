//! The names in the data directory: the only place that builds or reads them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Name of the lock file. It is never unlinked: two processes could each lock a file of this name otherwise.
pub const LOCK: &str = "flint.lock";

/// Name of the file whose lock orders the commands that wait for the directory. It is never unlinked either.
pub const QUEUE: &str = "flint.queue";

/// Name of the file that makes git ignore the directory.
pub const IGNORE: &str = ".gitignore";
/// Name of the file that is in a directory while a backup is restored into it. With it the directory is refused.
pub const RESTORING: &str = "flint.restoring";

/// Ending of a file that is still being written and counts for nothing.
const UNFINISHED: &str = ".new";

/// Ending of a foreign file that had taken a name of ours.
const ASIDE: &str = ".replaced";

/// A file of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// `NNNNNNNNNN.aof`, a segment of the log.
    Segment(u64),
    /// `NNNNNNNNNN.snapshot`, which replaces everything before segment N.
    Snapshot(u64),
}

impl Name {
    /// The file's path.
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }

    /// The path of the file while it is being written.
    pub fn unfinished(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}{UNFINISHED}"))
    }

    /// The path of a foreign file that has taken this name.
    pub fn aside(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}{ASIDE}"))
    }

    /// Reads a name; `None` for a file that is not ours.
    pub fn parse(name: &OsStr) -> Option<Name> {
        let (digits, ending) = name.to_str()?.split_once('.')?;
        if digits.len() < 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number =
            digits.parse().ok().filter(|number| (1..=crate::store::format::record::MAX_COUNTER).contains(number))?;
        let parsed = match ending {
            "aof" => Name::Segment(number),
            "snapshot" => Name::Snapshot(number),
            _ => return None,
        };
        // One number has one name: 00000000001.aof is not ours.
        (parsed.to_string().as_str() == name).then_some(parsed)
    }

    /// Whether a file name is that of an unfinished file of ours.
    pub fn is_unfinished(name: &OsStr) -> bool {
        name.to_str()
            .and_then(|name| name.strip_suffix(UNFINISHED))
            .is_some_and(|name| Name::parse(OsStr::new(name)).is_some())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Segment(number) => write!(f, "{number:010}.aof"),
            Name::Snapshot(number) => write!(f, "{number:010}.snapshot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [Name::Segment(1), Name::Snapshot(42), Name::Segment(1 << 62)] {
            assert_eq!(Name::parse(OsStr::new(&name.to_string())), Some(name));
            assert!(Name::is_unfinished(OsStr::new(&format!("{name}.new"))));
        }
        for other in [
            "1.aof",
            "0000000000.aof",
            "18446744073709551615.aof",
            "00000000001.aof",
            "0000000001.log",
            "flint.lock",
            "000000000x.aof",
            "0000000001.aof.new",
        ] {
            assert_eq!(Name::parse(OsStr::new(other)), None, "{other}");
        }
        assert!(!Name::is_unfinished(OsStr::new("notes.new")));
    }
}
