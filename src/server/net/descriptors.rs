//! Descriptors of this process by number: the way from `/proc/self/fd` to a socket.
//!
//! Must never happen here: the close of a descriptor of another owner, or an answer about a descriptor *number* that
//! another thread may have closed and reused meanwhile. [`Probe`] and [`Connections`] are the only ways from a number
//! to a socket, and answer only about their own duplicates.
//!
//! A trap for the rest of the program: both duplicate and close sockets only, but between the check and the duplication
//! another thread may open a file by that number. Closing *any* descriptor of a file drops the process's POSIX record
//! locks on it (fcntl(2), F_SETLK), so Flint must lock with flock (`std::fs::File::lock`), which is not affected.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::FileType;

use super::names::peer_address;

/// The identity of a socket: its inode in the kernel's socket file system, unique while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// Which socket has this number. The answer may be out of date at once: it serves to skip what is known, never to act
/// on.
pub fn socket_on(number: RawFd) -> Option<SocketId> {
    // SAFETY: `stat` is a C struct of plain integers, for which all-zero bytes are a value.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` is live and exclusive. The number may be closed or reused at any moment by its owner: fstat
    // neither closes nor keeps nor changes the open file, and a closed number is answered by EBADF.
    let result = unsafe { libc::fstat(number, &raw mut stat) };
    if result != 0 || FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return None;
    }
    Some(SocketId(stat.st_ino))
}

/// A private descriptor through which one socket of this process at a time can be looked at.
///
/// tiny_http's threads close their sockets, and the kernel reuses the numbers, at any moment. So a number is first
/// duplicated *onto a number that this struct owns* (dup3, atomically), and all questions and the cut itself go to the
/// duplicate, which nothing else can close. As a replacement it needs no free descriptor: it works at the limit, where
/// the guard is needed most.
///
/// While the duplicate is held (microseconds) a close by the owner doesn't end the socket. That delays nothing:
/// tiny_http shuts both directions down before it closes (`RefinedTcpStream::drop`).
#[derive(Debug)]
pub struct Probe {
    slot: OwnedFd,
    /// What `slot` refers to between two looks.
    rest: OwnedFd,
}

impl Probe {
    /// Keeps two descriptors. `rest` is what the private number refers to between two looks.
    ///
    /// # Errors
    /// No descriptor was free.
    pub fn new(rest: OwnedFd) -> io::Result<Probe> {
        let slot = rest.try_clone()?;
        Ok(Probe { slot, rest })
    }

    /// Duplicates the descriptor `number`, if it is a socket, and returns which.
    ///
    /// The borrow of `self` keeps the duplicate in place while it is used.
    pub fn look(&mut self, number: RawFd) -> Option<(SocketId, BorrowedFd<'_>)> {
        // Only sockets: duplicating and closing a file would drop its POSIX record locks.
        socket_on(number)?;
        let slot = self.slot.as_raw_fd();
        if number == slot || number == self.rest.as_raw_fd() {
            return None;
        }
        // SAFETY: dup3 makes this struct's own `slot` refer to the open file that `number` refers to at this instant,
        // and releases the former one, a duplicate of this struct's own. A closed `number` is answered by EBADF. The
        // owner of `number` keeps it, open and unchanged; `try_clone` would have made the same shared reference.
        let result = unsafe { libc::dup3(number, slot, libc::O_CLOEXEC) };
        if result < 0 {
            return None;
        }
        // Only now the answer is certain: nothing else can change what `slot` refers to.
        let Some(id) = socket_on(slot) else {
            self.release();
            return None;
        };
        Some((id, self.slot.as_fd()))
    }

    /// As [`Probe::look`], for the socket that had this number when it was last seen; `None` if it was closed since,
    /// and another may have its number.
    pub fn find(&mut self, id: SocketId, number: RawFd) -> Option<BorrowedFd<'_>> {
        self.look(number).and_then(|(found, fd)| (found == id).then_some(fd))
    }

    /// Lets go of the last socket looked at.
    pub fn release(&mut self) {
        // Both are this struct's own and open, so this can't fail; if it did, the next look would replace the
        // duplicate.
        let _ = rustix::io::dup3(&self.rest, &mut self.slot, rustix::io::DupFlags::CLOEXEC);
    }
}

/// Finds this process's connections by their peers' addresses.
///
/// tiny_http gives a request its peer's address (`Request::remote_addr`) and no descriptor. `/proc/self/fd` has all;
/// the number of each is kept, and verified at every use.
#[derive(Debug, Default)]
pub struct Connections {
    seen: HashMap<SocketAddr, RawFd>,
}

impl Connections {
    /// A duplicate of the connection with this peer, if it was seen and is still open.
    pub fn get(&self, peer: SocketAddr) -> Option<OwnedFd> {
        let fd = duplicate_socket(*self.seen.get(&peer)?)?;
        // Only now the answer is certain: nothing else can close the duplicate.
        (peer_address(&fd) == Some(peer)).then_some(fd)
    }

    /// Looks at all descriptors again.
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

/// Duplicates the descriptor with this number, if it is a socket.
fn duplicate_socket(number: RawFd) -> Option<OwnedFd> {
    // As in `Probe::look`: sockets only.
    socket_on(number)?;
    // SAFETY: the kernel duplicates the descriptor that has this number at this instant, or answers EBADF; the number
    // stays its owner's, open and unchanged. Nothing else knows of the new descriptor.
    let fd = unsafe {
        match libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) {
            fd if fd < 0 => return None,
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    socket_on(fd.as_raw_fd())?;
    Some(fd)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::names::is_listener;
    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn probe_shows_only_sockets_and_outlives_the_number() {
        let rest = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut probe = Probe::new(rest).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(probe.look(file.as_raw_fd()).is_none());
        assert!(probe.look(1_000_000).is_none());
        let (client, server) = pair();
        let number = server.as_raw_fd();
        let address = server.peer_addr().unwrap();
        let known = socket_on(number).unwrap();
        let (id, fd) = probe.look(number).unwrap();
        assert_eq!(id, known);
        drop(server);
        // The number is free, or another test's by now; the duplicate still is the socket.
        assert_eq!(peer_address(fd), Some(address));
        assert!(!is_listener(fd));
        probe.release();
        assert!(probe.find(known, number).is_none());
        assert!(probe.find(known, client.as_raw_fd()).is_none(), "another socket");
        let known = socket_on(client.as_raw_fd()).unwrap();
        assert!(probe.find(known, client.as_raw_fd()).is_some());
    }
}
