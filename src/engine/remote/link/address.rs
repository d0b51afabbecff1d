//! The address of a store: what a user writes, and what is told of it. A password is never printed.

use std::fmt;

/// What forms there are, for errors.
const FORMS: &str = "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/NAME or redis+cluster://HOST:PORT,HOST:PORT, \
                     with rediss for TLS";

const SERVER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// By what name and password one is known to a server.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
}

/// What stands at an address.
#[derive(Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server, or what stands in for one.
    Server,
    /// Sentinels, which say who is master.
    Sentinel { name: String, login: Login },
    /// Nodes of a Cluster.
    Cluster,
}

/// A store's address, read from what a user wrote. Its `Display` and `Debug` never show a password.
///
/// | form | |
/// |---|---|
/// | `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]` | one server, or what stands in for one |
/// | `redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],.../NAME[/DB]` | Sentinels, asked for the master NAME |
/// | `redis+cluster://[[USER]:PASSWORD@]HOST[:PORT],...` | nodes of a Cluster |
/// | `rediss://`, `rediss+sentinel://`, `rediss+cluster://` | the same with TLS (feature `store-tls`) |
///
/// User and password are percent-encoded. `?sentinel-password=...` and `?sentinel-user=...` are what Sentinels want.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    topology: Topology,
    endpoints: Vec<Endpoint>,
    login: Login,
    db: u32,
    tls: bool,
}

impl Address {
    /// Reads an address. The error is one sentence that says what is wrong, without the password.
    pub fn parse(text: &str) -> Result<Address, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("the store's address has no scheme: write {FORMS}"));
        };
        let (tls, kind) = match scheme.strip_prefix("rediss").map(|kind| (true, kind)) {
            Some(found) => found,
            None => (false, scheme.strip_prefix("redis").unwrap_or("?")),
        };
        if !["", "+sentinel", "+cluster"].contains(&kind) {
            return Err(format!("the store's address begins with `{scheme}://`: write {FORMS}"));
        }
        if tls && !cfg!(feature = "store-tls") {
            return Err(format!("this flint has no TLS for `{scheme}://`: build it with `--features store-tls`"));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        // A password may have any character but those that must be encoded; the last `@` ends it.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (read_login(login)?, rest),
            None => (Login::default(), rest),
        };
        let (hosts, path) = rest.split_once('/').map_or((rest, ""), |(hosts, path)| (hosts, path));
        let port = if kind == "+sentinel" { SENTINEL_PORT } else { SERVER_PORT };
        let endpoints = hosts.split(',').map(|host| endpoint(host, port)).collect::<Result<Vec<_>, _>>()?;
        let (topology, db) = topology(kind, path, query)?;
        if matches!(topology, Topology::Server) && endpoints.len() > 1 {
            return Err(
                "the store's address has several hosts: write redis+sentinel:// or redis+cluster:// for these, \
                        or one host"
                    .to_owned(),
            );
        }
        Ok(Address { topology, endpoints, login, db, tls })
    }

    /// Whether keys that change together must share a slot.
    pub fn is_cluster(&self) -> bool {
        self.topology == Topology::Cluster
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    pub(super) fn db(&self) -> u32 {
        self.db
    }

    pub(super) fn tls(&self) -> bool {
        self.tls
    }
}

/// What stands after the hosts.
fn topology(kind: &str, path: &str, query: &str) -> Result<(Topology, u32), String> {
    if kind == "+sentinel" {
        let (name, db) = path.split_once('/').unwrap_or((path, ""));
        let name = decoded(name, "name of the master")?;
        if name.is_empty() {
            return Err(
                "the store's address names no master: write redis+sentinel://HOST:PORT,HOST:PORT/NAME".to_owned()
            );
        }
        return Ok((Topology::Sentinel { name, login: sentinel_login(query)? }, read_db(db)?));
    }
    if !query.is_empty() {
        return Err("the store's address has a query (`?`): only sentinel-user and sentinel-password of \
                    redis+sentinel:// stand there, and a `?` in a password is written %3F"
            .to_owned());
    }
    if kind == "+cluster" {
        return match path {
            "" | "0" => Ok((Topology::Cluster, 0)),
            _ => Err("the store's address names a database: a Cluster has only 0, leave the path out".to_owned()),
        };
    }
    Ok((Topology::Server, read_db(path)?))
}

fn read_db(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| {
        format!("the store's address has the database `{text}`: write a number, as in redis://HOST:PORT/1")
    })
}

fn read_login(text: &str) -> Result<Login, String> {
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let Some(password) = password else {
        return Err("the store's address has a user and no password: write redis://USER:PASSWORD@HOST or \
                    redis://:PASSWORD@HOST"
            .to_owned());
    };
    let user = decoded(user, "user")?;
    let password = decoded(password, "password")?;
    if password.is_empty() {
        return Err("the store's address has an empty password: leave `:` and `@` out, or write one".to_owned());
    }
    Ok(Login { user: Some(user).filter(|user| !user.is_empty()), password: Some(password) })
}

fn sentinel_login(query: &str) -> Result<Login, String> {
    let mut login = Login::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = Some(decoded(value, name)?);
        match name {
            "sentinel-user" => login.user = value,
            "sentinel-password" => login.password = value,
            _ => {
                return Err("the store's address has an unknown word after `?`: sentinel-user and sentinel-password \
                            are what may stand there"
                    .to_owned());
            }
        }
    }
    match login {
        Login { user: Some(_), password: None } => {
            Err("the store's address has sentinel-user and no sentinel-password".to_owned())
        }
        login => Ok(login),
    }
}

/// Reads percent-encoded text, which an error must not show.
fn decoded(text: &str, what: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = bytes.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                return Err(format!(
                    "the {what} in the store's address has a `%` that no two hexadecimal digits follow: \
                                    write %25 for a percent sign"
                ));
            };
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(decoded).map_err(|_| format!("the {what} in the store's address is not UTF-8"))
}

/// Reads `host`, `host:port`, `[::1]` or `[::1]:port`.
fn endpoint(text: &str, default: u16) -> Result<Endpoint, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) if port.is_empty() || port.starts_with(':') => (host, port.strip_prefix(':')),
        Some(_) => return Err(format!("the store's address has the host `{text}`: write [IPV6]:PORT")),
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("the store's address has the host `{text}`: write [IPV6]:PORT with brackets"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
    if host.is_empty() {
        return Err(format!("the store's address has no host: write {FORMS}"));
    }
    if !host.bytes().all(plain) {
        return Err(format!(
            "the store's address has the host `{host}`: letters, digits, `-`, `_` and `.` stand in one"
        ));
    }
    let port = match port {
        None => Some(default),
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)
        }
        Some(_) => None,
    };
    let port = port.ok_or_else(|| format!("the store's address has a wrong port in `{text}`: write 1 to 65535"))?;
    Ok(Endpoint { host: host.to_owned(), port })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let (kind, name) = match &self.topology {
            Topology::Server => ("", None),
            Topology::Sentinel { name, .. } => ("+sentinel", Some(name)),
            Topology::Cluster => ("+cluster", None),
        };
        write!(f, "{scheme}{kind}://")?;
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if at == 0 { "" } else { "," })?;
        }
        name.map_or(Ok(()), |name| write!(f, "/{name}"))?;
        if self.db == 0 { Ok(()) } else { write!(f, "/{}", self.db) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Address::parse(text).map_or_else(|error| error, |address| address.to_string())
    }

    #[test]
    fn addresses_are_read_and_told_without_their_passwords() {
        let same = [
            "redis://localhost:6379",
            "redis://10.0.0.1:1/15",
            "redis://[::1]:7000",
            "redis+sentinel://a:26379,b:1/mymaster",
            "redis+sentinel://a:26379/my/3",
            "redis+cluster://a:6379,b:7000",
        ];
        for text in same {
            assert_eq!(shown(text), text);
        }
        assert_eq!(shown("redis://store"), "redis://store:6379");
        assert_eq!(shown("redis://[fe80::1]"), "redis://[fe80::1]:6379");
        assert_eq!(shown("redis+sentinel://s/m"), "redis+sentinel://s:26379/m");
        assert_eq!(shown("redis://u:s3cret@h/2"), "redis://h:6379/2");
        assert_eq!(shown("redis+sentinel://:s3cret@h/m?sentinel-password=s3cret"), "redis+sentinel://h:26379/m");
        let address = Address::parse("redis://us%3Aer:p%40%2f@:x@host").unwrap();
        assert_eq!(address.login.user.as_deref(), Some("us:er"));
        assert_eq!(address.login.password.as_deref(), Some("p@/@:x"));
        assert_eq!(format!("{address:?}"), "Address(redis://host:6379)");
        assert!(!address.is_cluster() && Address::parse("redis+cluster://a").unwrap().is_cluster());
    }

    #[test]
    fn errors_say_what_is_wrong_and_no_password() {
        let wrong = [
            ("localhost:6379", "has no scheme"),
            ("http://s3cret@h", "begins with `http://`"),
            ("redis+unix://h", "begins with `redis+unix://`"),
            ("redis://", "has no host"),
            ("redis://:s3cret@", "has no host"),
            ("redis://s3cret@h", "a user and no password"),
            ("redis://u:@h", "an empty password"),
            ("redis://u:s3cret%zz@h", "the password in the store's address has a `%`"),
            ("redis://u:s3cret%ff@h", "the password in the store's address is not UTF-8"),
            ("redis://u%:s3cret@h", "the user in the store's address has a `%`"),
            ("redis://:s3cret@h:0", "a wrong port in `h:0`"),
            ("redis://h:65536", "a wrong port in `h:65536`"),
            ("redis://h:+1", "a wrong port in `h:+1`"),
            ("redis://:s3cret@::1", "with brackets"),
            ("redis://[::1]x", "write [IPV6]:PORT"),
            ("redis://a b", "the host `a b`"),
            ("redis://h/x", "the database `x`"),
            ("redis://h/-1", "the database `-1`"),
            ("redis://a,b", "several hosts"),
            ("redis+cluster://a/1", "a Cluster has only 0"),
            ("redis+sentinel://a", "names no master"),
            ("redis+sentinel://a/", "names no master"),
            ("redis+sentinel://a/m/x", "the database `x`"),
            ("redis+sentinel://a/m?s3cret=1", "an unknown word"),
            ("redis+sentinel://a/m?sentinel-user=u", "no sentinel-password"),
            ("redis://h?s3cret", "has a query"),
        ];
        for (text, expected) in wrong {
            let error = Address::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("s3cret") || text.starts_with("http"), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
        let tls = Address::parse("rediss://h");
        assert_eq!(tls.is_ok(), cfg!(feature = "store-tls"));
    }
}
