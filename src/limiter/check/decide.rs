//! The decision on one key, under its shard's lock.
//!
//! Owns: what a check changes. Nothing is changed before its record is sure to find room in the log; the record is
//! queued under the same hold of the lock as the change is made.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::room::Room;
use super::slots::refuse_slots;
use super::wait::Wait;
use crate::bounds::MAX_WINDOWS;
use crate::clock::Micros;
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, Live, Standing, validate_cost};
use crate::limiter::answers::{Decision, Figures, Totals};
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Counts, Entry, Source, Table};
use crate::limiter::lookup::{Brought, Overflow, Served, changed, is_plain};
use crate::limiter::registry::{PATTERN_MARK, Pattern};
use crate::store::encode::encoded_len;
use crate::store::record::{Born, Event, MAX_FIXED, Spend};

/// Upper bound of the encoded ends of one spend, in bytes: one for each window, also of those that rest.
pub const MAX_ENDS: usize = 10 * (2 * MAX_WINDOWS + 1);

/// What one decision is about.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub hash: u64,
    pub key: &'a str,
    pub cost: u64,
    pub brought: Brought<'a>,
}

/// What a decision is made with.
pub struct Pass<'p, 'a> {
    /// Read under the shard's lock.
    pub now: Micros,
    pub room: &'p mut Room<'a>,
    pub wait: &'p Wait<'p>,
    /// Where the decision goes: it is too large to be handed from one function to the next.
    pub out: &'p mut Option<Decision>,
}

/// How far a decision came.
pub enum Step {
    /// It is made. What is left to count is for when no lock is held.
    Done(Option<Aside>),
    /// Nothing was changed: there is no room for a record of this many bytes.
    Grow(usize),
    /// Nothing was changed: an overflow limit is to decide.
    Overflow,
}

/// A check of a key that has no entry and needs none. It counts for the pattern that serves the key.
pub struct Aside {
    pattern: Arc<Pattern>,
    allowed: bool,
    cost: u64,
    at: Micros,
}

impl Aside {
    /// If a pattern serves the key.
    pub fn of(served: &Served, decision: &Decision) -> Option<Aside> {
        let (pattern, _) = served.pattern.as_ref()?;
        let pattern = Arc::clone(pattern);
        Some(Aside { pattern, allowed: decision.is_spent(), cost: decision.cost, at: decision.now })
    }

    /// Whether it was allowed.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }
}

/// Whether a spend under these values may ask for the end of a calendar window.
pub fn asks_for_ends(limit: &Limit) -> bool {
    limit.windows().iter().any(|window| window.period().is_calendar())
}

impl Core {
    /// Decides on a key of the table's shard.
    pub fn decide<'a>(&'a self, table: &mut Table, ask: &Ask<'_>, pass: &mut Pass<'_, 'a>) -> Result<Step> {
        let (entry, counts) = table.get_with_counts(ask.hash, ask.key);
        match entry {
            Some(entry) if entry.is_plain_exact() || is_plain(entry, self.version(pass.now), ask.brought) => {
                self.decide_in_place(entry, counts, ask, ask.hash, None, pass)
            }
            _ => {
                let (now, version) = (pass.now, self.version(pass.now));
                self.forget_if_none(table, ask.hash, ask.key, now, version);
                let entry = table.get(ask.hash, ask.key);
                let served = self.served(entry.as_deref(), ask.key, ask.brought, now, version)?;
                self.decide_served(table, ask, (ask.hash, ask.key), &served, pass)
            }
        }
    }

    /// Decides by the overflow limit, which is in the table's shard.
    pub fn decide_overflow<'a>(
        &'a self,
        table: &mut Table,
        ask: &Ask<'_>,
        overflow: &Overflow,
        pass: &mut Pass<'_, 'a>,
    ) -> Result<Step> {
        let entry = table.get(overflow.hash, &overflow.key);
        let served = self.served_overflow(entry.as_deref(), overflow);
        let step = self.decide_served(table, ask, (overflow.hash, &overflow.key), &served, pass)?;
        if let (Step::Done(_), Some(decision)) = (&step, &mut *pass.out) {
            decision.overflow = true;
        }
        Ok(step)
    }

    /// Decides on a key that is served so; `place` is the hash and key of its entry.
    fn decide_served<'a>(
        &'a self,
        table: &mut Table,
        ask: &Ask<'_>,
        place: (u64, &str),
        served: &Served,
        pass: &mut Pass<'_, 'a>,
    ) -> Result<Step> {
        let (entry, counts) = table.get_with_counts(place.0, place.1);
        let Some(entry) = entry else { return self.decide_unborn(table, ask, place, served, pass) };
        if served.changes.is_empty() {
            entry.version = served.version;
            return self.decide_in_place(entry, counts, ask, place.0, Some(served), pass);
        }
        let now = pass.now;
        let Pass { room, wait, out, .. } = pass;
        let mut ends = Live::default();
        let mut to = changed(entry, served, &mut ends);
        let limit = Arc::clone(to.in_force());
        refuse_slots(ask.key, &limit)?;
        validate_cost(ask.key, &limit, ask.cost)?;
        to.standing.advance(&limit, now);
        let verdict = to.standing.quote(&limit, now, ask.cost, &mut Live::default());
        let decision = out.insert(Decision::new(verdict, limit, ask.cost, now));
        decision.pattern = served.told(Some(&to));
        if !decision.is_spent() {
            self.look_past_ends(decision, &to, Some(served));
            self.deny(entry, counts, place.0, now, ask.cost);
            counts.decisions.1 += 1;
            return Ok(Step::Done(None));
        }
        to.spend(now, ask.cost, &mut ends);
        let spend = Spend { id: to.id(), cost: ask.cost, born: None, moves: served.moves(), ends: ends.0 };
        let event = Event::SpentMore { at: now, items: vec![spend] };
        let bytes = encoded_len(&event);
        if !room.grow(self, bytes)? {
            return Ok(Step::Grow(bytes));
        }
        let wait = if to.in_force().is_unlimited() { &Wait::Not } else { wait };
        self.settle_denials(entry);
        room.append(self, &event, bytes, wait)?;
        self.replace(entry, to, served, counts);
        count_allowed(entry, counts, ask.cost);
        counts.decisions.0 += 1;
        Ok(Step::Done(None))
    }

    /// Puts what became of an entry in its place.
    pub fn replace(&self, entry: &mut Entry, to: Entry, served: &Served, counts: &mut Counts) {
        if entry.source() != to.source() {
            self.leave(entry, counts);
            self.join(to.source(), served.pattern.as_ref().map(|(pattern, _)| pattern), counts);
        }
        *entry = to;
    }

    fn decide_in_place<'a>(
        &'a self,
        entry: &mut Entry,
        counts: &mut Counts,
        ask: &Ask<'_>,
        hash: u64,
        served: Option<&Served>,
        pass: &mut Pass<'_, 'a>,
    ) -> Result<Step> {
        let now = pass.now;
        let Pass { room, wait, out, .. } = pass;
        let limit = Arc::clone(entry.in_force());
        validate_cost(ask.key, &limit, ask.cost)?;
        entry.standing.advance(&limit, now);
        let verdict = entry.standing.quote(&limit, now, ask.cost, &mut Live::default());
        if !verdict.allowed {
            let decision = out.insert(Decision::new(verdict, limit, ask.cost, now));
            self.look_past_ends(decision, entry, served);
            decision.pattern = told(entry, counts);
            self.deny(entry, counts, hash, now, ask.cost);
            counts.decisions.1 += 1;
            return Ok(Step::Done(None));
        }
        let mut wait = *wait;
        if limit.windows().is_empty() {
            refuse_slots(ask.key, &limit)?;
            // Under `unlimited` nothing is spent that a restart could forget.
            wait = &Wait::Not;
        }
        if asks_for_ends(&limit) && !room.grow(self, MAX_FIXED + MAX_ENDS)? {
            return Ok(Step::Grow(MAX_FIXED + MAX_ENDS));
        }
        let mut ends = Live::default();
        // What a spend may forget must be in the log before it.
        if entry.has_pending_denials() && entry.would_forget(&limit, now) {
            self.settle_denials(entry);
        }
        entry.forget_if_untouched(&limit, now);
        entry.standing.spend(&limit, now, ask.cost, &mut ends);
        entry.count_allowed(now, ask.cost);
        let (id, cost) = (entry.id(), ask.cost);
        if ends.0.is_empty() {
            room.append(self, &Event::Spent { id, cost, at: now }, 0, wait)?;
        } else {
            let spend = Spend { id, cost, born: None, moves: Vec::new(), ends: ends.0 };
            let event = Event::SpentMore { at: now, items: vec![spend] };
            room.append(self, &event, encoded_len(&event), wait)?;
        }
        counts.decisions.0 += 1;
        let decision = out.insert(Decision::new(verdict, limit, ask.cost, now));
        decision.pattern = count_allowed(entry, counts, cost);
        Ok(Step::Done(None))
    }

    fn decide_unborn<'a>(
        &'a self,
        table: &mut Table,
        ask: &Ask<'_>,
        place: (u64, &str),
        served: &Served,
        pass: &mut Pass<'_, 'a>,
    ) -> Result<Step> {
        let now = pass.now;
        let Pass { room, wait, out, .. } = pass;
        let limit = &served.limit;
        refuse_slots(ask.key, limit)?;
        validate_cost(ask.key, limit, ask.cost)?;
        let verdict = fresh(limit, now).quote(limit, now, ask.cost, &mut Live::default());
        let decision = out.insert(Decision::new(verdict, Arc::clone(limit), ask.cost, now));
        decision.pattern = served.told(None);
        if !decision.is_spent() || limit.is_unlimited() {
            let allowed = decision.is_spent();
            if !allowed {
                self.look_past_ends_of(decision, &fresh(limit, now), limit, served.ends.clone());
            }
            let counts = &mut table.counts;
            if allowed {
                counts.decisions.0 += 1
            } else {
                counts.decisions.1 += 1
            };
            let aside = Aside::of(served, decision);
            return Ok(Step::Done(aside));
        }
        if !self.take_room(table, served, now)? {
            return Ok(Step::Overflow);
        }
        let mut entry = self.bear(place, served);
        let mut ends = Live::default();
        entry.spend(now, ask.cost, &mut ends);
        let spend = Spend { ends: ends.0, ..born(&entry, served, ask.cost) };
        let event = Event::SpentMore { at: now, items: vec![spend] };
        let bytes = encoded_len(&event);
        if !room.grow(self, bytes)? {
            self.give_room_of(served);
            return Ok(Step::Grow(bytes));
        }
        room.append(self, &event, bytes, wait)?;
        let entry = self.put(table, place.0, *entry, served);
        let slot = entry.share_slot();
        if let Some(share) = slot.and_then(|slot| table.counts.shares.get_mut(slot)) {
            share.totals.add(Totals::of_allowed(ask.cost));
        }
        table.counts.decisions.0 += 1;
        Ok(Step::Done(None))
    }

    /// A new key.
    pub fn bear(&self, place: (u64, &str), served: &Served) -> Box<Entry> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (hash, key) = place;
        let limit = Arc::clone(&served.limit);
        let mut entry = Box::new(Entry::new(key, id, shard_of(hash) as u8, served.source, limit));
        entry.version = served.version;
        if let (Source::Overflow, Some((pattern, _))) = (served.source, &served.pattern) {
            entry.set_overflow_of(pattern.slot);
        }
        entry
    }

    /// Puts a new key, for which room was taken, into the table.
    pub fn put<'t>(&self, table: &'t mut Table, hash: u64, entry: Entry, served: &Served) -> &'t mut Entry {
        if let Some((pattern, _)) = &served.pattern {
            table.counts.shares.of(pattern);
        }
        let entry = table.insert(hash, entry, |key| self.hash(key));
        self.note_live();
        entry
    }

    /// Gives back the room of a key that is not born after all.
    pub fn give_room_of(&self, served: &Served) {
        let pattern = served.pattern.as_ref().map(|(pattern, _)| &**pattern);
        self.give_room(served.source, pattern, pattern.is_some());
    }

    /// Counts a denial, and has it written to the log soon.
    pub fn deny(&self, entry: &mut Entry, counts: &mut Counts, hash: u64, now: Micros, cost: u64) {
        entry.count_denied(now, cost);
        self.noting.denied(hash, cost, now);
        if let Some(share) = entry.share_slot().and_then(|slot| counts.shares.get_mut(slot)) {
            share.totals.add(Totals::of_denied(cost));
        }
        if !entry.set_pending_denials(true) {
            counts.pending_denials.push((hash, entry.id()));
            if !self.has_pending_denials.swap(true, Ordering::AcqRel)
                && let Some(helper) = &*self.denials_helper.lock().unwrap_or_else(PoisonError::into_inner)
            {
                helper.unpark();
            }
        }
    }

    /// Counts a check for its pattern. To be called holding no lock.
    pub fn count_aside(&self, aside: &Aside) {
        let totals = if aside.allowed { Totals::of_allowed(aside.cost) } else { Totals::of_denied(aside.cost) };
        if self.noting.aside(aside.pattern.id, totals.to_numbers()) {
            return;
        }
        let key = format!("{PATTERN_MARK}{}", aside.pattern.text);
        let hash = self.hash(&key);
        // If there is no room in the log at once, only the count in memory is right.
        let reservation = self.log().and_then(|log| log.reserve_now(1, MAX_FIXED)).ok().flatten();
        let mut table = self.shard(hash);
        let (Some(entry), counts) = table.get_with_counts(hash, &key) else { return };
        if entry.id() != aside.pattern.id {
            return;
        }
        if !aside.allowed {
            return self.deny(entry, counts, hash, aside.at, aside.cost);
        }
        entry.count_allowed(aside.at, aside.cost);
        if let (Some(mut reservation), Ok(log)) = (reservation, self.log()) {
            let event = Event::Spent { id: entry.id(), cost: aside.cost, at: aside.at };
            log.append(&mut reservation, &event, None);
        }
    }

    /// A denial under values that end by themselves: what is waited for may come with their end. `entry` is as it was
    /// decided on.
    pub fn look_past_ends(&self, decision: &mut Decision, entry: &Entry, served: Option<&Served>) {
        let ends = match (entry.overlay(), served, entry.source()) {
            (Some(overlay), ..) => Some((overlay.until, Arc::clone(&entry.limit))),
            (None, Some(served), _) => served.ends.clone(),
            (None, None, Source::Pattern(slot)) if self.registry.has_ends() => {
                let known = self.registry.known();
                let row = known.row(slot);
                row.and_then(|row| row.overlay.as_ref().map(|overlay| (overlay.until, Arc::clone(&row.limit))))
            }
            _ => None,
        };
        let Some((until, _)) = &ends else { return };
        if entry.overlay().is_some() && entry.source() == Source::Request {
            // Nothing is known of what comes then, not even whether there is a limit.
            let span = Duration::from_micros(until.saturating_sub(decision.now));
            return decision.no_later_than(span, Some(Duration::ZERO), None);
        }
        self.look_past_ends_of(decision, &entry.standing, entry.in_force(), ends);
    }

    pub fn look_past_ends_of(
        &self,
        decision: &mut Decision,
        standing: &Standing,
        limit: &Limit,
        ends: Option<(Micros, Arc<Limit>)>,
    ) {
        let Some((until, below)) = ends.filter(|(until, _)| *until > decision.now) else { return };
        let span = Duration::from_micros(until - decision.now);
        let mut later = standing.clone();
        later.reconfigure(limit, &below, until, &mut Live::default());
        later.advance(&below, until);
        let retry = match validate_cost("", &below, decision.cost) {
            Ok(()) => Figures::of(&later.quote(&below, until, decision.cost, &mut Live::default())).retry,
            Err(_) => None,
        };
        let then = Figures::of(&later.glance(&below, until, &mut Live::default()));
        let next = if then.remaining > decision.remaining { Some(Duration::ZERO) } else { then.next };
        decision.no_later_than(span, retry, next);
    }

    /// The answer where an overflow limit is to decide and is not locked, which a look before should have seen.
    pub fn unforeseen() -> Error {
        Error::new(Kind::Overloaded, "the limit found no room for the key; try again")
    }
}

/// A standing of which nothing was spent.
pub fn fresh(limit: &Limit, now: Micros) -> Standing {
    let mut standing = Standing::new(limit);
    standing.advance(limit, now);
    standing
}

/// What the record says of a new key.
pub fn born<'a>(entry: &'a Entry, served: &Served, cost: u64) -> Spend<'a> {
    let source = served.recorded(served.source);
    let born = Born { shard: entry.shard(), source, limit: Arc::clone(&served.limit), key: &entry.key };
    Spend { id: entry.id(), cost, born: Some(born), moves: Vec::new(), ends: Vec::new() }
}

/// Counts an allowed check for the entry's pattern. Returns its text, if it serves the key.
pub fn count_allowed(entry: &Entry, counts: &mut Counts, cost: u64) -> Option<Arc<str>> {
    let share = counts.shares.get_mut(entry.share_slot()?)?;
    share.totals.add(Totals::of_allowed(cost));
    entry.overlay().is_none().then(|| Arc::clone(&share.pattern.text))
}

fn told(entry: &Entry, counts: &Counts) -> Option<Arc<str>> {
    let share = counts.shares.get(entry.share_slot()?)?;
    entry.overlay().is_none().then(|| Arc::clone(&share.pattern.text))
}

impl Served {
    /// The pattern that is named in an answer: none where other values lie over its.
    pub fn told(&self, entry: Option<&Entry>) -> Option<Arc<str>> {
        let (pattern, _) = self.pattern.as_ref()?;
        entry.and_then(Entry::overlay).is_none().then(|| Arc::clone(&pattern.text))
    }
}

impl Decision {
    /// Takes over times after `span`, where its own are longer than that.
    fn no_later_than(&mut self, span: Duration, retry: Option<Duration>, next: Option<Duration>) {
        let longer = |time: Option<Duration>| time.is_none_or(|time| time > span);
        if longer(self.retry_after) {
            self.retry_after = retry.map(|retry| span + retry);
        }
        if longer(self.next) {
            self.next = next.map(|next| span + next);
        }
    }
}
