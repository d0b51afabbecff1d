//! Reading a backup: each block is judged before anything of it is handed on.

use std::io::{self, BufReader, Read};

use super::format::{self, BLOCK_HEADER, End, HEADER, Header, MAX_PAYLOAD, Tag, VERSION};
use crate::error::{Error, Kind, Result};
use crate::store::files::names::Name;
use crate::store::format::frame::BadHeader;
use crate::store::format::record::MAX_COUNTER;

/// What to do about a damaged backup.
const WAY_OUT: &str = "take the backup again, or restore another one";

/// Reads a backup from anywhere.
pub struct Unpacker<R> {
    from: BufReader<R>,
    /// What it is called in messages.
    name: String,
    header: Header,
    /// Where the next block begins.
    offset: u64,
    hasher: crc32fast::Hasher,
    /// Bytes that the present file still lacks.
    left: u64,
    last: Option<Name>,
    files: u32,
    bytes: u64,
    block: Vec<u8>,
    ended: bool,
}

/// What a backup holds, in this order: a file, then its bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A file begins, with this many bytes.
    File(Name, u64),
    Data(&'a [u8]),
}

impl<R: Read> Unpacker<R> {
    /// Reads the header of the backup that messages call `name`.
    ///
    /// # Errors
    /// `corrupt`, with the offset; `unsupported` for another version of the format; `io`.
    pub fn begin(from: R, name: impl Into<String>) -> Result<Unpacker<R>> {
        let mut from = BufReader::with_capacity(MAX_PAYLOAD, from);
        let name = name.into();
        let mut bytes = [0; HEADER];
        let read = read_up_to(&mut from, &mut bytes).map_err(|error| unread(&name, 0, &error))?;
        if read < HEADER {
            return Err(cut(&name, read as u64));
        }
        let header = Header::decode(&bytes).map_err(|bad| match bad {
            BadHeader::Damaged(what) => damaged(&name, 0, what),
            BadHeader::Version(version) => {
                let what = format!("{name} has format version {version}: this flint reads version {VERSION}");
                Error::new(Kind::Unsupported, format!("{what}; restore it with the flint that made it"))
            }
        })?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes);
        Ok(Unpacker {
            from,
            name,
            header,
            offset: HEADER as u64,
            hasher,
            left: 0,
            last: None,
            files: 0,
            bytes: 0,
            block: Vec::new(),
            ended: false,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next item; `None` when the backup was read to its end, and is whole.
    ///
    /// # Errors
    /// As [`Unpacker::begin`].
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>> {
        if self.ended {
            return Ok(None);
        }
        let (begun, before) = (self.offset, self.hasher.clone());
        let tag = self.read_block()?;
        let payload = &self.block[BLOCK_HEADER..];
        let wrong = |what: &str| damaged(&self.name, begun, what);
        match tag {
            Tag::GivenUp => {
                let why: String = String::from_utf8_lossy(payload).chars().filter(|c| !c.is_control()).collect();
                let what = format!("{} is incomplete: it was given up at offset {begun}: {why}", self.name);
                Err(Error::new(Kind::Corrupt, format!("{what}; {WAY_OUT}")))
            }
            Tag::Data if payload.is_empty() || payload.len() as u64 > self.left => {
                Err(wrong("it holds other bytes than its file should have"))
            }
            Tag::Data => {
                self.left -= payload.len() as u64;
                self.bytes += payload.len() as u64;
                Ok(Some(Item::Data(payload)))
            }
            _ if self.left > 0 => Err(wrong("bytes of the file before it are missing")),
            Tag::File => {
                let (name, length) = format::read_file(payload).ok_or_else(|| wrong("the file has no known name"))?;
                if !follows(self.last, name) || self.files >= self.header.files {
                    return Err(wrong(&format!("{name} is out of place")));
                }
                if length > self.header.bytes - self.bytes {
                    return Err(wrong(&format!("{name} has more bytes than all files should have")));
                }
                (self.last, self.left) = (Some(name), length);
                self.files += 1;
                Ok(Some(Item::File(name, length)))
            }
            Tag::End => {
                let Header { files, bytes, .. } = self.header;
                let whole = End { files, bytes, crc: before.finalize() };
                if (self.files, self.bytes) != (files, bytes) || files == 0 || End::decode(payload) != Some(whole) {
                    return Err(wrong("the end does not fit what comes before it"));
                }
                read_nothing(&mut self.from, &self.name, self.offset)?;
                self.ended = true;
                Ok(None)
            }
        }
    }

    /// Reads one valid block.
    fn read_block(&mut self) -> Result<Tag> {
        let mut head = [0; BLOCK_HEADER];
        self.fill(&mut head, 0)?;
        let no_block = "no valid block begins there";
        let (tag, length) = format::peek(&head).ok_or_else(|| damaged(&self.name, self.offset, no_block))?;
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        block.extend_from_slice(&head);
        block.resize(BLOCK_HEADER + length, 0);
        self.fill(&mut block[BLOCK_HEADER..], BLOCK_HEADER)?;
        if !format::is_valid(&block, self.header.salt, self.offset) {
            return Err(damaged(&self.name, self.offset, no_block));
        }
        self.offset += block.len() as u64;
        self.hasher.update(&block);
        self.block = block;
        Ok(tag)
    }

    /// Fills `bytes`, which come so far after the beginning of the block.
    fn fill(&mut self, bytes: &mut [u8], after: usize) -> Result<()> {
        let at = self.offset + after as u64;
        let read = read_up_to(&mut self.from, bytes).map_err(|error| unread(&self.name, at, &error))?;
        if read < bytes.len() { Err(cut(&self.name, at + read as u64)) } else { Ok(()) }
    }
}

/// Refuses what follows the end, at this offset.
fn read_nothing(from: &mut impl Read, name: &str, offset: u64) -> Result<()> {
    match read_up_to(from, &mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(damaged(name, offset, "data follows after the end of the backup")),
        Err(error) => Err(unread(name, offset, &error)),
    }
}

/// Whether a file may come after this one.
fn follows(last: Option<Name>, next: Name) -> bool {
    match (last, next) {
        // As many as there can be records: a number after it must have a name too.
        (_, Name::Segment(number) | Name::Snapshot(number)) if number >= MAX_COUNTER => false,
        (None, Name::Snapshot(number)) => number > 0,
        (None, Name::Segment(number)) => number == 1,
        (Some(Name::Snapshot(snapshot)), Name::Segment(number)) => number == snapshot,
        (Some(Name::Segment(before)), Name::Segment(number)) => number == before + 1,
        (Some(_), Name::Snapshot(_)) => false,
    }
}

/// Reads until `bytes` are full or there is no more. Returns how many were read.
fn read_up_to(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match from.read(&mut bytes[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn damaged(name: &str, offset: u64, what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("{name} is damaged at offset {offset}: {what}; {WAY_OUT}"))
}

fn cut(name: &str, offset: u64) -> Error {
    Error::new(Kind::Corrupt, format!("{name} is cut off at offset {offset}: its end is missing; {WAY_OUT}"))
}

fn unread(name: &str, offset: u64, error: &io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot read {name} at offset {offset}: {error}"))
}
