//! What can go wrong between a link and its store, in the user's words.

use std::fmt;

use redis::{RedisError, ServerError};

use super::address::Endpoint;

/// Kinds of errors, by what the caller can do about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The store is away, stopped, full, loading, no master, or known to have too few replicas. Nothing was written;
    /// try later.
    Unavailable,
    /// It is written on the master, and too few replicas have confirmed it: it may be lost with that master, and what
    /// is sent again counts again.
    TooFewReplicas,
    /// Whether it was written can't be known: no reply came in time.
    OutcomeUnknown,
    /// The store is there and will not do it until somebody changes a setting: a wrong password, a command that the
    /// user may not use, a server that is too old. Nothing was written.
    Refused,
    /// The keys of one attempt lie in two slots of a Cluster.
    CrossSlot,
    /// A key has a value that this version of Flint has not written.
    Corrupt,
}

/// An error, with one sentence for users that names the store. No password stands in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkError {
    kind: ErrorKind,
    message: String,
}

impl LinkError {
    pub(in crate::engine::remote) fn new(kind: ErrorKind, message: impl Into<String>) -> LinkError {
        LinkError { kind, message: message.into() }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> LinkError {
        LinkError::new(ErrorKind::Unavailable, message)
    }

    pub(super) fn refused(message: impl Into<String>) -> LinkError {
        LinkError::new(ErrorKind::Refused, message)
    }

    /// The same where an earlier delivery may have been done.
    pub(super) fn unknown(self) -> LinkError {
        match self.kind {
            ErrorKind::OutcomeUnknown | ErrorKind::TooFewReplicas => self,
            _ => LinkError::new(
                ErrorKind::OutcomeUnknown,
                format!("whether it was written can't be known, for a reply was lost: {}", self.message),
            ),
        }
    }

    /// The error where a reply is none that belongs to the request.
    pub(super) fn not_understood() -> LinkError {
        LinkError::unavailable("the store's reply is not understood")
    }

    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LinkError {}

/// What a server's error reply means for who sent the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The scripts have to be loaded again.
    NoScript,
    /// Another node has the slot for good.
    Moved { slot: u16, to: Endpoint },
    /// Another node has this key already, while the slot moves.
    Ask { to: Endpoint },
    /// Some keys of the request have moved and others not yet.
    TryAgain,
    /// The whole server will do nothing for a while, and whoever asks it need not.
    Away(LinkError),
    /// It is no master any more.
    Demoted(LinkError),
    /// This request fails.
    Fails(LinkError),
}

/// Reads an error reply of `server`.
pub(super) fn verdict(error: &ServerError, server: &Endpoint) -> Verdict {
    let detail = error.details().unwrap_or_default();
    // Up to 6.2 what a command in a script says is wrapped: `ERR Error running script (…): … -OOM command not …`.
    let inner = detail.find(": -").map(|at| &detail[at + 3..]).and_then(|inner| inner.split_once(' '));
    let (code, detail) = match inner {
        Some(inner) if error.code() == "ERR" => inner,
        _ => (error.code(), detail),
    };
    let unavailable = |what: &str| LinkError::unavailable(format!("the store {server} {what}"));
    match code {
        "NOSCRIPT" => Verdict::NoScript,
        "MOVED" => match redirection(detail, server) {
            Some((slot, to)) => Verdict::Moved { slot, to },
            None => Verdict::Fails(unavailable(&format!("redirects to no place: {detail}"))),
        },
        "ASK" => match redirection(detail, server) {
            Some((_, to)) => Verdict::Ask { to },
            None => Verdict::Fails(unavailable(&format!("redirects to no place: {detail}"))),
        },
        "TRYAGAIN" => Verdict::TryAgain,
        "LOADING" => Verdict::Away(unavailable("is reading its data, and answers once it has")),
        "BUSY" => Verdict::Away(unavailable("is running a script and does not answer meanwhile")),
        "MASTERDOWN" => Verdict::Demoted(unavailable("is a replica that has lost its master")),
        "CLUSTERDOWN" => Verdict::Away(unavailable(&format!("says that its Cluster is down ({detail})"))),
        "READONLY" => Verdict::Demoted(demoted(server)),
        "OOM" => Verdict::Fails(unavailable(
            "is out of memory (maxmemory) and takes no writes; give it more, or remove keys",
        )),
        "MISCONF" => Verdict::Fails(unavailable("cannot write to its disk and takes no writes; see its log")),
        "NOREPLICAS" => Verdict::Fails(unavailable("has fewer replicas than its own min-replicas-to-write demands")),
        "NOAUTH" => Verdict::Fails(LinkError::refused(format!(
            "the store {server} needs a password: write redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"
        ))),
        "WRONGPASS" => {
            Verdict::Fails(LinkError::refused(format!("the store {server} does not accept this user and password")))
        }
        "NOPERM" => Verdict::Fails(no_right(detail, server)),
        _ if detail.starts_with("The user executing the script") => Verdict::Fails(no_right(detail, server)),
        "WRONGTYPE" => Verdict::Fails(LinkError::new(
            ErrorKind::Corrupt,
            format!(
                "the store {server} has something foreign under a name that Flint uses; rename it, or use another database"
            ),
        )),
        _ if detail.contains("max number of clients") => {
            Verdict::Away(unavailable("has as many clients as it takes (maxclients)"))
        }
        _ => Verdict::Fails(unavailable(&format!("answers with an error: {code} {detail}"))),
    }
}

fn no_right(detail: &str, server: &Endpoint) -> LinkError {
    LinkError::refused(format!(
        "the user of the store {server} may not do what Flint needs ({detail}); see flint-server(8) for its rights"
    ))
}

/// What a server is told of that is no master.
pub(super) fn demoted(server: &Endpoint) -> LinkError {
    LinkError::unavailable(format!(
        "the store {server} is a replica and takes no writes; name the master, or Sentinels"
    ))
}

/// Reads `3999 127.0.0.1:6381`. A host that is left out is that of the server that says so.
fn redirection(detail: &str, server: &Endpoint) -> Option<(u16, Endpoint)> {
    let (slot, place) = detail.split_once(' ')?;
    let (host, port) = place.trim().rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let host = if host.is_empty() { &server.host } else { host };
    let slot = slot.parse().ok().filter(|slot| *slot < super::wire::slots::SLOTS)?;
    Some((slot, Endpoint { host: host.to_owned(), port: port.parse().ok()? }))
}

/// What an error of a connection means: it is of no use any more.
pub(super) fn broken(error: &RedisError, server: &Endpoint) -> LinkError {
    let what = match error {
        _ if error.is_timeout() => "does not answer in time".to_owned(),
        _ if error.is_connection_refusal() => "cannot be reached: nothing listens there".to_owned(),
        _ if error.is_connection_dropped() => "has closed the connection".to_owned(),
        _ if error.is_io_error() => format!("cannot be reached: {error}"),
        _ => format!("cannot be understood: {error}"),
    };
    LinkError::unavailable(format!("the store {server} {what}"))
}

#[cfg(test)]
mod tests {
    use redis::Value as Reply;

    use super::*;

    fn server() -> Endpoint {
        Endpoint { host: "h".to_owned(), port: 1 }
    }

    fn read(line: &str) -> Verdict {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap() {
            Reply::ServerError(error) => verdict(&error, &server()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replies_become_what_to_do() {
        assert_eq!(read("NOSCRIPT No matching script. Please use EVAL."), Verdict::NoScript);
        assert_eq!(read("TRYAGAIN Multiple keys request during rehashing of slot"), Verdict::TryAgain);
        let to = |host: &str, port| Endpoint { host: host.to_owned(), port };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Verdict::Moved { slot: 3999, to: to("127.0.0.1", 6381) });
        assert_eq!(read("MOVED 0 :6381"), Verdict::Moved { slot: 0, to: to("h", 6381) });
        assert_eq!(read("ASK 3999 ::1:6381"), Verdict::Ask { to: to("::1", 6381) });
        for nowhere in ["MOVED 16384 a:1", "MOVED 1", "ASK x a:1", "ASK 1 a", "ASK 1 a:b"] {
            assert!(matches!(read(nowhere), Verdict::Fails(_)), "{nowhere}");
        }
    }

    #[test]
    fn replies_become_words() {
        let said = |line: &str| match read(line) {
            Verdict::Away(error) | Verdict::Demoted(error) | Verdict::Fails(error) => (error.kind(), error.to_string()),
            other => panic!("{line}: {other:?}"),
        };
        let cases = [
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, "is reading its data"),
            ("BUSY Redis is busy running a script.", ErrorKind::Unavailable, "is running a script"),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Unavailable, "lost its master"),
            ("CLUSTERDOWN The cluster is down", ErrorKind::Unavailable, "The cluster is down"),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unavailable, "is a replica"),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Unavailable, "out of memory"),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Unavailable, "cannot write to its disk"),
            ("NOREPLICAS Not enough good replicas to write.", ErrorKind::Unavailable, "min-replicas-to-write"),
            ("NOAUTH Authentication required.", ErrorKind::Refused, "needs a password"),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::Refused, "does not accept"),
            ("NOPERM this user has no permissions to run the 'set' command", ErrorKind::Refused, "'set' command"),
            (
                "ERR The user executing the script can't run this command",
                ErrorKind::Refused,
                "may not do what Flint needs",
            ),
            ("WRONGTYPE Operation against a key", ErrorKind::Corrupt, "something foreign"),
            ("ERR max number of clients reached", ErrorKind::Unavailable, "maxclients"),
            ("ERR what", ErrorKind::Unavailable, "ERR what"),
            (
                "ERR Error running script (call to f_ab): @user_script:9: @user_script: 9: -OOM command not allowed",
                ErrorKind::Unavailable,
                "out of memory",
            ),
        ];
        for (line, kind, words) in cases {
            let (told, sentence) = said(line);
            assert_eq!(told, kind, "{line}");
            assert!(sentence.contains("h:1") && sentence.contains(words), "{line}: {sentence}");
        }
    }
}
