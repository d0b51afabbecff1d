//! Addresses at which the server listens.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// TCP.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Bind {
    /// Reads `HOST:PORT`, `[::1]:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// `usage`, naming `--bind`.
    pub fn parse(text: &str) -> Result<Bind> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(Error::new(Kind::Usage, "--bind unix: needs a path, such as unix:/run/flint.sock"));
            }
            return Ok(Bind::Unix(PathBuf::from(path)));
        }
        match text.to_socket_addrs().map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => Ok(Bind::Tcp(addresses)),
            _ => Err(Error::new(
                Kind::Usage,
                format!("--bind must be HOST:PORT, [::1]:PORT or unix:PATH, not `{}`", crate::limit::excerpt(text)),
            )),
        }
    }

    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Unix(_) => true,
            Bind::Tcp(addresses) => addresses.iter().all(|address| is_loopback(address.ip())),
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_addresses() {
        for local in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "unix:/tmp/x", "localhost:1"]
        {
            assert!(Bind::parse(local).unwrap().is_local(), "{local}");
        }
        for open in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"] {
            assert!(!Bind::parse(open).unwrap().is_local(), "{open}");
        }
        for bad in ["", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "unix:", ":"] {
            assert_eq!(Bind::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
