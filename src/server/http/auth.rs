//! Which requests are accepted: bearer tokens, hosts.

use std::net::IpAddr;
use std::sync::Arc;

use super::super::tokens::{Grant, Tokens};
use super::exchange::Exchange;
use crate::error::{Error, Kind, Result};

/// Refuses whatever bears no token, and web pages in browsers. A Unix socket is reached by neither. Returns what the
/// token may do; `None` for everything.
///
/// # Errors
/// `unauthorized`, `forbidden_origin`.
pub fn authorise(exchange: &Exchange, tokens: &Tokens, hosts: &[String], unix: bool) -> Result<Option<Arc<Grant>>> {
    let grant = match tokens.is_empty() {
        true => None,
        false => match tokens.accept(exchange.authorization()) {
            Some(grant) => grant.cloned(),
            None => {
                let message = "a bearer token is needed: Authorization: Bearer TOKEN";
                return Err(Error::new(Kind::Unauthorized, message));
            }
        },
    };
    if exchange.head.origin {
        return Err(Error::new(Kind::ForbiddenOrigin, "requests of web pages (with an Origin header) are refused"));
    }
    match exchange.host() {
        Some(host) if !unix && !is_own_host(host, hosts) => Err(Error::new(
            Kind::ForbiddenOrigin,
            format!(
                "host `{}` is not a name of this server; use its address, or start it with --allow-host",
                crate::limit::excerpt(host)
            ),
        )),
        _ => Ok(grant),
    }
}

/// Whether a `Host` header names this server: an address, `localhost`, or one of `names`. A page in a browser that was
/// led here by another name (DNS rebinding) bears that name.
pub fn is_own_host(host: &str, names: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }),
    };
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
        for own in ["127.0.0.1:7878", "127.0.0.1", "[::1]:7878", "LOCALHOST:1", "10.1.2.3", "quota.internal:80"] {
            assert!(is_own_host(own, &names), "{own}");
        }
        for other in ["evil.example", "evil.example:7878", "localhost.evil.example", "", "127.0.0.1.evil.example"] {
            assert!(!is_own_host(other, &names), "{other}");
        }
    }
}
