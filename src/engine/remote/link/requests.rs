//! What a link asks besides attempts: values, counters, the store's identity, lists.

use std::time::Instant;

use redis::Value as Reply;

use super::delivery::{Failure, Parcel};
use super::error::{ErrorKind, LinkError};
use super::exchange::{Link, foreign};
use super::wire::attempt::Found;
use super::wire::script::Seen;
use super::wire::slots::{SLOTS, slot_of};
use super::wire::{pack, reply};

impl Link {
    /// What the store has of these keys, in their order: [`Found::Absent`] or [`Found::Present`].
    pub fn fetch(&mut self, keys: &[&[u8]], deadline: Instant) -> Result<Vec<Found>, LinkError> {
        let requests = keys.iter().map(|key| (self.slot_of(key), vec![b"GET".to_vec(), key.to_vec()]));
        let requests: Vec<_> = requests.collect();
        let replies = self.ask_all(&requests, false, deadline)?;
        let found = |(key, reply)| Seen::of_get(reply).and_then(Seen::found).ok_or_else(|| foreign(key));
        keys.iter().copied().zip(replies).map(found).collect()
    }

    /// Adds to counters (integers of 64 bits that begin at 0), and returns what each has then. Sent again if a reply
    /// is lost, so it may be added twice: for numbers of which some may stay unused, and for estimates.
    pub fn add(&mut self, counters: &[(&[u8], i64)], deadline: Instant) -> Result<Vec<i64>, LinkError> {
        let request = |(key, by): &(&[u8], i64)| {
            (self.slot_of(key), vec![b"INCRBY".to_vec(), key.to_vec(), by.to_string().into_bytes()])
        };
        let requests: Vec<_> = counters.iter().map(request).collect();
        let replies = self.ask_all(&requests, true, deadline)?;
        replies.iter().map(|value| reply::number(value).ok_or_else(LinkError::not_understood)).collect()
    }

    /// The 16 random bytes that the store keeps under `key`: those of whoever asks first, `own` or drawn.
    pub fn identity(&mut self, key: &[u8], own: Option<&[u8; 16]>, deadline: Instant) -> Result<[u8; 16], LinkError> {
        let drawn: [u8; 16] = crate::store::random().map_err(|error| {
            LinkError::new(ErrorKind::Refused, format!("the operating system has no random numbers: {error}"))
        })?;
        let drawn = own.copied().unwrap_or(drawn);
        let slot = self.slot_of(key);
        let set = vec![b"SET".to_vec(), key.to_vec(), drawn.to_vec(), b"NX".to_vec()];
        self.ask_all(&[(slot, set)], true, deadline)?;
        let replies = self.ask_all(&[(slot, vec![b"GET".to_vec(), key.to_vec()])], false, deadline)?;
        match replies.into_iter().next() {
            Some(Reply::BulkString(bytes)) => bytes.try_into().map_err(|_| foreign(key)),
            _ => Err(LinkError::not_understood()),
        }
    }

    /// Members of a list that begin with `prefix`, in the order of their bytes, those after `after` only, `limit` at
    /// most; fewer only at the end. Some may belong to keys that have vanished ([`Link::prune`]).
    pub fn names(
        &mut self,
        list: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>, LinkError> {
        if !self.is_cluster() {
            let pages = self.names_of(&[(0, after.map(<[u8]>::to_vec))], list, prefix, limit, deadline);
            return pages.map(|mut pages| pages.pop().unwrap_or_default());
        }
        // Each slot has its own part of the list, of which a few names are read at first. A part that was cut off has
        // more after its last name: what others have after the least of these has to wait until it is read on.
        let mut share = limit / usize::from(SLOTS) + 4;
        let mut open: Vec<(u16, Option<Vec<u8>>)> = (0..SLOTS).map(|slot| (slot, after.map(<[u8]>::to_vec))).collect();
        let mut names: Vec<Vec<u8>> = Vec::new();
        loop {
            let pages = self.names_of(&open, list, prefix, share, deadline)?;
            let cut_off = open.iter().zip(&pages).filter(|(_, page)| page.len() == share);
            open = cut_off.map(|((slot, _), page)| (*slot, page.last().cloned())).collect();
            names.extend(pages.into_iter().flatten());
            names.sort_unstable();
            let end = open.iter().filter_map(|(_, last)| last.as_ref()).min();
            let read = end.map_or(names.len(), |end| names.partition_point(|name| name <= end));
            if open.is_empty() || read >= limit {
                names.truncate(read.min(limit));
                return Ok(names);
            }
            share = (2 * share).min(limit);
        }
    }

    /// How many members of a list are not less than `least`, those of vanished keys included.
    pub fn count_from(&mut self, list: u8, least: &[u8], deadline: Instant) -> Result<u64, LinkError> {
        let slots = self.slots();
        let least = [b"[", least].concat();
        let words = |slot| vec![b"ZLEXCOUNT".to_vec(), self.list_key(list, slot), least.clone(), b"+".to_vec()];
        let requests: Vec<_> = slots.iter().map(|slot| (*slot, words(*slot))).collect();
        sum(&self.ask_all(&requests, false, deadline)?)
    }

    /// How many members of each list begin with a prefix, those of vanished keys included.
    pub fn counts(&mut self, lists: &[(u8, &[u8])], deadline: Instant) -> Result<Vec<u64>, LinkError> {
        let slots = self.slots();
        let mut requests = Vec::with_capacity(lists.len() * slots.len());
        for (list, prefix) in lists {
            let (least, most) = range(prefix, None);
            for slot in &slots {
                let key = self.list_key(*list, *slot);
                requests.push((
                    *slot,
                    match prefix.is_empty() {
                        true => vec![b"ZCARD".to_vec(), key],
                        false => vec![b"ZLEXCOUNT".to_vec(), key, least.clone(), most.clone()],
                    },
                ));
            }
        }
        let replies = self.ask_all(&requests, false, deadline)?;
        replies.chunks(slots.len()).map(sum).collect()
    }

    /// Takes members off a list whose key the store has no more. Each is `(member, key)`; those whose key is there
    /// stay.
    pub fn prune(&mut self, list: u8, gone: &[(&[u8], &[u8])], deadline: Instant) -> Result<(), LinkError> {
        let script = self.scripts.prune.clone();
        let request = |(member, key): &(&[u8], &[u8])| {
            let slot = self.slot_of(key);
            let run = vec![b"EVALSHA".to_vec(), script.clone(), b"2".to_vec(), self.list_key(list, slot)];
            (slot, [run, vec![key.to_vec(), member.to_vec()]].concat())
        };
        let requests: Vec<_> = gone.iter().map(request).collect();
        self.ask_all(&requests, true, deadline).map(drop)
    }

    /// One page of the list of each slot, after a name of its own.
    fn names_of(
        &mut self,
        slots: &[(u16, Option<Vec<u8>>)],
        list: u8,
        prefix: &[u8],
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<Vec<Vec<u8>>>, LinkError> {
        let limit = limit.to_string().into_bytes();
        let request = |(slot, after): &(u16, Option<Vec<u8>>)| {
            let (least, most) = range(prefix, after.as_deref());
            let key = self.list_key(list, *slot);
            (*slot, vec![b"ZRANGEBYLEX".to_vec(), key, least, most, b"LIMIT".to_vec(), b"0".to_vec(), limit.clone()])
        };
        let requests: Vec<_> = slots.iter().map(request).collect();
        let replies = self.ask_all(&requests, false, deadline)?;
        let names = |value: Reply| match value {
            Reply::Array(items) => items.into_iter().map(bytes).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        replies.into_iter().map(|value| names(value).ok_or_else(LinkError::not_understood)).collect()
    }

    /// The slots in each of which a list has a part.
    fn slots(&self) -> Vec<u16> {
        if self.is_cluster() { (0..SLOTS).collect() } else { vec![0] }
    }

    fn slot_of(&self, key: &[u8]) -> u16 {
        if self.is_cluster() { slot_of(key) } else { 0 }
    }

    /// Delivers requests, each for a slot, and returns all of their replies.
    fn ask_all(
        &mut self,
        requests: &[(u16, Vec<Vec<u8>>)],
        writes: bool,
        deadline: Instant,
    ) -> Result<Vec<Reply>, LinkError> {
        self.packed.clear();
        let mut parcels = Vec::with_capacity(requests.len());
        for (slot, request) in requests {
            let begin = self.packed.len();
            let arguments: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            pack::whole(&mut self.packed, &arguments);
            parcels.push(Parcel::new(begin..self.packed.len(), *slot, writes));
        }
        self.carrier.deliver(&self.packed, &mut parcels, deadline);
        let taken = parcels.iter_mut().map(|parcel| match parcel.taken() {
            Ok(reply) => Ok(reply),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::Divided) => Err(LinkError::not_understood()),
        });
        taken.collect()
    }
}

/// What the parts of a list have together.
fn sum(replies: &[Reply]) -> Result<u64, LinkError> {
    let each = replies.iter().map(|value| reply::number(value).map(|number| number.max(0) as u64));
    each.sum::<Option<u64>>().ok_or_else(LinkError::not_understood)
}

/// Bounds of ZRANGEBYLEX: what begins with `prefix` and comes after `after`.
fn range(prefix: &[u8], after: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let least = match after.filter(|after| *after >= prefix) {
        Some(after) => [b"(", after].concat(),
        None => [b"[", prefix].concat(),
    };
    // The least text that comes after all that begin with the prefix; none if it is all 0xff, as no UTF-8 is.
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let most = match kept {
        None => b"+".to_vec(),
        Some(at) => [b"(", &prefix[..at], &[prefix[at] + 1]].concat(),
    };
    (least, most)
}

fn bytes(value: Reply) -> Option<Vec<u8>> {
    match value {
        Reply::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_of_a_prefix_after_a_name() {
        let text = |prefix: &[u8], after: Option<&[u8]>| {
            let (least, most) = range(prefix, after);
            format!("{} {}", least.escape_ascii(), most.escape_ascii())
        };
        assert_eq!(text(b"", None), "[ +");
        assert_eq!(text(b"", Some(b"a")), "(a +");
        assert_eq!(text(b"ab", None), "[ab (ac");
        assert_eq!(text(b"ab", Some(b"abx")), "(abx (ac");
        assert_eq!(text(b"ab", Some(b"aa")), "[ab (ac");
        assert_eq!(text(b"a\xff", None), "[a\\xff (b");
        assert_eq!(text(b"\xff\xff", None), "[\\xff\\xff +");
    }
}
