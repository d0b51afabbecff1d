//! The decision on slots. Those in use are what the table of holds says, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, Quotes, Verdict};
use crate::limiter::answers::Decision;
use crate::limiter::held::book::Book;

/// Refuses a limit of slots, which are held and not spent.
pub fn refuse_slots(key: &str, limit: &Limit) -> Result<()> {
    match limit.slots() {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("`{key}` has slots; use hold to take them"))),
    }
}

/// Refuses what could never be held.
pub fn validate_slots(key: &str, limit: &Limit, cost: u64) -> Result<()> {
    let Some(slots) = limit.slots().filter(|slots| cost > *slots) else { return Ok(()) };
    Err(Error::new(
        Kind::CostExceedsCapacity,
        format!("cost {cost} is over the {slots} slots of limit `{key}` and could never be allowed"),
    ))
}

/// The slots of one key, at one instant to which the table was tidied.
#[derive(Clone, Copy)]
pub struct Usage<'b> {
    pub book: &'b Book,
    /// Of the key of the entry.
    pub hash: u64,
    pub slots: u64,
    pub now: Micros,
    /// Slots that other items of the same hold take, and when that is to expire.
    pub taken: u64,
    pub until: Micros,
}

/// Their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stand {
    pub remaining: u64,
    pub used: u64,
    /// Slots that are held beyond those that there are: it was made smaller.
    pub debt: u64,
    /// When the last of them is free.
    pub reset_at: Micros,
    /// How long until one more is free; 0 if all are.
    pub next: Option<Micros>,
}

impl Usage<'_> {
    /// Their state with `more` of them taken.
    pub fn stand(&self, more: u64) -> Stand {
        let taken = self.taken + more;
        let used = self.book.in_use(self.hash) + taken;
        let last = self.book.of_key(self.hash).rev().find(|(.., slots)| *slots > 0).map_or(0, |(until, ..)| until);
        let last = if taken > 0 { last.max(self.until) } else { last };
        let next = match used {
            0 => Some(0),
            _ => self.until_freed(used - (used.min(self.slots) - 1).min(used), taken),
        };
        Stand {
            remaining: self.slots.saturating_sub(used),
            used,
            debt: used.saturating_sub(self.slots),
            reset_at: last.max(self.now),
            next,
        }
    }

    fn allows(&self, cost: u64) -> bool {
        self.book.in_use(self.hash) + self.taken + cost <= self.slots
    }

    /// How long until this many can be taken; `None` for never.
    fn retry(&self, cost: u64) -> Option<Micros> {
        let wanted = self.taken + cost;
        if wanted > self.slots {
            return None;
        }
        self.until_freed((self.book.in_use(self.hash) + wanted).saturating_sub(self.slots), 0)
    }

    /// How long until this many more are free, with `taken` in addition to what the table has.
    fn until_freed(&self, wanted: u64, taken: u64) -> Option<Micros> {
        let mut taken = Some((self.until, taken)).filter(|(_, taken)| *taken > 0);
        let mut freed = 0;
        let mut held = self.book.of_key(self.hash).map(|(until, _, slots)| (until, slots)).peekable();
        while freed < wanted {
            let own_is_next = taken.is_some_and(|(own, _)| held.peek().is_none_or(|(until, _)| own <= *until));
            let (until, slots) = if own_is_next { taken.take() } else { held.next() }?;
            freed += slots;
            if freed >= wanted {
                return Some(until.saturating_sub(self.now));
            }
        }
        Some(0)
    }
}

impl Decision {
    /// On this many slots.
    pub fn of_slots(usage: &Usage<'_>, limit: Arc<Limit>, cost: u64) -> Decision {
        let allowed = usage.allows(cost);
        let verdict = Verdict { allowed, binding: 0, windows: Quotes::Many(Vec::new()) };
        let mut decision = Decision::new(verdict, limit, cost, usage.now);
        decision.stand_in_slots(usage.stand(if allowed { cost } else { 0 }));
        if !decision.allowed {
            decision.retry_after = usage.retry(cost).map(Duration::from_micros);
        }
        decision
    }

    /// Takes over the state of the slots; whether it is allowed stays.
    pub fn stand_in_slots(&mut self, stand: Stand) {
        (self.remaining, self.used, self.debt) = (Some(stand.remaining), Some(stand.used), stand.debt);
        (self.reset_at, self.next) = (Some(stand.reset_at), stand.next.map(Duration::from_micros));
    }
}
