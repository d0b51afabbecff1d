//! Backups, made in parts as their clients take them.
//!
//! A client that may ask for one reads every key and limit: an endpoint for administrators only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::http::more::More;
use super::super::http::reply::Reply;
use super::body;
use super::call::{Answer, Call};
use crate::bounds::{BACKUP_BYTES_PER_SECOND, BACKUP_MS, MAX_BACKUPS};
use crate::error::{Error, Kind, Result};
use crate::limiter::Backup;

/// Backups that are under way.
static BACKUPS: AtomicUsize = AtomicUsize::new(0);

/// Counts one of them, until it is dropped.
struct Permit;

impl Permit {
    fn take() -> Result<Permit> {
        let others = BACKUPS.fetch_add(1, Ordering::Relaxed);
        let permit = Permit;
        if others < MAX_BACKUPS {
            return Ok(permit);
        }
        let what = format!("{MAX_BACKUPS} backups are already being taken; try again when one of them has ended");
        Err(Error::new(Kind::Overloaded, what))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        BACKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Rest {
    backup: Backup,
    _permit: Permit,
}

impl More for Rest {
    fn next(&mut self, out: &mut Vec<u8>) -> bool {
        self.backup.next_part(out)
    }
}

/// How long a client may take for this many bytes.
fn patience(bytes: u64) -> Duration {
    Duration::from_millis(BACKUP_MS) + Duration::from_secs(bytes / BACKUP_BYTES_PER_SECOND)
}

pub fn backup(call: &Call<'_>) -> Answer {
    body::parse_empty(call.body)?;
    let permit = Permit::take()?;
    let limiter = call.sources.engine.local().ok_or_else(|| {
        Error::invalid("there is no log to copy: the limits are in a store; use its own backups, or flint store export")
    })?;
    let backup = limiter.backup()?;
    let time = patience(backup.bytes());
    let mut rest = Rest { backup: backup.within(time), _permit: permit };
    let mut out = Vec::new();
    rest.next(&mut out);
    Ok(Reply { more: Some(Box::new(rest)), ..Reply::new(200, "application/octet-stream", out) })
}
