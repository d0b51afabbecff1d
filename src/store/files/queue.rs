//! The queue of commands for a data directory: first come, first served.
//!
//! Owns: the lock on `flint.queue`, which the first in the queue holds, and the note in it of its process. The others
//! sleep in flock(2): Linux (since 5.0) hands the lock on in the order in which it was asked for, and wakes nobody
//! else. The lock goes with its process, so a command that is killed leaves no place in the queue. The queue keeps
//! commands in order and protects nothing: that is what the locks of [`super::lock`] do, which a server and a library
//! take without a place here. Where no queue is available (a full disk, a directory that can't be written), every
//! command counts as the first and tries for itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::names::QUEUE;

/// Time between two looks at a lock if there is no thread to wait for it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Stack of a thread that waits for a lock, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// A place in the queue, kept until this is dropped.
#[derive(Debug)]
pub struct Queue(State);

#[derive(Debug)]
enum State {
    /// There is no queue.
    Absent,
    First(#[expect(dead_code, reason = "it holds the lock")] File),
    Waiting(Receiver<io::Result<File>>),
    /// No thread could be started.
    Looking(File),
}

impl Queue {
    /// Lines up. With `create` the queue's file is made if there is none.
    pub fn join(dir: &Path, create: bool) -> Queue {
        let path = dir.join(QUEUE);
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(create).truncate(false).mode(0o600);
        let opened = how.open(&path).or_else(|error| match create {
            // To lock it a reader need not write it.
            false => File::open(&path),
            true => Err(error),
        });
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                log::debug!("there is no queue at {}: {error}", path.display());
                return Queue(State::Absent);
            }
        };
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => Queue(State::first(file)),
            Err(fs4::TryLockError::WouldBlock) => match wait_for(&file) {
                Some(lock) => Queue(State::Waiting(lock)),
                None => Queue(State::Looking(file)),
            },
            Err(fs4::TryLockError::Error(error)) => {
                log::debug!("{} cannot be locked: {error}", path.display());
                Queue(State::Absent)
            }
        }
    }

    /// Waits until this is the first in the queue, or this long. Returns whether it is; if there is no queue, each
    /// is.
    pub fn wait(&mut self, patience: Duration) -> bool {
        match &self.0 {
            State::Absent | State::First(_) => {}
            State::Waiting(lock) => match lock.recv_timeout(patience) {
                Ok(Ok(file)) => self.0 = State::first(file),
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => self.0 = State::Absent,
                Err(RecvTimeoutError::Timeout) => return false,
            },
            State::Looking(file) => {
                let deadline = Instant::now() + patience;
                while fs4::FileExt::try_lock(file).is_err() {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    std::thread::sleep(left.min(LOOK_EVERY));
                }
                if let State::Looking(file) = std::mem::replace(&mut self.0, State::Absent) {
                    self.0 = State::first(file);
                }
            }
        }
        true
    }

    /// Whether there is no queue.
    pub fn is_absent(&self) -> bool {
        matches!(self.0, State::Absent)
    }
}

impl State {
    fn first(mut file: File) -> State {
        // For people only: without room on the disk the lock holds all the same.
        let note = format!("{}\n", std::process::id());
        let noted = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(note.as_bytes()));
        if let Err(error) = noted {
            log::debug!("no note of the first in the queue: {error}");
        }
        State::First(file)
    }
}

/// The process that is first in the queue, as it has noted itself; `None` if there is none.
pub fn first_in_queue(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join(QUEUE)).ok()?;
    match fs4::FileExt::try_lock_shared(&file) {
        Err(fs4::TryLockError::WouldBlock) => {}
        Ok(()) | Err(fs4::TryLockError::Error(_)) => return None,
    }
    let mut text = String::new();
    (&mut file).take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Waits until no process holds the directory's lock, or this long. Another may take it at once.
pub fn wait_until_free(dir: &Path, patience: Duration) {
    let Ok(directory) = File::open(dir) else { return };
    match wait_for(&directory) {
        Some(lock) => drop(lock.recv_timeout(patience)),
        None => std::thread::sleep(patience.min(LOOK_EVERY)),
    }
}

/// The file once it is locked. A thread waits for it, since flock(2) has no time-out; it ends with the lock or with the
/// process, and gives the lock back if nobody needs it any more.
fn wait_for(file: &File) -> Option<Receiver<io::Result<File>>> {
    let file = file.try_clone().ok()?;
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("flint-queue".into()).stack_size(STACK_BYTES);
    let started = thread.spawn(move || {
        let locked = loop {
            match fs4::FileExt::lock(&file) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                locked => break locked,
            }
        };
        let _ = sender.send(locked.map(|()| file));
    });
    started.ok().map(|_| receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_is_first_and_the_next_is_woken() {
        let dir = tempfile::tempdir().unwrap();
        let mut absent = Queue::join(dir.path(), false);
        assert!(absent.is_absent() && absent.wait(Duration::ZERO), "a queue of nobody is not made by a reader");
        assert_eq!(first_in_queue(dir.path()), None);
        let mut first = Queue::join(dir.path(), true);
        assert!(first.wait(Duration::ZERO));
        assert_eq!(first_in_queue(dir.path()), Some(std::process::id()));
        let mut second = Queue::join(dir.path(), false);
        assert!(!second.is_absent() && !second.wait(Duration::ZERO));
        let gone = Queue::join(dir.path(), true);
        drop(gone);
        drop(first);
        assert!(second.wait(LONG));
        drop(second);
        assert!(Queue::join(dir.path(), true).wait(LONG), "a place that was given up is passed over");
    }

    #[test]
    fn without_a_thread_it_looks_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let first = Queue::join(dir.path(), true);
        let mut looking =
            Queue(State::Looking(File::options().read(true).write(true).open(dir.path().join(QUEUE)).unwrap()));
        assert!(!looking.wait(Duration::ZERO));
        drop(first);
        assert!(looking.wait(LONG));
        assert!(matches!(looking.0, State::First(_)));
    }
}
