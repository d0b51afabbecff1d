//! Gates by name, and the keys of the requests that come to them.

use std::borrow::Cow;
use std::net::IpAddr;

use tiny_http::Header;

use super::super::digest::short_digest;
use super::proxies::{InKey, TrustedProxies};
use crate::bounds::{MAX_GATE_PARTS, MAX_GATE_VALUE_BYTES, MAX_KEY_BYTES};
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, excerpt};

/// All that a server knows of gates.
#[derive(Debug)]
pub struct Gates {
    named: Vec<Gate>,
    trusted: TrustedProxies,
    ipv6_prefix: u8,
}

/// One gate that the operator has named.
#[derive(Debug)]
pub struct Gate {
    name: String,
    by: Vec<Part>,
    pub cost: u64,
    pub limit: Option<Limit>,
    pub policy: Policy,
}

/// How a gate answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The status of a denial.
    pub denied: u16,
    /// The request is let through where no decision is available.
    pub open: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { denied: 429, open: false }
    }
}

impl Policy {
    /// Takes one of the options `deny` and `on_error`. Returns whether it is one.
    ///
    /// # Errors
    /// `invalid_argument`, naming it and what would be right.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        match (name, value) {
            ("deny", "429") => self.denied = 429,
            ("deny", "403") => self.denied = 403,
            ("deny", other) => {
                return Err(Error::invalid(format!("deny must be 429 or 403, not `{}`", excerpt(other))));
            }
            ("on_error", "allow") => self.open = true,
            ("on_error", "deny") => self.open = false,
            ("on_error", other) => {
                return Err(Error::invalid(format!("on_error must be allow or deny, not `{}`", excerpt(other))));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// One part of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Ip,
    Host,
    Method,
    Path,
    Header(String),
}

/// The request that a proxy sends to ask.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    pub method: &'a str,
    pub headers: &'a [Header],
    /// What follows the gate's name in the path, without the query.
    pub rest: &'a str,
}

impl<'a> Asking<'a> {
    fn values(&self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |header| header.field.as_str().as_str().eq_ignore_ascii_case(name));
        named.map(|header| header.value.as_str())
    }

    /// The last of the headers of the first of these names that is there: the header that the nearest proxy has added.
    fn first_of(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().find_map(|name| self.values(name).next_back())
    }
}

impl Part {
    fn parse(text: &str) -> Option<Part> {
        Some(match text {
            "ip" => Part::Ip,
            "host" => Part::Host,
            "method" => Part::Method,
            "path" => Part::Path,
            _ => Part::Header(text.strip_prefix("header:").filter(|name| is_name(name))?.to_owned()),
        })
    }

    fn value(&self, gates: &Gates, asking: &Asking<'_>) -> String {
        match self {
            Part::Ip => {
                let address = gates.trusted.client(asking.peer, asking.values("X-Forwarded-For"));
                InKey { address, ipv6_prefix: gates.ipv6_prefix }.to_string()
            }
            Part::Host => asking.first_of(&["X-Forwarded-Host", "Host"]).unwrap_or("").to_ascii_lowercase(),
            Part::Method => {
                let told = asking.first_of(&["X-Original-Method", "X-Forwarded-Method"]);
                told.unwrap_or(asking.method).to_owned()
            }
            Part::Path => {
                let told = asking.first_of(&["X-Original-URI", "X-Forwarded-Uri"]).unwrap_or(asking.rest);
                told.split(['?', '#']).next().unwrap_or("").to_owned()
            }
            Part::Header(name) => {
                // Several lines are one list (RFC 9110, 5.3).
                asking.values(name).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Gates {
    /// Reads what the options say: each gate as `NAME=by=…&limit=…&cost=…&deny=…&on_error=…`.
    ///
    /// # Errors
    /// `usage`, naming the option, the gate and what would be right.
    pub fn parse(gates: &[&str], trusted: &str, ipv6_prefix: u8) -> Result<Gates> {
        let mut named: Vec<Gate> = Vec::new();
        for text in gates {
            let gate = Gate::parse(text)
                .map_err(|error| Error::new(Kind::Usage, format!("--gate {}: {}", excerpt(text), error.message())))?;
            if named.iter().any(|other| other.name == gate.name) {
                return Err(Error::new(Kind::Usage, format!("--gate {} is given twice", gate.name)));
            }
            named.push(gate);
        }
        Ok(Gates { named, trusted: TrustedProxies::parse(trusted)?, ipv6_prefix })
    }

    /// The gate of a path that begins with its name, and what follows the name there.
    pub fn find<'a>(&self, path: &'a str) -> Option<(&Gate, &'a str)> {
        let (name, rest) = path.split_at(path.find('/').unwrap_or(path.len()));
        self.named.iter().find(|gate| gate.name == name).map(|gate| (gate, rest))
    }
}

impl Gate {
    fn parse(text: &str) -> Result<Gate> {
        let (name, options) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty()
            || name.len() > MAX_GATE_VALUE_BYTES
            || !name.bytes().all(|byte| is_token(byte) && byte != b'%')
        {
            let what = "a gate must be NAME=by=…, with a name of letters, digits, - _ and .";
            return Err(Error::invalid(what));
        }
        let mut gate = Gate { name: name.to_owned(), by: Vec::new(), cost: 1, limit: None, policy: Policy::default() };
        let mut given = Vec::new();
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            if given.contains(&name) {
                return Err(Error::invalid(format!("{} is given twice", excerpt(name))));
            }
            given.push(name);
            match name {
                "by" => gate.by = parts(value)?,
                "limit" => gate.limit = Some(value.parse()?),
                "cost" => {
                    gate.cost = value.parse().ok().filter(|cost| *cost > 0).ok_or_else(|| {
                        Error::invalid(format!("cost must be an integer of 1 or more, not `{}`", excerpt(value)))
                    })?;
                }
                _ if gate.policy.set(name, value)? => {}
                other => {
                    let known = "known: by, limit, cost, deny and on_error";
                    return Err(Error::invalid(format!("unknown option `{}`; {known}", excerpt(other))));
                }
            }
        }
        if gate.by.is_empty() {
            return Err(Error::invalid("by must name the parts of the key, such as by=ip"));
        }
        Ok(gate)
    }

    /// The key of a request: the gate's name and each value after a colon. No two lists of values have one key: a colon
    /// within a value is written `%3A`, but in the last one and in an address, which end where they end.
    pub fn key(&self, gates: &Gates, asking: &Asking<'_>) -> String {
        let values = self.by.iter().map(|part| (part, part.value(gates, asking)));
        let values: Vec<(&Part, String)> = values.collect();
        // Long values are digests at once, and where all together are too long, all but short ones.
        let whole = self.join(&values, MAX_GATE_VALUE_BYTES);
        if whole.len() <= MAX_KEY_BYTES { whole } else { self.join(&values, DIGEST_BYTES) }
    }

    fn join(&self, values: &[(&Part, String)], longest: usize) -> String {
        let mut key = self.name.clone();
        for (index, (part, value)) in values.iter().enumerate() {
            key.push(':');
            let text = match part {
                // These would show in lists and in the log.
                Part::Header(name) if is_secret(name) => None,
                Part::Ip => Some(Cow::Borrowed(value.as_str())),
                _ if index + 1 == values.len() => Some(Cow::Borrowed(value.as_str())),
                _ => Some(Cow::Owned(value.replace('%', "%25").replace(':', "%3A"))),
            };
            let fits = |text: &Cow<'_, str>| {
                // No value may look like the digest of another.
                text.len() <= longest && !text.starts_with(DIGEST) && !text.chars().any(char::is_control)
            };
            match text.filter(fits) {
                Some(text) => key.push_str(&text),
                None => key.extend([DIGEST, &short_digest(value)]),
            }
        }
        key
    }
}

/// Whether a header bears what opens something.
fn is_secret(name: &str) -> bool {
    ["Authorization", "Cookie"].iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// What a digest begins with in a key, and how long it is at most with that.
const DIGEST: &str = "sha256-";
const DIGEST_BYTES: usize = 40;

fn parts(text: &str) -> Result<Vec<Part>> {
    let parts = text.split(',').map(|part| {
        Part::parse(part).ok_or_else(|| {
            let known = "ip, host, method, path or header:NAME";
            Error::invalid(format!("by must be {known}, separated by commas, not `{}`", excerpt(part)))
        })
    });
    let parts: Vec<Part> = parts.collect::<Result<_>>()?;
    match parts.len() {
        1..=MAX_GATE_PARTS => Ok(parts),
        count => Err(Error::invalid(format!("by must be 1 to {MAX_GATE_PARTS} values, not {count}"))),
    }
}

/// Whether a header may have this name.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_GATE_VALUE_BYTES && name.bytes().all(is_token)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::super::proxies::DEFAULT_TRUSTED;
    use super::*;

    fn key(gate: &str, headers: &[&str]) -> String {
        let gates = Gates::parse(&[gate], DEFAULT_TRUSTED, 64).unwrap();
        let headers: Vec<Header> = headers.iter().map(|header| header.parse().unwrap()).collect();
        let (gate, rest) = gates.find("web/rest?of=it").unwrap();
        let peer = Some("127.0.0.1".parse().unwrap());
        gate.key(&gates, &Asking { peer, method: "GET", headers: &headers, rest })
    }

    #[test]
    fn keys_are_made_of_what_the_proxy_tells() {
        let told = [
            "X-Forwarded-For: 6.6.6.6, 203.0.113.7",
            "x-forwarded-host: Shop.Example:8443",
            "X-Original-Method: POST",
            "X-Forwarded-Method: PUT",
            "X-Original-URI: /cart?id=1",
            "X-User: 42",
        ];
        assert_eq!(key("web=by=ip", &told), "web:203.0.113.7");
        assert_eq!(key("web=by=ip,path", &told), "web:203.0.113.7:/cart");
        assert_eq!(key("web=by=host", &told), "web:shop.example:8443");
        assert_eq!(key("web=by=host,method", &told), "web:shop.example%3A8443:POST");
        assert_eq!(key("web=by=header:x-user", &told), "web:42");
        assert!(!key("web=by=header:cookie", &["Cookie: id=SECRET"]).contains("SECRET"));
        // Without them, what the request itself is.
        assert_eq!(key("web=by=host,method,path,header:X-User", &["Host: a"]), "web:a:GET:/rest:");
        let forwarded = ["X-Forwarded-Uri: /b", "X-Forwarded-Method: PUT", "X-Forwarded-For: 2001:db8:1:2:3::4"];
        assert_eq!(key("web=by=method,path,ip", &forwarded), "web:PUT:/b:2001:db8:1:2::/64");
    }

    #[test]
    fn no_two_lists_of_values_have_one_key() {
        let two =
            |one: &str, other: &str| key("web=by=header:a,header:b", &[&format!("a: {one}"), &format!("b: {other}")]);
        let lists = [("x", "y:z"), ("x:y", "z"), ("x%3Ay", "z"), ("x", "y%3Az"), ("x:y:z", ""), ("", "x:y:z")];
        let keys: std::collections::BTreeSet<String> = lists.iter().map(|(one, other)| two(one, other)).collect();
        assert_eq!(keys.len(), lists.len(), "{keys:?}");
        // A value that looks like a digest does not give that digest's key.
        let long = "v".repeat(MAX_GATE_VALUE_BYTES + 1);
        let digest = two("a", &long);
        let shown = digest.rsplit(':').next().unwrap();
        assert!(shown.starts_with("sha256-") && shown.len() <= DIGEST_BYTES, "{digest}");
        assert_ne!(two("a", shown), digest);
    }

    #[test]
    fn keys_always_fit() {
        let headers: Vec<String> = (0..MAX_GATE_PARTS)
            .map(|index| format!("h{index}: {}", ":".repeat(MAX_GATE_VALUE_BYTES - index)))
            .collect();
        let by: Vec<String> = (0..MAX_GATE_PARTS).map(|index| format!("header:h{index}")).collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        for count in 1..=MAX_GATE_PARTS {
            let key = key(&format!("web=by={}", by[..count].join(",")), &headers);
            assert!(crate::limit::validate_key(&key).is_ok(), "{count}: {key}");
        }
    }

    #[test]
    fn options_of_gates() {
        let gate =
            Gate::parse("web=by=ip,header:X-User&limit=100/1m, 5000/day&cost=2&deny=403&on_error=allow").unwrap();
        assert_eq!((gate.cost, gate.policy), (2, Policy { denied: 403, open: true }));
        assert_eq!(gate.limit.unwrap().windows().len(), 2);
        for (text, word) in [
            ("", "NAME"),
            ("=by=ip", "NAME"),
            ("a b=by=ip", "NAME"),
            ("web", "by"),
            ("web=limit=1/1s", "by"),
            ("web=by=", "by"),
            ("web=by=ip,cookie", "cookie"),
            ("web=by=header:", "header:"),
            ("web=by=header:a b", "header:"),
            ("web=by=ip&limit=fast", "fast"),
            ("web=by=ip&deny=500", "deny"),
            ("web=by=ip&on_error=maybe", "on_error"),
            ("web=by=ip&cost=0", "cost"),
            ("web=by=ip&by=path", "twice"),
            ("web=by=ip&colour=red", "colour"),
            ("web=by=ip,ip,ip,ip,ip,ip,ip,ip,ip", "1 to 8"),
        ] {
            let error = Gates::parse(&[text], DEFAULT_TRUSTED, 64).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.message().contains("--gate"), "{text}: {error}");
            assert!(error.message().contains(word), "{text}: {error}");
        }
        assert!(Gates::parse(&["a=by=ip", "a=by=path"], DEFAULT_TRUSTED, 64).unwrap_err().message().contains("twice"));
    }
}
