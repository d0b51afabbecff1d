//! Asking the nodes of a Cluster which of them has which slot.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::Value as Reply;

use super::super::address::Endpoint;
use super::super::connection::Connection;
use super::super::error::LinkError;
use super::super::wire::{reply, slots::SLOTS};
use super::directory::Directory;
use super::map::Map;
use crate::bounds::STORE_ASK_MS;

/// How many nodes are asked, of whose answers the one of the latest epoch counts: a node that is cut off goes on
/// telling of the Cluster as it was.
const ASKED: usize = 3;

/// Connections to nodes.
#[derive(Default)]
pub struct Nodes {
    connections: HashMap<Endpoint, Connection>,
}

/// What a node says: slots and their master, and all nodes that it names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Layout {
    shares: Vec<(u16, u16, Endpoint)>,
    nodes: Vec<Endpoint>,
}

impl Nodes {
    /// Asks for the map, and takes it.
    pub fn refresh(&mut self, directory: &Directory, until: Instant) -> Result<(), LinkError> {
        let mut answers = Vec::new();
        let mut failure = None;
        for endpoint in directory.endpoints() {
            let away = directory.place(&endpoint).away().is_some();
            let until = until.min(Instant::now() + Duration::from_millis(STORE_ASK_MS));
            if answers.len() == ASKED || (away && !answers.is_empty()) {
                continue;
            }
            match self.ask(directory, &endpoint, until) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    self.connections.remove(&endpoint);
                    failure = failure.or(Some(error));
                }
            }
        }
        let Some((_, layout)) = answers.into_iter().max_by_key(|(epoch, _)| *epoch) else {
            return Err(failure.unwrap_or_else(|| LinkError::unavailable("there is no node of a Cluster to ask")));
        };
        let mut map = Map::of_slots();
        for (first, last, endpoint) in &layout.shares {
            map.give(*first..=*last, &directory.place(endpoint));
        }
        directory.set_map(map);
        self.connections.retain(|endpoint, _| layout.nodes.contains(endpoint));
        layout.nodes.iter().for_each(|node| drop(directory.place(node)));
        directory.keep_only(&layout.nodes);
        Ok(())
    }

    fn ask(&mut self, directory: &Directory, endpoint: &Endpoint, until: Instant) -> Result<(i64, Layout), LinkError> {
        if !self.connections.contains_key(endpoint) {
            let (connection, _) = Connection::greet(&directory.dialing, endpoint, until)?;
            directory.scripts.get_or_init(|| connection.scripts.clone());
            self.connections.insert(endpoint.clone(), connection);
        }
        let Some(connection) = self.connections.get_mut(endpoint) else {
            return Err(LinkError::unavailable(format!("the store {endpoint} cannot be reached")));
        };
        let slots = connection.try_ask(&[b"CLUSTER", b"SLOTS"], until)?;
        if let Reply::ServerError(error) = &slots
            && error.details().unwrap_or_default().contains("cluster support disabled")
        {
            return Err(LinkError::refused(format!("the store {endpoint} is no Cluster: write redis://{endpoint}")));
        }
        let layout = layout(&slots, endpoint).ok_or_else(|| connection.not_understood("CLUSTER SLOTS"))?;
        let info = connection.try_ask(&[b"CLUSTER", b"INFO"], until)?;
        // A link that has nothing to do must not fall behind the store's clock.
        let time = connection.try_ask(&[b"TIME"], until)?;
        directory.options.clock.raise(reply::time(&time).unwrap_or(0));
        Ok((epoch(&info), layout))
    }
}

fn epoch(info: &Reply) -> i64 {
    let line =
        reply::text(info).into_iter().flat_map(str::lines).find_map(|line| line.strip_prefix("cluster_current_epoch:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// Reads the reply to `CLUSTER SLOTS`. A host that is left out is that of the node that was asked.
fn layout(slots: &Reply, asked: &Endpoint) -> Option<Layout> {
    let Reply::Array(rows) = slots else { return None };
    let mut layout = Layout::default();
    for row in rows {
        let Reply::Array(items) = row else { return None };
        let [first, last, nodes @ ..] = items.as_slice() else { return None };
        let [first, last] = [first, last].map(|slot| reply::number(slot).and_then(|slot| u16::try_from(slot).ok()));
        let (first, last) = (first?, last.filter(|last| *last < SLOTS)?);
        let nodes: Vec<Endpoint> = nodes.iter().filter_map(|node| endpoint(node, asked)).collect();
        layout.shares.push((first, last, nodes.first()?.clone()));
        layout.nodes.extend(nodes);
    }
    Some(layout)
}

fn endpoint(node: &Reply, asked: &Endpoint) -> Option<Endpoint> {
    let Reply::Array(items) = node else { return None };
    let host = items.first().and_then(reply::text).filter(|host| !["", "?"].contains(host)).unwrap_or(&asked.host);
    let port = items.get(1).and_then(reply::number).and_then(|port| u16::try_from(port).ok())?;
    Some(Endpoint { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read() {
        let asked = Endpoint { host: "asked".to_owned(), port: 1 };
        let at = |host: &str, port| Endpoint { host: host.to_owned(), port };
        let bulk = |text: &str| Reply::BulkString(text.as_bytes().to_vec());
        let node = |host: Reply, port| Reply::Array(vec![host, Reply::Int(port), bulk("id"), Reply::Array(Vec::new())]);
        let row =
            |first, last, nodes: Vec<Reply>| Reply::Array([vec![Reply::Int(first), Reply::Int(last)], nodes].concat());
        let reply = Reply::Array(vec![
            row(0, 5460, vec![node(bulk("10.0.0.1"), 7000), node(bulk("10.0.0.2"), 7001)]),
            row(5461, 16383, vec![node(Reply::Nil, 7002)]),
        ]);
        let read = layout(&reply, &asked).unwrap();
        assert_eq!(read.shares, [(0, 5460, at("10.0.0.1", 7000)), (5461, 16383, at("asked", 7002))]);
        assert_eq!(read.nodes, [at("10.0.0.1", 7000), at("10.0.0.2", 7001), at("asked", 7002)]);
        assert_eq!(layout(&Reply::Array(Vec::new()), &asked), Some(Layout::default()));
        for wrong in [
            Reply::Nil,
            Reply::Array(vec![row(0, 16384, vec![node(Reply::Nil, 1)])]),
            Reply::Array(vec![row(0, 1, Vec::new())]),
        ] {
            assert_eq!(layout(&wrong, &asked), None, "{wrong:?}");
        }
        assert_eq!(epoch(&bulk("cluster_state:ok\r\ncluster_current_epoch:6\r\n")), 6);
        assert_eq!(epoch(&Reply::Nil), 0);
    }
}
