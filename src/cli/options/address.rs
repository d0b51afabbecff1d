//! The address of a server, as options, the environment and `flint.lock` give it.

use std::fmt;
use std::path::PathBuf;

use crate::cli::answer::usage;
use crate::error::Result;
use crate::limit::excerpt;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `http://HOST:PORT`, with HOST:PORT as in the URL.
    Tcp(String),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl Address {
    /// Reads `http://HOST:PORT` or `unix:PATH`; `source` says where the URL was given.
    ///
    /// # Errors
    /// `usage`, naming the source.
    pub fn parse(url: &str, source: &str) -> Result<Address> {
        let wrong = |what: &str| Err(usage(format!("{source} {what}, not `{}`", excerpt(url))));
        let malformed = || wrong("must be http://HOST:PORT or unix:PATH");
        let after = |scheme: &str| {
            let (head, rest) = url.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then_some(rest)
        };
        if let Some(path) = url.strip_prefix("unix:") {
            return match path.is_empty() || path.contains('\0') {
                true => wrong("must name a socket, such as unix:/run/flint.sock"),
                false => Ok(Address::Unix(path.into())),
            };
        }
        if after("https://").is_some() {
            return wrong(
                "must begin with http:// or unix: (flint does not speak TLS; use a TLS proxy on both machines)",
            );
        }
        let Some(authority) = after("http://").map(|rest| rest.trim_end_matches('/')) else { return malformed() };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return malformed();
        }
        // A colon within brackets belongs to an IPv6 address.
        match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
            None => Ok(Address::Tcp(format!("{authority}:80"))),
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(authority.to_owned()))
            }
            Some(_) => malformed(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(authority) => write!(f, "http://{authority}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn addresses() {
        for (url, shown) in [
            ("http://127.0.0.1:7878", "http://127.0.0.1:7878"),
            ("HTTP://localhost:1/", "http://localhost:1"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://quota", "http://quota:80"),
            ("unix:/run/flint.sock", "unix:/run/flint.sock"),
        ] {
            assert_eq!(Address::parse(url, "--server").unwrap().to_string(), shown, "{url}");
        }
        for url in [
            "",
            "http://",
            "http://a b:1",
            "http://u@h:1",
            "http://h:1/path",
            "http://h:99999",
            "http://:1",
            "ftp://h:1",
            "localhost:7878",
            "unix:",
            "http://h:1\r\nX: y",
            "http://h:",
        ] {
            let error = Address::parse(url, "--server").unwrap_err();
            assert!(error.kind() == Kind::Usage && error.message().starts_with("--server must"), "{url}: {error}");
        }
        assert!(Address::parse("https://h:1", "FLINT_SERVER").unwrap_err().message().contains("proxy"));
    }
}
