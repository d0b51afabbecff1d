//! Which master has which slot.

use std::sync::Arc;

use super::place::Place;

/// Where there is no master.
const NOBODY: u16 = u16::MAX;

/// The masters, and which of them has each slot. One master has all where there is no Cluster.
pub struct Map {
    places: Vec<Arc<Place>>,
    slots: Option<Box<[u16]>>,
}

impl Map {
    /// One master for everything.
    pub fn of_one(place: Arc<Place>) -> Map {
        Map { places: vec![place], slots: None }
    }

    /// A Cluster without masters yet.
    pub fn of_slots() -> Map {
        Map { places: Vec::new(), slots: Some(vec![NOBODY; usize::from(super::super::wire::slots::SLOTS)].into()) }
    }

    /// Gives a master slots, in a Cluster.
    pub fn give(&mut self, slots: std::ops::RangeInclusive<u16>, place: &Arc<Place>) {
        let known = self.places.iter().position(|known| Arc::ptr_eq(known, place));
        let at = known.unwrap_or_else(|| {
            self.places.push(Arc::clone(place));
            self.places.len() - 1
        });
        if let Some(all) = &mut self.slots {
            let given = all.get_mut(usize::from(*slots.start())..=usize::from(*slots.end()));
            given.into_iter().flatten().for_each(|slot| *slot = at as u16);
        }
    }

    /// The same, with one slot given to another master.
    pub fn with_moved(&self, slot: u16, place: &Arc<Place>) -> Map {
        let mut map = Map { places: self.places.clone(), slots: self.slots.clone() };
        map.give(slot..=slot, place);
        map
    }

    pub fn places(&self) -> &[Arc<Place>] {
        &self.places
    }

    /// The number of a slot's master among [`Map::places`]; None where no master has it.
    pub fn shard_of(&self, slot: u16) -> Option<usize> {
        let at = self.slots.as_ref().map_or(0, |slots| slots.get(usize::from(slot)).copied().unwrap_or(NOBODY));
        (at != NOBODY).then_some(usize::from(at))
    }

    pub fn place_of(&self, slot: u16) -> Option<&Arc<Place>> {
        self.places.get(self.shard_of(slot)?)
    }

    /// A slot of this master, where it has one.
    pub fn a_slot_of(&self, place: &Arc<Place>) -> Option<u16> {
        let at = self.places.iter().position(|known| Arc::ptr_eq(known, place))?;
        match &self.slots {
            None => Some(0),
            Some(slots) => slots.iter().position(|slot| usize::from(*slot) == at).map(|slot| slot as u16),
        }
    }

    /// Whether the same masters have the same slots.
    pub fn is_same(&self, other: &Map) -> bool {
        let same = |(own, other): (&Arc<Place>, &Arc<Place>)| Arc::ptr_eq(own, other);
        self.slots == other.slots
            && self.places.len() == other.places.len()
            && self.places.iter().zip(&other.places).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::address::Endpoint;
    use super::*;

    fn place(port: u16) -> Arc<Place> {
        Arc::new(Place::new(Endpoint { host: "h".to_owned(), port }, 0))
    }

    #[test]
    fn slots_have_their_masters() {
        let (one, two) = (place(1), place(2));
        let mut map = Map::of_slots();
        assert!(map.place_of(0).is_none());
        map.give(0..=8191, &one);
        map.give(8192..=16383, &two);
        assert!(Arc::ptr_eq(map.place_of(8191).unwrap(), &one) && Arc::ptr_eq(map.place_of(8192).unwrap(), &two));
        assert!(map.place_of(16384).is_none());
        let moved = map.with_moved(3, &two);
        assert_eq!((moved.shard_of(2), moved.shard_of(3)), (Some(0), Some(1)));
        assert_eq!(
            (moved.a_slot_of(&one), moved.a_slot_of(&two), moved.a_slot_of(&place(3))),
            (Some(0), Some(3), None)
        );
        assert!(!moved.is_same(&map) && moved.with_moved(3, &one).is_same(&map));
        // A range that is none changes nothing.
        map.give(16383..=20000, &one);
        assert_eq!(map.shard_of(16383), Some(1));
    }
}
