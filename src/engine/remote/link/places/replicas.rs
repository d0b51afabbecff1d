//! Waiting for replicas.

use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::super::connection::Connection;
use super::super::error::{ErrorKind, LinkError};
use super::super::wire::{pack, reply};
use super::place::Place;

/// What is asked after writes: `WAIT`, and `WAITAOF` in the same pipeline where the server may have it. The two
/// together are quicker than `WAITAOF` by itself, which on an idle link waits for the replica's next report.
pub struct Wait {
    replicas: u32,
    patience: Duration,
    /// How long for the disks, after that; None: these are not asked for.
    disks: Option<Duration>,
}

/// How many replicas have confirmed, where these are too few.
#[derive(Debug, PartialEq, Eq)]
pub struct TooFew {
    pub confirmed: i64,
    /// Whether they have it in memory, and not on disk.
    pub in_memory: bool,
}

impl Wait {
    /// For so long at most. A replica that syncs its disk each second takes a second to confirm; one that is gone
    /// should not take that long to be missed.
    pub fn new(replicas: u32, patience: Duration, place: &Place) -> Wait {
        match place.may_have_waitaof() {
            true => Wait { replicas, patience: patience / 4, disks: Some(patience * 3 / 4) },
            false => Wait::in_memory(replicas, patience / 2),
        }
    }

    /// The same without their disks.
    pub fn in_memory(replicas: u32, patience: Duration) -> Wait {
        Wait { replicas, patience, disks: None }
    }

    pub fn pack(&self, into: &mut Vec<u8>) {
        // 0 would be for ever.
        let text = |patience: Duration| patience.as_millis().max(1).to_string();
        let replicas = self.replicas.to_string();
        pack::whole(into, &[b"WAIT", replicas.as_bytes(), text(self.patience).as_bytes()]);
        if let Some(patience) = self.disks {
            pack::whole(into, &[b"WAITAOF", b"1", replicas.as_bytes(), text(patience).as_bytes()]);
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
        let on_disk = self.disks.map(|_| connection.receive(until)).transpose()?;
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
        let patience = self.disks.filter(|_| few.in_memory).unwrap_or(self.patience);
        let (server, wanted, waited) = (place.endpoint(), self.replicas, patience.as_millis());
        let disk = if few.in_memory { " on its disk (appendonly on the replicas too?)" } else { "" };
        let confirmed = few.confirmed;
        let now = LinkError::new(
            ErrorKind::TooFewReplicas,
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
