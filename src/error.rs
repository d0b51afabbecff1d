//! The error type of the program.
//!
//! Owns: what can go wrong, and the table that gives each kind its code for the HTTP API, its HTTP status and its exit
//! status. Called by all modules. Nothing here does I/O, and no message may carry a token or a request's body.

use std::fmt;
use std::io;
use std::path::Path;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The body is not JSON.
    InvalidJson,
    /// A value has the wrong type or is out of its range, or a field is unknown.
    InvalidArgument,
    /// The cost is over the limit's capacity: it could never be allowed.
    CostExceedsCapacity,
    /// The bearer token is missing or wrong.
    Unauthorized,
    /// The request was made by a web page in a browser, or for another host.
    ForbiddenOrigin,
    /// The token does not permit this call, or not for one of its keys.
    Forbidden,
    /// No limit has this key.
    LimitNotConfigured,
    /// No such hold: it never existed, or is forgotten.
    HoldNotFound,
    /// The hold was settled before, with another cost.
    HoldSettled,
    /// The hold has expired.
    HoldExpired,
    /// The maximum number of holds is open.
    TooManyHolds,
    /// An idempotency key was used before, for another request.
    IdempotencyMismatch,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is larger than [`crate::bounds::MAX_BODY_BYTES`].
    BodyTooLarge,
    /// More work than the server takes at once, or a disk that does not answer in time.
    Overloaded,
    /// The log cannot be written: the disk is full, or an earlier write or fsync failed.
    LogFailed,
    /// The store can't be reached, or too few of its replicas have confirmed a write.
    StoreUnavailable,
    /// The answer of the store was lost on the way, so that it can't be known whether anything was done.
    OutcomeUnknown,
    /// In a Cluster, the keys of one request do not share a slot.
    CrossSlot,
    /// The command line is wrong.
    Usage,
    /// Another process owns the data directory.
    Locked,
    /// A file of the data directory is damaged.
    Corrupt,
    /// A file of the data directory was written by a newer Flint.
    Unsupported,
    /// The operating system refused.
    Io,
    /// The server could not be reached, or its answer was not understood.
    Unreachable,
    /// A defect of Flint itself.
    Internal,
}

impl Kind {
    /// Code in the HTTP API, HTTP status and exit status of this kind.
    const fn row(self) -> (&'static str, u16, u8) {
        match self {
            Kind::InvalidJson => ("invalid_json", 400, 2),
            Kind::InvalidArgument => ("invalid_argument", 400, 2),
            Kind::CostExceedsCapacity => ("cost_exceeds_capacity", 400, 2),
            Kind::Unauthorized => ("unauthorized", 401, 3),
            Kind::ForbiddenOrigin => ("forbidden_origin", 403, 3),
            Kind::Forbidden => ("forbidden", 403, 3),
            Kind::LimitNotConfigured => ("limit_not_configured", 404, 3),
            Kind::HoldNotFound => ("hold_not_found", 404, 3),
            Kind::HoldSettled => ("hold_settled", 409, 3),
            Kind::HoldExpired => ("hold_expired", 410, 3),
            Kind::TooManyHolds => ("too_many_holds", 503, 3),
            Kind::IdempotencyMismatch => ("idempotency_mismatch", 422, 3),
            Kind::NotFound => ("not_found", 404, 3),
            Kind::MethodNotAllowed => ("method_not_allowed", 405, 3),
            Kind::BodyTooLarge => ("body_too_large", 413, 3),
            Kind::Overloaded => ("overloaded", 503, 3),
            Kind::LogFailed => ("log_failed", 503, 3),
            Kind::StoreUnavailable => ("store_unavailable", 503, 3),
            Kind::OutcomeUnknown => ("outcome_unknown", 503, 3),
            Kind::CrossSlot => ("cross_slot", 400, 2),
            Kind::Usage => ("usage", 400, 2),
            Kind::Locked => ("locked", 503, 3),
            Kind::Corrupt => ("corrupt", 500, 3),
            Kind::Unsupported => ("unsupported", 500, 3),
            Kind::Io => ("io", 500, 3),
            Kind::Unreachable => ("unreachable", 502, 3),
            Kind::Internal => ("internal", 500, 3),
        }
    }

    /// Every kind, for the tests that hold the man pages to this table.
    #[doc(hidden)]
    pub const ALL: &[Kind] = &[
        Kind::InvalidJson,
        Kind::InvalidArgument,
        Kind::CostExceedsCapacity,
        Kind::Unauthorized,
        Kind::ForbiddenOrigin,
        Kind::Forbidden,
        Kind::LimitNotConfigured,
        Kind::HoldNotFound,
        Kind::HoldSettled,
        Kind::HoldExpired,
        Kind::TooManyHolds,
        Kind::IdempotencyMismatch,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::BodyTooLarge,
        Kind::Overloaded,
        Kind::LogFailed,
        Kind::StoreUnavailable,
        Kind::OutcomeUnknown,
        Kind::CrossSlot,
        Kind::Usage,
        Kind::Locked,
        Kind::Corrupt,
        Kind::Unsupported,
        Kind::Io,
        Kind::Unreachable,
        Kind::Internal,
    ];

    /// The `code` of the HTTP API's error object.
    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status of a reply that carries this error.
    #[doc(hidden)]
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The exit status of a command that ends with this error: 2 for a wrong command line, 3 for what could not be
    /// done. Never 1, which is an answer.
    #[doc(hidden)]
    pub const fn exit_status(self) -> u8 {
        self.row().2
    }

    /// The kind that a server meant by the `code` of an error object.
    #[doc(hidden)]
    pub fn from_code(code: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// An error: a kind, and one sentence that names what is wrong and what to do.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with its sentence.
    #[doc(hidden)]
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// A value out of its range, a wrong type or an unknown field.
    #[doc(hidden)]
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::InvalidArgument, message)
    }

    /// No limit has `key`.
    #[doc(hidden)]
    pub fn not_configured(key: &str) -> Error {
        Error::new(Kind::LimitNotConfigured, format!("no limit is configured for key `{key}`; configure it first"))
    }

    /// An operating system error at `path`, with what can be done about it, while doing `what` ("open", "write" …).
    #[doc(hidden)]
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Error {
        Error::new(Kind::Io, format!("cannot {what} {}: {error}{}", path.display(), way_out(error)))
    }

    /// What kind of error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The error for a request's body that is longer than its bound.
pub fn too_large(bound: usize) -> Error {
    Error::new(Kind::BodyTooLarge, format!("the body is larger than {bound} bytes; send less at once"))
}

/// What to do about an error of the operating system, if its kind says so.
pub fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run flint as the owner of the directory, or name another directory",
        io::ErrorKind::ReadOnlyFilesystem => "; it can be read there, but not changed",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "; make room and try again"
        }
        io::ErrorKind::IsADirectory => "; it does not belong to flint, move it away",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_comes_back() {
        for kind in Kind::ALL.iter().copied() {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
            assert_ne!(kind.exit_status(), 1, "1 is an answer, not an error");
            assert!((400..600).contains(&kind.http_status()));
        }
        assert_eq!(Kind::from_code("no_such_code"), None);
    }

    #[test]
    fn errors_of_the_operating_system_say_what_can_be_done() {
        let message = |code| Error::io("open", Path::new("/d"), &io::Error::from_raw_os_error(code)).to_string();
        let denied = "cannot open /d: Permission denied (os error 13); run flint as the owner of the directory, or name \
                      another directory";
        assert_eq!(message(13), denied);
        assert!(message(30).ends_with("; it can be read there, but not changed"));
        assert!([28, 122, 27].into_iter().all(|code| message(code).ends_with("; make room and try again")));
        assert!(message(21).ends_with("; it does not belong to flint, move it away"));
        assert_eq!(message(5), "cannot open /d: Input/output error (os error 5)");
    }
}
