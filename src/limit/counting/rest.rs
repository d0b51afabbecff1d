//! Windows of earlier values, which rest until their values come back.

use super::ceiling::Ceiling;
use super::speed::Speed;
use super::state::State;
use crate::clock::Micros;
use crate::limit::algorithm::Algorithm;
use crate::limit::calendar::Ends;
use crate::limit::window::Window;

/// What a key keeps of values that it had before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// At most [`MAX_RESTING`](crate::bounds::MAX_RESTING), all different, and none a window of the key's
    /// limit.
    pub windows: Vec<(Window, State)>,
    /// What all values together allow.
    pub ceiling: Option<Ceiling>,
}

impl Rest {
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.ceiling.is_none()
    }

    /// Brings all of it to `now`. A counter that has forgotten everything goes. A full bucket stays while anything else
    /// of the key counts: what is spent from then on must be missing there, should its values come back.
    pub fn advance(&mut self, now: Micros) {
        self.windows.retain_mut(|(window, state)| {
            state.advance(window, now);
            window.algorithm() == Algorithm::TokenBucket || !state.is_untouched(window)
        });
        if let Some(ceiling) = &mut self.ceiling {
            ceiling.advance(now);
            if ceiling.is_empty() {
                self.ceiling = None;
            }
        }
    }

    /// Whether nothing of it makes a difference to a key that has nothing else.
    pub fn is_untouched(&self) -> bool {
        self.windows.iter().all(|(window, state)| state.is_untouched(window))
            && self.ceiling.as_ref().is_none_or(Ceiling::is_over)
    }

    /// What is spent under the values of now, of which `speed` is the fastest, is spent here as well.
    pub fn spend(&mut self, now: Micros, cost: u64, speed: Speed, ends: &mut dyn Ends) {
        for (window, state) in &mut self.windows {
            state.spend_at_rest(window, now, cost, speed, ends);
        }
        if let Some(ceiling) = &mut self.ceiling {
            ceiling.spend(cost);
        }
    }
}
