//! Operations that wait for their outcome, and those of one round.

use std::time::Instant;

use super::super::errors::closed;
use super::group::{Group, Touched, join};
use crate::engine::interface::{Done, Operation};
use crate::error::{Error, Result};
use crate::limiter::scratch::{Looked, Name};

/// Tells the outcome of an operation, once: dropped before, that nobody takes it any more.
pub struct Answer(Option<Done>);

impl Answer {
    pub fn new(done: Done) -> Answer {
        Answer(Some(done))
    }

    pub fn give(mut self, outcome: Result<()>) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(closed()));
        }
    }
}

/// An operation that waits for its outcome.
pub struct Job {
    pub operation: Operation,
    pub answer: Answer,
    /// When it has to have one.
    pub deadline: Instant,
    /// How often it was run and lost.
    pub losses: u32,
    /// In a Cluster the slot of its keys.
    pub slot: Option<u16>,
}

/// An operation in a round.
pub struct Turn {
    pub job: Job,
    pub looked: Looked,
    /// Its outcome, if that is known before anything is sent.
    pub ended: Option<Result<()>>,
}

/// Ends the operations of a group with an error.
pub fn end(turns: &mut [Turn], group: &Group<Name>, error: &Error) {
    group.operations.iter().for_each(|index| turns[*index].ended = Some(Err(error.clone())));
}

/// Which operations belong together.
pub fn groups(turns: &[Turn]) -> Vec<Group<Name>> {
    let touched: Vec<Touched<'_, Name>> =
        turns.iter().map(|turn| Touched { looked: &turn.looked.touched, changed: &turn.looked.changed }).collect();
    join(&touched, |name| *name == Name::Patterns)
}
