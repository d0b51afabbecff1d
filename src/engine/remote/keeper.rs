//! The threads that look after what no operation does: names of vanished records leave the lists (`flint-keeper`), and
//! in a Cluster the patterns are read again and again (`flint-patterns`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::copies::reader::{NAMES_AT_ONCE, Reader, Source};
use super::lease::{Lease, READ_EVERY};
use super::link::limit_key;
use super::names;
use crate::error::{Error, Kind, Result};
use crate::limiter::scratch::{Live, Name};

/// How often it looks at lists; in a Cluster, where each has a part in every slot, less often.
const LISTS_EVERY: Duration = Duration::from_secs(1);
const LISTS_OF_CLUSTER_EVERY: Duration = Duration::from_secs(60);

/// In what time it looks at all names of a list, if these are many.
const ALL_IN: u64 = 600;

/// Most names of a list that it looks at in one go.
const MOST_AT_ONCE: u64 = 20 * NAMES_AT_ONCE as u64;

/// Lists with names of records that vanish by themselves.
const VANISHING: [u8; 6] = [names::LIVE, names::LIVE_BY, names::OVERFLOWS, names::HOLDS, names::OPEN, names::ANSWERS];

/// How often it looks whether patterns have little room left.
const FULL_EVERY: u32 = 10;

/// What ends them.
pub struct Handle {
    closing: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Handle {
    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::new(Kind::Io, format!("cannot start thread {name}: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Starts them. In a Cluster the patterns are read once before this returns.
///
/// # Errors
/// `io` where no thread can be started; `store_unavailable`.
pub fn start(source: &Source, lease: Option<Arc<Lease>>) -> Result<Handle> {
    let mut handle = Handle { closing: Arc::default(), threads: Vec::new() };
    if let Some(lease) = lease {
        let (mut reader, closing) = (source.reader(), Arc::clone(&handle.closing));
        renew(&mut reader, &lease)?;
        handle.start("flint-patterns", move || {
            while !closing.load(Ordering::Acquire) {
                thread::park_timeout(READ_EVERY);
                if let Err(error) = renew(&mut reader, &lease) {
                    log::debug!("the patterns could not be read: {error}");
                }
            }
        })?;
    }
    let keeper = Keeper {
        reader: source.reader(),
        is_cluster: source.store.is_cluster(),
        closing: Arc::clone(&handle.closing),
        after: VANISHING.map(|_| None),
    };
    handle.start("flint-keeper", move || keeper.run())?;
    Ok(handle)
}

fn renew(reader: &mut Reader, lease: &Lease) -> Result<()> {
    let asked = Instant::now();
    let record = reader.fetch(&[Name::Patterns])?.pop().flatten();
    lease.renew(record, asked);
    Ok(())
}

struct Keeper {
    reader: Reader,
    is_cluster: bool,
    closing: Arc<AtomicBool>,
    /// Of each list the name that was looked at last.
    after: [Option<String>; VANISHING.len()],
}

impl Keeper {
    fn run(mut self) {
        let every = if self.is_cluster { LISTS_OF_CLUSTER_EVERY } else { LISTS_EVERY };
        let mut round: u32 = 0;
        while !self.is_closing() {
            let begun = Instant::now();
            while !self.is_closing() && begun.elapsed() < every {
                thread::park_timeout(every.saturating_sub(begun.elapsed()));
            }
            round = round.wrapping_add(1);
            let done = self.prune();
            let done = if round.is_multiple_of(FULL_EVERY) { done.and_then(|()| self.make_room()) } else { done };
            if let Err(error) = done {
                log::debug!("the lists of names could not be looked at: {error}");
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Looks at some names of each list.
    fn prune(&mut self) -> Result<()> {
        let counts = self.reader.counts(&VANISHING)?;
        for (index, count) in counts.into_iter().enumerate() {
            let mut left = if count == 0 { 0 } else { (count / ALL_IN).clamp(1, MOST_AT_ONCE) };
            while left > 0 && !self.is_closing() {
                let (members, ended) =
                    self.reader.names(VANISHING[index], b"", self.after[index].as_deref().map(str::as_bytes))?;
                self.after[index] = members.last().filter(|_| !ended).cloned();
                self.prune_some(VANISHING[index], &members)?;
                left = if ended { 0 } else { left.saturating_sub(members.len() as u64) };
            }
        }
        Ok(())
    }

    fn prune_some(&mut self, list: u8, members: &[String]) -> Result<()> {
        let slot = self.is_cluster.then_some(0);
        let key = |member: &str| match (list, member.split_once('\u{1}')) {
            (names::LIVE_BY, Some((_, key))) => Some(limit_key(key)),
            (names::LIVE_BY, None) => None,
            // Nobody knows here in which slot of a Cluster an answer is.
            (names::ANSWERS, _) if slot.is_some() => None,
            _ => names::name_of(list, member).map(|name| names::key(&name, slot)),
        };
        let gone: Vec<(Vec<u8>, Vec<u8>)> =
            members.iter().filter_map(|member| Some((member.as_bytes().to_vec(), key(member)?))).collect();
        if gone.is_empty() { Ok(()) } else { self.reader.prune(list, &gone) }
    }

    /// Looks at all names of patterns that have little room left for more keys.
    fn make_room(&mut self) -> Result<()> {
        self.reader.load_patterns()?;
        for id in self.reader.crowded() {
            let prefix = names::live_prefix(Live::Pattern(id));
            let mut after: Option<String> = None;
            while !self.is_closing() {
                let (members, ended) =
                    self.reader.names(names::LIVE_BY, &prefix, after.as_deref().map(str::as_bytes))?;
                self.prune_some(names::LIVE_BY, &members)?;
                after = members.last().cloned();
                if ended {
                    break;
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}
