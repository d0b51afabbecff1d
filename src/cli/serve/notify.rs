//! Tells a service manager the server's state, as sd_notify(3) does.
//!
//! Must never happen here: an error or a long wait. A manager that can't be reached is ignored.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Longest wait for a manager that reads slowly.
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket of the service manager, if there is one.
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Finds it by `NOTIFY_SOCKET`: a path, or a name of the abstract namespace after an `@`.
    pub fn from_environment() -> Notifier {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Notifier(None);
        };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let found = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok((socket, address))
        });
        Notifier(found.inspect_err(|error| log::debug!("NOTIFY_SOCKET cannot be used: {error}")).ok())
    }

    /// Says that requests are answered. `status` is for people.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Says what the server does, for people.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Says that the server is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=answering what is in flight and closing the log");
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.0 else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            log::debug!("cannot notify the service manager: {error}");
        }
    }
}
