//! What a master says of itself, for `flint doctor`.

use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::connection::Connection;
use super::error::LinkError;
use super::exchange::Link;
use super::wire::reply;

/// What a master says of itself; None where it may not be asked (managed ones forbid CONFIG) or does not say.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// `host:port`.
    pub server: String,
    /// `redis` or `valkey`, and its version.
    pub software: Option<(String, String)>,
    /// `noeviction` is what Flint needs: with any other policy limits vanish when memory is full.
    pub maxmemory_policy: Option<String>,
    /// In bytes; 0: no bound.
    pub maxmemory: Option<u64>,
    /// In bytes.
    pub used_memory: Option<u64>,
    pub appendonly: Option<bool>,
    /// `always`, `everysec` or `no`.
    pub appendfsync: Option<String>,
    /// Whether it is a master.
    pub master: Option<bool>,
    /// Replicas that are connected.
    pub replicas: Option<u32>,
    /// Whether it waits for replicas' disks too (`WAITAOF`). Known once it was asked for.
    pub waitaof: Option<bool>,
    /// The time of an exchange that does nothing.
    pub round_trip: Duration,
}

impl Link {
    /// What each master says of itself.
    pub fn facts(&mut self, deadline: Instant) -> Result<Vec<Facts>, LinkError> {
        self.carrier.each_master(deadline, |connection, place| {
            let begun = Instant::now();
            connection.ask(&[b"PING"], deadline)?;
            let round_trip = begun.elapsed();
            let mut facts = Facts { server: place.endpoint().to_string(), round_trip, ..Facts::default() };
            facts.waitaof = place.waitaof();
            facts.read_info(connection, deadline)?;
            facts.read_settings(connection, deadline)?;
            Ok(facts)
        })
    }
}

impl Facts {
    fn read_info(&mut self, connection: &mut Connection, deadline: Instant) -> Result<(), LinkError> {
        let info = connection.try_ask(&[b"INFO"], deadline)?;
        let text = reply::text(&info).unwrap_or_default();
        let line = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(|value| value.trim().to_owned())
        };
        // Valkey says it is a Redis too, of the version that it is compatible with.
        let valkey = line("valkey_version").map(|version| ("valkey".to_owned(), version));
        self.software = valkey.or_else(|| line("redis_version").map(|version| ("redis".to_owned(), version)));
        self.used_memory = line("used_memory").and_then(|number| number.parse().ok());
        self.maxmemory = line("maxmemory").and_then(|number| number.parse().ok());
        self.maxmemory_policy = line("maxmemory_policy");
        self.appendonly = line("aof_enabled").map(|on| on == "1");
        self.master = line("role").map(|role| role == "master");
        self.replicas = line("connected_slaves").and_then(|number| number.parse().ok());
        Ok(())
    }

    fn read_settings(&mut self, connection: &mut Connection, deadline: Instant) -> Result<(), LinkError> {
        let reply = connection.try_ask(&[b"CONFIG", b"GET", b"appendfsync"], deadline)?;
        if !matches!(reply, Reply::ServerError(_)) {
            self.appendfsync = reply::field(&reply, "appendfsync").and_then(reply::text).map(str::to_owned);
        }
        Ok(())
    }
}
