//! The thread `flint-store`: asks for the map, and finds out who is back.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::super::address::{Endpoint, Topology};
use super::super::connection::{Connection, Role};
use super::super::error::{LinkError, demoted};
use super::super::replicas;
use super::super::wire::{pack, reply, slots};
use super::cluster::Nodes;
use super::directory::Directory;
use super::map::Map;
use super::place::Place;
use super::sentinel::Sentinels;
use crate::bounds::{STORE_ASK_MS, STORE_PROBE_MS, STORE_WATCH_MS};

/// What the thread has for itself.
pub struct Watch {
    guide: Guide,
    connections: HashMap<Endpoint, Connection>,
}

/// Whoever is asked for the map.
enum Guide {
    Server(Endpoint),
    Sentinels(Box<Sentinels>),
    Nodes(Nodes),
}

impl Watch {
    /// Finds the masters, and connects to each. Nothing is watched yet.
    pub fn first(directory: &Directory, until: Instant) -> Result<Watch, LinkError> {
        let address = &directory.address;
        let guide = match address.topology() {
            Topology::Server => Guide::Server(address.endpoints()[0].clone()),
            Topology::Sentinel { name, login } => Guide::Sentinels(Box::new(Sentinels::new(address, name, login))),
            Topology::Cluster => Guide::Nodes(Nodes::default()),
        };
        let mut watch = Watch { guide, connections: HashMap::new() };
        watch.refresh(directory, until)?;
        for place in directory.map().places() {
            watch.greet(directory, place, until)?;
        }
        Ok(watch)
    }

    /// Begins to watch, until the directory is dropped.
    pub fn begin(mut self, directory: &Arc<Directory>) -> std::io::Result<()> {
        let (weak, bell) = (Arc::downgrade(directory), Arc::clone(directory.bell()));
        let body = move || {
            let mut looked = Instant::now();
            while !bell.is_stopped() {
                let pause = self.pause(&weak);
                let (number, asked) = bell.next(Instant::now() + pause);
                let Some(directory) = weak.upgrade() else { return };
                let whole = asked || looked.elapsed() >= Duration::from_millis(STORE_WATCH_MS);
                self.round(&directory, whole);
                if whole {
                    looked = Instant::now();
                }
                bell.answered(number);
            }
        };
        thread::Builder::new().name("flint-store".to_owned()).spawn(body).map(drop)
    }

    fn pause(&self, directory: &Weak<Directory>) -> Duration {
        let all_here =
            directory.upgrade().is_none_or(|directory| directory.map().places().iter().all(|place| place.is_here()));
        Duration::from_millis(if all_here { STORE_WATCH_MS } else { STORE_PROBE_MS })
    }

    /// Asks for the map, and looks at those who are away or short of replicas; `whole`: at the others' roles too.
    fn round(&mut self, directory: &Directory, whole: bool) {
        let until = Instant::now() + Duration::from_millis(2 * STORE_ASK_MS);
        let any_away = directory.map().places().iter().any(|place| place.away().is_some());
        if whole || any_away {
            if let Err(error) = self.refresh(directory, until) {
                log::debug!("{error}");
            }
        }
        for place in directory.map().places() {
            let until = Instant::now() + Duration::from_millis(STORE_ASK_MS);
            if place.away().is_some() {
                if let Err(error) = self.greet(directory, place, until) {
                    place.set_away(error);
                }
            } else if place.is_short() {
                self.count_replicas(directory, place, until);
            } else if whole && !directory.address.is_cluster() {
                self.look_at_role(directory, place, until);
            }
        }
    }

    fn refresh(&mut self, directory: &Directory, until: Instant) -> Result<(), LinkError> {
        let master = match &mut self.guide {
            Guide::Server(endpoint) => endpoint.clone(),
            Guide::Sentinels(sentinels) => sentinels.master(until)?,
            Guide::Nodes(nodes) => return nodes.refresh(directory, until),
        };
        directory.set_map(Map::of_one(directory.place(&master)));
        directory.keep_only(std::slice::from_ref(&master));
        self.connections.retain(|endpoint, _| *endpoint == master);
        Ok(())
    }

    /// Connects anew, and notes that it is there.
    fn greet(&mut self, directory: &Directory, place: &Arc<Place>, until: Instant) -> Result<(), LinkError> {
        self.connections.remove(place.endpoint());
        let (connection, time) = Connection::greet(&directory.dialing, place.endpoint(), until)?;
        directory.options.clock.raise(time);
        directory.scripts.get_or_init(|| connection.scripts.clone());
        if connection.role == Role::Replica {
            return Err(demoted(place.endpoint()));
        }
        self.connections.insert(place.endpoint().clone(), connection);
        if directory.options.replicas == 0 {
            place.set_here();
            return Ok(());
        }
        if place.away().is_some() {
            place.set_uncounted();
        }
        self.count_replicas(directory, place, until);
        Ok(())
    }

    /// Whether a master is one still: a replica answers what only compares, out of what it has by then.
    fn look_at_role(&mut self, directory: &Directory, place: &Arc<Place>, until: Instant) {
        let Some(connection) = self.connections.get_mut(place.endpoint()) else {
            // Whoever sends it requests finds out what is wrong with it.
            let _ = self.greet(directory, place, until);
            return;
        };
        let mut ask = || Ok((connection.try_ask(&[b"ROLE"], until)?, connection.try_ask(&[b"TIME"], until)?));
        let answer: Result<(Reply, Reply), LinkError> = ask();
        match answer {
            Ok((Reply::Array(items), _)) if items.first().and_then(reply::text) == Some("slave") => {
                self.connections.remove(place.endpoint());
                place.set_away(demoted(place.endpoint()));
            }
            // A link that has nothing to do must not fall behind the store's clock.
            Ok((_, time)) => directory.options.clock.raise(reply::time(&time).unwrap_or(0)),
            Err(_) => drop(self.connections.remove(place.endpoint())),
        }
    }

    /// Writes a key of its own and waits for the replicas to confirm it.
    fn count_replicas(&mut self, directory: &Directory, place: &Arc<Place>, until: Instant) {
        if !self.connections.contains_key(place.endpoint()) {
            // Which counts them too.
            let _ = self.greet(directory, place, until);
            return;
        }
        let Some(slot) = directory.map().a_slot_of(place) else { return };
        let Some(connection) = self.connections.get_mut(place.endpoint()) else { return };
        let key = format!("flint\x01probe{{{}}}", slots::tag_of(slot));
        let mut packed = Vec::new();
        pack::whole(&mut packed, &[b"SET", key.as_bytes(), b"1", b"PX", b"60000"]);
        let wait = replicas::Wait::new(directory.options.replicas, Duration::from_millis(STORE_PROBE_MS), place);
        wait.pack(&mut packed);
        let mut ask = || -> Result<Option<replicas::TooFew>, LinkError> {
            connection.send(&packed, until)?;
            connection.receive(until)?;
            wait.read(connection, place, until)
        };
        match ask() {
            Ok(None) => place.set_here(),
            Ok(Some(few)) => place.set_short(wait.errors(&few, place).1),
            Err(_) => drop(self.connections.remove(place.endpoint())),
        }
    }
}
