//! Options of the listening socket, which accepted ones inherit.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::names::{Name, local_name};
use crate::bounds::{SEND_PATIENCE_MS, SEND_TIMEOUT_MS};

/// Options that accepted sockets inherit from the listening one on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// A write that waits this long for room fails. `flint-slow` or a worker then sends the rest of the reply.
    pub send_patience: Duration,
    /// The kernel drops a connection whose peer has acknowledged nothing for twice this long.
    pub send_timeout: Duration,
    /// The kernel's receive buffer per connection, in bytes of payload (it takes twice that). Fixed, because otherwise
    /// it grows to `tcp_rmem[2]` (6 MiB and more) for each client that sends bytes that are not read.
    pub receive_buffer: usize,
    /// The kernel's send buffer per connection, in bytes of payload (it takes twice that). Fixed for the same reason.
    pub send_buffer: usize,
    /// Connections that the kernel keeps until they are accepted; it caps the number at `net.core.somaxconn`.
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

/// Sets what accepted connections inherit. To be called before tiny_http has the listener.
///
/// Never SO_RCVTIMEO: it times out accept itself, which ends tiny_http's accept loop (`Server::from_listener` in its
/// lib.rs).
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
        // The kernel then drops a peer that is gone, or whose window stays closed.
        let millis = u32::try_from(options.send_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(fd, millis.saturating_mul(2))?;
        sockopt::set_socket_reuseaddr(fd, true)?;
    }
    // A second listen(2) on a listening socket only changes its backlog.
    Ok(rustix::net::listen(fd, options.backlog)?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::names::is_listener;
    use super::*;

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
}
