//! What a key has counted under its limit.

use std::cmp::Reverse;

use super::ceiling::Ceiling;
use super::parts::Parts;
use super::quote::{Detail, Quote, Quotes, Verdict};
use super::reconfigure::reconfigure;
use super::rest::Rest;
use super::speed::Speed;
use super::state::State;
use crate::bounds::MAX_RESTING;
use crate::clock::Micros;
use crate::limit::calendar::Ends;
use crate::limit::values::Limit;
use crate::limit::window::Window;

/// What a key has counted: the state of each window of its limit, and of windows of earlier values that still count.
/// Every method is given the limit under which the key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing(pub(super) Kind);

/// A million of these are kept, nearly all of them of one window: 40 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Under `unlimited`, and nothing rests.
    Nothing,
    /// One window, and nothing rests.
    One(State),
    More(Box<More>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct More {
    /// One for each window of the limit.
    pub states: Vec<State>,
    pub rest: Rest,
}

impl Standing {
    /// Nothing spent.
    pub fn new(limit: &Limit) -> Standing {
        match limit.windows() {
            [window] => Standing(Kind::One(State::new(window))),
            windows => Standing::of(windows.iter().map(State::new).collect(), Rest::default()),
        }
    }

    /// In the smallest form.
    fn of(mut states: Vec<State>, rest: Rest) -> Standing {
        if rest.is_empty() && states.len() <= 1 {
            return Standing(states.pop().map_or(Kind::Nothing, Kind::One));
        }
        states.shrink_to_fit();
        Standing(Kind::More(Box::new(More { states, rest })))
    }

    /// As plain numbers, for a snapshot.
    pub(crate) fn parts(&self) -> Parts {
        match &self.0 {
            Kind::Nothing => Parts::default(),
            Kind::One(state) => Parts { windows: vec![state.parts()], ..Parts::default() },
            Kind::More(more) => Parts {
                windows: more.states.iter().map(State::parts).collect(),
                resting: more.rest.windows.iter().map(|(window, state)| (*window, state.parts())).collect(),
                ceiling: more.rest.ceiling.as_ref().map(Ceiling::parts),
            },
        }
    }

    /// What else is reported of each window of its limit, in their order.
    pub fn details(&self) -> Vec<Detail> {
        match &self.0 {
            Kind::Nothing => Vec::new(),
            Kind::One(state) => vec![state.detail()],
            Kind::More(more) => more.states.iter().map(State::detail).collect(),
        }
    }

    /// From plain numbers that were written for `limit`; what cannot have been written is clamped.
    pub(crate) fn restore(limit: &Limit, parts: &Parts) -> Standing {
        if let ([window], [state], [], None) = (limit.windows(), &*parts.windows, &*parts.resting, &parts.ceiling) {
            return Standing(Kind::One(State::restore(window, state)));
        }
        let state = |(place, window): (usize, &Window)| match parts.windows.get(place) {
            Some(parts) => State::restore(window, parts),
            None => State::new(window),
        };
        let resting = parts.resting.iter().filter(|(window, _)| !limit.windows().contains(window)).take(MAX_RESTING);
        let windows = resting.map(|(window, parts)| (*window, State::restore(window, parts)));
        let rest = Rest { windows: windows.collect(), ceiling: parts.ceiling.as_ref().and_then(Ceiling::restore) };
        Standing::of(limit.windows().iter().enumerate().map(state).collect(), rest)
    }

    /// Brings it to `now`. Changes no later decision.
    pub fn advance(&mut self, limit: &Limit, now: Micros) {
        match &mut self.0 {
            Kind::Nothing => {}
            Kind::One(state) => {
                if let [window] = limit.windows() {
                    state.advance(window, now);
                }
            }
            Kind::More(more) => {
                more.advance(limit, now);
                if more.rest.is_empty() && more.states.len() <= 1 {
                    *self = Standing::of(std::mem::take(&mut more.states), Rest::default());
                }
            }
        }
    }

    /// Decides whether `cost` may be spent at `now`, to which it was advanced. Opens nothing, changes nothing; `ends`
    /// may be asked for the end of a calendar window that this check would open; what it notes is not for the record.
    pub fn quote(&self, limit: &Limit, now: Micros, cost: u64, ends: &mut dyn Ends) -> Verdict {
        match (&self.0, limit.windows()) {
            (Kind::One(state), [window]) => {
                let quote = state.quote(window, now, cost, state.allows(window, now, cost), ends);
                Verdict { allowed: quote.allowed, binding: 0, windows: Quotes::One([quote]) }
            }
            (Kind::More(more), windows) => more.quote(windows, now, cost, ends),
            _ => Verdict { allowed: true, binding: 0, windows: Quotes::Many(Vec::new()) },
        }
    }

    /// As [`Standing::quote`] for nothing: its state.
    pub fn glance(&self, limit: &Limit, now: Micros, ends: &mut dyn Ends) -> Verdict {
        self.quote(limit, now, 0, ends)
    }

    /// Spends `cost` at `now`, to which it was advanced, also past the limit, and in the resting windows too (none of
    /// which under `unlimited`).
    pub fn spend(&mut self, limit: &Limit, now: Micros, cost: u64, ends: &mut dyn Ends) {
        if cost == 0 {
            return;
        }
        match (&mut self.0, limit.windows()) {
            (Kind::One(state), [window]) => state.spend(window, now, cost, ends),
            (Kind::More(more), windows) => {
                for (state, window) in more.states.iter_mut().zip(windows) {
                    state.spend(window, now, cost, ends);
                }
                if let Some(speed) = windows.iter().map(Speed::of).reduce(Speed::faster) {
                    more.rest.spend(now, cost, speed, ends);
                }
            }
            _ => {}
        }
    }

    /// Takes new values at `at`: what was spent stays spent.
    pub fn reconfigure(&mut self, old: &Limit, new: &Limit, at: Micros, ends: &mut dyn Ends) {
        // The mode does not affect what counts.
        if old.windows() == new.windows() {
            return;
        }
        self.advance(old, at);
        if self.is_untouched(old, at) {
            *self = Standing::new(new);
            return;
        }
        let (states, rest) = match std::mem::replace(&mut self.0, Kind::Nothing) {
            Kind::Nothing => (Vec::new(), Rest::default()),
            Kind::One(state) => (vec![state], Rest::default()),
            Kind::More(more) => (more.states, more.rest),
        };
        let windows = old.windows().iter().copied().zip(states).collect();
        let (mut states, mut rest) = reconfigure(windows, rest, new.windows(), at, ends);
        if !old.has_shape_of(new) {
            let resting = rest.windows.iter_mut().map(|(window, state)| (&*window, state));
            for (window, state) in new.windows().iter().zip(&mut states).chain(resting) {
                state.forget_holds(window, at);
            }
        }
        *self = Standing::of(states, rest);
        // As a look would find it.
        self.advance(new, at);
    }

    /// Whether nothing that was spent still counts at `now`, to which it was advanced.
    pub fn is_untouched(&self, limit: &Limit, _now: Micros) -> bool {
        match (&self.0, limit.windows()) {
            (Kind::One(state), [window]) => state.is_untouched(window),
            (Kind::More(more), _) => more.rest.is_empty() && more.is_untouched(limit),
            _ => true,
        }
    }
}

impl More {
    fn advance(&mut self, limit: &Limit, now: Micros) {
        for (state, window) in self.states.iter_mut().zip(limit.windows()) {
            state.advance(window, now);
        }
        if self.rest.is_empty() {
            return;
        }
        self.rest.advance(now);
        if self.is_untouched(limit) && self.rest.is_untouched() {
            // Like a key that was never seen.
            self.rest = Rest::default();
        }
    }

    /// Whether nothing counts in the windows of the limit.
    fn is_untouched(&self, limit: &Limit) -> bool {
        self.states.iter().zip(limit.windows()).all(|(state, window)| state.is_untouched(window))
    }

    fn quote(&self, windows: &[Window], now: Micros, cost: u64, ends: &mut dyn Ends) -> Verdict {
        let ceiling = self.rest.ceiling.as_ref();
        let each = || self.states.iter().zip(windows);
        let allowed = each().all(|(state, window)| state.allows(window, now, cost))
            && (windows.is_empty() || ceiling.is_none_or(|ceiling| ceiling.allows(cost)));
        let mut one = |state: &State, window: &Window| {
            let mut quote = state.quote(window, now, cost, allowed, ends);
            if let Some(ceiling) = ceiling {
                ceiling.lower(&mut quote, cost, allowed);
            }
            quote
        };
        let windows = match (self.states.as_slice(), windows) {
            ([state], [window]) => Quotes::One([one(state, window)]),
            _ => Quotes::Many(each().map(|(state, window)| one(state, window)).collect()),
        };
        Verdict { allowed, binding: binding(windows.as_slice(), allowed), windows }
    }
}

/// The window that binds: on a denial the one with the longest wait, never being the longest, else the one with the
/// least remaining; the first of several.
fn binding(quotes: &[Quote], allowed: bool) -> usize {
    let wait = |quote: &Quote| if allowed { (false, 0) } else { (quote.retry.is_none(), quote.retry.unwrap_or(0)) };
    let places = 0..quotes.len();
    places.min_by_key(|place| (Reverse(wait(&quotes[*place])), quotes[*place].remaining)).unwrap_or(0)
}
