//! Which operations of a round belong together: those that looked at the same record.
//!
//! Each group becomes one attempt: its operations are made together or not at all. A record at which many look and
//! which nobody changes, such as that of all patterns, ties nobody to others: each group compares it for itself.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// What an operation has looked at, in any order, and what of it it changed.
#[derive(Debug)]
pub struct Touched<'a, N> {
    pub looked: &'a [N],
    pub changed: &'a [N],
}

/// Operations that are made together.
#[derive(Debug, PartialEq, Eq)]
pub struct Group<N> {
    /// Indexes of the operations, in their order.
    pub operations: Vec<usize>,
    /// What they looked at, each name once, and whether one of them changed it.
    pub names: Vec<(N, bool)>,
}

/// Joins operations that looked at the same name. `is_common` says which names tie nobody as long as nobody changes
/// them. Operations without a name are in no group.
pub fn join<N: Hash + Eq + Clone>(round: &[Touched<'_, N>], is_common: impl Fn(&N) -> bool) -> Vec<Group<N>> {
    // The names of each operation by numbers: those looked at, then those changed.
    let mut ids: HashMap<&N, usize> = HashMap::with_capacity(round.len());
    let mut changed: Vec<bool> = Vec::with_capacity(round.len());
    let mut numbers: Vec<usize> = Vec::with_capacity(2 * round.len());
    let mut ends: Vec<usize> = Vec::with_capacity(round.len());
    for touched in round {
        for (names, changes) in [(touched.looked, false), (touched.changed, true)] {
            for name in names {
                let next = ids.len();
                let id = *ids.entry(name).or_insert(next);
                if id == changed.len() {
                    changed.push(false);
                }
                changed[id] |= changes;
                numbers.push(id);
            }
        }
        ends.push(numbers.len());
    }
    let ties: Vec<bool> = {
        let mut ties = vec![true; changed.len()];
        ids.iter().for_each(|(name, id)| ties[*id] = changed[*id] || !is_common(name));
        ties
    };
    let begin = |index: usize| if index == 0 { 0 } else { ends[index - 1] };
    let mut sets = Sets::new(round.len());
    let mut first: Vec<Option<usize>> = vec![None; changed.len()];
    for index in 0..round.len() {
        for id in numbers[begin(index)..ends[index]].iter().copied().filter(|id| ties[*id]) {
            match first[id] {
                Some(other) => sets.join(index, other),
                None => first[id] = Some(index),
            }
        }
    }
    let mut groups: Vec<Group<N>> = Vec::new();
    let mut group_of: Vec<Option<usize>> = vec![None; round.len()];
    // Names that tie are listed in one group, others in several.
    let mut listed = vec![false; changed.len()];
    let mut listed_in: HashSet<(usize, usize)> = HashSet::new();
    for (index, touched) in round.iter().enumerate() {
        let own = &numbers[begin(index)..ends[index]];
        if own.is_empty() {
            continue;
        }
        let root = sets.root(index);
        let group = *group_of[root].get_or_insert_with(|| {
            groups.push(Group { operations: Vec::new(), names: Vec::new() });
            groups.len() - 1
        });
        groups[group].operations.push(index);
        for (name, id) in touched.looked.iter().chain(touched.changed).zip(own.iter().copied()) {
            let is_new =
                if ties[id] { !std::mem::replace(&mut listed[id], true) } else { listed_in.insert((group, id)) };
            if is_new {
                groups[group].names.push((name.clone(), changed[id]));
            }
        }
    }
    groups
}

/// Disjoint sets.
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Sets {
        Sets((0..count).collect())
    }

    fn root(&mut self, mut index: usize) -> usize {
        while self.0[index] != index {
            self.0[index] = self.0[self.0[index]];
            index = self.0[index];
        }
        index
    }

    /// The lower index stays the root.
    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.0[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn touched<'a>(looked: &'a [u32], changed: &'a [u32]) -> Touched<'a, u32> {
        Touched { looked, changed }
    }

    #[test]
    fn what_shares_a_name_is_joined() {
        let round = [touched(&[1], &[1]), touched(&[2, 3], &[]), touched(&[], &[]), touched(&[3, 1, 1], &[])];
        let groups = join(&round, |_| false);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].operations, [0, 1, 3]);
        assert_eq!(groups[0].names, [(1, true), (2, false), (3, false)]);
    }

    #[test]
    fn a_common_name_ties_nobody_unless_it_is_changed() {
        let round = [touched(&[0, 1], &[1]), touched(&[0, 2], &[2])];
        let groups = join(&round, |name| *name == 0);
        assert_eq!(groups.len(), 2);
        assert!(groups.iter().all(|group| group.names.contains(&(0, false))));
        let round = [touched(&[0, 1], &[1]), touched(&[0, 2], &[0])];
        assert_eq!(join(&round, |name| *name == 0).len(), 1);
    }

    proptest! {
        /// Each operation is in one group, whatever was changed is in one group, and its group has all its names.
        #[test]
        fn groups_are_apart(round in prop::collection::vec(
            (prop::collection::vec(0..12_u32, 0..4), prop::collection::vec(0..12_u32, 0..2)), 0..20)
        ) {
            let round: Vec<Touched<'_, u32>> = round.iter().map(|(looked, changed)| touched(looked, changed)).collect();
            let groups = join(&round, |name| *name < 3);
            let mut seen = HashSet::new();
            let mut owner = std::collections::HashMap::new();
            for (index, group) in groups.iter().enumerate() {
                prop_assert!(group.operations.is_sorted());
                for operation in &group.operations {
                    prop_assert!(seen.insert(*operation));
                    for name in round[*operation].looked.iter().chain(round[*operation].changed) {
                        let found = group.names.iter().filter(|(known, _)| known == name).count();
                        prop_assert_eq!(found, 1);
                    }
                }
                for (name, changed) in &group.names {
                    if *changed || *name >= 3 {
                        prop_assert_eq!(*owner.entry(*name).or_insert(index), index);
                    }
                }
            }
            let with_names = round.iter().filter(|touched| !touched.looked.is_empty() || !touched.changed.is_empty());
            prop_assert_eq!(seen.len(), with_names.count());
        }
    }
}
