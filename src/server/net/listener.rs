//! The listening socket: bound here, inherited from a service manager, or taken over from this program's former image.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::activation::{Inherited, exec_with_listener, inherited_listener};
use super::bind::Bind;
use super::names::{local_name, wake};
use super::options::{ListenerOptions, set_listener_options};
use crate::error::{Error, Kind, Result};

/// Tells the next image of this program that the former image passed the socket to it, and its owner: `1` for this
/// program, [`LENT`] for a service manager.
const OWN_SOCKET: &str = "FLINT_OWN_SOCKET";

/// See [`OWN_SOCKET`].
const LENT: &str = "lent";

/// A listening socket and what is to be known of it.
pub struct Listener {
    socket: Socket,
    /// Where clients find it: `http://HOST:PORT` or `unix:PATH`.
    url: String,
    /// The socket file to remove at the end, if it is still the one that was made.
    file: Option<SocketFile>,
    /// A service manager owns the socket, and goes on listening when this process ends.
    lent: bool,
    /// It was taken over from a former image.
    taken_over: bool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: PathBuf) -> Option<SocketFile> {
        let metadata = std::fs::symlink_metadata(&path).ok()?;
        metadata.file_type().is_socket().then(|| SocketFile { path, identity: (metadata.dev(), metadata.ino()) })
    }

    /// Removes the file, unless another has taken its place.
    fn remove(&self) {
        if SocketFile::of(self.path.clone()).is_some_and(|now| now.identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// The socket that was passed to this process (`LISTEN_FDS`), if any.
    ///
    /// # Errors
    /// `io` when what was passed is not a listening stream socket.
    pub fn passed() -> Result<Option<Listener>> {
        let inherited = inherited_listener().map_err(|error| {
            Error::new(Kind::Io, format!("cannot use the socket passed by LISTEN_FDS and LISTEN_PID: {error}"))
        })?;
        inherited.map(|inherited| Listener::inherited(inherited)?.prepared()).transpose()
    }

    /// Binds a socket.
    ///
    /// # Errors
    /// `io` when that can't be done.
    pub fn bind(bind: &Bind, socket_mode: u32) -> Result<Listener> {
        Listener::fresh(bind, socket_mode)?.prepared()
    }

    /// Sets what accepted connections inherit.
    fn prepared(self) -> Result<Listener> {
        set_listener_options(self.as_fd(), &ListenerOptions::default())
            .map_err(|error| Error::new(Kind::Io, format!("cannot set options of {}: {error}", self.url)))?;
        Ok(self)
    }

    fn inherited(inherited: Inherited) -> Result<Listener> {
        let failed = |error: io::Error| Error::new(Kind::Io, format!("cannot read the passed socket's name: {error}"));
        let former = std::env::var_os(OWN_SOCKET);
        let (taken_over, lent) = (former.is_some(), former.is_none_or(|owner| owner == LENT));
        let (socket, url, path) = match inherited {
            Inherited::Tcp(listener) => {
                let url = format!("http://{}", listener.local_addr().map_err(failed)?);
                (Socket::Tcp(listener), url, None)
            }
            Inherited::Unix(listener) => {
                let address = listener.local_addr().map_err(failed)?;
                let Some(path) = address.as_pathname().map(Path::to_owned) else {
                    return Err(Error::new(Kind::Io, "the passed Unix socket has no path; give it one"));
                };
                (Socket::Unix(listener), format!("unix:{}", path.display()), Some(path))
            }
        };
        let file = path.filter(|_| !lent).and_then(SocketFile::of);
        Ok(Listener { socket, url, file, lent, taken_over })
    }

    fn fresh(bind: &Bind, socket_mode: u32) -> Result<Listener> {
        match bind {
            Bind::Tcp(addresses) => {
                let failed = |error: io::Error| {
                    let way_out = match error.kind() {
                        io::ErrorKind::AddrInUse => "; stop what listens there, or choose another address with --bind",
                        _ => "",
                    };
                    Error::new(Kind::Io, format!("cannot bind {}: {error}{way_out}", addresses[0]))
                };
                let listener = TcpListener::bind(addresses.as_slice()).map_err(failed)?;
                let url = format!("http://{}", listener.local_addr().map_err(failed)?);
                Ok(Listener { socket: Socket::Tcp(listener), url, file: None, lent: false, taken_over: false })
            }
            Bind::Unix(path) => {
                let failed =
                    |error: io::Error| Error::new(Kind::Io, format!("cannot bind unix:{}: {error}", path.display()));
                remove_stale_socket(path)?;
                let path = std::path::absolute(path).map_err(failed)?;
                // Not for a moment is it open to more than the mode says, whatever the umask is.
                let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(!socket_mode & 0o777));
                let listener = UnixListener::bind(&path);
                rustix::process::umask(umask);
                let listener = listener.map_err(failed)?;
                let mode = std::fs::Permissions::from_mode(socket_mode);
                std::fs::set_permissions(&path, mode).map_err(failed)?;
                let url = format!("unix:{}", path.display());
                let file = SocketFile::of(path);
                Ok(Listener { socket: Socket::Unix(listener), url, file, lent: false, taken_over: false })
            }
        }
    }

    /// Where clients find it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether a former image of this program had it before.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match &self.socket {
            Socket::Unix(_) => true,
            Socket::Tcp(listener) => {
                listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
            }
        }
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(_))
    }

    /// A tiny_http server that accepts from this socket.
    ///
    /// # Errors
    /// What kept it from being made, in words.
    pub fn serve(&self) -> std::result::Result<tiny_http::Server, String> {
        let listener: tiny_http::Listener = match &self.socket {
            Socket::Tcp(listener) => listener.try_clone().map_err(|error| error.to_string())?.into(),
            Socket::Unix(listener) => listener.try_clone().map_err(|error| error.to_string())?.into(),
        };
        // It panics where no thread is available.
        let made = std::panic::catch_unwind(|| tiny_http::Server::from_listener(listener, None));
        made.map_err(|_| "no thread could be started".to_owned())?.map_err(|error| error.to_string())
    }

    /// Makes the threads that wait in accept return, leaving what is queued in the kernel.
    pub fn pause(&self) {
        // The flag belongs to the socket, whichever descriptor it is set by; a connection ends the accept that waits.
        if let Err(error) = rustix::io::ioctl_fionbio(self.as_fd(), true) {
            log::warn!("cannot pause {}: {error}", self.url);
        }
        if let Some(name) = local_name(self.as_fd()) {
            let _ = wake(&name);
        }
    }

    /// Ends listening: clients are refused from now on, unless a service manager holds the socket.
    pub fn close(&self) {
        if self.lent {
            self.pause();
        } else if let Err(error) = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Both) {
            log::debug!("cannot stop listening on {}: {error}", self.url);
        }
        if let Some(file) = &self.file {
            file.remove();
        }
    }

    /// Replaces this process by `command`, which finds this socket. Returns only when that fails.
    pub fn hand_over(&self, command: &mut Command) -> io::Error {
        command.env(OWN_SOCKET, if self.lent { LENT } else { "1" });
        exec_with_listener(command, self.as_fd())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Removes a socket file that no server listens on any more. No other file is ever removed.
fn remove_stale_socket(path: &Path) -> Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let in_the_way = |what: &str| Error::new(Kind::Io, format!("cannot bind unix:{}: {what}", path.display()));
    if !metadata.file_type().is_socket() {
        return Err(in_the_way("a file that is not a socket is there"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(in_the_way("another server listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| in_the_way(&error.to_string()))
        }
        Err(error) => Err(in_the_way(&format!("cannot find out whether a server listens there: {error}"))),
    }
}
