//! What a key has counted, when its values change. What was spent stays spent.
//!
//! # The rules
//!
//! - A window that is in the old values and in the new ones goes on as it is.
//! - A window of the old values that is not in the new ones **rests**: every later spend is spent there too, also past
//!   its capacity, and time goes on for it. When its values come back, it is what it would be had it stayed. Under
//!   `unlimited` all windows rest; what is spent then counts nowhere.
//! - Any other new window is **converted** from the old one with the same period (zone and anchor too) and algorithm;
//!   from a resting one of that kind if there is none; else from the most used one from which no other window was
//!   converted; and from resting windows if there are no old ones (`unlimited`).
//!   - A bucket takes what is missing, whole, and below zero where its capacity is smaller. Below zero it refills at
//!     the faster of the old and the new rate.
//!   - A counter or log takes counts and instants from its own algorithm and judges them by its own rate and period;
//!     from another algorithm it takes what still counts as one lump, spent when the window began (a log: its newest
//!     instant, as its oldest would give back what came later; a bucket: now).
//! - Where a counter or a log is among old and new values, a [`Ceiling`] over all of them holds as well.
//! - A key of which nothing counts any more is like a key that was never seen, whatever it was before: the sweep, which
//!   forgets it, changes nothing.
//!
//! # The first promise
//!
//! *Over any sequence of values and checks no more is allowed in any time than by one limit with the largest burst `B`
//! and the fastest rate `F` among them; with counters, and one window `E` at its edge.*
//!
//! The backlog `D` at an instant is the most by which what was allowed since any earlier instant exceeds `F` times the
//! time since then. Promised is that `D` never exceeds `B`, or `B + E` with counters.
//!
//! **Buckets only.** Every window of the key, resting or not, lacks at least `D`: each spend is missing in all of them;
//! none refills faster than `F`, as the speed at which one pays a debt is among the rates too; a new one lacks what
//! another one lacked; and no rounding makes less of it. What a bucket allows is at most its capacity less what it
//! lacks, so `D` stays at most its capacity. What is spent under `unlimited` counts in no window, and not in `D`.
//!
//! **With counters** the ceiling denies whatever would take `D` past `B + E`, as long as it counts at least `D`. Each
//! spend counts there, and it forgets at `F`; so all depends on what it begins with. Say that `D` is at most `E` where
//! a key is untouched; that is true at first, when it is 0. From there on, under one window,
//!
//! - a bucket lacks at least what `D` is beyond `E`, as above;
//! - a counter has a `D` of at most `E` whenever a window begins: in a window `D` grows by what is spent and falls by
//!   no less until the next one begins, or all of it came at the end, and that is one window. So in a window `D` is at
//!   most `E`, less what its time has paid, and what was spent in it;
//! - a log holds at least what `D` is beyond `E`, by the same for every period that ends now.
//!
//! With that the ceiling begins; with the least of it where there are several windows, as each of them allowed all that
//! was spent. It ends where it counts nothing, so that `D` is 0, for which the above holds from then on. Or it ends
//! where the key is untouched, but not before it counts no more than `E`: so `D` is at most `E` where a key is
//! untouched.
//!
//! Of a log the ceiling takes a little less: as though what came before had been paid since its newest instant, which
//! is not so where units expired since. `D` may then be larger by what expired, if that log was full without a pause
//! since two windows met at an edge. Otherwise the ceiling would deny what a window converted from a log has at its own
//! edge.
//!
//! Where values change once, the ceiling denies nothing that the windows would allow: it begins with no more than `E`
//! and what is used in the window of now.
//!
//! # The second promise
//!
//! *A bucket that is changed and changed back has never more than if it had stayed.*
//!
//! Let `S` be the bucket that stayed, of which the same is asked that was spent meanwhile, and `R` the bucket that
//! rested. Both are equal at first. A spend takes as much from `R` as from `S`, or more where `S` denies it, and at
//! zero or more both refill alike, so `R` is never more than `S` there. Where a spend takes `R` below zero and `S` not,
//! `R` may pay at any speed: it is less than `S` until it is at zero. Where `R` is below zero already, a spend may
//! hasten it as far as its debt doesn't end earlier than without the spend ([`State::spend_at_rest`]): then, if `S` is
//! below zero too, both are on their way to zero, and `R` is the lower and has the later end. So `R` is never more than
//! `S`. It stays there when it is full, as long as the key counts anything: what is spent later must be missing.
//!
//! Three things bound this promise. A key that is untouched while its bucket rests is like a key never seen. Under
//! `unlimited` nothing is counted. And at most [`MAX_RESTING`] windows rest: a change beyond them forgets the least
//! used one, and should its values come back, they are converted like new ones (the first promise doesn't need it).

use std::cmp::Reverse;

use super::algorithms::sliding_window_log::EventLog;
use super::algorithms::token_bucket::Missing;
use super::ceiling::Ceiling;
use super::rest::Rest;
use super::speed::{Speed, length};
use super::state::State;
use crate::bounds::MAX_RESTING;
use crate::clock::Micros;
use crate::limit::algorithm::Algorithm;
use crate::limit::calendar::Ends;
use crate::limit::window::Window;

/// The states of the windows `new`, and what rests, where a key stood as `old` and `rest` say, all of it advanced to
/// `at`, and not untouched.
pub fn reconfigure(
    old: Vec<(Window, State)>,
    rest: Rest,
    new: &[Window],
    at: Micros,
    ends: &mut dyn Ends,
) -> (Vec<State>, Rest) {
    let ceiling = ceiling(&old, &rest, new, at);
    let mut sources = Sources { taken: Vec::new(), active: old.len(), all: old };
    sources.taken.extend(sources.all.iter().map(|(window, _)| new.contains(window)));
    sources.all.extend(rest.windows);
    let states = new
        .iter()
        .map(|window| {
            let Some((_, same)) = sources.all.iter().find(|(other, _)| other == window) else {
                return match sources.take(window, at) {
                    Some((from, state)) => converted(from, state, window, at, ends),
                    None => State::new(window),
                };
            };
            same.clone()
        })
        .collect();
    let active = sources.active;
    let mut windows = sources.all;
    let mut place = 0;
    windows.retain(|(window, state)| {
        let rested = place >= active;
        place += 1;
        // A counter that has forgotten everything needs no rest.
        let worth = rested || window.algorithm() == Algorithm::TokenBucket || !state.is_untouched(window);
        worth && !new.contains(window)
    });
    while windows.len() > MAX_RESTING {
        let used = |place: &usize| windows[*place].1.used(&windows[*place].0, at);
        let least = (0..windows.len()).min_by_key(used).unwrap_or(0);
        windows.remove(least);
    }
    windows.shrink_to_fit();
    (states, Rest { windows, ceiling })
}

/// What all values together allow from now on.
fn ceiling(old: &[(Window, State)], rest: &Rest, new: &[Window], at: Micros) -> Option<Ceiling> {
    if let Some(mut ceiling) = rest.ceiling.clone() {
        new.iter().for_each(|window| ceiling.widen(window));
        return Some(ceiling);
    }
    let earlier = old.iter().chain(&rest.windows).map(|(window, _)| *window);
    let values: Vec<Window> = earlier.chain(new.iter().copied()).collect();
    Ceiling::begin(&values, if old.is_empty() { &rest.windows } else { old }, at)
}

/// What new windows can be converted from.
struct Sources {
    /// The windows of the old values, then those that rested.
    all: Vec<(Window, State)>,
    /// How many are of the old values.
    active: usize,
    /// Which of these are in the new values too, or another window was converted from.
    taken: Vec<bool>,
}

impl Sources {
    /// What `window` is converted from.
    fn take(&mut self, window: &Window, at: Micros) -> Option<(&Window, &State)> {
        let rank = |place: &usize| {
            let (other, state) = &self.all[*place];
            let same = other.period() == window.period() && other.algorithm() == window.algorithm();
            let order = match self.taken.get(*place) {
                Some(taken) => u8::from(*taken),
                None => 2,
            };
            (if same { order } else { 3 + order }, Reverse(state.used(other, at)))
        };
        let place = (0..self.all.len()).min_by_key(rank)?;
        if let Some(taken) = self.taken.get_mut(place) {
            *taken = true;
        }
        let (from, state) = &self.all[place];
        Some((from, state))
    }
}

/// What a state of the window `from` is to the window `to`.
fn converted(from: &Window, state: &State, to: &Window, at: Micros, ends: &mut dyn Ends) -> State {
    let lump = |start, used, ends| State::lump(to, start, used, ends);
    let mut new = match (state, to.algorithm()) {
        (State::Bucket(bucket), Algorithm::TokenBucket) => {
            State::lacking(to, bucket.missing(from), Speed::of(from), at)
        }
        (State::Debt(debt), Algorithm::TokenBucket) => State::lacking(to, debt.missing(from), debt.speed(), at),
        (_, Algorithm::TokenBucket) => {
            // A counter or log forgets within a period, also what is beyond its rate.
            let used = state.used(from, at);
            let speed = Speed { units: used.max(from.rate()), per: length(from) };
            State::lacking(to, Missing::whole(used), speed, at)
        }
        (State::Events(log), Algorithm::SlidingWindowLog) => {
            let count = |(when, _): &(Micros, u64)| when.saturating_add(length(to)) > at;
            State::Events(Box::new(EventLog::restore(to, log.events().filter(count))))
        }
        (State::Pair(pair), Algorithm::SlidingWindowCounter) => State::Pair(pair.judged(to)),
        (State::Window(open), Algorithm::FixedWindowCounter) if from.period() == to.period() => {
            State::Window(open.judged(to))
        }
        (State::Window(open), _) => lump(open.start(), open.used(), ends),
        (State::Pair(pair), _) => lump(pair.start(), state.used(from, at), ends),
        (State::Events(log), _) => lump(log.newest().unwrap_or(at), log.used(), ends),
        (State::Bucket(_) | State::Debt(_), _) => lump(at, state.used(from, at), ends),
    };
    if from.period() == to.period() && from.algorithm() == to.algorithm() {
        new = new.last_full(to, state.full_at());
    }
    new.advance(to, at);
    new
}
