//! What several values in turn allow together.
//!
//! A counter forgets: what a window counted is gone with its end, and a change of values can choose which window ends
//! when. Eight windows of one rate whose periods differ by a little, each made the key's only one just before it ends,
//! would together allow eight times the rate within a moment, though each of them counts every unit that was spent. So
//! where values change and a counter or a log is among them, a ceiling goes with the key: a bucket as large as the
//! largest capacity and one window more (the window at its edge), refilled at the fastest rate, from which every check
//! must be allowed as well. It says no only where the values together would have allowed more than they promise.
//!
//! What counts against it is never less than the backlog: the most by which what was allowed from any earlier instant
//! on exceeds the fastest rate over that time. The backlog of a key that never changed its values isn't known: its
//! window may be the one that came after an edge. So it is taken as one window (`edge`) at the time when the key's
//! window began, and the spends since then come on top. The argument is in [`reconfigure`](super::reconfigure).

use super::algorithms::token_bucket::Missing;
use super::parts::CeilingParts;
use super::quote::Quote;
use super::speed::{Speed, narrow, product, shortest};
use super::state::State;
use crate::bounds::MAX_UNITS;
use crate::clock::Micros;
use crate::limit::algorithm::Algorithm;
use crate::limit::window::Window;

/// A bucket over several values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    /// The largest capacity.
    most: u64,
    /// The largest rate of a counter or log.
    edge: u64,
    /// The fastest rate.
    speed: Speed,
    /// What counts, in parts of a unit, each one `speed.per`-th.
    backlog: u128,
    at: Micros,
}

fn is_counter(window: &Window) -> bool {
    window.algorithm() != Algorithm::TokenBucket
}

/// The fastest that a window can refill: a calendar's shortest period.
fn speed(window: &Window) -> Speed {
    Speed { units: window.rate(), per: shortest(window) }
}

impl Ceiling {
    /// One over `values`, of which the key stands under those with the states `standing`, advanced to `at`. None if
    /// no counter is among them, or nothing can be allowed.
    pub fn begin(values: &[Window], standing: &[(Window, State)], at: Micros) -> Option<Ceiling> {
        let edge = values.iter().filter(|window| is_counter(window)).map(Window::rate).max().unwrap_or(0);
        if edge == 0 {
            return None;
        }
        let most = values.iter().map(Window::capacity).max().unwrap_or(0);
        let speed = values.iter().map(speed).reduce(Speed::faster)?;
        let mut ceiling = Ceiling { most, edge, speed, backlog: 0, at };
        // Every window has allowed everything that was spent, so each one's bound holds.
        ceiling.backlog = standing
            .iter()
            .map(|(window, state)| ceiling.backlog_of(window, state))
            .min()
            .unwrap_or(0)
            .min(ceiling.top());
        Some(ceiling)
    }

    /// The most that may be the backlog of a key that stood under this window only.
    fn backlog_of(&self, window: &Window, state: &State) -> u128 {
        let since = |start: Micros| product(self.at.saturating_sub(start), self.speed.units);
        let edge = self.units(self.edge);
        match state {
            // What is missing, and what came before the bucket was full.
            State::Bucket(bucket) => edge + self.parts_of(bucket.missing(window)),
            State::Debt(debt) => edge + self.parts_of(debt.missing(window)),
            State::Window(open) if open.used() == 0 => edge,
            State::Window(open) => {
                let used = self.units(open.used().min(self.most));
                // A calendar window began with its period, at the latest so long before its end.
                let began = open.start().min(open.end().saturating_sub(shortest(window)));
                (edge + used).saturating_sub(since(began)).max(used)
            }
            State::Pair(pair) => {
                let current = self.units(pair.current().min(self.most));
                (edge + current).saturating_sub(since(pair.start())).max(current)
            }
            State::Events(log) => {
                // At each instant it is no more than what the log held then, and that was never more than the rate.
                let most = edge + self.units(window.rate());
                let (mut backlog, mut last) = (most, None);
                for (at, units) in log.events() {
                    if let Some(last) = last {
                        let paid = product(at - last, self.speed.units);
                        backlog = (backlog.saturating_sub(paid) + self.units(units)).min(most);
                    }
                    last = Some(at);
                }
                let newest = since(last.unwrap_or(self.at));
                backlog.min(edge + self.units(log.used())).saturating_sub(newest)
            }
        }
    }

    /// What a bucket lacks, up to the largest capacity, in parts of this speed.
    fn parts_of(&self, missing: Missing) -> u128 {
        let part = product(missing.part, self.speed.per).div_ceil(u128::from(missing.per));
        (self.units(missing.units) + part).min(self.units(self.most))
    }

    /// Holds over the values of `window` too.
    pub fn widen(&mut self, window: &Window) {
        let faster = speed(window);
        if faster.is_faster_than(self.speed) {
            let (old, new) = (u128::from(self.speed.per), u128::from(faster.per));
            let (whole, part) = (self.backlog / old, self.backlog % old);
            self.backlog = whole * new + (part * new).div_ceil(old);
            self.speed = faster;
        }
        self.most = self.most.max(window.capacity());
        if is_counter(window) && window.rate() > self.edge {
            // What was unknown at the beginning may have been as much.
            self.backlog += self.units(window.rate() - self.edge);
            self.edge = window.rate();
        }
    }

    pub fn restore(parts: &CeilingParts) -> Option<Ceiling> {
        let (units, per) = parts.speed;
        if units == 0 || per == 0 {
            return None;
        }
        let mut ceiling = Ceiling {
            most: parts.most.min(MAX_UNITS),
            edge: parts.edge.min(MAX_UNITS),
            speed: Speed { units, per },
            backlog: product(parts.whole, per) + u128::from(parts.part),
            at: parts.at,
        };
        ceiling.backlog = ceiling.backlog.min(ceiling.top());
        Some(ceiling)
    }

    pub fn parts(&self) -> CeilingParts {
        let per = u128::from(self.speed.per);
        CeilingParts {
            most: self.most,
            edge: self.edge,
            speed: (self.speed.units, self.speed.per),
            whole: narrow(self.backlog / per),
            part: (self.backlog % per) as u64,
            at: self.at,
        }
    }

    fn units(&self, units: u64) -> u128 {
        product(units, self.speed.per)
    }

    fn top(&self) -> u128 {
        self.units(self.most + self.edge)
    }

    pub fn advance(&mut self, now: Micros) {
        let paid = product(now.saturating_sub(self.at), self.speed.units);
        self.backlog = self.backlog.saturating_sub(paid);
        self.at = self.at.max(now);
    }

    /// Nothing counts any more.
    pub fn is_empty(&self) -> bool {
        self.backlog == 0
    }

    /// No more counts than what a key that was never seen is taken to have before it.
    pub fn is_over(&self) -> bool {
        self.backlog <= self.units(self.edge)
    }

    pub fn allows(&self, cost: u64) -> bool {
        cost == 0 || self.backlog + self.units(cost) <= self.top()
    }

    pub fn spend(&mut self, cost: u64) {
        // What is forced past a limit was not allowed by it.
        self.backlog = (self.backlog + self.units(cost)).min(self.top());
    }

    /// Gives back units.
    pub fn give(&mut self, units: u64) {
        self.backlog = self.backlog.saturating_sub(self.units(units));
    }

    /// Lowers what a window says to what all values together allow, of `cost`: as after spending it where `take`.
    pub fn lower(&self, quote: &mut Quote, cost: u64, take: bool) {
        let mut left = self.clone();
        if take {
            left.spend(cost);
        } else if !self.allows(cost) {
            quote.allowed = false;
            quote.retry = longer(quote.retry, self.until(cost));
        }
        let remaining = narrow((left.top() - left.backlog) / u128::from(self.speed.per));
        if remaining < quote.remaining {
            quote.remaining = remaining;
            quote.next = left.until(remaining + 1);
        } else if remaining == quote.remaining && quote.next != Some(0) {
            quote.next = longer(quote.next, left.until(remaining + 1));
        }
    }

    /// Microseconds until `cost` is allowed; `None` for never.
    fn until(&self, cost: u64) -> Option<Micros> {
        if cost > self.most + self.edge {
            return None;
        }
        let missing = (self.backlog + self.units(cost)).saturating_sub(self.top());
        Some(narrow(missing.div_ceil(u128::from(self.speed.units))))
    }
}

/// The longer of two waits; `None` is for ever.
pub fn longer(a: Option<Micros>, b: Option<Micros>) -> Option<Micros> {
    Some(a?.max(b?))
}
