//! The format of a backup, version 1. All integers are little-endian.
//!
//! A backup begins with a header:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! | 0 | 8 | magic: `FLINTBAK` |
//! | 8 | 4 | format version: 1 |
//! | 12 | 4 | number of files |
//! | 16 | 8 | their bytes together |
//! | 24 | 8 | salt of this backup, random |
//! | 32 | 8 | when it was begun, by the limiter's clock, in microseconds since the epoch |
//! | 40 | 4 | reserved: 0 |
//! | 44 | 4 | CRC-32 (IEEE) of the bytes 0 to 43 |
//!
//! Blocks follow without a gap:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! | 0 | 4 | what it is: `FLfi` a file begins, `FLda` bytes of it, `FLen` the end, `FLno` given up |
//! | 4 | 4 | CRC-32 (IEEE) of the salt, the offset of the block in the backup (8 bytes), and the block without this |
//! | 8 | 4 | length of the payload: at most 65536 |
//! | 12 | length | the payload |
//!
//! | block | payload |
//! |-------|---------|
//! | `FLfi` | kind of the file (1 byte: 1 snapshot, 2 segment), its number (8), its length (8) |
//! | `FLda` | 1 to 65536 bytes of the file |
//! | `FLen` | number of files (4), their bytes together (8), CRC-32 (IEEE) of all bytes of the backup before this block (4) |
//! | `FLno` | why it was given up, in UTF-8 |
//!
//! A backup is valid if and only if its header and blocks are; the first file is a snapshot, or segment 1; the files
//! after it are the segments from the snapshot's number on, or from 2 on, without a gap; each file has as many bytes
//! as its block says; it ends with the end, which has the same numbers as the header; and nothing follows.
//!
//! The CRC with salt and offset shows also a block that was moved, doubled or left out, and one of another backup.

use crate::clock::Micros;
use crate::store::files::names::Name;
use crate::store::format::frame::BadHeader;

/// Version of the format that is written; any other one is refused.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER: usize = 48;
/// Bytes of a block before its payload.
pub const BLOCK_HEADER: usize = 12;
/// Largest payload of a block, in bytes: by this much the place of damage is known.
pub const MAX_PAYLOAD: usize = 64 * 1024;

const MAGIC: [u8; 8] = *b"FLINTBAK";

/// The beginning of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub files: u32,
    /// Of all files together.
    pub bytes: u64,
    pub salt: u64,
    pub begun: Micros,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.files.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.begun.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, BadHeader> {
        if bytes[..8] != MAGIC {
            return Err(BadHeader::Damaged("this is not a backup of Flint: the magic bytes are wrong"));
        }
        if crc32fast::hash(&bytes[..44]) != u32_at(bytes, 44) {
            return Err(BadHeader::Damaged("the checksum of the header is wrong"));
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            other => return Err(BadHeader::Version(other)),
        }
        Ok(Header {
            files: u32_at(bytes, 12),
            bytes: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            begun: u64_at(bytes, 32),
        })
    }
}

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    File,
    Data,
    End,
    GivenUp,
}

impl Tag {
    const ALL: [Tag; 4] = [Tag::File, Tag::Data, Tag::End, Tag::GivenUp];

    const fn magic(self) -> [u8; 4] {
        match self {
            Tag::File => *b"FLfi",
            Tag::Data => *b"FLda",
            Tag::End => *b"FLen",
            Tag::GivenUp => *b"FLno",
        }
    }
}

/// Begins a block at the end of `out`: its payload follows, then [`seal`]. Returns where it begins.
pub fn begin(out: &mut Vec<u8>, tag: Tag) -> usize {
    let begun = out.len();
    out.extend_from_slice(&tag.magic());
    out.extend_from_slice(&[0; BLOCK_HEADER - 4]);
    begun
}

/// Completes the block that begins at `begun` in `out`, and at `offset` in the backup.
pub fn seal(out: &mut [u8], begun: usize, salt: u64, offset: u64) {
    let block = &mut out[begun..];
    let length = (block.len() - BLOCK_HEADER) as u32;
    block[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(block, salt, offset);
    block[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// What a block is, and the length of its payload, by its first bytes; `None` if no block begins.
pub fn peek(head: &[u8; BLOCK_HEADER]) -> Option<(Tag, usize)> {
    let tag = Tag::ALL.into_iter().find(|tag| tag.magic() == head[..4])?;
    let length = u32_at(head, 8) as usize;
    (length <= MAX_PAYLOAD).then_some((tag, length))
}

/// Whether a block is what was written at this offset.
pub fn is_valid(block: &[u8], salt: u64, offset: u64) -> bool {
    checksum(block, salt, offset) == u32_at(block, 4)
}

fn checksum(block: &[u8], salt: u64, offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&block[..4]);
    hasher.update(&block[8..]);
    hasher.finalize()
}

/// The payload of a block with which a file begins.
pub fn file_payload(name: Name, length: u64) -> [u8; 17] {
    let (kind, number) = match name {
        Name::Snapshot(number) => (1, number),
        Name::Segment(number) => (2, number),
    };
    let mut payload = [0; 17];
    payload[0] = kind;
    payload[1..9].copy_from_slice(&number.to_le_bytes());
    payload[9..].copy_from_slice(&length.to_le_bytes());
    payload
}

/// Reads the payload of a block with which a file begins.
pub fn read_file(payload: &[u8]) -> Option<(Name, u64)> {
    let payload: &[u8; 17] = payload.try_into().ok()?;
    let number = u64_at(payload, 1);
    let name = match payload[0] {
        1 => Name::Snapshot(number),
        2 => Name::Segment(number),
        _ => return None,
    };
    Some((name, u64_at(payload, 9)))
}

/// What the end says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub files: u32,
    pub bytes: u64,
    /// Of all bytes of the backup before the end.
    pub crc: u32,
}

impl End {
    /// The payload of the block.
    pub fn encode(self) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[..4].copy_from_slice(&self.files.to_le_bytes());
        payload[4..12].copy_from_slice(&self.bytes.to_le_bytes());
        payload[12..].copy_from_slice(&self.crc.to_le_bytes());
        payload
    }

    /// Reads the payload of the block.
    pub fn decode(payload: &[u8]) -> Option<End> {
        let payload: &[u8; 16] = payload.try_into().ok()?;
        Some(End { files: u32_at(payload, 0), bytes: u64_at(payload, 4), crc: u32_at(payload, 12) })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
