//! The names of sockets: addresses and paths.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// The name of one end of a stream socket.
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

/// The peer's TCP address; `None` for other sockets and for a socket that is no longer connected.
pub fn peer_address(fd: impl AsFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(fd).ok()??).ok()
}

/// Whether this is a listening stream socket.
pub fn is_listener(fd: impl AsFd) -> bool {
    sockopt::socket_type(&fd) == Ok(SocketType::STREAM) && sockopt::socket_acceptconn(fd) == Ok(true)
}

/// Connects to a listener of this process and closes the connection at once: the thread that waits in accept goes on.
/// Never waits.
///
/// # Errors
/// The kernel's own, such as a full queue or no free descriptor.
pub fn wake(listener: &Name) -> io::Result<()> {
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
        // On loopback the handshake is over by now; over another address the kernel goes on with it.
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_wake_is_a_connection_that_closes() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        wake(&local_name(&tcp).unwrap()).unwrap();
        assert_eq!(tcp.accept().unwrap().0.read(&mut [0]).unwrap(), 0);
        let path = std::env::temp_dir().join(format!("flint-wake-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        wake(&local_name(&unix).unwrap()).unwrap();
        assert_eq!(unix.accept().unwrap().0.read(&mut [0]).unwrap(), 0);
        std::fs::remove_file(path).unwrap();
    }
}
