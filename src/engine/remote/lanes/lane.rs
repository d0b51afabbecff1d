//! A lane: a thread with a scratch limiter and a link, and the operations that wait for it.
//!
//! All that waits when a round begins goes into it, so that the busier the store the more operations share a round
//! trip. Those that lost come first in the next round. Once a second the lane tells the store what it has counted:
//! denials, totals of patterns; and asks how many keys live.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::super::errors::{closed, told as told_error};
use super::super::names;
use super::bell::Bell;
use super::job::{Answer, Job};
use super::state::Round;
use super::wire::Wire;
use crate::engine::interface::{Done, Operation};
use crate::error::{Error, Kind, Result};
use crate::limiter::scratch::Live;

/// Operations that may wait for a lane.
pub const MAX_WAITING: usize = 16 * 1024;

/// Operations of one round.
const MAX_ROUND: usize = 512;

/// Records that a lane has copies of: some hundred bytes each.
const MAX_LOADED: usize = 1_000_000;

/// How often what was counted is told to the store.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// An operation that has less time left than this is not begun again: a round that ends with it would end too early
/// for others.
const LEAST_LEFT: Duration = Duration::from_millis(100);

/// Losses in a row from which on a lane that has nothing else to do waits a little before it tries again.
const MANY_LOSSES: u32 = 16;

/// Longest such wait for each time as many losses, and in all.
const BACK_OFF: Duration = Duration::from_micros(200);
const MAX_BACK_OFF: Duration = Duration::from_millis(5);

/// Losses from which on an operation is tried again without such a wait: a turn that others give may be short.
const STARVING: u32 = 64;

/// The turn that a lane gives other servers after many rounds that wrote the same key, in times of its last round:
/// enough for another server to learn of the key's version, and to write. And the longest.
const TURN: u32 = 4;
const MAX_TURN: Duration = Duration::from_millis(10);

/// Births of keys after which the number of live keys is asked for again: the bound on live keys is kept within as many
/// for each lane of a server. More of them if much room is left.
const BIRTHS: u64 = 50;

/// The share of the room that is left which one server may take before it asks again.
const ROOM_SHARE: u64 = 64;

/// Patterns of which the totals are asked for once a second; of more, those that have counted.
const MAX_ASKED: usize = 256;

/// Times that a lane lets other threads run before it takes what they have asked, while that becomes more; and times in
/// a row without anything after which it takes what there is.
const MOST_YIELDS: usize = 256;
const YIELDS: usize = 2;

/// What is sent to a lane.
enum Message {
    Job(Job),
    /// To write what was counted, and say how that went.
    Flush(SyncSender<Result<()>>),
    /// To answer what waits, write what was counted, and end.
    Close,
}

/// Where operations are handed to a lane.
#[derive(Clone)]
pub struct Inbox {
    sender: Sender<Message>,
    closed: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

impl Inbox {
    /// Runs an operation, and returns once its outcome is known.
    ///
    /// # Errors
    /// Its outcome.
    pub fn run(&self, operation: Operation, slot: Option<u16>, timeout: Duration) -> Result<()> {
        let outcome = Arc::new(OnceLock::new());
        let cell = Arc::clone(&outcome);
        // It is called once, and the lane rings then. Here it is called only before the bell is waited for.
        self.submit(operation, Box::new(move |outcome| drop(cell.set(outcome))), slot, timeout);
        self.bell.wait_for(|| outcome.get().cloned())
    }

    /// Hands an operation over. `done` is called at once where the lane takes no more.
    pub fn submit(&self, operation: Operation, done: Done, slot: Option<u16>, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let job = Job { operation, answer: Answer::new(done), deadline, losses: 0, slot };
        if self.closed.load(Ordering::Acquire) {
            return job.answer.give(Err(closed()));
        }
        match self.sender.try_send(Message::Job(job)) {
            Ok(()) => {}
            Err(TrySendError::Full(Message::Job(job))) => {
                let what = format!("{MAX_WAITING} operations wait for the store; try again later");
                job.answer.give(Err(Error::new(Kind::Overloaded, what)));
            }
            // Dropped, it is answered.
            Err(_) => {}
        }
    }

    /// Returns once what was counted before is written.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        let (sender, written) = sync_channel(1);
        let late = || Error::new(Kind::StoreUnavailable, "the store did not take what was counted in time");
        self.sender.send_timeout(Message::Flush(sender), timeout).map_err(|_| late())?;
        written.recv_timeout(2 * timeout).unwrap_or_else(|_| Err(late()))
    }

    /// Lets the lane end once it has answered what waits.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            // Waits for room, of which there is some as long as the lane runs.
            let _ = self.sender.send(Message::Close);
        }
    }
}

/// What lanes tell of themselves.
#[derive(Debug, Default)]
pub struct Figures {
    /// Operations that were answered.
    pub answered: AtomicU64,
    /// Rounds.
    pub rounds: AtomicU64,
    /// Times that an operation lost to another server.
    pub losses: AtomicU64,
    /// Checks that were allowed.
    pub allowed: AtomicU64,
    /// Checks that were denied.
    pub denied: AtomicU64,
    /// Set if a lane's thread has ended that should not have.
    pub ended: AtomicBool,
}

/// Starts a lane. Its thread ends after [`Inbox::close`], or when all inboxes are dropped.
///
/// # Errors
/// `io` where no thread can be started.
pub fn start<W: Wire + 'static>(
    round: Round<W>,
    index: usize,
    figures: &Arc<Figures>,
    timeout: Duration,
) -> Result<(Inbox, thread::JoinHandle<()>)> {
    let (sender, inbox) = bounded(MAX_WAITING);
    let bell = Arc::new(Bell::default());
    let (own, last) = (Arc::clone(&bell), Last(Arc::clone(&bell)));
    let lane = Lane {
        round,
        inbox,
        bell: own,
        answered: 0,
        figures: Arc::clone(figures),
        timeout,
        // At once, so that it knows what was counted before.
        told: Instant::now().checked_sub(TOLD_EVERY).unwrap_or_else(Instant::now),
        random: seed(index),
        live: HashMap::new(),
    };
    let handle = thread::Builder::new()
        .name(format!("flint-lane-{index}"))
        .spawn(move || {
            // Rings after all that the lane had is dropped, and with it answered.
            let _last = last;
            lane.run();
        })
        .map_err(|error| Error::new(Kind::Io, format!("cannot start thread flint-lane-{index}: {error}")))?;
    Ok((Inbox { sender, closed: Arc::default(), bell }, handle))
}

fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(index) | 1
}

struct Lane<W> {
    round: Round<W>,
    inbox: Receiver<Message>,
    /// Rung after operations were answered.
    bell: Arc<Bell>,
    /// How many the last round has answered.
    answered: usize,
    figures: Arc<Figures>,
    timeout: Duration,
    told: Instant,
    random: u64,
    /// Births after which it is asked anew how many keys live.
    live: HashMap<Live, u64>,
}

impl<W: Wire> Lane<W> {
    fn run(mut self) {
        let _ended = Ended(Arc::clone(&self.figures));
        let mut waiting: Vec<Job> = Vec::new();
        loop {
            self.gather();
            let open = self.take(&mut waiting);
            let taken = waiting.len();
            self.expire(&mut waiting);
            let expired = taken - waiting.len();
            let rest = waiting.split_off(waiting.len().min(MAX_ROUND));
            let count = waiting.len();
            let begun = Instant::now();
            let mut lost = self.round.run(std::mem::take(&mut waiting));
            let took = begun.elapsed();
            self.answered = expired + count - lost.len();
            if self.answered > 0 {
                self.bell.ring();
            }
            if count > 0 {
                self.figures.rounds.fetch_add(1, Ordering::Relaxed);
                self.figures.answered.fetch_add((count - lost.len()) as u64, Ordering::Relaxed);
                self.figures.losses.fetch_add(lost.len() as u64, Ordering::Relaxed);
                let (allowed, denied) = std::mem::take(&mut self.round.tally.decisions);
                self.figures.allowed.fetch_add(allowed, Ordering::Relaxed);
                self.figures.denied.fetch_add(denied, Ordering::Relaxed);
            }
            if self.round.trust.gives_turn() {
                thread::sleep((TURN * took).min(MAX_TURN));
            }
            self.back_off(&lost, &rest);
            lost.extend(rest);
            waiting = lost;
            self.ask_live();
            if self.told.elapsed() >= TOLD_EVERY
                && let Err(error) = self.tell()
            {
                log::debug!("what was counted waits for the store: {error}");
            }
            if !open && waiting.is_empty() {
                if let Err(error) = self.tell() {
                    log::warn!("denials of the last second were not counted: {error}");
                }
                std::mem::forget(_ended);
                return;
            }
        }
    }

    /// Lets the threads run that have work, where several were just answered: they are about to ask again, and a larger
    /// round costs each of them less than waiting for another. Costs next to nothing where no thread has work.
    fn gather(&self) {
        if self.answered < 2 {
            return;
        }
        let (mut waiting, mut idle) = (self.inbox.len(), 0);
        for _ in 0..MOST_YIELDS {
            if waiting >= self.answered || idle >= YIELDS {
                return;
            }
            thread::yield_now();
            let before = std::mem::replace(&mut waiting, self.inbox.len());
            idle = if waiting > before { 0 } else { idle + 1 };
        }
    }

    /// Takes what waits; waits for something if nothing does. Returns whether more can come.
    fn take(&mut self, waiting: &mut Vec<Job>) -> bool {
        if waiting.is_empty() {
            let rest = TOLD_EVERY.saturating_sub(self.told.elapsed());
            match self.inbox.recv_timeout(rest) {
                Ok(Message::Job(job)) => waiting.push(job),
                Ok(Message::Flush(written)) => {
                    let _ = written.try_send(self.tell());
                    return true;
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Message::Close) => return self.take_last(waiting),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while waiting.len() < MAX_ROUND {
            match self.inbox.try_recv() {
                Ok(Message::Job(job)) => waiting.push(job),
                Ok(Message::Flush(written)) => drop(written.try_send(self.tell())),
                Ok(Message::Close) => return self.take_last(waiting),
                Err(error) => return error.is_empty(),
            }
        }
        true
    }

    /// Takes all that came before the lane was closed.
    fn take_last(&mut self, waiting: &mut Vec<Job>) -> bool {
        while let Ok(Message::Job(job)) = self.inbox.try_recv() {
            waiting.push(job);
        }
        // What comes now is told that nobody takes it.
        self.inbox = crossbeam_channel::never();
        false
    }

    /// Answers what has no time left.
    fn expire(&mut self, waiting: &mut Vec<Job>) {
        let latest = Instant::now() + LEAST_LEFT;
        if waiting.iter().all(|job| job.deadline > latest) {
            return;
        }
        for job in std::mem::take(waiting) {
            if job.deadline > latest {
                waiting.push(job);
                continue;
            }
            let what = match job.losses {
                0 => "the store did not answer in time; nothing was changed".to_owned(),
                losses => format!("other servers were faster {losses} times in a row; nothing was changed, try again"),
            };
            job.answer.give(Err(Error::new(Kind::StoreUnavailable, what)));
        }
    }

    /// Waits a little where all that is to be done has lost often.
    fn back_off(&mut self, lost: &[Job], rest: &[Job]) {
        let Some(least) = lost.iter().map(|job| job.losses).min().filter(|_| rest.is_empty()) else { return };
        if (MANY_LOSSES..STARVING).contains(&least) && self.inbox.is_empty() {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let longest = (BACK_OFF * (least / MANY_LOSSES)).min(MAX_BACK_OFF);
            thread::sleep(longest.mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64));
        }
    }

    /// Asks how many keys live, where as many were born as may be without that.
    fn ask_live(&mut self) {
        let due = |(live, births): (&Live, &i64)| {
            let allowed = self.live.get(live).copied().unwrap_or(BIRTHS);
            (births.unsigned_abs() >= allowed).then_some(*live)
        };
        let due: Vec<Live> = self.round.tally.births.iter().filter_map(due).collect();
        self.ask(&due);
    }

    fn ask(&mut self, asked: &[Live]) {
        let deadline = Instant::now() + self.timeout;
        for asked in asked.chunks(MAX_ASKED) {
            let prefixes: Vec<Vec<u8>> = asked.iter().map(|live| names::live_prefix(*live)).collect();
            let lists: Vec<(u8, &[u8])> = prefixes.iter().map(|prefix| (names::LIVE_BY, prefix.as_slice())).collect();
            let Ok(counts) = self.round.wire.counts(&lists, deadline) else { return };
            for (live, count) in asked.iter().zip(counts) {
                self.round.tally.births.remove(live);
                self.round.scratch.set_live(*live, count);
                let room = self.round.scratch.most_live(*live).saturating_sub(count);
                self.live.insert(*live, (room / ROOM_SHARE).max(BIRTHS));
            }
        }
    }

    /// Tells the store what was counted, and asks for what others have counted.
    ///
    /// # Errors
    /// `store_unavailable`, after which it is still to be told.
    fn tell(&mut self) -> Result<()> {
        self.told = Instant::now();
        let deadline = self.told + self.timeout;
        self.round.write_denials(deadline)?;
        let patterns = self.round.scratch.patterns();
        let counted = &mut self.round.tally.counted;
        let mut told: Vec<(u64, [u64; 4])> = counted.drain().collect();
        if patterns.len() <= MAX_ASKED {
            let silent = patterns.iter().filter(|(id, _)| !told.iter().any(|(known, _)| known == id));
            let silent: Vec<(u64, [u64; 4])> = silent.map(|(id, _)| (*id, [0; 4])).collect();
            told.extend(silent);
        }
        let mut done = Ok(());
        for told in told.chunks(MAX_ASKED) {
            // What can't be told is kept, each part for itself.
            done = self.tell_counted(told, deadline).and(done);
        }
        let mut asked: Vec<Live> = self.round.tally.births.keys().copied().collect();
        if patterns.len() <= MAX_ASKED {
            asked.extend(
                patterns
                    .iter()
                    .map(|(id, _)| Live::Pattern(*id))
                    .filter(|live| !self.round.tally.births.contains_key(live)),
            );
        }
        self.ask(&asked);
        self.round.bound(MAX_LOADED);
        done
    }

    fn tell_counted(&mut self, told: &[(u64, [u64; 4])], deadline: Instant) -> Result<()> {
        let keys: Vec<[Vec<u8>; 4]> = told.iter().map(|(id, _)| names::counters(*id)).collect();
        let counters: Vec<(&[u8], i64)> = keys
            .iter()
            .zip(told)
            .flat_map(|(keys, (_, counted))| {
                keys.iter().map(Vec::as_slice).zip(counted.iter().map(|count| *count as i64))
            })
            .collect();
        match self.round.wire.add(&counters, deadline) {
            Ok(totals) => {
                for ((id, _), totals) in told.iter().zip(totals.chunks_exact(4)) {
                    let total = |index: usize| totals[index].max(0) as u64;
                    self.round.set_totals(*id, [total(0), total(1), total(2), total(3)]);
                }
                Ok(())
            }
            Err(error) => {
                told.iter().for_each(|(id, counted)| self.round.tally.count(*id, counted));
                Err(told_error(&error, true))
            }
        }
    }
}

/// Rings when it is dropped.
struct Last(Arc<Bell>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// Dropped when a lane's thread ends that should not.
struct Ended(Arc<Figures>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}
