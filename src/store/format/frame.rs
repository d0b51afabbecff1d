//! Files and frames: the outer layer of the on-disk format, version 2. All integers are little-endian.
//!
//! A segment (`NNNNNNNNNN.aof`) and a snapshot (`NNNNNNNNNN.snapshot`) begin with a file header:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! | 0 | 8 | magic: `FLINTAOF` in a segment, `FLINTSNP` in a snapshot |
//! | 8 | 4 | format version: 2 |
//! | 12 | 4 | flags: bit 0, in a snapshot: no marker follows, it replaces everything before its segment |
//! | 16 | 8 | number, the same as in the file's name |
//! | 24 | 16 | id of the data directory, random |
//! | 40 | 8 | salt of this file, random |
//! | 48 | 8 | sequence number of the first record that can follow (segment); number of limits (snapshot) |
//! | 56 | 4 | reserved: 0 |
//! | 60 | 4 | CRC-32 (IEEE) of the bytes 0 to 59 |
//!
//! Frames follow without a gap, each one batch of records:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! | 0 | 4 | magic: `FLfr` |
//! | 4 | 4 | CRC-32 (IEEE) of the file's salt and then of all that follows in the frame |
//! | 8 | 4 | length of the payload: at most 1048576 in a segment |
//! | 12 | 4 | number of records; bit 31: the writer stopped cleanly after this frame |
//! | 16 | 8 | sequence number of the first record |
//! | 24 | 8 | highest sequence number known to be on disk when the frame was built |
//! | 32 | 8 | base of the instants in the payload, in microseconds since the epoch |
//! | 40 | length | the records, see `record.rs` |
//!
//! A frame without records is a *mark*: it says up to where the log is on disk. The log writes one after the last frame
//! when it falls idle and when it is closed, and a copy of it at the next multiple of 4096: the same 40 bytes, in
//! another page. After its last frame a segment holds only zeros and that copy, or ends. Before a further frame is
//! written, the copy is overwritten with zeros.
//!
//! A frame is valid if and only if its magic is there, its length is in bounds and within the file, and its CRC fits.
//! It belongs there if and only if it is valid and its sequence number continues that of the frame before.

use crate::clock::Micros;

/// Version of the format that is written; any other one is refused.
pub const VERSION: u32 = 2;
/// Bytes of a file header.
pub const FILE_HEADER: usize = 64;
/// Bytes of a frame header.
pub const FRAME_HEADER: usize = 40;
/// The copy of a mark begins at the next multiple of this, in bytes: what a disk loses at once is a page or a sector.
pub const MARK_PAGE: u64 = 4096;
/// Largest payload that is believed in a segment. Larger than what is written, so that bounds.rs may grow within
/// version 2.
pub const MAX_PAYLOAD: usize = 1024 * 1024;
/// Largest payload of a frame in a snapshot: what its length can say. A limit takes one record, and a sliding window
/// holds as many instants as there were.
pub const MAX_SNAPSHOT_PAYLOAD: usize = u32::MAX as usize;

const FRAME_MAGIC: [u8; 4] = *b"FLfr";
const CLEAN: u32 = 1 << 31;

/// What kind of file a header opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A segment of the log.
    Segment,
    /// A snapshot.
    Snapshot,
}

impl FileKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            FileKind::Segment => *b"FLINTAOF",
            FileKind::Snapshot => *b"FLINTSNP",
        }
    }

    /// Largest payload of a frame, in bytes.
    pub const fn max_payload(self) -> usize {
        match self {
            FileKind::Segment => MAX_PAYLOAD,
            FileKind::Snapshot => MAX_SNAPSHOT_PAYLOAD,
        }
    }
}

/// The header of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHeader {
    pub kind: FileKind,
    /// In a snapshot: no marker records follow.
    pub complete: bool,
    pub number: u64,
    pub directory: [u8; 16],
    pub salt: u64,
    /// First sequence number (segment) or number of limits (snapshot).
    pub first: u64,
}

/// Why a header was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// It was written by another Flint, in this version of the format.
    Version(u32),
    /// It is damaged; what is wrong with it.
    Damaged(&'static str),
}

impl FileHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; FILE_HEADER] {
        let mut bytes = [0; FILE_HEADER];
        bytes[0..8].copy_from_slice(&self.kind.magic());
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::from(self.complete).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.directory);
        bytes[40..48].copy_from_slice(&self.salt.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    pub fn decode(file: &[u8], kind: FileKind) -> Result<FileHeader, BadHeader> {
        let Some(bytes) = file.get(..FILE_HEADER) else {
            return Err(BadHeader::Damaged("the file is shorter than its header"));
        };
        if bytes[..8] != kind.magic() {
            return Err(BadHeader::Damaged("the magic bytes are wrong"));
        }
        if crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(BadHeader::Damaged("the checksum of the header is wrong"));
        }
        let version = u32_at(bytes, 8);
        match version {
            VERSION => {}
            0 => return Err(BadHeader::Damaged("the format version is 0")),
            other => return Err(BadHeader::Version(other)),
        }
        let mut directory = [0; 16];
        directory.copy_from_slice(&bytes[24..40]);
        Ok(FileHeader {
            kind,
            complete: u32_at(bytes, 12) & 1 != 0,
            number: u64_at(bytes, 16),
            directory,
            salt: u64_at(bytes, 40),
            first: u64_at(bytes, 48),
        })
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub records: u32,
    /// The writer stopped cleanly after this frame.
    pub clean: bool,
    pub first: u64,
    pub durable: u64,
    pub base: Micros,
}

/// Writes the header into the first [`FRAME_HEADER`] bytes of `frame`, whose payload is already after them and within
/// the file's bound.
pub fn seal(frame: &mut [u8], header: &FrameHeader, salt: u64) {
    let length = (frame.len() - FRAME_HEADER) as u32;
    frame[0..4].copy_from_slice(&FRAME_MAGIC);
    frame[8..12].copy_from_slice(&length.to_le_bytes());
    let records = header.records | if header.clean { CLEAN } else { 0 };
    frame[12..16].copy_from_slice(&records.to_le_bytes());
    frame[16..24].copy_from_slice(&header.first.to_le_bytes());
    frame[24..32].copy_from_slice(&header.durable.to_le_bytes());
    frame[32..40].copy_from_slice(&header.base.to_le_bytes());
    let crc = checksum(&frame[8..], salt);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the valid frame at the beginning of `bytes`, which are of such a file: its header and its payload. `None`
/// if there is none.
pub fn open(bytes: &[u8], salt: u64, kind: FileKind) -> Option<(FrameHeader, &[u8])> {
    let head = bytes.get(..FRAME_HEADER)?;
    if head[..4] != FRAME_MAGIC {
        return None;
    }
    let length = u32_at(head, 8) as usize;
    if length > kind.max_payload() {
        return None;
    }
    let frame = bytes.get(..FRAME_HEADER.checked_add(length)?)?;
    if checksum(&frame[8..], salt) != u32_at(head, 4) {
        return None;
    }
    let records = u32_at(head, 12);
    let header = FrameHeader {
        records: records & !CLEAN,
        clean: records & CLEAN != 0,
        first: u64_at(head, 16),
        durable: u64_at(head, 24),
        base: u64_at(head, 32),
    };
    Some((header, &frame[FRAME_HEADER..]))
}

/// The valid frames that begin anywhere in `bytes`, with their offsets: what can still be read after a damaged place.
pub fn scan(bytes: &[u8], salt: u64, kind: FileKind) -> impl Iterator<Item = (usize, FrameHeader, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(found) = find(&bytes[at..], &FRAME_MAGIC) {
            let begin = at + found;
            if let Some((header, payload)) = open(&bytes[begin..], salt, kind) {
                at = begin + FRAME_HEADER + payload.len();
                return Some((begin, header, payload));
            }
            at = begin + 1;
        }
        None
    })
}

/// The highest durable mark of any valid frame in `bytes` of a segment, at whatever offset it begins: what was
/// confirmed in spite of a damaged place before it.
pub fn highest_durable(bytes: &[u8], salt: u64) -> Option<u64> {
    scan(bytes, salt, FileKind::Segment).map(|(_, header, _)| header.durable).max()
}

/// The only mark in `bytes`, which are the tail of a segment: a frame without records, with nothing but zeros around
/// it. Returns where it ends, too.
pub fn lone_mark(bytes: &[u8], salt: u64) -> Option<(usize, FrameHeader)> {
    let begin = bytes.iter().position(|byte| *byte != 0)?;
    let (header, payload) = open(&bytes[begin..], salt, FileKind::Segment)?;
    let end = begin + FRAME_HEADER;
    let alone = header.records == 0 && payload.is_empty() && without_zeros(&bytes[end..]) == 0;
    alone.then_some((end, header))
}

/// The length of `bytes` without the zeros at their end. Block by block: space that is filled ahead is a mebibyte.
pub fn without_zeros(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut length = bytes.len();
    for block in bytes.rchunks(ZEROS.len()) {
        if *block != ZEROS[..block.len()] {
            return length - block.iter().rev().take_while(|byte| **byte == 0).count();
        }
        length -= block.len();
    }
    length
}

/// Where the copy of a mark that ends at `end` goes: into the next page, so that no single page holds both.
pub fn copy_offset(end: u64) -> u64 {
    end.next_multiple_of(MARK_PAGE)
}

fn find(haystack: &[u8], needle: &[u8; 4]) -> Option<usize> {
    haystack.windows(4).position(|window| window == needle)
}

fn checksum(bytes: &[u8], salt: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8], durable: u64) -> Vec<u8> {
        let mut bytes = vec![0; FRAME_HEADER];
        bytes.extend_from_slice(payload);
        let header = FrameHeader { records: 3, clean: false, first: 7, durable, base: 99 };
        seal(&mut bytes, &header, 5);
        bytes
    }

    #[test]
    fn file_headers_come_back_and_any_flipped_bit_is_seen() {
        let header = FileHeader {
            kind: FileKind::Snapshot,
            complete: true,
            number: 12,
            directory: [3; 16],
            salt: 77,
            first: 1_000_000,
        };
        let bytes = header.encode();
        assert_eq!(FileHeader::decode(&bytes, FileKind::Snapshot), Ok(header));
        assert!(FileHeader::decode(&bytes, FileKind::Segment).is_err());
        assert!(FileHeader::decode(&bytes[..63], FileKind::Snapshot).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(FileHeader::decode(&damaged, FileKind::Snapshot), Err(BadHeader::Damaged(_))), "{bit}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let header =
            FileHeader { kind: FileKind::Segment, complete: false, number: 1, directory: [0; 16], salt: 1, first: 1 };
        let mut bytes = header.encode();
        for (version, expected) in
            [(0, BadHeader::Damaged("the format version is 0")), (1, BadHeader::Version(1)), (3, BadHeader::Version(3))]
        {
            bytes[8] = version;
            let crc = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(FileHeader::decode(&bytes, FileKind::Segment), Err(expected));
        }
    }

    #[test]
    fn frames_come_back_and_any_flipped_bit_or_other_salt_is_seen() {
        let bytes = frame(b"payload", 6);
        let (header, payload) = open(&bytes, 5, FileKind::Segment).unwrap();
        assert_eq!(header, FrameHeader { records: 3, clean: false, first: 7, durable: 6, base: 99 });
        assert_eq!(payload, b"payload");
        assert!(open(&bytes, 6, FileKind::Segment).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&damaged, 5, FileKind::Segment).is_none(), "{bit}");
        }
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length], 5, FileKind::Segment).is_none());
        }
    }

    #[test]
    fn zeros_are_not_a_frame() {
        assert!(open(&[0; 4096], 0, FileKind::Segment).is_none());
        assert_eq!(highest_durable(&[0; 4096], 0), None);
    }

    #[test]
    fn durable_marks_are_found_after_damage() {
        let mut bytes = vec![0xff; 100];
        bytes.extend_from_slice(b"FLf FLfr");
        bytes.extend_from_slice(&frame(b"one", 41));
        bytes.extend_from_slice(&frame(b"two", 40));
        assert_eq!(highest_durable(&bytes, 5), Some(41));
        assert_eq!(highest_durable(&bytes, 4), None);
    }

    #[test]
    fn a_mark_is_alone_among_zeros() {
        let header = FrameHeader { records: 0, clean: true, first: 7, durable: 6, base: 99 };
        let mut mark = vec![0; FRAME_HEADER];
        seal(&mut mark, &header, 5);
        let tail = [&[0; 30][..], &mark, &[0; 9]].concat();
        assert_eq!(lone_mark(&tail, 5), Some((70, header)));
        assert_eq!(lone_mark(&tail, 4), None);
        assert_eq!(lone_mark(&[0; 100], 5), None);
        for other in [[&tail[..], &[1]].concat(), [&[1], &tail[..]].concat(), frame(b"payload", 6)] {
            assert_eq!(lone_mark(&other, 5), None);
        }
        assert_eq!([1, 4095, 4096, 4097].map(copy_offset), [4096, 4096, 4096, 8192]);
        for length in [0, 1, 4095, 4096, 4097, 9000] {
            let mut bytes = vec![0; 10_000];
            bytes[..length].fill(7);
            assert_eq!(without_zeros(&bytes), length);
        }
    }
}
