//! Clients that keep the server waiting: the thread `flint-slow`.
//!
//! Owns: bodies that have not arrived whole, the rest of replies whose clients are slow to take them, and connections
//! whose request was refused before its body was read. Two other kinds of thread wait for clients: `flint-body` for
//! each body in chunks, and on a Unix socket workers and `flint-body`, because tiny_http gives those requests no
//! address by which their connections could be found.
//!
//! How it waits for many at once: it finds the connection by its peer's address and duplicates the descriptor, so
//! that epoll can tell when there is something to do. While a body is unread the request holds tiny_http's reader, so
//! the connection's thread can't read, and the socket may be told not to wait (O_NONBLOCK). While a reply is sent
//! that thread may be reading, and must go on waiting; so the rest of a reply is sent by MSG_DONTWAIT. How long a
//! client may take is the guard's matter: it ends the connection, and epoll reports it.
//!
//! Called by the pool ([`Slow`]). Must never happen here: a wait for one client, or a decision.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, unbounded};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::super::context::Context;
use super::super::http::exchange::{Exchange, Progress};
use super::super::http::sending::{Sending, Sent};
use super::super::net::descriptors::Connections;
use super::super::net::facts;
use super::super::vitals::contain;
use super::super::work::{Job, Slow, Task};
use super::handle::{self, Handled};

/// How long the rest of a refused body is taken from the socket, so that its client can read the reply: a connection
/// that is closed with bytes unread is reset, and the reply with it.
const LINGER: Duration = Duration::from_millis(500);

/// How long a request is kept whose connection can't be found, before it is dropped: the guard ends an abandoned
/// connection in its grace and a walk, and then there is nothing to wait for.
const REST: Duration = Duration::from_millis(700);

/// Time between two looks at all descriptors.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Events that are taken at once.
const EVENTS: usize = 256;

/// The event that announces new tasks.
const WAKE: u64 = 0;

/// The thread before it runs.
pub struct Loop {
    tasks: Receiver<Task>,
    wake: OwnedFd,
    epoll: OwnedFd,
}

/// Makes the thread's parts.
///
/// # Errors
/// No descriptor was free.
pub fn make() -> io::Result<(Slow, Loop)> {
    let (sender, tasks) = unbounded();
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
    Ok((Slow::new(sender, wake.try_clone()?), Loop { tasks, wake, epoll }))
}

impl Loop {
    /// Starts the thread.
    ///
    /// # Errors
    /// None could be started.
    pub fn start(self, context: &Arc<Context>) -> io::Result<JoinHandle<()>> {
        let mut clients = Clients {
            parts: self,
            clients: HashMap::new(),
            next: WAKE + 1,
            searched: Vec::new(),
            known: Connections::default(),
            next_look: Instant::now(),
            lingering: Vec::new(),
            leftovers: Vec::new(),
            ending: false,
            context: Arc::clone(context),
        };
        context.vitals.start("flint-slow".to_owned(), move || clients.run())
    }
}

/// What is done with one connection.
enum State {
    Body(Exchange),
    Send(Sending),
    /// The reply's unsent bytes, and when the connection is closed at the latest.
    Linger(Exchange, Vec<u8>, Instant),
}

struct Client {
    fd: OwnedFd,
    state: State,
}

/// What becomes of a client after it was looked at.
#[expect(clippy::large_enum_variant, reason = "it lives for one step")]
enum Next {
    Wait(State, EventFlags),
    Done,
}

struct Clients {
    parts: Loop,
    clients: HashMap<u64, Client>,
    next: u64,
    /// Tasks whose connections are still to be found.
    searched: Vec<Task>,
    known: Connections,
    next_look: Instant,
    /// Those that linger, in the order of their ends.
    lingering: Vec<(Instant, u64)>,
    /// Requests whose connections can't be found, and when they are dropped.
    leftovers: Vec<(Instant, Exchange)>,
    ending: bool,
    context: Arc<Context>,
}

impl Clients {
    /// Until the end.
    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            self.take_tasks();
            self.search(Instant::now());
            self.clean(Instant::now());
            if self.ending && self.is_idle() {
                return;
            }
            let timeout = self.timeout(Instant::now());
            events.clear();
            match epoll::wait(&self.parts.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // Never so, with descriptors of our own.
                    log::error!("flint-slow: {error}");
                    std::thread::sleep(LINGER);
                }
            }
            for event in &events {
                let data = event.data;
                match data.u64() {
                    WAKE => drop(rustix::io::read(&self.parts.wake, &mut [0; 8])),
                    id => self.look_at(id),
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.clients.is_empty() && self.searched.is_empty() && self.leftovers.is_empty()
    }

    /// Until when there is nothing to do without an event.
    fn timeout(&self, now: Instant) -> Option<Timespec> {
        let search = (!self.searched.is_empty()).then_some(self.next_look);
        let linger = self.lingering.first().map(|(end, _)| *end);
        let leftover = self.leftovers.first().map(|(end, _)| *end);
        let until = [search, linger, leftover].into_iter().flatten().min()?;
        // Rounded up, or it would be looked at too early again and again.
        let left = until.saturating_duration_since(now) + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
    }

    fn take_tasks(&mut self) {
        loop {
            match self.parts.tasks.try_recv() {
                Ok(Task::End) | Err(TryRecvError::Disconnected) => return self.ending = true,
                Ok(task) => self.searched.push(task),
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    /// Finds the connections of new tasks, and begins with them.
    fn search(&mut self, now: Instant) {
        self.find_known();
        if self.searched.is_empty() || now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_INTERVAL;
        if let Err(error) = self.known.look() {
            log::debug!("flint-slow: cannot look at /proc/self/fd: {error}");
        }
        self.find_known();
        // The others have no connection any more.
        for task in std::mem::take(&mut self.searched) {
            if let Task::Body(mut exchange) | Task::Refuse(mut exchange, _) = task {
                exchange.give_up();
                self.leftovers.push((now + REST, exchange));
            }
        }
    }

    fn find_known(&mut self) {
        for task in std::mem::take(&mut self.searched) {
            let peer = match &task {
                Task::Body(exchange) | Task::Refuse(exchange, _) => exchange.peer,
                Task::Send(sending) => sending.peer,
                Task::End => None,
            };
            match peer.and_then(|peer| self.known.get(peer)) {
                Some(fd) => self.begin(fd, task),
                None => self.searched.push(task),
            }
        }
    }

    fn begin(&mut self, fd: OwnedFd, task: Task) {
        let id = self.next;
        self.next += 1;
        let state = match task {
            Task::Body(exchange) => {
                no_waiting(&fd, true);
                State::Body(exchange)
            }
            Task::Refuse(exchange, bytes) => {
                no_waiting(&fd, true);
                self.linger(id, exchange, bytes)
            }
            Task::Send(sending) => State::Send(sending),
            Task::End => return,
        };
        if let Next::Wait(state, flags) = self.go_on(id, &fd, state) {
            match epoll::add(&self.parts.epoll, &fd, EventData::new_u64(id), flags) {
                Ok(()) => drop(self.clients.insert(id, Client { fd, state })),
                Err(error) => log::debug!("flint-slow: a connection cannot be watched: {error}"),
            }
        }
    }

    /// Begins to end a connection; at once if there is nothing to say.
    fn linger(&mut self, id: u64, mut exchange: Exchange, bytes: Vec<u8>) -> State {
        exchange.give_up();
        let mut end = Instant::now();
        if !bytes.is_empty() {
            end += LINGER;
            self.lingering.push((end, id));
        }
        State::Linger(exchange, bytes, end)
    }

    /// Does what can be done for a client now.
    fn look_at(&mut self, id: u64) {
        let Some(Client { fd, state }) = self.clients.remove(&id) else { return };
        match self.go_on(id, &fd, state) {
            Next::Wait(state, flags) => {
                let _ = epoll::modify(&self.parts.epoll, &fd, EventData::new_u64(id), flags);
                self.clients.insert(id, Client { fd, state });
            }
            // The connection outlives this descriptor, and would go on being watched.
            Next::Done => drop(epoll::delete(&self.parts.epoll, &fd)),
        }
    }

    fn go_on(&mut self, id: u64, fd: &OwnedFd, state: State) -> Next {
        match state {
            State::Body(mut exchange) => match exchange.read_body() {
                Ok(Progress::Waiting) => Next::Wait(State::Body(exchange), EventFlags::IN | EventFlags::RDHUP),
                Ok(Progress::Done) => {
                    no_waiting(fd, false);
                    self.context.turns.resume(exchange);
                    Next::Done
                }
                Err(error) => match handle::refuse(&self.context, exchange, &error) {
                    Handled::Refused(exchange, bytes) => {
                        let state = self.linger(id, exchange, bytes);
                        self.go_on(id, fd, state)
                    }
                    _ => Next::Done,
                },
            },
            State::Send(sending) => match sending.go_on_by(fd.as_fd()) {
                Sent::Waiting(sending) => Next::Wait(State::Send(sending), EventFlags::OUT),
                Sent::More(sending) => {
                    self.context.jobs.add(Job::More(sending));
                    Next::Done
                }
                Sent::All => Next::Done,
            },
            State::Linger(exchange, bytes, end) => go_on_lingering(fd, exchange, bytes, end),
        }
    }

    /// Ends what has lingered long enough, and drops what has no connection any more.
    fn clean(&mut self, now: Instant) {
        let due = self.lingering.partition_point(|(end, _)| *end <= now);
        for (_, id) in self.lingering.drain(..due).collect::<Vec<_>>() {
            self.look_at(id);
        }
        let due = self.leftovers.partition_point(|(end, _)| *end <= now);
        for (_, exchange) in self.leftovers.drain(..due) {
            contain(|| exchange.discard());
        }
    }
}

/// Sends what is left of the reply, then takes in what the client still sends, until it has closed or the time is over.
fn go_on_lingering(fd: &OwnedFd, exchange: Exchange, mut bytes: Vec<u8>, end: Instant) -> Next {
    let now = Instant::now();
    let mut over = now >= end;
    while !bytes.is_empty() && !over {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        match rustix::net::send(fd, &bytes, flags) {
            Ok(sent) => drop(bytes.drain(..sent)),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(_) => over = true,
        }
    }
    if bytes.is_empty() && !over {
        // The client learns that this was all, and closes.
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
        facts::discard_received(fd);
        over = facts::bytes_received(fd).map_or(true, |tcp| tcp.peer_closed || tcp.dead);
    }
    if over {
        let _ = facts::shutdown(fd);
        facts::discard_received(fd);
        exchange.discard();
        return Next::Done;
    }
    let flags = if bytes.is_empty() { EventFlags::IN | EventFlags::RDHUP } else { EventFlags::OUT };
    Next::Wait(State::Linger(exchange, bytes, end), flags)
}

/// Tells a socket whether to wait in reads and writes.
fn no_waiting(fd: &OwnedFd, set: bool) {
    if let Err(error) = rustix::io::ioctl_fionbio(fd, set) {
        log::debug!("flint-slow: {error}");
    }
}
