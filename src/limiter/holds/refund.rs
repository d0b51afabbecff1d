//! Units that are given back without a hold.

use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Live, validate_key};
use crate::limiter::answers::{Item, Status};
use crate::limiter::check::decide::Ask;
use crate::limiter::check::slots::refuse_slots;
use crate::limiter::check::wait::{NonBlocking, Wait};
use crate::limiter::core::{Core, Limiter, shard_of};
use crate::limiter::entry::Table;
use crate::limiter::kept::shelf::Kept;
use crate::limiter::kept::{Keep, Told};
use crate::limiter::lookup::changed;
use crate::store::Reservation;
use crate::store::encode::encoded_len;
use crate::store::record::{Event, MAX_FIXED, Spend};

/// How far a refund came.
enum Attempt {
    /// It is made; whether there was anything to give back.
    Done(bool),
    /// Nothing was changed: there is no room for records of this many bytes.
    Grow(usize),
    /// Nothing was changed: the key shares a limit that may be in another shard.
    Shares,
}

impl Limiter {
    /// Gives back units without a hold, never more than is used now: for a sliding log, the newest first; for a sliding
    /// counter, only those of its current window.
    ///
    /// # Errors
    /// `limit_not_configured`, `invalid_argument`; `log_failed` and `overloaded`, after which the units may have been
    /// given back.
    pub fn refund(&self, item: Item<'_>) -> Result<Status> {
        self.refund_for(item, None)
    }

    /// [`Limiter::refund`], without waiting if there is a `non_blocking`.
    #[doc(hidden)]
    pub fn refund_for(&self, item: Item<'_>, non_blocking: Option<&NonBlocking<'_>>) -> Result<Status> {
        self.core.refund_kept(&item, None, non_blocking)
    }
}

impl Core {
    /// Gives back to a key, and waits for the log. The answer is kept if something was given back, and if it is to be.
    pub fn refund_kept(
        &self,
        item: &Item<'_>,
        keep: Option<&mut Keep<'_>>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Status> {
        validate_key(item.key)?;
        if !(1..=MAX_UNITS).contains(&item.cost) {
            return Err(Error::invalid(format!("cost must be from 1 to {MAX_UNITS}, not {}", item.cost)));
        }
        let ask = self.ask(item);
        let wait = Wait::by(self.sync, non_blocking);
        let given = self.refund(&ask, keep, &wait, non_blocking)?;
        let status = self.status_by(item.key, ask.brought).ok_or_else(|| Error::not_configured(item.key))?;
        if given {
            self.finish(&wait)?;
        }
        Ok(status)
    }

    fn refund(
        &self,
        ask: &Ask<'_>,
        mut keep: Option<&mut Keep<'_>>,
        wait: &Wait<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<bool> {
        // A record of what is due, and that of the refund.
        let mut bytes = 2 * MAX_FIXED;
        let mut shares = false;
        loop {
            let mut reservation = self.reserve_for(non_blocking, 2, bytes)?;
            let attempt = match shares {
                false => {
                    let mut table = self.lock_for(non_blocking, shard_of(ask.hash))?;
                    self.refund_here(&mut table, ask, keep.as_deref_mut(), (&mut reservation, bytes), wait)?
                }
                true => {
                    let overflow = self.overflow(ask.key, ask.brought, self.version(self.clock.now()));
                    let overflow = overflow.ok_or_else(|| Error::not_configured(ask.key))?;
                    let mut table = self.lock_for(non_blocking, shard_of(overflow.hash))?;
                    let (place, of) = ((overflow.hash, &*overflow.key), (ask.cost, self.clock.now()));
                    let keep = keep.as_deref_mut();
                    self.refund_entry(&mut table, place, of, keep, (&mut reservation, bytes), wait)?
                }
            };
            match attempt {
                Attempt::Done(given) => return Ok(given),
                Attempt::Grow(more) => bytes = more,
                Attempt::Shares => shares = true,
            }
        }
    }

    fn refund_here(
        &self,
        table: &mut Table,
        ask: &Ask<'_>,
        keep: Option<&mut Keep<'_>>,
        room: (&mut Reservation<'_>, usize),
        wait: &Wait<'_>,
    ) -> Result<Attempt> {
        let now = self.clock.now();
        let version = self.version(now);
        self.forget_if_none(table, ask.hash, ask.key, now, version);
        let entry = table.get(ask.hash, ask.key);
        let served = self.served(entry.as_deref(), ask.key, ask.brought, now, version)?;
        refuse_slots(ask.key, served.in_force(entry.as_deref()))?;
        if entry.is_none() {
            // Of a key that is not there nothing counts, unless it shares a limit.
            return Ok(if self.may_be_full(&served, 0) { Attempt::Shares } else { Attempt::Done(false) });
        }
        self.refund_entry(table, (ask.hash, ask.key), (ask.cost, now), keep, room, wait)
    }

    /// Gives back to an entry, after what is due for it.
    fn refund_entry(
        &self,
        table: &mut Table,
        place: (u64, &str),
        (units, now): (u64, Micros),
        keep: Option<&mut Keep<'_>>,
        (reservation, most): (&mut Reservation<'_>, usize),
        wait: &Wait<'_>,
    ) -> Result<Attempt> {
        let (Some(entry), counts) = table.get_with_counts(place.0, place.1) else { return Ok(Attempt::Done(false)) };
        let id = entry.id();
        let log = self.log()?;
        let served = self.due(entry, now, self.version(now));
        let mut ends = Live::default();
        let mut to = served.as_ref().map_or_else(|| entry.clone(), |served| changed(entry, served, &mut ends));
        to.refund(now, units);
        let moved = served.as_ref().map(|served| {
            let spend = Spend { id, cost: 0, born: None, moves: served.moves(), ends: ends.0 };
            Event::SpentMore { at: now, items: vec![spend] }
        });
        let answer = keep.map(|keep| Kept {
            once: keep.once,
            at: now,
            answer: (keep.write)(Told::Stands(Some(&mut to.clone()))).into(),
        });
        let refunded = Event::Refunded { id, at: now, units };
        let event = match &answer {
            Some(kept) => kept.with(refunded),
            None => refunded,
        };
        // A record takes what is left of a reservation with it, if that is less than a record of fixed length
        // needs.
        let length = |event: &Event<'_>| encoded_len(event).max(MAX_FIXED);
        let bytes = moved.as_ref().map_or(MAX_FIXED, length) + length(&event);
        if bytes > most {
            return Ok(Attempt::Grow(bytes));
        }
        if let Some(moved) = &moved {
            self.settle_denials(entry);
            log.append(reservation, moved, None);
        }
        self.answers.keep_with(answer.as_ref(), || {
            log.append(reservation, &event, wait.pending());
            Ok(())
        })?;
        match &served {
            Some(served) => self.replace(entry, to, served, counts),
            None => *entry = to,
        }
        Ok(Attempt::Done(true))
    }
}
