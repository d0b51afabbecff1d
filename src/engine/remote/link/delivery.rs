//! Getting requests to the servers and their replies back, whatever happens on the way.
//!
//! A link hands over *parcels*: packed requests, each with the slot that it is for. They go to the slots' masters in
//! one pipeline each, and again if a connection is lost or a server sends them elsewhere, until the deadline. What the
//! requests mean is not known here, but for three things: whether it does harm to send one twice (the script sees to
//! that), whether replicas have to confirm it, and that a reply which is lost leaves it unknown whether it was done.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::connection::{Connection, Role};
use super::error::{LinkError, Verdict, demoted, verdict};
use super::places::directory::Directory;
use super::places::map::Map;
use super::places::place::Place;
use super::places::replicas::{TooFew, Wait};
use super::wire::pack;
use crate::bounds::{STORE_ASK_MS, STORE_REPLICAS_MS, STORE_TIMEOUT_MS};

/// A request on its way.
pub struct Parcel {
    /// Where it stands in the packed bytes.
    pub range: Range<usize>,
    pub slot: u16,
    /// Whether it may change something: replicas have to confirm it, and a lost reply leaves that unknown.
    pub writes: bool,
    /// Whether it is told of keys that are on two nodes while a slot moves, so that it can be divided.
    pub divisible: bool,
    /// Whether it is several attempts, with a reply to each in an array.
    pub is_batch: bool,
    /// Whether it may have been done without a reply.
    pub lost: bool,
    /// What those of a batch are told that are done: too few replicas have confirmed it.
    pub few: Option<LinkError>,
    result: Option<Result<Reply, Failure>>,
    ask: Option<Arc<Place>>,
    /// Why it was to be sent again, the last time.
    obstacle: Option<LinkError>,
}

/// Why a parcel has no reply.
#[derive(Debug, PartialEq)]
pub enum Failure {
    Error(LinkError),
    /// Its keys are on two nodes.
    Divided,
}

impl Parcel {
    pub fn new(range: Range<usize>, slot: u16, writes: bool) -> Parcel {
        let (divisible, is_batch, lost) = (false, false, false);
        Parcel { range, slot, writes, divisible, is_batch, lost, few: None, result: None, ask: None, obstacle: None }
    }

    /// What became of it: once [`Carrier::deliver`] has returned.
    pub fn taken(&mut self) -> Result<Reply, Failure> {
        let none = || Err(Failure::Error(LinkError::unavailable("the request was not sent")));
        self.result.take().unwrap_or_else(none)
    }

    fn is_open(&self) -> bool {
        self.result.is_none()
    }

    /// Ends it with an error.
    fn fail(&mut self, error: LinkError) {
        let error = if self.lost && self.writes { error.unknown() } else { error };
        self.result = Some(Err(Failure::Error(error)));
    }
}

/// A link's connections.
pub struct Carrier {
    directory: Arc<Directory>,
    connections: Vec<(Arc<Place>, Connection)>,
    /// What is sent to one server.
    out: Vec<u8>,
}

/// What goes to one server in one pipeline.
struct Run {
    place: Arc<Place>,
    members: Vec<usize>,
    wait: Option<Wait>,
    sent: bool,
}

/// How one round of sending went.
#[derive(Default)]
struct Round {
    /// A server could not be asked: ask about the map.
    failed: bool,
    /// The same is to be tried in a moment.
    pause: bool,
}

impl Carrier {
    pub fn new(directory: Arc<Directory>) -> Carrier {
        Carrier { directory, connections: Vec::new(), out: Vec::new() }
    }

    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Asks each master something, over the link's own connection.
    pub fn each_master<T>(
        &mut self,
        until: Instant,
        mut ask: impl FnMut(&mut Connection, &Place) -> Result<T, LinkError>,
    ) -> Result<Vec<T>, LinkError> {
        let mut answers = Vec::new();
        for place in self.directory.map().places() {
            place.away().map_or(Ok(()), Err)?;
            self.connect(place, until)?;
            let found = self.connections.iter_mut().find(|(known, _)| Arc::ptr_eq(known, place));
            let Some((_, connection)) = found else { continue };
            let answer = ask(connection, place);
            if answer.is_err() {
                self.connections.retain(|(known, _)| !Arc::ptr_eq(known, place));
            }
            answers.push(answer?);
        }
        Ok(answers)
    }

    /// Delivers all parcels, or gives up at the deadline. Each has its reply or a failure then.
    pub fn deliver(&mut self, packed: &[u8], parcels: &mut [Parcel], until: Instant) {
        let mut rounds = 0_u32;
        loop {
            let map = self.directory.map();
            let mut runs = self.plan(&map, parcels);
            if !parcels.iter().any(Parcel::is_open) {
                return;
            }
            if Instant::now() >= until {
                return self.give_up(&map, parcels);
            }
            let mut round = Round { pause: runs.is_empty(), ..Round::default() };
            for run in &mut runs {
                self.send(run, packed, parcels, until, &mut round);
            }
            for run in &runs {
                self.receive(run, parcels, until, &mut round);
            }
            if !parcels.iter().any(Parcel::is_open) {
                return;
            }
            if round.failed {
                let soon = Instant::now() + Duration::from_millis(STORE_ASK_MS);
                self.directory.bell().ring_and_wait(soon.min(until));
            }
            if round.pause || rounds > 2 {
                let pause = Duration::from_millis(1 << rounds.min(5));
                thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
            }
            rounds += 1;
        }
    }

    /// Sorts open parcels by their servers. Those whose server is known to be away fail, unless they may have been done
    /// there: only the server can tell.
    fn plan(&self, map: &Map, parcels: &mut [Parcel]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (at, parcel) in parcels.iter_mut().enumerate().filter(|(_, parcel)| parcel.is_open()) {
            let place = parcel.ask.as_ref().or_else(|| map.place_of(parcel.slot));
            let obstacle = match place {
                None => Some(LinkError::unavailable(format!("no master of the store has slot {}", parcel.slot))),
                Some(place) if parcel.writes => place.unwritable(),
                Some(place) => place.away(),
            };
            match (place, obstacle) {
                (_, Some(_)) if parcel.lost => {}
                (_, Some(error)) => parcel.fail(error),
                (Some(place), None) => match runs.iter_mut().find(|run| Arc::ptr_eq(&run.place, place)) {
                    Some(run) => run.members.push(at),
                    None => {
                        runs.push(Run { place: Arc::clone(place), members: vec![at], wait: None, sent: false });
                    }
                },
                (None, None) => {}
            }
        }
        runs
    }

    /// Sends one pipeline.
    fn send(&mut self, run: &mut Run, packed: &[u8], parcels: &mut [Parcel], until: Instant, round: &mut Round) {
        if let Err(error) = self.connect(&run.place, until) {
            run.place.set_away(error);
            round.failed = true;
            return;
        }
        let replicas = self.directory.options.replicas;
        let out = &mut self.out;
        out.clear();
        for at in &run.members {
            if parcels[*at].ask.is_some() {
                pack::whole(out, &[b"ASKING"]);
            }
            out.extend_from_slice(&packed[parcels[*at].range.clone()]);
        }
        if replicas > 0 && run.members.iter().any(|at| parcels[*at].writes) {
            let left = until.saturating_duration_since(Instant::now());
            let patience = Duration::from_millis(STORE_REPLICAS_MS).min(left * 4 / 5);
            let wait = Wait::new(replicas, patience, &run.place);
            wait.pack(out);
            run.wait = Some(wait);
        }
        let Some((_, connection)) = self.connections.iter_mut().find(|(place, _)| Arc::ptr_eq(place, &run.place))
        else {
            return;
        };
        match connection.send(out, until) {
            Ok(()) => run.sent = true,
            Err(_) => self.lose(run, &run.members, parcels),
        }
    }

    /// Makes sure that there is a connection.
    fn connect(&mut self, place: &Arc<Place>, until: Instant) -> Result<(), LinkError> {
        if self.connections.iter().any(|(known, _)| Arc::ptr_eq(known, place)) {
            return Ok(());
        }
        let (connection, time) = Connection::greet(&self.directory.dialing, place.endpoint(), until)?;
        self.directory.options.clock.raise(time);
        if connection.role == Role::Replica && !self.directory.address.is_cluster() {
            return Err(demoted(place.endpoint()));
        }
        // Connections to servers that nobody has slots of any more go.
        let map = self.directory.map();
        self.connections.retain(|(known, _)| map.places().iter().any(|place| Arc::ptr_eq(place, known)));
        self.connections.push((Arc::clone(place), connection));
        Ok(())
    }

    /// Drops a connection; these parcels may have been done.
    fn lose(&mut self, run: &Run, members: &[usize], parcels: &mut [Parcel]) {
        self.connections.retain(|(place, _)| !Arc::ptr_eq(place, &run.place));
        for at in members {
            parcels[*at].lost = true;
        }
    }

    /// Reads the replies to one pipeline.
    fn receive(&mut self, run: &Run, parcels: &mut [Parcel], until: Instant, round: &mut Round) {
        let found = self.connections.iter_mut().position(|(place, _)| Arc::ptr_eq(place, &run.place));
        let Some(at) = found.filter(|_| run.sent) else { return };
        let begun = Instant::now();
        let connection = &mut self.connections[at].1;
        let mut replies = Vec::with_capacity(run.members.len());
        let mut read = || -> Result<Option<TooFew>, LinkError> {
            for at in &run.members {
                if parcels[*at].ask.is_some() {
                    connection.receive(until)?;
                }
                replies.push(connection.receive(until)?);
            }
            run.wait.as_ref().map_or(Ok(None), |wait| wait.read(connection, &run.place, until))
        };
        let (few, failure) = match read() {
            Ok(few) => (few, None),
            Err(error) => (None, Some(error)),
        };
        let mut reload = false;
        // Without the replicas' word, writes are not known to be done; nor is what has no reply.
        let known = if failure.is_some() && run.wait.is_some() { 0 } else { replies.len() };
        for (at, reply) in run.members.iter().zip(replies.drain(..known)) {
            self.settle(run, &mut parcels[*at], reply, few.as_ref(), &mut reload, round);
        }
        if let Some(error) = failure {
            if Instant::now() >= until && begun.elapsed() >= Duration::from_millis(STORE_TIMEOUT_MS / 2) {
                run.place.set_away(error);
                self.directory.bell().ring();
            }
            self.lose(run, &run.members[known..], parcels);
        } else if reload && self.connections[at].1.load(until).is_err() {
            self.lose(run, &[], parcels);
        }
    }

    /// What a reply means for its parcel: it has ended, or is to be sent again.
    fn settle(
        &self,
        run: &Run,
        parcel: &mut Parcel,
        reply: Reply,
        few: Option<&TooFew>,
        reload: &mut bool,
        round: &mut Round,
    ) {
        let Reply::ServerError(error) = &reply else {
            let lost = match &reply {
                Reply::Array(each) if parcel.is_batch => each.iter().all(|reply| matches!(reply, Reply::Array(_))),
                reply => matches!(reply, Reply::Array(_)),
            };
            let result = match (few, &run.wait) {
                // An attempt that has lost the comparison has written nothing.
                (Some(few), Some(wait)) if parcel.writes && !lost => {
                    let (now, later) = wait.errors(few, &run.place);
                    run.place.set_short(later);
                    self.directory.bell().ring();
                    if parcel.is_batch {
                        parcel.few = Some(now);
                        Ok(reply)
                    } else {
                        Err(Failure::Error(now))
                    }
                }
                _ => Ok(reply),
            };
            parcel.result = Some(result);
            return;
        };
        match verdict(error, run.place.endpoint()) {
            Verdict::NoScript => *reload = true,
            Verdict::Moved { .. } if !self.directory.address.is_cluster() => {
                let server = run.place.endpoint();
                parcel.fail(LinkError::refused(format!(
                    "the store {server} is a node of a Cluster: write redis+cluster://{server}"
                )));
            }
            Verdict::Moved { slot, to } => {
                parcel.ask = None;
                self.directory.moved(slot, &to);
            }
            Verdict::Ask { to } => parcel.ask = Some(self.directory.place(&to)),
            Verdict::TryAgain if parcel.divisible => parcel.result = Some(Err(Failure::Divided)),
            Verdict::TryAgain => {
                parcel.ask = None;
                parcel.obstacle = Some(LinkError::unavailable(format!(
                    "the keys of one request are on two nodes of the store while slot {} moves from {}",
                    parcel.slot,
                    run.place.endpoint()
                )));
                round.pause = true;
            }
            Verdict::Away(error) | Verdict::Demoted(error) => {
                parcel.obstacle = Some(error.clone());
                run.place.set_away(error);
                round.failed = true;
            }
            Verdict::Fails(error) => parcel.fail(error),
        }
    }

    /// Ends what is open at the deadline.
    fn give_up(&self, map: &Map, parcels: &mut [Parcel]) {
        for parcel in parcels.iter_mut().filter(|parcel| parcel.is_open()) {
            let place = parcel.ask.as_ref().or_else(|| map.place_of(parcel.slot));
            let known = place.and_then(|place| place.away()).or_else(|| parcel.obstacle.clone());
            parcel.fail(known.unwrap_or_else(|| match place {
                Some(place) => {
                    LinkError::unavailable(format!("the store {} does not answer in time", place.endpoint()))
                }
                None => LinkError::unavailable(format!("no master of the store has slot {}", parcel.slot)),
            }));
        }
    }
}
