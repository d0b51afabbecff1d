//! Waiting for replicas.

use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::connection::Connection;
use super::error::LinkError;
use super::places::place::Place;
use super::wire::{pack, reply};

/// What is asked after writes: `WAIT`, and `WAITAOF` in the same pipeline where the server may have it. The two
/// together are quicker than `WAITAOF` by itself, which on an idle link waits for the replica's next report.
pub struct Wait {
    replicas: u32,
    patience: Duration,
    disks: bool,
}

/// How many replicas have confirmed, where these are too few.
#[derive(Debug, PartialEq, Eq)]
pub struct TooFew {
    pub confirmed: i64,
    /// Whether they have it in memory, and not on disk.
    pub in_memory: bool,
}

impl Wait {
    pub fn new(replicas: u32, patience: Duration, place: &Place) -> Wait {
        Wait { replicas, patience, disks: place.may_have_waitaof() }
    }

    pub fn pack(&self, into: &mut Vec<u8>) {
        let patience = (self.patience.as_millis().max(1)).to_string();
        let replicas = self.replicas.to_string();
        pack::whole(into, &[b"WAIT", replicas.as_bytes(), patience.as_bytes()]);
        if self.disks {
            pack::whole(into, &[b"WAITAOF", b"1", replicas.as_bytes(), patience.as_bytes()]);
        }
    }

    /// Reads the replies. None: enough of them have confirmed.
    pub fn read(
        &self,
        connection: &mut Connection,
        place: &Place,
        until: Instant,
    ) -> Result<Option<TooFew>, LinkError> {
        let in_memory = connection.receive(until)?;
        let on_disk = if self.disks { Some(connection.receive(until)?) } else { None };
        let Some(confirmed) = reply::number(&in_memory) else { return Err(connection.not_understood("WAIT")) };
        if confirmed < i64::from(self.replicas) {
            return Ok(Some(TooFew { confirmed, in_memory: false }));
        }
        let Some(on_disk) = on_disk else { return Ok(None) };
        match on_disk {
            // It has no such command, or no append-only file.
            Reply::ServerError(_) => place.set_waitaof(false),
            Reply::Array(items) => {
                place.set_waitaof(true);
                let confirmed = items.get(1).and_then(reply::number).unwrap_or(0);
                let own = items.first().and_then(reply::number).unwrap_or(0);
                if own < 1 || confirmed < i64::from(self.replicas) {
                    return Ok(Some(TooFew { confirmed, in_memory: true }));
                }
            }
            _ => return Err(connection.not_understood("WAITAOF")),
        }
        Ok(None)
    }

    /// What a write is told, and what everybody is told from then on.
    pub fn errors(&self, few: &TooFew, place: &Place) -> (LinkError, LinkError) {
        let (server, wanted, waited) = (place.endpoint(), self.replicas, self.patience.as_millis());
        let disk = if few.in_memory { " on its disk (appendonly on the replicas too?)" } else { "" };
        let confirmed = few.confirmed;
        let now = LinkError::new(
            super::error::ErrorKind::TooFewReplicas,
            format!(
                "it is written on the store {server}, but only {confirmed} of {wanted} replicas confirmed it{disk} within \
                 {waited} ms: it may be lost with that server, and what is sent again counts again"
            ),
        );
        let later = LinkError::unavailable(format!(
            "the store {server} has too few replicas: {confirmed} of {wanted} confirm what is written{disk}; nothing was \
             written"
        ));
        (now, later)
    }
}
