//! The search for what answers a command's requests: this process, on the data directory itself, or the server that
//! owns it.
//!
//! Owns: that choice. Called by the commands. Both ways take the same request and give the same JSON, since both go
//! through the routes of `server`: what a command prints can't depend on where it was answered.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Connection, Download, Request};
use crate::bounds::LOCK_WAIT_MS;
use crate::cli::answer::Document;
use crate::cli::options::{Address, Global};
use crate::cli::output::printable;
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;
use crate::limiter::{Access, Limiter, Options};

/// Answers a request.
///
/// # Errors
/// As the limiter's or the server's answer says; `unreachable` when there is no server where one was named.
pub fn ask(global: &Global, access: Access, request: &Request) -> Result<Document> {
    Session::open(global, access)?.last(request)
}

/// What answers requests: this process, by what it has opened, or a server.
enum Place<T> {
    Here(T),
    Served(Address, Connection),
}

/// Finds it. What `open` says of a directory that is locked counts only where no server is found.
fn find<T>(global: &Global, open: impl Fn() -> Result<T>) -> Result<Place<T>> {
    // A token file that can't be read is an error also where no token is needed.
    global.tokens()?;
    if let Some((address, _)) = global.server()? {
        let connection = Connection::open(&address).map_err(|failed| failed.error)?;
        return Ok(Place::Served(address, connection));
    }
    let deadline = Instant::now() + Duration::from_millis(LOCK_WAIT_MS);
    loop {
        let late = Instant::now() >= deadline;
        let locked = match open() {
            Ok(opened) => return Ok(Place::Here(opened)),
            Err(error) if error.kind() == Kind::Locked => error,
            Err(error) => return Err(error),
        };
        // The URL in the file counts only while the process that wrote it holds the lock; readers may hold it too.
        match crate::store::writer(&global.dir).and_then(|writer| writer.url) {
            Some(url) => {
                let address = Address::parse(&url, "the address in flint.lock")?;
                match Connection::open(&address) {
                    Ok(connection) => return Ok(Place::Served(address, connection)),
                    // It has just stopped listening, and will release the lock.
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

/// The bytes that `open` gives where this process may open the directory, else those of a server's reply; and what
/// messages call them.
///
/// # Errors
/// As for [`Session::open`], as `open` says, and as the server's answer says.
pub fn download<R: Read + 'static>(
    global: &Global,
    request: &Request,
    open: impl Fn() -> Result<R>,
) -> Result<(Box<dyn Read>, String)> {
    match find(global, open)? {
        Place::Here(bytes) => Ok((Box::new(bytes), format!("the copy of {}", global.dir.display()))),
        Place::Served(address, connection) => {
            let token = global.token()?;
            match connection.download(request, token.as_deref())? {
                Download::Body(body) => Ok((Box::new(body), format!("the copy from the server at {address}"))),
                Download::Refused(status, body) => {
                    let value = serde_json::from_slice(&body).unwrap_or_default();
                    Err(refusal(status, &value, Some((&address, token.is_some()))))
                }
            }
        }
    }
}

/// Several requests to one place.
pub enum Session {
    Embedded(Limiter),
    Served { address: Address, token: Option<String>, connection: Option<Connection> },
}

impl Session {
    /// Finds where requests are answered. Waits for a command that holds the directory for a moment, and for a server
    /// that starts or stops; an application that keeps the directory is an error.
    ///
    /// # Errors
    /// As for opening the directory; `unreachable`.
    pub fn open(global: &Global, access: Access) -> Result<Session> {
        match find(global, || Limiter::open(&global.dir, Options { access, ..Options::default() }))? {
            Place::Here(limiter) => Ok(Session::Embedded(limiter)),
            Place::Served(address, connection) => {
                Ok(Session::Served { address, token: global.token()?, connection: Some(connection) })
            }
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
                    crate::server::answer_locally(limiter, request.method, &request.url, request.body.as_bytes());
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
    match serde_json::from_slice::<Value>(&bytes).ok() {
        Some(value) if status == 200 => Ok(Document { bytes, value }),
        value => Err(refusal(status, &value.unwrap_or_default(), server)),
    }
}

/// The error that a reply holds.
fn refusal(status: u16, body: &Value, server: Option<(&Address, bool)>) -> Error {
    let message = body["error"].as_str();
    match (server, body["code"].as_str().and_then(Kind::from_code), message) {
        (Some((address, with_token)), ..) if status == 401 => {
            let what = match with_token {
                true => "refuses this token; give it one of its own",
                false => "wants a token; give it with --token-file or FLINT_SERVER_TOKEN",
            };
            Error::new(Kind::Unauthorized, format!("the server at {address} {what}"))
        }
        // On one line. No message of flint's own is longer than a key and some words.
        (_, Some(kind), Some(message)) => Error::new(kind, printable(&message.chars().take(4096).collect::<String>())),
        (Some((address, _)), ..) => {
            let said = message.map_or_else(String::new, |message| format!(" (`{}`)", excerpt(message)));
            let what = format!("answered HTTP status {status} and nothing that flint understands{said}");
            Error::new(Kind::Unreachable, format!("the server at {address} {what}; is it a flint server?"))
        }
        (None, ..) => Error::new(Kind::Internal, format!("an answer with status {status} and no reason")),
    }
}
