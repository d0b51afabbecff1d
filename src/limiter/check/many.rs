//! Checks of several keys, each decided separately. If the answer is kept for a request that is sent again, all that
//! they spend is in one record with it.

use std::sync::MutexGuard;

use super::all::{Attempt, has_lost_any};
use super::decide::{Ask, MAX_ENDS, Pass, Step, asks_for_ends};
use super::progress::{Progress, Tables, record};
use super::room::{Room, too_long_to_keep};
use super::wait::{NonBlocking, Wait};
use super::walk::{Purpose, Walk};
use crate::bounds::{MAX_RECORD_BYTES, SHARDS};
use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::limit::{Limit, validate_key};
use crate::limiter::answers::{Decision, Item};
use crate::limiter::core::{Core, shard_of};
use crate::limiter::entry::{Source, Table};
use crate::limiter::kept::shelf::Kept;
use crate::limiter::kept::{Keep, Told};
use crate::limiter::lookup::{Brought, is_plain};
use crate::store::encode::encoded_len;
use crate::store::record::{MAX_FIXED, MAX_ITEM};

/// Items of a `check_many` that are decided under one reservation.
const MANY_STEP: usize = 64;

/// Upper bound of one window of a limit in a record, in bytes: six integers at most, and the name of a zone.
const MAX_WINDOW: usize = 128;

/// The locked shards.
type AllTables<'a> = [Option<MutexGuard<'a, Table>>; SHARDS];

/// What must be available for one item before it is decided.
struct Needs {
    /// Bytes of its record.
    bytes: usize,
    /// The shard of an overflow limit that may decide.
    overflow: Option<usize>,
}

impl Core {
    /// Decides each item separately. Room in the log is reserved in steps, so that many such requests at once find
    /// some, also in the little that a new log has.
    pub fn decide_many(&self, items: &[Item<'_>]) -> Result<Vec<Result<Decision>>> {
        let mut results = Vec::with_capacity(items.len());
        for step in items.chunks(MANY_STEP) {
            let mut room = Room::new(self.reserve(step.len(), step.len() * MAX_FIXED)?, MAX_FIXED);
            for item in step {
                let mut decision = None;
                let check = |()| self.check(&self.ask(item), &mut room, &Wait::Not, None, &mut decision);
                let checked = validate_key(item.key).and_then(check);
                results.push(checked.and_then(|()| decision.ok_or_else(Core::unforeseen)));
            }
        }
        Ok(results)
    }

    /// As [`Core::decide_many`], without waiting. What was decided can't be taken back, so all that could have to be
    /// waited for is had before the first decision.
    pub fn decide_many_now(&self, items: &[Item<'_>], non_blocking: &NonBlocking<'_>) -> Result<Vec<Result<Decision>>> {
        let asks: Vec<Result<Ask<'_>>> =
            items.iter().map(|item| validate_key(item.key).map(|()| self.ask(item))).collect();
        // Items of each shard that are still to be decided.
        let mut left = [0u16; SHARDS];
        for ask in asks.iter().flatten() {
            left[shard_of(ask.hash)] += 1;
        }
        let mut tables: AllTables<'_> = [const { None }; SHARDS];
        for shard in (0..SHARDS).filter(|shard| left[*shard] > 0) {
            tables[shard] = Some(self.lock_for(Some(non_blocking), shard)?);
        }
        let now = self.clock.now();
        let needs: Vec<Needs> =
            asks.iter().flatten().map(|ask| self.needs(&mut tables, ask, now, asks.len())).collect();
        for shard in needs.iter().filter_map(|needs| needs.overflow) {
            if tables[shard].is_none() {
                // Out of their order, but without waiting for long.
                tables[shard] = Some(self.lock_for(Some(non_blocking), shard)?);
            }
            left[shard] += 1;
        }
        let bytes = needs.iter().map(|needs| needs.bytes).sum::<usize>() + (asks.len() - needs.len()) * MAX_FIXED;
        let mut room = Room::new(self.reserve_for(Some(non_blocking), items.len(), bytes)?, usize::MAX);
        // Earlier than the instant of an edit that was made meanwhile it may not be.
        let now = self.clock.now();
        let mut needs = needs.into_iter();
        let mut asides = Vec::new();
        let mut results = Vec::with_capacity(asks.len());
        for ask in asks {
            let ask = match ask {
                Ok(ask) => ask,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            let mut decision = None;
            let mut pass = Pass { now, room: &mut room, wait: &Wait::Not, out: &mut decision };
            let step = self.decide_now(&mut tables, &ask, &mut pass);
            results.push(step.and_then(|step| match step {
                Step::Done(aside) => {
                    asides.extend(aside);
                    decision.ok_or_else(Core::unforeseen)
                }
                Step::Grow(_) | Step::Overflow => Err(Core::unforeseen()),
            }));
            let overflow = needs.next().and_then(|needs| needs.overflow);
            for shard in [Some(shard_of(ask.hash)), overflow].into_iter().flatten() {
                left[shard] -= 1;
                if left[shard] == 0 {
                    // Another thread that waits for the shard need not wait for the other items.
                    tables[shard] = None;
                }
            }
        }
        drop(tables);
        drop(room);
        asides.iter().for_each(|aside| self.count_aside(aside));
        Ok(results)
    }

    /// Decides on an item whose shards are locked.
    fn decide_now<'a>(&'a self, tables: &mut AllTables<'_>, ask: &Ask<'_>, pass: &mut Pass<'_, 'a>) -> Result<Step> {
        let Some(table) = &mut tables[shard_of(ask.hash)] else { return Err(Core::unforeseen()) };
        let step = self.decide(table, ask, pass)?;
        if !matches!(step, Step::Overflow) {
            return Ok(step);
        }
        let overflow = self.overflow(ask.key, ask.brought, self.version(pass.now)).ok_or_else(Core::unforeseen)?;
        let Some(table) = &mut tables[shard_of(overflow.hash)] else { return Err(Core::unforeseen()) };
        self.decide_overflow(table, ask, &overflow, pass)
    }

    /// What an item may need, whatever the items before it do.
    fn needs(&self, tables: &mut AllTables<'_>, ask: &Ask<'_>, now: Micros, items: usize) -> Needs {
        let fixed = Needs { bytes: MAX_FIXED, overflow: None };
        let Some(table) = &mut tables[shard_of(ask.hash)] else { return fixed };
        let version = self.version(now);
        if let Some(entry) = table.get(ask.hash, ask.key)
            && is_plain(entry, version, ask.brought)
            && !matches!((entry.source(), ask.brought), (Source::Request, Brought::Values(_)))
        {
            let ends = if asks_for_ends(&entry.limit) { MAX_ENDS } else { 0 };
            return Needs { bytes: MAX_FIXED + ends, overflow: None };
        }
        self.forget_if_none(table, ask.hash, ask.key, now, version);
        let entry = table.get(ask.hash, ask.key);
        // An error is nothing that is written.
        let Ok(served) = self.served(entry.as_deref(), ask.key, ask.brought, now, version) else { return fixed };
        let size = |limit: &Limit| MAX_FIXED + limit.windows().len() * MAX_WINDOW;
        // Two moves at most.
        let limits = size(&served.limit) * 2 + entry.as_ref().map_or(0, |entry| size(&entry.limit));
        let born = entry.is_none();
        let overflow = (born && self.may_be_full(&served, items as u64))
            .then(|| self.overflow(ask.key, ask.brought, version))
            .flatten();
        let key = overflow.as_ref().map_or(0, |overflow| overflow.key.len()).max(ask.key.len());
        Needs {
            bytes: 2 * MAX_FIXED + MAX_ENDS + limits + key,
            overflow: overflow.map(|overflow| shard_of(overflow.hash)),
        }
    }
}

/// The decisions or errors of all items, in their order.
type Results = Vec<Result<Decision>>;

impl Core {
    /// Decides each item separately. If anything is spent, the answer is kept in the record of it.
    pub fn check_many_kept(
        &self,
        items: &[Item<'_>],
        keep: &mut Keep<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Results> {
        let asks: Vec<Result<Ask<'_>>> =
            items.iter().map(|item| validate_key(item.key).map(|()| self.ask(item))).collect();
        let wait = Wait::by(self.sync, non_blocking);
        let most = MAX_FIXED + asks.len() * MAX_ITEM;
        let mut room = Room::new(self.reserve_for(non_blocking, 1, most)?, most);
        let shards = asks.iter().flatten().map(|ask| shard_of(ask.hash)).collect();
        let results = self.decide_locked(shards, &mut room, non_blocking, |tables, room| {
            self.try_many(tables, &asks, keep, room, &wait)
        })?;
        drop(room);
        self.count_overflows(results.iter().flatten());
        if results.iter().flatten().any(Decision::must_be_waited_for) {
            self.finish(&wait)?;
        }
        Ok(results)
    }

    fn try_many<'a>(
        &'a self,
        tables: &mut Tables<'_>,
        asks: &[Result<Ask<'_>>],
        keep: &mut Keep<'_>,
        room: &mut Room<'a>,
        wait: &Wait<'_>,
    ) -> Result<Attempt<Results>> {
        let now = self.clock.now();
        let walk = Walk { purpose: Purpose::Each, now, book: None, until: now };
        let mut progress = Progress::default();
        // What was decided, and the errors of the others.
        let (mut decided, mut errors) = (Vec::with_capacity(asks.len()), Vec::with_capacity(asks.len()));
        for ask in asks {
            let ask = match ask {
                Ok(ask) => ask,
                Err(error) => {
                    errors.push(Some(error.clone()));
                    continue;
                }
            };
            match self.decide_each(tables, ask, &walk, &mut progress) {
                Ok(None) => {
                    decided.push(*ask);
                    errors.push(None);
                }
                Ok(Some(shard)) => {
                    self.give_up(&progress);
                    return Ok(Attempt::Lock(shard));
                }
                Err(error) => errors.push(Some(error)),
            }
        }
        if has_lost_any(tables, &decided, &progress) {
            self.give_up(&progress);
            return Ok(Attempt::Again);
        }
        let (event, _) = record(tables, &decided, &progress, now)?;
        let event = event.map(|event| {
            let results = in_order(&errors, progress.results.clone());
            let kept = Kept { once: keep.once, at: now, answer: (keep.write)(Told::Each(&results)).into() };
            (event, kept)
        });
        if let Some((event, kept)) = event {
            let event = kept.with(event);
            let bytes = encoded_len(&event);
            if bytes > MAX_RECORD_BYTES {
                self.give_up(&progress);
                return Err(too_long_to_keep());
            }
            if !room.grow(self, bytes)? {
                self.give_up(&progress);
                return Ok(Attempt::Grow(bytes));
            }
            self.settle_all_denials(tables, &decided, &progress, now)?;
            let forgettable = progress.results.iter().any(Decision::must_be_waited_for);
            let wait = if forgettable { wait } else { &Wait::Not };
            self.answers.keep_with(Some(&kept), || room.append(self, &event, bytes, wait))?;
        }
        let (results, asides) = self.commit(tables, &decided, now, progress);
        if let Some((_, first)) = tables.first_mut() {
            let allowed = results.iter().filter(|result| result.is_spent()).count() as u64;
            first.counts.decisions.0 += allowed;
            first.counts.decisions.1 += results.len() as u64 - allowed;
        }
        Ok(Attempt::Done(in_order(&errors, results), asides))
    }
}

/// The decisions in the places that have no error.
fn in_order(errors: &[Option<Error>], decisions: Vec<Decision>) -> Results {
    let mut decisions = decisions.into_iter();
    let each = |error: &Option<Error>| match error {
        Some(error) => Err(error.clone()),
        None => decisions.next().ok_or_else(Core::unforeseen),
    };
    errors.iter().map(each).collect()
}
