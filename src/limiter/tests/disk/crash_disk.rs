//! A disk that can lose power: it knows what was synced and what was not, and makes the directory that a machine would
//! find after it stopped at any call.
//!
//! What a sync has covered is there. Of the rest each sector of 512 bytes is there as it was at any moment since the
//! last sync, or holds garbage if it was not part of the file yet; the length of a file is that of any moment; of the
//! changes of names any choice was made.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::clock::Clock;
use crate::limiter::tests::options;
use crate::limiter::{Limiter, Options, SyncMode};
use crate::store::{Disk, Policy, ReadDisk, SystemDisk};

const SECTOR: usize = 512;

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Naming {
    Link(OsString, u64),
    Rename(OsString, OsString),
    Remove(OsString),
}

/// All that the disk knows, at one moment.
#[derive(Clone, Default)]
pub struct Image {
    files: HashMap<u64, Content>,
    names: BTreeMap<OsString, u64>,
    pending: Vec<Naming>,
}

#[derive(Default)]
struct State {
    image: Image,
    /// Keep the numbers of removed files from being used again.
    open: Vec<File>,
    /// Calls until the power is cut.
    left: Option<u64>,
    cut: Option<Image>,
}

/// The disk. Everything is done on real files, and noted.
pub struct CrashDisk(Mutex<State>);

impl CrashDisk {
    /// A disk that finds `dir` as it is, with all of it synced.
    pub fn new(dir: &Path) -> CrashDisk {
        let mut state = State::default();
        for item in std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            let durable = std::fs::read(item.path()).unwrap();
            let number = item.metadata().unwrap().ino();
            state.open.push(File::open(item.path()).unwrap());
            state.image.files.insert(number, Content { durable, pending: Vec::new() });
            state.image.names.insert(item.file_name(), number);
        }
        CrashDisk(Mutex::new(state))
    }

    /// Cuts the power before the call that comes after this many more.
    pub fn cut_after(&self, calls: u64) {
        let mut state = self.0.lock().unwrap();
        (state.left, state.cut) = (Some(calls), None);
    }

    /// What there was when the power was cut, if it was.
    pub fn take_cut(&self) -> Option<Image> {
        let mut state = self.0.lock().unwrap();
        let cut = state.cut.take();
        if cut.is_some() {
            state.left = None;
        }
        cut
    }

    /// What there is now.
    pub fn now(&self) -> Image {
        self.0.lock().unwrap().image.clone()
    }

    fn call(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap();
        match state.left {
            Some(0) if state.cut.is_none() => state.cut = Some(state.image.clone()),
            Some(left) => state.left = Some(left.saturating_sub(1)),
            None => {}
        }
        state
    }

    fn synced(&self, file: &File, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.call();
        sync()?;
        let content = state.image.files.entry(file.metadata()?.ino()).or_default();
        for change in std::mem::take(&mut content.pending) {
            apply(&mut content.durable, &change);
        }
        Ok(())
    }

    fn change(&self, file: &File, change: Change, make: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.call();
        make()?;
        state.image.files.entry(file.metadata()?.ino()).or_default().pending.push(change);
        Ok(())
    }

    fn naming(&self, naming: Naming, make: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.call();
        make()?;
        state.image.pending.push(naming);
        Ok(())
    }
}

fn name(path: &Path) -> OsString {
    path.file_name().unwrap().to_owned()
}

impl ReadDisk for CrashDisk {}

impl Disk for CrashDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.call();
        let file = SystemDisk.create(path)?;
        let number = file.metadata()?.ino();
        state.open.push(file.try_clone()?);
        state.image.files.insert(number, Content::default());
        state.image.pending.push(Naming::Link(name(path), number));
        Ok(file)
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let change = Change::Write(offset as usize, bytes.to_vec());
        self.change(file, change, || SystemDisk.write_at(file, bytes, offset))
    }
    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.synced(file, || SystemDisk.sync_data(file))
    }
    fn sync_all(&self, file: &File) -> io::Result<()> {
        self.synced(file, || SystemDisk.sync_all(file))
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.change(file, Change::Length(len as usize), || SystemDisk.set_len(file, len))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.naming(Naming::Rename(name(from), name(to)), || SystemDisk.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.naming(Naming::Remove(name(path)), || SystemDisk.remove(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call();
        SystemDisk.sync_dir(path)?;
        let pending = std::mem::take(&mut state.image.pending);
        pending.iter().for_each(|naming| rename(&mut state.image.names, naming));
        Ok(())
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, bytes) => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        Change::Length(length) => content.resize(*length, 0),
    }
}

fn rename(names: &mut BTreeMap<OsString, u64>, naming: &Naming) {
    match naming {
        Naming::Link(name, number) => drop(names.insert(name.clone(), *number)),
        Naming::Rename(from, to) => {
            if let Some(number) = names.remove(from) {
                names.insert(to.clone(), number);
            }
        }
        Naming::Remove(name) => drop(names.remove(name)),
    }
}

impl Image {
    /// Writes the directory that is found when the power is back.
    pub fn restore(&self, dir: &Path, chance: &mut Chance) {
        std::fs::create_dir(dir).unwrap();
        let mut names = self.names.clone();
        self.pending.iter().filter(|_| chance.below(3) > 0).for_each(|naming| rename(&mut names, naming));
        for (name, number) in names {
            std::fs::write(dir.join(name), self.files[&number].found(chance)).unwrap();
        }
    }
}

impl Content {
    fn found(&self, chance: &mut Chance) -> Vec<u8> {
        if self.pending.is_empty() {
            return self.durable.clone();
        }
        // The file as it was after each change.
        let mut moments = vec![self.durable.clone()];
        for change in &self.pending {
            let mut next = moments[moments.len() - 1].clone();
            apply(&mut next, change);
            moments.push(next);
        }
        let length = moments[chance.below(moments.len())].len();
        // What was cut off and is there after all is as it was.
        let mut found = self.durable.clone();
        found.resize(length, 0);
        for (index, sector) in found.chunks_mut(SECTOR).enumerate() {
            let moment = &moments[chance.below(moments.len())];
            let begin = index * SECTOR;
            match moment.get(begin..moment.len().min(begin + sector.len())) {
                Some(there) => sector[..there.len()].copy_from_slice(there),
                None if begin >= self.durable.len() && chance.below(8) == 0 => sector.fill(0xa5),
                None => {}
            }
        }
        found
    }
}

/// Numbers that look random and are the same for the same seed.
pub struct Chance(pub u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }
}

/// A limiter on such a disk.
pub fn open(dir: &Path, sync: SyncMode, clock: &Clock, disk: &Arc<CrashDisk>) -> Limiter {
    // Segments of a few frames, so that there are several.
    let policy = Policy { segment_bytes: 1500, ..Policy::default() };
    let options = Options { sync, policy, disk: disk.clone(), ..options(clock) };
    Limiter::open(dir, options).unwrap_or_else(|error| panic!("{error}"))
}
