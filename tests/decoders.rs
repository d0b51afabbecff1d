//! Whatever is in the files: nothing panics, and no more memory is allocated than the files' size justifies.
//!
//! A separate binary, because its allocator counts for all of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use flint::store::decode::Decoder;
use flint::store::frame::{self, FileHeader, FileKind};
use flint::{Access, Algorithm, Kind, Limit, Limiter, Options, Page, SyncMode};
use proptest::prelude::*;

thread_local! {
    /// The largest single allocation of this thread since it was last set to 0, in bytes.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn note(size: usize) {
    // A thread that is ending has no counter any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is handed on to the system's allocator as it came; the counter neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` returns, and its largest allocation.
fn counted<T>(act: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let result = act();
    (result, LARGEST.get())
}

#[test]
fn the_allocator_counts() {
    let (bytes, largest) = counted(|| vec![1_u8; 123_456]);
    assert_eq!(bytes.len(), 123_456);
    assert!((123_456..130_000).contains(&largest), "{largest}");
}

fn decode_all(payload: &[u8], base: u64) {
    let mut decoder = Decoder::new(payload, base);
    while !decoder.is_empty() && decoder.read().is_ok() {}
}

const SALT: u64 = 99;

/// A frame around these bytes whose checksum is right.
fn sealed(payload: &[u8], salt: u64, head: [u8; 28]) -> Vec<u8> {
    let mut bytes = b"FLfr\0\0\0\0".to_vec();
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(payload);
    reseal(&mut bytes, &salt.to_le_bytes());
    bytes
}

fn reseal(frame: &mut [u8], salt: &[u8]) {
    let crc = crc32fast::hash(&[salt, &frame[8..]].concat());
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_survived(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..17u8, Just(0xff)], 0..600),
        base in any::<u64>(),
    ) {
        let ((), largest) = counted(|| {
            decode_all(&bytes, base);
            let _ = frame::open(&bytes, base, FileKind::Segment);
            let _ = frame::open(&bytes, base, FileKind::Snapshot);
            let _ = frame::highest_durable(&bytes, base);
            let _ = frame::lone_mark(&bytes, base);
            let _ = FileHeader::decode(&bytes, FileKind::Segment);
            let _ = FileHeader::decode(&bytes, FileKind::Snapshot);
        });
        prop_assert!(largest <= 1024 + 32 * bytes.len(), "{} bytes asked for by {}", largest, bytes.len());
    }

    #[test]
    fn frames_of_random_bytes_are_survived(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        head in any::<[u8; 28]>(),
        before in prop::collection::vec(prop_oneof![Just(0), Just(b'F'), any::<u8>()], 0..100),
    ) {
        let frame = sealed(&payload, SALT, head);
        let (header, found) = frame::open(&frame, SALT, FileKind::Segment).unwrap();
        prop_assert_eq!(found, &payload[..]);
        decode_all(found, header.base);
        let bytes = [&before[..], &frame, &[0; 50]].concat();
        prop_assert!(frame::highest_durable(&bytes, SALT).is_some_and(|mark| mark >= header.durable));
    }
}

/// The files of a directory with records of every kind, and of every algorithm.
fn files() -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let limiter = Limiter::open(dir.path(), Options::default().with_sync(SyncMode::Relaxed)).unwrap();
    let keys = ["token_bucket", "sliding_window_log", "fixed_window_counter", "sliding_window_counter"];
    let history = |rate: u64| {
        for (key, algorithm) in keys.iter().zip(Algorithm::ALL.iter().copied()) {
            limiter.configure(key, Limit::of_millis(rate, 86_400_000, algorithm, None).unwrap()).unwrap();
            limiter.check(key, rate / 3).unwrap();
            limiter.check(key, rate).unwrap();
        }
        limiter.check_all(&[(keys[0], 1), (keys[1], 2), (keys[2], 3)]).unwrap();
        limiter.reset(keys[3]).unwrap();
        limiter.configure("gone", Limit::of_millis(1, 1, Algorithm::TokenBucket, None).unwrap()).unwrap();
        limiter.remove("gone").unwrap();
        limiter.flush().unwrap();
    };
    history(90);
    limiter.compact().unwrap();
    history(1000);
    limiter.close().unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    let files = files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap()));
    let mut files: Vec<_> = files.filter(|(name, _)| name != "flint.lock").collect();
    files.sort();
    assert_eq!(files.len(), 2);
    files
}

/// One change of a file: where, in parts of its used length, and how.
#[derive(Debug, Clone)]
enum Change {
    Byte(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// The integer that begins there becomes this one.
    Number(usize, u64),
}

fn changes() -> impl Strategy<Value = Vec<(bool, Change)>> {
    let byte = prop_oneof![any::<u8>(), Just(0xff), Just(0x80), 0..17u8];
    // The edges of what is believed, and of what fits.
    let edge = prop_oneof![Just(16), Just(25), Just(32), Just(47), Just(48), Just(62), Just(63), 0..64u32];
    let number = (edge, 0..4u64).prop_map(|(bits, below)| (1_u64 << bits).wrapping_sub(below));
    let number = prop_oneof![number, (0..4u64).prop_map(|below| u64::MAX - below)];
    let change = prop_oneof![
        6 => (any::<usize>(), byte.clone()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => (any::<usize>(), prop::collection::vec(byte, 1..12)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (any::<usize>(), 1..12usize).prop_map(|(at, length)| Change::Remove(at, length)),
        6 => (any::<usize>(), number).prop_map(|(at, number)| Change::Number(at, number)),
    ];
    prop::collection::vec((any::<bool>(), change), 1..4)
}

fn length_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize
}

fn leb128(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Offsets of the frames of a file that is whole.
fn frames(file: &[u8]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 64);
    while file.get(at..at + 4) == Some(b"FLfr") {
        found.push(at);
        at += 40 + length_at(file, at);
    }
    found
}

/// Makes the change in a file's header or in one of its frames, and puts their checksums right.
fn apply(file: &mut Vec<u8>, change: &Change) {
    let offsets = frames(file);
    let end = offsets.last().map_or(64, |at| at + 40 + length_at(file, *at));
    let (Change::Byte(at, _) | Change::Insert(at, _) | Change::Remove(at, _) | Change::Number(at, _)) = change;
    let at = at % end;
    if at < 64 {
        match change {
            Change::Byte(_, byte) => file[at] = *byte,
            Change::Number(_, number) => {
                // Number, two halves of an id, salt, first.
                let at = 16 + at % 5 * 8;
                file[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            _ => {}
        }
        let crc = crc32fast::hash(&file[..60]);
        file[60..64].copy_from_slice(&crc.to_le_bytes());
        return;
    }
    let begin = offsets.into_iter().rfind(|begin| *begin <= at).unwrap();
    let length = length_at(file, begin);
    let mut frame: Vec<u8> = file.drain(begin..begin + 40 + length).collect();
    let within = at - begin;
    match change {
        Change::Byte(_, byte) if !(8..12).contains(&within) => frame[within] = *byte,
        Change::Insert(_, bytes) if within >= 40 => drop(frame.splice(within..within, bytes.iter().copied())),
        Change::Remove(_, length) if within >= 40 => drop(frame.drain(within..(within + length).min(frame.len()))),
        Change::Number(_, number) if within < 40 => {
            // First, durable, base.
            let at = 16 + within % 3 * 8;
            frame[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        Change::Number(_, number) => {
            let length = frame[within..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
            drop(frame.splice(within..(within + length).min(frame.len()), leb128(*number)));
        }
        _ => {}
    }
    let length = (frame.len() - 40) as u32;
    frame[..4].copy_from_slice(b"FLfr");
    frame[8..12].copy_from_slice(&length.to_le_bytes());
    reseal(&mut frame, &file[40..48]);
    file.splice(begin..begin, frame);
}

/// Opens the directory to look at it, asks for all there is to see, and repairs it.
fn use_directory(dir: &Path) -> Result<(), TestCaseError> {
    let size: u64 = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    let (opened, largest) = counted(|| {
        let options = Options::default().with_access(Access::Read);
        Limiter::open(dir, options).map(|limiter| {
            limiter.list(Page::default()).unwrap();
            limiter.report().problems().len()
        })
    });
    if let Err(error) = &opened {
        prop_assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "{}", error);
    }
    // Shards and buffers of a fixed size, and what is in proportion to the files.
    prop_assert!(largest as u64 <= 256 * 1024 + 16 * size, "{} bytes asked for by {}", largest, size);
    let (_, largest) = counted(|| flint::limiter::dump(dir, &mut |_| {}));
    prop_assert!(largest as u64 <= 256 * 1024 + 16 * size, "{} bytes asked for by {}", largest, size);
    let to = dir.parent().unwrap().join("to");
    match flint::limiter::repair(dir, &to) {
        Ok(done) => drop(done.lines()),
        Err(error) => prop_assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported | Kind::Io), "{}", error),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes that are changed, put in and taken out of whole files, with checksums that are right all the same.
    #[test]
    fn changed_files_are_survived(changes in changes()) {
        static FILES: std::sync::LazyLock<Vec<(String, Vec<u8>)>> = std::sync::LazyLock::new(files);
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        let mut files = FILES.clone();
        for (which, change) in &changes {
            apply(&mut files[usize::from(*which)].1, change);
        }
        for (name, bytes) in &files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        use_directory(&dir)?;
    }
}
