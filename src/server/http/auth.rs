//! Which requests are accepted: bearer tokens, hosts.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::exchange::Exchange;
use crate::error::{Error, Kind, Result};

/// The tokens that are accepted. What is kept and compared is a keyed hash of fixed length, so that neither the time a
/// comparison takes nor a memory dump tells a token.
pub struct Tokens {
    keys: (RandomState, RandomState),
    digests: Vec<(u64, u64)>,
}

impl Tokens {
    /// A set of tokens; empty ones do not count.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Tokens {
        let keys = (RandomState::new(), RandomState::new());
        let digests = tokens
            .into_iter()
            .filter(|token| !token.is_empty())
            .map(|token| (keys.0.hash_one(token.as_bytes()), keys.1.hash_one(token.as_bytes())))
            .collect();
        Tokens { keys, digests }
    }

    /// Whether no token is configured: then everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whether the value of an `Authorization` header bears one of the tokens.
    pub fn accept(&self, authorization: Option<&str>) -> bool {
        let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' ')) else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        let token = token.trim().as_bytes();
        let digest = (self.keys.0.hash_one(token), self.keys.1.hash_one(token));
        // All are compared, without a branch on the outcome.
        self.digests.iter().fold(false, |found, known| found | ((known.0 ^ digest.0) | (known.1 ^ digest.1) == 0))
    }
}

/// Refuses whatever bears no token, where there are any.
///
/// # Errors
/// `unauthorized`.
pub fn require_token(exchange: &Exchange, tokens: &Tokens) -> Result<()> {
    if tokens.is_empty() || tokens.accept(exchange.authorization()) {
        return Ok(());
    }
    Err(Error::new(Kind::Unauthorized, "a bearer token is needed: Authorization: Bearer TOKEN"))
}

/// Refuses web pages in browsers, which do not reach a Unix socket. A gate's requests bear what a proxy's clients sent,
/// web pages among them.
///
/// # Errors
/// `forbidden_origin`; `invalid_argument` for a host that is none.
pub fn refuse_pages(exchange: &Exchange, hosts: &[String], unix: bool) -> Result<()> {
    if exchange.head.found.is_some_and(|found| found.gate) {
        return Ok(());
    }
    if exchange.head.origin {
        let message =
            "requests of web pages (with an Origin header, or for another site by Sec-Fetch-Site) are refused";
        return Err(Error::new(Kind::ForbiddenOrigin, message));
    }
    let Some(host) = exchange.host().filter(|_| !unix) else { return Ok(()) };
    let shown = crate::limit::excerpt(host);
    match name_of(host) {
        Some(name) if is_own_name(name, hosts) => Ok(()),
        Some(_) => Err(Error::new(
            Kind::ForbiddenOrigin,
            format!("host `{shown}` is not a name of this server; use its address, or start it with --allow-host"),
        )),
        None => Err(Error::invalid(format!(
            "host `{shown}` must be NAME, ADDRESS or [IPV6 ADDRESS], each with :PORT or without"
        ))),
    }
}

/// Reads a token file: one token a line, blank lines and lines that begin with `#` aside.
///
/// # Errors
/// `usage` when others than its owner and group can read it, or when it holds no token; `io`.
pub fn read_token_file(path: &Path) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt;
    let wrong = |what: &str| Error::new(Kind::Usage, format!("--token-file {} {what}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(wrong("can be read by others; run chmod o-rwx on it"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let tokens: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if tokens.is_empty() { Err(wrong("holds no token")) } else { Ok(tokens) }
}

/// The name or address in a `Host` header, without port and brackets, if it is well-formed.
fn name_of(host: &str) -> Option<&str> {
    let is_port = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit());
    match host.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(address)
        }
        None => match host.split_once(':') {
            Some((name, port)) => is_port(port).then_some(name),
            None => Some(host),
        },
    }
}

/// Whether this is a name of this server: an address, `localhost`, or one of `names`. A page in a browser that was led
/// here by another name (DNS rebinding) bears that name.
fn is_own_name(name: &str, names: &[String]) -> bool {
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let tokens = Tokens::new(["one", "", "two"]);
        assert!(!tokens.is_empty() && Tokens::new([""]).is_empty());
        for good in ["Bearer one", "bearer two", "BEARER  one "] {
            assert!(tokens.accept(Some(good)), "{good}");
        }
        for bad in ["Bearer", "Bearer ", "Bearer on", "Bearer onee", "Basic one", "one", ""] {
            assert!(!tokens.accept(Some(bad)), "{bad}");
        }
        assert!(!tokens.accept(None));
    }

    #[test]
    fn hosts() {
        let names = ["quota.internal".to_owned()];
        let judge = |host: &str| name_of(host).map(|name| is_own_name(name, &names));
        for own in
            ["127.0.0.1:7878", "127.0.0.1", "[::1]:7878", "[::1]", "LOCALHOST:1", "10.1.2.3", "quota.internal:80"]
        {
            assert_eq!(judge(own), Some(true), "{own}");
        }
        for other in ["evil.example", "evil.example:7878", "localhost.evil.example", "", "127.0.0.1.evil.example"] {
            assert_eq!(judge(other), Some(false), "{other}");
        }
        for bad in
            ["[::1].evil.example", "[::1", "[::1]x", "[::1]:x", "[evil.example]", "::1", "a:b", "[]", "127.0.0.1:1:2"]
        {
            assert_eq!(judge(bad), None, "{bad}");
        }
    }
}
