//! What is looked at of a request's head, and whether its sender may ask.

use tiny_http::{HTTPVersion, Request};

use super::auth::{self, Tokens};
use crate::error::{Error, Kind, Result};

/// A request's head. Strings are borrowed from tiny_http.
pub struct Head<'a> {
    pub method: &'a str,
    /// Path and query; of an absolute URI what stands behind the authority.
    pub target: &'a str,
    pub authorization: Option<&'a str>,
    pub host: Option<&'a str>,
    pub origin: bool,
    /// Length of the body as announced, in bytes; `None` for a chunked body or none.
    pub length: Option<u64>,
    pub chunked: bool,
    /// It can't be told where the body ends, or who asks.
    pub ambiguous: bool,
    /// The connection ends with this request.
    pub close: bool,
    /// tiny_http leaves the body of a request that asks for an upgrade on the connection.
    pub upgrade: bool,
    /// Bytes of the body are still on the socket.
    pub unread: bool,
}

impl<'a> Head<'a> {
    pub fn of(request: &'a Request) -> Head<'a> {
        let (target, authority) = split_target(request.url());
        let mut head = Head {
            method: request.method().as_str(),
            target,
            authorization: None,
            host: None,
            origin: false,
            length: None,
            chunked: false,
            ambiguous: false,
            close: *request.http_version() < HTTPVersion(1, 1),
            upgrade: false,
            unread: false,
        };
        let mut expects = false;
        for header in request.headers() {
            let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
            // tiny_http ends a line at CR LF alone. Whoever has passed it on may have ended it at a bare LF, and read a
            // header behind it that is not seen here.
            head.ambiguous |= name.is_empty() || name.bytes().chain(value.bytes()).any(is_control);
            let is = |name: &'static str| header.field.equiv(name);
            if is("Authorization") {
                head.ambiguous |= head.authorization.replace(value).is_some();
            } else if is("Host") {
                head.ambiguous |= head.host.replace(value).is_some();
            } else if is("Origin") {
                head.origin = true;
            } else if is("Expect") {
                expects = true;
            } else if is("Content-Length") {
                // `+5` would be read as 5 here, and as something else elsewhere.
                let length = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
                head.ambiguous |= length.is_none() || head.length.is_some();
                head.length = length.max(head.length);
            } else if is("Transfer-Encoding") {
                head.ambiguous |= head.chunked || !value.eq_ignore_ascii_case("chunked");
                head.chunked = true;
            } else if is("Connection") {
                let value = value.to_ascii_lowercase();
                head.upgrade |= value.contains("upgrade");
                head.close = value.contains("close") || (head.close && !value.contains("keep-alive"));
            }
        }
        // An absolute URI's authority stands for the Host header (RFC 9112, 3.2.2).
        head.host = authority.or(head.host);
        head.ambiguous |= head.chunked && (head.length.is_some() || head.upgrade);
        head.ambiguous |= request.url().bytes().any(|byte| byte <= b' ' || byte == 0x7f);
        head.close |= head.upgrade;
        if head.upgrade {
            // What tiny_http offers as the body has no end but the connection's.
            head.length = head.length.or(Some(0));
        }
        // tiny_http itself has read a body of up to 1024 bytes.
        let length = head.length.unwrap_or(0);
        head.unread = head.chunked || length > 1024 || (length > 0 && (expects || head.upgrade)) || head.ambiguous;
        head
    }

    /// What a request takes of memory while it waits, in bytes, about: tiny_http keeps two strings of each header line.
    pub fn weight(&self, request: &Request) -> usize {
        let headers = request.headers();
        let text: usize = headers.iter().map(|header| header.field.as_str().len() + header.value.len()).sum();
        let body = self.length.filter(|_| !self.unread).map_or(0, |length| length as usize);
        512 + request.url().len() + text + 128 * headers.len() + body
    }

    /// Refuses whoever bears no token, and web pages in browsers. A Unix socket is reached by neither.
    ///
    /// # Errors
    /// `unauthorized`, `forbidden_origin`.
    pub fn authorise(&self, tokens: &Tokens, hosts: &[String], unix: bool) -> Result<()> {
        if !tokens.is_empty() && !tokens.accept(self.authorization) {
            return Err(Error::new(Kind::Unauthorized, "a bearer token is needed: Authorization: Bearer TOKEN"));
        }
        if self.origin {
            return Err(Error::new(Kind::ForbiddenOrigin, "requests of web pages (with an Origin header) are refused"));
        }
        match self.host {
            Some(host) if !unix && !auth::is_own_host(host, hosts) => Err(Error::new(
                Kind::ForbiddenOrigin,
                format!(
                    "host `{}` is not a name of this server; use its address, or start it with --allow-host",
                    crate::limit::excerpt(host)
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// A character that no header may hold. A blank in a name is refused by tiny_http.
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Path and query, and the authority of an absolute URI.
fn split_target(url: &str) -> (&str, Option<&str>) {
    match url.strip_prefix("http://") {
        None => (url, None),
        Some(rest) => {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = rest.split_at(at);
            (if target.is_empty() { "/" } else { target }, Some(authority))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split_target;

    #[test]
    fn absolute_targets() {
        assert_eq!(split_target("/v1/check?status=429"), ("/v1/check?status=429", None));
        assert_eq!(split_target("http://127.0.0.1:1/v1/check"), ("/v1/check", Some("127.0.0.1:1")));
        assert_eq!(split_target("http://evil.example"), ("/", Some("evil.example")));
        assert_eq!(split_target("http://a?b"), ("?b", Some("a")));
        assert_eq!(split_target("*"), ("*", None));
    }
}
