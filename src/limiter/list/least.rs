//! The least of many items, in bounded memory.
//!
//! Owns: what a pass over the shards keeps, and when it drops the rest. Items are offered under a shard's lock, so each
//! may cost a constant time on average only. Dropping takes time for all that is kept, but happens once in as many
//! items as a quarter of the room holds: [`Least::make_room`] frees that much between two shards, under no lock.

/// Fewer items than this say little about how many there are.
const SAMPLE: usize = 64;

/// The least items of those that were offered.
pub struct Least<T> {
    kept: Vec<T>,
    /// Index of the greatest item that stayed when others were dropped. None that is greater is among the least.
    bound: Option<usize>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
    size: fn(&T) -> usize,
}

impl<T: Ord> Least<T> {
    /// Never more than `most` items, nor many more than have `most_bytes` by their `size`. About half as many, if there
    /// are so many.
    pub fn new(most: usize, most_bytes: usize, size: fn(&T) -> usize) -> Least<T> {
        Least { kept: Vec::new(), bound: None, bytes: 0, most, most_bytes, size }
    }

    /// What an item must be less than to be kept.
    pub fn bound(&self) -> Option<&T> {
        self.bound.map(|index| &self.kept[index])
    }

    /// Adds an item that is less than the bound, and equal to none that was offered.
    pub fn push(&mut self, item: T) {
        self.bytes += (self.size)(&item);
        self.kept.push(item);
        if self.kept.len() >= self.most || self.bytes >= self.most_bytes {
            self.shrink(self.most / 2, self.most_bytes / 2);
        }
    }

    /// Drops now what would be dropped soon.
    pub fn make_room(&mut self) {
        if self.kept.len() > self.most / 4 * 3 || self.bytes > self.most_bytes / 4 * 3 {
            self.shrink(self.most / 2, self.most_bytes / 2);
        }
    }

    /// Says that what was offered so far is a random part of all, one of so many. The bound is then set where it is
    /// likely to end up: most of what would be dropped later is not even kept.
    pub fn foresee(&mut self, parts: usize) {
        // With this much room to spare what is kept at last is seldom too much.
        let share = |most: usize| most / parts / 3 * 2;
        if share(self.most) >= SAMPLE && self.kept.len() >= SAMPLE {
            self.shrink(share(self.most), share(self.most_bytes));
        }
    }

    /// Keeps this many items, or this many bytes of them, but one at least.
    fn shrink(&mut self, most: usize, most_bytes: usize) {
        let most = most.max(1);
        if self.kept.len() > most {
            self.kept.select_nth_unstable(most - 1);
            self.cut(most);
        }
        if self.bytes > most_bytes && self.kept.len() > 1 {
            self.kept.sort_unstable();
            let mut bytes = 0;
            let fit = self.kept.iter().take_while(|item| {
                bytes += (self.size)(item);
                bytes <= most_bytes
            });
            let fit = fit.count().max(1);
            self.cut(fit);
        }
    }

    fn cut(&mut self, stay: usize) {
        self.kept.truncate(stay);
        self.bytes = self.kept.iter().map(self.size).sum();
        self.bound = Some(stay - 1);
    }

    /// The items that were kept, in order, and whether they are all that were offered.
    pub fn finish(mut self) -> (Vec<T>, bool) {
        self.kept.sort_unstable();
        (self.kept, self.bound.is_none())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is offered, in whatever order, what is kept is the least of it, and as much as was promised.
        #[test]
        fn the_least_are_kept(
            keys in prop::collection::hash_set("[ab]{0,9}", 0..400),
            most in 2..300usize,
            most_bytes in prop_oneof![1..400usize, Just(usize::MAX)],
            shard in 1..40usize,
            foreseen in prop::option::of((0..10usize, 1..50usize)),
        ) {
            let keys: Vec<String> = keys.into_iter().collect();
            let mut least = Least::new(most, most_bytes, String::len);
            for (index, shard) in keys.chunks(shard).enumerate() {
                if let Some((at, parts)) = foreseen && at == index {
                    least.foresee(parts);
                }
                least.make_room();
                for key in shard {
                    if least.bound().is_none_or(|bound| key < bound) {
                        least.push(key.clone());
                    }
                    prop_assert!(least.kept.len() <= most && least.bytes < most_bytes.max(10));
                }
            }
            let (kept, all) = least.finish();
            let mut sorted = keys.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&sorted[..kept.len()], &kept[..]);
            prop_assert_eq!(all, kept.len() == keys.len());
            if !all && most_bytes == usize::MAX && foreseen.is_none() {
                prop_assert!(kept.len() >= most / 2);
            }
        }
    }
}
