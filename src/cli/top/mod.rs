//! `flint top`: which keys are busy right now. Live on a terminal, once and plain in a pipe.
//!
//! Owns: the terminal while it is live. It shows the difference of two samples. A separate thread takes them, so that
//! keys work even while a server is slow to answer.
//!
//! Each module may use only those after it in this list: `terminal`, `frame`, `sample`.

mod frame;
mod sample;
mod terminal;

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use self::frame::{Style, frame};
use self::sample::{Sample, View};
use self::terminal::{Event, Terminal, Waker};
use super::answer::Answer;
use super::options::{Args, Global};
use super::output::Output;
use super::remote::ask;
use crate::bounds::MAX_PAGE;
use crate::error::{Error, Kind, Result};
use crate::limiter::Access;

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// Pauses are this many times as long as a sample takes, at least: opening a large directory is not for free.
const REST: u32 = 4;

/// Keys in a pipe, by default.
const IN_A_PIPE: u64 = 10;

/// Columns and lines if no terminal reports them.
const PLAIN: (usize, usize) = (80, usize::MAX);

/// What is asked for.
#[derive(Clone)]
struct Wanted {
    /// `allowed` or `denied`.
    by: String,
    /// Keys that are shown at most.
    count: usize,
}

/// `top`
pub fn top(args: &Args, global: &Global, output: &mut Output) -> Result<Answer> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let is_live = std::io::stdout().is_terminal() && !dumb && !output.json;
    let count = args.given_number("--limit")?.unwrap_or(if is_live { MAX_PAGE as u64 } else { IN_A_PIPE });
    let wanted = Wanted { by: args.text("--by")?.to_owned(), count: count as usize };
    if output.json {
        // As `limit top`.
        let reply = ask(global, Access::Read, &sample::request(&wanted.by, wanted.count))?;
        return output.reply(&reply, |_| Ok(()));
    }
    // Errors are reported before the screen changes.
    let first = Sample::take(global, &wanted.by)?;
    if is_live {
        return live(global, &wanted, first);
    }
    std::thread::sleep(EVERY);
    let view = View::between(&first, &Sample::take(global, &wanted.by)?, &wanted.by, wanted.count);
    frame(&view, PLAIN, Style::PLAIN).iter().try_for_each(|line| output.line(line))?;
    Ok(Answer::Yes)
}

/// Shows it until it is ended by a key or a signal.
fn live(global: &Global, wanted: &Wanted, first: Sample) -> Result<Answer> {
    let style = Style::of_terminal();
    let mut terminal = Terminal::enter()?;
    let samples = feed(global.clone(), wanted.by.clone(), terminal.waker()?)?;
    let mut view = View::of(&first, wanted.count);
    let mut last = first;
    loop {
        terminal.draw(&frame(&view, terminal.size(), style))?;
        match terminal.wait()? {
            Event::End => return Ok(Answer::Yes),
            Event::Signal(signal) => return Ok(Answer::Status(128 + signal as u8)),
            Event::Suspend => terminal.suspend()?,
            Event::Resized => {}
            Event::Woken => {
                for sample in samples.try_iter() {
                    match sample {
                        Ok(sample) => {
                            view = View::between(&last, &sample, &wanted.by, wanted.count);
                            last = sample;
                        }
                        // It may come back.
                        Err(error) => view.note = Some(error.message().to_owned()),
                    }
                }
            }
        }
    }
}

/// Takes samples for as long as they are taken off, and wakes the terminal's thread for each.
fn feed(global: Global, by: String, waker: Waker) -> Result<Receiver<Result<Sample>>> {
    let (sender, receiver) = channel();
    let sampling = move || {
        let mut pause = EVERY;
        loop {
            std::thread::sleep(pause);
            let begun = Instant::now();
            if sender.send(Sample::take(&global, &by)).is_err() {
                return;
            }
            waker.wake();
            pause = EVERY.max(begun.elapsed() * REST);
        }
    };
    let started = std::thread::Builder::new().name("flint-top".into()).spawn(sampling);
    started.map_err(|error| Error::new(Kind::Io, format!("cannot start a thread: {error}")))?;
    Ok(receiver)
}
