//! What the kernel knows of one connection, and how a connection is ended.
//!
//! Must never happen here: a decision. What is slow or idle is the guard's matter.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::net::{Shutdown, sockopt};

/// What the kernel knows about one TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFacts {
    /// Bytes of payload received so far, without the peer's FIN, which the kernel counts as one more: otherwise a
    /// half-closed connection would seem to have begun a request.
    pub bytes_received: u64,
    /// Bytes of replies that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Whether bytes of replies are not yet acknowledged, or not yet sent.
    pub reply_pending: bool,
    /// The connection is over (reset, or closed on both sides); only the descriptor remains.
    pub dead: bool,
    /// The peer has closed its side.
    pub peer_closed: bool,
    /// Time since the last data arrived, in the kernel's resolution of 1 ms.
    pub last_data_received: Duration,
}

/// What the kernel knows about a Unix stream connection. It counts no totals for these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixFacts {
    /// Bytes that have arrived and were not read yet.
    pub unread: u64,
    /// Kernel memory held by replies that the peer has not read yet, in bytes; 0 if it has read all.
    pub unsent: u64,
    /// The process that connected, 0 if the kernel doesn't tell.
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
    // SAFETY: the descriptor is borrowed, so it is open; `info` and `length` are live and exclusive for the call, and
    // the kernel writes at most `length` bytes into `info`.
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

/// Reads what the kernel reports about a Unix stream socket.
///
/// # Errors
/// The kernel's own; a peer whose credentials are not available is not an error.
pub fn unix_facts(fd: impl AsFd) -> io::Result<UnixFacts> {
    Ok(UnixFacts {
        unread: unread(&fd)?,
        unsent: unsent(&fd)?,
        // Not by rustix: its `UCred` has no value for a peer outside this process's PID namespace, which has no number
        // here.
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
    // SAFETY: the descriptor is borrowed, so it is open; SIOCOUTQ (the same number as TIOCOUTQ) writes one `int`, for
    // which `bytes` is live and exclusive.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ as _, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// The process that connected this Unix socket (SO_PEERCRED), 0 if the kernel doesn't tell.
fn peer_pid(fd: impl AsFd) -> u32 {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = mem::size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open; `peer` and `length` are live and exclusive, and the kernel
    // writes at most `length` bytes, only integers.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result == 0 { u32::try_from(peer.pid).unwrap_or(0) } else { 0 }
}

/// Ends a connection in both directions. Its threads see the end of the stream, and close their descriptors. It is no
/// error if the connection is already over.
///
/// # Errors
/// The kernel's own, except `ENOTCONN`.
pub fn shutdown(fd: impl AsFd) -> io::Result<()> {
    match rustix::net::shutdown(fd, Shutdown::Both) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Makes the last close of this connection a reset, so that unread replies don't stay in kernel memory for a peer that
/// will never read them.
///
/// # Errors
/// The kernel's own.
pub fn reset_on_close(fd: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(fd, Some(Duration::ZERO))?)
}

/// Drops the bytes that have arrived on a connection and were not read.
pub fn discard_received(fd: impl AsFd) {
    let mut buffer = [0; 4096];
    // With MSG_TRUNC the kernel drops the bytes of a TCP stream instead of copying them (tcp(7)).
    let flags = rustix::net::RecvFlags::TRUNC | rustix::net::RecvFlags::DONTWAIT;
    while rustix::net::recv(&fd, &mut buffer[..], flags).is_ok_and(|(_, taken)| taken > 0) {}
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

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
}
