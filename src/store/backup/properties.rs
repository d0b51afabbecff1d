//! Backups come back as they were; of anything else, the place where it begins to differ is reported.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::copy::Backup;
use super::format::{BLOCK_HEADER, HEADER, Header, MAX_PAYLOAD, Tag, begin, peek, seal};
use super::unpack::{Item, Unpacker};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::store::files::names::Name;
use crate::store::log::segment::Cut;

/// Files by name and content; the format does not look into them.
type Files = Vec<(Name, Vec<u8>)>;

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn write(dir: &Path, files: &Files) {
    files.iter().for_each(|(name, bytes)| std::fs::write(name.path(dir), bytes).unwrap());
}

fn take(dir: &Path, cut: Cut) -> Backup {
    Backup::open(dir, Some(cut), &Clock::manual(77)).unwrap()
}

fn whole(mut backup: impl Read) -> Vec<u8> {
    let mut taken = Vec::new();
    backup.read_to_end(&mut taken).unwrap();
    taken
}

fn unpack(backup: impl Read) -> Result<Files> {
    let mut unpacker = Unpacker::begin(backup, "it")?;
    let mut files = Files::new();
    while let Some(item) = unpacker.next_item()? {
        match item {
            Item::File(name, _) => files.push((name, Vec::new())),
            Item::Data(bytes) => files.last_mut().unwrap().1.extend_from_slice(bytes),
        }
    }
    assert_eq!(unpacker.next_item()?, None, "the end stays the end");
    Ok(files)
}

/// The offset in an error.
fn offset(error: &Error) -> usize {
    let (_, rest) = error.message().split_once("at offset ").unwrap_or_else(|| panic!("no offset: {error}"));
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
}

/// Where the blocks begin, and where the last one ends.
fn blocks(backup: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEADER];
    while let Some(head) = backup.get(starts[starts.len() - 1]..).and_then(|rest| rest.first_chunk()) {
        let (_, length) = peek(head).unwrap();
        starts.push(starts[starts.len() - 1] + BLOCK_HEADER + length);
    }
    assert_eq!(starts.last(), Some(&backup.len()));
    starts
}

/// A directory with a snapshot that counts, two segments after it, and what is older or after the cut.
fn example() -> (tempfile::TempDir, Cut, Files) {
    let dir = tempfile::tempdir().unwrap();
    let old = vec![(Name::Snapshot(2), bytes(9, 1)), (Name::Segment(2), bytes(9, 2)), (Name::Segment(5), bytes(9, 3))];
    write(dir.path(), &old);
    std::fs::write(dir.path().join("flint.lock"), "{}").unwrap();
    std::fs::write(Name::Snapshot(6).unfinished(dir.path()), "half").unwrap();
    let files =
        vec![(Name::Snapshot(3), bytes(200, 4)), (Name::Segment(3), bytes(150, 5)), (Name::Segment(4), bytes(90, 6))];
    write(dir.path(), &files);
    let mut copied = files;
    copied[2].1.truncate(70);
    (dir, Cut { segment: 4, length: 70 }, copied)
}

#[test]
fn a_copy_is_the_newest_snapshot_and_the_log_up_to_the_cut() {
    let (dir, cut, files) = example();
    let mut backup = take(dir.path(), cut);
    // What has been opened is copied, even if its names are gone and the log goes on.
    let last = Name::Segment(4).path(dir.path());
    io::Write::write_all(&mut std::fs::OpenOptions::new().append(true).open(last).unwrap(), b"more").unwrap();
    let mut taken = Vec::new();
    assert!(backup.next_part(&mut taken));
    for name in [Name::Snapshot(3), Name::Segment(3), Name::Segment(4)] {
        std::fs::remove_file(name.path(dir.path())).unwrap();
    }
    backup.read_to_end(&mut taken).unwrap();
    assert_eq!(unpack(&taken[..]).unwrap(), files);
    assert_eq!(Unpacker::begin(&taken[..], "it").unwrap().header().begun, 77);

    // Without a snapshot, and with several blocks in a file.
    let dir = tempfile::tempdir().unwrap();
    let files = vec![(Name::Segment(1), bytes(2 * MAX_PAYLOAD + 5, 1)), (Name::Segment(2), bytes(MAX_PAYLOAD, 2))];
    write(dir.path(), &files);
    let cut = Cut { segment: 2, length: MAX_PAYLOAD as u64 };
    assert_eq!(unpack(&whole(take(dir.path(), cut))[..]).unwrap(), files);
    // Only a snapshot, as a start may leave it.
    let dir = tempfile::tempdir().unwrap();
    let files = vec![(Name::Snapshot(9), bytes(100, 1))];
    write(dir.path(), &files);
    assert_eq!(unpack(Backup::open(dir.path(), None, &Clock::manual(1)).unwrap()).unwrap(), files);
}

#[test]
fn a_directory_with_a_gap_or_without_a_log_is_not_copied() {
    let (dir, cut, _) = example();
    let open = |dir: &Path, cut| Backup::open(dir, cut, &Clock::manual(1)).map(|_| ()).unwrap_err();
    std::fs::remove_file(Name::Segment(3).path(dir.path())).unwrap();
    let error = open(dir.path(), Some(cut));
    assert!(error.kind() == Kind::Corrupt && error.message().contains("0000000003.aof is missing"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path(), None);
    assert!(error.kind() == Kind::Io && error.message().contains("has no log yet"), "{error}");
}

#[test]
fn any_changed_byte_is_told_by_the_offset_of_its_block() {
    let (dir, cut, _) = example();
    let taken = whole(take(dir.path(), cut));
    let starts = blocks(&taken);
    for at in 0..taken.len() {
        let block = starts.iter().rev().find(|start| **start <= at).copied().unwrap_or(0);
        for flip in [1, 0x80, 0xff] {
            let mut changed = taken.clone();
            changed[at] ^= flip;
            let error = unpack(&changed[..]).unwrap_err();
            // A length that grew may reach past the end.
            let is_cut = error.message().contains("is cut off at offset") && (8..12).contains(&(at - block));
            assert!(offset(&error) == block || is_cut, "{at}: {error}");
            assert_eq!(error.kind(), Kind::Corrupt, "{at}: {error}");
            assert!(error.message().ends_with("; take the backup again, or restore another one"), "{error}");
        }
    }
}

#[test]
fn any_cut_and_anything_after_the_end_is_told_by_its_offset() {
    let (dir, cut, _) = example();
    let taken = whole(take(dir.path(), cut));
    for length in 0..taken.len() {
        let error = unpack(&taken[..length]).unwrap_err();
        assert!(error.message().contains("it is cut off at offset ") && offset(&error) == length, "{length}: {error}");
    }
    for more in [&b"\0"[..], b"x", &taken] {
        let error = unpack(&[&taken, more].concat()[..]).unwrap_err();
        assert!(error.message().contains("data follows") && offset(&error) == taken.len(), "{error}");
    }
}

#[test]
fn blocks_that_are_moved_doubled_left_out_or_of_another_backup_are_told() {
    let (dir, cut, _) = example();
    let taken = whole(take(dir.path(), cut));
    // The same files, and another salt.
    let other = whole(take(dir.path(), cut));
    let starts = blocks(&taken);
    for pair in starts.windows(2) {
        let (begin, end) = (pair[0], pair[1]);
        let doubled = [&taken[..end], &taken[begin..]].concat();
        let left_out = [&taken[..begin], &taken[end..]].concat();
        let foreign = [&taken[..begin], &other[begin..end], &taken[end..]].concat();
        for (broken, place) in [(doubled, end), (left_out, begin), (foreign, begin)] {
            assert_eq!(offset(&unpack(&broken[..]).unwrap_err()), place);
        }
    }
}

/// A backup with these blocks, all of them valid by themselves.
fn built(files: u32, bytes: u64, blocks: &[(Tag, Vec<u8>)]) -> Vec<u8> {
    let mut out = Header { files, bytes, salt: 5, begun: 1 }.encode().to_vec();
    for (tag, payload) in blocks {
        let begun = begin(&mut out, *tag);
        out.extend_from_slice(payload);
        seal(&mut out, begun, 5, begun as u64);
    }
    out
}

#[test]
fn blocks_that_are_valid_and_make_no_backup_are_refused() {
    use super::format::{End, file_payload};
    let file = |name, length| (Tag::File, file_payload(name, length).to_vec());
    let end = |files, bytes| (Tag::End, End { files, bytes, crc: 0 }.encode().to_vec());
    let data = |length| (Tag::Data, vec![7; length]);
    let segment = |number| file(Name::Segment(number), 3);
    for (what, blocks) in [
        ("no valid end: its checksum", vec![segment(1), data(3), end(1, 3)]),
        ("no file", vec![end(1, 3)]),
        ("data without a file", vec![data(3)]),
        ("too much data", vec![segment(1), data(4)]),
        ("no data", vec![segment(1), data(0)]),
        ("too little data", vec![segment(1), data(2), end(1, 3)]),
        ("too little data, and a file", vec![segment(1), data(2), segment(2)]),
        ("two files of one", vec![segment(1), data(3), segment(2)]),
        ("a first segment that is not 1", vec![segment(2)]),
        ("snapshot 0", vec![file(Name::Snapshot(0), 3)]),
        ("a number that no file has", vec![file(Name::Snapshot(u64::MAX), 3)]),
        ("more bytes than there are", vec![file(Name::Segment(1), 4)]),
        ("an unknown kind", vec![(Tag::File, vec![3; 17])]),
        ("a short name", vec![(Tag::File, vec![1; 16])]),
        ("a long end", vec![segment(1), data(3), (Tag::End, vec![0; 17])]),
    ] {
        let backup = built(1, 3, &blocks);
        let starts = self::blocks(&backup);
        let error = unpack(&backup[..]).expect_err(what);
        assert_eq!(offset(&error), starts[starts.len() - 2], "{what}: {error}");
    }
    for (what, blocks) in [
        ("a gap", vec![file(Name::Snapshot(3), 0), file(Name::Segment(4), 0)]),
        ("two snapshots", vec![file(Name::Snapshot(3), 0), file(Name::Snapshot(4), 0)]),
        ("a gap between segments", vec![file(Name::Segment(1), 0), file(Name::Segment(3), 0)]),
    ] {
        let error = unpack(&built(2, 0, &blocks)[..]).expect_err(what);
        assert!(error.message().contains("is out of place"), "{what}: {error}");
    }
    let error = unpack(&built(0, 0, &[end(0, 0)])[..]).unwrap_err();
    assert!(error.message().contains("the end does not fit"), "{error}");
}

#[test]
fn another_version_and_what_is_no_backup_are_told() {
    let mut header = Header { files: 1, bytes: 1, salt: 5, begun: 1 }.encode();
    header[8] = 2;
    let crc = crc32fast::hash(&header[..44]);
    header[44..].copy_from_slice(&crc.to_le_bytes());
    let error = unpack(&header[..]).unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.message().contains("format version 2"), "{error}");
    let error = unpack(&[b'{'; 100][..]).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.message().contains("this is not a backup of Flint"), "{error}");
}

#[test]
fn a_copy_that_is_not_taken_in_time_says_so_and_closes_its_files() {
    let (dir, cut, _) = example();
    let mut backup = take(dir.path(), cut);
    let mut taken = Vec::new();
    assert!(backup.next_part(&mut taken));
    let mut backup = backup.within(Duration::ZERO);
    let at = taken.len();
    assert!(!backup.next_part(&mut taken), "it goes on after its time");
    assert!(!backup.next_part(&mut taken));
    let error = unpack(&taken[..]).unwrap_err();
    assert_eq!(offset(&error), at, "{error}");
    let why = "given up at offset 77: it was not read within 0 s, the time allowed for 420 bytes";
    assert!(error.message().contains(why), "{error}");
    // A program that reads it gets an error, after the same bytes.
    let mut read = Vec::new();
    let error = take(dir.path(), cut).within(Duration::ZERO).read_to_end(&mut read).unwrap_err();
    assert!(error.to_string().contains("was not read within 0 s"), "{error}");
    assert!(unpack(&read[..]).unwrap_err().message().contains("given up at offset 48"));
}

#[test]
fn a_file_that_can_not_be_read_gives_the_copy_up() {
    let (dir, cut, _) = example();
    let backup = take(dir.path(), cut);
    let segment = Name::Segment(3).path(dir.path());
    std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(100).unwrap();
    let mut backup = backup;
    let mut taken = Vec::new();
    while backup.next_part(&mut taken) {}
    let error = unpack(&taken[..]).unwrap_err();
    assert!(error.message().contains("0000000003.aof at offset 0"), "{error}");
}

proptest! {
    #[test]
    fn whatever_bytes_there_are_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(unpack(&bytes[..]).is_err());
        let header = Header { files: 1, bytes: 100, salt: 5, begun: 1 }.encode();
        prop_assert!(unpack(&[&header[..], &bytes].concat()[..]).is_err());
    }

    #[test]
    fn valid_blocks_in_any_order_are_survived(
        blocks in prop::collection::vec((0..4_usize, prop::collection::vec(any::<u8>(), 0..20)), 0..8),
        files in 0..3_u32,
        bytes in 0..40_u64,
    ) {
        let tags = [Tag::File, Tag::Data, Tag::End, Tag::GivenUp];
        let blocks: Vec<_> = blocks.into_iter().map(|(tag, payload)| (tags[tag], payload)).collect();
        let _ = unpack(&built(files, bytes, &blocks)[..]);
    }

    #[test]
    fn several_changed_bytes_are_seen(changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6)) {
        let (dir, cut, _) = example();
        let taken = whole(take(dir.path(), cut));
        let mut changed = taken.clone();
        for (at, flip) in changes {
            changed[at.index(taken.len())] ^= flip;
        }
        let unpacked = unpack(&changed[..]);
        prop_assert!(changed == taken || unpacked.is_err());
    }
}
