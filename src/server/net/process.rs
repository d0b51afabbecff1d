//! This process: its signals, its limits of descriptors and threads, its memory.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system has its control groups.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Pieces of memory from this size on are mapped for themselves, in bytes: glibc's default.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Tells the thread that made it when a connection arrives at a listener. (poll(2) on the listener would not do: if
/// tiny_http's accept wins the race, poll finds the queue empty and sleeps on.)
///
/// The kernel sends SIGIO to this thread only, which blocks it and reads it from a signalfd. Signals coalesce, and cost
/// an accept about 100 ns.
#[derive(Debug)]
pub struct AcceptSignal {
    fd: OwnedFd,
    // A signalfd reads the signals of the *calling* thread, so it must stay in the thread that made it.
    thread: PhantomData<*const ()>,
}

impl AcceptSignal {
    /// Blocks SIGIO in the calling thread and opens a signalfd for it.
    ///
    /// If SIGIO has no handler, it is set to be ignored for the process, so that a stray one can't end it; a signal
    /// that is blocked in the thread where it arrives is kept nevertheless.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn new() -> io::Result<AcceptSignal> {
        // SAFETY: `sigset_t` and `sigaction` are C structs for which all-zero bytes are a value (an empty set;
        // SIG_DFL). Every pointer is to a live, exclusive local, or null where that is allowed. Replacing SIG_DFL by
        // SIG_IGN runs no code of this program in a signal handler.
        let fd = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            if libc::sigaction(libc::SIGIO, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_DFL
            {
                action.sa_sigaction = libc::SIG_IGN;
                libc::sigaction(libc::SIGIO, &raw const action, std::ptr::null_mut());
            }
            let mut set: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGIO);
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just returned this descriptor; nothing else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(AcceptSignal { fd, thread: PhantomData })
    }

    /// Makes the kernel signal this thread each connection that arrives at `listener`.
    ///
    /// This is a property of the listening socket's open file, so it holds for every clone, and accepted sockets don't
    /// inherit it. It ends with this thread.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn watch(&self, listener: impl AsFd) -> io::Result<()> {
        #[repr(C)]
        struct Owner {
            kind: libc::c_int,
            id: libc::pid_t,
        }
        const F_SETOWN_EX: libc::c_int = 15;
        const F_OWNER_TID: libc::c_int = 0;

        // SAFETY: gettid has no precondition.
        let id = unsafe { libc::gettid() };
        let owner = Owner { kind: F_OWNER_TID, id };
        let fd = listener.as_fd();
        // SAFETY: the descriptor is borrowed, so it is open; F_SETOWN_EX reads one `f_owner_ex`, which `Owner` is (two
        // ints, see fcntl(2)).
        let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = rustix::fs::fcntl_getfl(fd)?;
        Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::ASYNC)?)
    }

    /// Takes the signals since the last call; true if there was any.
    pub fn drain(&self) -> bool {
        let mut signalled = false;
        // Signals coalesce, so this ends after one or two turns.
        let mut buffer = [0_u8; mem::size_of::<libc::signalfd_siginfo>()];
        while let Ok(n) = rustix::io::read(&self.fd, &mut buffer)
            && n > 0
        {
            signalled = true;
        }
        signalled
    }
}

impl AsFd for AcceptSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread, for the time of an exec: a signal that arrives then stays pending,
/// and the handlers of the next image get it. Otherwise it would set a flag of this image, or meet no handler.
pub fn hold_signals() {
    mask_signals(libc::SIG_BLOCK);
}

/// Undoes [`hold_signals`] of the former image, after handlers are installed.
pub fn release_signals() {
    mask_signals(libc::SIG_UNBLOCK);
}

fn mask_signals(how: libc::c_int) {
    // SAFETY: `sigset_t` is a C struct for which all-zero bytes are a value; `set` is live and exclusive, and the old
    // mask is not asked for. Only the mask of this thread changes.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Raises the soft limit of open descriptors to the hard one; returns the soft limit before and after. `u64::MAX`
/// stands for no limit.
///
/// # Errors
/// The kernel's own.
pub fn raise_nofile_limit() -> io::Result<(u64, u64)> {
    let old = getrlimit(Resource::Nofile);
    let before = old.current.unwrap_or(u64::MAX);
    if old.current == old.maximum {
        return Ok((before, before));
    }
    setrlimit(Resource::Nofile, Rlimit { current: old.maximum, maximum: old.maximum })?;
    Ok((before, old.maximum.unwrap_or(u64::MAX)))
}

/// Threads that this process may have, as far as the limits of its user (RLIMIT_NPROC) and of its control groups
/// (pids.max) allow; `u64::MAX` if there is no limit.
pub fn thread_limit() -> u64 {
    let user = getrlimit(Resource::Nproc).current.unwrap_or(u64::MAX);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    pids_limit(&groups, read).map_or(user, |pids| pids.min(user))
}

/// The lowest `pids.max` of a process's control groups and those around them, see cgroups(7). `groups` is its
/// `/proc/PID/cgroup`.
fn pids_limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let paths = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(Path::new(CONTROL_GROUPS).join(group)),
            "pids" => Some(Path::new(CONTROL_GROUPS).join("pids").join(group)),
            _ => None,
        }
    });
    let limits = paths.flat_map(|path| {
        let groups = path.ancestors().take_while(|path| path.starts_with(CONTROL_GROUPS));
        groups.filter_map(|path| read(&path.join("pids.max"))?.trim().parse::<u64>().ok()).collect::<Vec<_>>()
    });
    limits.min()
}

/// Has the C library map large pieces of memory for themselves, and give back what is free at the end of a heap.
/// Otherwise glibc raises both bounds after the first large piece that is freed (mallopt(3)), and each of its heaps,
/// one for each thread of those that are busy, keeps up to some MiB that nothing uses.
pub fn bound_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt has no precondition; a value that it does not take changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Has the C library give free memory back to the system, if the library can.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn nofile_limit_is_raised_once() {
        let (_, new) = raise_nofile_limit().unwrap();
        assert_eq!(raise_nofile_limit().unwrap(), (new, new));
    }

    #[test]
    fn the_lowest_limit_of_the_control_groups_counts() {
        let limit = |groups, files: &[(&str, &str)]| {
            let read = |path: &Path| {
                let found = files.iter().find(|(file, _)| Path::new(CONTROL_GROUPS).join(file) == path)?;
                Some(format!("{}\n", found.1))
            };
            pids_limit(groups, read)
        };
        let unified = "0::/system.slice/flint.service\n";
        assert_eq!(limit(unified, &[]), None);
        assert_eq!(limit(unified, &[("system.slice/flint.service/pids.max", "max")]), None);
        let files =
            [("system.slice/flint.service/pids.max", "4000"), ("system.slice/pids.max", "300"), ("pids.max", "9")];
        assert_eq!(limit(unified, &files[..1]), Some(4000));
        assert_eq!(limit(unified, &files[..2]), Some(300));
        assert_eq!(limit(unified, &files), Some(9));
        assert_eq!(limit("4:memory:/a\n3:pids:/a\n", &[("pids/a/pids.max", "7"), ("a/pids.max", "1")]), Some(7));
        assert_eq!(limit("odd", &files), None);
    }

    #[test]
    fn accepts_are_signalled() {
        let signal = AcceptSignal::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        signal.watch(&listener).unwrap();
        assert!(!signal.drain());
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(signal.drain());
        assert!(!signal.drain());
    }
}
