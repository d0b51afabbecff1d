//! The search for what answers a command's requests: this process, on the data directory itself, or the server that
//! owns it.
//!
//! Owns: that choice. Called by the commands. Both ways take the same request and give the same JSON, since both go
//! through the routes of `server`: what a command prints can't depend on where it was answered.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Connection, Download, Request};
use crate::bounds::QUEUE_WAIT_MS;
use crate::cli::answer::Document;
use crate::cli::options::{Address, Global};
use crate::cli::output::{length, printable};
use crate::error::{Error, Kind, Result};
use crate::limit::excerpt;
use crate::limiter::{Access, Limiter, Options};
use crate::server::TokenFile;
use crate::store::{Queue, first_in_queue, owner, writer};

/// How long a command waits for the data directory.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    pub most: Duration,
    /// Tells that it is to wait no longer; looked at every half second.
    pub is_over: Option<&'a dyn Fn() -> bool>,
}

/// How long a command waits by default.
pub const PATIENCE: Patience<'static> = Patience::of(Duration::from_millis(QUEUE_WAIT_MS));

impl<'a> Patience<'a> {
    pub const fn of(most: Duration) -> Patience<'static> {
        Patience { most, is_over: None }
    }

    /// It is over before that where this says so.
    pub fn unless(self, is_over: Option<&'a dyn Fn() -> bool>) -> Patience<'a> {
        Patience { is_over, ..self }
    }
}

/// How often a command that waits in the queue looks whether a server has started, and whether it is to go on.
const LOOK_FOR_SERVER: Duration = Duration::from_secs(1);
const LOOK_FOR_END: Duration = Duration::from_millis(500);

/// Pauses between two tries of the first in the queue.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Answers a request.
///
/// # Errors
/// As the limiter's or the server's answer says; `unreachable` when there is no server where one was named.
pub fn ask(global: &Global, access: Access, request: &Request) -> Result<Document> {
    Session::open(global, access)?.last(request)
}

/// As [`ask`], with a time to wait for the directory.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(global: &Global, access: Access, patience: Patience<'_>, request: &Request) -> Result<Document> {
    Session::open_within(global, access, patience)?.last(request)
}

/// What answers requests: this process, by what it has opened and with its place in the queue, or a server.
enum Place<T> {
    Here(T, Option<Queue>),
    Served(Address, Connection),
}

/// Finds it. Commands that need the directory at the same time queue for it. Only the first tries to open it, which a
/// server, an application or a reader may keep from it for a while; a server that listens in the meantime takes over
/// all of them.
fn find<T>(global: &Global, access: Access, patience: Patience<'_>, open: impl Fn() -> Result<T>) -> Result<Place<T>> {
    // A token file that can't be read is an error even if no token is needed.
    global.token_source().map(TokenFile::read).transpose()?;
    let served = |connection, address| Ok(Place::Served(address, connection));
    if let Some((address, _)) = global.server()? {
        // Before it is reached: a token that can't be sent is the caller's mistake.
        global.token()?;
        return served(Connection::open(&address).map_err(|failed| failed.error)?, address);
    }
    let dir = &global.dir;
    let deadline = Instant::now() + patience.most;
    let is_over = || patience.is_over.is_some_and(|is_over| is_over());
    let look_after = if patience.is_over.is_some() { LOOK_FOR_END } else { LOOK_FOR_SERVER };
    let mut queue = None;
    let mut pause = SHORTEST_PAUSE;
    loop {
        let left = if is_over() { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
        // The URL in the file counts only while the process that wrote it holds the lock. The lock is looked at
        // only where there is a URL: to look at it is to hold it for a moment.
        if let Some(url) = owner(dir).url.and_then(|_| writer(dir)).and_then(|writer| writer.url) {
            let address = Address::parse(&url, "the address in flint.lock")?;
            match Connection::open(&address) {
                Ok(connection) => return served(connection, address),
                // It has just stopped listening, and will release the lock.
                Err(failed) if failed.refused && !left.is_zero() => {}
                Err(failed) => return Err(failed.error),
            }
        }
        let place = queue.get_or_insert_with(|| Queue::join(dir, access != Access::Read));
        if place.wait(left.min(look_after)) {
            let locked = match open() {
                // Readers go together: the next in the queue may try.
                Ok(opened) => return Ok(Place::Here(opened, queue.filter(|_| access != Access::Read))),
                Err(error) if error.kind() == Kind::Locked => error,
                Err(error) => return Err(error),
            };
            if left.is_zero() {
                return Err(late(locked.message(), patience.most));
            }
            // The first command has made the directory in the meantime, and the queue with it.
            if place.is_absent() {
                queue = None;
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else if left.is_zero() {
            let first = first_in_queue(dir);
            let holder = writer(dir).and_then(|writer| writer.pid).or(first);
            let by = holder.map_or_else(String::new, |pid| format!(" (by process {pid})"));
            return Err(late(&format!("data directory is already locked: {}{by}", dir.display()), patience.most));
        }
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
    match find(global, Access::Read, PATIENCE, open)? {
        Place::Here(bytes, _) => Ok((Box::new(bytes), format!("the copy of {}", global.dir.display()))),
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
    /// The place in the queue is given up after the directory is closed.
    Embedded(Limiter, #[expect(dead_code, reason = "it keeps the place")] Option<Queue>),
    Served {
        address: Address,
        token: Option<String>,
        connection: Option<Connection>,
    },
}

impl Session {
    /// Finds where requests are answered, as [`Session::open_within`] does in the usual time.
    ///
    /// # Errors
    /// As [`Session::open_within`].
    pub fn open(global: &Global, access: Access) -> Result<Session> {
        Session::open_within(global, access, PATIENCE)
    }

    /// The same, with a time to wait for the directory.
    ///
    /// # Errors
    /// As for opening the directory; `locked` when it was not available within `patience`; `unreachable`.
    pub fn open_within(global: &Global, access: Access, patience: Patience<'_>) -> Result<Session> {
        let open = || Limiter::open(&global.dir, Options { access, ..Options::default() });
        match find(global, access, patience, open)? {
            Place::Here(limiter, queue) => Ok(Session::Embedded(limiter, queue)),
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
            Session::Embedded(limiter, _) => {
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

    /// Answers the last request, and closes the directory: an answer counts when the log is closed cleanly.
    ///
    /// # Errors
    /// As [`ask`].
    pub fn last(mut self, request: &Request) -> Result<Document> {
        let document = self.ask(request)?;
        if let Session::Embedded(limiter, _) = &self {
            limiter.close()?;
        }
        Ok(document)
    }
}

/// The error for a directory that was not available in time.
fn late(locked: &str, patience: Duration) -> Error {
    let waited = length(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
    let advice = "check what that process is doing, or try again";
    Error::new(Kind::Locked, format!("{locked}, and was not released within {waited}; {advice}"))
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
                true => "refuses this token; use one of the server's tokens",
                false => "needs a token; give it with --token-file or FLINT_SERVER_TOKEN",
            };
            Error::new(Kind::Unauthorized, format!("the server at {address} {what}"))
        }
        // On one line. No message of flint's own is longer than a key and some words.
        (_, Some(kind), Some(message)) => Error::new(kind, printable(&message.chars().take(4096).collect::<String>())),
        (Some((address, _)), ..) => {
            let said = message.map_or_else(String::new, |message| format!(" (`{}`)", excerpt(message)));
            let what = format!("answered HTTP status {status} in a form that flint does not understand{said}");
            Error::new(Kind::Unreachable, format!("the server at {address} {what}; is it a flint server?"))
        }
        (None, ..) => Error::new(Kind::Internal, format!("an answer with status {status} and no reason")),
    }
}
