//! Requests that are over while bytes of their body may still be on the socket.
//!
//! To drop such a request is to wait for these bytes (tiny_http reads them away), and not to drop it is to lose its
//! connection for good. So it is handed to one thread, which drops it when the guard has ended its connection: there is
//! nothing to wait for then.
//!
//! Owns: those requests and that thread. Called by `exchange` alone, with requests of abandoned connections, or on a Unix
//! socket with the wish that all its connections be cut. Must never happen here: that whoever hands one over waits.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tiny_http::{ReadWrite, Request};

use super::super::guard::Notes;
use crate::bounds::STACK_BYTES;

/// Requests that wait here before one more is forgotten, with its connection, which the guard counts then. Those of a Unix
/// socket never are, for the replies behind them, and their workers, would wait for ever; they are few, since the wish
/// that goes with them ends what they come by.
const ROOM: usize = 4096;

/// How long the guard takes at most to end an abandoned connection: its grace and a walk.
const REST: Duration = Duration::from_millis(700);

/// Pause between two looks at whether a wish is fulfilled.
const PAUSE: Duration = Duration::from_millis(10);

/// What is left of a request.
pub enum Remains {
    /// It was answered. Its connection's bytes are reached through this alone.
    Answered(Box<dyn ReadWrite + Send>),
    /// It will not be answered.
    Unanswered(Box<Request>),
    /// The same, on a Unix socket: its connection is over when this wish is fulfilled, and not before.
    Unix(Box<Request>, Notes, u64),
}

impl Remains {
    fn drop_at(self, earliest: Instant) {
        match self {
            Remains::Unix(request, notes, wish) => {
                while !notes.is_fulfilled(wish) {
                    thread::sleep(PAUSE);
                }
                drop(request.into_writer());
            }
            Remains::Answered(stream) => {
                thread::sleep(earliest.saturating_duration_since(Instant::now()));
                drop(stream);
            }
            Remains::Unanswered(request) => {
                thread::sleep(earliest.saturating_duration_since(Instant::now()));
                drop(request.into_writer());
            }
        }
    }
}

/// Takes the remains of a request. Never waits.
pub fn bury(remains: Remains) {
    static GRAVEYARD: OnceLock<Option<Sender<(Remains, Instant)>>> = OnceLock::new();
    let graveyard = GRAVEYARD.get_or_init(|| {
        let (sender, receiver) = unbounded();
        let thread = thread::Builder::new().name("flint-undertaker".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || work(&receiver)).inspect_err(|error| log::error!("no undertaker: {error}")).ok()?;
        Some(sender)
    });
    match graveyard {
        Some(sender) if sender.len() < ROOM || matches!(remains, Remains::Unix(..)) => {
            // The thread never ends.
            let _ = sender.send((remains, Instant::now() + REST));
        }
        _ => std::mem::forget(remains),
    }
}

fn work(receiver: &Receiver<(Remains, Instant)>) {
    while let Ok((remains, earliest)) = receiver.recv() {
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| remains.drop_at(earliest)));
        if dropped.is_err() {
            log::debug!("a request that was over could not be let go");
        }
    }
}
