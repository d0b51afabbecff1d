//! The one place where Flint talks to the kernel about sockets beneath `std::net`.
//!
//! **Owns** every `unsafe` of the program: TCP_INFO, SIOCOUTQ, the look at this process's own
//! descriptors by number, the SIGIO that tells of new connections, and the passing of a listening
//! socket through exec (`LISTEN_FDS`), with no signal lost meanwhile.
//!
//! **Called by** the server's start (listener options, [`raise_nofile_limit`],
//! [`inherited_listener`]), its replacement ([`exec_with_listener`], [`hold_signals`]), and by the
//! connection guard (all the rest).
//!
//! **Must never happen here:** a decision (what is slow or idle is the guard's matter); a
//! descriptor that this module doesn't own being closed; an answer about a descriptor *number* that
//! another thread may have closed and reused meanwhile. [`Peephole`] is the only way from a number
//! to a socket, and answers about its private duplicate alone.
//!
//! A trap for the rest of the program: [`Peephole`] duplicates and closes sockets only, but between
//! its check and its duplication another thread may put a file on that number. Closing *any*
//! descriptor of a file drops the process's POSIX record locks (`fcntl(F_SETLK)`) on it, so Flint
//! must lock with `flock` (as `std::fs::File::lock` does), which does not mind.

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bounds::{SEND_PATIENCE_MS, SEND_TIMEOUT_MS};

// ---------------------------------------------------------------- facts about one connection

/// What the kernel knows about one TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFacts {
    /// Bytes of payload received so far. The peer's FIN, which the kernel counts as one more, is
    /// taken off, so that a half-closed connection doesn't look like one that has begun a request.
    pub bytes_received: u64,
    /// Bytes of ours that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Whether something we sent is not yet acknowledged, or not yet sent.
    pub reply_pending: bool,
    /// The connection is over (reset, or closed on both sides); only the descriptor remains.
    pub dead: bool,
    /// The peer has closed its side.
    pub peer_closed: bool,
    /// Time since the last data arrived, in the kernel's resolution of 1 ms.
    pub last_data_received: Duration,
}

/// What can be had about a Unix stream connection. The kernel counts no totals for these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixFacts {
    /// Bytes that have arrived and were not read by us yet.
    pub unread: u64,
    /// Kernel memory held by replies that the peer has not read yet, in bytes; 0 when it has read
    /// them all.
    pub unsent: u64,
    /// The process that connected, 0 where it can't be told.
    pub peer_pid: u32,
}

// Linux's TCP states, from include/net/tcp_states.h; part of its stable interface (TCP_INFO).
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// Reads `TCP_INFO` of a TCP socket.
///
/// # Errors
/// The kernel's own, or `Unsupported` before Linux 4.6, which lacks the counters.
pub fn bytes_received(fd: impl AsFd) -> io::Result<TcpFacts> {
    // SAFETY: `tcp_info` is a C struct of plain integers, for which all-zero bytes are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open; `info` and `length` are live and exclusive
    // for the call, and the kernel writes at most `length` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let needed = mem::offset_of!(libc::tcp_info, tcpi_notsent_bytes) + mem::size_of::<u32>();
    if (length as usize) < needed {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let peer_closed = matches!(info.tcpi_state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING | TCP_TIME_WAIT);
    Ok(TcpFacts {
        bytes_received: info.tcpi_bytes_received.saturating_sub(u64::from(peer_closed)),
        bytes_acked: info.tcpi_bytes_acked,
        reply_pending: info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0,
        dead: info.tcpi_state == TCP_CLOSE,
        peer_closed,
        last_data_received: Duration::from_millis(u64::from(info.tcpi_last_data_recv)),
    })
}

/// Reads what the kernel tells about a Unix stream socket.
///
/// # Errors
/// The kernel's own; a peer whose credentials can't be had is no error.
pub fn unix_facts(fd: impl AsFd) -> io::Result<UnixFacts> {
    Ok(UnixFacts {
        unread: unread(&fd)?,
        unsent: unsent(&fd)?,
        // A peer outside this process's PID namespace has no number here, which rustix's `UCred`
        // can't express; it is not called where a panic or a wrong number could follow.
        peer_pid: peer_pid(&fd),
    })
}

/// Bytes that have arrived on a stream socket and were not read yet (SIOCINQ).
///
/// # Errors
/// The kernel's own.
pub fn unread(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fd)?)
}

/// Bytes written to a stream socket that the peer has not taken yet (SIOCOUTQ).
///
/// # Errors
/// The kernel's own.
pub fn unsent(fd: impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed, so it is open; SIOCOUTQ (the same number as TIOCOUTQ)
    // writes one `int`, for which `bytes` is live and exclusive.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ as _, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// The process that connected this Unix socket (SO_PEERCRED), 0 where it can't be told.
fn peer_pid(fd: impl AsFd) -> u32 {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = mem::size_of_val(&who) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open; `who` and `length` are live and exclusive,
    // and the kernel writes at most `length` bytes, of integers alone.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut length,
        )
    };
    if result == 0 { u32::try_from(who.pid).unwrap_or(0) } else { 0 }
}

/// Ends a connection in both directions. Its threads see the end of the stream; the descriptors
/// remain theirs to close. A connection that is already over is no error.
///
/// # Errors
/// The kernel's own, except `ENOTCONN`.
pub fn shutdown(fd: impl AsFd) -> io::Result<()> {
    match rustix::net::shutdown(fd, Shutdown::Both) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Makes the last close of this connection a reset, so that unread replies don't stay in kernel
/// memory for a peer that will never read them.
///
/// # Errors
/// The kernel's own.
pub fn reset_on_close(fd: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(fd, Some(Duration::ZERO))?)
}

// ---------------------------------------------------------------- names of sockets

/// The local or remote name of a stream socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix path or abstract name; an unnamed end is empty.
    Unix(Vec<u8>),
}

fn name(address: SocketAddrAny) -> Option<Name> {
    match address.address_family() {
        AddressFamily::UNIX => {
            let unix = SocketAddrUnix::try_from(address).ok()?;
            // An abstract name begins with a zero byte, which no path can.
            let bytes = match (unix.path_bytes(), unix.abstract_name()) {
                (Some(path), _) => path.to_vec(),
                (None, Some(name)) => [&[0], name].concat(),
                (None, None) => Vec::new(),
            };
            Some(Name::Unix(bytes))
        }
        _ => SocketAddr::try_from(address).ok().map(Name::Tcp),
    }
}

/// The name a stream socket is bound to; `None` for sockets of other kinds.
pub fn local_name(fd: impl AsFd) -> Option<Name> {
    if sockopt::socket_type(&fd) != Ok(SocketType::STREAM) {
        return None;
    }
    name(rustix::net::getsockname(fd).ok()?)
}

/// The peer's TCP address; `None` for other sockets and for one that is no longer connected.
pub fn peer_address(fd: impl AsFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(fd).ok()??).ok()
}

/// Whether this is a listening stream socket.
pub fn is_listener(fd: impl AsFd) -> bool {
    sockopt::socket_type(&fd) == Ok(SocketType::STREAM) && sockopt::socket_acceptconn(fd) == Ok(true)
}

/// Connects to a listener of this process and closes the connection at once. Never waits.
///
/// # Errors
/// The kernel's own, such as a full queue or no free descriptor.
pub fn knock(listener: &Name) -> io::Result<()> {
    let family = match listener {
        Name::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
        Name::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        Name::Unix(_) => AddressFamily::UNIX,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let result = match listener {
        Name::Tcp(address) => {
            let mut to = *address;
            match to.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => to.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => to.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            rustix::net::connect(&socket, &to)
        }
        Name::Unix(name) => match name.split_first() {
            Some((0, name)) => rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?),
            _ => rustix::net::connect(&socket, &SocketAddrUnix::new(name.as_slice())?),
        },
    };
    match result {
        // On loopback the handshake is over by now; over another address it goes on by itself.
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

// ---------------------------------------------------------------- descriptors by number

/// The identity of a socket: its inode in the kernel's socket file system, unique while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// Looks up which socket stands on a number, without holding on to it. The answer may be out of
/// date at once: good for skipping what is known, never for acting.
pub fn socket_on(number: RawFd) -> Option<SocketId> {
    // SAFETY: `stat` is a C struct of plain integers, for which all-zero bytes are a value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is live and exclusive. The number may be closed or reused at any moment by its
    // owner: fstat neither closes nor keeps nor changes what stands there, and a closed number is
    // answered by EBADF, so no owner's guarantee is touched.
    let result = unsafe { libc::fstat(number, &raw mut stat) };
    if result != 0 || FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return None;
    }
    Some(SocketId(stat.st_ino))
}

/// A private descriptor through which one socket of this process at a time can be looked at.
///
/// tiny_http's threads close their sockets, and the kernel reuses the numbers, at any moment. So a
/// number is first duplicated *onto a number that this struct owns* (dup3, atomically), and all
/// questions and the cut itself go to the duplicate, which nothing else can close. Being a
/// replacement it also needs no free descriptor: it works at the limit, where the guard is needed
/// most.
///
/// While the duplicate is held (microseconds) a close by the owner doesn't end the socket. That
/// delays nothing: tiny_http shuts both directions down before it closes.
#[derive(Debug)]
pub struct Peephole {
    slot: OwnedFd,
    rest: OwnedFd,
}

impl Peephole {
    /// Takes two descriptors, once. `rest` is what the private number shows between two looks.
    ///
    /// # Errors
    /// No descriptor was free.
    pub fn new(rest: OwnedFd) -> io::Result<Peephole> {
        let slot = rest.try_clone()?;
        Ok(Peephole { slot, rest })
    }

    /// Duplicates what stands on `number`, if it is a socket, and says which.
    ///
    /// The borrow of `self` keeps the duplicate in place while it is used.
    pub fn look(&mut self, number: RawFd) -> Option<(SocketId, BorrowedFd<'_>)> {
        // Sockets alone: duplicating and closing a file would drop its POSIX record locks.
        socket_on(number)?;
        let slot = self.slot.as_raw_fd();
        if number == slot || number == self.rest.as_raw_fd() {
            return None;
        }
        // SAFETY: dup3 makes our own `slot` refer to whatever stands on `number` at this instant,
        // and releases what it referred to before, which was ours. A closed `number` is answered
        // by EBADF. The owner of `number` keeps it, open and unchanged; a shared reference to the
        // same socket is what `try_clone` would have made.
        let result = unsafe { libc::dup3(number, slot, libc::O_CLOEXEC) };
        if result < 0 {
            return None;
        }
        // Only now is the answer certain, since nobody else can change what `slot` refers to.
        let Some(id) = socket_on(slot) else {
            self.release();
            return None;
        };
        Some((id, self.slot.as_fd()))
    }

    /// Lets go of the last socket looked at.
    pub fn release(&mut self) {
        // Both are ours and open, so this can't fail; were it to, the next look would replace it.
        let _ = rustix::io::dup3(&self.rest, &mut self.slot, rustix::io::DupFlags::CLOEXEC);
    }
}

/// Finds this process's connections by their peers' addresses.
///
/// tiny_http gives a request its peer's address and no descriptor. `/proc/self/fd` has them all; where each was seen is
/// kept, and verified at every use.
#[derive(Debug, Default)]
pub struct Connections {
    seen: HashMap<SocketAddr, RawFd>,
}

impl Connections {
    /// A duplicate of the connection with this peer, if it was seen and is still open.
    pub fn get(&self, peer: SocketAddr) -> Option<OwnedFd> {
        let fd = duplicate_socket(*self.seen.get(&peer)?)?;
        // Only now is the answer certain: nothing else can close the duplicate.
        (peer_address(&fd) == Some(peer)).then_some(fd)
    }

    /// Looks at all descriptors anew.
    ///
    /// # Errors
    /// The kernel's own, such as no free descriptor.
    pub fn look(&mut self) -> io::Result<()> {
        self.seen.clear();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let name = entry?.file_name();
            let Some(number) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
            if let Some(fd) = socket_on(number).and_then(|_| duplicate_socket(number))
                && let Some(peer) = peer_address(&fd)
            {
                self.seen.insert(peer, number);
            }
        }
        Ok(())
    }
}

/// Duplicates what stands on a number, if that is a socket.
fn duplicate_socket(number: RawFd) -> Option<OwnedFd> {
    // As in `Peephole::look`: sockets only.
    socket_on(number)?;
    // SAFETY: the kernel duplicates whatever stands on `number` at this instant, or answers EBADF; the number stays its
    // owner's, open and unchanged. The new descriptor is this call's own.
    let fd = unsafe {
        match libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) {
            fd if fd < 0 => return None,
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    socket_on(fd.as_raw_fd())?;
    Some(fd)
}

/// Takes what has arrived on a TCP connection out of the kernel, unseen.
pub fn discard_received(fd: impl AsFd) {
    let mut buffer = [0; 4096];
    // With MSG_TRUNC the kernel drops the bytes of a TCP stream instead of copying them (tcp(7)).
    let flags = rustix::net::RecvFlags::TRUNC | rustix::net::RecvFlags::DONTWAIT;
    while rustix::net::recv(&fd, &mut buffer[..], flags).is_ok_and(|(_, taken)| taken > 0) {}
}

// ---------------------------------------------------------------- news of connections

/// Tells the thread that made it when a connection arrives at a listener, without that thread
/// polling. (poll(2) on the listener would not do: where tiny_http's accept wins the race, poll
/// finds the queue empty and sleeps on.)
///
/// The kernel sends SIGIO to this one thread, which blocks it and reads it from a signalfd. It
/// coalesces, and costs an accept some 100 ns.
#[derive(Debug)]
pub struct AcceptSignal {
    fd: OwnedFd,
    // A signalfd reads the signals of the *calling* thread, so it must stay on the one that made
    // it.
    thread: PhantomData<*const ()>,
}

impl AcceptSignal {
    /// Blocks SIGIO in the calling thread and opens a signalfd for it.
    ///
    /// A process-wide SIGIO that nobody handles is set to be ignored, so that a stray one can't
    /// end the process; a signal that is blocked where it arrives is kept nevertheless.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn new() -> io::Result<AcceptSignal> {
        // SAFETY: `sigset_t` and `sigaction` are C structs for which all-zero bytes are a value (an
        // empty set; SIG_DFL). Every pointer is to a live, exclusive local or null where that is
        // allowed. Replacing a disposition that is still SIG_DFL by SIG_IGN runs no code of ours
        // in a signal handler.
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

    /// Has the kernel tell this thread of each connection that arrives at `listener`.
    ///
    /// This is a property of the listening socket's open file, so it holds for every clone, and the
    /// accepted sockets don't inherit it. When this thread ends, nothing is sent any more.
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
        // SAFETY: the descriptor is borrowed, so it is open; F_SETOWN_EX reads one `f_owner_ex`,
        // which `Owner` is (two ints, see fcntl(2)).
        let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = rustix::fs::fcntl_getfl(fd)?;
        Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::ASYNC)?)
    }

    /// Takes what was told since the last call; true if there was anything.
    pub fn drain(&self) -> bool {
        let mut told = false;
        // A coalescing signal is pending once per thread, so this ends after one or two turns.
        let mut buffer = [0_u8; mem::size_of::<libc::signalfd_siginfo>()];
        while let Ok(n) = rustix::io::read(&self.fd, &mut buffer)
            && n > 0
        {
            told = true;
        }
        told
    }
}

impl AsFd for AcceptSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// ---------------------------------------------------------------- signals while the process is replaced

/// Keeps SIGTERM, SIGINT and SIGHUP from this thread, for the time of an exec: one that arrives then stays pending and
/// meets the handlers of the next image, instead of a flag that ends with this one, or no handler at all.
pub fn hold_signals() {
    mask_signals(libc::SIG_BLOCK);
}

/// Undoes [`hold_signals`] of the former image, once there are handlers.
pub fn release_signals() {
    mask_signals(libc::SIG_UNBLOCK);
}

fn mask_signals(how: libc::c_int) {
    // SAFETY: `sigset_t` is a C struct for which all-zero bytes are a value; `set` is live and exclusive, and the old
    // mask is not asked for. The mask of this thread alone changes.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

// ---------------------------------------------------------------- the listening socket

/// Options that accepted sockets inherit from the listening one on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// A write that waits this long for room fails, to be tried again by whoever has the time.
    pub send_patience: Duration,
    /// The kernel drops a connection whose peer has taken nothing for twice this long.
    pub send_timeout: Duration,
    /// The kernel's receive buffer per connection, in bytes of payload (it takes twice that). Fixed,
    /// because by itself it grows to `tcp_rmem[2]` (6 MiB and more) for each client that sends what
    /// nobody reads.
    pub receive_buffer: usize,
    /// The kernel's send buffer per connection, in bytes of payload (it takes twice that); fixed for
    /// the same reason.
    pub send_buffer: usize,
    /// Connections that the kernel keeps for us until they are accepted; the kernel caps it at
    /// `net.core.somaxconn`.
    pub backlog: i32,
}

impl Default for ListenerOptions {
    fn default() -> ListenerOptions {
        ListenerOptions {
            send_patience: Duration::from_millis(SEND_PATIENCE_MS),
            send_timeout: Duration::from_millis(SEND_TIMEOUT_MS),
            receive_buffer: 64 << 10,
            send_buffer: 64 << 10,
            backlog: 1024,
        }
    }
}

/// Has a write that waits this long for room fail.
///
/// # Errors
/// The kernel's own.
pub fn set_send_patience(fd: impl AsFd, patience: Duration) -> io::Result<()> {
    Ok(sockopt::set_socket_timeout(fd, sockopt::Timeout::Send, Some(patience))?)
}

/// Sets what the accepted connections shall inherit. Before tiny_http takes the listener.
///
/// Never SO_RCVTIMEO: it times out accept itself, which ends tiny_http's accept loop.
///
/// # Errors
/// The kernel's own.
pub fn set_listener_options(listener: impl AsFd, options: &ListenerOptions) -> io::Result<()> {
    let fd = listener.as_fd();
    set_send_patience(fd, options.send_patience)?;
    sockopt::set_socket_recv_buffer_size(fd, options.receive_buffer)?;
    sockopt::set_socket_send_buffer_size(fd, options.send_buffer)?;
    if matches!(local_name(fd), Some(Name::Tcp(_))) {
        // Without it a reply of two writes waits 40 ms for the client's delayed acknowledgement.
        sockopt::set_tcp_nodelay(fd, true)?;
        // The kernel itself then drops a peer that is gone, or whose window stays shut.
        let millis = u32::try_from(options.send_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(fd, millis.saturating_mul(2))?;
        sockopt::set_socket_reuseaddr(fd, true)?;
    }
    // A second listen(2) on a listening socket only changes its backlog.
    Ok(rustix::net::listen(fd, options.backlog)?)
}

/// Raises the soft limit of open descriptors to the hard one; returns the soft limit before and
/// after. `u64::MAX` stands for no limit.
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

/// Says whether a descriptor shall be closed by exec.
///
/// # Errors
/// The kernel's own.
pub fn set_close_on_exec(fd: impl AsFd, close: bool) -> io::Result<()> {
    let fd = fd.as_fd();
    let mut flags = rustix::io::fcntl_getfd(fd)?;
    flags.set(FdFlags::CLOEXEC, close);
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

// ---------------------------------------------------------------- memory

/// Has the C library give free memory back to the system. Does nothing where the library can't.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

// ---------------------------------------------------------------- socket activation

/// The first descriptor of socket activation, see sd_listen_fds(3).
const LISTEN_FD: RawFd = 3;

/// A listening socket that was handed to this process. `tiny_http::Listener` is made of either.
#[derive(Debug)]
pub enum Inherited {
    /// TCP, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// How many sockets the two variables of socket activation promise to the process `own_pid`;
/// 0 when they are absent or meant for another process.
///
/// # Errors
/// The variables are there but make no sense.
pub fn activation_count(listen_pid: Option<&str>, listen_fds: Option<&str>, own_pid: u32) -> io::Result<u32> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let (Some(pid), Some(fds)) = (listen_pid, listen_fds) else {
        return Ok(0);
    };
    let pid: u32 = pid.parse().map_err(|_| bad("LISTEN_PID is not a process number"))?;
    let fds: u32 = fds.parse().map_err(|_| bad("LISTEN_FDS is not a number of sockets"))?;
    Ok(if pid == own_pid { fds } else { 0 })
}

/// Takes the listening socket that was passed to this process by socket activation or by
/// [`exec_with_listener`]. `None` when there is none; a second call also finds none.
///
/// # Errors
/// The variables make no sense, promise more than one socket, or descriptor 3 is not a listening
/// TCP or Unix stream socket.
pub fn inherited_listener() -> io::Result<Option<Inherited>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());

    let (pid, fds) = (std::env::var("LISTEN_PID"), std::env::var("LISTEN_FDS"));
    let (pid, fds) = (pid.ok(), fds.ok());
    match activation_count(pid.as_deref(), fds.as_deref(), std::process::id())? {
        0 => return Ok(None),
        1 => {}
        n => return Err(invalid(&format!("LISTEN_FDS={n}: one socket is supported"))),
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    // SAFETY: borrowed for the checks below alone. Even a wrong number does no harm in them: they
    // only ask questions, which a closed descriptor answers with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(LISTEN_FD) };
    let name = local_name(fd);
    if !is_listener(fd) {
        return Err(invalid("descriptor 3 is not a listening stream socket"));
    }
    // SAFETY: LISTEN_PID names this process, so descriptor 3 was passed to it through exec, for it
    // to own; it is open and a listening socket, as just seen; `TAKEN` lets it be taken once.
    let owned = unsafe { OwnedFd::from_raw_fd(LISTEN_FD) };
    set_close_on_exec(&owned, true)?;
    // Passed sockets may be non-blocking (systemd's are by `NonBlocking=`), which would end
    // tiny_http's accept loop at once.
    rustix::io::ioctl_fionbio(&owned, false)?;
    match name {
        Some(Name::Tcp(_)) => Ok(Some(Inherited::Tcp(owned.into()))),
        Some(Name::Unix(_)) => Ok(Some(Inherited::Unix(owned.into()))),
        None => Err(invalid("descriptor 3 is neither a TCP nor a Unix socket")),
    }
}

/// Replaces this process by `command`, which finds `listener` by [`inherited_listener`]. Returns
/// only on failure, and the caller must then exit at once: whatever stood on descriptor 3 has been
/// replaced by the listener.
///
/// Call it last, when everything is flushed and no other thread writes to a file any more, and not
/// on the guard's thread. The process number stays the same, so a supervisor notices nothing;
/// connections that arrive meanwhile wait in the kernel.
pub fn exec_with_listener(command: &mut Command, listener: BorrowedFd<'_>) -> io::Error {
    if !is_listener(listener) {
        return io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket");
    }
    let passed = if listener.as_raw_fd() == LISTEN_FD {
        set_close_on_exec(listener, false)
    } else {
        // SAFETY: dup2 puts a duplicate of the borrowed, open listener on descriptor 3, without
        // close-on-exec. It takes that number from whoever owned it: their next use of it meets a
        // listening socket and fails, no memory is involved, and the contract above (nobody writes
        // any more, exit on failure) leaves no such use.
        match unsafe { libc::dup2(listener.as_raw_fd(), LISTEN_FD) } {
            LISTEN_FD => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    if let Err(e) = passed {
        return e;
    }
    command.env("LISTEN_PID", std::process::id().to_string()).env("LISTEN_FDS", "1").exec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn tcp_counts_payload_and_not_the_fin() {
        let (mut client, mut server) = pair();
        assert_eq!(bytes_received(&server).unwrap().bytes_received, 0);
        client.write_all(b"hello").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = String::new();
        server.read_to_string(&mut got).unwrap();
        let facts = bytes_received(&server).unwrap();
        assert_eq!(facts.bytes_received, 5);
        assert!(facts.peer_closed && !facts.dead);
        assert_eq!(unread(&server).unwrap(), 0);
    }

    #[test]
    fn unix_tells_unread_unsent_and_the_peer() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"hello").unwrap();
        let facts = unix_facts(&b).unwrap();
        assert_eq!(facts.unread, 5);
        assert_eq!(facts.peer_pid, std::process::id());
        assert!(unix_facts(&a).unwrap().unsent > 0);
    }

    #[test]
    fn peephole_shows_sockets_alone_and_outlives_the_number() {
        let rest = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut hole = Peephole::new(rest).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(hole.look(file.as_raw_fd()).is_none());
        assert!(hole.look(1_000_000).is_none());
        let (client, server) = pair();
        let number = server.as_raw_fd();
        let address = server.peer_addr().unwrap();
        let known = socket_on(number).unwrap();
        let (id, fd) = hole.look(number).unwrap();
        assert_eq!(id, known);
        drop(server);
        // The number is free (or someone else's by now); the duplicate still is the socket.
        assert_eq!(peer_address(fd), Some(address));
        assert!(!is_listener(fd));
        hole.release();
        drop(client);
    }

    #[test]
    fn activation_variables() {
        let count = |pid, fds| activation_count(pid, fds, 7).map_err(|e| e.kind());
        assert_eq!(count(None, None), Ok(0));
        assert_eq!(count(Some("7"), None), Ok(0));
        assert_eq!(count(Some("7"), Some("1")), Ok(1));
        assert_eq!(count(Some("8"), Some("1")), Ok(0));
        assert_eq!(count(Some("x"), Some("1")), Err(io::ErrorKind::InvalidInput));
        assert_eq!(count(Some("7"), Some("-1")), Err(io::ErrorKind::InvalidInput));
    }

    #[test]
    fn listener_options_are_inherited() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_listener_options(&listener, &ListenerOptions::default()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert!(server.nodelay().unwrap());
        // The kernel counts in ticks of up to 10 ms.
        let patience = Duration::from_millis(SEND_PATIENCE_MS);
        let timeout = server.write_timeout().unwrap().unwrap();
        assert!((patience..=patience + Duration::from_millis(10)).contains(&timeout), "{timeout:?}");
        assert_eq!(server.read_timeout().unwrap(), None);
        assert_eq!(sockopt::socket_recv_buffer_size(&server).unwrap(), 128 << 10);
        assert!(is_listener(&listener) && !is_listener(&server));
    }

    #[test]
    fn a_knock_is_a_connection_that_closes() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        knock(&local_name(&tcp).unwrap()).unwrap();
        assert_eq!(tcp.accept().unwrap().0.read(&mut [0]).unwrap(), 0);
        let path = std::env::temp_dir().join(format!("flint-knock-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        knock(&local_name(&unix).unwrap()).unwrap();
        assert_eq!(unix.accept().unwrap().0.read(&mut [0]).unwrap(), 0);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn nofile_limit_is_raised_once() {
        let (_, new) = raise_nofile_limit().unwrap();
        assert_eq!(raise_nofile_limit().unwrap(), (new, new));
    }

    #[test]
    fn accepts_are_told() {
        let signal = AcceptSignal::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        signal.watch(&listener).unwrap();
        assert!(!signal.drain());
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(signal.drain());
        assert!(!signal.drain());
    }
}
