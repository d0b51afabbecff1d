//! Where a command's request is answered: in this process, on the data directory itself, or by the server that owns it.
//!
//! Owns: that choice. Called by the commands. Both ways take the same request and give the same JSON, since both go
//! through the routes of `server`: what a command prints can't depend on where it was answered.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::http::{Address, Connection, Request};
use crate::bounds::{LOCK_WAIT_MS, MAX_REPLY_BYTES, REPLY_MS};
use crate::cli::options::global::Global;
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;
use crate::limiter::{Access, Limiter, Options};
use crate::server::Sources;

/// A request with an empty body.
pub fn request(method: &'static str, url: impl Into<String>) -> Request {
    Request {
        method,
        url: url.into(),
        body: String::new(),
        most: MAX_REPLY_BYTES,
        patience: Duration::from_millis(REPLY_MS),
    }
}

/// A POST of JSON.
pub fn post(url: &str, body: &Value) -> Request {
    Request { body: body.to_string(), ..request("POST", url) }
}

/// Text as a part of a path or query.
pub fn encode(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// A good answer: JSON as the HTTP API has it, without the line's end.
pub struct Document {
    pub bytes: Vec<u8>,
    pub value: Value,
}

/// Answers a request.
///
/// # Errors
/// As the limiter's or the server's answer says; `unreachable` when there is no server where one was named.
pub fn ask(global: &Global, access: Access, request: &Request) -> Result<Document> {
    Session::open(global, access)?.last(request)
}

/// Several requests to one place.
pub enum Session {
    Embedded(Limiter),
    Served { address: Address, token: Option<String>, connection: Option<Connection> },
}

impl Session {
    /// Finds where requests are answered. A command that holds the directory for a moment is waited for, and so is a
    /// server that starts or stops; an application that keeps it is told of.
    ///
    /// # Errors
    /// As for opening the directory; `unreachable`.
    pub fn open(global: &Global, access: Access) -> Result<Session> {
        // A file that can't be read is told of, also where no token is needed; one that no header can carry is not.
        global.tokens()?;
        if let Some((address, _)) = global.server()? {
            let connection = Connection::open(&address).map_err(|failed| failed.error)?;
            return Ok(Session::Served { address, token: global.token()?, connection: Some(connection) });
        }
        let deadline = Instant::now() + Duration::from_millis(LOCK_WAIT_MS);
        loop {
            let late = Instant::now() >= deadline;
            let locked = match Limiter::open(&global.dir, Options { access, ..Options::default() }) {
                Ok(limiter) => return Ok(Session::Embedded(limiter)),
                Err(error) if error.kind() == Kind::Locked => error,
                Err(error) => return Err(error),
            };
            // The note counts while its writer holds the lock, and no longer: readers may hold it too.
            match crate::store::writer(&global.dir).and_then(|writer| writer.url) {
                Some(url) => {
                    let address = Address::parse(&url, "the address in flint.lock")?;
                    match Connection::open(&address) {
                        Ok(connection) => {
                            let token = global.token()?;
                            return Ok(Session::Served { address, token, connection: Some(connection) });
                        }
                        // It has just stopped listening, and will let go of the lock.
                        Err(failed) if failed.refused && !late => {}
                        Err(failed) => return Err(failed.error),
                    }
                }
                None if late => return Err(locked),
                None => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Answers one request of several.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn ask(&mut self, request: &Request) -> Result<Document> {
        match self {
            Session::Embedded(limiter) => {
                let reply =
                    crate::server::answer(Sources::of(limiter), request.method, &request.url, request.body.as_bytes());
                document(reply.status, reply.body, None)
            }
            Session::Served { address, token, connection } => {
                let connection = match connection.take() {
                    Some(connection) => connection,
                    None => Connection::open(address).map_err(|failed| failed.error)?,
                };
                let (status, body) = connection.send(request, token.as_deref())?;
                document(status, body, Some((address, token.is_some())))
            }
        }
    }

    /// Answers the last request, and closes the directory: an answer counts when the log is closed in good order.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn last(mut self, request: &Request) -> Result<Document> {
        let document = self.ask(request)?;
        if let Session::Embedded(limiter) = &self {
            limiter.close()?;
        }
        Ok(document)
    }
}

fn document(status: u16, mut bytes: Vec<u8>, server: Option<(&Address, bool)>) -> Result<Document> {
    bytes.truncate(bytes.trim_ascii_end().len());
    let value: Option<Value> = serde_json::from_slice(&bytes).ok();
    match value {
        Some(value) if status == 200 => Ok(Document { bytes, value }),
        value => Err(refusal(status, &value.unwrap_or_default(), server)),
    }
}

/// The error that a reply tells of.
fn refusal(status: u16, body: &Value, server: Option<(&Address, bool)>) -> Error {
    let kind = body["code"].as_str().and_then(Kind::from_code);
    match (server, kind, body["error"].as_str()) {
        (Some((address, with_token)), _, _) if status == 401 => Error::new(
            Kind::Unauthorized,
            match with_token {
                true => format!("the server at {address} refuses this token; give it one of its own"),
                false => {
                    format!("the server at {address} wants a token; give it with --token-file or FLINT_SERVER_TOKEN")
                }
            },
        ),
        (_, Some(kind), Some(message)) => Error::new(kind, printable(message)),
        (Some((address, _)), _, message) => Error::new(
            Kind::Unreachable,
            format!(
                "the server at {address} answered HTTP status {status} and nothing that flint understands{}; is it a \
                 flint server?",
                message.map_or_else(String::new, |message| format!(" (`{}`)", excerpt(message)))
            ),
        ),
        (None, ..) => Error::new(Kind::Internal, format!("an answer with status {status} and no reason")),
    }
}

/// A server's sentence, on one line. None of ours is longer than a key and some words.
fn printable(message: &str) -> String {
    message.chars().take(4096).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The error for an answer that lacks what it should hold.
pub fn not_understood() -> Error {
    Error::new(Kind::Unreachable, "the server's answer lacks what it should hold; is it a flint server?")
}
