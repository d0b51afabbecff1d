//! Checks of several keys, each decided by itself, whose answer is kept for a request that is sent again: all that they
//! spend is in one record, with the answer.

use super::all::Attempt;
use super::decide::Ask;
use super::progress::{Progress, Tables, record};
use super::room::Room;
use super::several::validate_count;
use super::wait::{NonBlocking, Wait};
use super::walk::{Purpose, Walk};
use crate::bounds::MAX_RECORD_BYTES;
use crate::error::{Error, Result};
use crate::limit::validate_key;
use crate::limiter::answers::{Decision, Item};
use crate::limiter::core::{Core, shard_of};
use crate::limiter::kept::shelf::Kept;
use crate::limiter::kept::{Keep, Told};
use crate::store::encode::encoded_len;
use crate::store::record::{Event, MAX_FIXED, MAX_ITEM};

/// The decisions or errors of all items, in their order.
type Results = Vec<Result<Decision>>;

impl Core {
    /// Decides each item by itself. If anything is spent, the answer is kept in the record of it.
    pub fn check_many_kept(
        &self,
        items: &[Item<'_>],
        keep: &mut Keep<'_>,
        non_blocking: Option<&NonBlocking<'_>>,
    ) -> Result<Results> {
        validate_count(items)?;
        let asks: Vec<Result<Ask<'_>>> =
            items.iter().map(|item| validate_key(item.key).map(|()| self.ask(item))).collect();
        let wait = Wait::by(self.sync, non_blocking);
        let most = MAX_FIXED + asks.len() * MAX_ITEM;
        let mut room = Room::new(self.reserve_for(non_blocking, 1, most)?, most);
        let mut shards: Vec<usize> = asks.iter().flatten().map(|ask| shard_of(ask.hash)).collect();
        loop {
            let mut tables = self.lock_all(&mut shards, non_blocking)?;
            match self.try_many(&mut tables, &asks, keep, &mut room, &wait)? {
                Attempt::Done(results, asides) => {
                    drop(tables);
                    drop(room);
                    asides.iter().for_each(|aside| self.count_aside(aside));
                    self.count_overflows(results.iter().flatten());
                    if results.iter().flatten().any(Decision::must_be_waited_for) {
                        self.finish(&wait)?;
                    }
                    return Ok(results);
                }
                Attempt::Lock(shard) => shards.push(shard),
                Attempt::Again => {}
                Attempt::Grow(bytes) => {
                    drop(tables);
                    room.set_longer(self.reserve_for(non_blocking, 1, bytes)?, bytes);
                }
            }
        }
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
        let (event, _) = record(tables, &decided, &progress, now)?;
        let event = event.map(|event| {
            let results = in_order(&errors, progress.results.clone());
            let kept = Kept { once: keep.once, at: now, answer: (keep.write)(Told::Each(&results)).into() };
            (event, kept)
        });
        if let Some((event, kept)) = event {
            let event = Event::Kept { answer: kept.to_record(), event: Box::new(event) };
            let bytes = encoded_len(&event);
            if bytes > MAX_RECORD_BYTES {
                self.give_up(&progress);
                return Err(Error::invalid(
                    "items must not be so many or so long that the answer can't be kept for the idempotency key; divide \
                     them among several requests",
                ));
            }
            if !room.grow(self, bytes)? {
                self.give_up(&progress);
                return Ok(Attempt::Grow(bytes));
            }
            self.settle_all_denials(tables, &decided, &progress, now)?;
            let forgettable = progress.results.iter().any(Decision::must_be_waited_for);
            // A copy of the table has what was queued before its marker, and nothing else.
            let mut shelf = self.answers.lock();
            room.append(self, &event, bytes, if forgettable { wait } else { &Wait::Not })?;
            drop(event);
            shelf.keep(kept);
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
