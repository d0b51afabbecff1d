//! One connection to one server, with time-outs.
//!
//! Owns: a socket, by way of the crate `redis`, and what a server says of itself when it is greeted. Nothing is sent
//! again here: a connection that has failed is of no use any more, and is dropped.

use std::time::{Duration, Instant};

use redis::{Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, Value as Reply};

use super::address::{Address, Endpoint, Login};
use super::error::{LinkError, Verdict, broken, verdict};
use super::wire::script::{self, Scripts};
use super::wire::{pack, reply};
use crate::bounds::STORE_CONNECT_MS;
use crate::clock::Micros;

/// What a server is to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Master,
    Replica,
    /// It does not say: the user may not ask.
    Unknown,
}

/// A connection that was greeted.
pub struct Connection {
    inner: redis::Connection,
    server: Endpoint,
    /// Time-outs as they are set.
    set: Duration,
    pub scripts: Scripts,
    pub role: Role,
}

/// How a store's servers are connected to.
#[derive(Clone)]
pub struct Dialing {
    login: Login,
    db: u32,
    tls: bool,
}

impl Dialing {
    /// To the servers of an address.
    pub fn to_servers(address: &Address) -> Dialing {
        Dialing { login: address.login().clone(), db: address.db(), tls: address.tls() }
    }

    /// To its Sentinels.
    pub fn to_sentinels(address: &Address, login: &Login) -> Dialing {
        Dialing { login: login.clone(), db: 0, tls: address.tls() }
    }

    /// Connects, which takes [`STORE_CONNECT_MS`] at most for each of the host's addresses; how long a resolver of
    /// names takes is its own affair.
    fn dial(&self, server: &Endpoint, until: Instant) -> Result<redis::Connection, LinkError> {
        let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(STORE_CONNECT_MS));
        if left.is_zero() {
            return Err(LinkError::unavailable(format!("there was no time left to connect to the store {server}")));
        }
        let (host, port) = (server.host.clone(), server.port);
        let place = match self.tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        // Password and database are told after, together with all else: the crate takes any error for a wrong password.
        let settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let open = || {
            let info = place.into_connection_info()?;
            let tcp = info.tcp_settings().clone().set_nodelay(true);
            Client::open(info.set_redis_settings(settings).set_tcp_settings(tcp))?.get_connection_with_timeout(left)
        };
        open().map_err(|error| broken(&error, server))
    }
}

/// Requests of a greeting, in their order.
struct Greeting {
    packed: Vec<u8>,
    auth: bool,
    select: bool,
    full: bool,
}

impl Greeting {
    fn new(dialing: &Dialing, full: bool) -> Greeting {
        let mut packed = Vec::new();
        let (auth, select) = (dialing.login.password.is_some(), dialing.db > 0);
        if let Some(password) = &dialing.login.password {
            match &dialing.login.user {
                Some(user) => pack::whole(&mut packed, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
                None => pack::whole(&mut packed, &[b"AUTH", password.as_bytes()]),
            }
        }
        if select {
            pack::whole(&mut packed, &[b"SELECT", dialing.db.to_string().as_bytes()]);
        }
        if full {
            pack::whole(&mut packed, &[b"ROLE"]);
            pack::whole(&mut packed, &[b"TIME"]);
            for text in script::texts() {
                pack::whole(&mut packed, &[b"SCRIPT", b"LOAD", text.as_bytes()]);
            }
        }
        Greeting { packed, auth, select, full }
    }
}

impl Connection {
    /// Connects to a server of the store: password, database, role, time and scripts in one exchange. Tells the time
    /// that it is there.
    pub fn greet(dialing: &Dialing, server: &Endpoint, until: Instant) -> Result<(Connection, Micros), LinkError> {
        Connection::open(dialing, server, until, true)
    }

    /// Connects to a Sentinel, which has no role, time and scripts.
    pub fn plain(dialing: &Dialing, server: &Endpoint, until: Instant) -> Result<Connection, LinkError> {
        Connection::open(dialing, server, until, false).map(|(connection, _)| connection)
    }

    fn open(
        dialing: &Dialing,
        server: &Endpoint,
        until: Instant,
        full: bool,
    ) -> Result<(Connection, Micros), LinkError> {
        let until = until.min(Instant::now() + Duration::from_millis(STORE_CONNECT_MS));
        let inner = dialing.dial(server, until)?;
        let scripts = Scripts { exchange: Vec::new(), batch: Vec::new(), prune: Vec::new() };
        let (server, set, role) = (server.clone(), Duration::ZERO, Role::Unknown);
        let mut connection = Connection { inner, server, set, scripts, role };
        let greeting = Greeting::new(dialing, full);
        if greeting.packed.is_empty() {
            return Ok((connection, 0));
        }
        connection.send(&greeting.packed, until)?;
        let time = connection.greeted(&greeting, until)?;
        Ok((connection, time))
    }

    /// Reads the replies to a greeting. All of them are read, so that the first error is the one that matters.
    fn greeted(&mut self, greeting: &Greeting, until: Instant) -> Result<Micros, LinkError> {
        if greeting.auth {
            self.told(until)?;
        }
        if greeting.select {
            let selected = self.receive(until)?;
            if let Reply::ServerError(error) = &selected {
                return Err(match verdict(error, &self.server) {
                    Verdict::Fails(error) if error.message().contains("ERR") => LinkError::refused(format!(
                        "the store {} has no such database; name another after the `/`",
                        self.server
                    )),
                    other => self.failure(other),
                });
            }
        }
        if !greeting.full {
            return Ok(0);
        }
        let role = self.receive(until)?;
        self.role = match &role {
            Reply::ServerError(error) => match verdict(error, &self.server) {
                // Managed servers keep ROLE to themselves; that a user may not ask is no reason to go.
                Verdict::Fails(error) if !error.message().contains("password") => Role::Unknown,
                other => return Err(self.failure(other)),
            },
            Reply::Array(items) => match items.first().and_then(reply::text) {
                Some("master") => Role::Master,
                Some("slave") => Role::Replica,
                _ => Role::Unknown,
            },
            _ => Role::Unknown,
        };
        let time = self.told(until)?;
        let time = reply::time(&time).ok_or_else(|| self.not_understood("TIME"))?;
        let mut loaded = Vec::new();
        for _ in script::texts() {
            let digest = self.told(until)?;
            let digest = reply::text(&digest).ok_or_else(|| self.not_understood("SCRIPT LOAD"))?;
            loaded.push(digest.as_bytes().to_vec());
        }
        let [exchange, batch, prune] = <[Vec<u8>; 3]>::try_from(loaded).unwrap_or_default();
        self.scripts = Scripts { exchange, batch, prune };
        Ok(time)
    }

    /// Loads the scripts again: a server forgets them at SCRIPT FLUSH and at its restart.
    pub fn load(&mut self, until: Instant) -> Result<(), LinkError> {
        let mut packed = Vec::new();
        let texts = script::texts();
        texts.iter().for_each(|text| pack::whole(&mut packed, &[b"SCRIPT", b"LOAD", text.as_bytes()]));
        self.send(&packed, until)?;
        texts.iter().try_for_each(|_| self.told(until).map(drop))
    }

    /// Asks one thing and waits for the reply, which is no error.
    pub fn ask(&mut self, request: &[&[u8]], until: Instant) -> Result<Reply, LinkError> {
        let reply = self.try_ask(request, until)?;
        self.no_error(reply)
    }

    /// Asks one thing and waits for the reply, which may be an error of the server's.
    pub fn try_ask(&mut self, request: &[&[u8]], until: Instant) -> Result<Reply, LinkError> {
        let mut packed = Vec::new();
        pack::whole(&mut packed, request);
        self.send(&packed, until)?;
        self.receive(until)
    }

    /// Sends bytes. After an error some of them may have arrived.
    pub fn send(&mut self, packed: &[u8], until: Instant) -> Result<(), LinkError> {
        self.allow(until)?;
        self.inner.send_packed_command(packed).map_err(|error| broken(&error, &self.server))
    }

    /// Waits for the next reply.
    pub fn receive(&mut self, until: Instant) -> Result<Reply, LinkError> {
        self.allow(until)?;
        self.inner.recv_response().map_err(|error| broken(&error, &self.server))
    }

    /// What a reply that can't be read means.
    pub fn not_understood(&self, what: &str) -> LinkError {
        LinkError::unavailable(format!("the store {} answers {what} in a way that is not understood", self.server))
    }

    fn told(&mut self, until: Instant) -> Result<Reply, LinkError> {
        let reply = self.receive(until)?;
        self.no_error(reply)
    }

    fn no_error(&self, reply: Reply) -> Result<Reply, LinkError> {
        match reply {
            Reply::ServerError(error) => Err(self.failure(verdict(&error, &self.server))),
            reply => Ok(reply),
        }
    }

    fn failure(&self, verdict: Verdict) -> LinkError {
        match verdict {
            Verdict::Away(error) | Verdict::Demoted(error) | Verdict::Fails(error) => error,
            other => LinkError::unavailable(format!("the store {} answers {other:?}", self.server)),
        }
    }

    /// Sets the socket's time-outs to what is left, where they differ by more than an eighth: two calls of the system.
    fn allow(&mut self, until: Instant) -> Result<(), LinkError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::unavailable(format!("the store {} does not answer in time", self.server)));
        }
        if self.set < left - left / 8 || self.set > left + left / 8 {
            let set = self.inner.set_read_timeout(Some(left)).and(self.inner.set_write_timeout(Some(left)));
            set.map_err(|error| broken(&error, &self.server))?;
            self.set = left;
        }
        Ok(())
    }
}
