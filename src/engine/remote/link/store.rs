//! A store, as all lanes of a process share it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::Address;
use super::error::LinkError;
use super::exchange::Link;
use super::options::Options;
use super::places::directory::Directory;
use super::places::watch::Watch;
use super::wire::script::Scripts;
use super::wire::slots::slot_of;
use crate::bounds::{MAX_REPLICAS, STORE_TIMEOUT_MS};
use crate::clock::Clock;

/// What all links of a process share: the address, who is master, which of the machines are known to be away, and a
/// thread (`flint-store`) that finds out whether these are back. Clones are one store; the thread ends with the last.
#[derive(Clone)]
pub struct Store {
    directory: Arc<Directory>,
    scripts: Scripts,
    /// Random: what tells the links of this process from those of others.
    id: u64,
    links: Arc<std::sync::atomic::AtomicU64>,
}

impl Store {
    /// Connects, and finds out who is master. Fails with [`ErrorKind::Refused`](super::ErrorKind::Refused) where trying
    /// again is of no use (a wrong password, no such database), and else with
    /// [`ErrorKind::Unavailable`](super::ErrorKind::Unavailable).
    ///
    /// Takes [`STORE_TIMEOUT_MS`] at most.
    pub fn open(address: Address, options: Options) -> Result<Store, LinkError> {
        if options.replicas > MAX_REPLICAS {
            return Err(LinkError::refused(format!("--replicas is {}: write 0 to {MAX_REPLICAS}", options.replicas)));
        }
        let id = crate::store::random::<8>().map(u64::from_be_bytes);
        let id =
            id.map_err(|error| LinkError::refused(format!("the operating system has no random numbers: {error}")))?;
        #[cfg(feature = "store-tls")]
        // Fails where the program has chosen another before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = Arc::new(Directory::new(address, options));
        let watch = Watch::first(&directory, Instant::now() + Duration::from_millis(STORE_TIMEOUT_MS))?;
        let Some(scripts) = directory.scripts.get().cloned() else {
            return Err(LinkError::unavailable(format!("the store {} has no master", directory.address)));
        };
        watch.begin(&directory).map_err(|error| LinkError::refused(format!("no thread can be started: {error}")))?;
        Ok(Store { directory, scripts, id, links: Arc::default() })
    }

    /// A link of its own for one lane. Connects when it is first used.
    pub fn link(&self) -> Link {
        let number = self.links.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Link::new(Arc::clone(&self.directory), self.scripts.clone(), self.id.wrapping_add(number).to_be_bytes())
    }

    /// The clock given in the options.
    pub fn clock(&self) -> &Clock {
        &self.directory.options.clock
    }

    /// The address given, which shows no password.
    pub fn address(&self) -> &Address {
        &self.directory.address
    }

    /// Whether keys that change together must share a slot.
    pub fn is_cluster(&self) -> bool {
        self.directory.address.is_cluster()
    }

    /// How many masters share the slots now; 1 but for a Cluster.
    pub fn shards(&self) -> usize {
        self.directory.map().places().len()
    }

    /// Which of the masters (below [`Store::shards`]) has the slot of `key` now; 0 but for a Cluster. It may change at
    /// any time, and a link serves every key: this only says which keys are best served by one lane.
    pub fn shard_of(&self, key: &[u8]) -> usize {
        if self.is_cluster() { self.directory.map().shard_of(slot_of(key)).unwrap_or(0) } else { 0 }
    }

    /// Why the store is known to be away, if it is: at once, without asking it. In a Cluster: any of its masters.
    pub fn away(&self) -> Option<LinkError> {
        self.directory.map().places().iter().find_map(|place| place.away())
    }

    /// Why nothing can be written, if that is known: it is away, or has too few replicas. In a Cluster: any of its
    /// masters.
    pub fn unwritable(&self) -> Option<LinkError> {
        self.directory.map().places().iter().find_map(|place| place.unwritable())
    }
}
