//! Holds that are to last longer.

use std::time::Duration;

use super::hold::validate_ttl;
use super::known::Locked;
use crate::error::{Error, Kind, Result};
use crate::limiter::answers::Hold;
use crate::limiter::check::all::note_held;
use crate::limiter::check::room::Room;
use crate::limiter::check::wait::{NonBlocking, Wait};
use crate::limiter::core::Limiter;
use crate::store::record::{Event, MAX_FIXED};

impl Limiter {
    /// Extends a hold to `ttl` from now, by default for as long as it was made for.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let limiter = flint::Limiter::open(dir.path(), flint::Options::default())?;
    /// use std::time::Duration;
    ///
    /// limiter.configure("tokens", "100/1m".parse()?)?;
    /// let hold = limiter.hold("tokens", 10, Duration::from_secs(60))?.hold.unwrap();
    /// let renewed = limiter.renew(&hold.id, Some(Duration::from_secs(3600)))?;
    /// assert!(renewed.expires_at > hold.expires_at);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `hold_not_found`, `hold_expired` if it has expired, `hold_settled`; `log_failed` and `overloaded`, after
    /// which it may have been renewed.
    pub fn renew(&self, hold: &str, ttl: Option<Duration>) -> Result<Hold> {
        self.renew_for(hold, ttl, None)
    }

    /// [`Limiter::renew`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn renew_for(&self, hold: &str, ttl: Option<Duration>, non_blocking: Option<&NonBlocking<'_>>) -> Result<Hold> {
        let core = &*self.core;
        let ttl = ttl.map(validate_ttl).transpose()?;
        let known = core.known(hold, non_blocking)?;
        let wait = Wait::by(core.sync, non_blocking);
        let mut room = Room::new(core.reserve_for(non_blocking, 1, MAX_FIXED)?, MAX_FIXED);
        let mut shards = core.shards_of(&known);
        let Locked { mut tables, mut book, now, pledge } = core.lock_hold(known.number, &mut shards, non_blocking)?;
        if pledge.settlement.is_some() {
            return Err(Error::new(Kind::HoldSettled, "the hold was settled before, so it can't be renewed"));
        }
        if pledge.is_late(now) {
            return Err(Error::new(
                Kind::HoldExpired,
                "the hold has expired, so it can't be renewed; settle it if work was done, and make another",
            ));
        }
        let ttl = ttl.unwrap_or(pledge.ttl);
        let (number, until) = (pledge.number, now + ttl);
        room.append(core, &Event::Renewed { hold: number, until }, 0, &wait)?;
        book.renew(number, until);
        note_held(&mut tables, &book, &pledge.items);
        drop(book);
        drop(tables);
        drop(room);
        core.finish(&wait)?;
        Ok(core.told_hold(number, until, ttl))
    }
}
