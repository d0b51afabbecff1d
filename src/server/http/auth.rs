//! Which requests are accepted: bearer tokens, hosts.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::super::tokens::{Grant, Tokens};
use super::exchange::Exchange;
use crate::error::{Error, Kind, Result};

/// What the token of a request may do; `None` for everything. Refuses whatever bears no token, if there are any.
///
/// # Errors
/// `unauthorized`.
pub fn require_token(exchange: &Exchange, tokens: &Tokens) -> Result<Option<Arc<Grant>>> {
    if tokens.is_empty() {
        return Ok(None);
    }
    match tokens.accept(exchange.authorization()) {
        Some(grant) => Ok(grant.cloned()),
        None => Err(Error::new(Kind::Unauthorized, "a bearer token is needed: Authorization: Bearer TOKEN")),
    }
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
