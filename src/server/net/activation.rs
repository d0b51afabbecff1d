//! A listening socket that is passed through exec (`LISTEN_FDS`): by a service manager, or by this program to its next
//! image.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::FdFlags;

use super::names::{Name, is_listener, local_name};

/// The first descriptor of socket activation, see sd_listen_fds(3).
const LISTEN_FD: RawFd = 3;

/// A listening socket that was passed to this process. A `tiny_http::Listener` can be made of either kind.
#[derive(Debug)]
pub enum Inherited {
    /// TCP, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// How many sockets the two variables of socket activation promise to the process `own_pid`; 0 if they are absent or
/// for another process.
///
/// # Errors
/// A variable is set to something else than a number.
pub fn activation_count(listen_pid: Option<&str>, listen_fds: Option<&str>, own_pid: u32) -> io::Result<u32> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let (Some(pid), Some(fds)) = (listen_pid, listen_fds) else {
        return Ok(0);
    };
    let pid: u32 = pid.parse().map_err(|_| bad("LISTEN_PID is not a process number"))?;
    let fds: u32 = fds.parse().map_err(|_| bad("LISTEN_FDS is not a number of sockets"))?;
    Ok(if pid == own_pid { fds } else { 0 })
}

/// Takes the listening socket that was passed to this process by socket activation or by [`exec_with_listener`]. `None`
/// if there is none, or if it was taken before. To be called at the start of the program.
///
/// # Errors
/// A variable is set to something else than a number, they promise more than one socket, or descriptor 3 is not a
/// listening TCP or Unix stream socket.
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
    // SAFETY: F_GETFD only asks about a number; a closed one is answered by EBADF.
    if unsafe { libc::fcntl(LISTEN_FD, libc::F_GETFD) } < 0 {
        return Err(invalid("descriptor 3 is not open"));
    }
    // SAFETY: descriptor 3 is open, as just seen, and stays so while it is borrowed for the checks below: at the start
    // of the program no other thread closes a descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(LISTEN_FD) };
    let name = local_name(fd);
    if !is_listener(fd) {
        return Err(invalid("descriptor 3 is not a listening stream socket"));
    }
    // SAFETY: LISTEN_PID names this process, so descriptor 3 was passed through exec for it to own. It is open and a
    // listening socket, as just seen, and `TAKEN` lets it be taken once.
    let owned = unsafe { OwnedFd::from_raw_fd(LISTEN_FD) };
    set_close_on_exec(&owned, true)?;
    // A passed socket may be non-blocking (`NonBlocking=` of systemd), which would end tiny_http's accept loop at once
    // (`Server::from_listener` in its lib.rs).
    rustix::io::ioctl_fionbio(&owned, false)?;
    match name {
        Some(Name::Tcp(_)) => Ok(Some(Inherited::Tcp(owned.into()))),
        Some(Name::Unix(_)) => Ok(Some(Inherited::Unix(owned.into()))),
        None => Err(invalid("descriptor 3 is neither a TCP nor a Unix socket")),
    }
}

/// Replaces this process by `command`, which finds `listener` by [`inherited_listener`]. Returns only on failure, and
/// the caller must then exit at once: descriptor 3 is the listener now, whatever it was before.
///
/// To be called last, when everything is flushed and no other thread writes to a file any more, and not in the guard's
/// thread. The process id stays the same, so a supervisor notices nothing; connections that arrive meanwhile wait in
/// the kernel.
pub fn exec_with_listener(command: &mut Command, listener: BorrowedFd<'_>) -> io::Error {
    if !is_listener(listener) {
        return io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket");
    }
    let passed = if listener.as_raw_fd() == LISTEN_FD {
        set_close_on_exec(listener, false)
    } else {
        // SAFETY: dup2 puts a duplicate of the borrowed, open listener on descriptor 3, without close-on-exec. It takes
        // that number from its owner, if there is one: the next use of it there meets a listening socket and fails, no
        // memory is involved, and the contract above (no thread writes any more, exit on failure) leaves no such use.
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

/// Sets whether exec closes a descriptor.
///
/// # Errors
/// The kernel's own.
pub fn set_close_on_exec(fd: impl AsFd, close: bool) -> io::Result<()> {
    let fd = fd.as_fd();
    let mut flags = rustix::io::fcntl_getfd(fd)?;
    flags.set(FdFlags::CLOEXEC, close);
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
