//! The copy of a data directory, made piece by piece as it is taken.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::format::{self, End, Header, MAX_PAYLOAD, Tag};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::store::files::disk::{ReadDisk, SystemDisk};
use crate::store::files::names::Name;
use crate::store::files::random::random;
use crate::store::log::segment::Cut;
use crate::store::read::found::Files;

/// A file that is copied.
struct Part {
    name: Name,
    path: PathBuf,
    file: File,
    length: u64,
}

/// A consistent copy of a data directory, as it was when [`Limiter::backup`](crate::Limiter::backup) was called. Its
/// bytes are read as from a file; `flint log restore` takes them. It holds the files of the directory open until it
/// is read or dropped, and locks nothing.
pub struct Backup {
    header: Header,
    /// Those to come, the next one last.
    parts: Vec<Part>,
    /// The file that is being copied, and how many bytes of it are.
    current: Option<(Part, u64)>,
    /// Where the next block begins.
    offset: u64,
    /// Of all bytes so far.
    hasher: crc32fast::Hasher,
    over: bool,
    /// When it is given up, and after how long that is.
    deadline: Option<(Instant, Duration)>,
    given_up: Option<String>,
    /// Bytes that were made and not read.
    unread: Vec<u8>,
    read: usize,
}

impl Backup {
    /// Opens the files of a directory up to the cut; without one, a snapshot that no segment follows. Nobody may remove
    /// any meanwhile.
    ///
    /// # Errors
    /// `io`; `corrupt` where a file is missing.
    pub fn open(dir: &Path, cut: Option<Cut>, clock: &Clock) -> Result<Backup> {
        let files = Files::list(dir, &SystemDisk as &dyn ReadDisk)?;
        let snapshot = files.snapshots.last().copied();
        let last = cut.map_or(0, |cut| cut.segment);
        let segments = files.after(snapshot).iter().copied().take_while(|number| *number <= last);
        let names: Vec<Name> = snapshot.map(Name::Snapshot).into_iter().chain(segments.map(Name::Segment)).collect();
        let expected =
            snapshot.map(Name::Snapshot).into_iter().chain((snapshot.unwrap_or(1)..=last).map(Name::Segment));
        if let Some(missing) = expected.into_iter().find(|name| !names.contains(name)) {
            let what = format!("{} is missing; nothing was copied", missing.path(dir).display());
            return Err(Error::new(Kind::Corrupt, what));
        }
        if names.is_empty() {
            let what = format!("{} has no log yet, so there is nothing to back up", dir.display());
            return Err(Error::new(Kind::Io, what));
        }
        let mut parts = names.into_iter().map(|name| Part::open(dir, name, cut)).collect::<Result<Vec<_>>>()?;
        let salt = random().map_err(|error| Error::io("make a salt for the backup of", dir, &error))?;
        let header = Header {
            files: parts.len() as u32,
            bytes: parts.iter().map(|part| part.length).sum(),
            salt: u64::from_le_bytes(salt),
            begun: clock.now(),
        };
        parts.reverse();
        Ok(Backup {
            header,
            parts,
            current: None,
            offset: 0,
            hasher: crc32fast::Hasher::new(),
            over: false,
            deadline: None,
            given_up: None,
            unread: Vec::new(),
            read: 0,
        })
    }

    /// Bytes of the files that are copied, together.
    pub fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// Gives the copy up if it is not taken in this time from now on.
    #[doc(hidden)]
    #[must_use]
    pub fn within(self, time: Duration) -> Backup {
        Backup { deadline: Some((Instant::now() + time, time)), ..self }
    }

    /// Appends the next bytes, about 64 KiB. Returns whether more follow. A copy that is given up ends with a block
    /// that says why.
    #[doc(hidden)]
    pub fn next_part(&mut self, out: &mut Vec<u8>) -> bool {
        if self.over {
            return false;
        }
        let begun = out.len();
        if self.offset == 0 {
            out.extend_from_slice(&self.header.encode());
            self.account(&out[begun..]);
        }
        let block = out.len();
        let made = match self.deadline {
            Some((at, time)) if Instant::now() >= at => {
                let (seconds, bytes) = (time.as_secs(), self.header.bytes);
                Err(format!("it was not read within {seconds} s, the time allowed for {bytes} bytes"))
            }
            _ => self.make_block(out),
        };
        if let Err(why) = made {
            out.truncate(block);
            format::begin(out, Tag::GivenUp);
            out.extend_from_slice(why.as_bytes());
            self.given_up = Some(why);
            self.end();
        }
        format::seal(out, block, self.header.salt, self.offset);
        self.account(&out[block..]);
        !self.over
    }

    /// Appends a block that is not sealed.
    fn make_block(&mut self, out: &mut Vec<u8>) -> std::result::Result<(), String> {
        if let Some((part, copied)) = &mut self.current
            && *copied < part.length
        {
            format::begin(out, Tag::Data);
            let (begun, length) = (out.len(), (part.length - *copied).min(MAX_PAYLOAD as u64));
            out.resize(begun + length as usize, 0);
            let read = part.file.read_exact_at(&mut out[begun..], *copied);
            read.map_err(|error| format!("cannot read {} at offset {copied}: {error}", part.path.display()))?;
            *copied += length;
        } else if let Some(part) = self.parts.pop() {
            format::begin(out, Tag::File);
            out.extend_from_slice(&format::file_payload(part.name, part.length));
            self.current = Some((part, 0));
        } else {
            format::begin(out, Tag::End);
            let Header { files, bytes, .. } = self.header;
            out.extend_from_slice(&End { files, bytes, crc: self.hasher.clone().finalize() }.encode());
            self.end();
        }
        Ok(())
    }

    fn account(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// Closes all files.
    fn end(&mut self) {
        self.over = true;
        self.current = None;
        self.parts.clear();
    }
}

impl Part {
    fn open(dir: &Path, name: Name, cut: Option<Cut>) -> Result<Part> {
        let path = name.path(dir);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (whole, file) = opened.map_err(|error| Error::io("open", &path, &error))?;
        let length = match cut {
            Some(cut) if name == Name::Segment(cut.segment) => cut.length,
            _ => whole,
        };
        Ok(Part { name, path, file, length })
    }
}

impl Read for Backup {
    /// An error where the copy was given up, after its last bytes.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.read == self.unread.len() {
            let mut unread = std::mem::take(&mut self.unread);
            unread.clear();
            if self.over {
                return self.given_up.clone().map_or(Ok(0), |why| Err(io::Error::other(why)));
            }
            self.next_part(&mut unread);
            (self.unread, self.read) = (unread, 0);
        }
        let unread = &self.unread[self.read..];
        let length = unread.len().min(bytes.len());
        bytes[..length].copy_from_slice(&unread[..length]);
        self.read += length;
        Ok(length)
    }
}
